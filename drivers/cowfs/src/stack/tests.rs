//! Stories about stacks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Stack, StackSpec, open};
use crate::attr::{Attr, FileType, SetAttr};
use crate::layer::Layer;
use crate::service::{
    CallKey, Caller, CreateMode, FileService, FsResult, Handle, Object, Special, Stability, Status,
};
use crate::testing::{MemoryContent, MemoryLayer};
use crate::writable::{Options, Writable};

mod basics;
mod crash;
mod durability;
mod layers;
mod limits;
mod mark;
mod meanwhile;
mod model;
mod standing;
mod travel;

/// Sets what it holds when it goes, however that comes about: whoever fails ends the others as well, instead of leaving them to go
/// on for ever.
struct AtTheEnd<'a>(&'a AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A stack on a directory, with shorthand by path for what tests say most.
pub(super) struct World {
    pub(super) stack: Arc<Stack>,
    pub(super) root: Caller,
}

/// Opens a stack of `layers` over the writable layer in `path`.
pub(super) fn world(path: &Path, epoch: u64, layers: &[&MemoryLayer]) -> World {
    world_with(path, epoch, layers, Options::default(), &[])
}

pub(super) fn world_with(
    path: &Path,
    epoch: u64,
    layers: &[&MemoryLayer],
    options: Options,
    store: &[&MemoryLayer],
) -> World {
    Writable::create_if_missing(path).expect("making the layer");
    let writable = Writable::open(path, epoch, options).expect("opening the layer");
    let stack = open(StackSpec {
        layers: layers
            .iter()
            .map(|layer| Arc::new((*layer).clone()) as Arc<dyn Layer>)
            .collect(),
        writable: Some(writable),
        content: MemoryContent::of(store),
        read_only_key: [0; 32],
    });
    World {
        stack: stack.expect("opening the stack"),
        root: Caller::root(),
    }
}

impl World {
    pub(super) fn at(&self, path: &str) -> FsResult<Object> {
        let mut object = self.stack.root();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            object = self.stack.lookup(&self.root, &object.handle, name.as_bytes())?.0;
        }
        Ok(object)
    }

    pub(super) fn handle(&self, path: &str) -> Handle {
        self.at(path)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .handle
    }

    pub(super) fn attr(&self, path: &str) -> Attr {
        self.at(path)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .attr
    }

    pub(super) fn split<'a>(&self, path: &'a str) -> (Handle, &'a [u8]) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.handle(dir), name.as_bytes())
    }

    pub(super) fn create(&self, path: &str) -> Handle {
        let (dir, name) = self.split(path);
        let mode = CreateMode::Guarded(SetAttr {
            mode: Some(0o644),
            ..SetAttr::default()
        });
        let made = self
            .stack
            .create(&self.root, None, &dir, name, mode)
            .expect("creating");
        made.value.made.expect("something was made").handle
    }

    pub(super) fn mkdir(&self, path: &str) -> FsResult<Handle> {
        let (dir, name) = self.split(path);
        let made = self
            .stack
            .mkdir(&self.root, None, &dir, name, &SetAttr::default())?;
        Ok(made.value.made.expect("something was made").handle)
    }

    pub(super) fn remove(&self, path: &str) -> FsResult<()> {
        let (dir, name) = self.split(path);
        self.stack.remove(&self.root, None, &dir, name).map(|_| ())
    }

    pub(super) fn rmdir(&self, path: &str) -> FsResult<()> {
        let (dir, name) = self.split(path);
        self.stack.rmdir(&self.root, None, &dir, name).map(|_| ())
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> FsResult<()> {
        let (from, to) = (self.split(from), self.split(to));
        self.stack
            .rename(&self.root, None, (&from.0, from.1), (&to.0, to.1))
            .map(|_| ())
    }

    pub(super) fn link(&self, old: &str, new: &str) -> FsResult<()> {
        let (dir, name) = self.split(new);
        self.stack
            .link(&self.root, None, &self.handle(old), &dir, name)
            .map(|_| ())
    }

    pub(super) fn write(&self, path: &str, offset: u64, bytes: &[u8], stability: Stability) {
        let written = self
            .stack
            .write(&self.root, &self.handle(path), offset, bytes, stability);
        let written = written.expect("writing");
        self.stack.settle(written.ticket).expect("settling");
        self.stack.tend(&|| true);
    }

    pub(super) fn set(&self, path: &str, set: &SetAttr) -> FsResult<()> {
        self.stack
            .setattr(&self.root, None, &self.handle(path), set, None)
            .map(|_| ())
    }

    pub(super) fn read(&self, path: &str) -> Vec<u8> {
        self.read_handle(&self.handle(path))
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(super) fn read_handle(&self, handle: &Handle) -> FsResult<Vec<u8>> {
        let mut out = Vec::new();
        loop {
            let offset = out.len() as u64;
            if self
                .stack
                .read(&self.root, handle, offset, 1 << 20, &mut out)?
                .eof
            {
                return Ok(out);
            }
        }
    }

    /// Names in a directory, sorted, without dots.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let mut names = Vec::new();
        let listed = self
            .stack
            .readdir(&self.root, &self.handle(path), 0, false, &mut |entry| {
                names.push(String::from_utf8_lossy(&entry.name).into_owned());
                true
            });
        assert!(listed.expect("listing").1);
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }

    /// The whole tree as text: path to type, mode, owner, links, and content.
    pub(super) fn tree(&self) -> BTreeMap<String, String> {
        let mut files = Vec::new();
        let mut tree = self.tree_with(&mut |path, object| files.push((path.to_owned(), object.attr.size)));
        for (path, size) in files {
            let content = blake3::hash(&self.read(&path));
            tree.entry(path)
                .and_modify(|text| text.push_str(&format!("size {size} {content:?}")));
        }
        tree
    }

    /// The same without size and content of regular files, which are handed to `file`.
    pub(super) fn tree_with(&self, file: &mut dyn FnMut(&str, &Object)) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        let mut todo = vec![String::new()];
        while let Some(path) = todo.pop() {
            let object = self.at(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let attr = object.attr;
            let content = match attr.file_type {
                FileType::Regular => {
                    file(&path, &object);
                    String::new()
                }
                FileType::Symlink => format!("{:?}", self.stack.readlink(&self.root, &object.handle)),
                FileType::Directory => {
                    todo.extend(self.names(&path).iter().map(|name| format!("{path}/{name}")));
                    String::new()
                }
                _ => format!("{:?}", attr.device),
            };
            let what = format!(
                "{:?} {:o} {}:{} links {} id {:x} {content}",
                attr.file_type, attr.mode, attr.uid, attr.gid, attr.links, object.fileid
            );
            tree.insert(path, what);
        }
        tree
    }
}
