//! Listeners: TCP for exports that name addresses, one unix socket for one export.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp, unix};
use tokio::sync::Semaphore;

use super::connection::Ending;
use super::flight::ClientFlight;
use super::outgoing::Outlet;
use super::{Listening, Server, connection};
use crate::export::{ClientAddress, Export, Peer, State};

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, or not ours.
    #[error("listening on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The socket file cannot be made.
    #[error("listening on the socket {}", path.display())]
    Unix {
        /// Its path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another server answers there.
    #[error("another server answers on the socket {}", .0.display())]
    InUse(PathBuf),
    /// Something else has that name.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
}

/// After a failed accept (out of descriptors, mostly): long enough not to spin, short enough not to be noticed.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Ports below this are root's (ip(7), `ip_unprivileged_port_start`).
const RESERVED: u16 = 1024;

/// How many connections each client address has, and what they share.
#[derive(Default)]
pub(super) struct PerClient(Mutex<HashMap<ClientAddress, Known>>);

/// A client that is connected.
struct Known {
    connections: usize,
    flight: ClientFlight,
}

impl PerClient {
    /// Counts one more connection of a client, if it may have another.
    pub(super) fn enter(self: &Arc<Self>, client: ClientAddress, max: usize) -> Option<OnePerClient> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts.entry(client).or_insert_with(|| Known {
            connections: 0,
            flight: ClientFlight::new(),
        });
        if known.connections >= max {
            return None;
        }
        known.connections += 1;
        Some(OnePerClient {
            flight: known.flight.clone(),
            all: Arc::clone(self),
            client,
        })
    }
}

/// One connection in the count.
pub(super) struct OnePerClient {
    all: Arc<PerClient>,
    client: ClientAddress,
    flight: ClientFlight,
}

impl OnePerClient {
    /// What all connections of this client have in flight.
    pub(super) fn flight(&self) -> ClientFlight {
        self.flight.clone()
    }
}

impl Drop for OnePerClient {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = counts.get_mut(&self.client) {
            known.connections -= 1;
            if known.connections == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

pub(super) async fn tcp(server: &Arc<Server>, address: SocketAddr) -> Result<Listening, ListenError> {
    let failed = |source| ListenError::Tcp { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let server = Arc::clone(server);
    let task = tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(server.limits.connections));
        let per_client = Arc::new(PerClient::default());
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if server.limits.reserved_ports && from.port() >= RESERVED {
                tracing::warn!(%from, "a client that need not be root");
                continue;
            }
            let client = ClientAddress::of_peer(&from);
            let peer = Peer::Address(client);
            if server.exports.visible(&peer).is_empty() {
                tracing::debug!(%from, "no export for this client");
                continue;
            }
            let places = Arc::clone(&places).try_acquire_owned();
            let one = per_client.enter(client, server.limits.connections_per_client);
            let (Ok(place), Some(one)) = (places, one) else {
                tracing::warn!(%from, "too many connections");
                continue;
            };
            // Both only make things better; a connection without them works.
            let _nodelay = stream.set_nodelay(true);
            let _keepalive = keep_alive(&stream);
            let ending = Ending::with_reset(Reset::of(&stream));
            let carried = carry(Arc::clone(&server), peer, one.flight(), stream, ending);
            tokio::spawn(async move {
                let _held = (place, one);
                carried.await;
            });
        }
    });
    Ok(Listening {
        task,
        address: Some(bound),
        socket: None,
    })
}

/// A stream that can leave the loop it was accepted on.
pub(super) trait Stream: Send + Sized + 'static {
    /// It, belonging to no loop.
    type Free: Send + 'static;
    /// What is read from.
    type Reader: AsyncRead + Unpin + Send;
    /// What is written to.
    type Writer: AsyncWrite + Unpin + Send + 'static;

    /// Takes it from its loop.
    fn free(self) -> io::Result<Self::Free>;
    /// Gives it to the loop that this runs on.
    fn settle(free: Self::Free) -> io::Result<(Self::Reader, Outlet<Self::Writer>)>;
}

impl Stream for TcpStream {
    type Free = std::net::TcpStream;
    type Reader = tcp::OwnedReadHalf;
    type Writer = tcp::OwnedWriteHalf;

    fn free(self) -> io::Result<Self::Free> {
        self.into_std()
    }

    fn settle(free: Self::Free) -> io::Result<(Self::Reader, Outlet<Self::Writer>)> {
        let (reader, writer) = Self::from_std(free)?.into_split();
        let outlet = Outlet {
            writer,
            tcp: |writer| Some(writer.as_ref()),
        };
        Ok((reader, outlet))
    }
}

