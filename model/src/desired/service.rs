//! How a slice is started, moved and changed: what the plan keeps to, beyond what a sliver is.

use std::fmt;

use super::Matching;
use crate::units::{ByteRate, Millis};

/// How a sliver starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Start {
    /// Its kernel boots.
    #[default]
    Boot,
    /// It goes on from a stored image where one fits, else its kernel boots. Stopping it stores one.
    Resume,
}

/// How a new revision of a slice spreads over its slivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// How many slivers go first, alone.
    pub canary: u32,
    /// The waves after them. Whoever is in none comes last, in one more.
    pub waves: Vec<Wave>,
    /// How many may be down at once because of it.
    pub max_unavailable: Share,
    /// How many may fail before it ends.
    pub max_failed: Share,
    /// How many may be out of reach before it waits.
    pub max_unreachable: Share,
    /// How long a wave has to be healthy before the next one begins.
    pub bake: Millis,
    /// What happens when too many fail.
    pub on_failure: OnFailure,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            canary: 1,
            waves: vec![Wave::Share(Share::Percent(100))],
            max_unavailable: Share::Count(1),
            max_failed: Share::Count(0),
            max_unreachable: Share::Percent(40),
            bake: Millis(30_000),
            on_failure: OnFailure::Rollback,
        }
    }
}

/// One wave of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wave {
    /// So many of all slivers have changed when it is through; what it adds is from all sites.
    Share(Share),
    /// Those on nodes that match, as far as no wave before had them.
    Match(Matching),
}

/// A part of a slice's slivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Share {
    /// So many.
    Count(u32),
    /// So many of a hundred, at most 100.
    Percent(u8),
}

impl Share {
    /// How many of `all` that is, rounded up: a share that is not nothing is at least one.
    #[must_use]
    pub fn of(self, all: u32) -> u32 {
        match self {
            Self::Count(count) => count.min(all),
            Self::Percent(percent) => {
                let part = (u64::from(all) * u64::from(percent)).div_ceil(100);
                u32::try_from(part).unwrap_or(all).min(all)
            }
        }
    }
}

/// What happens when too many slivers fail in a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnFailure {
    /// All go back to the last good revision.
    Rollback,
    /// All stay as they are until a person decides.
    Hold,
}

/// How a sliver moves to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// In which way.
    pub policy: MigrationPolicy,
    /// How long the guest may stand still in a live move.
    pub downtime: Millis,
    /// How fast memory is sent at most; `None`: as fast as it goes.
    pub bandwidth: Option<ByteRate>,
}

impl Default for Migration {
    fn default() -> Self {
        Self {
            policy: MigrationPolicy::Live,
            downtime: Millis(300),
            bandwidth: None,
        }
    }
}

/// In which way a sliver moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MigrationPolicy {
    /// While it runs.
    Live,
    /// Through a stored image.
    Suspend,
    /// Its memory does not move: it stops here and boots there.
    Restart,
}

impl MigrationPolicy {
    /// The word for it in manifests.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Suspend => "suspend",
            Self::Restart => "restart",
        }
    }
}

/// How many checkpoints are kept of a sliver whose slice does not say: the revision before, the one before that, and what a
/// rollback has thrown away.
pub const CHECKPOINTS: u32 = 3;

/// What a rollback does with what the guest has written since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RollbackData {
    /// It stays.
    #[default]
    Keep,
    /// It goes back as well, to what it was before the revision.
    Restore,
}

impl fmt::Display for Start {
    /// As manifests write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Boot => "boot",
            Self::Resume => "resume",
        })
    }
}

impl fmt::Display for Share {
    /// As manifests write it: `25%` or `2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl fmt::Display for Wave {
    /// As manifests write it: `25%` or `{ match: { site: tokyo } }`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => share.fmt(f),
            Self::Match(matching) => write!(f, "{{ match: {matching} }}"),
        }
    }
}

impl fmt::Display for OnFailure {
    /// As manifests write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Rollback => "rollback",
            Self::Hold => "hold",
        })
    }
}

impl fmt::Display for MigrationPolicy {
    /// As manifests write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Live => "live",
            Self::Suspend => "suspend",
            Self::Restart => "restart",
        })
    }
}

impl fmt::Display for RollbackData {
    /// As manifests write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Keep => "keep",
            Self::Restore => "restore",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_part_of_all_rounded_up() {
        let parts = |share: Share| [0, 1, 6, 100_000].map(|all| share.of(all));
        assert_eq!(parts(Share::Percent(25)), [0, 1, 2, 25_000]);
        assert_eq!(parts(Share::Percent(0)), [0, 0, 0, 0]);
        assert_eq!(parts(Share::Percent(100)), [0, 1, 6, 100_000]);
        assert_eq!(parts(Share::Count(2)), [0, 1, 2, 2]);
        assert_eq!(Share::Percent(100).of(u32::MAX), u32::MAX);
    }
}
