//! What the agent tells over its socket, as types: written by the agent, read by `xeno` and by anyone with `curl`.
//!
//! Every top-level answer carries `formatVersion`. Within one version fields are only added, so readers ignore what
//! they do not know. Times are milliseconds since 1970. These types are the wire's own: nothing of the core is
//! serialised as it is.

mod apply;
mod checkpoint;
mod freeze;
mod history;
mod rollouts;
mod tombstone;

pub use apply::{Applied, ApplyAction, ApplyRequest};
pub use checkpoint::{CheckpointView, CheckpointsView, RestoreRequest, Restored};
pub use freeze::{FreezeRequest, FreezeView, Freezes, ScopeView, ThawRequest};
pub use history::{History, HistoryEntry};
pub use rollouts::{
    RolloutLine, RolloutRequest, RolloutSliverView, RolloutState, RolloutVerb, RolloutView, RolloutsView,
    VerdictWord, WaveView,
};
pub use tombstone::{TombstoneView, Tombstones};

use serde::{Deserialize, Serialize};

/// Version of all answers. Raised when a field changes its meaning or goes.
pub const FORMAT_VERSION: u32 = 1;

/// `GET /v1/status`: the node at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The node.
    pub node: NodeView,
    /// What it is about.
    pub phase: Phase,
    /// One line for people that says the same.
    pub summary: String,
    /// Where the desired state comes from.
    pub source: SourceView,
    /// The desired state in force.
    pub accepted: Option<AcceptedView>,
    /// The newest commit, where it was not accepted.
    pub rejected: Option<RejectedView>,
    /// The run under way.
    pub run: Option<RunView>,
    /// Its slivers, by name.
    pub slivers: Vec<SliverSummary>,
    /// Domains that somebody else made.
    pub strangers: Vec<String>,
    /// What cannot be seen or written, each in a sentence.
    pub problems: Vec<String>,
    /// What is to be left alone.
    #[serde(default)]
    pub freezes: Vec<FreezeView>,
}

/// A node, and what it can hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// The fleet, once a commit was accepted.
    pub fleet: Option<String>,
    /// Its site, where the repository names the node.
    pub site: Option<String>,
    /// `xen` or `qemu`, as this agent drives it.
    pub hypervisor: String,
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// When the agent began.
    pub started_ms: u64,
    /// The node's clock as it answered.
    pub now_ms: u64,
    /// Memory of guests; `None` before the first plan.
    pub memory: Option<MemoryView>,
}

/// Memory of a node's guests, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryView {
    /// For guests in all.
    pub capacity_mib: u64,
    /// Held now.
    pub now_mib: u64,
    /// Held once the plan is carried out.
    pub after_mib: u64,
}

/// What a node is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// It has no desired state yet.
    NoDesired,
    /// It looks for the first time since it began or since a commit.
    Looking,
    /// It carries out a plan.
    Working,
    /// Something waits: see the slivers.
    Waiting,
    /// Everything is as desired.
    Converged,
    /// It cannot see all of itself, and leaves alone what it cannot see.
    Blind,
    /// The plan did not pass the check; nothing is done until the desired or the observed state changes.
    Refused,
    /// It is about to end.
    Stopping,
}

/// Where the desired state comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceView {
    /// URL or path of the repository.
    pub repository: String,
    /// Branch.
    pub branch: String,
    /// The newest commit seen.
    pub head: Option<String>,
    /// When it was last read with success.
    pub read_ms: Option<u64>,
    /// Why it cannot be read now; `None` where it can.
    pub failure: Option<String>,
}

/// A desired state in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedView {
    /// The commit.
    pub revision: String,
    /// How many desired states the node has accepted.
    pub generation: u64,
    /// When.
    pub at_ms: u64,
}

/// A commit that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedView {
    /// The commit.
    pub revision: String,
    /// The diagnostics, drawn as text.
    pub why: String,
    /// When.
    pub at_ms: u64,
}

/// A run under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunView {
    /// Its number in the journal.
    pub run: i64,
    /// When it began.
    pub began_ms: u64,
    /// Actions in all.
    pub actions: usize,
    /// Actions that have ended, well or not.
    pub ended: usize,
    /// Actions being done now, each with when it began.
    pub in_flight: Vec<InFlight>,
}

/// An action being done now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InFlight {
    /// Its key.
    pub action: String,
    /// When it began.
    pub began_ms: u64,
}

/// `GET /v1/slivers`: all slivers that are desired, applied or here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slivers {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// By name.
    pub slivers: Vec<SliverSummary>,
}

