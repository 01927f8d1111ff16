//! `xeno version`.

use clap::Args;
use serde_json::json;

use crate::exit::Exit;
use crate::failure::Outcome;
use crate::output::{self, TextFormat};

/// Prints the version.
#[derive(Args)]
pub(crate) struct Version {
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

pub(crate) fn run(args: &Version) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    match args.output {
        TextFormat::Text => output::text(&format!("xeno {version}\n"))?,
        TextFormat::Json => output::json(&json!({
            "formatVersion": 1,
            "version": version,
            "manifests": xeno_model::manifest::API_VERSION,
            "answers": xeno_agent::api::FORMAT_VERSION,
        }))?,
    }
    Ok(Exit::Done)
}
