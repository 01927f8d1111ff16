//! What differs between two versions of one sliver, as data: the planner's reasons.

use std::fmt;
use std::net::IpAddr;

use crate::desired::{
    DesiredSliver, Health, LayerRef, Migration, Mount, Publish, RollbackData, Rollout, SliverState, Start,
    TemplateRef, WritableKind,
};
use crate::id::{ChannelName, Digest, DomainUuid, SliverId, TemplateName, TenantName, Timestamp};
use crate::time::rfc3339;
use crate::units::{BitRate, Bytes};

/// One thing in which two versions of a sliver differ. Its `Display` is a short phrase for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It is another sliver, or the same number in another fleet.
    Identity {
        /// Before.
        from: (SliverId, DomainUuid),
        /// After.
        to: (SliverId, DomainUuid),
    },
    /// It boots the kernel of a template of another name.
    Kernel {
        /// Before.
        from: TemplateRef,
        /// After.
        to: TemplateRef,
    },
    /// A template that it uses has other content now.
    TemplateMoved {
        /// Where it is used; `None`: its kernel is booted.
        mount: Option<String>,
        /// Which template.
        name: TemplateName,
        /// The channel it is found by now; `None` where the digest is written out.
        channel: Option<ChannelName>,
        /// Content before.
        from: Digest,
        /// Content after.
        to: Digest,
    },
    /// The same content is named by another channel or fetched from another place. Nothing that runs changes.
    TemplateRenamed {
        /// Where it is used; `None`: its kernel is booted.
        mount: Option<String>,
        /// Before.
        from: TemplateRef,
        /// After.
        to: TemplateRef,
    },
    /// Files carried in the repository have changed.
    FilesChanged {
        /// Where they show.
        mount: String,
        /// Digest of the set before.
        from: Digest,
        /// Digest of the set after.
        to: Digest,
    },
    /// A layer has been put into a mount.
    LayerAdded {
        /// Which mount.
        mount: String,
        /// The layer.
        layer: LayerRef,
    },
    /// A layer has been taken from a mount.
    LayerRemoved {
        /// Which mount.
        mount: String,
        /// The layer.
        layer: LayerRef,
    },
    /// A mount has other access for writing.
    Writable {
        /// Which mount.
        mount: String,
        /// Before.
        from: WritableKind,
        /// After.
        to: WritableKind,
    },
    /// A mount is new.
    MountAdded {
        /// Its path.
        mount: String,
    },
    /// A mount is gone.
    MountRemoved {
        /// Its path.
        mount: String,
    },
    /// The mounts are made in another order.
    MountsReordered,
    /// Virtual CPUs.
    Vcpus {
        /// Before.
        from: u32,
        /// After.
        to: u32,
    },
    /// Processors that it can be given while it runs.
    VcpusMax {
        /// Before; `None`: none but those it has.
        from: Option<u32>,
        /// After; `None`: none but those it has.
        to: Option<u32>,
    },
    /// Memory.
    Memory {
        /// Before.
        from: Bytes,
        /// After.
        to: Bytes,
    },
    /// Room to grow while it runs.
    MemoryMax {
        /// Before; `None`: none.
        from: Option<Bytes>,
        /// After; `None`: none.
        to: Option<Bytes>,
    },
    /// Share of CPU time.
    CpuWeight {
        /// Before.
        from: u32,
        /// After.
        to: u32,
    },
    /// Most CPU time, in percent of one CPU.
    CpuCap {
        /// Before; `None`: no cap.
        from: Option<u32>,
        /// After; `None`: no cap.
        to: Option<u32>,
    },
    /// Most bytes in writable layers.
    Disk {
        /// Before; `None`: no limit.
        from: Option<Bytes>,
        /// After; `None`: no limit.
        to: Option<Bytes>,
    },
    /// Most objects in writable layers.
    Inodes {
        /// Before; `None`: as many as come with the bytes.
        from: Option<u64>,
        /// After; `None`: as many as come with the bytes.
        to: Option<u64>,
    },
    /// Most network traffic.
    NetRate {
        /// Before; `None`: no limit.
        from: Option<BitRate>,
        /// After; `None`: no limit.
        to: Option<BitRate>,
    },
    /// What it should be doing.
    State {
        /// Before.
        from: SliverState,
        /// After.
        to: SliverState,
    },
    /// When it counts as healthy.
    Health {
        /// Before; `None`: not asked.
        from: Option<Health>,
        /// After; `None`: not asked.
        to: Option<Health>,
    },
    /// Published ports.
    Publish {
        /// Before.
        from: Vec<Publish>,
        /// After.
        to: Vec<Publish>,
    },
    /// Public addresses.
    Addresses {
        /// Before.
        from: Vec<IpAddr>,
        /// After.
        to: Vec<IpAddr>,
    },
    /// Who owns it.
    Tenant {
        /// Before; `None`: the fleet's owner.
        from: Option<TenantName>,
        /// After; `None`: the fleet's owner.
        to: Option<TenantName>,
    },
    /// How it starts.
    Start {
        /// Before.
        from: Start,
        /// After.
        to: Start,
    },
    /// When it expires.
    Expires {
        /// Before; `None`: never.
        from: Option<Timestamp>,
        /// After; `None`: never.
        to: Option<Timestamp>,
    },
    /// Which sliver it was before.
    MovedFrom {
        /// Before; `None`: none.
        from: Option<SliverId>,
        /// After; `None`: none.
        to: Option<SliverId>,
    },
    /// How its slice changes.
    Rollout {
        /// Before.
        from: Rollout,
        /// After.
        to: Rollout,
    },
    /// How it moves.
    Migration {
        /// Before.
        from: Migration,
        /// After.
        to: Migration,
    },
    /// Whether another node may take it over.
    Failover {
        /// Before.
        from: bool,
        /// After.
        to: bool,
    },
    /// What going back does with its data.
    Rollback {
        /// Before.
        from: RollbackData,
        /// After.
        to: RollbackData,
    },
    /// How many checkpoints are kept.
    Checkpoints {
        /// Before.
        from: u32,
        /// After.
        to: u32,
    },
}

