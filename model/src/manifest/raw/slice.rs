//! The `spec` of slices.

use serde::Deserialize;

use super::RawWave;
use crate::desired::Share;
use crate::id::{NodeName, SliceName, TenantName};
use crate::manifest::partial::{Entries, Stated};
use crate::manifest::read::{
    Content, FilePath, GuestPath, Marker, Moment, Overlay, PublicAddress, RepositoryPath, RequestPath, Short,
    TemplateChoice, Text, Writable,
};
use crate::units::{BitRate, ByteRate, Bytes, Millis};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSlice {
    /// From its metadata.
    #[serde(skip)]
    pub(crate) owner: RawOwner,
    pub(crate) image: Option<RawImage>,
    pub(crate) resources: Option<RawResources>,
    pub(crate) placement: Option<RawPlacement>,
    #[serde(default)]
    pub(crate) state: Stated<RawState>,
    #[serde(default)]
    pub(crate) publish: Stated<Vec<Option<RawPublish>>>,
    #[serde(default)]
    pub(crate) addresses: Stated<Vec<Option<Text<PublicAddress>>>>,
    #[serde(default)]
    pub(crate) health: Stated<RawHealth>,
    #[serde(default)]
    pub(crate) start: Stated<RawStart>,
    #[serde(default)]
    pub(crate) rollout: Stated<RawRollout>,
    #[serde(default)]
    pub(crate) migration: Stated<RawMigration>,
    #[serde(default)]
    pub(crate) rollback: Stated<RawRollback>,
    #[serde(default)]
    pub(crate) failover: Stated<bool>,
    #[serde(default)]
    pub(crate) expiry: Stated<Text<Moment>>,
    #[serde(default)]
    pub(crate) overrides: Stated<Vec<Option<RawOverride>>>,
}

/// What the metadata of a slice says besides its name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawOwner {
    #[serde(default)]
    pub(crate) tenant: Stated<Text<TenantName>>,
    #[serde(default)]
    pub(crate) moved_from: Stated<Text<SliceName>>,
}

impl RawOwner {
    /// Where the metadata could not be read at all.
    pub(crate) fn unclear() -> Self {
        Self {
            tenant: Stated::Unclear,
            moved_from: Stated::Unclear,
        }
    }
}

