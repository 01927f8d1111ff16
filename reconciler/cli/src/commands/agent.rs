//! `xeno agent`: the node's daemon.

use std::path::PathBuf;

use clap::Args;
use xeno_agent::AgentConfig;
use xeno_agent::api_client::ApiClient;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::service_manager::{ServiceManager, attended};
use crate::{link, telemetry};

/// Runs the agent of this node until SIGTERM. Guests keep running when it ends.
#[derive(Args)]
pub(crate) struct Agent {
    /// The configuration; see docs/manual.md.
    #[arg(long, value_name = "FILE", default_value = "/etc/xenoslice/agent.toml")]
    config: PathBuf,
}

pub(crate) fn run(args: &Agent) -> Outcome {
    telemetry::install("info");
    let config = AgentConfig::read(&args.config)
        .map_err(|error| Failure::doing(format_args!("read {}", args.config.display()), &error))?;
    let program = std::env::current_exe().map_err(|error| Failure::doing("find this program", &error))?;
    let manager = ServiceManager::from_environment()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::doing("start a runtime", &error))?;
    let ended = runtime.block_on(async {
        let stop = link::terminated()?;
        tracing::info!(node = %config.node, socket = %config.socket.display(), "agent starts");
        let client = ApiClient::new(&config.socket);
        let answers = async || client.status().await.is_ok();
        let ended = attended(manager.as_ref(), answers, xeno_agent::run(config, program, stop)).await;
        if let Some(manager) = &manager {
            manager.stopping();
        }
        ended.map_err(|error| Failure::tried(&error))?;
        tracing::info!("agent ended; guests keep running");
        Ok(Exit::Done)
    });
    // A thread that hangs on a dead file system keeps nobody: what it does is made to bear an end at any moment.
    runtime.shutdown_background();
    ended
}
