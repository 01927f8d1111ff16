//! Rollouts on the board: one record a slice, `rollout/SLICE`.
//!
//! [`xeno_reconciler::rollout`] says what a record means and how it changes; here is what it looks like on the board, and how a
//! change becomes a transaction: the record is put if it is as it was read, verdict, slots and all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xeno_model::desired::{Matching, OnFailure, Rollout, Share, Wave};
use xeno_model::id::{Digest, NodeName, Revision, SliceName, Timestamp};
use xeno_model::units::Millis;
use xeno_reconciler::rollout::{
    FAILED_MAX, HISTORY_MAX, Line, RolloutKey, RolloutRecord, SKIPPED_MAX, SLOTS_MAX, TEXT_LEN_MAX, Verdict,
};

use crate::board::{
    Board, BoardError, BoardResult, Commit, Entry, Guard, Key, Prefix, Revision as BoardRevision, Txn, Value,
    Write,
};

/// The folder of all rollouts.
pub const ROLLOUTS: &str = "rollout/";

/// Version of the records. Readers refuse a later one: a rollout that is half understood could go past a verdict.
const FORMAT: u32 = 1;

/// Most waves of a policy, as in a manifest.
const WAVES_MAX: usize = 64;

/// A record as it was read: what it says, and what a change of it must find unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What it says; `None`: there is none.
    pub record: Option<RolloutRecord>,
    entry: Option<Entry>,
}

impl Known {
    /// When it was written; `None`: there is none.
    #[must_use]
    pub fn revision(&self) -> Option<BoardRevision> {
        self.entry.as_ref().map(|entry| entry.revision)
    }
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It was made; the record is this now.
    Done(Box<Known>),
    /// It was not: the record has changed since it was read.
    Refused,
}

/// The entry of a slice.
///
/// # Errors
/// [`BoardError::Never`] for a name that is no key, which no slice of a valid model has.
pub fn key(slice: &SliceName) -> BoardResult<Key> {
    Prefix::new(ROLLOUTS)
        .and_then(|folder| folder.key(slice))
        .map_err(|error| BoardError::never(READ, error.to_string()))
}

/// Reads how far the rollout of a slice is.
///
/// # Errors
/// Those of [`Board::get`]; [`BoardError::Never`] for a record that this version does not understand.
pub async fn read(board: &impl Board, slice: &SliceName) -> BoardResult<Known> {
    known(slice.as_str(), board.get(&key(slice)?).await?)
}

/// Changes a record, if it is still as it was read.
///
/// # Errors
/// Those of [`Board::commit`]. After [`BoardError::Unknown`] the record has to be read again: no change does harm that is made
/// late, since it finds the record changed.
pub async fn change(
    board: &impl Board,
    slice: &SliceName,
    known: &Known,
    to: &RolloutRecord,
) -> BoardResult<Changed> {
    let key = key(slice)?;
    let value = encode(to)?;
    let guard = Guard::unchanged(key.clone(), known.entry.as_ref());
    let put = Write::Put {
        key,
        value: value.clone(),
        lease: None,
    };
    let txn =
        Txn::new(vec![guard], vec![put]).map_err(|error| BoardError::never(CHANGE, error.to_string()))?;
    Ok(match board.commit(&txn).await? {
        Commit::Done(revision) => Changed::Done(Box::new(Known {
            record: Some(to.clone()),
            entry: Some(Entry {
                value,
                revision,
                lease: None,
            }),
        })),
        Commit::Refused(_) => Changed::Refused,
    })
}

/// Every slice that has a record, in order. A record that this version does not understand is told as such.
///
/// # Errors
/// Those of [`Board::list`].
pub async fn all(board: &impl Board) -> BoardResult<Vec<(SliceName, BoardResult<Known>)>> {
    let folder = Prefix::new(ROLLOUTS).map_err(|error| BoardError::never(READ, error.to_string()))?;
    let listed = board.list(&folder).await?.entries;
    let named = listed.into_iter().filter_map(|(key, entry)| {
        let name = SliceName::new(key.as_str().strip_prefix(ROLLOUTS)?).ok()?;
        let known = known(name.as_str(), Some(entry));
        Some((name, known))
    });
    Ok(named.collect())
}

