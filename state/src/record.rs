//! What is stored, as this crate's own types: closed sets have fixed words, free data carries its version.

use serde::{Deserialize, Serialize};
use xeno_model::desired::DesiredSliver;
use xeno_model::id::{Digest, Generation, NameError, Revision, SliverId, Timestamp};
use xeno_reconciler::rollout::Footing;

use crate::error::StateError;
use crate::time::NodeTime;

/// Version of the data that events carry. Raised when a field changes its meaning; readers show other versions as text
/// only.
pub const EVENT_DATA_VERSION: u32 = 1;

/// Longest text of one stored reason or event; what is longer is cut, since a ring of unbounded texts has no bound.
pub const TEXT_LEN_MAX: usize = 4096;

/// Restarts of one sliver that are remembered.
pub const RESTARTS_MAX: u32 = 64;

/// The desired state a node last accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// How many it has accepted.
    pub generation: Generation,
    /// The generation that was last carried through; 0: none yet.
    pub carried: Generation,
    /// The commit.
    pub revision: Revision,
    /// When.
    pub at: Timestamp,
}

/// Where a sliver stands in the rollouts of its slice: revisions of the slice, and what each meant for the sliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    /// What it was last made, or begun to be made.
    pub at: (Digest, DesiredSliver),
    /// What it goes back to.
    pub good: Option<(Digest, DesiredSliver)>,
}

impl Stand {
    /// The same, as [`rollout`](xeno_reconciler::rollout) takes it.
    #[must_use]
    pub fn footing(&self) -> Footing {
        Footing {
            at: Some(self.at.0),
            good: self.good.as_ref().map(|(revision, _)| *revision),
        }
    }
}

/// A commit that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The commit.
    pub revision: Revision,
    /// Why not, as shown to people.
    pub why: String,
    /// When.
    pub at: Timestamp,
}

/// A sliver that waits before its failed action is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// The action's key.
    pub action: String,
    /// What went wrong.
    pub why: String,
    /// How often in a row.
    pub attempts: u32,
    /// Whether only a change of the desired state can help.
    pub permanent: bool,
    /// Not before this.
    pub until: NodeTime,
}

/// That the state was damaged, set aside, and made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// When.
    pub at: Timestamp,
    /// When, in node time; `None` before anybody wrote the node's time into it.
    pub time: Option<NodeTime>,
    /// What was wrong.
    pub why: String,
    /// Where the damaged database is now, if there was one.
    pub aside: Option<String>,
}

/// What people forbade to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// Of what: `node`, `slice:web` or `sliver:web/0`.
    pub scope: String,
    /// Why, in the words of who did it.
    pub reason: String,
    /// Who did it.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; `None`: until somebody lifts it.
    pub until: Option<Timestamp>,
}

/// One thing that a node went through: a commit that it accepted, or what became of one sliver in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chapter {
    /// The run; `None` for an accepted commit.
    pub run: Option<i64>,
    /// The sliver; `None` for an accepted commit.
    pub sliver: Option<SliverId>,
    /// In which generation.
    pub generation: Generation,
    /// By which commit.
    pub revision: Revision,
    /// What kind of change, as a word.
    pub class: String,
    /// What brought it about, as a word.
    pub cause: String,
    /// Why, for people.
    pub text: String,
    /// When it began.
    pub began: Timestamp,
    /// How it ended, and when.
    pub ended: Option<(ChapterEnd, Timestamp)>,
}

/// Removals within a window of the delete budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removals {
    /// When those were that are known, oldest first.
    pub known: Vec<NodeTime>,
    /// Whether there may have been others: the state was made anew within the window.
    pub forgotten: bool,
    /// When the state was made anew, if ever and as far as is known.
    pub rebuilt: Option<NodeTime>,
}

/// What a removal set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// When, as storage says: by the wall clock of then.
    pub since: Timestamp,
    /// When this state saw it first.
    pub seen: NodeTime,
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should.
    Done,
    /// It failed.
    Failed {
        /// What went wrong.
        why: String,
    },
    /// Nobody knows: the agent ended before it did. What became of it is seen, not remembered.
    Lost,
}

impl Outcome {
    pub(crate) fn word(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Done => ("done", None),
            Self::Failed { why } => ("failed", Some(why)),
            Self::Lost => ("lost", None),
        }
    }

    pub(crate) fn read(word: &str, why: Option<String>) -> Result<Self, StateError> {
        match word {
            "done" => Ok(Self::Done),
            "failed" => Ok(Self::Failed {
                why: why.unwrap_or_default(),
            }),
            "lost" => Ok(Self::Lost),
            other => Err(StateError::Record {
                what: "outcome",
                why: format!("`{other}` is none"),
            }),
        }
    }
}

