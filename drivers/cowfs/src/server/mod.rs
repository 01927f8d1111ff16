//! Sockets and tasks: accepts connections, cuts them into calls, has each call answered, sends the replies.
//!
//! One task reads a connection and decodes every call that a read brought; what can be answered from memory is
//! answered there, everything else runs on a bounded pool of threads, and replies go back in whatever order they
//! are ready, many in one write. Everything is bounded: connections (in all and for each client address), what one
//! connection and one client have in flight (in units of [`UNIT`] bytes of call and reply), what one export runs and parks, and the
//! pool. A client that does not read its replies fills only its own connection's bound.

mod answer;
mod connection;
mod eager;
mod flight;
mod links;
mod listen;
mod loops;
mod outgoing;
mod pending;
mod pool;
mod run;
mod share;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

pub use listen::ListenError;
pub(crate) use listen::{bind_private, peer_is};
pub use run::{ServeError, serve, serve_with};

use crate::export::{Export, Exports, Peer};
use crate::lease::{Instant, Lease, NotRenewed, Renewed};
use crate::link::LinkTable;
use loops::Loops;
use pool::Pool;
use share::Share;

/// Bytes of call and reply that weigh one unit in flight.
pub const UNIT: usize = 256 << 10;

/// Units one connection may have in flight: 64 small calls, or a dozen transfers of a megabyte.
pub const UNITS_PER_CONNECTION: usize = 64;

/// Units that all connections of one client, or of one export's own socket, may have in flight: 32 MiB, and with them the
/// records that are still being read. It is what one guest can make the server keep.
pub const UNITS_PER_CLIENT: usize = 128;

/// Threads that may be busy with calls at the same time.
const POOL: u32 = 128;

/// Units of calls that are carried out at the same time; where more are wanted, exports take turns by weight. Enough to keep a
/// disk and all processors busy, and to share a sync among many; little enough that a queue forms here, where weights
/// count, and not in the disk.
const IN_SERVICE: u32 = 64;

/// Connections that one client needs at most: Linux opens up to 16 for one mount (`nconnect`, nfs(5)). Each keeps a buffer of
/// 16 KiB beside what is in flight.
const CONNECTIONS_PER_CLIENT: usize = 64;

/// Bounds an operator may change.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of one listener.
    pub connections: usize,
    /// Connections from one client address, or on one export's own socket.
    pub connections_per_client: usize,
    /// Whether TCP clients must come from a port below 1024, which only root can take (ip(7)): for a server that a
    /// machine has for itself, so that its other users cannot speak for root.
    pub reserved_ports: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_client: CONNECTIONS_PER_CLIENT,
            reserved_ports: false,
        }
    }
}

/// A running file server. Listeners and exports come and go.
pub struct Server {
    exports: Exports,
    lease: Arc<Lease>,
    pool: Arc<Pool>,
    share: Arc<Share>,
    loops: Loops,
    limits: Limits,
}

impl Server {
    /// A server without listeners or exports.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Self::with_lease(limits, Lease::default())
    }

    /// The same, with a lease that is counted by another clock.
    #[must_use]
    pub fn with_lease(limits: Limits, lease: Lease) -> Arc<Self> {
        Arc::new(Self {
            exports: Exports::default(),
            lease: Arc::new(lease),
            pool: Pool::new(POOL),
            share: Share::new(IN_SERVICE),
            loops: Loops::default(),
            limits,
        })
    }

    /// Its exports.
    #[must_use]
    pub fn exports(&self) -> &Exports {
        &self.exports
    }

    /// Until when it may answer for exports that are [leased](Export::set_leased), if they were made [under](Export::under) this.
    #[must_use]
    pub fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Has the lease last until this instant. Where the one before has lapsed, what is under way to clients ends: no call of then
    /// is answered.
    ///
    /// # Errors
    /// [`NotRenewed`].
    pub fn renew_lease(&self, until: Instant) -> Result<(), NotRenewed> {
        if self.lease.renew(until)? == Renewed::Anew {
            self.end_lapsed();
        }
        Ok(())
    }

    /// Ends the connections of exports that have no lease.
    fn end_lapsed(&self) {
        for export in self.exports.all() {
            if export.is_lapsed() {
                export.close_connections();
            }
        }
    }

    /// Ends connections as soon as the lease has lapsed under which they were answered, for ever. Nothing rests on it but that
    /// clients learn of it at once: every reply is held against the lease by itself.
    pub async fn watch_lease(&self) {
        loop {
            while let Some(left) = self.lease.left() {
                tokio::time::sleep(left).await;
            }
            self.end_lapsed();
            self.lease.changed().await;
        }
    }

    /// Listens on a TCP address for all exports that name their clients by address.
    ///
    /// # Errors
    /// [`ListenError`] when the address cannot be bound.
    pub async fn listen_tcp(self: &Arc<Self>, address: SocketAddr) -> Result<Listening, ListenError> {
        listen::tcp(self, address).await
    }

    /// Listens on a unix socket that leads to `export` and nothing else. The socket file is made with mode 0600;
    /// peers must have the user id `uid` (or, with `None`, the server's own, or root's).
    ///
    /// # Errors
    /// [`ListenError`] when the file cannot be made, or another server answers on it.
    pub async fn listen_unix(
        self: &Arc<Self>,
        path: &Path,
        uid: Option<u32>,
        export: Arc<Export>,
    ) -> Result<Listening, ListenError> {
        listen::unix(self, path, uid, export).await
    }

    /// Listens on a TCP port of all interfaces for the guests at the end of links, each of which reaches the exports of
    /// [its link](Export::on_link) and nothing else. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`ListenError`] when the port cannot be bound.
    pub fn listen_links(self: &Arc<Self>, port: u16, table: LinkTable) -> Result<Listening, ListenError> {
        links::listen(self, port, table)
    }

    /// Serves one connection that somebody else has accepted, until its client leaves or its export is sealed. It counts
    /// against no limit of a listener.
    pub async fn serve_connection<R, W>(self: &Arc<Self>, peer: Peer, reader: R, writer: W)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let flight = flight::ClientFlight::new();
        let ending = connection::Ending::default();
        let outlet = outgoing::Outlet::plain(writer);
        connection::serve(Arc::clone(self), peer, flight, (reader, outlet), ending).await;
    }

    /// Waits until the calls that run now have been answered, but not longer than `patience`.
    pub async fn drain(&self, patience: Duration) {
        // What still runs then is the caller's choice.
        let _drained = tokio::time::timeout(patience, self.pool.quiesce()).await;
    }
}

/// A listener; dropping it stops listening, while connections that are open stay.
#[derive(Debug)]
pub struct Listening {
    task: JoinHandle<()>,
    address: Option<SocketAddr>,
    socket: Option<PathBuf>,
}

impl Listening {
    /// The TCP address listened on, with the port that was really bound.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(socket) = &self.socket {
            // Gone already is fine: someone tidied up.
            let _removed = std::fs::remove_file(socket);
        }
    }
}