fn known(slice: &str, entry: Option<Entry>) -> BoardResult<Known> {
    let record = entry.as_ref().map(|entry| decode(slice, entry.value.as_bytes()));
    Ok(Known {
        record: record.transpose()?,
        entry,
    })
}

const READ: &str = "read a rollout";
const CHANGE: &str = "change a rollout";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    good: Option<StoredKey>,
    to: StoredKey,
    policy: StoredPolicy,
    wave: u32,
    verdict: StoredVerdict,
    slots: BTreeMap<u32, String>,
    failed: Vec<u32>,
    skipped: Vec<u32>,
    history: Vec<StoredLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    revision: String,
    commit: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct StoredPolicy {
    canary: u32,
    waves: Vec<String>,
    max_unavailable: String,
    max_failed: String,
    max_unreachable: String,
    bake_ms: u64,
    on_failure: StoredOnFailure,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StoredOnFailure {
    Rollback,
    Hold,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
enum StoredVerdict {
    Rolling,
    Paused { by: String },
    Held { why: String },
    Failed { why: String },
    Aborted { by: String },
    Done,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct StoredLine {
    at_ms: u64,
    by: String,
    what: String,
}

impl From<&RolloutKey> for StoredKey {
    fn from(key: &RolloutKey) -> Self {
        Self {
            revision: key.revision.to_string(),
            commit: key.commit.to_string(),
        }
    }
}

impl StoredKey {
    fn read(&self) -> Result<RolloutKey, String> {
        Ok(RolloutKey {
            revision: Digest::parse(&self.revision).map_err(|error| error.to_string())?,
            commit: Revision::new(&self.commit).map_err(|error| error.to_string())?,
        })
    }
}

fn encode(record: &RolloutRecord) -> BoardResult<Value> {
    let policy = &record.policy;
    let stored = Stored {
        format: FORMAT,
        good: record.good.as_ref().map(Into::into),
        to: (&record.to).into(),
        policy: StoredPolicy {
            canary: policy.canary,
            waves: policy.waves.iter().map(wave_text).collect::<BoardResult<_>>()?,
            max_unavailable: policy.max_unavailable.to_string(),
            max_failed: policy.max_failed.to_string(),
            max_unreachable: policy.max_unreachable.to_string(),
            bake_ms: policy.bake.0,
            on_failure: match policy.on_failure {
                OnFailure::Rollback => StoredOnFailure::Rollback,
                OnFailure::Hold => StoredOnFailure::Hold,
            },
        },
        wave: record.wave,
        verdict: match record.verdict.clone() {
            Verdict::Rolling => StoredVerdict::Rolling,
            Verdict::Paused { by } => StoredVerdict::Paused { by },
            Verdict::Held { why } => StoredVerdict::Held { why },
            Verdict::Failed { why } => StoredVerdict::Failed { why },
            Verdict::Aborted { by } => StoredVerdict::Aborted { by },
            Verdict::Done => StoredVerdict::Done,
        },
        slots: record
            .slots
            .iter()
            .map(|(number, node)| (*number, node.to_string()))
            .collect(),
        failed: record.failed.iter().copied().collect(),
        skipped: record.skipped.iter().copied().collect(),
        history: record
            .history
            .iter()
            .map(|line| StoredLine {
                at_ms: line.at.0,
                by: line.by.clone(),
                what: line.what.clone(),
            })
            .collect(),
    };
    let bytes = serde_json::to_vec(&stored).map_err(|error| BoardError::never(CHANGE, error.to_string()))?;
    Value::new(bytes).map_err(|error| BoardError::never(CHANGE, error.to_string()))
}

fn decode(slice: &str, bytes: &[u8]) -> BoardResult<RolloutRecord> {
    let wrong = |what: String| {
        let why = format!("the rollout of {slice} cannot be understood, so nothing is done about it: {what}");
        BoardError::never(READ, why)
    };
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    if format != FORMAT {
        return Err(wrong(format!(
            "it has format {format}, and this version of xeno knows {FORMAT}: update xeno on this node"
        )));
    }
    let stored: Stored = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    understand(stored).map_err(wrong)
}

fn understand(stored: Stored) -> Result<RolloutRecord, String> {
    let policy = stored.policy;
    let fits = stored.slots.len() <= SLOTS_MAX as usize
        && stored.failed.len() <= FAILED_MAX
        && stored.skipped.len() <= SKIPPED_MAX
        && stored.history.len() <= HISTORY_MAX
        && policy.waves.len() <= WAVES_MAX
        && stored
            .history
            .iter()
            .all(|line| line.by.len() <= TEXT_LEN_MAX && line.what.len() <= TEXT_LEN_MAX);
    if !fits {
        return Err("it is larger than any record".to_owned());
    }
    let slots = stored.slots.into_iter().map(|(number, node)| {
        let node = NodeName::new(&node).map_err(|error| error.to_string())?;
        Ok((number, node))
    });
    Ok(RolloutRecord {
        good: stored.good.as_ref().map(StoredKey::read).transpose()?,
        to: stored.to.read()?,
        policy: Rollout {
            canary: policy.canary,
            waves: policy
                .waves
                .iter()
                .map(|text| wave(text))
                .collect::<Result<_, _>>()?,
            max_unavailable: share(&policy.max_unavailable)?,
            max_failed: share(&policy.max_failed)?,
            max_unreachable: share(&policy.max_unreachable)?,
            bake: Millis(policy.bake_ms),
            on_failure: match policy.on_failure {
                StoredOnFailure::Rollback => OnFailure::Rollback,
                StoredOnFailure::Hold => OnFailure::Hold,
            },
        },
        wave: stored.wave,
        verdict: match stored.verdict {
            StoredVerdict::Rolling => Verdict::Rolling,
            StoredVerdict::Paused { by } => Verdict::Paused { by },
            StoredVerdict::Held { why } => Verdict::Held { why },
            StoredVerdict::Failed { why } => Verdict::Failed { why },
            StoredVerdict::Aborted { by } => Verdict::Aborted { by },
            StoredVerdict::Done => Verdict::Done,
        },
        slots: slots.collect::<Result<_, String>>()?,
        failed: stored.failed.into_iter().collect(),
        skipped: stored.skipped.into_iter().collect(),
        history: stored
            .history
            .into_iter()
            .map(|line| Line {
                at: Timestamp(line.at_ms),
                by: line.by,
                what: line.what,
            })
            .collect(),
    })
}

/// A share as manifests write it; labels as JSON.
fn wave_text(wave: &Wave) -> BoardResult<String> {
    match wave {
        Wave::Share(share) => Ok(share.to_string()),
        Wave::Match(Matching(labels)) => {
            serde_json::to_string(labels).map_err(|error| BoardError::never(CHANGE, error.to_string()))
        }
    }
}

fn wave(text: &str) -> Result<Wave, String> {
    if text.starts_with('{') {
        let labels = serde_json::from_str(text).map_err(|error| error.to_string())?;
        return Ok(Wave::Match(Matching(labels)));
    }
    share(text).map(Wave::Share)
}

/// A share as manifests write it.
fn share(text: &str) -> Result<Share, String> {
    let wrong = || format!("`{text}` is no share");
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent = percent.parse().map_err(|_| wrong())?;
            (percent <= 100)
                .then_some(Share::Percent(percent))
                .ok_or_else(wrong)
        }
        None => text.parse().map(Share::Count).map_err(|_| wrong()),
    }
}

#[cfg(test)]
mod tests {
    use xeno_reconciler::rollout::{Signed, begin};

    use super::*;
    use crate::board::scripted::ScriptedBoard;

    fn web() -> SliceName {
        SliceName::new("web").unwrap()
    }

    fn to(n: u8) -> RolloutKey {
        RolloutKey {
            revision: Digest([n; 32]),
            commit: Revision::new(&format!("{n:02x}").repeat(20)).unwrap(),
        }
    }

    fn record() -> RolloutRecord {
        let signed = Signed {
            at: Timestamp(7),
            by: "cam-01",
        };
        let first = begin(None, to(1), &Rollout::default(), true, signed);
        let lab = Wave::Match(Matching([("site".to_owned(), "\"lab\"".to_owned())].into()));
        let policy = Rollout {
            waves: vec![
                lab,
                Wave::Share(Share::Count(2)),
                Wave::Share(Share::Percent(100)),
            ],
            ..Rollout::default()
        };
        let mut record = begin(Some(&first), to(2), &policy, false, signed);
        record.slots.insert(3, NodeName::new("cam-01").unwrap());
        record.failed.insert(4);
        record.skipped.insert(5);
        record
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let board = ScriptedBoard::new("a");
        let mut known = read(&board, &web()).await.unwrap();
        assert_eq!(known.record, None);
        let by = || "ada".to_owned();
        let why = || "2 of 6 slivers failed".to_owned();
        for verdict in [
            Verdict::Rolling,
            Verdict::Paused { by: by() },
            Verdict::Held { why: why() },
            Verdict::Failed { why: why() },
            Verdict::Aborted { by: by() },
            Verdict::Done,
        ] {
            let next = RolloutRecord { verdict, ..record() };
            let Changed::Done(changed) = change(&board, &web(), &known, &next).await.unwrap() else {
                panic!("nobody else changes it");
            };
            known = read(&board, &web()).await.unwrap();
            assert_eq!((known.record.as_ref(), &known), (Some(&next), &*changed));
        }
        assert_eq!(all(&board).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn of_two_that_read_the_same_one_changes_it() {
        let board = ScriptedBoard::new("a");
        let known = read(&board, &web()).await.unwrap();
        let first = change(&board, &web(), &known, &record()).await.unwrap();
        assert!(matches!(first, Changed::Done(_)));
        assert_eq!(
            change(&board, &web(), &known, &record()).await.unwrap(),
            Changed::Refused
        );
    }

    #[tokio::test]
    async fn the_largest_record_fits_on_the_board() {
        let mut largest = record();
        let signed = Signed {
            at: Timestamp(u64::MAX),
            by: &"b".repeat(300),
        };
        let long = NodeName::new(&"n".repeat(63)).unwrap();
        largest.slots = (0..SLOTS_MAX)
            .map(|number| (99_000 + number, long.clone()))
            .collect();
        largest.failed = (0..u32::try_from(FAILED_MAX).unwrap())
            .map(|number| 98_000 + number)
            .collect();
        largest.skipped = (0..u32::try_from(SKIPPED_MAX).unwrap())
            .map(|number| 97_000 + number)
            .collect();
        for _ in 0..HISTORY_MAX {
            largest = largest.pause(signed).unwrap();
            largest = largest.resume(signed).unwrap();
        }
        // As many labels as a manifest may name, of characters that take the most room.
        let labels = |wave: u8| {
            let label = move |i: u8| (format!("{:02}{}", 4 * wave + i, "\"".repeat(6)), "\"".repeat(8));
            Wave::Match(Matching((0..4).map(label).collect()))
        };
        largest.policy.waves = (0..32).map(labels).collect();
        let value = encode(&largest).unwrap();
        assert_eq!(decode("web", value.as_bytes()).unwrap(), largest);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let good = String::from_utf8(encode(&record()).unwrap().as_bytes().to_vec()).unwrap();
        assert!(decode("web", good.as_bytes()).is_ok());
        for (from, into) in [
            ("\"format\":1", "\"format\":2"),
            ("\"wave\":0", "\"wave\":0,\"more\":0"),
            ("\"100%\"", "\"101%\""),
            ("{\\\"site\\\"", "{\\\"site"),
            ("cam-01\"}", "no node!\"}"),
        ] {
            let bad = good.replacen(from, into, 1);
            assert_ne!(bad, good, "{from}");
            let error = decode("web", bad.as_bytes()).unwrap_err();
            assert!(matches!(error, BoardError::Never { .. }), "{into}: {error:?}");
        }
    }
}
