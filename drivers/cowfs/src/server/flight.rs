//! What is in flight: calls and their replies, in units, bounded for each connection and for each client.
//!
//! A connection's own bound keeps it from starving others of the same client; the client's bound is what one guest can
//! make the server keep in memory, however many connections it opens.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::{UNITS_PER_CLIENT, UNITS_PER_CONNECTION};
use crate::nfs::rpc::Call;

/// The right to keep some units in memory.
pub(super) struct Units {
    _connection: OwnedSemaphorePermit,
    _client: OwnedSemaphorePermit,
}

/// What all connections of one client share.
#[derive(Clone)]
pub(super) struct ClientFlight(Arc<Semaphore>);

impl ClientFlight {
    /// Nothing in flight.
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(UNITS_PER_CLIENT)))
    }
}

/// What one connection has in flight; clones count together.
#[derive(Clone)]
pub(super) struct Flight {
    connection: Arc<Semaphore>,
    client: ClientFlight,
    calls: Arc<Mutex<HashSet<Number>>>,
}

impl Flight {
    /// A new connection of a client.
    pub(super) fn new(client: ClientFlight) -> Self {
        Self {
            connection: Arc::new(Semaphore::new(UNITS_PER_CONNECTION)),
            client,
            calls: Arc::default(),
        }
    }

    /// Units, if they can be had at once.
    pub(super) fn try_take(&self, units: u32) -> Option<Units> {
        Some(Units {
            _connection: Arc::clone(&self.connection).try_acquire_many_owned(units).ok()?,
            _client: Arc::clone(&self.client.0).try_acquire_many_owned(units).ok()?,
        })
    }

    /// Waits for units.
    pub(super) async fn take(&self, units: u32) -> Result<Units, AcquireError> {
        Ok(Units {
            _connection: Arc::clone(&self.connection).acquire_many_owned(units).await?,
            _client: Arc::clone(&self.client.0).acquire_many_owned(units).await?,
        })
    }

    /// Takes note of a call; `None` if it is being carried out already, since the reply to the first answers both.
    ///
    /// A guest sends again what is not answered in time, and one that reads from a layer whose server is away waits for long. Each
    /// run of the same call would wait as long as the one before it, and whatever is new behind them all.
    pub(super) fn begin(&self, call: &Call) -> Option<Running> {
        let number = (call.xid, call.procedure);
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.insert(number).then(|| Running {
            calls: Arc::clone(&self.calls),
            number,
        })
    }

    /// Waits until nothing of this connection is in flight.
    pub(super) async fn landed(&self) {
        let all = u32::try_from(UNITS_PER_CONNECTION).unwrap_or(u32::MAX);
        // Never closed, so this cannot fail.
        let _all = self.connection.acquire_many(all).await;
    }
}

/// A client tells its calls apart by xid (RFC 5531, section 9); the procedure is in it for what a confused one may send.
type Number = (u32, u32);

/// A call that is being carried out, until this is dropped.
pub(super) struct Running {
    calls: Arc<Mutex<HashSet<Number>>>,
    number: Number,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.remove(&self.number);
    }
}
