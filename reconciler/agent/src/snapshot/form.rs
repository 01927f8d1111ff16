//! The form of a snapshot on the wire and in files.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use xeno_model::desired::{Access, Publish, Remote};
use xeno_model::id::{
    Digest, DomainUuid, Epoch, Generation, MigrationId, NameError, NodeName, Revision, SliceName, SliverId,
    Timestamp,
};
use xeno_model::normal;
use xeno_model::observed::{
    Ability, DomainState, Domains, HealthVerdict, LayerLimits, Leasing, Limits, ObservedDomain,
    ObservedImage, ObservedNode, ObservedStorage, RemoteState, Seen, Stranger,
};
use xeno_model::units::{BitRate, Bytes};
use xeno_reconciler::change::AppliedSliver;
use xeno_reconciler::freeze::{Freeze, FreezeScope};

use super::{FORMAT_VERSION, Snapshot, SnapshotError};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    format_version: u32,
    node: String,
    at_ms: u64,
    revision: Option<String>,
    generation: u64,
    applied_generation: u64,
    removed_recently: u32,
    tombstone_ms: u64,
    domains: Facet<DomainsForm>,
    storage: Facet<BTreeMap<String, StorageForm>>,
    /// Slivers whose storage could not be looked at, and why.
    #[serde(default)]
    storage_unseen: BTreeMap<String, String>,
    templates: Facet<BTreeSet<String>>,
    file_layers: Facet<BTreeSet<String>>,
    /// Not in what an older agent wrote.
    #[serde(default)]
    remotes: Option<Facet<Vec<RemoteForm>>>,
    health: BTreeMap<String, HealthForm>,
    applied: BTreeMap<String, AppliedForm>,
    #[serde(default)]
    restarts: BTreeMap<String, Vec<u64>>,
    #[serde(default)]
    freezes: Vec<FreezeForm>,
}