/// One sliver in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliverSummary {
    /// `web/0`.
    pub id: String,
    /// What it is about.
    pub phase: SliverPhase,
    /// What its domain does: `running`, `paused`, `stopping`, `crashed`, `none` or `unknown`.
    pub domain: String,
    /// Verdict of its health check.
    pub health: HealthView,
    /// Memory it asks for, in MiB; 0 where it is not desired.
    pub memory_mib: u64,
    /// Virtual CPUs it asks for; 0 where it is not desired.
    pub vcpus: u32,
    /// Ports that the node publishes.
    pub ports: Vec<PortView>,
    /// One line that says what it waits for or does; empty when it is as desired.
    pub note: String,
    /// Whether it waits for something that does not pass by itself: somebody has to change something.
    #[serde(default)]
    pub needs_person: bool,
    /// Whether it is to be left alone, because somebody froze it, its slice or the node.
    #[serde(default)]
    pub frozen: bool,
    /// Whether its memory is stored in an image.
    #[serde(default)]
    pub suspended: bool,
    /// How often it was started again lately because it had ended by itself.
    #[serde(default)]
    pub restarts: u32,
}

/// What a sliver is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SliverPhase {
    /// It is as desired.
    Settled,
    /// It will be changed.
    Pending,
    /// It is being changed.
    Changing,
    /// It waits, for a reason that does not pass by itself at once.
    Waiting,
    /// An action for it failed, and will be tried again.
    Failing,
    /// It is not desired here any more, and something of it is kept.
    Leftover,
}

impl SliverPhase {
    /// It as a word, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Pending => "pending",
            Self::Changing => "changing",
            Self::Waiting => "waiting",
            Self::Failing => "failing",
            Self::Leftover => "leftover",
        }
    }
}

/// Verdict of a health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthView {
    /// The word.
    pub verdict: HealthWord,
    /// Why it is unhealthy.
    pub why: Option<String>,
}

/// Verdict of a health check, as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HealthWord {
    /// It has no health check.
    NotAsked,
    /// It does not run, or has not been asked yet.
    Unknown,
    /// Not enough answers yet.
    Starting,
    /// Enough good answers in a row.
    Healthy,
    /// Enough bad answers in a row.
    Unhealthy,
}

/// A port that the node publishes for a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortView {
    /// Port in the guest.
    pub guest: u16,
    /// Port on the node.
    pub host: u16,
    /// Where it answers: `http://127.0.0.1:8080/` where the health check is HTTP on it, else `tcp://…`.
    pub url: String,
}

/// `GET /v1/slivers/{slice}/{number}`: everything about one sliver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliverStatus {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// In a line.
    pub summary: SliverSummary,
    /// Identity of its domain.
    pub uuid: Option<String>,
    /// As it should be, in canonical form; `None` where it is not desired here.
    pub desired: Option<serde_json::Value>,
    /// As it was last carried through, or begun.
    pub applied: Option<AppliedView>,
    /// As it is.
    pub observed: ObservedView,
    /// What the plan says of it: class, cause, reasons in words.
    pub change: Option<ChangeView>,
    /// The failure it recovers from.
    pub failure: Option<FailureView>,
    /// File its console is written to.
    pub console_log: String,
    /// Socket to type into its console.
    pub console_socket: String,
}

/// What was last carried through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedView {
    /// Whether to the end.
    pub complete: bool,
    /// Under which right to run.
    pub epoch: u64,
    /// As it was desired then.
    pub desired: serde_json::Value,
}

/// What is; a facet that cannot be seen has its reason in `blind`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedView {
    /// When it was looked at; `None` if never.
    pub at_ms: Option<u64>,
    /// Its domain.
    pub domain: Option<DomainView>,
    /// Its storage.
    pub storage: Option<StorageView>,
    /// Its stored memory.
    #[serde(default)]
    pub image: Option<ImageView>,
    /// What could not be seen, and why.
    pub blind: Vec<String>,
}

/// A domain as seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainView {
    /// What it does.
    pub state: String,
    /// What it was started as.
    pub booted: String,
    /// Whether a start now would give the same.
    pub booted_as_desired: Option<bool>,
    /// Memory it holds.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
}

/// A stored memory image as seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageView {
    /// When it was stored.
    pub at_ms: u64,
    /// Its length.
    pub bytes: u64,
    /// Memory that the guest had, in MiB.
    pub memory_mib: u64,
    /// Whether it is sealed: it says which state of the writable layers it belongs to.
    pub sealed: bool,
    /// Whether the writable layers are still in that state; `None` where that cannot be told.
    pub fits: Option<bool>,
}