/// One intent, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its number.
    pub seq: i64,
    /// The run it belongs to.
    pub run: i64,
    /// The action's key.
    pub action: String,
    /// The sliver, where it is about one.
    pub sliver: Option<SliverId>,
    /// When it was about to be done.
    pub intent: Timestamp,
    /// How it ended, and when; `None` while nobody knows.
    pub outcome: Option<(Outcome, Timestamp)>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word it is stored and shown as.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Reads the word.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words!(
    /// What an event tells of.
    EventKind {
        /// The agent began.
        Started = "started",
        /// The agent ended in good order.
        Stopped = "stopped",
        /// A commit became the desired state.
        Accepted = "accepted",
        /// A commit was not accepted.
        Rejected = "rejected",
        /// The repository could not be read.
        SourceFailed = "source-failed",
        /// The repository can be read again.
        SourceBack = "source-back",
        /// A plan with something to do was made.
        Planned = "planned",
        /// A plan did not pass the independent check, or could not be made; nothing was done.
        PlanRefused = "plan-refused",
        /// An action succeeded.
        Done = "done",
        /// An action failed.
        Failed = "failed",
        /// An action was under way when the agent ended.
        Lost = "lost",
        /// A run gave way to a newer commit.
        Superseded = "superseded",
        /// A sliver has been carried through.
        Converged = "converged",
        /// A sliver waits; the text says why.
        Waiting = "waiting",
        /// A sliver's health changed.
        Health = "health",
        /// Something of the node cannot be seen.
        Blind = "blind",
        /// It can be seen again.
        Seen = "seen",
        /// Somebody said that something is to be left alone.
        Frozen = "frozen",
        /// It is not to be left alone any more.
        Thawed = "thawed",
        /// A guest had ended by itself, and is started again.
        Restarted = "restarted",
        /// The right to run a sliver, or the sliver itself, came or went.
        Moved = "moved",
        /// A sliver was made another revision by a rollout, or went back.
        Rollout = "rollout",
        /// The state was damaged and made anew.
        StateRebuilt = "state-rebuilt",
        /// The state can be written again.
        StateBack = "state-back",
    }
);

words!(
    /// How a change of a sliver ended.
    ChapterEnd {
        /// The sliver is as was asked.
        Done = "done",
        /// It failed, and is tried again or waits for somebody.
        Failed = "failed",
        /// It gave way to something newer.
        Superseded = "superseded",
        /// The run ended before it; a later one goes on with it.
        Unfinished = "unfinished",
        /// The agent ended before it.
        Lost = "lost",
    }
);

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its number: only grows, with gaps where old events were dropped.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What kind.
    pub kind: EventKind,
    /// The sliver, where it is about one.
    pub sliver: Option<SliverId>,
    /// For people, one or more lines.
    pub text: String,
    /// For programs.
    pub data: Option<serde_json::Value>,
}

/// An event that has no number yet.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// When.
    pub at: Timestamp,
    /// What kind.
    pub kind: EventKind,
    /// The sliver, where it is about one.
    pub sliver: Option<SliverId>,
    /// For people, one or more lines; cut at [`TEXT_LEN_MAX`].
    pub text: String,
    /// For programs.
    pub data: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct EventData {
    format_version: u32,
    data: serde_json::Value,
}

pub(crate) fn write_data(data: serde_json::Value) -> String {
    let record = EventData {
        format_version: EVENT_DATA_VERSION,
        data,
    };
    serde_json::to_string(&record).expect("a JSON value is written as JSON")
}

/// Data of another version is left out rather than misread: the text of the event says the same to people.
pub(crate) fn read_data(text: &str) -> Result<Option<serde_json::Value>, StateError> {
    let record: EventData = serde_json::from_str(text).map_err(|error| StateError::Record {
        what: "data of an event",
        why: error.to_string(),
    })?;
    Ok((record.format_version == EVENT_DATA_VERSION).then_some(record.data))
}

/// Cuts a text at [`TEXT_LEN_MAX`] bytes, between characters.
pub(crate) fn cut(text: &str) -> &str {
    if text.len() <= TEXT_LEN_MAX {
        return text;
    }
    let end = (0..=TEXT_LEN_MAX).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

pub(crate) fn name_error(what: &'static str) -> impl Fn(NameError) -> StateError {
    move |source| StateError::Name { what, source }
}
