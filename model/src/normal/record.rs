//! A desired sliver as canonical JSON: what is stored, shown and digested.

mod service;
mod v1;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use service::{MigrationRecord, RollbackRecord, RolloutRecord, StartRecord};
use v1::SliverRecordV1;

use crate::desired::{
    CHECKPOINTS, DesiredSliver, Health, LayerRef, Mount, Probe, Publish, Resources, SliverState, TemplateRef,
    WritableKind,
};
use crate::id::{ChannelName, Digest, DomainUuid, NameError, SliverId, TemplateName, TenantName, Timestamp};
use crate::units::{BitRate, Bytes, Millis};

/// Version of the text. A change of meaning raises it. Text of an earlier version is read as what it means in this one;
/// that of a later version is refused, never guessed at.
pub const FORMAT_VERSION: u32 = 2;

/// Longest text that is read: far above what the limits on manifests allow a sliver to become.
const TEXT_LEN_MAX: usize = 64 << 20;

/// Why a text is not a desired sliver.
#[derive(Debug, thiserror::Error)]
pub enum NormalError {
    /// It is longer than any sliver can be.
    #[error("read a desired sliver: {len} bytes are more than the {TEXT_LEN_MAX} allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// It is not JSON of the right shape.
    #[error("read a desired sliver")]
    Json(#[source] serde_json::Error),
    /// It was written by a later version of this program.
    #[error("read a desired sliver of format {found}: this version knows formats 1 to {FORMAT_VERSION}")]
    Version {
        /// The version it has.
        found: u32,
    },
    /// A name or digest in it is not one.
    #[error("read `{field}` of a desired sliver")]
    Name {
        /// Where.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
}

/// Writes a sliver as canonical JSON: fixed order of keys, no space, every field of the format's first
/// day present.
#[must_use]
pub fn to_json(sliver: &DesiredSliver) -> String {
    encode(&SliverRecord::from(sliver))
}

/// Reads what [`to_json`] wrote, in this version of the program or an earlier one.
///
/// # Errors
/// [`NormalError`], for unknown fields and later format versions too: dropping what is not understood would make two
/// different slivers look equal.
pub fn from_json(text: &str) -> Result<DesiredSliver, NormalError> {
    if text.len() > TEXT_LEN_MAX {
        return Err(NormalError::TooLong { len: text.len() });
    }
    let VersionRecord { format_version } = serde_json::from_str(text).map_err(NormalError::Json)?;
    match format_version {
        1 => serde_json::from_str::<SliverRecordV1>(text)
            .map_err(NormalError::Json)?
            .try_into(),
        FORMAT_VERSION => serde_json::from_str::<SliverRecord>(text)
            .map_err(NormalError::Json)?
            .try_into(),
        found => Err(NormalError::Version { found }),
    }
}

/// Serialises structs of strings, numbers and sequences, which JSON always can.
pub(super) fn encode(form: &impl Serialize) -> String {
    serde_json::to_string(form).expect("structs of strings and numbers are always JSON")
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionRecord {
    format_version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SliverRecord {
    format_version: u32,
    id: String,
    uuid: String,
    kernel: TemplateRecord,
    mounts: Vec<MountRecord>,
    resources: ResourcesRecord,
    state: StateRecord,
    health: Option<HealthRecord>,
    publish: Vec<PublishRecord>,
    tenant: Option<String>,
    start: StartRecord,
    expires_ms: Option<u64>,
    moved_from: Option<String>,
    rollout: RolloutRecord,
    migration: MigrationRecord,
    rollback: RollbackRecord,
    /// Younger than the format, as `inodes`: left out where it is what it is by itself.
    #[serde(default = "usual_checkpoints", skip_serializing_if = "is_usual")]
    checkpoints: u32,
    /// Younger too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<IpAddr>,
    /// And this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    failover: bool,
}

fn usual_checkpoints() -> u32 {
    CHECKPOINTS
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_usual(checkpoints: &u32) -> bool {
    *checkpoints == CHECKPOINTS
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TemplateRecord {
    name: String,
    channel: Option<String>,
    digest: String,
    sources: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MountRecord {
    path: String,
    layers: Vec<LayerRecord>,
    writable: WritableRecord,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum LayerRecord {
    Template(TemplateRecord),
    Directory { path: String },
    Files { digest: String },
    Remote { url: String },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum WritableRecord {
    Local,
    None,
    Memory,
    Remote { url: String },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResourcesRecord {
    vcpus: u32,
    /// Younger than the format, as `inodes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vcpus_max: Option<u32>,
    memory_bytes: u64,
    memory_max_bytes: Option<u64>,
    cpu_weight: u32,
    cpu_cap_percent: Option<u32>,
    disk_bytes: Option<u64>,
    /// Younger than the format: left out where it says nothing, so that a sliver without it is what it always was. What
    /// does not know it refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inodes: Option<u64>,
    net_bits_per_second: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StateRecord {
    Running,
    Suspended,
    Stopped,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HealthRecord {
    probe: ProbeRecord,
    interval_ms: u64,
    threshold: u32,
    grace_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum ProbeRecord {
    Http { port: u16, path: String, expect: u16 },
    Tcp { port: u16 },
    Console { marker: String },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PublishRecord {
    guest: u16,
    host: u16,
}

impl From<&DesiredSliver> for SliverRecord {
    fn from(sliver: &DesiredSliver) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            id: sliver.id.to_string(),
            uuid: sliver.uuid.to_string(),
            kernel: (&sliver.kernel).into(),
            mounts: sliver.mounts.iter().map(MountRecord::from).collect(),
            resources: ResourcesRecord {
                vcpus: sliver.resources.vcpus,
                vcpus_max: sliver.resources.vcpus_max,
                memory_bytes: sliver.resources.memory.0,
                memory_max_bytes: sliver.resources.memory_max.map(|most| most.0),
                cpu_weight: sliver.resources.cpu_weight,
                cpu_cap_percent: sliver.resources.cpu_cap_percent,
                disk_bytes: sliver.resources.disk.map(|bytes| bytes.0),
                inodes: sliver.resources.inodes,
                net_bits_per_second: sliver.resources.net_rate.map(|rate| rate.0),
            },
            state: match sliver.state {
                SliverState::Running => StateRecord::Running,
                SliverState::Suspended => StateRecord::Suspended,
                SliverState::Stopped => StateRecord::Stopped,
            },
            health: sliver.health.as_ref().map(HealthRecord::from),
            publish: sliver
                .publish
                .iter()
                .map(|publish| PublishRecord {
                    guest: publish.guest,
                    host: publish.host,
                })
                .collect(),
            tenant: sliver.tenant.as_ref().map(TenantName::to_string),
            start: sliver.start.into(),
            expires_ms: sliver.expires.map(|at| at.0),
            moved_from: sliver.moved_from.as_ref().map(SliverId::to_string),
            rollout: (&sliver.rollout).into(),
            migration: sliver.migration.into(),
            rollback: sliver.rollback.into(),
            checkpoints: sliver.checkpoints,
            addresses: sliver.addresses.clone(),
            failover: sliver.failover,
        }
    }
}

impl From<&TemplateRef> for TemplateRecord {
    fn from(template: &TemplateRef) -> Self {
        Self {
            name: template.name.to_string(),
            channel: template.channel.as_ref().map(ChannelName::to_string),
            digest: template.digest.to_string(),
            sources: template.sources.clone(),
        }
    }
}

impl From<&Mount> for MountRecord {
    fn from(mount: &Mount) -> Self {
        let layer = |layer: &LayerRef| match layer {
            LayerRef::Template(template) => LayerRecord::Template(template.into()),
            LayerRef::Directory { path } => LayerRecord::Directory { path: path.clone() },
            LayerRef::Files { digest } => LayerRecord::Files {
                digest: digest.to_string(),
            },
            LayerRef::Remote { url } => LayerRecord::Remote { url: url.clone() },
        };
        Self {
            path: mount.path.clone(),
            layers: mount.layers.iter().map(layer).collect(),
            writable: match &mount.writable {
                WritableKind::Local => WritableRecord::Local,
                WritableKind::ReadOnly => WritableRecord::None,
                WritableKind::Memory => WritableRecord::Memory,
                WritableKind::Remote { url } => WritableRecord::Remote { url: url.clone() },
            },
        }
    }
}

impl From<&Health> for HealthRecord {
    fn from(health: &Health) -> Self {
        Self {
            probe: match &health.probe {
                Probe::Http { port, path, expect } => ProbeRecord::Http {
                    port: *port,
                    path: path.clone(),
                    expect: *expect,
                },
                Probe::Tcp { port } => ProbeRecord::Tcp { port: *port },
                Probe::Console { marker } => ProbeRecord::Console {
                    marker: marker.clone(),
                },
            },
            interval_ms: health.interval.0,
            threshold: health.threshold,
            grace_ms: health.grace.0,
        }
    }
}

/// Says which field a name error is about.
fn at<T>(field: &'static str, result: Result<T, NameError>) -> Result<T, NormalError> {
    result.map_err(|source| NormalError::Name { field, source })
}

impl TryFrom<SliverRecord> for DesiredSliver {
    type Error = NormalError;

    fn try_from(record: SliverRecord) -> Result<Self, NormalError> {
        Ok(Self {
            id: at("id", SliverId::parse(&record.id))?,
            uuid: at("uuid", DomainUuid::parse(&record.uuid))?,
            kernel: record.kernel.try_into()?,
            mounts: record
                .mounts
                .into_iter()
                .map(Mount::try_from)
                .collect::<Result<_, _>>()?,
            resources: Resources {
                vcpus: record.resources.vcpus,
                vcpus_max: record.resources.vcpus_max,
                memory: Bytes(record.resources.memory_bytes),
                memory_max: record.resources.memory_max_bytes.map(Bytes),
                cpu_weight: record.resources.cpu_weight,
                cpu_cap_percent: record.resources.cpu_cap_percent,
                disk: record.resources.disk_bytes.map(Bytes),
                inodes: record.resources.inodes,
                net_rate: record.resources.net_bits_per_second.map(BitRate),
            },
            state: match record.state {
                StateRecord::Running => SliverState::Running,
                StateRecord::Suspended => SliverState::Suspended,
                StateRecord::Stopped => SliverState::Stopped,
            },
            health: record.health.map(Health::from),
            publish: record
                .publish
                .iter()
                .map(|publish| Publish {
                    guest: publish.guest,
                    host: publish.host,
                })
                .collect(),
            tenant: at(
                "tenant",
                record.tenant.as_deref().map(TenantName::new).transpose(),
            )?,
            start: record.start.into(),
            expires: record.expires_ms.map(Timestamp),
            moved_from: at(
                "movedFrom",
                record.moved_from.as_deref().map(SliverId::parse).transpose(),
            )?,
            rollout: record.rollout.into(),
            migration: record.migration.into(),
            rollback: record.rollback.into(),
            checkpoints: record.checkpoints,
            addresses: record.addresses,
            failover: record.failover,
        })
    }
}

impl TryFrom<TemplateRecord> for TemplateRef {
    type Error = NormalError;

    fn try_from(record: TemplateRecord) -> Result<Self, NormalError> {
        Ok(Self {
            name: at("template name", TemplateName::new(&record.name))?,
            channel: at(
                "channel",
                record.channel.as_deref().map(ChannelName::new).transpose(),
            )?,
            digest: at("template digest", Digest::parse(&record.digest))?,
            sources: record.sources,
        })
    }
}

impl TryFrom<MountRecord> for Mount {
    type Error = NormalError;

    fn try_from(record: MountRecord) -> Result<Self, NormalError> {
        let layer = |layer| {
            Ok(match layer {
                LayerRecord::Template(template) => LayerRef::Template(template.try_into()?),
                LayerRecord::Directory { path } => LayerRef::Directory { path },
                LayerRecord::Files { digest } => LayerRef::Files {
                    digest: at("files digest", Digest::parse(&digest))?,
                },
                LayerRecord::Remote { url } => LayerRef::Remote { url },
            })
        };
        Ok(Self {
            path: record.path,
            layers: record
                .layers
                .into_iter()
                .map(layer)
                .collect::<Result<_, NormalError>>()?,
            writable: match record.writable {
                WritableRecord::Local => WritableKind::Local,
                WritableRecord::None => WritableKind::ReadOnly,
                WritableRecord::Memory => WritableKind::Memory,
                WritableRecord::Remote { url } => WritableKind::Remote { url },
            },
        })
    }
}

impl From<HealthRecord> for Health {
    fn from(record: HealthRecord) -> Self {
        Self {
            probe: match record.probe {
                ProbeRecord::Http { port, path, expect } => Probe::Http { port, path, expect },
                ProbeRecord::Tcp { port } => Probe::Tcp { port },
                ProbeRecord::Console { marker } => Probe::Console { marker },
            },
            interval: Millis(record.interval_ms),
            threshold: record.threshold,
            grace: Millis(record.grace_ms),
        }
    }
}
