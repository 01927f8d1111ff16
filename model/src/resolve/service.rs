//! How slices start, change and move, with the fleet's defaults.

use super::labels::Labels;
use super::{At, Resolver};
use crate::desired::{
    CHECKPOINTS, Matching, Migration, MigrationPolicy, OnFailure, RollbackData, Rollout, Share, Start, Wave,
};
use crate::diagnostic::{Code, Diagnostic};
use crate::manifest::{
    RawDefaults, RawMigration, RawMigrationPolicy, RawOnFailure, RawRollbackData, RawRollout, RawStart,
    RawWave, Stated, Step,
};
use crate::units::Millis;

/// A page that answers each of these times is healthy.
const INTERVAL: Millis = Millis(5_000);
const THRESHOLD: u32 = 3;
/// Most bytes of all labels that the waves of a rollout ask for: its record on the board holds them.
const WAVE_LABELS_LEN_MAX: usize = 2048;
/// A guest on an emulated CPU needs about half a minute to boot.
const GRACE: Millis = Millis(120_000);

/// What slices do that do not say otherwise; `None` where the fleet's word is unclear.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub(super) start: Option<Start>,
    pub(super) interval: Option<Millis>,
    pub(super) threshold: Option<u32>,
    pub(super) grace: Option<Millis>,
    pub(super) rollout: Option<Rollout>,
    pub(super) migration: Option<Migration>,
    pub(super) rollback: Option<RollbackData>,
    pub(super) checkpoints: Option<u32>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            start: Some(Start::default()),
            interval: Some(INTERVAL),
            threshold: Some(THRESHOLD),
            grace: Some(GRACE),
            rollout: Some(Rollout::default()),
            migration: Some(Migration::default()),
            rollback: Some(RollbackData::default()),
            checkpoints: Some(CHECKPOINTS),
        }
    }
}

impl Defaults {
    /// Nothing is known of them.
    pub(super) fn unclear() -> Self {
        Self {
            start: None,
            interval: None,
            threshold: None,
            grace: None,
            rollout: None,
            migration: None,
            rollback: None,
            checkpoints: None,
        }
    }
}

pub(super) fn start(raw: RawStart) -> Start {
    match raw {
        RawStart::Boot => Start::Boot,
        RawStart::Resume => Start::Resume,
    }
}

pub(super) fn rollback(raw: RawRollbackData) -> RollbackData {
    match raw {
        RawRollbackData::Keep => RollbackData::Keep,
        RawRollbackData::Restore => RollbackData::Restore,
    }
}

/// What a field says, or what holds where it is left out; `None` if either is unclear.
fn or<T: Clone, R>(stated: &Stated<R>, default: Option<T>, of: impl FnOnce(&R) -> Option<T>) -> Option<T> {
    match stated {
        Stated::Absent => default,
        Stated::Unclear => None,
        Stated::Given(given) => of(given),
    }
}

impl<'a> Resolver<'a> {
    pub(super) fn defaults(&mut self, at: At<'a>, raw: &'a Stated<RawDefaults>, labels: &Labels) -> Defaults {
        let raw = match raw {
            Stated::Absent => return Defaults::default(),
            Stated::Unclear => return Defaults::unclear(),
            Stated::Given(raw) => raw,
        };
        let plain = Defaults::default();
        let base = [Step::Key("spec"), Step::Key("defaults")];
        let (interval, threshold, grace) = match &raw.health {
            Stated::Absent => (plain.interval, plain.threshold, plain.grace),
            Stated::Unclear => (None, None, None),
            Stated::Given(health) => (
                or(&health.interval, plain.interval, |interval| Some(interval.0)),
                or(&health.threshold, plain.threshold, |threshold| Some(*threshold)),
                or(&health.grace, plain.grace, |grace| Some(grace.0)),
            ),
        };
        Defaults {
            start: or(&raw.start, plain.start, |raw| Some(start(*raw))),
            interval,
            threshold,
            grace,
            rollout: self.rollout(at, &base, &raw.rollout, plain.rollout.as_ref(), labels),
            migration: migration(&raw.migration, plain.migration),
            rollback: or(&raw.rollback, plain.rollback, |raw| {
                or(&raw.data, plain.rollback, |data| Some(rollback(*data)))
            }),
            checkpoints: or(&raw.rollback, plain.checkpoints, |raw| {
                or(&raw.checkpoints, plain.checkpoints, |kept| Some(*kept))
            }),
        }
    }

