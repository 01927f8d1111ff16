//! Fleets of any size, as repositories that git packed: what the figures are measured on.
//!
//! One file for each slice and each node, as people keep them; twenty slivers a slice, each on another node, every slice
//! with two mounts, files that it carries, a published port and a health check.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Failure;

/// Slivers of one slice, where there are as many nodes.
const SLICE_SLIVERS: u32 = 20;
/// Nodes of one site.
const SITE_NODES: u32 = 20;
/// Slices in one directory.
const DIRECTORY_SLICES: u32 = 100;

/// How large a fleet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Machines.
    pub(crate) nodes: u32,
    /// Slivers on each.
    pub(crate) per_node: u32,
    /// Whether slices are checked for their health, which takes guests that answer.
    pub(crate) health: bool,
}

impl Shape {
    /// All slivers.
    pub(crate) fn slivers(self) -> u32 {
        self.nodes * self.per_node
    }

    /// Slivers of one slice.
    fn per_slice(self) -> u32 {
        self.nodes.min(SLICE_SLIVERS)
    }

    /// All slices.
    pub(crate) fn slices(self) -> u32 {
        self.slivers() / self.per_slice()
    }

    /// Files of the repository that are manifests.
    pub(crate) fn manifests(self) -> u32 {
        3 + self.nodes + self.slices()
    }
}

/// A bare repository with a fleet in it.
pub(crate) struct Repository {
    /// Where it is.
    pub(crate) path: PathBuf,
    shape: Shape,
    commits: u32,
}

impl Repository {
    /// Makes the repository, with the whole fleet in one commit.
    pub(crate) fn create(path: &Path, shape: Shape) -> Result<Self, Failure> {
        let made = git()
            .args(["init", "-q", "--bare", "-b", "main"])
            .arg(path)
            .status()?;
        if !made.success() {
            return Err("git init failed".into());
        }
        let repository = Self {
            path: path.to_owned(),
            shape,
            commits: 1,
        };
        let mut files = vec![
            ("fleet.yaml".to_owned(), fleet_text()),
            ("sites.yaml".to_owned(), sites(shape)),
            ("templates.yaml".to_owned(), templates()),
            ("content/index.html".to_owned(), "<h1>It works</h1>\n".to_owned()),
            ("README.md".to_owned(), "A fleet to measure with.\n".to_owned()),
        ];
        files.extend(
            (0..shape.nodes).map(|node| (format!("nodes/{}.yaml", node_name(node)), node_text(node))),
        );
        files.extend((0..shape.slices()).map(|slice| (slice_path(slice), slice_text(shape, slice, 128))));
        repository.import(1, &files)?;
        Ok(repository)
    }

    /// Commits files by themselves onto the branch, as a push of one commit does.
    pub(crate) fn commit(&mut self, files: &[(String, String)]) -> Result<(), Failure> {
        self.commits += 1;
        self.import(self.commits, files)
    }

    /// Commits another amount of memory for one slice: the change of one line of one file.
    pub(crate) fn edit_slice(&mut self, slice: u32, memory_mib: u32) -> Result<(), Failure> {
        let text = slice_text(self.shape, slice, memory_mib);
        self.commit(&[(slice_path(slice), text)])
    }

