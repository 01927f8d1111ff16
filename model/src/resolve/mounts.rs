//! Mounts and their layers: read, merged with those of overrides, and checked for making a tree.

use std::collections::BTreeMap;

use super::draft::{Origin, Pattern};
use super::{At, Resolver};
use crate::desired::{DesiredFleet, LayerRef, Mount, TemplateRef, WritableKind};
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::id::SliverId;
use crate::manifest::{
    Body, Kind, Overlay, RawLayer, RawMount, SLIVER_PLACE, Stated, Step, TemplateChoice, TemplateContent,
    Text, Writable,
};
use crate::normal;

/// Most mounts of a sliver, overrides applied.
const MOUNTS_MAX: usize = 128;

/// Mounts as one slice or patch lists them.
#[derive(Clone, Debug, Default)]
pub(super) struct MountList {
    mounts: Vec<MountGiven>,
    /// Whether each of them is known by its path.
    whole: bool,
}

#[derive(Clone, Debug)]
struct MountGiven {
    path: String,
    index: usize,
    layers: Stated<Vec<LayerRef>>,
    writable: Stated<Writable>,
}

/// The mounts of a sliver.
#[derive(Clone, Debug, Default)]
pub(super) struct Mounts {
    pub(super) all: Vec<MountDraft>,
    whole: bool,
}

/// Where something of a mount was written: where its list is, and which of it.
type Spot = (Origin, usize);

/// One mount of a sliver.
#[derive(Clone, Debug)]
pub(super) struct MountDraft {
    pub(super) path: String,
    spot: Spot,
    layers: Option<Vec<LayerRef>>,
    layers_spot: Spot,
    pub(super) writable: Option<Writable>,
    pub(super) writable_spot: Spot,
}

impl Mounts {
    /// Puts a list over the mounts there are: by path, what is given replaces what is there, what is new is added.
    pub(super) fn merge(&mut self, given: &Stated<MountList>, origin: Origin) {
        let list = match given {
            Stated::Absent => return,
            Stated::Unclear => {
                self.whole = false;
                return;
            }
            Stated::Given(list) => list,
        };
        self.whole = list.whole && (self.whole || origin == Origin::Slice);
        for mount in &list.mounts {
            let spot = (origin, mount.index);
            let there = self.all.iter().position(|there| there.path == mount.path);
            let there = there.unwrap_or_else(|| {
                self.all.push(MountDraft {
                    path: mount.path.clone(),
                    spot,
                    layers: Some(Vec::new()),
                    layers_spot: spot,
                    writable: Some(Writable::Local),
                    writable_spot: spot,
                });
                self.all.len() - 1
            });
            let there = &mut self.all[there];
            if !matches!(mount.layers, Stated::Absent) {
                (there.layers, there.layers_spot) = (mount.layers.given().cloned(), spot);
            }
            if !matches!(mount.writable, Stated::Absent) {
                (there.writable, there.writable_spot) = (mount.writable.given().cloned(), spot);
            }
        }
    }

    /// The mounts as one sliver has them; `None` if one of them is unclear.
    pub(super) fn finished(&self, sliver: &SliverId) -> Option<Vec<Mount>> {
        let mount = |mount: &MountDraft| {
            Some(Mount {
                path: mount.path.clone(),
                layers: mount.layers.clone()?,
                writable: match mount.writable.as_ref()? {
                    Writable::Local => WritableKind::Local,
                    Writable::Memory => WritableKind::Memory,
                    Writable::Nowhere => WritableKind::ReadOnly,
                    Writable::Url(url) => WritableKind::Remote {
                        url: url.replace(SLIVER_PLACE, &sliver.label()),
                    },
                },
            })
        };
        self.all
            .iter()
            .map(mount)
            .collect::<Option<_>>()
            .filter(|_| self.whole)
    }

