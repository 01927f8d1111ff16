//! One listener for all links: who a client is, its link says (see [`crate::link`]).

use std::collections::HashMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

use super::connection::Ending;
use super::listen::{ACCEPT_PAUSE, ListenError, PerClient, Reset, carry, keep_alive};
use super::{Listening, Server};
use crate::export::{ClientAddress, Peer, State};
use crate::link::{Link, LinkTable};

/// How often the links of open connections are looked up again. A connection cannot change hands, since the kernel has
/// bound it to its interface; but one whose interface is gone holds a place until it is closed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Open connections by interface, and whose they are.
#[derive(Default)]
struct Open(Mutex<HashMap<u32, OnLink>>);

struct OnLink {
    link: Link,
    closers: Vec<Weak<Notify>>,
}

impl Open {
    /// Notes a connection; those of whoever had the interface before are closed.
    fn note(&self, index: u32, link: &Link, closer: &Arc<Notify>) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = open.entry(index).or_insert_with(|| OnLink {
            link: link.clone(),
            closers: Vec::new(),
        });
        if known.link != *link {
            known.close();
            known.link = link.clone();
        }
        known.closers.retain(|closer| closer.strong_count() > 0);
        known.closers.push(Arc::downgrade(closer));
    }

    /// Closes the connections of links that the table does not name any more.
    fn tidy(&self, table: &LinkTable) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|&index, known| {
            known.closers.retain(|closer| closer.strong_count() > 0);
            if known.closers.is_empty() {
                return false;
            }
            // What cannot be read says nothing: only a table that names nobody, or another, ends a connection.
            let still = match table.look_up(index) {
                Ok(link) => link.as_ref() == Some(&known.link),
                Err(_) => true,
            };
            if !still {
                tracing::info!(link = %known.link.name, index, "the link is gone");
                known.close();
            }
            still
        });
    }
}

impl OnLink {
    fn close(&mut self) {
        for closer in self.closers.drain(..).filter_map(|closer| closer.upgrade()) {
            closer.notify_one();
        }
    }
}

/// Listens on every interface, for the link-local clients that `table` names.
pub(super) fn listen(server: &Arc<Server>, port: u16, table: LinkTable) -> Result<Listening, ListenError> {
    let address = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
    let failed = |source| ListenError::Tcp {
        address: address.into(),
        source,
    };
    let listener = bind(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let server = Arc::clone(server);
    let task = tokio::spawn(async move {
        let gate = Gate {
            places: Arc::new(Semaphore::new(server.limits.connections)),
            per_client: Arc::default(),
            open: Open::default(),
            server,
            table,
        };
        let mut again = tokio::time::interval(LOOK_AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => gate.take(stream, from),
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                _ = again.tick() => gate.open.tidy(&gate.table),
            }
        }
    });
    Ok(Listening {
        task,
        address: Some(bound),
        socket: None,
    })
}

/// A socket that takes IPv6 alone: an IPv4 client has no link to be known by.
fn bind(address: SocketAddrV6) -> io::Result<TcpListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::STREAM, flags, None)?;
    sockopt::set_ipv6_v6only(&socket, true)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Decides who comes in.
struct Gate {
    server: Arc<Server>,
    table: LinkTable,
    places: Arc<Semaphore>,
    per_client: Arc<PerClient>,
    open: Open,
}

impl Gate {
    fn take(&self, stream: TcpStream, from: SocketAddr) {
        let Some((index, link)) = self.who(from) else {
            // Nothing that anybody sends is read before that.
            Reset::of(&stream).now();
            return;
        };
        let peer = Peer::Link(link.name.clone());
        let exports = self.server.exports.visible(&peer);
        // Where none is there yet, calls are told to come back: the server may have been started just now.
        if !exports.is_empty() && exports.iter().all(|export| export.state() == State::Sealed) {
            tracing::debug!(link = %link.name, "connection refused");
            Reset::of(&stream).now();
            return;
        }
        let places = Arc::clone(&self.places).try_acquire_owned();
        let client = ClientAddress::of_peer(&from);
        let one = self
            .per_client
            .enter(client, self.server.limits.connections_per_client);
        let (Ok(place), Some(one)) = (places, one) else {
            tracing::warn!(link = %link.name, "too many connections");
            return;
        };
        // Both only make things better; a connection without them works.
        let _nodelay = stream.set_nodelay(true);
        let _keepalive = keep_alive(&stream);
        let closer = Arc::new(Notify::new());
        self.open.note(index, &link, &closer);
        let ending = Ending {
            closer,
            reset: Reset::of(&stream),
        };
        let carried = carry(Arc::clone(&self.server), peer, one.flight(), stream, ending);
        tokio::spawn(async move {
            let _held = (place, one);
            carried.await;
        });
    }

    /// The link that a connection came through, if it is one and its guest uses the address it has there.
    fn who(&self, from: SocketAddr) -> Option<(u32, Link)> {
        let SocketAddr::V6(from) = from else {
            return None;
        };
        let index = from.scope_id();
        if !from.ip().is_unicast_link_local() || index == 0 {
            tracing::debug!(%from, "not through a link");
            return None;
        }
        match self.table.look_up(index) {
            Ok(Some(link)) if link.address == *from.ip() => Some((index, link)),
            Ok(Some(link)) => {
                tracing::warn!(%from, link = %link.name, "not the guest's own address");
                None
            }
            Ok(None) => {
                tracing::debug!(%from, "through nobody's link");
                None
            }
            Err(error) => {
                tracing::warn!(%from, error = &error as &dyn std::error::Error, "the table of links");
                None
            }
        }
    }
}
