//! A store, trees and archives for it, and what came of them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cowfs::attr::FileType;
use cowfs::import::{ImportError, ImportReport, Source};
use cowfs::layer::{Entry, Layer, NodeNumber, ROOT};
use cowfs::template::{Store, TemplateOptions};
use tempfile::TempDir;

/// A store of its own in a directory that goes away with it.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&dir.path().join("store")).expect("a new store");
        Self { dir, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn import(&self, source: &Source) -> Result<ImportReport, ImportError> {
        self.store
            .import(source, &TemplateOptions::default(), &mut |_| {})
    }

    pub(crate) fn import_tar(&self, bytes: &[u8]) -> Result<ImportReport, ImportError> {
        let path = self.path("archive");
        fs::write(&path, bytes).expect("writing an archive");
        self.import(&Source::Archive(path))
    }

    /// Imports the archive and lists what came of it.
    pub(crate) fn tree_of(&self, bytes: &[u8]) -> Vec<String> {
        let report = self.import_tar(bytes).expect("a good archive");
        list(&*self.store.layer(&report.digest).expect("just imported"))
    }

    /// Every file of the store but the lock, by path.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect(self.store.root(), self.store.root(), &mut found);
        found.retain(|path| path != "lock");
        found.sort();
        found
    }
}

pub(crate) fn collect(root: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("listing the store") {
        let path = entry.expect("listing the store").path();
        if path.is_dir() {
            collect(root, &path, found);
        } else {
            found.push(
                path.strip_prefix(root)
                    .expect("below the root")
                    .display()
                    .to_string(),
            );
        }
    }
}

/// A tree as text: one line per name, with what a reader of the test cares about.
pub(crate) fn list(layer: &dyn Layer) -> Vec<String> {
    let mut lines = Vec::new();
    list_below(layer, ROOT, "", &mut lines);
    lines
}

pub(crate) fn list_below(layer: &dyn Layer, dir: NodeNumber, path: &str, lines: &mut Vec<String>) {
    for entry in layer.entries(dir).expect("a directory") {
        let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
        assert_eq!(
            layer.lookup(dir, &entry.name).expect("a directory"),
            Some(entry.entry)
        );
        let Entry::Node(node) = entry.entry else {
            lines.push(format!("{path} whiteout"));
            continue;
        };
        let attr = layer.attr(node).expect("a node that a directory names");
        let owner = format!("{:o} {}:{}", attr.mode, attr.uid, attr.gid);
        match attr.file_type {
            FileType::Directory => {
                let opaque = if layer.is_opaque(node).expect("a node") {
                    " opaque"
                } else {
                    ""
                };
                let implied = if layer.is_implied(node).expect("a node") {
                    " implied"
                } else {
                    ""
                };
                lines.push(format!("{path}/ {owner}{opaque}{implied}"));
                list_below(layer, node, &path, lines);
            }
            FileType::Regular => {
                let text = String::from_utf8_lossy(&content(layer, node)).into_owned();
                lines.push(format!("{path} {owner} links={} {text:?}", attr.links));
            }
            FileType::Symlink => {
                let target = layer.readlink(node).expect("a symlink");
                lines.push(format!("{path} -> {}", String::from_utf8_lossy(&target)));
            }
            other => lines.push(format!(
                "{path} {other:?} {}:{}",
                attr.device.major, attr.device.minor
            )),
        }
    }
}

pub(crate) fn content(layer: &dyn Layer, node: NodeNumber) -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    let count = layer.read(node, 0, &mut buffer).expect("readable");
    buffer.truncate(count);
    buffer
}

/// Builds archives member by member.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Writes the path as it is, however wrong.
    pub(crate) fn member(
        mut self,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        link: &str,
        data: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        let name = &mut header.as_gnu_mut().expect("a GNU header").name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        if !link.is_empty() {
            header.set_link_name_literal(link).expect("a short target");
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        header.set_device_major(0).expect("a GNU header");
        header.set_device_minor(0).expect("a GNU header");
        header.set_cksum();
        self.0.append(&header, data).expect("writing to memory");
        self
    }

    pub(crate) fn file(self, path: &str, text: &str) -> Self {
        self.member(path, tar::EntryType::Regular, 0o644, "", text.as_bytes())
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.member(path, tar::EntryType::Directory, 0o755, "", b"")
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.member(path, tar::EntryType::Link, 0o644, target, b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.member(path, tar::EntryType::Symlink, 0o777, target, b"")
    }

    pub(crate) fn pax(mut self, records: &[(&str, &str)]) -> Self {
        self.0
            .append_pax_extensions(records.iter().map(|(key, value)| (*key, value.as_bytes())))
            .expect("writing to memory");
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("writing to memory")
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

/// Makes a small tree on disk with every type that an ordinary user can make.
pub(crate) fn sample_tree(root: &Path) {
    fs::create_dir_all(root.join("etc/deep")).expect("mkdir");
    fs::write(root.join("etc/motd"), "hello").expect("write");
    fs::write(root.join("etc/deep/same"), "hello").expect("write");
    fs::hard_link(root.join("etc/motd"), root.join("motd-link")).expect("link");
    symlink("etc/motd", root.join("symlink")).expect("symlink");
    fs::set_permissions(root.join("etc/deep/same"), fs::Permissions::from_mode(0o4711)).expect("chmod");
    // Inner ones first: making something in a directory changes its time.
    for name in ["etc/motd", "etc/deep/same", "etc/deep", "etc", "."] {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 5);
        fs::File::open(root.join(name))
            .and_then(|file| file.set_modified(time))
            .expect("utimes");
    }
}
