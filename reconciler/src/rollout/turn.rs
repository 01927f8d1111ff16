//! What a node may do with a sliver of its own.

use std::collections::BTreeSet;

use xeno_model::id::{Digest, NodeName};

use super::{RolloutRecord, Verdict, Wanted, Waves};

/// Which way a sliver goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aim {
    /// To what the rollout brings.
    To,
    /// Back to what was good before.
    Back,
}

/// What a node last made of a sliver, or began to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Runs {
    /// Nothing yet: it is new here.
    Nothing,
    /// What it would go back to. Also what has nothing to go back to, when all go back.
    Good,
    /// Something else: an earlier rollout was replaced before it was through.
    Other,
    /// What the rollout brings.
    To,
}

/// What a node has written down about a sliver of its own: revisions of its slice ([`RolloutKey::revision`](super::RolloutKey)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Footing {
    /// What it was last made, or begun to be made; `None`: nothing yet.
    pub at: Option<Digest>,
    /// What it was when it was last proven good, before it became that; what it goes back to.
    pub good: Option<Digest>,
}

impl Footing {
    /// How that stands to a rollout.
    #[must_use]
    pub fn runs(&self, record: &RolloutRecord) -> Runs {
        let Some(at) = self.at else { return Runs::Nothing };
        if at == record.to.revision {
            return match record.aim() {
                // There is nothing to go back to.
                Aim::Back if self.good.is_none_or(|good| good == at) => Runs::Good,
                Aim::To | Aim::Back => Runs::To,
            };
        }
        let proven = record.good.as_ref().is_some_and(|good| good.revision == at);
        if proven || self.good.is_none_or(|good| good == at) {
            Runs::Good
        } else {
            Runs::Other
        }
    }

    /// What is to be written down before the sliver is changed so.
    #[must_use]
    pub fn toward(&self, aim: Aim, record: &RolloutRecord) -> Self {
        match aim {
            Aim::To => Self {
                at: Some(record.to.revision),
                good: match self.runs(record) {
                    Runs::Good => self.at,
                    Runs::Nothing | Runs::Other | Runs::To => self.good,
                },
            },
            Aim::Back => Self {
                at: self.good.or(self.at),
                good: self.good,
            },
        }
    }
}

/// A sliver of this node.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// Its number.
    pub number: u32,
    /// This node.
    pub node: &'a NodeName,
    /// What was last made of it.
    pub runs: Runs,
    /// How the commit that this node has read stands to the record.
    pub wanted: Wanted,
}

/// What a node sees around it.
#[derive(Clone, Copy, Debug)]
pub struct Outside<'a> {
    /// The waves of the slice's rollout.
    pub waves: &'a Waves,
    /// How many of its slivers are on nodes that are out of reach.
    pub away: u32,
    /// Nodes that are out of reach.
    pub away_nodes: &'a BTreeSet<NodeName>,
}

/// What a node may do with a sliver of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It stays what it is: it is what it should be, or has failed and waits for the verdict. It is repaired as that.
    Stay,
    /// It may be made this now.
    Go(Aim),
    /// It may be made this with a slot: take one.
    Take(Aim),
    /// It stays what it is for now. It is repaired as that.
    Wait(Wait),
}

/// Why a sliver waits. Each is one sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nobody has begun the rollout.
    NotBegun,
    /// This node has not read the commit of the rollout.
    Unread {
        /// Its commit, in short.
        commit: String,
    },
    /// A person stopped it.
    Paused {
        /// Who.
        by: String,
    },
    /// Too many failed, and a person has to decide.
    Held {
        /// What failed.
        why: String,
    },
    /// Its wave has not begun.
    Wave {
        /// Its wave, from 1 on.
        mine: u32,
        /// The wave that is under way.
        now: u32,
        /// How many there are.
        of: u32,
    },
    /// Too many are out of reach to begin anything new.
    Away {
        /// How many are.
        away: u32,
        /// How many may be.
        max: u32,
    },
    /// As many as may be are being changed.
    Slots {
        /// How many may be.
        max: u32,
        /// Those that are, by number; the first of them.
        by: Vec<u32>,
    },
}

/// Slivers that a reason names.
const NAMED_MAX: usize = 4;