/// All that differs between two versions of a sliver, in a fixed order. Empty exactly when they are equal.
#[must_use]
pub fn differences(from: &DesiredSliver, to: &DesiredSliver) -> Vec<Difference> {
    let mut found = Vec::new();
    if (&from.id, from.uuid) != (&to.id, to.uuid) {
        found.push(Difference::Identity {
            from: (from.id.clone(), from.uuid),
            to: (to.id.clone(), to.uuid),
        });
    }
    if from.kernel.name == to.kernel.name {
        compare_template(None, &from.kernel, &to.kernel, &mut found);
    } else {
        found.push(Difference::Kernel {
            from: from.kernel.clone(),
            to: to.kernel.clone(),
        });
    }
    compare_mounts(&from.mounts, &to.mounts, &mut found);

    macro_rules! plain {
        ($variant:ident, $($field:ident).+) => {
            if from.$($field).+ != to.$($field).+ {
                found.push(Difference::$variant { from: from.$($field).+.clone(), to: to.$($field).+.clone() });
            }
        };
    }
    plain!(Vcpus, resources.vcpus);
    plain!(VcpusMax, resources.vcpus_max);
    plain!(Memory, resources.memory);
    plain!(MemoryMax, resources.memory_max);
    plain!(CpuWeight, resources.cpu_weight);
    plain!(CpuCap, resources.cpu_cap_percent);
    plain!(Disk, resources.disk);
    plain!(Inodes, resources.inodes);
    plain!(NetRate, resources.net_rate);
    plain!(State, state);
    plain!(Health, health);
    plain!(Publish, publish);
    plain!(Addresses, addresses);
    plain!(Tenant, tenant);
    plain!(Start, start);
    plain!(Expires, expires);
    plain!(MovedFrom, moved_from);
    plain!(Rollout, rollout);
    plain!(Migration, migration);
    plain!(Failover, failover);
    plain!(Rollback, rollback);
    plain!(Checkpoints, checkpoints);
    found
}

fn compare_template(mount: Option<&str>, from: &TemplateRef, to: &TemplateRef, found: &mut Vec<Difference>) {
    let mount = mount.map(str::to_owned);
    if from.digest != to.digest {
        found.push(Difference::TemplateMoved {
            mount,
            name: to.name.clone(),
            channel: to.channel.clone(),
            from: from.digest,
            to: to.digest,
        });
    } else if from != to {
        found.push(Difference::TemplateRenamed {
            mount,
            from: from.clone(),
            to: to.clone(),
        });
    }
}

