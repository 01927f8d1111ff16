//! The `spec` of documents as far as it could be read: the typed decoder's side of the tables in `kinds`.
//!
//! A field that must be given is an `Option`, and `None` means that what is wrong with it has been said; so it is with
//! the items of lists. [`Stated`] and [`Entries`] are the same for optional fields and for mappings from names.

mod slice;
mod wave;

pub(crate) use slice::{
    RawFile, RawHealth, RawImage, RawLayer, RawMigration, RawMigrationPolicy, RawMount, RawOnFailure,
    RawOwner, RawPublish, RawResources, RawRollback, RawRollbackData, RawRollout, RawSlice, RawSpread,
    RawStart, RawState,
};
pub(crate) use wave::RawWave;

use serde::Deserialize;

use super::partial::{Entries, Stated};
use super::read::{Address, Clock, Short, TemplateSource, Text};
use crate::desired::{AddressRange, NamePattern};
use crate::id::{ChannelName, Digest, NodeName, SiteName, SliceName, SliverId, TenantName};
use crate::units::{Bytes, Millis};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RawFleet {
    #[serde(default)]
    pub(crate) delete_budget: Stated<RawDeleteBudget>,
    #[serde(default)]
    pub(crate) approval: Stated<RawDisturbance>,
    #[serde(default)]
    pub(crate) defaults: Stated<RawDefaults>,
}

/// What slices do that do not say otherwise.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawDefaults {
    #[serde(default)]
    pub(crate) start: Stated<RawStart>,
    #[serde(default)]
    pub(crate) health: Stated<RawHealth>,
    #[serde(default)]
    pub(crate) rollout: Stated<RawRollout>,
    #[serde(default)]
    pub(crate) migration: Stated<RawMigration>,
    #[serde(default)]
    pub(crate) rollback: Stated<RawRollback>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RawDisturbance {
    Reconnects,
    Interrupts,
    Ends,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawDeleteBudget {
    pub(crate) slivers: Option<u32>,
    pub(crate) window: Option<Text<Millis>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSite {
    #[serde(default)]
    pub(crate) region: Stated<Text<Short>>,
    #[serde(default)]
    pub(crate) distances: Stated<Entries<Text<SiteName>, Text<Millis>>>,
    #[serde(default)]
    pub(crate) policy: Stated<RawPolicy>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPolicy {
    #[serde(default)]
    pub(crate) caps: Stated<RawCaps>,
    #[serde(default)]
    pub(crate) vetoes: Stated<RawVetoes>,
    #[serde(default)]
    pub(crate) maintenance: Stated<Vec<Option<RawWindow>>>,
    #[serde(default)]
    pub(crate) addresses: Stated<Vec<Option<Text<AddressRange>>>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCaps {
    #[serde(default)]
    pub(crate) sliver: Stated<RawSliverCap>,
    #[serde(default)]
    pub(crate) slice: Stated<RawCount>,
    #[serde(default)]
    pub(crate) tenant: Stated<RawCount>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSliverCap {
    #[serde(default)]
    pub(crate) memory: Stated<Text<Bytes>>,
    #[serde(default)]
    pub(crate) vcpus: Stated<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCount {
    pub(crate) slivers: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawVetoes {
    #[serde(default)]
    pub(crate) slices: Stated<Vec<Option<Text<SliceName>>>>,
    #[serde(default)]
    pub(crate) tenants: Stated<Vec<Option<Text<TenantName>>>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawWindow {
    #[serde(default)]
    pub(crate) days: Stated<Vec<Option<RawDay>>>,
    pub(crate) from: Option<Text<Clock>>,
    pub(crate) until: Option<Text<Clock>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RawDay {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTenant {
    #[serde(default)]
    pub(crate) quota: Stated<RawQuota>,
    #[serde(default)]
    pub(crate) slices: Stated<Vec<Option<Text<NamePattern>>>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawQuota {
    #[serde(default)]
    pub(crate) slivers: Stated<u32>,
    #[serde(default)]
    pub(crate) memory: Stated<Text<Bytes>>,
    #[serde(default)]
    pub(crate) vcpus: Stated<u32>,
    #[serde(default)]
    pub(crate) disk: Stated<Text<Bytes>>,
}

/// A lock.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLock {
    pub(crate) slivers: Option<Entries<Text<SliverId>, Text<NodeName>>>,
}

/// An order of moves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawMoves {
    pub(crate) steps: Option<Vec<Option<RawTurn>>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTurn {
    pub(crate) sliver: Option<Text<SliverId>>,
    pub(crate) from: Option<Text<NodeName>>,
    #[serde(default)]
    pub(crate) to: Stated<Text<NodeName>>,
    #[serde(default)]
    pub(crate) after: Stated<Vec<Option<u32>>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawNode {
    pub(crate) site: Option<Text<SiteName>>,
    #[serde(default)]
    pub(crate) address: Stated<Text<Address>>,
    #[serde(default)]
    pub(crate) labels: Stated<Entries<Text<Short>, Text<Short>>>,
    pub(crate) capacity: Option<RawCapacity>,
    #[serde(default)]
    pub(crate) reserved: Stated<RawReserved>,
    #[serde(default)]
    pub(crate) hypervisor: Stated<RawHypervisor>,
    #[serde(default)]
    pub(crate) cordoned: Stated<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCapacity {
    pub(crate) memory: Option<Text<Bytes>>,
    pub(crate) vcpus: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawReserved {
    pub(crate) memory: Option<Text<Bytes>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RawHypervisor {
    Xen,
    Qemu,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTemplate {
    pub(crate) channels: Option<Entries<Text<ChannelName>, Text<Digest>>>,
    #[serde(default)]
    pub(crate) sources: Stated<Vec<Option<Text<TemplateSource>>>>,
}
