//! From what was observed of a sliver to what [`next()`](super::next()) decides on.

use xeno_model::desired::{DesiredNode, Standing};
use xeno_model::id::{Digest, Epoch, NodeName, SliverId};
use xeno_model::observed::{Ability, DomainState, Leasing, ObservedNode};

use super::{BootId, Disk, Failover, Guest, Journal, Place, Record, Rival, Session, View};

/// Stands for whichever epoch is asked for: layers that nothing is written to are open under none, and as good as under any.
pub const ANY_EPOCH: Epoch = Epoch(u64::MAX);

/// What is known of a sliver on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facets {
    /// Its guest.
    pub guest: Guest,
    /// Its writable layers.
    pub disk: Disk,
    /// Whether they are answered only under a lease, and one lasts.
    pub lease: Leasing,
    /// Its domain's name: that of the sliver, or of its second berth.
    pub embodiment: SliverId,
    /// What its domain was started as.
    pub booted: Option<Digest>,
    /// Whether its memory is stored here.
    pub image: bool,
    /// Whether layers of it lie here, closed or not.
    pub on_disk: bool,
    /// Whether layers of it were set aside here.
    pub set_aside: bool,
    /// Whether memory can be moved.
    pub movable: bool,
}

impl Facets {
    /// What was seen of a sliver; `None` where any of it could not be.
    #[must_use]
    pub fn of(sliver: &SliverId, observed: &ObservedNode) -> Option<Self> {
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
            Some(
                DomainState::Running | DomainState::Paused | DomainState::Stopping | DomainState::Crashed,
            ) => Guest::Running,
            Some(DomainState::Kept { epoch }) => Guest::Kept { epoch },
            Some(DomainState::Copy { migration }) => Guest::Copy { migration },
        };
        let storage = storage.cloned().unwrap_or_default();
        let disk = match storage.open {
            None if storage.parked => Disk::Parked { epoch: ANY_EPOCH },
            None if storage.exported => Disk::Serving { epoch: ANY_EPOCH },
            None => Disk::Closed,
            Some(epoch) if storage.parked => Disk::Parked { epoch },
            Some(epoch) if storage.exported => Disk::Serving { epoch },
            Some(epoch) => Disk::Lapsed { epoch },
        };
        Some(Self {
            guest,
            disk,
            lease: storage.lease,
            embodiment,
            booted: domain.map(|domain| domain.booted),
            image: domains.images.contains_key(sliver),
            on_disk: storage.on_disk,
            set_aside: storage.tombstone.is_some(),
            movable: domains.able.contains(&Ability::Move),
        })
    }
}

/// Where a sliver is wanted. A node that the repository does not name gives nothing away.
#[must_use]
pub fn place(desired: Option<&DesiredNode>, sliver: &SliverId) -> Place {
    let Some(desired) = desired.filter(|desired| desired.standing != Standing::NotNamed) else {
        return Place::Nowhere;
    };
    if desired.slivers.contains_key(sliver) {
        return Place::Here;
    }
    let node = desired.elsewhere.node_of(sliver);
    node.map_or(Place::Nowhere, |node| Place::At(node.clone()))
}

/// Whether the board says less than it has said before: records are never deleted and epochs never fall, so it was put back to
/// an earlier day. What it says then is no ground to end anything.
#[must_use]
pub fn has_forgotten(record: &Record, journal: Journal) -> bool {
    match record {
        Record::Absent => journal.began.is_some(),
        Record::Is(holder) => journal.began > Some(holder.epoch),
        Record::Unknown => false,
    }
}

/// What a node knows of a sliver, from each of its sources.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// Its life.
    pub boot: BootId,
    /// Where the sliver is wanted.
    pub place: Place,
    /// The record, as it was read last.
    pub record: Record,
    /// What this node wrote down.
    pub journal: Journal,
    /// What was seen.
    pub facets: &'a Facets,
    /// The migration under way here.
    pub session: Option<Session>,
    /// Whether others may take it over, and are to be able to.
    pub failover: Failover,
    /// Whether this node's lease lasts, and the record was read since it began.
    pub leased: bool,
}

impl<'a> Sight<'a> {
    /// What a decision rests on. `rival`: what the board says of another node.
    #[must_use]
    pub fn view(self, rival: impl Fn(&NodeName) -> Rival) -> View<'a> {
        let Self {
            me,
            boot,
            place,
            record,
            mut journal,
            facets,
            session,
            failover,
            leased,
        } = self;
        let record = if has_forgotten(&record, journal) {
            Record::Unknown
        } else {
            record
        };
        let epoch = match &record {
            Record::Is(holder) if holder.is(me) => Some(holder.epoch),
            Record::Is(_) => None,
            Record::Absent | Record::Unknown => journal.began,
        };
        let any = |found: Epoch| {
            if found == ANY_EPOCH {
                epoch.unwrap_or(ANY_EPOCH)
            } else {
                found
            }
        };
        let mut disk = match failover.disk(facets) {
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
        let other = match &record {
            Record::Is(holder) => holder
                .memory
                .as_ref()
                .map(|memory| &memory.keeper)
                .filter(|keeper| *keeper != me && holder.is(me))
                .or(holder.node.as_ref()),
            Record::Absent | Record::Unknown => None,
        };
        let nobody = Rival {
            alive: true,
            fenced: false,
        };
        let rival = other.map_or(nobody, rival);
        View {
            me,
            boot,
            failover: failover.bound,
            promise: failover.promise,
            leased,
            place,
            record,
            journal,
            guest: facets.guest,
            disk,
            session,
            rival,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenure::Holder;

    #[test]
    fn a_board_of_an_earlier_day_is_not_believed() {
        let journal = |began: Option<u64>| Journal {
            began: began.map(Epoch),
            offered: None,
        };
        let at = |epoch: u64| {
            Record::Is(Holder {
                node: None,
                boot: BootId::default(),
                epoch: Epoch(epoch),
                memory: None,
                failover: false,
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
