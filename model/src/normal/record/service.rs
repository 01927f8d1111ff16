//! The records of how a slice starts, changes and moves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::desired::{
    Matching, Migration, MigrationPolicy, OnFailure, RollbackData, Rollout, Share, Start, Wave,
};
use crate::units::{ByteRate, Millis};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum StartRecord {
    Boot,
    Resume,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RolloutRecord {
    canary: u32,
    waves: Vec<WaveRecord>,
    max_unavailable: ShareRecord,
    max_failed: ShareRecord,
    max_unreachable: ShareRecord,
    bake_ms: u64,
    on_failure: OnFailureRecord,
}

/// A wave that is a share is written as one.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum WaveRecord {
    Count(u32),
    Percent(u8),
    Match(BTreeMap<String, String>),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ShareRecord {
    Count(u32),
    Percent(u8),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum OnFailureRecord {
    Rollback,
    Hold,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MigrationRecord {
    policy: PolicyRecord,
    downtime_ms: u64,
    bandwidth_bytes_per_second: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum PolicyRecord {
    Live,
    Suspend,
    Restart,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum RollbackRecord {
    Keep,
    Restore,
}

/// Two enums of the same words, in both directions.
macro_rules! alike {
    ($record:ident = $core:ident { $($name:ident),+ }) => {
        impl From<$core> for $record {
            fn from(value: $core) -> Self {
                match value {
                    $($core::$name => Self::$name,)+
                }
            }
        }

        impl From<$record> for $core {
            fn from(record: $record) -> Self {
                match record {
                    $($record::$name => Self::$name,)+
                }
            }
        }
    };
}

alike!(StartRecord = Start { Boot, Resume });
alike!(OnFailureRecord = OnFailure { Rollback, Hold });
alike!(
    PolicyRecord = MigrationPolicy {
        Live,
        Suspend,
        Restart
    }
);
alike!(RollbackRecord = RollbackData { Keep, Restore });

impl From<&Wave> for WaveRecord {
    fn from(wave: &Wave) -> Self {
        match wave {
            Wave::Share(Share::Count(count)) => Self::Count(*count),
            Wave::Share(Share::Percent(percent)) => Self::Percent(*percent),
            Wave::Match(Matching(labels)) => Self::Match(labels.clone()),
        }
    }
}

impl From<WaveRecord> for Wave {
    fn from(record: WaveRecord) -> Self {
        match record {
            WaveRecord::Count(count) => Self::Share(Share::Count(count)),
            WaveRecord::Percent(percent) => Self::Share(Share::Percent(percent)),
            WaveRecord::Match(labels) => Self::Match(Matching(labels)),
        }
    }
}

impl From<Share> for ShareRecord {
    fn from(share: Share) -> Self {
        match share {
            Share::Count(count) => Self::Count(count),
            Share::Percent(percent) => Self::Percent(percent),
        }
    }
}

impl From<ShareRecord> for Share {
    fn from(record: ShareRecord) -> Self {
        match record {
            ShareRecord::Count(count) => Self::Count(count),
            ShareRecord::Percent(percent) => Self::Percent(percent),
        }
    }
}

impl From<&Rollout> for RolloutRecord {
    fn from(rollout: &Rollout) -> Self {
        Self {
            canary: rollout.canary,
            waves: rollout.waves.iter().map(Into::into).collect(),
            max_unavailable: rollout.max_unavailable.into(),
            max_failed: rollout.max_failed.into(),
            max_unreachable: rollout.max_unreachable.into(),
            bake_ms: rollout.bake.0,
            on_failure: rollout.on_failure.into(),
        }
    }
}

impl From<RolloutRecord> for Rollout {
    fn from(record: RolloutRecord) -> Self {
        Self {
            canary: record.canary,
            waves: record.waves.into_iter().map(Wave::from).collect(),
            max_unavailable: record.max_unavailable.into(),
            max_failed: record.max_failed.into(),
            max_unreachable: record.max_unreachable.into(),
            bake: Millis(record.bake_ms),
            on_failure: record.on_failure.into(),
        }
    }
}

impl From<Migration> for MigrationRecord {
    fn from(migration: Migration) -> Self {
        Self {
            policy: migration.policy.into(),
            downtime_ms: migration.downtime.0,
            bandwidth_bytes_per_second: migration.bandwidth.map(|rate| rate.0),
        }
    }
}

impl From<MigrationRecord> for Migration {
    fn from(record: MigrationRecord) -> Self {
        Self {
            policy: record.policy.into(),
            downtime: Millis(record.downtime_ms),
            bandwidth: record.bandwidth_bytes_per_second.map(ByteRate),
        }
    }
}
