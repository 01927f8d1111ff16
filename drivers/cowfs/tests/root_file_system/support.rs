//! A stack by paths.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use cowfs::attr::SetAttr;
use cowfs::layer::{ContentHash, ContentSource, Layer};
use cowfs::service::{Caller, FileService, FsResult, Handle, Object, Stability};
use cowfs::stack::{Stack, StackSpec, open};
use cowfs::writable::{Options, Writable};

/// A stack, as root uses it.
pub(crate) struct Tree {
    pub(crate) service: Arc<Stack>,
}

/// No content is kept by hash here.
struct Nothing;

impl ContentSource for Nothing {
    fn read_content(&self, _: &ContentHash, _: u64, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

impl Tree {
    /// Opens the writable layer in `dir` over `layers`.
    pub(crate) fn over(dir: &Path, epoch: u64, layers: Vec<Arc<dyn Layer>>) -> Self {
        Writable::create_if_missing(dir).expect("making the layer");
        let writable = Writable::open(dir, epoch, Options::default()).expect("opening the layer");
        let spec = StackSpec {
            layers,
            writable: Some(writable),
            content: Arc::new(Nothing),
            read_only_key: [0; 32],
        };
        Self {
            service: open(spec).expect("opening the stack"),
        }
    }

    pub(crate) fn find(&self, path: &str) -> FsResult<Object> {
        let mut object = self.service.root();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            object = self
                .service
                .lookup(&Caller::root(), &object.handle, name.as_bytes())?
                .0;
        }
        Ok(object)
    }

    pub(crate) fn at(&self, path: &str) -> Object {
        self.find(path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) fn split<'a>(&self, path: &'a str) -> (Handle, &'a [u8]) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.at(dir).handle, name.as_bytes())
    }

    pub(crate) fn write(&self, path: &str, at: u64, bytes: &[u8], stability: Stability) {
        let handle = self.at(path).handle;
        let written = self
            .service
            .write(&Caller::root(), &handle, at, bytes, stability)
            .expect("writing");
        assert_eq!(written.value.count as usize, bytes.len());
        self.service.settle(written.ticket).expect("settling");
    }

    pub(crate) fn read(&self, path: &str, at: u64, count: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let handle = self.at(path).handle;
        self.service
            .read(&Caller::root(), &handle, at, count, &mut out)
            .expect("reading");
        out
    }

    pub(crate) fn set(&self, path: &str, set: &SetAttr) {
        let changed = self
            .service
            .setattr(&Caller::root(), None, &self.at(path).handle, set, None);
        self.service
            .settle(changed.expect("setattr").ticket)
            .expect("settling");
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        let (from, to) = (self.split(from), self.split(to));
        let renamed = self
            .service
            .rename(&Caller::root(), None, (&from.0, from.1), (&to.0, to.1));
        self.service
            .settle(renamed.expect("renaming").ticket)
            .expect("settling");
    }

    /// What is in a directory, but for the dots.
    pub(crate) fn objects_in(&self, dir: &Object) -> Vec<Object> {
        if dir.attr.file_type != cowfs::attr::FileType::Directory {
            return Vec::new();
        }
        let mut all = Vec::new();
        let listed = self
            .service
            .readdir(&Caller::root(), &dir.handle, 0, true, &mut |entry| {
                if entry.name != b"." && entry.name != b".." {
                    all.push(entry.object.expect("it was asked for"));
                }
                true
            });
        assert!(listed.expect("listing").1, "one page takes all");
        all
    }

    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let mut names = Vec::new();
        let dir = self.at(path).handle;
        let listed = self
            .service
            .readdir(&Caller::root(), &dir, 0, false, &mut |entry| {
                names.push(String::from_utf8_lossy(&entry.name).into_owned());
                true
            });
        assert!(listed.expect("listing").1, "one page takes all");
        names.retain(|name| name != "." && name != "..");
        names
    }
}

/// Bytes of disk below a directory, by blocks for content (it has holes) and by length for the log.
pub(crate) fn disk_usage(dir: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).expect("listing") {
        let path = entry.expect("listing").path();
        let meta = std::fs::symlink_metadata(&path).expect("stat");
        sum += if meta.is_dir() {
            disk_usage(&path)
        } else {
            meta.len().min(meta.blocks() * 512)
        };
    }
    sum
}
