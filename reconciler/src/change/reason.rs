//! Why something happens, or does not happen yet: every reason that a plan or a run can hold.

use xeno_model::desired::{HypervisorKind, Remote, SiteRule};
use xeno_model::id::{Digest, DomainUuid, NodeName, SiteName, SliverId, Timestamp};
use xeno_model::normal::Difference;
use xeno_model::observed::{DomainState, LayerLimits};

use super::Disruption;
use crate::action::ActionKey;
use crate::ports::Retry;

/// Why a change happens or waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The repository asks for it and it was never here.
    New,
    /// The repository asks for something else than was last applied.
    Differs(Difference),
    /// It was removed before, and what the removal kept is taken into use again.
    Revived {
        /// When it was set aside.
        since: Timestamp,
    },
    /// An earlier run began it and did not finish.
    Unfinished,
    /// The domain is not there though it should run.
    DomainMissing,
    /// The domain is there but does not run.
    DomainNotRunning {
        /// What it does instead.
        state: DomainState,
    },
    /// The domain stands still and is let go on: a suspend or a resume was interrupted.
    DomainPaused,
    /// The domain has another identity than the sliver.
    DomainForeignUuid {
        /// The one it has.
        uuid: DomainUuid,
    },
    /// The domain was started as something else than was last applied.
    DomainForeignBoot {
        /// What it was started as.
        booted: Digest,
    },
    /// The stacks are not assembled or not served though a domain needs them.
    StorageMissing,
    /// The stacks assembled for it are not those that its domain was started on.
    StackForeign {
        /// What is assembled.
        stack: Digest,
    },
    /// Its writable layers are limited to something else than was last applied.
    LimitForeign {
        /// What they may hold.
        limit: LayerLimits,
    },
    /// Its exports have another share of the file server than was last applied.
    ShareForeign {
        /// The one they have.
        share: u32,
    },
    /// It returns to what it ran before, and its slice asks that what it wrote goes back as well.
    GoesBack {
        /// The checkpoint that it goes back to.
        to: String,
        /// When that was made.
        at: Timestamp,
        /// The checkpoint that keeps what it wrote since.
        keeps: String,
    },
    /// The running domain has other limits or ports than were last applied.
    Mistuned {
        /// Which, as people know them.
        what: Vec<String>,
    },
    /// It runs as asked, and its health check has not passed since.
    NotHealthyYet,
    /// Something of it runs or is served although it was stopped.
    NotStopped,
    /// The state asked for is `stopped`.
    StateStopped,
    /// The state asked for is `suspended`.
    StateSuspended,
    /// An image of its memory is there beside its domain: something was interrupted, and the domain is what counts.
    ImageBesideDomain,
    /// The image of its memory does not say yet what the writable layers were like.
    ImageUnsealed,
    /// It was suspended, and there is no image of its memory: it starts anew.
    ImageLost,
    /// The image of its memory fits no more, and it starts anew, as `start: resume` allows.
    ImageDiscarded {
        /// What does not fit.
        what: ImageMisfit,
    },
    /// It is kept stopped: the site does not run its slice or its tenant.
    Vetoed {
        /// The site.
        site: SiteName,
        /// Which of its rules says so.
        rule: SiteRule,
    },
    /// It is kept stopped: the time that its slice was asked for is over.
    Expired {
        /// Since when.
        since: Timestamp,
    },
    /// It went by another name before, and takes over what it wrote under that.
    MovedFrom {
        /// Its name before.
        from: SliverId,
    },
    /// It goes by another name now, which takes over what it wrote.
    MovedTo {
        /// Its name from now on.
        to: SliverId,
    },
    /// The repository names it no more.
    NotDesired,
    /// The repository places it on another node.
    PlacedElsewhere,
    /// What a removal set aside has been kept long enough.
    TombstoneExpired {
        /// When it was set aside.
        since: Timestamp,
    },
    /// To be known: limits that it asks for, and that the node's hypervisor does not keep.
    NotEnforced {
        /// Which, as people know them.
        limits: Vec<String>,
        /// The hypervisor.
        by: HypervisorKind,
    },
    /// To be known: a remote directory that it uses does not answer, and what it reads from there waits or fails.
    RemoteSilent {
        /// Which.
        remote: Remote,
        /// Since when, as far as is known.
        since: Timestamp,
        /// How that shows.
        why: String,
    },
    /// Another domain starts beside the one that runs, which serves on until the new one is healthy.
    MadeBeforeBroken {
        /// Memory that the new one takes beside the old, in MiB.
        needed: u64,
        /// What is free for it, in MiB.
        free: u64,
    },
    /// It could be replaced by a domain beside the one that runs, but the node has not the memory for both at once: the
    /// old one ends first.
    NoRoomBeside {
        /// What a second one takes, in MiB.
        needed: u64,
        /// What is free for it, in MiB.
        free: u64,
        /// What the node has for guests, in MiB.
        capacity: u64,
    },
    /// Two domains of it are there: a replacement was interrupted. The one that is as desired stays.
    EmbodiedTwice,
    /// Waits: it could not be seen.
    Blind {
        /// Which facet.
        facet: &'static str,
        /// Why not.
        why: String,
    },
    /// Waits: removing it would go beyond the delete budget.
    DeleteBudget {
        /// Removals that the budget allows in its window.
        allowed: u32,
        /// Removals within the window so far.
        used: u32,
        /// Removals that this commit asks for.
        asked: u32,
    },
    /// Waits: the repository does not name this node.
    NodeNotNamed,
    /// Waits: the commit asks for no sliver at all, on no node. Nothing is removed on the word of an empty commit.
    NothingDesired,
    /// Waits: the node has not the memory for it.
    NoRoom {
        /// What it needs, in MiB.
        needed: u64,
        /// What will be free for it, in MiB.
        free: u64,
        /// What the node has for guests, in MiB.
        capacity: u64,
    },
    /// Waits: a port that it publishes is held by a domain that stays.
    PortTaken {
        /// The port on the node.
        port: u16,
        /// Who holds it.
        by: SliverId,
    },
    /// Waits: what it asks for cannot be done on this node.
    NotSupported {
        /// What.
        what: String,
    },
    /// Waits: an action failed, and is tried again later.
    BackingOff {
        /// The action.
        action: ActionKey,
        /// What went wrong.
        why: String,
        /// Not before this.
        until: Timestamp,
        /// Whether that can help by itself.
        retry: Retry,
    },
    /// Waits: the image of its memory does not fit what it would be resumed on, and is not thrown away unasked.
    ImageStale {
        /// What does not fit.
        what: ImageMisfit,
    },
    /// Waits: reconciling it is frozen.
    Frozen {
        /// Who froze it.
        by: String,
        /// Why.
        why: String,
        /// Until when; `None`: until somebody thaws it.
        until: Option<Timestamp>,
    },
    /// Waits: it would disturb a service, and the site's maintenance window is closed.
    OutsideWindow {
        /// The site.
        site: SiteName,
        /// When the next window opens.
        opens: Timestamp,
    },
    /// Waits: nobody has approved what this commit asks of it.
    Unapproved {
        /// What that does to its service.
        disruption: Disruption,
    },
    /// It is kept stopped: the site allows less.
    SiteCap {
        /// The site.
        site: SiteName,
        /// Which of its rules says so.
        rule: SiteRule,
    },
    /// Waits: it ended by itself again and again, and is started again later.
    Crashing {
        /// How often it was restarted of late.
        restarts: u32,
        /// Not before this.
        until: Timestamp,
    },
    /// Waits: it changes together with another sliver, which waits.
    Together {
        /// The other one.
        with: SliverId,
    },
    /// Waits: another node has the right to run it.
    HeldElsewhere {
        /// Which.
        by: NodeName,
    },
    /// Waits: another node has the right to run it and has no sign of life, but may still be running it.
    Unfenced {
        /// Which.
        by: NodeName,
        /// What is being done so that it certainly does not, if anything.
        fence: Option<String>,
    },
    /// Waits: who has the right to run it is not known.
    RightUnknown {
        /// Why not.
        why: String,
    },
    /// Runs, and what it asks its file server waits: the lease has run out under which it is answered.
    LeaseLapsed {
        /// Why none lasts, where that is known.
        why: Option<String>,
    },
    /// Waits: the right to run it is being taken, given or taken up.
    RightChanges {
        /// What is being done about it.
        what: String,
    },
    /// Waits: it could not be moved, and is tried again.
    MoveFailed {
        /// The node that it is to go to.
        to: NodeName,
        /// What went wrong.
        why: String,
        /// Not before this.
        until: Timestamp,
    },
    /// Waits: a rollout changes it, and its turn has yet to come. It is kept as it was meanwhile.
    RolloutWaits {
        /// What for.
        why: String,
    },
    /// In a run: this is being done.
    RunUnderway {
        /// The action.
        action: ActionKey,
    },
    /// In a run: this has yet to be done.
    RunQueued {
        /// The action.
        action: ActionKey,
        /// What it still waits for; `None`: only for its turn.
        after: Option<ActionKey>,
    },
    /// In a run: an action failed, and is tried again soon.
    RunPausing {
        /// The action.
        action: ActionKey,
        /// What went wrong.
        why: String,
        /// Tries so far.
        tries: u32,
        /// How long until then, in milliseconds.
        wait_ms: u64,
    },
    /// In a run: an action failed for good.
    RunFailed {
        /// The action.
        action: ActionKey,
        /// What went wrong last.
        why: String,
        /// Tries in all.
        tries: u32,
    },
    /// In a run: an action cannot happen, since one before it did not.
    RunBlocked {
        /// The action.
        action: ActionKey,
        /// The one that it waited for.
        by: ActionKey,
    },
    /// In a run: an action was not begun, since something newer came.
    RunGaveWay {
        /// The action.
        action: ActionKey,
    },
}

