//! The board: the trait every fleet-wide fact goes through.
//!
//! A board is a small ordered map from [`Key`] to [`Value`] that many agents share, in the manner of etcd: every change
//! has a [`Revision`] of one sequence, what is changed together ([`Txn`]) has one revision, and changes can be watched from
//! any revision on. It holds little (who may run what, how things are, what is being handed over), and it decides nothing.
//! Values are bytes; what they mean is the business of whoever writes them.
//!
//! Back ends: [`sqlite`] for agents of one machine, [`etcd`] for a fleet, [`scripted`] for tests; [`AnyBoard`] is any of
//! them. All behave alike: `conformance` (feature `contract`) is what they are held to.
//!
//! # What a caller must know
//! - **An unknown outcome is not a failure.** [`BoardError::Unknown`] of a commit may mean that it was done, that it was
//!   not, or that it *will be*: a request can lie in a server's queue while a later read already shows the old value.
//!   Reading the old value back proves nothing. What settles it is to commit the *same transaction again*: where it guards
//!   a key that it writes, only one of the two can succeed, and [`Txn::was_done_before`] tells which it was.
//! - **A lease is not a lock.** That a key with a lease is gone says that its owner was not heard of for a while, not that
//!   it has stopped. An owner counts the time of its lease from *before* it sent the call that renewed it.
//! - **An empty board may be another board.** [`identity()`] tells them apart.
//! - **A watch ends.** Each [`Watch`] ends some day, with a [`WatchEnd`]: list again and watch from the next revision.
//! - **Dropping** the future of a commit is not knowing its outcome.

use std::future::Future;
use std::time::Duration;

mod any;
#[cfg(feature = "contract")]
pub mod conformance;
mod error;
pub mod etcd;
mod identity;
mod key;
mod keyspace;
pub mod pace;
pub mod scripted;
pub mod sqlite;
mod txn;
mod watch;

pub use any::{AnyBoard, BoardConfig};
pub use error::{BoardError, BoardResult};
pub use identity::identity;
pub use key::{KEY_LEN_MAX, Key, KeyError, Prefix, VALUE_LEN_MAX, Value, ValueTooLong};
pub use txn::{Commit, Guard, Refused, TXN_KEYS_MAX, Txn, TxnError, Write};
pub use watch::{Change, Changes, Watch, WatchEnd};

/// The most entries that one listing may have. Three kinds of record for each of 100,000 slivers are three prefixes.
pub const LIST_ENTRIES_MAX: usize = 200_000;

/// The most bytes of values that one listing may have.
pub const LIST_BYTES_MAX: usize = 128 << 20;

/// The shortest lease: an etcd with usual election times grants none below 2 s.
pub const TTL_MIN: Duration = Duration::from_secs(2);

/// The longest lease.
pub const TTL_MAX: Duration = Duration::from_secs(86_400);

/// A point in the one sequence of changes of a board. The empty board is at [`Revision::START`] or somewhat later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Before every change.
    pub const START: Self = Self(0);

    /// The one after this: where to watch from after a listing at this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Names a lease on one board. Positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A lease, and how long it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which.
    pub id: LeaseId,
    /// How long it lives from the call on, if it is not renewed. At least what was asked for.
    pub ttl: Duration,
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its value.
    pub value: Value,
    /// When it was last written.
    pub revision: Revision,
    /// The lease it goes with.
    pub lease: Option<LeaseId>,
}

/// All that lies below a prefix, at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries, in the order of their keys.
    pub entries: Vec<(Key, Entry)>,
    /// The revision at which this is all there is: watch from [`Revision::next`] to miss nothing.
    pub at: Revision,
}

/// A place for fleet-wide facts. Reads see every commit that was answered before they began, whoever made it.
///
/// No call waits for long: a back end bounds each by a time of its own.
pub trait Board: Send + Sync {
    /// What a key holds.
    ///
    /// # Errors
    /// [`BoardError::Unavailable`], [`BoardError::Never`].
    fn get(&self, key: &Key) -> impl Future<Output = BoardResult<Option<Entry>>> + Send;

    /// All that lies below a prefix, at one revision, read in pages where the back end needs that.
    ///
    /// # Errors
    /// [`BoardError::Unavailable`], [`BoardError::Never`]; the latter too for more than [`LIST_ENTRIES_MAX`] or
    /// [`LIST_BYTES_MAX`].
    fn list(&self, prefix: &Prefix) -> impl Future<Output = BoardResult<Listing>> + Send;

    /// Makes all writes if all guards hold, as one change, durably; else none.
    ///
    /// Deleting what is not there changes nothing, and where nothing changes the revision stays.
    ///
    /// # Errors
    /// All of [`BoardError`]; nothing was done, except with [`BoardError::Unknown`].
    fn commit(&self, txn: &Txn) -> impl Future<Output = BoardResult<Commit>> + Send;

    /// Follows all changes below a prefix, beginning with those of revision `from`.
    ///
    /// # Errors
    /// [`BoardError::Unavailable`], [`BoardError::Never`]. That `from` is too far in the past shows as the end of the watch.
    fn watch(&self, prefix: &Prefix, from: Revision) -> impl Future<Output = BoardResult<Watch>> + Send;

    /// Makes a lease. If its answer is lost, a lease that nobody knows runs out by itself.
    ///
    /// # Errors
    /// [`BoardError::Unavailable`], [`BoardError::Never`]; the latter for times outside of [`TTL_MIN`] to [`TTL_MAX`].
    fn grant(&self, ttl: Duration) -> impl Future<Output = BoardResult<Lease>> + Send;

    /// Renews a lease for its whole time from now on.
    ///
    /// # Errors
    /// [`BoardError::LeaseGone`] if it is not there (any more); [`BoardError::Unavailable`]: count it as not renewed.
    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = BoardResult<Lease>> + Send;

    /// Ends a lease; its keys are deleted as one change. Success if it is not there.
    ///
    /// # Errors
    /// [`BoardError::Unavailable`], [`BoardError::Unknown`], [`BoardError::Never`].
    fn revoke(&self, lease: LeaseId) -> impl Future<Output = BoardResult<()>> + Send;
}

/// Refuses a lease time that not every back end could keep.
fn check_ttl(ttl: Duration) -> BoardResult<()> {
    if (TTL_MIN..=TTL_MAX).contains(&ttl) {
        return Ok(());
    }
    let why = format!(
        "{ttl:?} is no time for a lease: {} s to {} s are",
        TTL_MIN.as_secs(),
        TTL_MAX.as_secs()
    );
    Err(BoardError::never("grant a lease", why))
}
