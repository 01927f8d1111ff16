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
}

impl Flight {
    /// A new connection of a client.
    pub(super) fn new(client: ClientFlight) -> Self {
        Self {
            connection: Arc::new(Semaphore::new(UNITS_PER_CONNECTION)),
            client,
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

    /// Waits until nothing of this connection is in flight.
    pub(super) async fn landed(&self) {
        let all = u32::try_from(UNITS_PER_CONNECTION).unwrap_or(u32::MAX);
        // Never closed, so this cannot fail.
        let _all = self.connection.acquire_many(all).await;
    }
}

/// Calls of one connection that are being carried out; clones are one.
#[derive(Clone, Default)]
pub(super) struct UnderWay(Arc<Mutex<HashSet<Number>>>);

/// A client tells its calls apart by xid (RFC 5531, section 9); the procedure is in it for what a confused one may send.
type Number = (u32, u32);

/// A call that is being carried out, until this is dropped.
pub(super) struct Running {
    all: UnderWay,
    number: Number,
}

impl UnderWay {
    /// Takes note of a call; `None` if it is being carried out already, since the reply to the first answers both.
    ///
    /// A guest sends again what is not answered in time, and one that reads from a layer whose server is away waits for long. Each
    /// run of the same call would wait as long as the one before it, and whatever is new behind them all.
    pub(super) fn enter(&self, call: &Call) -> Option<Running> {
        let number = (call.xid, call.procedure);
        let is_new = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number);
        is_new.then(|| Running {
            all: self.clone(),
            number,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.number);
    }
}
