//! What travels over the control socket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::export::{State, Weight};
use crate::link::LinkName;
use crate::metrics::Counts;
use crate::service::LayerSource;
use crate::writable::saved::Saved;

/// A writable layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WritableSpec {
    /// Its directory; absolute.
    pub path: PathBuf,
    /// Under which epoch it is opened.
    pub epoch: u64,
    /// Most bytes of written content; without one the file system it is on is the bound. The quotas are the only parts that
    /// can be changed while it is open.
    #[serde(default)]
    pub quota_bytes: Option<u64>,
    /// Most objects (inodes) made or changed in it; without one, as many as come with `quota_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_inodes: Option<u64>,
}

/// A stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackSpec {
    /// Read-only layers, nearest the guest first.
    pub layers: Vec<LayerSource>,
    /// Name of the writable layer above them; without one the stack is read-only.
    #[serde(default)]
    pub writable: Option<String>,
    /// Whatever the client wants to find again in the listing; not looked at, but part of what the stack is.
    #[serde(default)]
    pub label: Option<String>,
}

/// An export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSpec {
    /// Name of the stack served.
    pub stack: String,
    /// A unix socket of its own; absolute, in a directory that exists.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// User id that may connect to it; without one, the server's own and root's.
    #[serde(default)]
    pub peer_uid: Option<u32>,
    /// Addresses that may reach it over TCP.
    #[serde(default)]
    pub clients: Vec<String>,
    /// The link that leads to it, where the server has a table of links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkName>,
    /// Its share of the server beside other exports that want it at the same time: twice the weight, twice the bytes. It
    /// can be changed, as the state can.
    #[serde(default, skip_serializing_if = "Weight::is_default")]
    pub weight: Weight,
    /// Whether it answers only while a lease of the server lasts that it has entered. It can be changed; from then on it has to
    /// enter one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leased: bool,
    /// Whether it answers.
    #[serde(default)]
    pub state: State,
}

/// An export as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportView {
    /// What it was made from, and its state now.
    pub spec: ExportSpec,
    /// Whether it is held still: calls wait although its state may be active.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parked: bool,
    /// Whether it is leased and has entered no lease that lasts: calls wait until it enters one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lapsed: bool,
    /// Open connections that have used it.
    pub connections: usize,
}

/// Everything that is open, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// Writable layers.
    pub writables: BTreeMap<String, WritableSpec>,
    /// Stacks.
    pub stacks: BTreeMap<String, StackSpec>,
    /// Exports.
    pub exports: BTreeMap<String, ExportView>,
}

/// What open writable layers hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marks {
    /// Version of this answer's form.
    pub format_version: u32,
    /// By name, 64 hexadecimal digits each; only of layers that hold what they held when they were opened.
    pub writables: BTreeMap<String, String>,
}

/// What exports were asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Version of this answer's form.
    pub format_version: u32,
    /// How long the server has been running, in nanoseconds.
    pub uptime_nanos: u64,
    /// By name.
    pub exports: BTreeMap<String, ExportStats>,
}

/// What one export was asked since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportStats {
    /// Whether it answers.
    pub state: State,
    /// Whether it is held still, so that calls wait.
    #[serde(default)]
    pub parked: bool,
    /// Whether it is leased and has entered no lease that lasts, so that calls wait.
    #[serde(default)]
    pub lapsed: bool,
    /// Open connections that have used it.
    pub connections: usize,
    /// By the name of the procedure in RFC 1813.
    pub procedures: BTreeMap<String, Counts>,
    /// Its writable layer, if it has one.
    pub layer: Option<LayerStats>,
}

/// A writable layer that is being served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerStats {
    /// Objects that it has a record of.
    pub objects: u64,
    /// What written content takes up.
    pub bytes: u64,
    /// Most that it may take up.
    pub quota_bytes: Option<u64>,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Whether a failure of the disk has made it refuse changes.
    pub failed: bool,
}

/// A writable layer to be looked at where it lies, whether it is open or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookAt {
    /// Its directory; absolute.
    pub path: PathBuf,
    /// Whether what it holds is asked for; only of one that nobody has open.
    #[serde(default)]
    pub mark: bool,
    /// The fingerprint of an answer before: where it is still that, the mark is too, and is not taken again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// How a writable layer looks where it lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LookedAt {
    /// Version of this answer's form.
    pub format_version: u32,
    /// Names of the checkpoints that lie there, and when each was made, in milliseconds since 1970.
    pub checkpoints: BTreeMap<String, u64>,
    /// Changes whenever its files do; where the mark was asked for and it could be told.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// What it holds, 64 hexadecimal digits; where it was asked for, could be told and is not as it was before.
    #[serde(default)]
    pub mark: Option<String>,
}

/// Until when a server may answer for exports that are leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LeaseSpec {
    /// Nanoseconds since the machine started (`CLOCK_BOOTTIME`, clock_gettime(2)).
    pub until_nanos: u64,
}

/// A checkpoint to make, remove or go back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointName {
    /// Its name.
    pub checkpoint: String,
}

/// Checkpoints of a writable layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoints {
    /// Version of this answer's form.
    pub format_version: u32,
    /// By name.
    pub checkpoints: Vec<Saved>,
}

/// Writable layers to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendSpec {
    /// Which, in the order in which they are expected.
    pub layers: Vec<LayerToSend>,
    /// Whether nothing of them changes any more: they are closed, or all their exports parked.
    #[serde(default)]
    pub last: bool,
}

/// A writable layer to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerToSend {
    /// What it is called here while it is open.
    pub name: String,
    /// Its directory; absolute.
    pub path: PathBuf,
}

/// Writable layers to receive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiveSpec {
    /// Which, in the order in which they come.
    pub layers: Vec<LayerToReceive>,
}

/// A writable layer to receive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerToReceive {
    /// The directory that it is kept in until it is whole; absolute, and its parent is there. What an earlier round left
    /// there is gone on from.
    pub staging: PathBuf,
    /// Where it belongs. Nothing there is changed; an old copy of the layer saves what is sent.
    pub place: PathBuf,
    /// Most bytes that it may hold.
    #[serde(default)]
    pub bytes_max: Option<u64>,
}

/// A round of layers that travel, once it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journey {
    /// Bytes sent, or written by who received them.
    pub bytes: u64,
    /// Whether it was the last: what has arrived is equal to what was sent, durable, and can be put in its place.
    pub last: bool,
}

/// How a journey ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It is whole.
    Done(Journey),
    /// It broke off.
    Failed(Problem),
}

/// The server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of this answer's form.
    pub format_version: u32,
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// TCP addresses listened on.
    pub listeners: Vec<String>,
    /// How many exports there are.
    pub exports: usize,
    /// The user id it runs under.
    #[serde(default)]
    pub user: u32,
    /// What keeps it from files that it does not need: the sandbox in words.
    #[serde(default)]
    pub sandbox: String,
    /// How long it may still answer for exports that are leased, in nanoseconds; `None`: it may not.
    #[serde(default)]
    pub lease_nanos: Option<u64>,
    /// Whether the lender of private files answers; `None` where none is configured.
    #[serde(default)]
    pub lender: Option<bool>,
}

/// An error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong, with its causes.
    pub error: String,
    /// Whether the same request can succeed later.
    pub retryable: bool,
}
