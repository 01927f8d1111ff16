//! The agent as `xeno agent --config FILE` runs it, built with the feature that ends it where `XENO_CRASH_AT` says.
//! `XENO_PROGRAM` names the `xeno` that its guests reach their files through.

use std::error::Error;
use std::path::{Path, PathBuf};

use xeno_agent::AgentConfig;

fn main() -> Result<(), Box<dyn Error>> {
    let config = std::env::args_os().nth(3).ok_or("usage: agent --config FILE")?;
    let program = std::env::var_os("XENO_PROGRAM").ok_or("XENO_PROGRAM is not set")?;
    let config = AgentConfig::read(Path::new(&config))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(xeno_agent::run(
        config,
        PathBuf::from(program),
        std::future::pending(),
    ))?;
    Ok(())
}
