//! From what was observed to what `tenure` decides on.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::DesiredNode;
use xeno_model::id::SliverId;
use xeno_model::observed::ObservedNode;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::tenure::{ANY_EPOCH, Journal, Record, Rival, Sight, View, place};

use super::{Agent, Open, Rights};
use crate::event_loop::memory::Memory;

/// All slivers that any side knows.
pub(super) fn concerned(
    desired: Option<&DesiredNode>,
    memory: &Memory,
    observed: &ObservedNode,
    sessions: &BTreeMap<SliverId, Open>,
) -> BTreeSet<SliverId> {
    let domains = observed.domains.known().into_iter();
    let domains = domains.flat_map(|domains| domains.ours.keys().chain(domains.images.keys()));
    let storage = observed.storage.known().into_iter().flat_map(BTreeMap::keys);
    let mut all: BTreeSet<SliverId> = domains.chain(storage).map(SliverId::itself).collect();
    all.extend(memory.applied.keys().cloned());
    all.extend(
        desired
            .into_iter()
            .flat_map(|desired| desired.slivers.keys().cloned()),
    );
    all.extend(sessions.keys().cloned());
    all
}

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// All that a decision about a sliver rests on; `None` where it was not seen.
    pub(super) fn view<'a>(&'a self, rights: &'a Rights, sliver: &SliverId) -> Option<View<'a>> {
        let facets = rights.facets.get(sliver)?;
        let place = place(self.desired.as_deref(), sliver);
        let record = rights.fleet.member.record(sliver);
        let sight = Sight {
            me: &self.settings.node,
            boot: rights.boot,
            session: rights.session(sliver, &place),
            journal: self.journal(sliver, &record),
            failover: self.failover(sliver, &record),
            leased: rights.fleet.member.leased(sliver).is_some(),
            place,
            record,
            facets,
        };
        let member = &rights.fleet.member;
        Some(sight.view(|node| Rival {
            alive: member.alive(node),
            fenced: member.fenced(node, sliver),
        }))
    }

    /// What this node wrote down about a sliver. Where its state was lost, it may have offered what it has.
    fn journal(&self, sliver: &SliverId, record: &Record) -> Journal {
        if let Some(journal) = self.memory.tenure.get(sliver) {
            return *journal;
        }
        match record {
            _ if self.memory.rebuilt.is_none() => Journal::default(),
            Record::Is(holder) => Journal {
                began: Some(holder.epoch),
                offered: Some(holder.epoch),
            },
            Record::Absent | Record::Unknown => Journal {
                began: None,
                offered: Some(ANY_EPOCH),
            },
        }
    }
}
