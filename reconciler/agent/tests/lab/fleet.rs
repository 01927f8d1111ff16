//! Commits in few words: the manifests of a small fleet, of which one node is looked at.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use xeno_model::desired::{DesiredFleet, DesiredNode};
use xeno_model::id::{NodeName, Revision, SliverId};
use xeno_model::manifest::parse_file;
use xeno_model::repository::{FileMode, RepositoryTree, TreeEntry};
use xeno_model::resolve::resolve;

pub(crate) const NODE: &str = "cam-01";

pub(crate) fn id(text: &str) -> SliverId {
    SliverId::parse(text).unwrap()
}

/// One slice, of which every replica is on the node that is looked at unless it says otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    name: &'static str,
    replicas: usize,
    node: &'static str,
    page: &'static str,
    template: &'static str,
    memory: &'static str,
    limits: &'static str,
    metadata: &'static str,
    writable: &'static str,
    overlay: &'static str,
    more: Vec<&'static str>,
}

pub(crate) fn slice(name: &'static str) -> Slice {
    Slice {
        name,
        replicas: 1,
        node: NODE,
        page: "hello",
        template: "debian",
        memory: "128MiB",
        limits: "",
        metadata: "",
        writable: "local",
        overlay: "",
        more: vec![],
    }
}

impl Slice {
    pub(crate) fn replicas(self, replicas: usize) -> Self {
        Self { replicas, ..self }
    }

    pub(crate) fn on(self, node: &'static str) -> Self {
        Self { node, ..self }
    }

    /// Another page is another stack, and so another boot.
    pub(crate) fn page(self, page: &'static str) -> Self {
        Self { page, ..self }
    }

    pub(crate) fn template(self, template: &'static str) -> Self {
        Self { template, ..self }
    }

    pub(crate) fn memory(self, memory: &'static str) -> Self {
        Self { memory, ..self }
    }

    /// A line of its metadata, such as `movedFrom: old`.
    pub(crate) fn metadata(self, metadata: &'static str) -> Self {
        Self { metadata, ..self }
    }

    /// More of its resources, such as `disk: 1GiB`.
    pub(crate) fn limits(self, limits: &'static str) -> Self {
        Self { limits, ..self }
    }

    /// Without a writable layer: what it writes goes nowhere.
    pub(crate) fn keeping_nothing(self) -> Self {
        Self {
            writable: "none",
            ..self
        }
    }

    /// With a writable layer elsewhere.
    pub(crate) fn writable(self, writable: &'static str) -> Self {
        Self { writable, ..self }
    }

    /// With a layer from afar, nearest to the guest.
    pub(crate) fn overlay(self, overlay: &'static str) -> Self {
        Self { overlay, ..self }
    }

    /// A line of its `spec`.
    pub(crate) fn with(mut self, line: &'static str) -> Self {
        self.more.push(line);
        self
    }

    /// With a health check that waits for a word on the console.
    pub(crate) fn asked(self) -> Self {
        self.with("health: { console: { marker: ready }, interval: 1s, threshold: 1, grace: 60s }")
    }

    fn yaml(&self) -> String {
        let nodes = vec![self.node; self.replicas].join(", ");
        let metadata = match self.metadata {
            "" => String::new(),
            line => format!(", {line}"),
        };
        let limits = match self.limits {
            "" => String::new(),
            limits => format!(", {limits}"),
        };
        let (name, template, page, memory) = (self.name, self.template, self.page, self.memory);
        let writable = self.writable;
        let overlay = match self.overlay {
            "" => String::new(),
            url => format!("- overlay: {url}\n          "),
        };
        let mut yaml = format!(
            "---\napiVersion: xenoslice/v1\nkind: Slice\nmetadata: {{ name: {name}{metadata} }}\nspec:\n  \
             image:\n    kernel: {template}/current\n    mounts:\n      - path: /\n        layers:\n          \
             {overlay}- files:\n              /srv/index.html: {{ text: \"{page}\" }}\n          \
             - template: {template}/current\n        writable: {writable}\n  \
             resources: {{ vcpus: 1, memory: {memory}{limits} }}\n  placement: {{ nodes: [{nodes}] }}\n"
        );
        for line in &self.more {
            let _infallible = writeln!(yaml, "  {line}");
        }
        yaml
    }
}

/// The manifests of a fleet with these slices.
pub(crate) fn manifests(slices: &[Slice]) -> String {
    let mut yaml = HEAD.to_owned();
    for slice in slices {
        yaml.push_str(&slice.yaml());
    }
    yaml
}

pub(crate) const HEAD: &str = r#"apiVersion: xenoslice/v1
kind: Fleet
metadata: { name: acme }
spec: { deleteBudget: { slivers: 2, window: 1h } }
---
apiVersion: xenoslice/v1
kind: Site
metadata: { name: cambridge }
spec: { region: eu }
---
apiVersion: xenoslice/v1
kind: Node
metadata: { name: cam-01 }
spec: { site: cambridge, hypervisor: qemu, capacity: { memory: 32GiB, vcpus: 256 } }
---
apiVersion: xenoslice/v1
kind: Node
metadata: { name: cam-02 }
spec: { site: cambridge, hypervisor: qemu, capacity: { memory: 32GiB, vcpus: 256 } }
---
apiVersion: xenoslice/v1
kind: Template
metadata: { name: debian }
spec:
  channels: { current: "sha256:1111111111111111111111111111111111111111111111111111111111111111" }
  sources: [ "file:///srv/templates" ]
---
apiVersion: xenoslice/v1
kind: Template
metadata: { name: fedora }
spec:
  channels: { current: "sha256:2222222222222222222222222222222222222222222222222222222222222222" }
  sources: [ "file:///srv/templates" ]
"#;

/// Memory of the node for guests, in MiB, as its manifest says.
pub(crate) const MEMORY_MIB: u64 = 32 << 10;

pub(crate) fn revision(number: u8) -> Revision {
    Revision::new(&format!("{number:02x}").repeat(20)).unwrap()
}

/// What commit `number` asks of the node.
pub(crate) fn commit(number: u8, slices: &[Slice]) -> DesiredNode {
    commit_at(NODE, number, slices)
}

/// What commit `number` asks of one node.
pub(crate) fn commit_at(node: &str, number: u8, slices: &[Slice]) -> DesiredNode {
    fleet_of(slices).project(&NodeName::new(node).unwrap(), &revision(number))
}

/// What a commit with these slices asks of all nodes.
pub(crate) fn fleet_of(slices: &[Slice]) -> DesiredFleet {
    let yaml = manifests(slices);
    let entry = TreeEntry {
        blob: "0".repeat(40),
        size: yaml.len().try_into().unwrap(),
        mode: FileMode::Regular,
    };
    let tree = RepositoryTree {
        entries: BTreeMap::from([("fleet.yaml".to_owned(), entry)]),
    };
    let file = parse_file("fleet.yaml", yaml.as_bytes());
    resolve(&[&file], &tree).unwrap_or_else(|findings| panic!("{findings:#?}\n{yaml}"))
}