/// Storage of a sliver as seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageView {
    /// Whether writable layers lie on disk.
    pub on_disk: bool,
    /// Under which epoch they are open.
    pub open_epoch: Option<u64>,
    /// What its stacks consist of.
    pub stack: Option<String>,
    /// Whether they are served.
    pub exported: bool,
    /// Bytes its writable layers hold.
    pub bytes: u64,
    /// When a removal set it aside.
    pub tombstone_ms: Option<u64>,
    /// When what was set aside is purged, unless it is asked for again.
    #[serde(default)]
    pub purge_ms: Option<u64>,
}

/// What the plan says of a sliver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeView {
    /// Class of the change.
    pub class: String,
    /// `change`, `drift` or `schedule`.
    pub cause: String,
    /// Reasons in words.
    pub reasons: Vec<String>,
}

/// A failure that a sliver recovers from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureView {
    /// The action's key.
    pub action: String,
    /// What went wrong.
    pub why: String,
    /// How often in a row.
    pub attempts: u32,
    /// Whether somebody has to change something: it does not pass by itself.
    #[serde(default)]
    pub permanent: bool,
    /// Not tried again before this; `None`: not until the desired state changes or somebody says `reconcile`.
    pub retry_ms: Option<u64>,
}

/// `GET /v1/plan`: what would be done now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanView {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The node.
    pub node: String,
    /// The commit.
    pub revision: String,
    /// The generation.
    pub generation: u64,
    /// Whether there is nothing to do: no action, and no sliver waits.
    pub empty: bool,
    /// Slivers that are to go elsewhere once it is their turn.
    #[serde(default)]
    pub later: Vec<LaterView>,
    /// As people read it, without colours; what goes later included.
    pub text: String,
    /// As programs read it: the same as `xeno plan -o json`.
    pub plan: serde_json::Value,
    /// What the independent check found; a plan with findings is not carried out.
    pub findings: Vec<String>,
}

/// A sliver that is to go elsewhere once it is its turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaterView {
    /// The sliver.
    pub sliver: String,
    /// Where it goes, and what it waits for.
    pub why: String,
}

/// `GET /v1/slivers/{slice}/{number}/why`: why a sliver is not as desired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyView {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The sliver.
    pub sliver: String,
    /// Where it stands.
    pub phase: SliverPhase,
    /// Whether it is as desired, and healthy.
    pub settled: bool,
    /// Class of the change that the plan has for it.
    #[serde(default)]
    pub class: Option<String>,
    /// Whether somebody asked for that change, or it came apart by itself: `change`, `drift` or `schedule`.
    #[serde(default)]
    pub cause: Option<String>,
    /// Every reason that the plan and the run under way hold for it, what it waits for first.
    #[serde(default)]
    pub reasons: Vec<WhyReason>,
    /// All of it in sentences, most important first.
    pub sentences: Vec<String>,
    /// Those of the sentences that no reason says.
    #[serde(default)]
    pub besides: Vec<String>,
}

/// One reason why a sliver is not as desired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyReason {
    /// A word that stays the same.
    pub code: String,
    /// In words.
    pub text: String,
    /// Whether it is what the sliver waits for, rather than why something happens.
    pub waits: bool,
    /// Since when the plan has had it, as far as the agent knows: at the earliest since it began.
    pub since_ms: Option<u64>,
    /// What a person can do next.
    pub next: String,
}

/// `GET /v1/events?since=N`: what happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Events {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Oldest first.
    pub events: Vec<EventView>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    /// Its number: only grows.
    pub seq: u64,
    /// When.
    pub at_ms: u64,
    /// What kind: a word such as `accepted`, `done` or `failed`.
    pub kind: String,
    /// The sliver, where it is about one.
    pub sliver: Option<String>,
    /// For people.
    pub text: String,
    /// For programs.
    pub data: Option<serde_json::Value>,
}

/// `GET /v1/doctor`: what the agent knows about its own soundness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Doctor {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// One by one.
    pub facts: Vec<Fact>,
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fact {
    /// What was checked, in a few words.
    pub what: String,
    /// How it is.
    pub state: FactState,
    /// What was found, and what to do about it.
    pub text: String,
}

/// How a checked thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FactState {
    /// As it should be.
    Good,
    /// It works, with less than it could.
    Fair,
    /// It does not work.
    Bad,
}

/// An answer with a status of 400 and above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// What went wrong.
    pub error: String,
}
