//! The one normaliser: a desired sliver as canonical text, its digests, and what differs between two of them.
//!
//! Whatever compares slivers (planner, agent, hypervisor driver) compares them through here, so both sides of a
//! comparison always went through the same code and equal things never look different.
//!
//! Three digests answer three questions. [`slice_revision`]: is this what was asked for before? [`stack_digest`]: are
//! the files below the guest the same? [`boot_digest`]: would a boot now give what runs already?

mod differences;
mod record;

pub use differences::{Difference, differences};
pub use record::{FORMAT_VERSION, NormalError, from_json, to_json};

use serde::Serialize;

use crate::desired::{CarriedContent, DesiredSliver, FileSet, LayerRef, Mount, WritableKind};
use crate::id::Digest;

/// Digest of everything a sliver is asked to be: a commit that leaves it equal does not concern the sliver.
#[must_use]
pub fn slice_revision(sliver: &DesiredSliver) -> Digest {
    labelled("slice", &to_json(sliver))
}

/// Digest of the files a guest sees below its own writes: mount paths in order, layers by content, kind of writable
/// layer. How a template was named or found is not part of it, only what it holds.
#[must_use]
pub fn stack_digest(sliver: &DesiredSliver) -> Digest {
    canonical("stack", &stack_form(&sliver.mounts))
}

/// Digest of what a running domain was started as. What can change while it runs (weight, cap, rate, quota), what only
/// watches it (health) and where content came from are not part of it.
#[must_use]
pub fn boot_digest(sliver: &DesiredSliver) -> Digest {
    let publish = sliver.publish.iter().map(|p| [p.guest, p.host]).collect();
    canonical(
        "boot",
        &BootForm {
            stack: stack_digest(sliver).to_string(),
            kernel: sliver.kernel.digest.to_string(),
            vcpus: sliver.resources.vcpus,
            memory_bytes: sliver.resources.memory.0,
            publish,
        },
    )
}

/// Digest that names a set of carried files in [`LayerRef::Files`]: paths, modes and contents.
#[must_use]
pub fn file_set_digest(set: &FileSet) -> Digest {
    let form: Vec<FileForm<'_>> = set
        .files
        .iter()
        .map(|(path, file)| FileForm {
            path,
            executable: file.executable,
            content: match &file.content {
                CarriedContent::Inline(text) => ContentForm::Text(text),
                CarriedContent::Blob { id, size } => ContentForm::Blob(id, *size),
            },
        })
        .collect();
    canonical("files", &form)
}

#[derive(Serialize)]
struct FileForm<'a> {
    path: &'a str,
    executable: bool,
    content: ContentForm<'a>,
}

#[derive(Serialize)]
enum ContentForm<'a> {
    Text(&'a str),
    Blob(&'a str, u64),
}

#[derive(Serialize)]
struct StackForm<'a> {
    path: &'a str,
    layers: Vec<LayerForm<'a>>,
    writable: &'static str,
}

#[derive(Serialize)]
enum LayerForm<'a> {
    Template(String),
    Directory(&'a str),
    Files(String),
}

#[derive(Serialize)]
struct BootForm {
    stack: String,
    kernel: String,
    vcpus: u32,
    memory_bytes: u64,
    publish: Vec<[u16; 2]>,
}

fn layer_form(layer: &LayerRef) -> LayerForm<'_> {
    match layer {
        LayerRef::Template(template) => LayerForm::Template(template.digest.to_string()),
        LayerRef::Directory { path } => LayerForm::Directory(path),
        LayerRef::Files { digest } => LayerForm::Files(digest.to_string()),
    }
}

fn stack_form(mounts: &[Mount]) -> Vec<StackForm<'_>> {
    mounts
        .iter()
        .map(|mount| StackForm {
            path: &mount.path,
            layers: mount.layers.iter().map(layer_form).collect(),
            writable: match mount.writable {
                WritableKind::Local => "local",
                WritableKind::ReadOnly => "none",
            },
        })
        .collect()
}

fn canonical(label: &str, form: &impl Serialize) -> Digest {
    labelled(label, &record::encode(form))
}

/// The label keeps digests of different kinds apart, the version those of different forms.
fn labelled(label: &str, text: &str) -> Digest {
    Digest::of(format!("xenoslice {label} v{FORMAT_VERSION}\n{text}").as_bytes())
}

#[cfg(test)]
mod tests;
