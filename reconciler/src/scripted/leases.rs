//! Leases of nodes in memory: until when their file servers answer for what others may take over.

use xeno_model::id::{Epoch, SliverId};
use xeno_model::observed::{DomainState, Leasing};

use super::{ScriptedNode, State};
use crate::ports::{BootInstant, PortError, PortResult};

/// What a file server in memory knows of leases.
#[derive(Debug, Default)]
pub(super) struct Leases {
    until: BootInstant,
    clock: Option<BootClock>,
}

struct BootClock(Box<dyn Fn() -> BootInstant + Send + Sync>);

impl std::fmt::Debug for BootClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BootClock").field(&(self.0)()).finish()
    }
}

impl Leases {
    fn now(&self) -> BootInstant {
        self.clock.as_ref().map_or(BootInstant(0), |clock| (clock.0)())
    }

    /// A file server that has been started anew has none.
    pub(super) fn lose(&mut self) {
        self.until = BootInstant(0);
    }
}

impl ScriptedNode {
    /// Has leases counted by this clock from now on.
    pub fn set_boot_clock(&self, clock: impl Fn() -> BootInstant + Send + Sync + 'static) {
        self.state().leases.clock = Some(BootClock(Box::new(clock)));
    }

    /// Whether a guest runs that gets answers from its file server.
    pub fn works(&self, sliver: &SliverId) -> bool {
        let mut state = self.state();
        state.lapse();
        let storage = state.storage(sliver);
        let answers = storage.exported && !storage.parked && storage.lease != Leasing::Lapsed;
        answers && state.does(sliver) == Some(DomainState::Running)
    }
}

impl State {
    /// Takes note of a lease that has run out: what was answered under it is not, from then on.
    pub(super) fn lapse(&mut self) {
        if self.leases.until > self.leases.now() {
            return;
        }
        for storage in self.storage.values_mut() {
            if storage.lease == Leasing::Holds {
                storage.lease = Leasing::Lapsed;
            }
        }
    }

    pub(super) fn renew(&mut self, until: BootInstant) -> PortResult<()> {
        self.lapse();
        if until <= self.leases.now() {
            return Err(PortError::never("the lease that is offered has run out already"));
        }
        self.leases.until = self.leases.until.max(until);
        Ok(())
    }

    pub(super) fn enter(&mut self, sliver: &SliverId, epoch: Epoch, until: BootInstant) -> PortResult<()> {
        self.renew(until)?;
        let storage = self.storage(sliver);
        if storage.open.is_some_and(|open| open != epoch) {
            return Err(PortError::later("its layers are open under another epoch"));
        }
        if storage.lease == Leasing::Lapsed {
            storage.lease = Leasing::Holds;
        }
        Ok(())
    }

    /// What is served of a sliver is to need a lease, or none.
    pub(super) fn bind(&mut self, sliver: &SliverId, leased: bool) {
        let storage = self.storage(sliver);
        storage.lease = match (leased, storage.lease) {
            (false, _) => Leasing::Free,
            (true, Leasing::Free) => Leasing::Lapsed,
            (true, as_it_is) => as_it_is,
        };
    }
}
