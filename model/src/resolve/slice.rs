//! One slice: its mounts, its templates, and its slivers on their nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::{At, Resolver};
use crate::desired::{
    DesiredFleet, DesiredSliver, Health, LayerRef, Mount, Probe, Publish, Resources, Slice, SliverState,
    TemplateRef, WritableKind,
};
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::id::{DomainUuid, SliceName, SliverId};
use crate::manifest::{
    Kind, RawHealth, RawLayer, RawSlice, RawState, RawWritable, Step, TemplateChoice, TemplateContent, Text,
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

impl<'a> Resolver<'a> {
    /// Resolves a slice; `None` if it names something that is not there. Puts the files that it carries into `fleet`.
    pub(super) fn slice(
        &mut self,
        at: At<'a>,
        name: &SliceName,
        raw: &'a RawSlice,
        fleet: &mut DesiredFleet,
    ) -> Option<Slice> {
        let image = [Step::Key("spec"), Step::Key("image")];
        let kernel = self.template(
            at,
            &[image[0], image[1], Step::Key("kernel")],
            &raw.image.kernel.0,
            fleet,
        );
        let mounts = self.mounts(at, raw, fleet);
        self.check_publish(at, raw);
        let resources = Resources {
            vcpus: raw.resources.vcpus.unwrap_or(1),
            memory: raw.resources.memory.0,
            cpu_weight: raw.resources.cpu.weight.unwrap_or(CPU_WEIGHT),
            cpu_cap_percent: raw.resources.cpu.cap,
            disk: raw.resources.disk.as_ref().map(|disk| disk.0),
            net_rate: raw.resources.net.as_ref().map(|net| net.rate.0),
        };
        if let Some(cap) = resources
            .cpu_cap_percent
            .filter(|cap| *cap > resources.vcpus * 100)
        {
            let path = [
                Step::Key("spec"),
                Step::Key("resources"),
                Step::Key("cpu"),
                Step::Key("cap"),
            ];
            let message = format!("a cap of {cap}% is more than {} vCPUs can use", resources.vcpus);
            let finding = Diagnostic::error(Code::BadValue, at.place(&path), message)
                .help("a cap is in percent of one CPU; leave it out for none");
            self.findings.push(finding);
        }
        let state = match raw.state {
            Some(RawState::Running) | None => SliverState::Running,
            Some(RawState::Suspended) => SliverState::Suspended,
            Some(RawState::Stopped) => SliverState::Stopped,
        };
        let health = raw.health.as_ref().and_then(|raw| self.health(at, raw));
        // Every node is looked up before anything that is wrong ends this, and a name that is wrong many times is one
        // mistake.
        let mut looked_up = BTreeSet::new();
        for (i, node) in raw.placement.nodes.iter().enumerate() {
            let node = &node.0;
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
        let (kernel, mounts) = (kernel?, mounts?);

        let mut slivers = BTreeMap::new();
        for (i, Text(node)) in raw.placement.nodes.iter().enumerate() {
            let Ok(number) = u32::try_from(i) else { break };
            let id = SliverId {
                slice: name.clone(),
                number,
            };
            let publish = raw.publish.iter().filter_map(|publish| {
                let host = u32::from(publish.host).checked_add(number)?;
                Some(Publish {
                    guest: publish.guest,
                    host: u16::try_from(host).ok()?,
                })
            });
            let sliver = DesiredSliver {
                uuid: DomainUuid::of(&fleet.name, &id),
                id,
                kernel: kernel.clone(),
                mounts: mounts.clone(),
                resources: resources.clone(),
                state,
                health: health.clone(),
                publish: publish.collect(),
            };
            slivers.insert(number, (node.clone(), sliver));
        }
        Some(Slice { slivers })
    }

    fn mounts(&mut self, at: At<'a>, raw: &'a RawSlice, fleet: &mut DesiredFleet) -> Option<Vec<Mount>> {
        let steps = |rest: &[Step<'a>]| -> Vec<Step<'a>> {
            let base = [Step::Key("spec"), Step::Key("image"), Step::Key("mounts")];
            base.into_iter().chain(rest.iter().copied()).collect()
        };
        if raw.image.mounts.first().is_none_or(|mount| mount.path.0.0 != "/") {
            let rest: &[Step<'_>] = match raw.image.mounts.first() {
                Some(_) => &[Step::Index(0), Step::Key("path")],
                None => &[],
            };
            let finding =
                Diagnostic::error(Code::Mount, at.place(&steps(rest)), "the first mount must be `/`")
                    .help("the guest boots from it; the others are mounted in it, in order");
            self.findings.push(finding);
        }
        let mut whole = true;
        let mut mounts: Vec<Mount> = Vec::new();
        for (i, mount) in raw.image.mounts.iter().enumerate() {
            let path = &mount.path.0.0;
            if let Some(first) = mounts.iter().position(|other| &other.path == path) {
                let first = at.place(&steps(&[Step::Index(first), Step::Key("path")]));
                let place = at.place(&steps(&[Step::Index(i), Step::Key("path")]));
                let finding = Diagnostic::error(Code::Mount, place, format!("`{path}` is mounted twice"))
                    .related(first, "it is first mounted here")
                    .help("put the layers of both into one mount");
                self.findings.push(finding);
            }
            let writable = match mount.writable {
                Some(RawWritable::Local) | None => WritableKind::Local,
                Some(RawWritable::None) => WritableKind::ReadOnly,
            };
            if mount.layers.is_empty() && (path == "/" || writable == WritableKind::ReadOnly) {
                let place = at.key_place(&steps(&[Step::Index(i), Step::Key("layers")]));
                let message = format!("`{path}` has no layer, so nothing would be in it");
                self.findings.push(Diagnostic::error(Code::Mount, place, message));
            }
            let mut layers = Vec::new();
            for (j, layer) in mount.layers.iter().enumerate() {
                let path = steps(&[Step::Index(i), Step::Key("layers"), Step::Index(j)]);
                match self.layer(at, &path, layer, fleet) {
                    Some(layer) => layers.push(layer),
                    None => whole = false,
                }
            }
            mounts.push(Mount {
                path: path.clone(),
                layers,
                writable,
            });
        }
        whole.then_some(mounts)
    }

    fn layer(
        &mut self,
        at: At<'a>,
        path: &[Step<'a>],
        raw: &'a RawLayer,
        fleet: &mut DesiredFleet,
    ) -> Option<LayerRef> {
        let step = |key| path.iter().copied().chain([Step::Key(key)]).collect::<Vec<_>>();
        if let Some(files) = &raw.files {
            let set = self.file_set(at, &step("files"), files)?;
            let digest = normal::file_set_digest(&set);
            fleet.files.insert(digest, set);
            return Some(LayerRef::Files { digest });
        }
        if let Some(overlay) = &raw.overlay {
            let path = overlay.0.0.clone();
            return Some(LayerRef::Directory { path });
        }
        let choice = raw.template.as_ref()?;
        self.template(at, &step("template"), &choice.0, fleet)
            .map(LayerRef::Template)
    }

    fn template(
        &mut self,
        at: At<'a>,
        path: &[Step<'_>],
        choice: &TemplateChoice,
        fleet: &DesiredFleet,
    ) -> Option<TemplateRef> {
        let name = &choice.name;
        self.find(Kind::Template, name.as_str(), || at.place(path))?;
        // Without an entry the definition itself is wrong, which has been said.
        let template = fleet.templates.get(name)?;
        let (channel, digest) = match &choice.content {
            TemplateContent::Digest(digest) => (None, *digest),
            TemplateContent::Channel(channel) => match template.channels.get(channel) {
                Some(digest) => (Some(channel.clone()), *digest),
                None => {
                    let known: Vec<&str> = template.channels.keys().map(|channel| channel.as_str()).collect();
                    let message = format!("the template `{name}` has no channel `{channel}`");
                    let mut finding = Diagnostic::error(Code::UnknownName, at.place(path), message);
                    finding
                        .help
                        .extend(did_you_mean(channel.as_str(), known, "channels"));
                    self.findings.push(finding);
                    return None;
                }
            },
        };
        Some(TemplateRef {
            name: name.clone(),
            channel,
            digest,
            sources: template.sources.clone(),
        })
    }

    fn health(&mut self, at: At<'a>, raw: &RawHealth) -> Option<Health> {
        let (probe, port) = if let Some(http) = &raw.http {
            let probe = Probe::Http {
                port: http.port,
                path: http
                    .path
                    .as_ref()
                    .map_or_else(|| "/".to_owned(), |path| path.0.0.clone()),
                expect: http.expect.unwrap_or(200),
            };
            (probe, Some(("http", http.port)))
        } else if let Some(tcp) = &raw.tcp {
            (Probe::Tcp { port: tcp.port }, Some(("tcp", tcp.port)))
        } else {
            let marker = raw.console.as_ref()?.marker.0.0.clone();
            (Probe::Console { marker }, None)
        };
        if let Some((key, port)) = port {
            self.check_health_port(at, key, port);
        }
        Some(Health {
            probe,
            interval: raw.interval.as_ref().map_or(INTERVAL, |interval| interval.0),
            threshold: raw.threshold.unwrap_or(THRESHOLD),
            grace: raw.grace.as_ref().map_or(GRACE, |grace| grace.0),
        })
    }
}