/// What about an image does not fit what it would be resumed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageMisfit {
    /// The domain was started as something else than is asked for now: other layers, kernel or CPUs.
    Boot,
    /// The writable layers have changed since.
    Disk,
    /// It is the memory of another domain.
    Identity,
    /// More memory is asked for than the domain was started with.
    Memory,
}

impl Reason {
    /// How much the change disturbs that waits for approval.
    #[must_use]
    pub fn unapproved(&self) -> Option<Disruption> {
        if let Self::Unapproved { disruption } = self {
            Some(*disruption)
        } else {
            None
        }
    }

    /// A word for programs, as in JSON: it stays the same when the sentence is put in better words.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Differs(_) => "differs",
            Self::Revived { .. } => "revived",
            Self::Unfinished => "unfinished",
            Self::DomainMissing => "domainMissing",
            Self::DomainNotRunning { .. } => "domainNotRunning",
            Self::DomainPaused => "domainPaused",
            Self::DomainForeignUuid { .. } => "domainForeignUuid",
            Self::DomainForeignBoot { .. } => "domainForeignBoot",
            Self::StorageMissing => "storageMissing",
            Self::StackForeign { .. } => "stackForeign",
            Self::LimitForeign { .. } => "limitForeign",
            Self::ShareForeign { .. } => "shareForeign",
            Self::GoesBack { .. } => "goesBack",
            Self::Mistuned { .. } => "mistuned",
            Self::NotHealthyYet => "notHealthyYet",
            Self::NotStopped => "notStopped",
            Self::StateStopped => "stateStopped",
            Self::StateSuspended => "stateSuspended",
            Self::ImageBesideDomain => "imageBesideDomain",
            Self::ImageUnsealed => "imageUnsealed",
            Self::ImageLost => "imageLost",
            Self::ImageDiscarded { .. } => "imageDiscarded",
            Self::Vetoed { .. } => "vetoed",
            Self::Expired { .. } => "expired",
            Self::MovedFrom { .. } => "movedFrom",
            Self::MovedTo { .. } => "movedTo",
            Self::NotDesired => "notDesired",
            Self::PlacedElsewhere => "placedElsewhere",
            Self::TombstoneExpired { .. } => "tombstoneExpired",
            Self::NotEnforced { .. } => "notEnforced",
            Self::RemoteSilent { .. } => "remoteSilent",
            Self::MadeBeforeBroken { .. } => "madeBeforeBroken",
            Self::NoRoomBeside { .. } => "noRoomBeside",
            Self::EmbodiedTwice => "embodiedTwice",
            Self::Blind { .. } => "blind",
            Self::DeleteBudget { .. } => "deleteBudget",
            Self::NodeNotNamed => "nodeNotNamed",
            Self::NothingDesired => "nothingDesired",
            Self::NoRoom { .. } => "noRoom",
            Self::PortTaken { .. } => "portTaken",
            Self::NotSupported { .. } => "notSupported",
            Self::BackingOff { .. } => "backingOff",
            Self::ImageStale { .. } => "imageStale",
            Self::Frozen { .. } => "frozen",
            Self::OutsideWindow { .. } => "outsideWindow",
            Self::Unapproved { .. } => "unapproved",
            Self::SiteCap { .. } => "siteCap",
            Self::Crashing { .. } => "crashing",
            Self::Together { .. } => "together",
            Self::HeldElsewhere { .. } => "heldElsewhere",
            Self::Unfenced { .. } => "unfenced",
            Self::RightUnknown { .. } => "rightUnknown",
            Self::LeaseLapsed { .. } => "leaseLapsed",
            Self::RightChanges { .. } => "rightChanges",
            Self::MoveFailed { .. } => "moveFailed",
            Self::RolloutWaits { .. } => "rolloutWaits",
            Self::RunUnderway { .. } => "runUnderway",
            Self::RunQueued { .. } => "runQueued",
            Self::RunPausing { .. } => "runPausing",
            Self::RunFailed { .. } => "runFailed",
            Self::RunBlocked { .. } => "runBlocked",
            Self::RunGaveWay { .. } => "runGaveWay",
        }
    }

    /// Whether it is what a sliver waits for, rather than why something happens.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        match self {
            Self::Blind { .. }
            | Self::DeleteBudget { .. }
            | Self::NodeNotNamed
            | Self::NothingDesired
            | Self::NoRoom { .. }
            | Self::PortTaken { .. }
            | Self::NotSupported { .. }
            | Self::BackingOff { .. }
            | Self::ImageStale { .. }
            | Self::Frozen { .. }
            | Self::OutsideWindow { .. }
            | Self::Unapproved { .. }
            | Self::Crashing { .. }
            | Self::Together { .. }
            | Self::HeldElsewhere { .. }
            | Self::Unfenced { .. }
            | Self::RightUnknown { .. }
            | Self::LeaseLapsed { .. }
            | Self::RightChanges { .. }
            | Self::MoveFailed { .. }
            | Self::RolloutWaits { .. }
            | Self::RunPausing { .. }
            | Self::RunFailed { .. }
            | Self::RunBlocked { .. }
            | Self::RunGaveWay { .. } => true,
            Self::New
            | Self::Differs(_)
            | Self::Revived { .. }
            | Self::Unfinished
            | Self::DomainMissing
            | Self::DomainNotRunning { .. }
            | Self::DomainForeignBoot { .. }
            | Self::StorageMissing
            | Self::StackForeign { .. }
            | Self::LimitForeign { .. }
            | Self::ShareForeign { .. }
            | Self::GoesBack { .. }
            | Self::NotStopped
            | Self::StateStopped
            | Self::NotDesired
            | Self::PlacedElsewhere
            | Self::TombstoneExpired { .. }
            | Self::NotEnforced { .. }
            | Self::RemoteSilent { .. }
            | Self::MadeBeforeBroken { .. }
            | Self::NoRoomBeside { .. }
            | Self::EmbodiedTwice
            | Self::DomainPaused
            | Self::DomainForeignUuid { .. }
            | Self::Mistuned { .. }
            | Self::NotHealthyYet
            | Self::StateSuspended
            | Self::ImageBesideDomain
            | Self::ImageUnsealed
            | Self::ImageLost
            | Self::ImageDiscarded { .. }
            | Self::Vetoed { .. }
            | Self::SiteCap { .. }
            | Self::Expired { .. }
            | Self::MovedFrom { .. }
            | Self::MovedTo { .. }
            | Self::RunUnderway { .. }
            | Self::RunQueued { .. } => false,
        }
    }
}
