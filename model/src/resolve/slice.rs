//! One slice: its mounts, its templates, and its slivers on their nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::{At, Resolver};
use crate::desired::{
    DesiredFleet, DesiredSliver, Health, LayerRef, Migration, Mount, Probe, Publish, Resources, RollbackData,
    Rollout, Slice, SliverState, Start, TemplateRef, WritableKind,
};
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::id::{DomainUuid, FleetName, SliceName, SliverId};
use crate::manifest::{
    Body, Kind, RawHealth, RawLayer, RawMount, RawResources, RawSlice, RawState, RawWritable, Stated, Step,
    TemplateChoice, TemplateContent, Text,
};
use crate::normal;
use crate::units::Millis;

/// Share of CPU time of a sliver that asks for none: the default of Xen's credit scheduler (xl(1), "sched-credit2").
const CPU_WEIGHT: u32 = 256;
/// A page that answers each of these times is healthy.
const INTERVAL: Millis = Millis(5_000);
const THRESHOLD: u32 = 3;
/// A guest on an emulated CPU needs about half a minute to boot.
const GRACE: Millis = Millis(120_000);

/// What all slivers of a slice have in common.
pub(super) struct Pattern {
    kernel: TemplateRef,
    mounts: Vec<Mount>,
    resources: Resources,
    state: SliverState,
    health: Option<Health>,
}

/// What a slice's slivers should be doing; `None` if that cannot be told.
pub(super) fn state(raw: &RawSlice) -> Option<SliverState> {
    raw.state.read(SliverState::Running, |state| match state {
        RawState::Running => Some(SliverState::Running),
        RawState::Suspended => Some(SliverState::Suspended),
        RawState::Stopped => Some(SliverState::Stopped),
    })
}

/// The slivers of a slice on their nodes; `None` if one of them cannot be told.
pub(super) fn slivers(
    fleet: &FleetName,
    name: &SliceName,
    raw: &RawSlice,
    pattern: &Pattern,
) -> Option<Slice> {
    let published: Vec<(u16, u16)> = raw.publish.read(Vec::new(), |publish| {
        let ports = publish.iter().map(|publish| publish.as_ref());
        ports
            .map(|publish| publish.and_then(|publish| Some((publish.guest?, publish.host?))))
            .collect()
    })?;
    let mut slivers = BTreeMap::new();
    for (i, node) in raw.placement.as_ref()?.nodes.as_ref()?.iter().enumerate() {
        let number = u32::try_from(i).ok()?;
        let id = SliverId {
            slice: name.clone(),
            number,
        };
        let publish = published.iter().map(|(guest, host)| {
            let host = u32::from(*host).checked_add(number)?;
            Some(Publish {
                guest: *guest,
                host: u16::try_from(host).ok()?,
            })
        });
        let sliver = DesiredSliver {
            uuid: DomainUuid::of(fleet, &id),
            id,
            kernel: pattern.kernel.clone(),
            mounts: pattern.mounts.clone(),
            resources: pattern.resources.clone(),
            state: pattern.state,
            health: pattern.health.clone(),
            publish: publish.collect::<Option<_>>()?,
            tenant: None,
            start: Start::default(),
            expires: None,
            moved_from: None,
            rollout: Rollout::default(),
            migration: Migration::default(),
            rollback: RollbackData::default(),
        };
        slivers.insert(number, (node.as_ref()?.0.clone(), sliver));
    }
    Some(Slice { slivers })
}

impl<'a> Resolver<'a> {
    /// Checks all of a slice but its room; `None` if something about it is wrong. Puts the files that it carries into
    /// `fleet`.
    pub(super) fn pattern(
        &mut self,
        at: At<'a>,
        raw: &'a RawSlice,
        fleet: &mut DesiredFleet,
    ) -> Option<Pattern> {
        // Everything is looked at before anything that is wrong ends this.
        let image = raw.image.as_ref();
        let kernel = image.and_then(|image| image.kernel.as_ref()).and_then(|kernel| {
            let path = [Step::Key("spec"), Step::Key("image"), Step::Key("kernel")];
            self.template(at, &path, &kernel.0, fleet)
        });
        let mounts = image.and_then(|image| image.mounts.as_ref());
        let mounts = mounts.and_then(|mounts| self.mounts(at, mounts, fleet));
        self.check_publish(at, raw);
        let resources = raw.resources.as_ref().and_then(|raw| self.resources(at, raw));
        let health = raw.health.read(None, |health| self.health(at, health).map(Some));
        let nodes = raw
            .placement
            .as_ref()
            .and_then(|placement| placement.nodes.as_ref());
        // A name that is wrong many times is one mistake.
        let mut looked_up = BTreeSet::new();
        for (i, node) in nodes.into_iter().flatten().enumerate() {
            let Some(Text(node)) = node else { continue };
            let path = [
                Step::Key("spec"),
                Step::Key("placement"),
                Step::Key("nodes"),
                Step::Index(i),
            ];
            if looked_up.insert(node) {
                self.find(Kind::Node, node.as_str(), || at.place(&path));
            }
        }
        Some(Pattern {
            kernel: kernel?,
            mounts: mounts?,
            resources: resources?,
            state: state(raw)?,
            health: health?,
        })
    }

