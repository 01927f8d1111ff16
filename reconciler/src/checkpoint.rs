//! What a sliver wrote is kept before it boots as something else, and put back when it returns to what it was.
//!
//! The names of checkpoints say all that has to be known later: `xeno-IMAGE-SINCE` is what a sliver left that ran this
//! image (kernel and layers), as it was carried through at that time; `xeno-back-IMAGE-SINCE` says that whoever left that state
//! has gone back already, so that nobody goes back twice and loses what was written in between. `xeno-failed-BOOT-SINCE` is what
//! something else left that booted since (by what it was booted as) and was never carried through, `xeno-back-BOOT-SINCE` that its
//! sliver has gone back from it. Checkpoints with other names are people's, and never dropped. See `decisions/0004-checkpoints.md`.

use std::collections::BTreeSet;

use xeno_model::desired::{DesiredSliver, RollbackData};
use xeno_model::id::{Digest, Timestamp};
use xeno_model::normal::{boot_digest, image_digest};
use xeno_model::observed::ObservedStorage;

use crate::change::AppliedSliver;
use crate::situation::{Marks, Situation};

/// Start of the names of checkpoints that nobody asked for.
const OURS: &str = "xeno-";
/// Start of the names of those that only say that somebody went back.
const BACK: &str = "xeno-back-";

/// Start of the names of those that keep what something left that booted and was never carried through.
const FAILED: &str = "xeno-failed-";

/// Start of the names of those that keep what people have undone.
const UNDONE: &str = "xeno-undone-";

/// Whether a checkpoint was made by an agent, and may be dropped by one.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name.starts_with(OURS)
}

/// Name of the checkpoint of what a person undoes at that time.
#[must_use]
pub fn undone_at(at: Timestamp) -> String {
    format!("{UNDONE}{}", at.0)
}

/// Checkpoints of what people have undone that are dropped for another one: all but the youngest, and not `spared`.
#[must_use]
pub fn undone_before(storage: &ObservedStorage, spared: &str) -> BTreeSet<String> {
    let all = storage.checkpoints.iter();
    let mut undone: Vec<_> = all
        .filter(|(name, _)| name.starts_with(UNDONE) && *name != spared)
        .collect();
    undone.sort_by_key(|(name, at)| (**at, *name));
    undone.pop();
    undone.into_iter().map(|(name, _)| name.clone()).collect()
}

/// Name of the checkpoint of what a sliver leaves that was carried through as `applied`.
pub(crate) fn left_by(applied: &AppliedSliver) -> String {
    let image = image_digest(&applied.desired).short();
    format!("{OURS}{image}-{}", applied.at.0)
}

/// Name of the checkpoint that says that `applied` was left, and its sliver went back.
pub(crate) fn went_back(applied: &AppliedSliver) -> String {
    let image = image_digest(&applied.desired).short();
    format!("{BACK}{image}-{}", applied.at.0)
}

/// What has booted since a sliver was carried through as `applied`, and was not carried through: `booted`, while its domain is
/// there, and later what it left.
pub(crate) fn failed_since(
    applied: &AppliedSliver,
    booted: Option<&Digest>,
    storage: &ObservedStorage,
) -> Option<Failed> {
    let since = format!("-{}", applied.at.0);
    let left = || {
        let names = storage.checkpoints.iter();
        let of_this = names.filter_map(|(name, at)| {
            let boot = name.strip_prefix(FAILED)?.strip_suffix(&since)?;
            Some((at, boot.to_owned()))
        });
        of_this.max().map(|(_, boot)| boot)
    };
    let boot = booted.map(Digest::short).or_else(left)?;
    Some(Failed {
        left: format!("{FAILED}{boot}{since}"),
        back: format!("{BACK}{boot}{since}"),
    })
}

/// Something that booted and was never carried through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Name of the checkpoint of what it left.
    pub(crate) left: String,
    /// Name of the one that says that its sliver went back from it.
    pub(crate) back: String,
}

/// The youngest checkpoint of what a sliver left that ran `image`.
pub(crate) fn youngest_of<'a>(storage: &'a ObservedStorage, image: &Digest) -> Option<(&'a str, Timestamp)> {
    let start = format!("{OURS}{}-", image.short());
    let all = storage.checkpoints.iter();
    let of_image = all.filter(|(name, _)| name.starts_with(&start));
    let youngest = of_image.max_by_key(|(name, at)| (*at, *name));
    youngest.map(|(name, at)| (name.as_str(), *at))
}

