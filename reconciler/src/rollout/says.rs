//! Rollouts in words.

use std::fmt;

use super::{Aim, Hold, Verdict, Wait};

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rolling => f.write_str("rolling out"),
            Self::Paused { by } => write!(f, "paused by {by}"),
            Self::Held { why } => write!(f, "held: {why}"),
            Self::Failed { why } => write!(f, "failed, all go back: {why}"),
            Self::Aborted { by } => write!(f, "ended by {by}, all go back"),
            Self::Done => f.write_str("done"),
        }
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::To => "to the new revision",
            Self::Back => "back to the last good revision",
        })
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBegun => f.write_str("the rollout of this revision has not begun on the board"),
            Self::Unread { commit } => {
                write!(
                    f,
                    "the rollout is of commit {commit}, which this node has not read yet"
                )
            }
            Self::Paused { by } => write!(f, "the rollout is paused by {by}"),
            Self::Held { why } => write!(f, "the rollout is held until a person decides: {why}"),
            Self::Wave { mine, now, of } => {
                write!(
                    f,
                    "it changes in wave {mine} of {of}, and wave {now} is under way"
                )
            }
            Self::Away { away, max } => away_text(f, *away, *max),
            Self::Slots { max, by } => {
                write!(f, "at most {max} may be down at once")?;
                if !by.is_empty() {
                    write!(f, ", and {} being changed", numbers(by))?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused { by } => write!(f, "paused by {by}"),
            Self::Held { why } => write!(f, "held until a person decides: {why}"),
            Self::Away { away, max } => away_text(f, *away, *max),
            Self::Wave {
                wave,
                of,
                healthy,
                pending,
                waits_for,
            } => {
                let all = healthy.saturating_add(*pending);
                write!(f, "wave {wave} of {of}: {healthy} of {all} are healthy")?;
                if !waits_for.is_empty() {
                    write!(f, ", and {} not yet", numbers(waits_for))?;
                }
                Ok(())
            }
            Self::NoCanary => {
                f.write_str("all canaries are out of reach, and no other sliver is there in their place")
            }
            Self::Baking {
                wave,
                of,
                healthy_ms,
                bake_ms,
            } => write!(
                f,
                "wave {wave} of {of} has been healthy for {} s of {} s",
                healthy_ms / 1000,
                bake_ms.div_ceil(1000)
            ),
        }
    }
}

fn away_text(f: &mut fmt::Formatter<'_>, away: u32, max: u32) -> fmt::Result {
    write!(
        f,
        "{away} slivers are out of reach, and at most {max} may be while others change"
    )
}

/// Slivers by number, and that they are.
fn numbers(numbers: &[u32]) -> String {
    let all: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    match all.as_slice() {
        [one] => format!("sliver {one} is"),
        several => format!("slivers {} are", several.join(", ")),
    }
}
