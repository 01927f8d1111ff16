//! The lease of a server: until when it may answer for exports that another server may take over.
//!
//! Whoever decides that says so again and again, each time as an instant of a clock that knows no jumps and goes on while the
//! machine sleeps ([`now`]), and before each reply of a *leased* export that clock is looked at. Once the lease has lapsed, the
//! exports that answered under it answer no more, and **a new lease changes nothing about that**: in between another server
//! may have gone on with their layers. Only whoever knows that none has lets each of them enter the new one. A server
//! that has been started anew has no lease.
//!
//! A lease is told from the one after its lapse by its *term*. An export remembers the term that it has entered (`Bond`), and
//! a reply the term under which its call was let in (`Pass`); both are good as long as that term lasts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Longer than anybody promises to be alive: what is later is a mistake of whoever says it.
pub const AHEAD_MAX: Duration = Duration::from_secs(86_400);

/// An instant, in nanoseconds since the machine started.
pub type Instant = u64;

/// Now, by the clock that leases are counted by (`CLOCK_BOOTTIME`, clock_gettime(2)).
#[must_use]
pub fn now() -> Instant {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// What tells the time.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// Why a lease is not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRenewed {
    /// It would have ended before it began.
    #[error("the lease that is offered has run out already")]
    Over,
    /// It would last for ever.
    #[error("the lease that is offered would last for more than a day")]
    TooLong,
}

/// What a renewal was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The same term lasts longer, or as long as before.
    GoesOn,
    /// The term before had lapsed, and so nothing that was under way in it counts.
    Anew,
}

/// Until when a server may answer for leased exports.
pub struct Lease {
    clock: Clock,
    term: AtomicU64,
    until: AtomicU64,
    /// Held by whoever changes the two.
    changing: Mutex<()>,
    /// Something of it has changed.
    changed: Notify,
}

impl Default for Lease {
    fn default() -> Self {
        Self::new(Arc::new(now))
    }
}

impl Lease {
    /// None yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            term: AtomicU64::new(LAPSED),
            until: AtomicU64::new(0),
            changing: Mutex::new(()),
            changed: Notify::new(),
        }
    }

    /// Has it last until this instant. One that ends later already, ends later.
    ///
    /// # Errors
    /// [`NotRenewed`]; then it is as it was.
    pub fn renew(&self, until: Instant) -> Result<Renewed, NotRenewed> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.renew_held(until)
    }

    /// The same, and the term that it is then: to be entered by those who know that nobody has gone on without them.
    fn enter(&self, until: Instant) -> Result<u64, NotRenewed> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.renew_held(until)?;
        Ok(self.term.load(Ordering::Acquire))
    }

    fn renew_held(&self, until: Instant) -> Result<Renewed, NotRenewed> {
        let now = (self.clock)();
        if until <= now {
            return Err(NotRenewed::Over);
        }
        if u128::from(until - now) > AHEAD_MAX.as_nanos() {
            return Err(NotRenewed::TooLong);
        }
        let had = self.until.load(Ordering::Acquire);
        let renewed = if had <= now {
            // The term first: whoever sees the new end must not take it for that of the old term.
            let term = self.term.load(Ordering::Acquire).saturating_add(1).max(now);
            self.term.store(term, Ordering::Release);
            Renewed::Anew
        } else {
            Renewed::GoesOn
        };
        self.until.store(until.max(had), Ordering::Release);
        self.changed.notify_one();
        Ok(renewed)
    }

    /// Whether this term lasts.
    fn lasts(&self, term: u64) -> bool {
        // The end first; see where it is written.
        let until = self.until.load(Ordering::Acquire);
        (self.clock)() < until && self.term.load(Ordering::Acquire) == term
    }

    /// How long it lasts from now on; `None` once it has lapsed.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let until = self.until.load(Ordering::Acquire);
        let left = until.saturating_sub((self.clock)());
        (left > 0).then(|| Duration::from_nanos(left))
    }

    /// Waits until somebody has renewed it.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// The bond of what needs no lease.
const FREE: u64 = 0;

/// The term of what waits to enter one.
const LAPSED: u64 = 1;

/// An export's part in the lease of its server.
pub(crate) struct Bond {
    lease: Arc<Lease>,
    term: AtomicU64,
}

impl Bond {
    /// That of an export which answers without a lease.
    pub(crate) fn free(lease: Arc<Lease>) -> Self {
        Self {
            lease,
            term: AtomicU64::new(FREE),
        }
    }

    /// Binds it, so that it has to enter the lease before it answers, or sets it free. One that is bound already stays in its term.
    pub(crate) fn bind(&self, leased: bool) {
        let change = |term| match (leased, term) {
            (true, FREE) => Some(LAPSED),
            (true, _) | (false, FREE) => None,
            (false, _) => Some(FREE),
        };
        // It refuses where nothing is to be changed.
        let _as_it_was = self
            .term
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
    }

    /// Whether it is bound.
    pub(crate) fn is_leased(&self) -> bool {
        self.term.load(Ordering::Acquire) != FREE
    }

    /// Enters the lease, which lasts until then at least.
    pub(crate) fn enter(&self, until: Instant) -> Result<(), NotRenewed> {
        let term = self.lease.enter(until)?;
        if self.is_leased() {
            self.term.store(term, Ordering::Release);
        }
        Ok(())
    }