/// What becomes of what a sliver wrote when it boots as something else than it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// The checkpoint that keeps it.
    pub(crate) keeps: String,
    /// Whether it is still written to by whom it is kept for: then a checkpoint of that name is too old.
    pub(crate) fresh: bool,
    /// Older ones that are dropped for it.
    pub(crate) drops: BTreeSet<String>,
    /// What it goes back to.
    pub(crate) back: Option<Back>,
}

/// The way back of a writable layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Back {
    /// The checkpoint.
    pub(crate) to: String,
    /// When it was made.
    pub(crate) at: Timestamp,
    /// The checkpoint that says afterwards that it is done.
    pub(crate) done: String,
}

impl Situation<'_> {
    /// What becomes of what it wrote, if it boots as `desired` now.
    pub(crate) fn turn(&self, desired: &DesiredSliver, marks: Marks) -> Option<Turn> {
        let applied = self.applied?;
        let storage = self.storage?;
        if !applied.desired.writes() || !self.kept() || self.adopts.is_some() {
            return None;
        }
        let carried = boot_digest(&applied.desired);
        if carried == marks.boot {
            return self.turn_back(desired, applied, marks);
        }
        let (keeps, done) = (left_by(applied), went_back(applied));
        let image = image_digest(desired);
        let returns = desired.rollback == RollbackData::Restore
            && desired.writes()
            && image_digest(&applied.desired) != image
            && !storage.checkpoints.contains_key(&done);
        let back = youngest_of(storage, &image).filter(|_| returns);
        let back = back.map(|(to, at)| Back {
            to: to.to_owned(),
            at,
            done: done.clone(),
        });
        if desired.checkpoints == 0 && back.is_none() {
            return None;
        }
        let spared = [Some(&keeps), Some(&done), back.as_ref().map(|back| &back.to)];
        Some(Turn {
            // What something else writes that was never carried through is not what it left.
            fresh: self.domain.is_some_and(|domain| domain.booted == carried),
            drops: superfluous(storage, desired.checkpoints, &spared),
            keeps,
            back,
        })
    }

    /// What becomes of it if it boots again as what it was carried through as, and something else has booted since.
    fn turn_back(&self, desired: &DesiredSliver, applied: &AppliedSliver, marks: Marks) -> Option<Turn> {
        let storage = self.storage?;
        if desired.rollback != RollbackData::Restore || !applied.complete {
            return None;
        }
        let booted = self.domain.map(|domain| &domain.booted);
        // Whoever runs as it was carried through has gone back, or was never left.
        if booted == Some(&marks.boot) {
            return None;
        }
        let failed = failed_since(applied, booted, storage)?;
        let to = left_by(applied);
        let at = *storage.checkpoints.get(&to)?;
        if storage.checkpoints.contains_key(&failed.back) {
            return None;
        }
        let spared = [Some(&failed.left), Some(&failed.back), Some(&to)];
        Some(Turn {
            fresh: booted.is_some(),
            drops: superfluous(storage, desired.checkpoints, &spared),
            keeps: failed.left,
            back: Some(Back {
                to,
                at,
                done: failed.back,
            }),
        })
    }
}

/// Checkpoints of ours beyond those that are kept, of which one is about to be made: the oldest, and all that only say
/// that somebody went back. Never one of those that are `spared`.
fn superfluous(storage: &ObservedStorage, kept: u32, spared: &[Option<&String>]) -> BTreeSet<String> {
    let ours = storage.checkpoints.iter().filter(|(name, _)| is_ours(name));
    let (marks, mut left): (Vec<_>, Vec<_>) = ours
        .filter(|(name, _)| !spared.contains(&Some(name)))
        .partition(|(name, _)| name.starts_with(BACK));
    left.sort_by_key(|(name, at)| std::cmp::Reverse((**at, *name)));
    let others = usize::try_from(kept.saturating_sub(1)).unwrap_or(usize::MAX);
    let older = left.into_iter().skip(others);
    marks
        .into_iter()
        .chain(older)
        .map(|(name, _)| name.clone())
        .collect()
}