    /// Whether slivers that follow them have places of their own in them.
    pub(super) fn of_its_own(&self) -> bool {
        self.all
            .iter()
            .any(|mount| matches!(mount.writable, Some(Writable::Url(_))))
    }

    /// How many writable layers lie on the node's disk, as far as that is known.
    pub(super) fn on_disk(&self) -> usize {
        self.all
            .iter()
            .filter(|mount| mount.writable == Some(Writable::Local))
            .count()
    }
}

impl Pattern {
    /// The address of something of a mount.
    pub(super) fn mount_path<'s>((origin, index): Spot, field: Option<&'s str>) -> Vec<Step<'s>> {
        let mut path = origin.path(&[Step::Key("image"), Step::Key("mounts"), Step::Index(index)]);
        path.extend(field.map(Step::Key));
        path
    }
}

impl<'a> Resolver<'a> {
    /// Reads a list of mounts, and checks each by itself. Puts the files that they carry into `fleet`.
    pub(super) fn mount_list(
        &mut self,
        at: At<'a>,
        origin: Origin,
        raw: &'a [Option<RawMount>],
        fleet: &mut DesiredFleet,
    ) -> MountList {
        let path_of = |mount: &'a Option<RawMount>| Some(mount.as_ref()?.path.as_ref()?.0.0.as_str());
        let first = raw.first().map(path_of);
        if origin == Origin::Slice && first.is_none_or(|path| path.is_some_and(|path| path != "/")) {
            let path = match first {
                Some(_) => Pattern::mount_path((origin, 0), Some("path")),
                None => origin.path(&[Step::Key("image"), Step::Key("mounts")]),
            };
            let finding = Diagnostic::error(Code::Mount, at.place(&path), "the first mount must be `/`")
                .help("the guest boots from it; the others are mounted in it, in order");
            self.findings.push(finding);
        }
        let mut list = MountList {
            mounts: Vec::with_capacity(raw.len()),
            whole: true,
        };
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, mount) in raw.iter().enumerate() {
            let spot = (origin, index);
            let layers = mount
                .as_ref()
                .map(|mount| self.layers(at, spot, &mount.layers, fleet));
            let (Some(path), Some(mount), Some(layers)) = (path_of(mount), mount, layers) else {
                list.whole = false;
                continue;
            };
            let first = *seen.entry(path).or_insert(index);
            if first != index {
                let first = at.place(&Pattern::mount_path((origin, first), Some("path")));
                let place = at.place(&Pattern::mount_path(spot, Some("path")));
                let finding = Diagnostic::error(Code::Mount, place, format!("`{path}` is mounted twice"))
                    .related(first, "it is first mounted here")
                    .help("put the layers of both into one mount");
                self.findings.push(finding);
                list.whole = false;
                continue;
            }
            list.mounts.push(MountGiven {
                path: path.to_owned(),
                index,
                layers,
                writable: match &mount.writable {
                    Stated::Absent => Stated::Absent,
                    Stated::Unclear => Stated::Unclear,
                    Stated::Given(writable) => Stated::Given(writable.0.clone()),
                },
            });
        }
        list
    }

    fn layers(
        &mut self,
        at: At<'a>,
        spot: Spot,
        raw: &'a Stated<Vec<Option<RawLayer>>>,
        fleet: &mut DesiredFleet,
    ) -> Stated<Vec<LayerRef>> {
        let raw = match raw {
            Stated::Absent => return Stated::Absent,
            Stated::Unclear => return Stated::Unclear,
            Stated::Given(raw) => raw,
        };
        let mut layers = Vec::with_capacity(raw.len());
        for (i, layer) in raw.iter().enumerate() {
            let mut path = Pattern::mount_path(spot, Some("layers"));
            path.push(Step::Index(i));
            let layer = layer.as_ref();
            layers.push(layer.and_then(|layer| self.layer(at, &path, layer, fleet)));
        }
        let layers: Option<Vec<_>> = layers.into_iter().collect();
        layers.map_or(Stated::Unclear, Stated::Given)
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
            Some(match &overlay.0 {
                Overlay::Node(path) => LayerRef::Directory { path: path.clone() },
                Overlay::Remote(url) => LayerRef::Remote { url: url.clone() },
            })
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

    /// The content that a template's channel points at.
    pub(super) fn template(
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

    /// Whether the mounts of a pattern make a tree in which everything can be seen.
    pub(super) fn check_mounts(&mut self, at: At<'a>, pattern: &Pattern, fleet: &DesiredFleet) {
        let mounts = &pattern.mounts.all;
        if mounts.len() > MOUNTS_MAX {
            let message = format!("{} mounts are more than the {MOUNTS_MAX} allowed", mounts.len());
            let place = at.place(&Pattern::mount_path(mounts[MOUNTS_MAX].spot, None));
            self.say(Diagnostic::error(Code::Limit, place, message));
            return;
        }
        let path_place = |mount: &MountDraft| at.place(&Pattern::mount_path(mount.spot, Some("path")));
        for (i, mount) in mounts.iter().enumerate() {
            let empty = mount.layers.as_ref().is_some_and(Vec::is_empty);
            if empty && (mount.path == "/" || mount.writable == Some(Writable::Nowhere)) {
                let place = at.key_place(&Pattern::mount_path(mount.layers_spot, Some("layers")));
                let message = format!("`{}` has no layer, so nothing would be in it", mount.path);
                self.say(Diagnostic::error(Code::Mount, place, message));
            }
            if let Some(hidden) = mounts[..i]
                .iter()
                .find(|before| below(&before.path, &mount.path).is_some())
            {
                let message = format!(
                    "`{}` hides `{}`, which is mounted before it",
                    mount.path, hidden.path
                );
                let finding = Diagnostic::error(Code::Mount, path_place(mount), message)
                    .related(path_place(hidden), "it is mounted here")
                    .help("put what is below a mount after it");
                self.say(finding);
            }
        }
        for mount in mounts {
            let inner = mounts
                .iter()
                .filter_map(|inner| Some((inner, below(&inner.path, &mount.path)?)));
            for (inner, inside) in inner {
                self.check_hidden(at, mount, inner, inside, fleet);
            }
        }
    }

    /// Files that a mount carries where another one is mounted would never be seen.
    fn check_hidden(
        &mut self,
        at: At<'a>,
        outer: &MountDraft,
        inner: &MountDraft,
        inside: &str,
        fleet: &DesiredFleet,
    ) {
        let layers = outer.layers.iter().flatten().enumerate();
        for (i, layer) in layers {
            let LayerRef::Files { digest } = layer else {
                continue;
            };
            let Some(set) = fleet.files.get(digest) else {
                continue;
            };
            let beginning = format!("{inside}/");
            let there = set.files.get_key_value(inside).or_else(|| {
                let mut after = set.files.range(beginning.clone()..);
                after.next().filter(|(path, _)| path.starts_with(&beginning))
            });
            let Some((file, _)) = there else { continue };
            let mut path = Pattern::mount_path(outer.layers_spot, Some("layers"));
            path.push(Step::Index(i));
            let root = outer.path.trim_end_matches('/');
            let message = format!("`{root}/{file}` is hidden by what is mounted at `{}`", inner.path);
            let finding = Diagnostic::error(Code::Mount, at.place(&path), message)
                .related(
                    at.place(&Pattern::mount_path(inner.spot, Some("path"))),
                    "it is mounted here",
                )
                .help(format!("carry it in a layer of `{}`", inner.path));
            self.say(finding);
        }
    }
}

/// The path from an outer mount point to an inner one; `None` if it is not below.
fn below<'p>(inner: &'p str, outer: &str) -> Option<&'p str> {
    let inside = inner
        .strip_prefix(outer.trim_end_matches('/'))?
        .strip_prefix('/')?;
    (!inside.is_empty()).then_some(inside)
}
