//! Documents as they are written: the typed decoder's side of the tables in `kinds`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::read::{
    Content, FilePath, GuestPath, Marker, NodeDirectory, RepositoryPath, RequestPath, Short, TemplateChoice,
    TemplateSource, Text,
};
use crate::id::{ChannelName, Digest, NodeName, SiteName};
use crate::units::{BitRate, Bytes, Millis};

/// A document of a kind whose `spec` is `S`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "read with the header; here only so that no field is unknown"
)]
pub(crate) struct RawDocument<S> {
    api_version: String,
    kind: String,
    metadata: RawMetadata,
    pub(crate) spec: Option<S>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "read with the header; here only so that no field is unknown"
)]
struct RawMetadata {
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RawFleet {
    pub(crate) delete_budget: Option<RawDeleteBudget>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawDeleteBudget {
    pub(crate) slivers: u32,
    pub(crate) window: Text<Millis>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSite {
    pub(crate) region: Option<Text<Short>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawNode {
    pub(crate) site: Text<SiteName>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, Text<Short>>,
    pub(crate) capacity: RawCapacity,
    pub(crate) reserved: Option<RawReserved>,
    pub(crate) hypervisor: Option<RawHypervisor>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCapacity {
    pub(crate) memory: Text<Bytes>,
    pub(crate) vcpus: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawReserved {
    pub(crate) memory: Text<Bytes>,
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
    pub(crate) channels: BTreeMap<Text<ChannelName>, Text<Digest>>,
    #[serde(default)]
    pub(crate) sources: Vec<Text<TemplateSource>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSlice {
    pub(crate) image: RawImage,
    pub(crate) resources: RawResources,
    pub(crate) placement: RawPlacement,
    pub(crate) state: Option<RawState>,
    #[serde(default)]
    pub(crate) publish: Vec<RawPublish>,
    pub(crate) health: Option<RawHealth>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawImage {
    pub(crate) kernel: Text<TemplateChoice>,
    pub(crate) mounts: Vec<RawMount>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawMount {
    pub(crate) path: Text<GuestPath>,
    pub(crate) layers: Vec<RawLayer>,
    pub(crate) writable: Option<RawWritable>,
}

/// Exactly one of its fields is there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLayer {
    pub(crate) files: Option<BTreeMap<Text<FilePath>, RawFile>>,
    pub(crate) overlay: Option<Text<NodeDirectory>>,
    pub(crate) template: Option<Text<TemplateChoice>>,
}

/// Either `from` or `text` is there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawFile {
    pub(crate) from: Option<Text<RepositoryPath>>,
    pub(crate) text: Option<Text<Content>>,
    pub(crate) executable: Option<bool>,
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
    pub(crate) vcpus: Option<u32>,
    pub(crate) memory: Text<Bytes>,
    #[serde(default)]
    pub(crate) cpu: RawCpu,
    pub(crate) disk: Option<Text<Bytes>>,
    pub(crate) net: Option<RawNet>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCpu {
    pub(crate) weight: Option<u32>,
    pub(crate) cap: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawNet {
    pub(crate) rate: Text<BitRate>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPlacement {
    pub(crate) nodes: Vec<Text<NodeName>>,
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
    pub(crate) guest: u16,
    pub(crate) host: u16,
}

/// Exactly one of `http`, `tcp` and `console` is there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawHealth {
    pub(crate) http: Option<RawHttp>,
    pub(crate) tcp: Option<RawTcp>,
    pub(crate) console: Option<RawConsole>,
    pub(crate) interval: Option<Text<Millis>>,
    pub(crate) threshold: Option<u32>,
    pub(crate) grace: Option<Text<Millis>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawHttp {
    pub(crate) port: u16,
    pub(crate) path: Option<Text<RequestPath>>,
    pub(crate) expect: Option<u16>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTcp {
    pub(crate) port: u16,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawConsole {
    pub(crate) marker: Text<Marker>,
}
