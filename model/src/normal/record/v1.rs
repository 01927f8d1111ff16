//! Format 1, which nodes may still hold: a sliver without owner, expiry, ways to start, change and move, or room to grow.
//!
//! What it did not say is what a manifest that does not say it means now, so a node that is upgraded finds no
//! difference between what it has applied and what the same manifest asks for.

use serde::Deserialize;

use super::{
    HealthRecord, MountRecord, NormalError, PublishRecord, ResourcesRecord, SliverRecord, StateRecord,
    TemplateRecord,
};
use crate::desired::{CHECKPOINTS, DesiredSliver, Migration, RollbackData, Rollout, Start};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SliverRecordV1 {
    format_version: u32,
    id: String,
    uuid: String,
    kernel: TemplateRecord,
    mounts: Vec<MountRecord>,
    resources: ResourcesRecordV1,
    state: StateRecord,
    health: Option<HealthRecord>,
    publish: Vec<PublishRecord>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResourcesRecordV1 {
    vcpus: u32,
    memory_bytes: u64,
    cpu_weight: u32,
    cpu_cap_percent: Option<u32>,
    disk_bytes: Option<u64>,
    net_bits_per_second: Option<u64>,
}

impl TryFrom<SliverRecordV1> for DesiredSliver {
    type Error = NormalError;

    fn try_from(record: SliverRecordV1) -> Result<Self, NormalError> {
        let resources = record.resources;
        SliverRecord {
            format_version: record.format_version,
            id: record.id,
            uuid: record.uuid,
            kernel: record.kernel,
            mounts: record.mounts,
            resources: ResourcesRecord {
                vcpus: resources.vcpus,
                vcpus_max: None,
                memory_bytes: resources.memory_bytes,
                memory_max_bytes: None,
                cpu_weight: resources.cpu_weight,
                cpu_cap_percent: resources.cpu_cap_percent,
                disk_bytes: resources.disk_bytes,
                inodes: None,
                net_bits_per_second: resources.net_bits_per_second,
            },
            state: record.state,
            health: record.health,
            publish: record.publish,
            tenant: None,
            start: Start::default().into(),
            expires_ms: None,
            moved_from: None,
            rollout: (&Rollout::default()).into(),
            migration: Migration::default().into(),
            rollback: RollbackData::default().into(),
            checkpoints: CHECKPOINTS,
            addresses: Vec::new(),
            failover: false,
        }
        .try_into()
    }
}
