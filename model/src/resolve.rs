//! From the parsed files of one commit to the fleet that it asks for: names are followed, defaults filled in, and what
//! only shows across documents is checked.
//!
//! The result does not depend on the order of the files, and is all or nothing: a commit with one mistake asks for
//! nothing, so that a half-read repository never removes anything.

mod files;
mod room;
mod slice;

pub use files::{CARRIED_LEN_MAX, SET_LEN_MAX};

use std::collections::BTreeMap;

use crate::desired::{DeleteBudget, DesiredFleet, HypervisorKind, Node, Site, Template};
use crate::diagnostic::{self, Code, Diagnostic, Place, did_you_mean};
use crate::id::{FleetName, NameError, NodeName, SiteName, SliceName, TemplateName};
use crate::manifest::{Body, Document, Kind, ParsedFile, RawHypervisor, Step};
use crate::repository::{FileMode, RepositoryTree};
use crate::units::Bytes;

/// Name of the file that makes its directory a fleet's root.
pub const FLEET_FILE: &str = "fleet.yaml";

/// Whether a path below the fleet's root is read as a manifest: `*.yaml`, and no part of it begins with a dot, so that
/// the files of other tools (`.github/…`) are left alone.
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
    let mut files = files.to_vec();
    files.sort_by(|a, b| a.path().cmp(b.path()));
    let mut resolver = Resolver {
        tree,
        defined: BTreeMap::new(),
        opaque: files.iter().any(|file| file.opaque()),
        findings: files.iter().flat_map(|file| file.findings()).cloned().collect(),
    };
    resolver.refuse_odd_manifests();
    resolver.define(&files);
    let fleet = resolver.fleet(&files);
    let mut findings = resolver.findings;
    match fleet {
        Some(fleet) if findings.is_empty() => Ok(fleet),
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

struct Resolver<'a> {
    tree: &'a RepositoryTree,
    defined: BTreeMap<(Kind, &'a str), At<'a>>,
    /// Whether a file could not be read, so that a missing name may be in there.
    opaque: bool,
    findings: Vec<Diagnostic>,
}

const NAME: &[Step<'_>] = &[Step::Key("metadata"), Step::Key("name")];

impl<'a> Resolver<'a> {
    fn refuse_odd_manifests(&mut self) {
        for (path, entry) in &self.tree.entries {
            let what = match entry.mode {
                FileMode::Regular | FileMode::Executable => continue,
                FileMode::Symlink => "a symbolic link",
                FileMode::Submodule => "a submodule",
            };
            if is_manifest(path) {
                self.opaque = true;
                let message = format!("a manifest may not be {what}");
                self.findings.push(
                    Diagnostic::error(Code::NotOrdinary, Place::file(path), message)
                        .help("what a commit asks for must be in the commit; put the file itself here"),
                );
            }
        }
    }

    fn define(&mut self, files: &[&'a ParsedFile]) {
        for file in files {
            for document in file.documents() {
                // The one fleet has rules of its own.
                if document.kind == Kind::Fleet {
                    continue;
                }
                let at = At { file, document };
                match self.defined.get(&(document.kind, document.name.as_str())) {
                    None => {
                        self.defined.insert((document.kind, &document.name), at);
                    }
                    Some(first) => {
                        let message = format!(
                            "the {} `{}` is defined twice",
                            document.kind.noun(),
                            document.name
                        );
                        let finding = Diagnostic::error(Code::DuplicateName, at.place(NAME), message)
                            .label("defined again")
                            .related(first.place(NAME), "it is first defined here");
                        self.findings.push(finding);
                    }
                }
            }
        }
    }

    fn fleet(&mut self, files: &[&'a ParsedFile]) -> Option<DesiredFleet> {
        let head = self.head(files);
        let documents: Vec<((Kind, &'a str), At<'a>)> =
            self.defined.iter().map(|(key, at)| (*key, *at)).collect();
        let mut fleet = DesiredFleet {
            name: FleetName::new("none").ok()?,
            delete_budget: DeleteBudget::default(),
            sites: BTreeMap::new(),
            nodes: BTreeMap::new(),
            templates: BTreeMap::new(),
            slices: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        if let Some((name, budget)) = &head {
            fleet.name = name.clone();
            fleet.delete_budget = *budget;
        }
        for ((_, name), at) in &documents {
            // Names were checked when their file was; one that is none has been reported, and has no body.
            let added = match &at.document.body {
                None | Some(Body::Fleet(_) | Body::Slice(_)) => Ok(()),
                Some(Body::Site(raw)) => SiteName::new(name).map(|name| {
                    let region = raw.region.as_ref().map(|region| region.0.0.clone());
                    fleet.sites.insert(name, Site { region });
                }),
                Some(Body::Node(_)) => NodeName::new(name).map(|name| {
                    if let Some(node) = self.node(*at) {
                        fleet.nodes.insert(name, node);
                    }
                }),
                Some(Body::Template(raw)) => TemplateName::new(name).map(|name| {
                    let channels = raw
                        .channels
                        .iter()
                        .map(|(name, digest)| (name.0.clone(), digest.0))
                        .collect();
                    let sources = raw.sources.iter().map(|source| source.0.0.clone()).collect();
                    fleet.templates.insert(name, Template { channels, sources });
                }),
            };
            self.impossible_name(*at, added);
        }
        for ((_, name), at) in &documents {
            if let Some(Body::Slice(raw)) = &at.document.body {
                let added = SliceName::new(name).map(|name| {
                    if let Some(slice) = self.slice(*at, &name, raw, &mut fleet) {
                        fleet.slices.insert(name, slice);
                    }
                });
                self.impossible_name(*at, added);
            }
        }
        self.check_count(&fleet);
        self.check_memory(&fleet);
        self.check_ports(&fleet);
        head.map(|_| fleet)
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
    fn head(&mut self, files: &[&'a ParsedFile]) -> Option<(FleetName, DeleteBudget)> {
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
            if !self.opaque {
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
        let Some(Body::Fleet(raw)) = &first.document.body else {
            return None;
        };
        let budget = raw
            .delete_budget
            .as_ref()
            .map_or_else(DeleteBudget::default, |budget| DeleteBudget {
                slivers: budget.slivers,
                window: budget.window.0,
            });
        match FleetName::new(&first.document.name) {
            Ok(name) => Some((name, budget)),
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
        let path = [Step::Key("spec"), Step::Key("site")];
        self.find(Kind::Site, raw.site.0.as_str(), || at.place(&path));
        let capacity = raw.capacity.memory.0;
        let reserved = raw
            .reserved
            .as_ref()
            .map_or(Bytes(0), |reserved| reserved.memory.0);
        if reserved >= capacity {
            let path = [Step::Key("spec"), Step::Key("reserved"), Step::Key("memory")];
            let message = format!("{reserved} kept back of {capacity} leave nothing for guests");
            self.findings
                .push(Diagnostic::error(Code::BadValue, at.place(&path), message));
        }
        Some(Node {
            site: raw.site.0.clone(),
            labels: raw
                .labels
                .iter()
                .map(|(key, value)| (key.clone(), value.0.0.clone()))
                .collect(),
            hypervisor: match raw.hypervisor {
                Some(RawHypervisor::Xen) => HypervisorKind::Xen,
                Some(RawHypervisor::Qemu) | None => HypervisorKind::Qemu,
            },
            memory: Bytes(capacity.0.saturating_sub(reserved.0)),
            vcpus: raw.capacity.vcpus,
        })
    }

    /// The definition of a name; reports it where it is used if there is none.
    fn find(&mut self, kind: Kind, name: &str, place: impl FnOnce() -> Place) -> Option<At<'a>> {
        let found = self.defined.get(&(kind, name)).copied();
        if found.is_none() && !self.opaque {
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