    fn resources(&mut self, at: At<'a>, raw: &RawResources) -> Option<Resources> {
        let vcpus = raw.vcpus.read(1, |vcpus| Some(*vcpus));
        let weight = raw.cpu.read(CPU_WEIGHT, |cpu| {
            cpu.weight.read(CPU_WEIGHT, |weight| Some(*weight))
        });
        let cap = raw
            .cpu
            .read(None, |cpu| cpu.cap.read(None, |cap| Some(Some(*cap))));
        if let (Some(Some(cap)), Some(vcpus)) = (cap, vcpus)
            && cap > vcpus * 100
        {
            let path = [
                Step::Key("spec"),
                Step::Key("resources"),
                Step::Key("cpu"),
                Step::Key("cap"),
            ];
            let message = format!("a cap of {cap}% is more than {vcpus} vCPUs can use");
            let finding = Diagnostic::error(Code::BadValue, at.place(&path), message)
                .help("a cap is in percent of one CPU; leave it out for none");
            self.findings.push(finding);
        }
        Some(Resources {
            vcpus: vcpus?,
            memory: raw.memory.as_ref()?.0,
            memory_max: None,
            cpu_weight: weight?,
            cpu_cap_percent: cap?,
            disk: raw.disk.read(None, |disk| Some(Some(disk.0)))?,
            net_rate: raw.net.read(None, |net| Some(Some(net.rate.as_ref()?.0)))?,
        })
    }

    fn mounts(
        &mut self,
        at: At<'a>,
        raw: &'a [Option<RawMount>],
        fleet: &mut DesiredFleet,
    ) -> Option<Vec<Mount>> {
        let path_of = |mount: &'a Option<RawMount>| Some(mount.as_ref()?.path.as_ref()?.0.0.as_str());
        let first = raw.first().map(path_of);
        if first.is_none_or(|path| path.is_some_and(|path| path != "/")) {
            let rest: &[Step<'_>] = match first {
                Some(_) => &[Step::Index(0), Step::Key("path")],
                None => &[],
            };
            let finding = Diagnostic::error(
                Code::Mount,
                at.place(&mount_steps(rest)),
                "the first mount must be `/`",
            )
            .help("the guest boots from it; the others are mounted in it, in order");
            self.findings.push(finding);
        }
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut mounts = Vec::new();
        for (i, mount) in raw.iter().enumerate() {
            if let Some(path) = path_of(mount) {
                let first = *seen.entry(path).or_insert(i);
                if first != i {
                    let first = at.place(&mount_steps(&[Step::Index(first), Step::Key("path")]));
                    let place = at.place(&mount_steps(&[Step::Index(i), Step::Key("path")]));
                    let finding = Diagnostic::error(Code::Mount, place, format!("`{path}` is mounted twice"))
                        .related(first, "it is first mounted here")
                        .help("put the layers of both into one mount");
                    self.findings.push(finding);
                }
            }
            let mount = mount.as_ref();
            mounts.push(mount.and_then(|mount| self.mount(at, i, mount, fleet)));
        }
        mounts.into_iter().collect()
    }

    fn mount(&mut self, at: At<'a>, i: usize, raw: &'a RawMount, fleet: &mut DesiredFleet) -> Option<Mount> {
        let path = raw.path.as_ref().map(|path| path.0.0.as_str());
        let writable = raw.writable.read(WritableKind::Local, |writable| match writable {
            RawWritable::Local => Some(WritableKind::Local),
            RawWritable::None => Some(WritableKind::ReadOnly),
        });
        let given = raw.layers.as_ref()?;
        if let Some(path) = path
            && given.is_empty()
            && (path == "/" || writable == Some(WritableKind::ReadOnly))
        {
            let place = at.key_place(&mount_steps(&[Step::Index(i), Step::Key("layers")]));
            let message = format!("`{path}` has no layer, so nothing would be in it");
            self.findings.push(Diagnostic::error(Code::Mount, place, message));
        }
        let mut layers = Vec::with_capacity(given.len());
        for (j, layer) in given.iter().enumerate() {
            let steps = mount_steps(&[Step::Index(i), Step::Key("layers"), Step::Index(j)]);
            let layer = layer.as_ref();
            layers.push(layer.and_then(|layer| self.layer(at, &steps, layer, fleet)));
        }
        Some(Mount {
            path: path?.to_owned(),
            layers: layers.into_iter().collect::<Option<_>>()?,
            writable: writable?,
        })
    }

