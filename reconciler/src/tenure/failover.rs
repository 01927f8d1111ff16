//! Whether others may take a sliver over, as far as a node knows.

use xeno_model::desired::DesiredSliver;
use xeno_model::observed::Leasing;

use super::{Disk, Facets, Record};

/// What a node knows of whether others may take a sliver over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failover {
    /// Whether its calls are answered only under the node's lease.
    pub bound: bool,
    /// Whether others are to be able to.
    pub promise: bool,
}

impl Failover {
    /// From what is wanted of it here, what it was made as, and its record.
    #[must_use]
    pub fn of(wanted: Option<&DesiredSliver>, applied: Option<&DesiredSliver>, record: &Record) -> Self {
        let wanted = wanted.map(DesiredSliver::fails_over);
        let promised = match record {
            Record::Is(holder) => holder.failover,
            Record::Absent => false,
            // As it was made: a promise of then may stand.
            Record::Unknown => applied.is_some_and(DesiredSliver::fails_over),
        };
        Self {
            bound: promised || wanted.unwrap_or_default(),
            // A sliver of which nothing is said stays as it is.
            promise: wanted.unwrap_or(promised),
        }
    }

    /// How its writable layers are: what is answered without a lease, or under one that has run out, has to be taken into service
    /// anew where it needs one.
    #[must_use]
    pub fn disk(self, facets: &Facets) -> Disk {
        match facets.disk {
            Disk::Serving { epoch } if self.bound && facets.lease != Leasing::Holds => Disk::Lapsed { epoch },
            disk => disk,
        }
    }
}
