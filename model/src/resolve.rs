//! From the parsed files of one commit to the fleet that it asks for: names are followed, defaults filled in, and what
//! only shows across documents is checked.
//!
//! The result does not depend on the order of the files, and is all or nothing: a commit with one mistake asks for
//! nothing, so that a half-read repository never removes anything. What has mistakes is resolved all the same, to find
//! the others; a conclusion is only drawn from what is known, so that no mistake is reported that another one made.

mod addresses;
mod draft;
mod files;
mod labels;
mod lock;
mod mounts;
mod moves;
mod odd;
mod room;
mod service;
mod site;
mod slice;
mod successive;
mod tenant;
mod unread;

pub use files::{CARRIED_LEN_MAX, SET_LEN_MAX};
pub use successive::Successive;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::desired::{DeleteBudget, DesiredFleet, Disturbance, HypervisorKind, Node, Template};
use crate::diagnostic::{self, Code, Diagnostic, Place, did_you_mean};
use crate::id::{
    ChannelName, Digest, FleetName, NameError, NodeName, SiteName, SliceName, TemplateName, TenantName,
};
use crate::manifest::{
    Body, Document, Kind, ParsedFile, RawDisturbance, RawFleet, RawHypervisor, RawTemplate, Short, Step,
    TemplateSource, Text,
};
use crate::placement::Ground;
use crate::repository::RepositoryTree;
use crate::units::Bytes;
use draft::Draft;
use labels::Labels;
use service::Defaults;
use unread::UnreadNames;

/// Name of the file that makes its directory a fleet's root.
pub const FLEET_FILE: &str = "fleet.yaml";

/// Whether a path below the fleet's root is read as a manifest: `*.yaml`, and no part of it begins with a dot, so that
/// the files of other tools (`.github/…`) are left alone. `*.yml` is refused by [`resolve`], unless a slice carries it:
/// a manifest that is overlooked asks for the removal of what it describes.
#[must_use]
pub fn is_manifest(path: &str) -> bool {
    path.ends_with(".yaml") && !path.split('/').any(|part| part.starts_with('.'))
}

/// Resolves the parsed manifests of one commit.
///
/// `files` are all files of `tree` for which [`is_manifest`] holds and that are ordinary files, in any order; paths of
/// both count from the fleet's root.
///
/// # Errors
/// Everything that is wrong with the commit, in reading order: the findings of the files and those of resolving.
pub fn resolve(files: &[&ParsedFile], tree: &RepositoryTree) -> Result<DesiredFleet, Vec<Diagnostic>> {
    run(files, tree, |resolver, survey| {
        resolver.check_locks(&survey.drafts);
        if resolver.findings.is_empty() {
            resolver.check_placements(&survey.drafts, &survey.fleet);
        }
        let mut fleet = survey.fleet;
        for draft in &survey.drafts {
            let slice = slice::finished(&fleet.name, draft);
            fleet
                .slices
                .extend(slice.map(|slice| (draft.name.clone(), Arc::new(slice))));
        }
        resolver.turns(&survey.drafts, &mut fleet);
        resolver.refuse_silence(&fleet);
        Some(fleet)
    })
}

/// Resolves the same as far as slivers have to be placed: what their places depend on, with the locks that there are.
/// Locks that are missing, out of date or left behind by a slice are no mistakes here.
///
/// # Errors
/// As [`resolve`], but for locks.
pub fn survey(files: &[&ParsedFile], tree: &RepositoryTree) -> Result<Ground, Vec<Diagnostic>> {
    run(files, tree, |resolver, survey| {
        Some(resolver.ground(&survey.drafts, &survey.fleet))
    })
}

/// What all documents come to, before slivers are where they are.
struct Survey<'a> {
    /// Without its slices.
    fleet: DesiredFleet,
    drafts: Vec<Draft<'a>>,
}