/// What is otherwise for some slivers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawOverride {
    #[serde(rename = "match")]
    pub(crate) matching: Option<Entries<Text<Short>, Text<Short>>>,
    pub(crate) patch: Option<RawPatch>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPatch {
    #[serde(default)]
    pub(crate) image: Stated<RawImage>,
    #[serde(default)]
    pub(crate) resources: Stated<RawResources>,
    #[serde(default)]
    pub(crate) publish: Stated<Vec<Option<RawPublish>>>,
    #[serde(default)]
    pub(crate) addresses: Stated<Vec<Option<Text<PublicAddress>>>>,
    #[serde(default)]
    pub(crate) health: Stated<RawHealth>,
    #[serde(default)]
    pub(crate) state: Stated<RawState>,
    #[serde(default)]
    pub(crate) start: Stated<RawStart>,
    #[serde(default)]
    pub(crate) rollback: Stated<RawRollback>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawImage {
    #[serde(default)]
    pub(crate) kernel: Stated<Text<TemplateChoice>>,
    #[serde(default)]
    pub(crate) mounts: Stated<Vec<Option<RawMount>>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawMount {
    pub(crate) path: Option<Text<GuestPath>>,
    #[serde(default)]
    pub(crate) layers: Stated<Vec<Option<RawLayer>>>,
    #[serde(default)]
    pub(crate) writable: Stated<Text<Writable>>,
}

/// Exactly one of its fields should be there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLayer {
    #[serde(default)]
    pub(crate) files: Stated<Entries<Text<FilePath>, RawFile>>,
    #[serde(default)]
    pub(crate) overlay: Stated<Text<Overlay>>,
    #[serde(default)]
    pub(crate) template: Stated<Text<TemplateChoice>>,
}

/// Either `from` or `text` should be there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawFile {
    #[serde(default)]
    pub(crate) from: Stated<Text<RepositoryPath>>,
    #[serde(default)]
    pub(crate) text: Stated<Text<Content>>,
    #[serde(default)]
    pub(crate) executable: Stated<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawResources {
    #[serde(default)]
    pub(crate) vcpus: Stated<u32>,
    #[serde(default)]
    pub(crate) memory: Stated<Text<Bytes>>,
    #[serde(default, rename = "vcpusMax")]
    pub(crate) vcpus_max: Stated<u32>,
    #[serde(default, rename = "memoryMax")]
    pub(crate) memory_max: Stated<Text<Bytes>>,
    #[serde(default)]
    pub(crate) cpu: Stated<RawCpu>,
    #[serde(default)]
    pub(crate) disk: Stated<Text<Bytes>>,
    #[serde(default)]
    pub(crate) inodes: Stated<u64>,
    #[serde(default)]
    pub(crate) net: Stated<RawNet>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCpu {
    #[serde(default)]
    pub(crate) weight: Stated<u32>,
    #[serde(default)]
    pub(crate) cap: Stated<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawNet {
    pub(crate) rate: Option<Text<BitRate>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPlacement {
    #[serde(default)]
    pub(crate) nodes: Stated<Vec<Option<Text<NodeName>>>>,
    #[serde(default)]
    pub(crate) replicas: Stated<u32>,
    #[serde(default, rename = "match")]
    pub(crate) matching: Stated<Entries<Text<Short>, Text<Short>>>,
    #[serde(default)]
    pub(crate) spread: Stated<RawSpread>,
    #[serde(default, rename = "maxMoves")]
    pub(crate) max_moves: Stated<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RawSpread {
    Site,
    Node,
    None,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RawState {
    Running,
    Suspended,
    Stopped,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RawStart {
    Boot,
    Resume,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RawRollout {
    #[serde(default)]
    pub(crate) canary: Stated<u32>,
    #[serde(default)]
    pub(crate) waves: Stated<Vec<Option<RawWave>>>,
    #[serde(default)]
    pub(crate) max_unavailable: Stated<Text<Share>>,
    #[serde(default)]
    pub(crate) max_failed: Stated<Text<Share>>,
    #[serde(default)]
    pub(crate) max_unreachable: Stated<Text<Share>>,
    #[serde(default)]
    pub(crate) bake: Stated<Text<Millis>>,
    #[serde(default)]
    pub(crate) on_failure: Stated<RawOnFailure>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RawOnFailure {
    Rollback,
    Hold,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawMigration {
    #[serde(default)]
    pub(crate) policy: Stated<RawMigrationPolicy>,
    #[serde(default)]
    pub(crate) downtime: Stated<Text<Millis>>,
    #[serde(default)]
    pub(crate) bandwidth: Stated<Text<ByteRate>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RawMigrationPolicy {
    Live,
    Suspend,
    Restart,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRollback {
    #[serde(default)]
    pub(crate) data: Stated<RawRollbackData>,
    #[serde(default)]
    pub(crate) checkpoints: Stated<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RawRollbackData {
    Keep,
    Restore,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPublish {
    pub(crate) guest: Option<u16>,
    pub(crate) host: Option<u16>,
}

/// Exactly one of `http`, `tcp` and `console` should be there, in a slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawHealth {
    #[serde(default)]
    pub(crate) http: Stated<RawHttp>,
    #[serde(default)]
    pub(crate) tcp: Stated<RawTcp>,
    #[serde(default)]
    pub(crate) console: Stated<RawConsole>,
    #[serde(default)]
    pub(crate) interval: Stated<Text<Millis>>,
    #[serde(default)]
    pub(crate) threshold: Stated<u32>,
    #[serde(default)]
    pub(crate) grace: Stated<Text<Millis>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawHttp {
    pub(crate) port: Option<u16>,
    #[serde(default)]
    pub(crate) path: Stated<Text<RequestPath>>,
    #[serde(default)]
    pub(crate) expect: Stated<u16>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTcp {
    pub(crate) port: Option<u16>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawConsole {
    pub(crate) marker: Option<Text<Marker>>,
}
