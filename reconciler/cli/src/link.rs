//! The way to an agent: which socket, and a runtime to ask it on.

use std::path::PathBuf;

use clap::Args;
use xeno_agent::api_client::ApiClient;
use xeno_model::id::SliverId;

use crate::failure::{Failure, Outcome};

/// Where agents listen unless they are told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/xenoslice/agent.sock";

/// Which agent is asked.
#[derive(Args, Default)]
pub(crate) struct AgentArgs {
    /// The agent's socket [default: $XENO_SOCKET, or /run/xenoslice/agent.sock].
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

impl AgentArgs {
    /// The socket that is meant.
    pub(crate) fn socket(&self) -> PathBuf {
        let environment = || {
            std::env::var_os("XENO_SOCKET")
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        self.socket
            .clone()
            .or_else(environment)
            .unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
    }

    /// A client of that agent.
    pub(crate) fn client(&self) -> ApiClient {
        ApiClient::new(&self.socket())
    }
}

/// Waits for an answer. One thread is enough for asking.
pub(crate) fn wait<T>(answer: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(|error| Failure::doing("start a runtime", &error))?
        .block_on(answer)
}

/// Reads the name of a sliver from the command line.
pub(crate) fn sliver(text: &str) -> Result<SliverId, String> {
    SliverId::parse(text).map_err(|error| format!("{error} (a sliver is named as in web/0)"))
}

/// Ends when this process is asked to end: SIGTERM, or SIGINT from a terminal.
pub(crate) fn terminated() -> Outcome<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| Failure::doing("listen for signals", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