impl Stream for UnixStream {
    type Free = std::os::unix::net::UnixStream;
    type Reader = unix::OwnedReadHalf;
    type Writer = unix::OwnedWriteHalf;

    fn free(self) -> io::Result<Self::Free> {
        self.into_std()
    }

    fn settle(free: Self::Free) -> io::Result<(Self::Reader, Outlet<Self::Writer>)> {
        let (reader, writer) = Self::from_std(free)?.into_split();
        Ok((reader, Outlet::plain(writer)))
    }
}

/// Serves an accepted connection on [a loop of connections](super::loops), until it ends or this is dropped.
pub(super) async fn carry<S: Stream>(
    server: Arc<Server>,
    peer: Peer,
    flight: ClientFlight,
    stream: S,
    ending: Ending,
) {
    let free = match stream.free() {
        Ok(free) => free,
        Err(error) => return tracing::warn!(%error, "taking a connection from the loop that accepted it"),
    };
    let serving = Arc::clone(&server);
    let connection = async move {
        match S::settle(free) {
            Ok(streams) => connection::serve(serving, peer, flight, streams, ending).await,
            Err(error) => tracing::warn!(%error, "giving a connection to its loop"),
        }
    };
    server.loops.carry(connection).await;
}

/// Finds out about clients that are gone without a word, so that they do not hold a place for ever.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, Duration::from_secs(120))?;
    rustix::net::sockopt::set_tcp_keepintvl(stream, Duration::from_secs(30))?;
    Ok(())
}

/// The way to end a TCP connection at once. A client that has been moved away answers nobody here, and without a reset what
/// was sent to it last would be tried again for a quarter of an hour (tcp(7), `tcp_retries2`).
#[derive(Default)]
pub(super) struct Reset(Option<OwnedFd>);

impl Reset {
    /// For this connection. Keeps it open until it is dropped.
    pub(super) fn of(stream: &TcpStream) -> Self {
        // Without another descriptor the connection is closed as usual.
        Self(stream.as_fd().try_clone_to_owned().ok())
    }

    /// Has the connection reset as soon as it is closed: no lingering (socket(7), `SO_LINGER`).
    pub(super) fn now(self) {
        if let Some(stream) = &self.0 {
            let _reset = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        }
    }
}

pub(super) async fn unix(
    server: &Arc<Server>,
    path: &Path,
    uid: Option<u32>,
    export: Arc<Export>,
) -> Result<Listening, ListenError> {
    let listener = bind_private(path).await?;
    let server = Arc::clone(server);
    let task = tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(server.limits.connections_per_client));
        let shared = ClientFlight::new();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _unnamed)) => stream,
                Err(error) => {
                    tracing::warn!(%error, export = %export.name(), "accepting a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if export.state() == State::Sealed || !peer_is(&stream, uid) {
                tracing::debug!(export = %export.name(), "connection refused");
                continue;
            }
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!(export = %export.name(), "too many connections");
                continue;
            };
            let peer = Peer::Socket(Arc::clone(&export));
            let carried = carry(
                Arc::clone(&server),
                peer,
                shared.clone(),
                stream,
                Ending::default(),
            );
            tokio::spawn(async move {
                let _held = place;
                carried.await;
            });
        }
    });
    Ok(Listening {
        task,
        address: None,
        socket: Some(path.to_owned()),
    })
}

/// Whether the process at the other end (SO_PEERCRED, unix(7)) runs under `uid`; without one, under our own or root's.
pub(crate) fn peer_is(stream: &UnixStream, uid: Option<u32>) -> bool {
    let Ok(credentials) = stream.peer_cred() else {
        return false;
    };
    match uid {
        Some(uid) => credentials.uid() == uid,
        None => credentials.uid() == 0 || credentials.uid() == rustix::process::geteuid().as_raw(),
    }
}

/// Binds a unix socket that has mode 0600 from the moment it can be reached, replacing a dead one.
pub(crate) async fn bind_private(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |source| ListenError::Unix {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(ListenError::InUse(path.to_owned()));
            }
        }
        Ok(_) => return Err(ListenError::NotASocket(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // Made under another name and moved: nobody can connect before the mode is right.
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    match std::fs::remove_file(&hidden) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(&hidden).map_err(failed)?;
    let made = std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&hidden, path));
    if let Err(error) = made {
        // The error that matters is the one above.
        let _removed = std::fs::remove_file(&hidden);
        return Err(failed(error));
    }
    Ok(listener)
}
