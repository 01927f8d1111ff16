//! A whole server from a configuration.

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};

use super::{Limits, ListenError, Server};
use crate::assembly::{Assembly, AssemblyError, Kind};
use crate::config::{Config, ExportConfig};
use crate::control::{self, api};
use crate::export::State;
use crate::link::LinkTable;
use crate::opener::Opener;
use crate::service::StackOpener;

/// How long calls that run at the end may go on.
const FAREWELL: Duration = Duration::from_secs(5);

/// The epoch under which a writable layer named in the configuration file is opened: there is no one to hand it over
/// to, so it never changes.
const EPOCH: u64 = 1;

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An export cannot be set up.
    #[error("setting up export `/{name}`")]
    Export {
        /// Which.
        name: String,
        /// The cause.
        #[source]
        source: AssemblyError,
    },
    /// A listener cannot be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Serves `config` until `shutdown` is ready, with layers from disk; `ready` is called with the TCP address once
/// everything answers.
///
/// # Errors
/// [`ServeError`] when something in the configuration cannot be set up; then nothing is served.
pub async fn serve(
    config: Config,
    ready: impl FnOnce(Option<SocketAddr>),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let opener = Opener::new(&config.store);
    let opener = match &config.lender {
        Some(socket) => opener.borrowing(socket),
        None => opener,
    };
    serve_with(config, opener, ready, shutdown).await
}

/// Serves `config` until `shutdown` is ready; `ready` is called with the TCP address once everything answers. `opener`
/// opens what the exports are made of.
///
/// # Errors
/// [`ServeError`] when something in the configuration cannot be set up; then nothing is served.
pub async fn serve_with<O: StackOpener>(
    config: Config,
    opener: O,
    ready: impl FnOnce(Option<SocketAddr>),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    raise_file_limit();
    let limits = Limits {
        connections: config.connections,
        connections_per_client: (config.connections / 4).clamp(1, super::CONNECTIONS_PER_CLIENT),
        ..Limits::default()
    };
    let server = Server::new(limits);
    let assembly = Assembly::new(Arc::clone(&server), opener);
    let started = start(&config, &server, &assembly).await;
    let result = match started {
        Ok(started) => {
            ready(started.tcp.as_ref().and_then(super::Listening::address));
            tokio::select! {
                () = server.watch_lease() => {}
                () = shutdown => {}
            }
            drop(started);
            Ok(())
        }
        Err(error) => Err(error),
    };
    server.drain(FAREWELL).await;
    assembly.shut_down().await;
    result
}

/// Allows this process as many open files as it may have. Every writable layer, directory and connection keeps some
/// open, and the usual 1024 (kept low for programs that use select(2)) would make the tenth guest's calls fail.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "raising the number of files that may be open");
    }
}

/// What listens; dropping it stops that.
struct Started {
    tcp: Option<super::Listening>,
    _links: Option<super::Listening>,
    _control: Option<control::Control>,
}

async fn start<O: StackOpener>(
    config: &Config,
    server: &Arc<Server>,
    assembly: &Arc<Assembly<O>>,
) -> Result<Started, ServeError> {
    for export in &config.exports {
        let set_up = set_up(assembly, export).await;
        set_up.map_err(|source| ServeError::Export {
            name: export.name.to_string(),
            source,
        })?;
    }
    let tcp = match config.listen {
        Some(address) => Some(server.listen_tcp(address).await?),
        None => None,
    };
    let links = match &config.links {
        Some(links) => Some(server.listen_links(links.listen, LinkTable::new(&links.table))?),
        None => None,
    };
    let listeners = tcp.iter().chain(&links).filter_map(super::Listening::address);
    let listeners = listeners.map(|address| address.to_string()).collect();
    let control = match &config.control {
        Some(path) => {
            Some(control::listen(path, Arc::clone(assembly), listeners, config.lender.clone()).await?)
        }
        None => None,
    };
    Ok(Started {
        tcp,
        _links: links,
        _control: control,
    })
}

/// Puts together one export; its stack and its writable layer have its name.
async fn set_up<O: StackOpener>(assembly: &Assembly<O>, export: &ExportConfig) -> Result<(), AssemblyError> {
    let name = export.name.as_str();
    let writable = match &export.writable {
        Some(path) => {
            make_parents(path).map_err(|source| AssemblyError::Failed {
                kind: Kind::Writable,
                name: name.to_owned(),
                retryable: true,
                source: source.into(),
            })?;
            let spec = api::WritableSpec {
                path: path.clone(),
                epoch: EPOCH,
                quota_bytes: export.quota_bytes,
                quota_inodes: export.quota_inodes,
            };
            assembly.put_writable(name, spec).await?;
            Some(name.to_owned())
        }
        None => None,
    };
    let stack = api::StackSpec {
        layers: export.layers.clone(),
        writable,
        label: None,
    };
    assembly.put_stack(name, stack).await?;
    let spec = api::ExportSpec {
        stack: name.to_owned(),
        socket: export.socket.clone(),
        peer_uid: None,
        clients: export.clients.clone(),
        link: export.link.clone(),
        weight: export.weight,
        leased: false,
        state: State::Active,
    };
    assembly.put_export(name, spec).await
}

/// A file that says `writable = "w/web"` means that `w` is made too. Over the control socket nobody's parents are made:
/// there a missing one may be a mount that is not there.
fn make_parents(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => DirBuilder::new().recursive(true).mode(0o700).create(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_that_may_be_open_are_allowed() {
        raise_file_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
