//! The `spec` of documents as far as it could be read: the typed decoder's side of the tables in `kinds`.
//!
//! A field that must be given is an `Option`, and `None` means that what is wrong with it has been said; so it is with
//! the items of lists. [`Stated`] and [`Entries`] are the same for optional fields and for mappings from names.

use serde::Deserialize;

use super::partial::{Entries, Stated};
use super::read::{
    Content, FilePath, GuestPath, Marker, NodeDirectory, RepositoryPath, RequestPath, Short, TemplateChoice,
    TemplateSource, Text,
};
use crate::id::{ChannelName, Digest, NodeName, SiteName};
use crate::units::{BitRate, Bytes, Millis};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RawFleet {
    #[serde(default)]
    pub(crate) delete_budget: Stated<RawDeleteBudget>,
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
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawNode {
    pub(crate) site: Option<Text<SiteName>>,
    #[serde(default)]
    pub(crate) labels: Stated<Entries<Text<Short>, Text<Short>>>,
    pub(crate) capacity: Option<RawCapacity>,
    #[serde(default)]
    pub(crate) reserved: Stated<RawReserved>,
    #[serde(default)]
    pub(crate) hypervisor: Stated<RawHypervisor>,
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

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSlice {
    pub(crate) image: Option<RawImage>,
    pub(crate) resources: Option<RawResources>,
    pub(crate) placement: Option<RawPlacement>,
    #[serde(default)]
    pub(crate) state: Stated<RawState>,
    #[serde(default)]
    pub(crate) publish: Stated<Vec<Option<RawPublish>>>,
    #[serde(default)]
    pub(crate) health: Stated<RawHealth>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawImage {
    pub(crate) kernel: Option<Text<TemplateChoice>>,
    pub(crate) mounts: Option<Vec<Option<RawMount>>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawMount {
    pub(crate) path: Option<Text<GuestPath>>,
    pub(crate) layers: Option<Vec<Option<RawLayer>>>,
    #[serde(default)]
    pub(crate) writable: Stated<RawWritable>,
}

/// Exactly one of its fields should be there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLayer {
    #[serde(default)]
    pub(crate) files: Stated<Entries<Text<FilePath>, RawFile>>,
    #[serde(default)]
    pub(crate) overlay: Stated<Text<NodeDirectory>>,
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

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RawWritable {
    Local,
    None,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawResources {
    #[serde(default)]
    pub(crate) vcpus: Stated<u32>,
    pub(crate) memory: Option<Text<Bytes>>,
    #[serde(default)]
    pub(crate) cpu: Stated<RawCpu>,
    #[serde(default)]
    pub(crate) disk: Stated<Text<Bytes>>,
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
    pub(crate) nodes: Option<Vec<Option<Text<NodeName>>>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RawState {
    Running,
    Suspended,
    Stopped,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPublish {
    pub(crate) guest: Option<u16>,
    pub(crate) host: Option<u16>,
}

/// Exactly one of `http`, `tcp` and `console` should be there.
#[derive(Clone, Debug, Deserialize)]
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