fn compare_mounts(from: &[Mount], to: &[Mount], found: &mut Vec<Difference>) {
    let named = |mounts: &[Mount], path: &str| mounts.iter().any(|mount| mount.path == path);
    for mount in from.iter().filter(|mount| !named(to, &mount.path)) {
        found.push(Difference::MountRemoved {
            mount: mount.path.clone(),
        });
    }
    for mount in to {
        match from.iter().find(|before| before.path == mount.path) {
            Some(before) => compare_mount(before, mount, found),
            None => found.push(Difference::MountAdded {
                mount: mount.path.clone(),
            }),
        }
    }
    let kept_before = from.iter().map(|m| &m.path).filter(|path| named(to, path));
    let kept_after = to.iter().map(|m| &m.path).filter(|path| named(from, path));
    if !kept_before.eq(kept_after) {
        found.push(Difference::MountsReordered);
    }
}

fn compare_mount(from: &Mount, to: &Mount, found: &mut Vec<Difference>) {
    // Layers that play the same part at both ends of the list are compared; what lies between has come or gone.
    let (old, new) = (&from.layers, &to.layers);
    let head = old.iter().zip(new).take_while(|(a, b)| same_part(a, b)).count();
    let rest = old.len().min(new.len()) - head;
    let tail = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take(rest)
        .take_while(|(a, b)| same_part(a, b))
        .count();
    let heads = old[..head].iter().zip(&new[..head]);
    let tails = old[old.len() - tail..].iter().zip(&new[new.len() - tail..]);
    for (before, after) in heads {
        compare_layer(&to.path, before, after, found);
    }
    for layer in &old[head..old.len() - tail] {
        found.push(Difference::LayerRemoved {
            mount: to.path.clone(),
            layer: layer.clone(),
        });
    }
    for layer in &new[head..new.len() - tail] {
        found.push(Difference::LayerAdded {
            mount: to.path.clone(),
            layer: layer.clone(),
        });
    }
    for (before, after) in tails {
        compare_layer(&to.path, before, after, found);
    }
    if from.writable != to.writable {
        found.push(Difference::Writable {
            mount: to.path.clone(),
            from: from.writable.clone(),
            to: to.writable.clone(),
        });
    }
}

fn same_part(a: &LayerRef, b: &LayerRef) -> bool {
    match (a, b) {
        (LayerRef::Template(a), LayerRef::Template(b)) => a.name == b.name,
        (LayerRef::Files { .. }, LayerRef::Files { .. }) => true,
        (LayerRef::Directory { path: a }, LayerRef::Directory { path: b }) => a == b,
        (LayerRef::Remote { url: a }, LayerRef::Remote { url: b }) => a == b,
        (
            LayerRef::Template(_)
            | LayerRef::Files { .. }
            | LayerRef::Directory { .. }
            | LayerRef::Remote { .. },
            _,
        ) => false,
    }
}

