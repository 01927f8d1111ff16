//! The one normaliser: a desired sliver as canonical text, its digests, and what differs between two of them.
//!
//! Whatever compares slivers (planner, agent, hypervisor driver) compares them through here, so both sides of a
//! comparison always went through the same code and equal things never look different.
//!
//! Three digests answer three questions. [`slice_revision`]: is this what was asked for before? [`stack_digest`]: are
//! the files below the guest the same? [`boot_digest`]: would a boot now give what runs already?

mod differences;
mod record;
mod rollout;

pub use differences::{Difference, differences};
pub use record::{FORMAT_VERSION, NormalError, from_json, to_json};
pub use rollout::{held_back, rollout_digest, rollout_revision};

use std::net::IpAddr;

use serde::Serialize;

use crate::desired::{CarriedContent, DesiredSliver, FileSet, LayerRef, Mount, Publish, WritableKind};
use crate::id::Digest;
use crate::observed::ObservedDomain;

/// Digest of everything a sliver is asked to be: a commit that leaves it equal does not concern the sliver.
#[must_use]
pub fn slice_revision(sliver: &DesiredSliver) -> Digest {
    labelled("slice", FORMAT_VERSION, &to_json(sliver))
}

/// Digest of the files a guest sees below its own writes: mount paths in order, layers by content, kind of writable
/// layer. How a template was named or found is not part of it, only what it holds.
#[must_use]
pub fn stack_digest(sliver: &DesiredSliver) -> Digest {
    labelled_form("stack", 1, &stack_form(&sliver.mounts))
}

/// Digest of what a running domain was started as. What can change while it runs (processors up to their most,
/// memory, ports, weight, cap, rate, quota), what only watches it (health) and where content came from are not part of it.
#[must_use]
pub fn boot_digest(sliver: &DesiredSliver) -> Digest {
    boot_digest_on(sliver, &stack_digest(sliver))
}

/// As [`boot_digest`], for whoever has the [`stack_digest`] at hand.
#[must_use]
pub fn boot_digest_on(sliver: &DesiredSliver, stack: &Digest) -> Digest {
    let form = BootForm {
        stack: Text(*stack),
        kernel: Text(sliver.kernel.digest),
        vcpus: sliver.resources.vcpus_most(),
        addresses: &sliver.addresses,
    };
    labelled_form("boot", 2, &form)
}

/// Digest of what a guest is made from: its kernel, and the files below its own writes. Two slivers with the same one may
/// differ in what they get, not in what they run.
#[must_use]
pub fn image_digest(sliver: &DesiredSliver) -> Digest {
    let text = format!("{} {}", sliver.kernel.digest, stack_digest(sliver));
    labelled("image", 1, &text)
}

/// The digest that an earlier version of this program gave a domain that it started as `sliver`, with the memory and
/// the ports that it was started with. See [`current_boot`].
fn boot_digest_v1(sliver: &DesiredSliver, memory_bytes: u64, publish: &[Publish]) -> Digest {
    let form = BootFormV1 {
        stack: Text(stack_digest(sliver)),
        kernel: Text(sliver.kernel.digest),
        vcpus: sliver.resources.vcpus,
        memory_bytes,
        publish: publish.iter().map(|p| [p.guest, p.host]).collect(),
    };
    labelled_form("boot", 1, &form)
}

/// What a domain was started as, in this version's terms: `booted` itself, unless an earlier version of this program
/// started it as one of `known`, the versions of its sliver that the node has heard of.
///
/// An agent that is upgraded while its guests run must recognise them, or it would start them all again.
#[must_use]
pub fn current_boot<'a>(
    domain: &ObservedDomain,
    known: impl IntoIterator<Item = &'a DesiredSliver>,
) -> Digest {
    let started_as = |sliver: &&DesiredSliver| {
        let memory = [
            domain.memory_max_mib << 20,
            domain.memory_mib << 20,
            sliver.resources.memory.0,
        ];
        let publish = [&sliver.publish, &domain.publish];
        let tried = memory
            .into_iter()
            .flat_map(|memory| publish.map(|publish| (memory, publish)));
        tried
            .into_iter()
            .any(|(memory, publish)| boot_digest_v1(sliver, memory, publish) == domain.booted)
    };
    let found = known.into_iter().find(started_as);
    found.map_or(domain.booted, boot_digest)
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
    labelled_form("files", 1, &form)
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
    writable: WritableForm<'a>,
}

/// Text alone for the kinds that have ever been: see [`labelled`].
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum WritableForm<'a> {
    Local,
    None,
    Memory,
    Remote(&'a str),
}

#[derive(Serialize)]
enum LayerForm<'a> {
    Template(Text),
    Directory(&'a str),
    Files(Text),
    Remote(&'a str),
}

#[derive(Serialize)]
struct BootForm<'a> {
    stack: Text,
    kernel: Text,
    vcpus: u32,
    /// Left out where there are none: digests of before there were any stay what they are.
    #[serde(skip_serializing_if = "<[IpAddr]>::is_empty")]
    addresses: &'a [IpAddr],
}

#[derive(Serialize)]
struct BootFormV1 {
    stack: Text,
    kernel: Text,
    vcpus: u32,
    memory_bytes: u64,
    publish: Vec<[u16; 2]>,
}

fn layer_form(layer: &LayerRef) -> LayerForm<'_> {
    match layer {
        LayerRef::Template(template) => LayerForm::Template(Text(template.digest)),
        LayerRef::Directory { path } => LayerForm::Directory(path),
        LayerRef::Files { digest } => LayerForm::Files(Text(*digest)),
        LayerRef::Remote { url } => LayerForm::Remote(url),
    }
}

fn stack_form(mounts: &[Mount]) -> Vec<StackForm<'_>> {
    mounts
        .iter()
        .map(|mount| StackForm {
            path: &mount.path,
            layers: mount.layers.iter().map(layer_form).collect(),
            writable: match &mount.writable {
                WritableKind::Local => WritableForm::Local,
                WritableKind::ReadOnly => WritableForm::None,
                WritableKind::Memory => WritableForm::Memory,
                WritableKind::Remote { url } => WritableForm::Remote(url),
            },
        })
        .collect()
}

/// The label keeps digests of different kinds apart, the version those of different forms. Each kind has a version of
/// its own, since nodes keep them: a new one makes everything look changed that was named by the old.
fn labelled(label: &str, version: u32, text: &str) -> Digest {
    Digest::of(format!("xenoslice {label} v{version}\n{text}").as_bytes())
}

/// The same of a form's JSON. Every plan makes several for each sliver: nothing is written twice, and room is made once.
fn labelled_form(label: &str, version: u32, form: &impl Serialize) -> Digest {
    let mut bytes = Vec::with_capacity(1024);
    bytes.extend_from_slice(format!("xenoslice {label} v{version}\n").as_bytes());
    serde_json::to_writer(&mut bytes, form).expect("structs of strings and numbers are always JSON");
    Digest::of(&bytes)
}

/// A digest as its text.
struct Text(Digest);

impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
