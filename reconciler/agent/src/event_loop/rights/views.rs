//! From what was observed to what `tenure` decides on.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{DesiredNode, Standing};
use xeno_model::id::{Epoch, SliverId};
use xeno_model::observed::{Ability, DomainState, ObservedNode};
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::tenure::{Disk, Guest, Journal, Place, Record, Rival, View};

use super::{Agent, Facets, Open, Rights};
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

/// Where a sliver is wanted. A node that the repository does not name gives nothing away.
pub(super) fn place(desired: Option<&DesiredNode>, sliver: &SliverId) -> Place {
    let Some(desired) = desired.filter(|desired| desired.standing != Standing::NotNamed) else {
        return Place::Nowhere;
    };
    if desired.slivers.contains_key(sliver) {
        return Place::Here;
    }
    let node = desired.elsewhere.node_of(sliver);
    node.map_or(Place::Nowhere, |node| Place::At(node.clone()))
}

/// What was seen of a sliver; `None` where any of it could not be.
pub(super) fn facets(sliver: &SliverId, observed: &ObservedNode) -> Option<Facets> {
    let domains = observed.domains.known()?;
    let storage = observed.storage_of(sliver).ok()?;
    let second = sliver.beside();
    let embodiment = if domains.ours.contains_key(&second) && !domains.ours.contains_key(sliver) {
        second
    } else {
        sliver.clone()
    };
    let domain = domains.ours.get(&embodiment);
    let guest = match domain.map(|domain| domain.state) {
        None => Guest::Absent,
        // What stands still by mistake, or has crashed, holds its memory and its disk as one that runs does.
        Some(DomainState::Running | DomainState::Paused | DomainState::Stopping | DomainState::Crashed) => {
            Guest::Running
        }
        Some(DomainState::Kept { epoch }) => Guest::Kept { epoch },
        Some(DomainState::Copy { migration }) => Guest::Copy { migration },
    };
    let storage = storage.cloned().unwrap_or_default();
    let disk = match storage.open {
        // Layers that nothing is written to are open under no epoch, and as good as under any.
        None if storage.parked => Disk::Parked { epoch: ANY },
        None if storage.exported => Disk::Serving { epoch: ANY },
        None => Disk::Closed,
        Some(epoch) if storage.parked => Disk::Parked { epoch },
        Some(epoch) if storage.exported => Disk::Serving { epoch },
        Some(epoch) => Disk::Lapsed { epoch },
    };
    Some(Facets {
        guest,
        disk,
        embodiment,
        booted: domain.map(|domain| domain.booted),
        image: domains.images.contains_key(sliver),
        on_disk: storage.on_disk,
        set_aside: storage.tombstone.is_some(),
        movable: domains.able.contains(&Ability::Move),
    })
}

/// Whether the board says less than it has said before: records are never deleted and epochs never fall, so it was put back to
/// an earlier day. What it says then is no ground to end anything.
pub(super) fn has_forgotten(record: &Record, journal: Journal) -> bool {
    match record {
        Record::Absent => journal.began.is_some(),
        Record::Is(holder) => journal.began > Some(holder.epoch),
        Record::Unknown => false,
    }
}

/// Stands for whichever epoch is asked for.
const ANY: Epoch = Epoch(u64::MAX);

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// All that a decision about a sliver rests on; `None` where it was not seen.
    pub(super) fn view<'a>(&'a self, rights: &Rights, sliver: &SliverId) -> Option<View<'a>> {
        let facets = rights.facets.get(sliver)?;
        let place = place(self.desired.as_deref(), sliver);
        let record = rights.fleet.member.record(sliver);
        let mut journal = self.journal(sliver, &record);
        let record = if has_forgotten(&record, journal) {
            Record::Unknown
        } else {
            record
        };
        let session = rights.session(sliver, &place);
        let epoch = match &record {
            Record::Is(holder) if holder.is(&self.settings.node) => Some(holder.epoch),
            Record::Is(_) => None,
            Record::Absent | Record::Unknown => journal.began,
        };
        let any = |found: Epoch| if found == ANY { epoch.unwrap_or(ANY) } else { found };
        let mut disk = match facets.disk {
            Disk::Serving { epoch } => Disk::Serving { epoch: any(epoch) },
            Disk::Parked { epoch } => Disk::Parked { epoch: any(epoch) },
            Disk::Lapsed { epoch } => Disk::Lapsed { epoch: any(epoch) },
            Disk::Closed => Disk::Closed,
        };
        // A guest that is not there is started by the planner, which opens what it needs: the right comes first.
        let startable = facets.guest == Guest::Absent && place == Place::Here && session.is_none();
        let settled = match &record {
            Record::Is(holder) => holder.memory.is_none(),
            Record::Unknown => true,
            Record::Absent => false,
        };
        if startable
            && settled
            && let Some(epoch) = epoch
            && !matches!(disk, Disk::Parked { .. })
        {
            disk = Disk::Serving { epoch };
        }
        if let Record::Absent = record {
            // A board that has just been joined knows of no epoch, and what ran before it had none.
            journal.offered = None;
        }
        let rival = match &record {
            Record::Is(holder) => holder
                .memory
                .as_ref()
                .map(|memory| &memory.keeper)
                .filter(|keeper| **keeper != self.settings.node)
                .or(holder.node.as_ref()),
            Record::Absent | Record::Unknown => None,
        };
        let alive = rival.is_none_or(|rival| rights.fleet.member.alive(rival));
        Some(View {
            me: &self.settings.node,
            boot: rights.boot,
            failover: false,
            leased: true,
            place,
            record,
            journal,
            guest: facets.guest,
            disk,
            session,
            rival: Rival { alive, fenced: false },
        })
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
                offered: Some(ANY),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_of_an_earlier_day_is_not_believed() {
        let journal = |began: Option<u64>| Journal {
            began: began.map(Epoch),
            offered: None,
        };
        let at = |epoch: u64| {
            Record::Is(xeno_reconciler::tenure::Holder {
                node: None,
                boot: xeno_reconciler::tenure::BootId::default(),
                epoch: Epoch(epoch),
                memory: None,
            })
        };
        for (record, began, forgotten) in [
            (Record::Absent, None, false),
            (Record::Absent, Some(1), true),
            (at(2), Some(1), false),
            (at(2), Some(2), false),
            (at(2), Some(3), true),
            (at(2), None, false),
            (Record::Unknown, Some(3), false),
        ] {
            let found = has_forgotten(&record, journal(began));
            assert_eq!(found, forgotten, "{record:?} after {began:?}");
        }
    }
}