    fn layer(
        &mut self,
        at: At<'a>,
        path: &[Step<'a>],
        raw: &'a RawLayer,
        fleet: &mut DesiredFleet,
    ) -> Option<LayerRef> {
        let step = |key| path.iter().copied().chain([Step::Key(key)]).collect::<Vec<_>>();
        // More than one is a mistake that has been said, but each may have others.
        let files = raw.files.given().map(|files| {
            let set = self.file_set(at, &step("files"), files)?;
            let digest = normal::file_set_digest(&set);
            fleet.files.insert(digest, set);
            Some(LayerRef::Files { digest })
        });
        let overlay = raw.overlay.given().map(|overlay| {
            let path = overlay.0.0.clone();
            Some(LayerRef::Directory { path })
        });
        let template = raw.template.given().map(|choice| {
            self.template(at, &step("template"), &choice.0, fleet)
                .map(LayerRef::Template)
        });
        match (files, overlay, template) {
            (Some(layer), None, None) | (None, Some(layer), None) | (None, None, Some(layer)) => layer,
            _ => None,
        }
    }

    fn template(
        &mut self,
        at: At<'a>,
        path: &[Step<'_>],
        choice: &TemplateChoice,
        fleet: &DesiredFleet,
    ) -> Option<TemplateRef> {
        let name = &choice.name;
        let defined = self.find(Kind::Template, name.as_str(), || at.place(path))?;
        let Some(Body::Template(raw)) = &defined.document.body else {
            return None;
        };
        if self.twice.contains(&(Kind::Template, name.as_str())) {
            return None;
        }
        let (channel, digest) = match &choice.content {
            TemplateContent::Digest(digest) => (None, *digest),
            TemplateContent::Channel(channel) => {
                let channels = raw.channels.as_ref()?;
                match channels.known.get(&Text(channel.clone())) {
                    Some(digest) => (Some(channel.clone()), digest.as_ref()?.0),
                    None if !channels.whole => return None,
                    None => {
                        let known: Vec<&str> =
                            channels.known.keys().map(|channel| channel.0.as_str()).collect();
                        let message = format!("the template `{name}` has no channel `{channel}`");
                        let mut finding = Diagnostic::error(Code::UnknownName, at.place(path), message);
                        finding
                            .help
                            .extend(did_you_mean(channel.as_str(), known, "channels"));
                        self.findings.push(finding);
                        return None;
                    }
                }
            }
        };
        Some(TemplateRef {
            name: name.clone(),
            channel,
            digest,
            sources: fleet.templates.get(name)?.sources.clone(),
        })
    }

    /// `None` if something about it is wrong.
    fn health(&mut self, at: At<'a>, raw: &RawHealth) -> Option<Health> {
        let probe = match (&raw.http, &raw.tcp, &raw.console) {
            (Stated::Given(http), Stated::Absent, Stated::Absent) => {
                if let Some(port) = http.port {
                    self.check_health_port(at, "http", port);
                }
                Probe::Http {
                    port: http.port?,
                    path: http.path.read("/".to_owned(), |path| Some(path.0.0.clone()))?,
                    expect: http.expect.read(200, |expect| Some(*expect))?,
                }
            }
            (Stated::Absent, Stated::Given(tcp), Stated::Absent) => {
                let port = tcp.port?;
                self.check_health_port(at, "tcp", port);
                Probe::Tcp { port }
            }
            (Stated::Absent, Stated::Absent, Stated::Given(console)) => Probe::Console {
                marker: console.marker.as_ref()?.0.0.clone(),
            },
            // None or several, or it is unclear which: that has been said.
            _ => return None,
        };
        Some(Health {
            probe,
            interval: raw.interval.read(INTERVAL, |interval| Some(interval.0))?,
            threshold: raw.threshold.read(THRESHOLD, |threshold| Some(*threshold))?,
            grace: raw.grace.read(GRACE, |grace| Some(grace.0))?,
        })
    }
}

/// The address of something in `mounts`.
fn mount_steps<'s>(rest: &[Step<'s>]) -> Vec<Step<'s>> {
    let base = [Step::Key("spec"), Step::Key("image"), Step::Key("mounts")];
    base.into_iter().chain(rest.iter().copied()).collect()
}
