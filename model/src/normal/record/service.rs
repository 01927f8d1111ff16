//! The records of how a slice starts, changes and moves.

use serde::{Deserialize, Serialize};

use crate::desired::{Migration, MigrationPolicy, OnFailure, RollbackData, Rollout, Share, Start};
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
    waves: Vec<ShareRecord>,
    max_unavailable: ShareRecord,
    max_failed: ShareRecord,
    max_unreachable: ShareRecord,
    bake_ms: u64,
    on_failure: OnFailureRecord,
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
            waves: rollout.waves.iter().map(|share| (*share).into()).collect(),
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
            waves: record.waves.into_iter().map(Share::from).collect(),
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