    /// A rollout, written below `base`.
    pub(super) fn rollout(
        &mut self,
        at: At<'a>,
        base: &[Step<'_>],
        raw: &'a Stated<RawRollout>,
        default: Option<&Rollout>,
        labels: &Labels,
    ) -> Option<Rollout> {
        let raw = match raw {
            Stated::Absent => return default.cloned(),
            Stated::Unclear => return None,
            Stated::Given(raw) => raw,
        };
        let path = |field| [base, &[Step::Key("rollout"), Step::Key(field)]].concat();
        let waves = match &raw.waves {
            Stated::Absent => default.map(|default| default.waves.clone()),
            Stated::Unclear => None,
            Stated::Given(waves) => {
                let waves = self.waves(at, &path("waves"), waves, labels);
                if let Some(waves) = &waves {
                    self.check_waves(at, &path("waves"), waves);
                }
                waves
            }
        };
        let share = |stated: &Stated<_>, default: Option<Share>| {
            or(stated, default, |share: &crate::manifest::Text<Share>| {
                Some(share.0)
            })
        };
        let max_unavailable = share(
            &raw.max_unavailable,
            default.map(|default| default.max_unavailable),
        );
        if let (Stated::Given(_), Some(Share::Count(0) | Share::Percent(0))) =
            (&raw.max_unavailable, max_unavailable)
        {
            let message = "with no sliver allowed to be down, nothing could ever change";
            let finding = Diagnostic::error(Code::BadValue, at.place(&path("maxUnavailable")), message)
                .help("allow at least 1");
            self.findings.push(finding);
        }
        Some(Rollout {
            canary: or(&raw.canary, default.map(|default| default.canary), |canary| {
                Some(*canary)
            })?,
            waves: waves?,
            max_unavailable: max_unavailable?,
            max_failed: share(&raw.max_failed, default.map(|default| default.max_failed))?,
            max_unreachable: share(
                &raw.max_unreachable,
                default.map(|default| default.max_unreachable),
            )?,
            bake: or(&raw.bake, default.map(|default| default.bake), |bake| {
                Some(bake.0)
            })?,
            on_failure: or(
                &raw.on_failure,
                default.map(|default| default.on_failure),
                |on_failure| {
                    Some(match on_failure {
                        RawOnFailure::Rollback => OnFailure::Rollback,
                        RawOnFailure::Hold => OnFailure::Hold,
                    })
                },
            )?,
        })
    }

    /// `None` if some of them cannot be told.
    fn waves(
        &mut self,
        at: At<'a>,
        path: &[Step<'_>],
        raw: &'a [Option<RawWave>],
        labels: &Labels,
    ) -> Option<Vec<Wave>> {
        let mut waves = Vec::with_capacity(raw.len());
        for (i, wave) in raw.iter().enumerate() {
            waves.push(match wave {
                None => None,
                Some(RawWave::Share(share)) => Some(Wave::Share(*share)),
                Some(RawWave::Match(wave)) => wave.matching.as_ref().and_then(|matching| {
                    let path = [path, &[Step::Index(i), Step::Key("match")]].concat();
                    self.node_matching(at, &path, matching, labels).map(Wave::Match)
                }),
            });
        }
        waves.into_iter().collect()
    }

    /// Shares rise, as far as they can be compared, every wave can bring somebody, and all slivers are in one.
    fn check_waves(&mut self, at: At<'a>, path: &[Step<'_>], waves: &[Wave]) {
        let step = |i| [path, &[Step::Index(i)]].concat();
        let rises = |before: Share, after: Share| match (before, after) {
            (Share::Count(before), Share::Count(after)) => before < after,
            (Share::Percent(before), Share::Percent(after)) => before < after,
            (Share::Percent(before), Share::Count(_)) => before < 100,
            (Share::Count(_), Share::Percent(after)) => after > 0,
        };
        let shares: Vec<(usize, Share)> = waves.iter().enumerate().filter_map(share_of).collect();
        let falls = |pair: &&[(usize, Share)]| !rises(pair[0].1, pair[1].1);
        if let Some([(_, before), (i, after)]) = shares.windows(2).find(falls) {
            let message = format!("the wave {after} goes no further than the one before, {before}");
            let finding = Diagnostic::error(Code::BadValue, at.place(&step(*i)), message)
                .help("each wave says how far it goes in all: waves: [10%, 50%, 100%]");
            self.findings.push(finding);
        }
        let nobody = |(_, share): &&(usize, Share)| matches!(share, Share::Count(0) | Share::Percent(0));
        if let Some((i, _)) = shares.iter().find(nobody) {
            let message = "a wave needs at least one sliver";
            self.findings
                .push(Diagnostic::error(Code::BadValue, at.place(&step(*i)), message));
        }
        for (i, wave) in waves.iter().enumerate() {
            let Wave::Match(matching) = wave else { continue };
            let message = if matching.0.is_empty() {
                "this wave names no label, so it takes all slivers".to_owned()
            } else if waves[..i].contains(wave) {
                format!("the wave {matching} has come before, and left nobody")
            } else if waves[..i].contains(&Wave::Share(Share::Percent(100))) {
                "the wave before takes all slivers, so nobody is left".to_owned()
            } else {
                continue;
            };
            let finding = Diagnostic::error(Code::BadValue, at.place(&step(i)), message)
                .help("those whom no wave names come last by themselves: waves: [{ match: { site: lab } }]");
            self.findings.push(finding);
        }
        let bytes = waves.iter().map(|wave| match wave {
            Wave::Share(_) => 0,
            Wave::Match(Matching(labels)) => labels.iter().map(|(key, value)| key.len() + value.len()).sum(),
        });
        let bytes: usize = bytes.sum();
        if bytes > WAVE_LABELS_LEN_MAX {
            let message = format!(
                "the labels of all waves are {bytes} bytes, and {WAVE_LABELS_LEN_MAX} fit on the board"
            );
            self.findings
                .push(Diagnostic::error(Code::Limit, at.place(path), message));
        }
        // Whom no wave names comes last, but a share says how many.
        if let None | Some(Wave::Share(Share::Count(_) | Share::Percent(..100))) = waves.last() {
            let place = match waves.len() {
                0 => at.place(path),
                n => at.place(&step(n - 1)),
            };
            let finding = Diagnostic::error(Code::BadValue, place, "the last wave must reach all slivers")
                .help("end with 100%: waves: [25%, 100%]");
            self.findings.push(finding);
        }
    }
}

/// The share that a wave is, if it is one, and its place.
fn share_of((i, wave): (usize, &Wave)) -> Option<(usize, Share)> {
    match wave {
        Wave::Share(share) => Some((i, *share)),
        Wave::Match(_) => None,
    }
}

/// How a slice's slivers move; `None` if that cannot be told.
pub(super) fn migration(raw: &Stated<RawMigration>, default: Option<Migration>) -> Option<Migration> {
    or(raw, default, |raw| {
        Some(Migration {
            policy: or(&raw.policy, default.map(|default| default.policy), |policy| {
                Some(match policy {
                    RawMigrationPolicy::Live => MigrationPolicy::Live,
                    RawMigrationPolicy::Suspend => MigrationPolicy::Suspend,
                    RawMigrationPolicy::Restart => MigrationPolicy::Restart,
                })
            })?,
            downtime: or(
                &raw.downtime,
                default.map(|default| default.downtime),
                |downtime| Some(downtime.0),
            )?,
            bandwidth: or(&raw.bandwidth, default.map(|default| default.bandwidth), |rate| {
                Some(Some(rate.0))
            })?,
        })
    })
}