/// `{"known": …}` or `{"unknown": "why"}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Facet<T> {
    Known(T),
    Unknown(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RemoteForm {
    url: String,
    writable: bool,
    #[serde(default)]
    silent: Option<SilentForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SilentForm {
    since_ms: u64,
    why: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DomainsForm {
    ours: BTreeMap<String, DomainForm>,
    #[serde(default)]
    images: BTreeMap<String, ImageForm>,
    #[serde(default)]
    able: BTreeSet<AbilityForm>,
    strangers: Vec<StrangerForm>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum AbilityForm {
    Vcpus,
    Memory,
    Ports,
    CpuWeight,
    CpuCap,
    NetRate,
    Suspend,
    Move,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DomainForm {
    uuid: String,
    state: StateForm,
    booted: String,
    memory_mib: u64,
    memory_max_mib: u64,
    vcpus: u32,
    cpu_weight: u32,
    cpu_cap_percent: Option<u32>,
    net_rate_bits: Option<u64>,
    publish: Vec<(u16, u16)>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StateForm {
    Running,
    Paused,
    Stopping,
    Crashed,
    /// The epoch under which it ran.
    Kept(u64),
    /// The migration that brings it, in hexadecimal.
    Copy(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImageForm {
    uuid: String,
    boot: String,
    memory_mib: u64,
    memory_max_mib: u64,
    publish: Vec<(u16, u16)>,
    mark: Option<String>,
    bytes: u64,
    at_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StrangerForm {
    name: String,
    memory_mib: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StorageForm {
    on_disk: bool,
    open_epoch: Option<u64>,
    limits: BTreeSet<Option<u64>>,
    /// Bytes and inodes; younger than `limits`, which says the bytes alone.
    #[serde(default)]
    layer_limits: Option<BTreeSet<(Option<u64>, Option<u64>)>>,
    #[serde(default)]
    shares: BTreeSet<u32>,
    /// When each was made, in milliseconds since 1970.
    #[serde(default)]
    checkpoints: BTreeMap<String, u64>,
    stack: Option<String>,
    exported: bool,
    #[serde(default)]
    parked: bool,
    #[serde(default)]
    lease: LeasingForm,
    bytes: u64,
    tombstone_ms: Option<u64>,
    #[serde(default)]
    mark: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum LeasingForm {
    #[default]
    Free,
    Holds,
    Lapsed,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum HealthForm {
    Healthy,
    Starting,
    Unhealthy(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AppliedForm {
    desired: serde_json::Value,
    epoch: u64,
    complete: bool,
    #[serde(default)]
    at_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FreezeForm {
    scope: ScopeForm,
    reason: String,
    by: String,
    since_ms: u64,
    until_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "camelCase")]
enum ScopeForm {
    Node,
    Slice(String),
    Sliver(String),
}

pub(super) fn write(snapshot: &Snapshot) -> serde_json::Value {
    let observed = &snapshot.observed;
    let health = observed.health.iter().map(|(sliver, verdict)| {
        let verdict = match verdict {
            HealthVerdict::Healthy => HealthForm::Healthy,
            HealthVerdict::Starting => HealthForm::Starting,
            HealthVerdict::Unhealthy { why } => HealthForm::Unhealthy(why.clone()),
        };
        (sliver.to_string(), verdict)
    });
    let applied = snapshot.applied.iter().map(|(sliver, applied)| {
        let form = AppliedForm {
            desired: serde_json::from_str(&normal::to_json(&applied.desired)).unwrap_or_default(),
            epoch: applied.epoch.0,
            complete: applied.complete,
            at_ms: applied.at.0,
        };
        (sliver.to_string(), form)
    });
    let restarts = snapshot.restarts.iter();
    let restarts =
        restarts.map(|(sliver, times)| (sliver.to_string(), times.iter().map(|at| at.0).collect()));
    let digests = |digests: &BTreeSet<Digest>| digests.iter().map(Digest::to_string).collect();
    let document = Document {
        format_version: FORMAT_VERSION,
        node: observed.node.to_string(),
        at_ms: observed.at.0,
        revision: snapshot.revision.as_ref().map(ToString::to_string),
        generation: snapshot.generation.0,
        applied_generation: snapshot.applied_generation.0,
        removed_recently: snapshot.removed_recently,
        tombstone_ms: snapshot.tombstone_ms,
        domains: facet(&observed.domains, write_domains),
        storage: facet(&observed.storage, |_| {
            let seen = observed.storage_seen();
            seen.map(|(sliver, one)| (sliver.to_string(), write_storage(one)))
                .collect()
        }),
        storage_unseen: unseen_slivers(&observed.storage),
        templates: facet(&observed.templates, digests),
        file_layers: facet(&observed.file_layers, digests),
        remotes: Some(facet(&observed.remotes, write_remotes)),
        health: health.collect(),
        applied: applied.collect(),
        restarts: restarts.collect(),
        freezes: snapshot.freezes.iter().map(write_freeze).collect(),
    };
    serde_json::to_value(document).expect("names, numbers and texts are written as JSON")
}

fn unseen_slivers<T>(seen: &Seen<BTreeMap<SliverId, Seen<T>>>) -> BTreeMap<String, String> {
    let all = seen.known().into_iter().flatten();
    let unseen = all.filter_map(|(sliver, one)| match one {
        Seen::Known(_) => None,
        Seen::Unknown { why } => Some((sliver.to_string(), why.clone())),
    });
    unseen.collect()
}

fn facet<T, U>(seen: &Seen<T>, write: impl FnOnce(&T) -> U) -> Facet<U> {
    match seen {
        Seen::Known(value) => Facet::Known(write(value)),
        Seen::Unknown { why } => Facet::Unknown(why.clone()),
    }
}

fn write_remotes(remotes: &BTreeMap<Remote, RemoteState>) -> Vec<RemoteForm> {
    let form = |(remote, state): (&Remote, &RemoteState)| RemoteForm {
        url: remote.url.clone(),
        writable: remote.access == Access::ReadWrite,
        silent: match state {
            RemoteState::Answers => None,
            RemoteState::Silent { since, why } => Some(SilentForm {
                since_ms: since.0,
                why: why.clone(),
            }),
        },
    };
    remotes.iter().map(form).collect()
}

fn read_remotes(forms: Vec<RemoteForm>) -> BTreeMap<Remote, RemoteState> {
    let read = |form: RemoteForm| {
        let access = if form.writable {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        let state = match form.silent {
            None => RemoteState::Answers,
            Some(silent) => RemoteState::Silent {
                since: Timestamp(silent.since_ms),
                why: silent.why,
            },
        };
        let url = form.url;
        (Remote { url, access }, state)
    };
    forms.into_iter().map(read).collect()
}

fn write_domains(domains: &Domains) -> DomainsForm {
    let ours = domains.ours.iter().map(|(sliver, domain)| {
        let form = DomainForm {
            uuid: domain.uuid.to_string(),
            state: match domain.state {
                DomainState::Running => StateForm::Running,
                DomainState::Paused => StateForm::Paused,
                DomainState::Stopping => StateForm::Stopping,
                DomainState::Crashed => StateForm::Crashed,
                DomainState::Kept { epoch } => StateForm::Kept(epoch.0),
                DomainState::Copy { migration } => StateForm::Copy(migration.to_string()),
            },
            booted: domain.booted.to_string(),
            memory_mib: domain.memory_mib,
            memory_max_mib: domain.memory_max_mib,
            vcpus: domain.vcpus,
            cpu_weight: domain.limits.cpu_weight,
            cpu_cap_percent: domain.limits.cpu_cap_percent,
            net_rate_bits: domain.limits.net_rate.map(|rate| rate.0),
            publish: ports(&domain.publish),
        };
        (sliver.to_string(), form)
    });
    let images = domains.images.iter().map(|(sliver, image)| {
        let form = ImageForm {
            uuid: image.uuid.to_string(),
            boot: image.boot.to_string(),
            memory_mib: image.memory_mib,
            memory_max_mib: image.memory_max_mib,
            publish: ports(&image.publish),
            mark: image.mark.map(|mark| mark.to_string()),
            bytes: image.bytes,
            at_ms: image.at.0,
        };
        (sliver.to_string(), form)
    });
    let able = domains.able.iter().map(|ability| match ability {
        Ability::Vcpus => AbilityForm::Vcpus,
        Ability::Memory => AbilityForm::Memory,
        Ability::Ports => AbilityForm::Ports,
        Ability::CpuWeight => AbilityForm::CpuWeight,
        Ability::CpuCap => AbilityForm::CpuCap,
        Ability::NetRate => AbilityForm::NetRate,
        Ability::Suspend => AbilityForm::Suspend,
        Ability::Move => AbilityForm::Move,
    });
    let strangers = domains.strangers.iter().map(|stranger| StrangerForm {
        name: stranger.name.clone(),
        memory_mib: stranger.memory_mib,
    });
    DomainsForm {
        ours: ours.collect(),
        images: images.collect(),
        able: able.collect(),
        strangers: strangers.collect(),
    }
}

fn ports(publish: &[Publish]) -> Vec<(u16, u16)> {
    publish.iter().map(|port| (port.guest, port.host)).collect()
}

fn write_storage(storage: &ObservedStorage) -> StorageForm {
    StorageForm {
        on_disk: storage.on_disk,
        open_epoch: storage.open.map(|epoch| epoch.0),
        limits: storage
            .limits
            .iter()
            .map(|limit| limit.bytes.map(|bytes| bytes.0))
            .collect(),
        layer_limits: Some(
            storage
                .limits
                .iter()
                .map(|limit| (limit.bytes.map(|bytes| bytes.0), limit.inodes))
                .collect(),
        ),
        shares: storage.shares.clone(),
        checkpoints: storage
            .checkpoints
            .iter()
            .map(|(name, at)| (name.clone(), at.0))
            .collect(),
        stack: storage.stack.map(|stack| stack.to_string()),
        exported: storage.exported,
        parked: storage.parked,
        lease: match storage.lease {
            Leasing::Free => LeasingForm::Free,
            Leasing::Holds => LeasingForm::Holds,
            Leasing::Lapsed => LeasingForm::Lapsed,
        },
        bytes: storage.bytes,
        tombstone_ms: storage.tombstone.map(|at| at.0),
        mark: storage.mark.map(|mark| mark.to_string()),
    }
}

fn write_freeze(freeze: &Freeze) -> FreezeForm {
    FreezeForm {
        scope: match &freeze.scope {
            FreezeScope::Node => ScopeForm::Node,
            FreezeScope::Slice(slice) => ScopeForm::Slice(slice.to_string()),
            FreezeScope::Sliver(sliver) => ScopeForm::Sliver(sliver.to_string()),
        },
        reason: freeze.reason.clone(),
        by: freeze.by.clone(),
        since_ms: freeze.since.0,
        until_ms: freeze.until.map(|until| until.0),
    }
}

fn named<T>(what: &'static str, read: Result<T, NameError>) -> Result<T, SnapshotError> {
    read.map_err(|source| SnapshotError::Name { what, source })
}

fn sliver(text: &str) -> Result<SliverId, SnapshotError> {
    named("a sliver", SliverId::parse_embodiment(text))
}

fn digest(text: &str) -> Result<Digest, SnapshotError> {
    named("a digest", Digest::parse(text))
}

fn slivers<T, U>(
    form: BTreeMap<String, T>,
    read: impl Fn(T) -> Result<U, SnapshotError>,
) -> Result<BTreeMap<SliverId, U>, SnapshotError> {
    form.into_iter()
        .map(|(name, one)| Ok((sliver(&name)?, read(one)?)))
        .collect()
}

fn seen<T, U>(
    facet: Facet<T>,
    read: impl FnOnce(T) -> Result<U, SnapshotError>,
) -> Result<Seen<U>, SnapshotError> {
    Ok(match facet {
        Facet::Known(form) => Seen::Known(read(form)?),
        Facet::Unknown(why) => Seen::Unknown { why },
    })
}

pub(super) fn read(value: serde_json::Value) -> Result<Snapshot, SnapshotError> {
    let form: Document = serde_json::from_value(value).map_err(SnapshotError::Json)?;
    let digests = |texts: BTreeSet<String>| texts.iter().map(|text| digest(text)).collect();
    let observed = ObservedNode {
        node: named("the node", NodeName::new(&form.node))?,
        at: Timestamp(form.at_ms),
        domains: seen(form.domains, read_domains)?,
        storage: seen(form.storage, |storage| {
            let read = |one| Ok(Seen::Known(read_storage(one)?));
            let mut all = slivers(storage, read)?;
            all.extend(slivers(form.storage_unseen, |why| Ok(Seen::Unknown { why }))?);
            Ok(all)
        })?,
        templates: seen(form.templates, digests)?,
        file_layers: seen(form.file_layers, digests)?,
        remotes: match form.remotes {
            Some(remotes) => seen(remotes, |remotes| Ok(read_remotes(remotes)))?,
            None => Seen::Unknown {
                why: "the agent that wrote this did not look".to_owned(),
            },
        },
        health: slivers(form.health, |verdict| {
            Ok(match verdict {
                HealthForm::Healthy => HealthVerdict::Healthy,
                HealthForm::Starting => HealthVerdict::Starting,
                HealthForm::Unhealthy(why) => HealthVerdict::Unhealthy { why },
            })
        })?,
    };
    let applied = form.applied.into_iter().map(|(name, form)| {
        let sliver = sliver(&name)?;
        let desired = normal::from_json(&form.desired.to_string());
        let desired = desired.map_err(|source| SnapshotError::Applied {
            sliver: sliver.clone(),
            source,
        })?;
        let applied = AppliedSliver {
            desired,
            epoch: Epoch(form.epoch),
            complete: form.complete,
            at: Timestamp(form.at_ms),
        };
        Ok((sliver, applied))
    });
    let revision = form.revision.as_deref().map(Revision::new).transpose();
    let restarts = |times: Vec<u64>| Ok(times.into_iter().map(Timestamp).collect());
    Ok(Snapshot {
        observed,
        applied: applied.collect::<Result<_, SnapshotError>>()?,
        revision: named("the commit", revision)?,
        generation: Generation(form.generation),
        applied_generation: Generation(form.applied_generation),
        removed_recently: form.removed_recently,
        tombstone_ms: form.tombstone_ms,
        restarts: slivers(form.restarts, restarts)?,
        freezes: form
            .freezes
            .into_iter()
            .map(read_freeze)
            .collect::<Result<_, _>>()?,
    })
}

fn read_domains(form: DomainsForm) -> Result<Domains, SnapshotError> {
    let able = form.able.into_iter().map(|ability| match ability {
        AbilityForm::Vcpus => Ability::Vcpus,
        AbilityForm::Memory => Ability::Memory,
        AbilityForm::Ports => Ability::Ports,
        AbilityForm::CpuWeight => Ability::CpuWeight,
        AbilityForm::CpuCap => Ability::CpuCap,
        AbilityForm::NetRate => Ability::NetRate,
        AbilityForm::Suspend => Ability::Suspend,
        AbilityForm::Move => Ability::Move,
    });
    let strangers = form.strangers.into_iter().map(|stranger| Stranger {
        name: stranger.name,
        memory_mib: stranger.memory_mib,
    });
    Ok(Domains {
        ours: slivers(form.ours, read_domain)?,
        images: slivers(form.images, read_image)?,
        able: able.collect(),
        strangers: strangers.collect(),
    })
}

fn read_domain(form: DomainForm) -> Result<ObservedDomain, SnapshotError> {
    Ok(ObservedDomain {
        uuid: named("a domain's UUID", DomainUuid::parse(&form.uuid))?,
        state: match form.state {
            StateForm::Running => DomainState::Running,
            StateForm::Paused => DomainState::Paused,
            StateForm::Stopping => DomainState::Stopping,
            StateForm::Crashed => DomainState::Crashed,
            StateForm::Kept(epoch) => DomainState::Kept { epoch: Epoch(epoch) },
            StateForm::Copy(migration) => DomainState::Copy {
                migration: named("a migration", MigrationId::parse(&migration))?,
            },
        },
        booted: digest(&form.booted)?,
        memory_mib: form.memory_mib,
        memory_max_mib: form.memory_max_mib,
        vcpus: form.vcpus,
        limits: Limits {
            cpu_weight: form.cpu_weight,
            cpu_cap_percent: form.cpu_cap_percent,
            net_rate: form.net_rate_bits.map(BitRate),
        },
        publish: published(form.publish),
    })
}

fn read_image(form: ImageForm) -> Result<ObservedImage, SnapshotError> {
    Ok(ObservedImage {
        uuid: named("a domain's UUID", DomainUuid::parse(&form.uuid))?,
        boot: digest(&form.boot)?,
        memory_mib: form.memory_mib,
        memory_max_mib: form.memory_max_mib,
        publish: published(form.publish),
        mark: form.mark.as_deref().map(digest).transpose()?,
        bytes: form.bytes,
        at: Timestamp(form.at_ms),
    })
}

fn published(ports: Vec<(u16, u16)>) -> Vec<Publish> {
    ports
        .into_iter()
        .map(|(guest, host)| Publish { guest, host })
        .collect()
}

fn read_storage(form: StorageForm) -> Result<ObservedStorage, SnapshotError> {
    Ok(ObservedStorage {
        on_disk: form.on_disk,
        open: form.open_epoch.map(Epoch),
        limits: match form.layer_limits {
            Some(limits) => limits
                .into_iter()
                .map(|(bytes, inodes)| LayerLimits {
                    bytes: bytes.map(Bytes),
                    inodes,
                })
                .collect(),
            None => form
                .limits
                .into_iter()
                .map(|bytes| LayerLimits {
                    bytes: bytes.map(Bytes),
                    inodes: None,
                })
                .collect(),
        },
        shares: form.shares,
        checkpoints: form
            .checkpoints
            .into_iter()
            .map(|(name, at)| (name, Timestamp(at)))
            .collect(),
        stack: form.stack.as_deref().map(digest).transpose()?,
        exported: form.exported,
        parked: form.parked,
        lease: match form.lease {
            LeasingForm::Free => Leasing::Free,
            LeasingForm::Holds => Leasing::Holds,
            LeasingForm::Lapsed => Leasing::Lapsed,
        },
        bytes: form.bytes,
        tombstone: form.tombstone_ms.map(Timestamp),
        mark: form.mark.as_deref().map(digest).transpose()?,
    })
}

fn read_freeze(form: FreezeForm) -> Result<Freeze, SnapshotError> {
    Ok(Freeze {
        scope: match form.scope {
            ScopeForm::Node => FreezeScope::Node,
            ScopeForm::Slice(name) => FreezeScope::Slice(named("a slice", SliceName::new(&name))?),
            ScopeForm::Sliver(name) => FreezeScope::Sliver(sliver(&name)?),
        },
        reason: form.reason,
        by: form.by,
        since: Timestamp(form.since_ms),
        until: form.until_ms.map(Timestamp),
    })
}
