//! What an export was asked, how often and how long it took: counted as calls are answered, read at any time.
//!
//! Counting a call takes two additions and no lock. Times go into a histogram of four steps for each doubling, so a
//! percentile is right to a fifth.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::nfs::ops::Procedure;

/// Durations below this many nanoseconds (as a power of two) share the first step.
const FIRST_BIT: u32 = 7;
/// Steps for each doubling, as a power of two.
const STEP_BITS: u32 = 2;
/// Doublings told apart: from 128 ns to two minutes. What takes longer is in the last step.
const DOUBLINGS: usize = 30;
/// Steps of the histogram.
const STEPS: usize = DOUBLINGS << STEP_BITS;

/// Counts of one export.
pub struct Metrics {
    procedures: [Counters; Procedure::ALL.len()],
}

#[derive(Debug)]
struct Counters {
    errors: AtomicU64,
    bytes: AtomicU64,
    nanos: AtomicU64,
    steps: [AtomicU64; STEPS],
}

/// What became of one call.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// From the moment it was taken until its answer was made.
    pub took: Duration,
    /// Whether the answer is a status other than NFS3_OK.
    pub refused: bool,
    /// Bytes of content that it carried in or out, with what was around them.
    pub bytes: u64,
}

/// The counts of one procedure at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Calls answered.
    pub calls: u64,
    /// Of these, with a status other than NFS3_OK: also a LOOKUP of a name that is not there.
    pub errors: u64,
    /// Bytes carried by READ and WRITE.
    pub bytes: u64,
    /// Time that all of them took together.
    pub nanos: u64,
    /// How many took at most so many nanoseconds and more than the step before says; steps without calls are left out.
    pub steps: Vec<(u64, u64)>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            procedures: std::array::from_fn(|_| Counters {
                errors: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                nanos: AtomicU64::new(0),
                steps: std::array::from_fn(|_| AtomicU64::new(0)),
            }),
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// The step that a duration belongs to.
fn step(nanos: u64) -> usize {
    let scaled = nanos >> (FIRST_BIT - STEP_BITS);
    let Some(octave) = scaled.checked_ilog2().and_then(|log| log.checked_sub(STEP_BITS)) else {
        return 0;
    };
    let within = (scaled >> octave) & ((1 << STEP_BITS) - 1);
    let step = (u64::from(octave) << STEP_BITS) + within;
    usize::try_from(step).unwrap_or(usize::MAX).min(STEPS - 1)
}

/// The longest duration that belongs to a step, in nanoseconds.
fn limit(step: usize) -> u64 {
    let (octave, within) = (step >> STEP_BITS, step & ((1 << STEP_BITS) - 1));
    let above = u64::try_from(within).unwrap_or(0) + (1 << STEP_BITS) + 1;
    let shift = u32::try_from(octave).unwrap_or(0) + FIRST_BIT - STEP_BITS;
    (above << shift) - 1
}

impl Metrics {
    /// Counts a call.
    pub fn note(&self, procedure: Procedure, outcome: Outcome) {
        let Some(counters) = self.procedures.get(procedure as usize) else {
            return;
        };
        let nanos = u64::try_from(outcome.took.as_nanos()).unwrap_or(u64::MAX);
        counters.steps[step(nanos)].fetch_add(1, Ordering::Relaxed);
        counters.nanos.fetch_add(nanos, Ordering::Relaxed);
        if outcome.refused {
            counters.errors.fetch_add(1, Ordering::Relaxed);
        }
        if outcome.bytes > 0 {
            counters.bytes.fetch_add(outcome.bytes, Ordering::Relaxed);
        }
    }

    /// The counts of every procedure that was called at all.
    #[must_use]
    pub fn counts(&self) -> Vec<(Procedure, Counts)> {
        let all = Procedure::ALL.into_iter().zip(&self.procedures);
        all.map(|(procedure, counters)| (procedure, counters.read()))
            .filter(|(_, counts)| counts.calls > 0)
            .collect()
    }
}

impl Counters {
    fn read(&self) -> Counts {
        let counted = self.steps.iter().enumerate().filter_map(|(n, step)| {
            let count = step.load(Ordering::Relaxed);
            (count > 0).then(|| (limit(n), count))
        });
        let steps: Vec<(u64, u64)> = counted.collect();
        Counts {
            calls: steps.iter().map(|(_, count)| count).sum(),
            errors: self.errors.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            nanos: self.nanos.load(Ordering::Relaxed),
            steps,
        }
    }
}