fn run<T>(
    files: &[&ParsedFile],
    tree: &RepositoryTree,
    finish: impl for<'a> FnOnce(&mut Resolver<'a>, Survey<'a>) -> Option<T>,
) -> Result<T, Vec<Diagnostic>> {
    let mut files = files.to_vec();
    files.sort_by(|a, b| a.path().cmp(b.path()));
    let mut resolver = Resolver {
        tree,
        defined: BTreeMap::new(),
        again: Vec::new(),
        twice: BTreeSet::new(),
        unread: UnreadNames::of(&files),
        findings: files.iter().flat_map(|file| file.findings()).cloned().collect(),
        said: BTreeSet::new(),
    };
    resolver.refuse_odd_modes();
    resolver.define(&files);
    resolver.refuse_other_endings();
    let finished = resolver.fleet(&files, finish);
    let mut findings = resolver.findings;
    match finished {
        Some(finished) if findings.is_empty() => Ok(finished),
        Some(_) | None => {
            diagnostic::sort(&mut findings);
            Err(findings)
        }
    }
}

/// A document and the file it is in.
#[derive(Clone, Copy)]
struct At<'a> {
    file: &'a ParsedFile,
    document: &'a Document,
}

impl At<'_> {
    fn place(self, path: &[Step<'_>]) -> Place {
        self.file.place(self.document, path)
    }

    fn key_place(self, path: &[Step<'_>]) -> Place {
        self.file.key_place(self.document, path)
    }
}

/// What the one fleet document says.
struct Head {
    name: FleetName,
    budget: DeleteBudget,
    approval: Option<Disturbance>,
}

struct Resolver<'a> {
    tree: &'a RepositoryTree,
    defined: BTreeMap<(Kind, &'a str), At<'a>>,
    /// Documents that define nothing, because their name is wrong or taken; they are checked for other mistakes.
    again: Vec<At<'a>>,
    /// Names that are defined more than once: it cannot be told which definition is meant.
    twice: BTreeSet<(Kind, &'a str)>,
    /// What a name that seems to be missing may be defined in.
    unread: UnreadNames,
    findings: Vec<Diagnostic>,
    /// Findings that several patterns of a slice may come to: file, place in it, message.
    said: BTreeSet<(String, String, String)>,
}

const NAME: &[Step<'_>] = &[Step::Key("metadata"), Step::Key("name")];

impl<'a> Resolver<'a> {
    fn define(&mut self, files: &[&'a ParsedFile]) {
        for file in files {
            for document in file.documents() {
                // The one fleet has rules of its own.
                if document.kind == Kind::Fleet {
                    continue;
                }
                let at = At { file, document };
                let Some(name) = document.name.as_deref() else {
                    self.unread.add_kind(document.kind);
                    self.again.push(at);
                    continue;
                };
                match self.defined.get(&(document.kind, name)) {
                    None => {
                        self.defined.insert((document.kind, name), at);
                    }
                    Some(first) => {
                        self.again.push(at);
                        self.twice.insert((document.kind, name));
                        let message = format!("the {} `{name}` is defined twice", document.kind.noun());
                        let finding = Diagnostic::error(Code::DuplicateName, at.place(NAME), message)
                            .label("defined again")
                            .related(first.place(NAME), "it is first defined here");
                        self.findings.push(finding);
                    }
                }
            }
        }
    }

    fn fleet<T>(
        &mut self,
        files: &[&'a ParsedFile],
        finish: impl FnOnce(&mut Self, Survey<'a>) -> Option<T>,
    ) -> Option<T> {
        let described = self.described(files);
        let head = described.and_then(|(at, raw)| self.head(at, raw));
        let documents: Vec<((Kind, &'a str), At<'a>)> =
            self.defined.iter().map(|(key, at)| (*key, *at)).collect();
        let mut fleet = DesiredFleet {
            name: FleetName::new("none").ok()?,
            delete_budget: DeleteBudget::default(),
            approval: None,
            sites: BTreeMap::new(),
            nodes: BTreeMap::new(),
            cordoned: BTreeSet::new(),
            tenants: BTreeMap::new(),
            templates: BTreeMap::new(),
            slices: BTreeMap::new(),
            files: BTreeMap::new(),
            turns: Arc::default(),
            transit: BTreeMap::new(),
        };
        let whole = head.is_some();
        if let Some(head) = head {
            (fleet.name, fleet.delete_budget, fleet.approval) = (head.name, head.budget, head.approval);
        }
        for ((_, name), at) in &documents {
            // Names were checked when their file was.
            let added = match &at.document.body {
                None | Some(Body::Fleet(_) | Body::Slice(_) | Body::Placement(_) | Body::Moves(_)) => Ok(()),
                Some(Body::Site(raw)) => SiteName::new(name).map(|name| {
                    let site = self.site(*at, &name, raw);
                    fleet.sites.extend(site.map(|site| (name, site)));
                }),
                Some(Body::Node(raw)) => NodeName::new(name).map(|name| {
                    if raw.cordoned.given() == Some(&true) {
                        fleet.cordoned.insert(name.clone());
                    }
                    fleet.nodes.extend(self.node(*at).map(|node| (name, node)));
                }),
                Some(Body::Template(raw)) => TemplateName::new(name).map(|name| {
                    fleet
                        .templates
                        .extend(template(raw).map(|template| (name, template)));
                }),
                Some(Body::Tenant(raw)) => TenantName::new(name).map(|name| {
                    fleet
                        .tenants
                        .extend(tenant::tenant(raw).map(|tenant| (name, tenant)));
                }),
            };
            self.impossible_name(*at, added);
        }
        let labels = Labels::of(
            &fleet,
            self.knows_all(Kind::Node, fleet.nodes.len()),
            self.knows_all(Kind::Site, fleet.sites.len()),
        );
        let defaults = described.map(|(at, raw)| self.defaults(at, &raw.defaults, &labels));
        let defaults = defaults.filter(|_| whole).unwrap_or_else(Defaults::unclear);
        let mut drafts = Vec::new();
        for ((_, name), at) in &documents {
            if let Some(Body::Slice(raw)) = &at.document.body {
                let added = SliceName::new(name).map(|name| {
                    drafts.push(self.draft(*at, name, raw, &defaults, &labels, &mut fleet));
                });
                self.impossible_name(*at, added);
            }
        }
        for at in std::mem::take(&mut self.again) {
            match &at.document.body {
                Some(Body::Site(raw)) => drop(self.site(at, &SiteName::new("none").ok()?, raw)),
                Some(Body::Node(_)) => drop(self.node(at)),
                Some(Body::Slice(raw)) => {
                    let name = SliceName::new("none").ok()?;
                    drop(self.draft(at, name, raw, &defaults, &labels, &mut fleet));
                }
                Some(
                    Body::Fleet(_)
                    | Body::Template(_)
                    | Body::Tenant(_)
                    | Body::Placement(_)
                    | Body::Moves(_),
                )
                | None => {}
            }
        }
        self.check_count(&drafts);
        self.check_memory(&drafts, &fleet);
        self.check_ports(&drafts);
        self.check_addresses(&drafts, &fleet);
        self.check_writables(&drafts);
        self.check_failover(&drafts);
        self.check_heirs(&drafts);
        self.check_claims(&drafts);
        self.check_quotas(&drafts);
        let finished = finish(self, Survey { fleet, drafts });
        finished.filter(|_| whole)
    }

    /// Whether every document of a kind is among so many that were understood.
    fn knows_all(&self, kind: Kind, understood: usize) -> bool {
        let defined = self.defined.keys().filter(|(other, _)| *other == kind).count();
        self.unread.is_nothing() && defined == understood
    }

    /// Reports something that may be found several times.
    fn say(&mut self, finding: Diagnostic) {
        let place = &finding.place;
        let at = format!("{}:{} {}", place.line, place.column, place.value);
        if self
            .said
            .insert((place.path.clone(), at, finding.message.clone()))
        {
            self.findings.push(finding);
        }
    }

    /// The last line of defence: a document that is not in the fleet, while nothing is said to be wrong, would be taken
    /// for one that somebody has removed.
    fn refuse_silence(&mut self, fleet: &DesiredFleet) {
        if !self.findings.is_empty() {
            return;
        }
        let lost = self.defined.iter().find(|((kind, name), _)| match kind {
            // An order of moves leaves nothing behind that could be missing.
            Kind::Fleet | Kind::Moves => false,
            Kind::Site => SiteName::new(name).map_or(true, |name| !fleet.sites.contains_key(&name)),
            Kind::Node => NodeName::new(name).map_or(true, |name| !fleet.nodes.contains_key(&name)),
            Kind::Template => {
                TemplateName::new(name).map_or(true, |name| !fleet.templates.contains_key(&name))
            }
            Kind::Tenant => TenantName::new(name).map_or(true, |name| !fleet.tenants.contains_key(&name)),
            // A lock is of a slice, which is asked for below.
            Kind::Slice | Kind::Placement => {
                SliceName::new(name).map_or(true, |name| !fleet.slices.contains_key(&name))
            }
        });
        if let Some((_, at)) = lost {
            let message = "this document could not be understood, though nothing in it seems wrong";
            let finding = Diagnostic::error(Code::BadValue, at.place(&[]), message)
                .help("this is a mistake of the program: please report it with the document");
            self.findings.push(finding);
        }
    }

    fn impossible_name(&mut self, at: At<'_>, result: Result<(), NameError>) {
        if let Err(error) = result {
            self.findings.push(Diagnostic::error(
                Code::BadValue,
                at.place(NAME),
                error.to_string(),
            ));
        }
    }

    /// The one fleet document, which must be in `fleet.yaml`.
    fn described(&mut self, files: &[&'a ParsedFile]) -> Option<(At<'a>, &'a RawFleet)> {
        let mut all = Vec::new();
        for file in files {
            let fleets = file
                .documents()
                .iter()
                .filter(|document| document.kind == Kind::Fleet);
            all.extend(fleets.map(|document| At { file, document }));
        }
        // The one in `fleet.yaml` comes first, whatever else sorts before it.
        all.sort_by_key(|at| at.file.path() != FLEET_FILE);
        let Some(first) = all.first().copied() else {
            if self.unread.is_nothing() {
                let there = files.iter().any(|file| file.path() == FLEET_FILE);
                let message = if there {
                    format!("{FLEET_FILE} holds no document of kind Fleet")
                } else {
                    format!("there is no {FLEET_FILE}: this is not the root of a fleet")
                };
                self.findings.push(
                    Diagnostic::error(Code::Fleet, Place::file(FLEET_FILE), message)
                        .help("an empty repository never means that nothing is wanted; `xeno init` writes a fleet to start from"),
                );
            }
            return None;
        };
        if first.file.path() != FLEET_FILE {
            let message = format!("the fleet is described in {FLEET_FILE}, at the root");
            self.findings
                .push(Diagnostic::error(Code::Fleet, first.place(NAME), message));
        }
        for other in &all[1..] {
            let message = "a repository describes one fleet, this is another";
            let finding = Diagnostic::error(Code::Fleet, other.place(NAME), message)
                .related(first.place(NAME), "the first is described here");
            self.findings.push(finding);
        }
        match &first.document.body {
            Some(Body::Fleet(raw)) => Some((first, raw)),
            _ => None,
        }
    }

    fn head(&mut self, first: At<'a>, raw: &RawFleet) -> Option<Head> {
        let budget = raw.delete_budget.read(DeleteBudget::default(), |budget| {
            Some(DeleteBudget {
                slivers: budget.slivers?,
                window: budget.window.as_ref()?.0,
            })
        })?;
        let approval = raw.approval.read(None, |from| {
            Some(Some(match from {
                RawDisturbance::Reconnects => Disturbance::Reconnects,
                RawDisturbance::Interrupts => Disturbance::Interrupts,
                RawDisturbance::Ends => Disturbance::Ends,
            }))
        })?;
        match FleetName::new(first.document.name.as_deref()?) {
            Ok(name) => Some(Head {
                name,
                budget,
                approval,
            }),
            Err(error) => {
                self.impossible_name(first, Err(error));
                None
            }
        }
    }

    fn node(&mut self, at: At<'a>) -> Option<Node> {
        let Some(Body::Node(raw)) = &at.document.body else {
            return None;
        };
        if let Some(site) = &raw.site {
            let path = [Step::Key("spec"), Step::Key("site")];
            self.find(Kind::Site, site.0.as_str(), || at.place(&path));
        }
        let capacity = raw.capacity.as_ref();
        let memory = capacity.and_then(|capacity| Some(capacity.memory.as_ref()?.0));
        let reserved = raw
            .reserved
            .read(Bytes(0), |reserved| Some(reserved.memory.as_ref()?.0));
        if let (Some(memory), Some(reserved)) = (memory, reserved)
            && reserved >= memory
        {
            let path = [Step::Key("spec"), Step::Key("reserved"), Step::Key("memory")];
            let message = format!("{reserved} kept back of {memory} leave nothing for guests");
            self.findings
                .push(Diagnostic::error(Code::BadValue, at.place(&path), message));
        }
        let labels = raw.labels.read(BTreeMap::new(), |labels| {
            let label = |(key, value): (&Text<Short>, &Option<Text<Short>>)| {
                Some((key.0.0.clone(), value.as_ref()?.0.0.clone()))
            };
            labels.known.iter().map(label).collect()
        });
        Some(Node {
            site: raw.site.as_ref()?.0.clone(),
            address: raw
                .address
                .read(None, |address| Some(Some(address.0.0.clone())))?,
            labels: labels?,
            hypervisor: raw
                .hypervisor
                .read(HypervisorKind::Qemu, |hypervisor| match hypervisor {
                    RawHypervisor::Xen => Some(HypervisorKind::Xen),
                    RawHypervisor::Qemu => Some(HypervisorKind::Qemu),
                })?,
            memory: Bytes(memory?.0.saturating_sub(reserved?.0)),
            vcpus: capacity?.vcpus?,
        })
    }

    /// The definition of a name; reports it where it is used if there is none.
    fn find(&mut self, kind: Kind, name: &str, place: impl FnOnce() -> Place) -> Option<At<'a>> {
        let found = self.defined.get(&(kind, name)).copied();
        if found.is_none() && !self.unread.may_define(kind, name) {
            let known = self
                .defined
                .keys()
                .filter(|(other, _)| *other == kind)
                .map(|(_, name)| *name);
            let message = format!("there is no {} `{name}`", kind.noun());
            let mut finding = Diagnostic::error(Code::UnknownName, place(), message);
            finding
                .help
                .extend(did_you_mean(name, known, &format!("{}s", kind.noun())));
            self.findings.push(finding);
        }
        found
    }
}

/// What a template's channels point at; `None` if something about it is wrong.
fn template(raw: &RawTemplate) -> Option<Template> {
    let channels = raw.channels.as_ref()?;
    let channel = |(name, digest): (&Text<ChannelName>, &Option<Text<Digest>>)| {
        Some((name.0.clone(), digest.as_ref()?.0))
    };
    let sources = raw.sources.read(Vec::new(), |sources| {
        let source = |source: &Option<Text<TemplateSource>>| Some(source.as_ref()?.0.0.clone());
        sources.iter().map(source).collect()
    });
    Some(Template {
        channels: channels.known.iter().map(channel).collect::<Option<_>>()?,
        sources: sources?,
    })
    .filter(|_| channels.whole)
}