fn compare_layer(mount: &str, from: &LayerRef, to: &LayerRef, found: &mut Vec<Difference>) {
    match (from, to) {
        (LayerRef::Template(from), LayerRef::Template(to)) => compare_template(Some(mount), from, to, found),
        (LayerRef::Files { digest: from }, LayerRef::Files { digest: to }) if from != to => {
            found.push(Difference::FilesChanged {
                mount: mount.to_owned(),
                from: *from,
                to: *to,
            });
        }
        // Directories with the same path are the same; other pairs do not play the same part.
        (
            LayerRef::Template(_)
            | LayerRef::Files { .. }
            | LayerRef::Directory { .. }
            | LayerRef::Remote { .. },
            _,
        ) => {}
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity {
                from: (from, from_uuid),
                to: (to, to_uuid),
            } => {
                write!(f, "identity {from} ({from_uuid}) → {to} ({to_uuid})")
            }
            Self::Kernel { from, to } => write!(f, "kernel {from} → {to}"),
            Self::TemplateMoved {
                mount,
                name,
                channel,
                from,
                to,
            } => {
                write!(f, "{name}")?;
                if let Some(channel) = channel {
                    write!(f, "/{channel}")?;
                }
                write!(f, " moved {} → {} ({})", from.short(), to.short(), part(mount))
            }
            Self::TemplateRenamed { mount, from, to } if from.sources == to.sources => {
                write!(f, "{from} is now named {to} ({})", part(mount))
            }
            Self::TemplateRenamed { mount, to, .. } => {
                write!(f, "{to} is fetched from other places ({})", part(mount))
            }
            Self::FilesChanged { mount, from, to } => {
                write!(f, "files in {mount} changed {} → {}", from.short(), to.short())
            }
            Self::LayerAdded { mount, layer } => write!(f, "{mount} has a new layer: {layer}"),
            Self::LayerRemoved { mount, layer } => write!(f, "{mount} loses a layer: {layer}"),
            Self::Writable { mount, from, to } => write!(f, "writes to {mount} {from} → {to}"),
            Self::MountAdded { mount } => write!(f, "new mount {mount}"),
            Self::MountRemoved { mount } => write!(f, "mount {mount} is gone"),
            Self::MountsReordered => f.write_str("mounts in another order"),
            Self::Vcpus { from, to } => write!(f, "vcpus {from} → {to}"),
            Self::VcpusMax { from, to } => {
                let most =
                    |most: &Option<u32>| most.map_or("none".to_owned(), |most| format!("up to {most}"));
                write!(f, "vcpus to come {} → {}", most(from), most(to))
            }
            Self::Memory { from, to } => write!(f, "memory {from} → {to}"),
            Self::MemoryMax { from, to } => {
                let room =
                    |most: &Option<Bytes>| most.map_or("none".to_owned(), |most| format!("up to {most}"));
                write!(f, "room to grow {} → {}", room(from), room(to))
            }
            Self::CpuWeight { from, to } => write!(f, "cpu weight {from} → {to}"),
            Self::CpuCap { from, to } => {
                let percent = |cap: &Option<u32>| cap.map(|cap| format!("{cap}%"));
                write!(f, "cpu cap {} → {}", limit(percent(from)), limit(percent(to)))
            }
            Self::Disk { from, to } => write!(f, "disk {} → {}", limit(*from), limit(*to)),
            Self::Inodes { from, to } => write!(f, "inodes {} → {}", limit(*from), limit(*to)),
            Self::NetRate { from, to } => write!(f, "network rate {} → {}", limit(*from), limit(*to)),
            Self::State { from, to } => write!(f, "state {from} → {to}"),
            Self::Health {
                from: None,
                to: Some(_),
            } => f.write_str("health is asked now"),
            Self::Health { to: None, .. } => f.write_str("health is no longer asked"),
            Self::Health { .. } => f.write_str("health is asked otherwise"),
            Self::Publish { from, to } => write!(f, "published ports {} → {}", ports(from), ports(to)),
            Self::Addresses { from, to } => {
                let all = |addresses: &[IpAddr]| {
                    let all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                    if all.is_empty() {
                        "none".to_owned()
                    } else {
                        all.join(" ")
                    }
                };
                write!(f, "public addresses {} → {}", all(from), all(to))
            }
            Self::Tenant { from, to } => {
                let owner = |tenant: &Option<TenantName>| tenant.as_ref().map(ToString::to_string);
                let owner = |tenant| owner(tenant).unwrap_or_else(|| "the fleet".to_owned());
                write!(f, "owned by {} → {}", owner(from), owner(to))
            }
            Self::Start { from, to } => write!(f, "start {from} → {to}"),
            Self::Expires { to: Some(at), .. } => write!(f, "expires {}", rfc3339(*at)),
            Self::Expires { to: None, .. } => f.write_str("expires no more"),
            Self::MovedFrom { to: Some(from), .. } => write!(f, "was {from} before"),
            Self::MovedFrom { to: None, .. } => f.write_str("says no more what it was before"),
            Self::Rollout { .. } => f.write_str("is rolled out otherwise"),
            Self::Migration { .. } => f.write_str("moves to other nodes otherwise"),
            Self::Failover { to: true, .. } => f.write_str("another node may take it over"),
            Self::Failover { to: false, .. } => f.write_str("no other node takes it over any more"),
            Self::Checkpoints { from, to } => write!(f, "checkpoints kept {from} → {to}"),
            Self::Rollback { from, to } => write!(f, "data in a rollback {from} → {to}"),
        }
    }
}

/// What a template is used for.
fn part(mount: &Option<String>) -> &str {
    mount.as_deref().unwrap_or("kernel")
}

fn limit(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "no limit".to_owned(), |value| value.to_string())
}

fn ports(publish: &[Publish]) -> String {
    if publish.is_empty() {
        return "none".to_owned();
    }
    let one = |publish: &Publish| format!("{}:{}", publish.host, publish.guest);
    publish.iter().map(one).collect::<Vec<_>>().join(" ")
}
