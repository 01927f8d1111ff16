//! Moves that this driver drives at the moment. It dies with the driver; what it was about is in the record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use xeno_kept::lock::Lock;
use xeno_model::id::SliverId;

use crate::record::Moving;

/// All moves that this driver drives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moves(Arc<Mutex<BTreeMap<SliverId, Entry>>>);

#[derive(Debug)]
struct Entry {
    moving: Moving,
    /// Says that the move is to end; closed once it has.
    stop: Arc<watch::Sender<bool>>,
}

/// One move, for as long as it is driven: the domain is locked to its end.
#[derive(Debug)]
pub(crate) struct Ticket {
    moves: Moves,
    sliver: SliverId,
    // In this order: whoever waits for the end can lock the domain then.
    lock: Lock,
    stop: watch::Receiver<bool>,
}

impl Moves {
    /// Begins to drive a move of a locked domain.
    pub(crate) fn begin(&self, sliver: &SliverId, moving: Moving, lock: Lock) -> Ticket {
        let (stop, stopped) = watch::channel(false);
        let entry = Entry {
            moving,
            stop: Arc::new(stop),
        };
        self.all().insert(sliver.clone(), entry);
        Ticket {
            moves: self.clone(),
            sliver: sliver.clone(),
            lock,
            stop: stopped,
        }
    }

    /// What this driver does with the sliver, if it moves it.
    pub(crate) fn of(&self, sliver: &SliverId) -> Option<Moving> {
        self.all().get(sliver).map(|entry| entry.moving)
    }

    /// Ends a departure, if one is driven here, and waits until it has ended.
    pub(crate) async fn end_departure(&self, sliver: &SliverId) {
        self.end(sliver, |moving| match moving {
            Moving::Leaving { .. } => true,
            Moving::Arriving { .. } => false,
        })
        .await;
    }

    /// Ends whatever is driven here of the sliver, and waits until it has ended.
    pub(crate) async fn end_all(&self, sliver: &SliverId) {
        self.end(sliver, |_| true).await;
    }

    async fn end(&self, sliver: &SliverId, which: impl FnOnce(Moving) -> bool) {
        let stop = match self.all().get(sliver) {
            Some(entry) if which(entry.moving) => Arc::clone(&entry.stop),
            _ => return,
        };
        stop.send_replace(true);
        stop.closed().await;
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<SliverId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The domain's lock.
    pub(crate) fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Returns once the move is to end.
    pub(crate) async fn stopped(&mut self) {
        if self.stop.wait_for(|stop| *stop).await.is_err() {
            // Nobody can say so any more.
            std::future::pending().await
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.moves.all().remove(&self.sliver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xeno_model::id::{Epoch, MigrationId};

    #[tokio::test]
    async fn whoever_ends_a_move_can_lock_its_domain_then() {
        let dir = tempfile::tempdir().unwrap();
        let (moves, sliver) = (Moves::default(), SliverId::parse("web/0").unwrap());
        let moving = Moving::Leaving {
            migration: MigrationId([1; 16]),
            epoch: Epoch(1),
        };
        let lock = Lock::take(dir.path()).unwrap().unwrap();
        let mut ticket = moves.begin(&sliver, moving, lock);
        assert_eq!(moves.of(&sliver), Some(moving));
        let driven = tokio::spawn(async move { ticket.stopped().await });
        moves.end_departure(&sliver).await;
        assert_eq!(moves.of(&sliver), None);
        assert!(Lock::take(dir.path()).unwrap().is_some());
        driven.await.unwrap();
        // What is not there has ended.
        moves.end_departure(&sliver).await;
        moves.end_all(&sliver).await;
    }

    #[tokio::test]
    async fn an_arrival_is_no_departure() {
        let dir = tempfile::tempdir().unwrap();
        let (moves, sliver) = (Moves::default(), SliverId::parse("web/0").unwrap());
        let moving = Moving::Arriving {
            migration: MigrationId([1; 16]),
        };
        let lock = Lock::take(dir.path()).unwrap().unwrap();
        let _ticket = moves.begin(&sliver, moving, lock);
        moves.end_departure(&sliver).await;
        assert_eq!(moves.of(&sliver), Some(moving));
    }
}