    fn import(&self, number: u32, files: &[(String, String)]) -> Result<(), Failure> {
        let mut stream = format!(
            "commit refs/heads/main\ncommitter Bench <bench@example.invalid> {} +0000\ndata 7\ncommit\n",
            1_795_348_800 + number
        );
        if number > 1 {
            stream.push_str("from refs/heads/main^0\n");
        }
        for (path, text) in files {
            writeln!(stream, "M 100644 inline {path}\ndata {}\n{text}", text.len())?;
        }
        let mut child = git()
            .arg("--git-dir")
            .arg(&self.path)
            .args(["fast-import", "--quiet"])
            .stdin(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .ok_or("git fast-import takes no input")?
            .write_all(stream.as_bytes())?;
        if child.wait()?.success() {
            Ok(())
        } else {
            Err("git fast-import failed".into())
        }
    }
}

/// Git without the settings of whoever runs this.
fn git() -> Command {
    let mut command = Command::new("git");
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        // A service that runs in a hook's environment would follow these.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE");
    command
}

/// Name of a machine.
pub(crate) fn node_name(node: u32) -> String {
    format!("node-{node:04}")
}

/// Name of a service.
pub(crate) fn slice_name(slice: u32) -> String {
    format!("slice-{slice:05}")
}

fn slice_path(slice: u32) -> String {
    format!(
        "slices/team-{:03}/{}.yaml",
        slice / DIRECTORY_SLICES,
        slice_name(slice)
    )
}

fn fleet_text() -> String {
    document("Fleet", "bench", "  deleteBudget: { slivers: 3, window: 1h }\n")
}

fn sites(shape: Shape) -> String {
    let site = |site| document("Site", &format!("site-{site:03}"), "  region: eu-west\n");
    (0..shape.nodes.div_ceil(SITE_NODES)).map(site).collect()
}

fn templates() -> String {
    let channels = |digit: &str| {
        format!(
            "  channels: {{ current: \"sha256:{}\" }}\n  sources: [\"file:///srv/templates\"]\n",
            digit.repeat(64)
        )
    };
    document("Template", "debian-web", &channels("4")) + &document("Template", "debian-db", &channels("6"))
}

fn node_text(node: u32) -> String {
    let spec = format!(
        "  site: site-{:03}\n  labels: {{ tier: edge, rack: r{} }}\n  capacity: {{ memory: 64GiB, vcpus: 32 }}\n  \
         reserved: {{ memory: 2GiB }}\n  hypervisor: qemu\n",
        node / SITE_NODES,
        node % 7
    );
    document("Node", &node_name(node), &spec)
}

/// Names of the machines that a slice is on. Neighbouring slices go to neighbouring machines, so that each gets equally
/// many.
pub(crate) fn nodes_of(shape: Shape, slice: u32) -> impl Iterator<Item = String> {
    let size = u64::from(shape.per_slice());
    let (first, nodes) = (u64::from(slice) * size, u64::from(shape.nodes));
    (0..size).map(move |number| node_name(u32::try_from((first + number) % nodes).unwrap_or_default()))
}

fn slice_text(shape: Shape, slice: u32, memory_mib: u32) -> String {
    let size = shape.per_slice();
    let nodes: Vec<String> = nodes_of(shape, slice).collect();
    // Slices that meet on a machine are a round apart.
    let round = u64::from(slice) * u64::from(size) / u64::from(shape.nodes);
    let port = 10_000 + round * u64::from(size);
    let spec = format!(
        "  image:\n    kernel: debian-web/current\n    mounts:\n      - path: /\n        layers:\n          - files:\n              \
         /var/www/html/index.html: {{ from: content/index.html }}\n              /etc/motd: {{ text: \"{name}\\n\" }}\n          \
         - template: debian-web/current\n        writable: local\n      - path: /var/lib/data\n        layers:\n          \
         - template: debian-db/current\n        writable: local\n  resources: {{ vcpus: 1, memory: {memory_mib}MiB, disk: 1GiB, \
         cpu: {{ weight: 256, cap: 50 }} }}\n  placement:\n    nodes: [{nodes}]\n  publish: [{{ guest: 80, host: {port} }}]\n  \
         {health}",
        name = slice_name(slice),
        nodes = nodes.join(", "),
        health = if shape.health {
            "health: { http: { port: 80, path: /, expect: 200 }, interval: 5s, threshold: 3 }\n"
        } else {
            ""
        },
    );
    document("Slice", &slice_name(slice), &spec)
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: xenoslice/v1\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec:\n{spec}")
}