    /// What a call is let in with.
    pub(crate) fn pass(&self) -> Pass {
        match self.term.load(Ordering::Acquire) {
            FREE => Pass(None),
            term => Pass(Some((Arc::clone(&self.lease), term))),
        }
    }

    /// Whether it may answer. Looks at no clock where no lease is needed.
    pub(crate) fn holds(&self) -> bool {
        match self.term.load(Ordering::Acquire) {
            FREE => true,
            LAPSED => false,
            term => self.lease.lasts(term),
        }
    }
}

/// What a reply must still have when it is sent.
#[derive(Clone, Default)]
pub(crate) struct Pass(Option<(Arc<Lease>, u64)>);

impl Pass {
    /// Whether it is good.
    pub(crate) fn holds(&self) -> bool {
        match &self.0 {
            None => true,
            Some((lease, term)) => lease.lasts(*term),
        }
    }

    /// That of several replies which are sent together: no better than the worst.
    pub(crate) fn with(&mut self, other: Self) {
        let worse = match (&self.0, &other.0) {
            (_, None) => false,
            (None, Some(_)) => true,
            // Terms grow, and only the last one can last.
            (Some((_, has)), Some((_, new))) => new < has,
        };
        if worse {
            *self = other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lease, and the hand of its clock.
    fn lease() -> (Arc<Lease>, Arc<AtomicU64>) {
        let hand = Arc::new(AtomicU64::new(1_000));
        let clock = Arc::clone(&hand);
        let lease = Lease::new(Arc::new(move || clock.load(Ordering::SeqCst)));
        (Arc::new(lease), hand)
    }

    fn bound(lease: &Arc<Lease>) -> Bond {
        let bond = Bond::free(Arc::clone(lease));
        bond.bind(true);
        bond
    }

    #[test]
    fn what_is_free_asks_for_nothing() {
        let lease = Lease::new(Arc::new(|| panic!("the clock is looked at")));
        let bond = Bond::free(Arc::new(lease));
        assert!(bond.holds() && bond.pass().holds());
        bond.bind(true);
        assert!(!bond.holds());
        bond.bind(false);
        assert!(bond.holds());
    }

    #[test]
    fn it_lasts_until_the_instant_and_no_longer() {
        let (lease, hand) = lease();
        let bond = bound(&lease);
        assert_eq!(bond.enter(1_000), Err(NotRenewed::Over));
        assert_eq!(bond.enter(2_000), Ok(()));
        let pass = bond.pass();
        hand.store(1_999, Ordering::SeqCst);
        assert!(bond.holds() && pass.holds());
        assert_eq!(lease.renew(3_000), Ok(Renewed::GoesOn));
        assert_eq!(lease.renew(2_500), Ok(Renewed::GoesOn), "one that was late");
        hand.store(2_999, Ordering::SeqCst);
        assert!(bond.holds() && pass.holds());
        hand.store(3_000, Ordering::SeqCst);
        assert!(!bond.holds() && !pass.holds());
        assert_eq!(lease.left(), None);
    }

    #[test]
    fn a_new_lease_does_not_bring_back_what_has_lapsed() {
        let (lease, hand) = lease();
        let bond = bound(&lease);
        bond.enter(2_000).unwrap();
        let old = bond.pass();
        hand.store(2_000, Ordering::SeqCst);
        assert_eq!(lease.renew(4_000), Ok(Renewed::Anew));
        assert_eq!(lease.left(), Some(Duration::from_nanos(2_000)));
        assert!(!bond.holds() && !bond.pass().holds() && !old.holds());
        bond.bind(true);
        assert!(
            !bond.holds(),
            "to say again that it is leased is no word about others"
        );
        // Let in by what was decided under the lease before.
        assert_eq!(bond.enter(2_000), Err(NotRenewed::Over));
        assert!(!bond.holds());
        bond.enter(3_000).unwrap();
        assert!(bond.holds() && bond.pass().holds());
        assert!(!old.holds(), "a reply to a call of then");
    }

    #[test]
    fn replies_that_go_together_are_no_better_than_the_worst() {
        let (lease, hand) = lease();
        let bond = bound(&lease);
        bond.enter(2_000).unwrap();
        let old = bond.pass();
        hand.store(2_000, Ordering::SeqCst);
        bond.enter(3_000).unwrap();
        let new = bond.pass();
        for (first, second, holds) in [
            (Pass::default(), Pass::default(), true),
            (Pass::default(), new.clone(), true),
            (new.clone(), Pass::default(), true),
            (new.clone(), old.clone(), false),
            (old.clone(), new.clone(), false),
            (old.clone(), Pass::default(), false),
        ] {
            let mut both = first;
            both.with(second);
            assert_eq!(both.holds(), holds);
        }
    }

    #[test]
    fn nobody_promises_for_ever() {
        let (lease, _) = lease();
        let day = u64::try_from(AHEAD_MAX.as_nanos()).unwrap();
        assert_eq!(lease.renew(u64::MAX), Err(NotRenewed::TooLong));
        assert_eq!(lease.renew(1_000 + day + 1), Err(NotRenewed::TooLong));
        assert_eq!(lease.renew(1_000 + day), Ok(Renewed::Anew));
    }

    #[test]
    fn the_clock_goes_forward() {
        let first = now();
        assert!(first > 0 && now() >= first);
    }
}
