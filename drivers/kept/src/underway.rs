//! Moves that a driver drives at the moment. It dies with the driver; what it was about is in the domain's record.
//!
//! `M` is what the driver writes down of a move: which part its domain has in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use xeno_model::id::SliverId;

use crate::lock::Lock;

/// All moves that this driver drives.
#[derive(Clone, Debug)]
pub struct Moves<M>(Arc<Mutex<BTreeMap<SliverId, Entry<M>>>>);

#[derive(Debug)]
struct Entry<M> {
    moving: M,
    /// Says that the move is to end; closed once it has.
    stop: Arc<watch::Sender<bool>>,
}

/// One move, for as long as it is driven: the domain is locked to its end.
#[derive(Debug)]
pub struct Ticket<M> {
    moves: Moves<M>,
    sliver: SliverId,
    // In this order: whoever waits for the end can lock the domain then.
    lock: Lock,
    stop: watch::Receiver<bool>,
}

impl<M> Default for Moves<M> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<M: Copy> Moves<M> {
    /// Begins to drive a move of a locked domain.
    pub fn begin(&self, sliver: &SliverId, moving: M, lock: Lock) -> Ticket<M> {
        let (stop, stopped) = watch::channel(false);
        let entry = Entry {
            moving,
            stop: Arc::new(stop),
        };
        self.all().insert(sliver.clone(), entry);
        Ticket {
            moves: Self(Arc::clone(&self.0)),
            sliver: sliver.clone(),
            lock,
            stop: stopped,
        }
    }

    /// What this driver does with the sliver, if it moves it.
    pub fn of(&self, sliver: &SliverId) -> Option<M> {
        self.all().get(sliver).map(|entry| entry.moving)
    }

    /// Ends the move that is driven here of the sliver, if it is such a one, and waits until it has ended.
    pub async fn end_if(&self, sliver: &SliverId, which: impl FnOnce(M) -> bool) {
        let stop = match self.all().get(sliver) {
            Some(entry) if which(entry.moving) => Arc::clone(&entry.stop),
            _ => return,
        };
        stop.send_replace(true);
        stop.closed().await;
    }

    /// Ends whatever is driven here of the sliver, and waits until it has ended.
    pub async fn end_all(&self, sliver: &SliverId) {
        self.end_if(sliver, |_| true).await;
    }
}

impl<M> Moves<M> {
    fn all(&self) -> MutexGuard<'_, BTreeMap<SliverId, Entry<M>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> Ticket<M> {
    /// The domain's lock.
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Returns once the move is to end.
    pub async fn stopped(&mut self) {
        if self.stop.wait_for(|stop| *stop).await.is_err() {
            // Nobody can say so any more.
            std::future::pending().await
        }
    }
}

impl<M> Drop for Ticket<M> {
    fn drop(&mut self) {
        self.moves.all().remove(&self.sliver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAVING: u8 = 1;
    const ARRIVING: u8 = 2;

    #[tokio::test]
    async fn whoever_ends_a_move_can_lock_its_domain_then() {
        let dir = tempfile::tempdir().unwrap();
        let (moves, sliver) = (Moves::default(), SliverId::parse("web/0").unwrap());
        let lock = Lock::take(dir.path()).unwrap().unwrap();
        let mut ticket = moves.begin(&sliver, LEAVING, lock);
        assert_eq!(moves.of(&sliver), Some(LEAVING));
        let driven = tokio::spawn(async move { ticket.stopped().await });
        moves.end_if(&sliver, |moving| moving == LEAVING).await;
        assert_eq!(moves.of(&sliver), None);
        assert!(Lock::take(dir.path()).unwrap().is_some());
        driven.await.unwrap();
        // What is not there has ended.
        moves.end_all(&sliver).await;
    }

    #[tokio::test]
    async fn what_is_not_meant_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (moves, sliver) = (Moves::default(), SliverId::parse("web/0").unwrap());
        let lock = Lock::take(dir.path()).unwrap().unwrap();
        let _ticket = moves.begin(&sliver, ARRIVING, lock);
        moves.end_if(&sliver, |moving| moving == LEAVING).await;
        assert_eq!(moves.of(&sliver), Some(ARRIVING));
    }
}