impl Counts {
    /// What came since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let earlier = |limit: u64| {
            let found = before.steps.iter().find(|(other, _)| *other == limit);
            found.map_or(0, |(_, count)| *count)
        };
        let steps = self.steps.iter().filter_map(|&(limit, count)| {
            let count = count.saturating_sub(earlier(limit));
            (count > 0).then_some((limit, count))
        });
        Self {
            calls: self.calls.saturating_sub(before.calls),
            errors: self.errors.saturating_sub(before.errors),
            bytes: self.bytes.saturating_sub(before.bytes),
            nanos: self.nanos.saturating_sub(before.nanos),
            steps: steps.collect(),
        }
    }

    /// The time, in nanoseconds, that so many of a thousand calls took at most; `None` without calls.
    #[must_use]
    pub fn percentile(&self, per_mille: u64) -> Option<u64> {
        let calls: u64 = self.steps.iter().map(|(_, count)| count).sum();
        let wanted = (calls.saturating_mul(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0;
        self.steps
            .iter()
            .find(|(_, count)| {
                seen += count;
                seen >= wanted
            })
            .map(|(limit, _)| *limit)
    }
}

/// The name of a procedure as RFC 1813 writes it.
#[must_use]
pub fn procedure_name(procedure: Procedure) -> &'static str {
    match procedure {
        Procedure::Null => "NULL",
        Procedure::GetAttr => "GETATTR",
        Procedure::SetAttr => "SETATTR",
        Procedure::Lookup => "LOOKUP",
        Procedure::Access => "ACCESS",
        Procedure::ReadLink => "READLINK",
        Procedure::Read => "READ",
        Procedure::Write => "WRITE",
        Procedure::Create => "CREATE",
        Procedure::MkDir => "MKDIR",
        Procedure::Symlink => "SYMLINK",
        Procedure::MkNod => "MKNOD",
        Procedure::Remove => "REMOVE",
        Procedure::RmDir => "RMDIR",
        Procedure::Rename => "RENAME",
        Procedure::Link => "LINK",
        Procedure::ReadDir => "READDIR",
        Procedure::ReadDirPlus => "READDIRPLUS",
        Procedure::FsStat => "FSSTAT",
        Procedure::FsInfo => "FSINFO",
        Procedure::PathConf => "PATHCONF",
        Procedure::Commit => "COMMIT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_the_step_that_ends_after_it() {
        let mut last = 0;
        for n in 0..STEPS {
            assert!(limit(n) > last || n == 0);
            assert_eq!(step(limit(n)), n);
            if n + 1 < STEPS {
                assert_eq!(step(limit(n) + 1), n + 1, "after {}", limit(n));
            }
            // Right to a fifth.
            assert!(n < 4 || (limit(n) - last) * 5 <= limit(n) + 1, "{n}");
            last = limit(n);
        }
        assert_eq!(step(0), 0);
        assert_eq!(step(u64::MAX), STEPS - 1);
    }

    #[test]
    fn percentiles_and_what_came_since() {
        let metrics = Metrics::default();
        let note = |micros, refused| {
            metrics.note(
                Procedure::Lookup,
                Outcome {
                    took: Duration::from_micros(micros),
                    refused,
                    bytes: 0,
                },
            );
        };
        (0..98).for_each(|_| note(10, false));
        note(1000, true);
        note(1000, false);
        let (procedure, counts) = metrics.counts().remove(0);
        assert_eq!(
            (procedure, counts.calls, counts.errors),
            (Procedure::Lookup, 100, 1)
        );
        let micros = |counts: &Counts, per_mille| counts.percentile(per_mille).expect("calls") / 1000;
        assert!((10..=12).contains(&micros(&counts, 500)));
        assert!((10..=12).contains(&micros(&counts, 980)));
        assert!((1000..=1200).contains(&micros(&counts, 990)));
        note(20, false);
        let later = metrics.counts().remove(0).1.since(&counts);
        assert_eq!((later.calls, later.errors, later.nanos), (1, 0, 20_000));
        assert!((20..=24).contains(&micros(&later, 500)));
        assert_eq!(Counts::default().percentile(500), None);
    }
}