/// What may be done with a sliver of this node.
#[must_use]
pub fn may_change(record: Option<&RolloutRecord>, own: Own<'_>, outside: Outside<'_>) -> Turn {
    let Some(record) = record else {
        return Turn::Wait(Wait::NotBegun);
    };
    match own.wanted {
        Wanted::This => {}
        Wanted::Newer => return Turn::Wait(Wait::NotBegun),
        Wanted::Older => {
            return Turn::Wait(Wait::Unread {
                commit: record.to.commit.short().to_owned(),
            });
        }
    }
    let slotted = record.slots.get(&own.number) == Some(own.node);
    let aim = record.aim();
    match (aim, own.runs) {
        (Aim::To, Runs::To) | (Aim::Back, Runs::Good | Runs::Nothing) => return Turn::Stay,
        // A slot that came over from an earlier rollout is no leave to go before one's wave.
        _ if slotted => {
            return waits_for_wave(record, own.number, outside.waves).map_or(Turn::Go(aim), Turn::Wait);
        }
        // It is down already, or as good as.
        (Aim::Back, Runs::Other | Runs::To) if record.failed.contains(&own.number) => return Turn::Go(aim),
        (Aim::Back, Runs::Other | Runs::To) => {}
        (Aim::To, runs) => match &record.verdict {
            Verdict::Paused { by } => return Turn::Wait(Wait::Paused { by: by.clone() }),
            Verdict::Held { why } => return Turn::Wait(Wait::Held { why: why.clone() }),
            // It failed before it began, and is not tried again in this rollout.
            Verdict::Rolling if record.failed.contains(&own.number) => return Turn::Stay,
            Verdict::Rolling => {
                let away = || waits_for_others(record, outside);
                if let Some(wait) = waits_for_wave(record, own.number, outside.waves).or_else(away) {
                    return Turn::Wait(wait);
                }
            }
            // Nobody has it yet: nothing is disturbed.
            Verdict::Done if runs == Runs::Nothing => return Turn::Go(aim),
            Verdict::Done => {}
            Verdict::Failed { .. } | Verdict::Aborted { .. } => {}
        },
    }
    let max = record.slots_max(outside.waves.slivers());
    let in_reach = record
        .slots
        .iter()
        .filter(|(number, node)| **number != own.number && !outside.away_nodes.contains(*node));
    let by: Vec<u32> = in_reach.map(|(number, _)| *number).collect();
    // Those out of reach hold up nobody, as far as the record has room for them. Nor does a node that is, and had the sliver.
    let left = record.slots.get(&own.number);
    // A commit may have placed it here since that node took the slot, which then never gives it back: it is the sliver's, and goes on
    // with it. Only to whoever has yet to make anything of it, so that two nodes never take it from each other.
    let moved_here = own.runs == Runs::Nothing;
    let left_behind = left.is_none_or(|by| moved_here || outside.away_nodes.contains(by));
    let room = left_behind && (left.is_some() || record.slots.len() < super::SLOTS_MAX as usize);
    if by.len() < max as usize && room {
        Turn::Take(aim)
    } else {
        Turn::Wait(Wait::Slots {
            max,
            by: by.into_iter().take(NAMED_MAX).collect(),
        })
    }
}

/// Whether the wave of a sliver has yet to begin.
pub(super) fn waits_for_wave(record: &RolloutRecord, number: u32, waves: &Waves) -> Option<Wait> {
    match &record.verdict {
        Verdict::Rolling | Verdict::Paused { .. } | Verdict::Held { .. } => {}
        Verdict::Failed { .. } | Verdict::Aborted { .. } | Verdict::Done => return None,
    }
    // A sliver that the placement does not know comes last.
    let mine = waves.of(number, &record.skipped).unwrap_or_else(|| waves.last());
    (mine > record.wave).then(|| Wait::Wave {
        mine: mine + 1,
        now: record.wave + 1,
        of: waves.count(),
    })
}

/// Whether too many are away for anything new to begin.
fn waits_for_others(record: &RolloutRecord, outside: Outside<'_>) -> Option<Wait> {
    let max = record.policy.max_unreachable.of(outside.waves.slivers());
    let away = outside.away;
    (away > max).then_some(Wait::Away { away, max })
}
