//! One guest on one node, pushed as everybody pushes, that says on its console how it fares.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::node::Node;
use super::repository::Repository;
use super::{LabError, LabResult, Parts, ensure, wait_for, write};
use crate::demo::stop;

/// What a guest is made of.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// Name of the slice; its only sliver is number 0.
    pub name: &'a str,
    /// Templates by name and digest, all of them in the store of the laboratory's parts.
    pub templates: &'a [(&'a str, &'a str)],
    /// The slice, as its manifest says it.
    pub slice: &'a str,
}

/// A guest and its node.
#[derive(Debug)]
pub struct OneGuest {
    /// The node.
    pub node: Node,
    console: PathBuf,
    dir: PathBuf,
}

impl OneGuest {
    /// Starts a node `cam-01` below `dir` and pushes the slice to it. A [`super::scratch::Scratch`]
    /// ends what was started, whatever came of it.
    ///
    /// # Errors
    /// If a daemon does not come up, or the push is refused.
    pub fn start(dir: &Path, parts: &Parts, recipe: &Recipe<'_>) -> LabResult<Self> {
        let repository = Repository::create(dir, &parts.xeno)?;
        let node = Node::start(dir, "cam-01", &repository.bare, parts)?;
        stop::record(dir, std::slice::from_ref(&node))?;
        repository.write(
            "fleet.yaml",
            "apiVersion: xenoslice/v1\nkind: Fleet\nmetadata: { name: one }\n---\n\
             apiVersion: xenoslice/v1\nkind: Site\nmetadata: { name: here }\n---\n\
             apiVersion: xenoslice/v1\nkind: Node\nmetadata: { name: cam-01 }\nspec:\n  site: here\n  hypervisor: qemu\n  \
             capacity: { memory: 1GiB, vcpus: 2 }\n",
        )?;
        for (name, digest) in recipe.templates {
            repository.write(
                &format!("templates/{name}.yaml"),
                &format!(
                    "apiVersion: xenoslice/v1\nkind: Template\nmetadata: {{ name: {name} }}\nspec:\n  channels: {{ current: \"{digest}\" }}\n  sources: [file://{}]\n",
                    parts.published.display()
                ),
            )?;
        }
        repository.write("slice.yaml", recipe.slice)?;
        let push = repository.push("One guest")?;
        ensure(push.accepted, || push.output.clone())?;
        Ok(Self {
            console: node.dir.join(format!("state/qemu/{}-0/console.log", recipe.name)),
            node,
            dir: dir.to_owned(),
        })
    }

    /// Waits until `marker` stands on the console; gives all that stands there.
    ///
    /// # Errors
    /// With the console's end, once the deadline has passed.
    pub fn await_marker(&self, marker: &str, deadline: Duration) -> LabResult<String> {
        wait_for(&format!("{marker:?} on the console"), deadline, || {
            let said = std::fs::read(&self.console)
                .map_err(|error| format!("{}: {error}", self.console.display()))?;
            let said = String::from_utf8_lossy(&said).into_owned();
            if said.contains(marker) {
                return Ok(said);
            }
            let tail: Vec<&str> = said.lines().rev().take(5).collect();
            Err(tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
        })
    }

    /// Ends the file server by SIGKILL and starts it again at once.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn crash_file_server(&mut self) -> LabResult<()> {
        self.node.kill_cowfs()?;
        self.node.restart_cowfs()?;
        stop::record(&self.dir, std::slice::from_ref(&self.node))
    }
}

/// Makes a directory one that others may enter and read.
///
/// # Errors
/// [`LabError::Io`].
pub fn open_to_all(path: &Path) -> LabResult<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .map_err(LabError::io("opening a directory"))
}

/// Writes a file that a guest runs, into a layer that others may read.
///
/// # Errors
/// [`LabError::Io`].
pub fn write_script(layer: &Path, name: &str, text: &str) -> LabResult<()> {
    write(&layer.join(name), text)?;
    open_to_all(layer)
}
