//! A guest works on a stack; then its layer is looked into, and published, and what was published is put under another
//! stack: both must show the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::{Change, How, InspectError, Inspection, PublishError};
use crate::attr::{Device, FileType, SetAttr, SetTime, Time};
use crate::import::Source;
use crate::layer::Layer;
use crate::service::{Caller, CreateMode, FileService as _, Handle, Object, Special, Stability};
use crate::stack::{self, Stack, StackSpec};
use crate::template::{Store, TemplateOptions};
use crate::testing::{MemoryContent, MemoryLayer};
use crate::writable::{Options, Writable};

fn root() -> Caller {
    Caller::root()
}

fn template() -> MemoryLayer {
    MemoryLayer::new(b"template")
        .file("etc/motd", b"hello from the template\n")
        .file("etc/hosts", b"127.0.0.1 localhost\n")
        .file("etc/issue", b"issue\n")
        .file("bin/tool", &[b't'; 9000])
        .link("bin/tool", "bin/same")
        .symlink("etc/link", b"motd")
        .dir("srv/old/deep")
        .file("srv/old/deep/file", b"deep\n")
        .file("srv/old/kept", b"kept\n")
        .file("var/cache/a", b"a")
        .file("var/cache/b", b"b")
        .set("bin/tool", |attr| attr.mode = 0o4755)
}

fn overlay() -> MemoryLayer {
    MemoryLayer::new(b"overlay1")
        .file("etc/site", b"site\n")
        .whiteout("etc/nothing")
}

struct World {
    stack: Arc<Stack>,
}

impl World {
    /// A stack of the given layers, and of a writable layer in `dir`.
    fn new(dir: &Path, layers: Vec<Arc<dyn Layer>>) -> Self {
        Writable::create_if_missing(dir).expect("a layer");
        let writable = Writable::open(dir, 1, Options::default()).expect("it opens");
        Self::with(layers, Some(writable))
    }

    fn with(layers: Vec<Arc<dyn Layer>>, writable: Option<Writable>) -> Self {
        let spec = StackSpec {
            layers,
            writable,
            content: MemoryContent::of(&[]),
            read_only_key: [1; 32],
        };
        Self {
            stack: stack::open(spec).expect("a stack"),
        }
    }

    fn at(&self, path: &str) -> Object {
        let mut object = self.stack.root();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            object = self
                .stack
                .lookup(&root(), &object.handle, name.as_bytes())
                .expect(path)
                .0;
        }
        object
    }

    /// The directory of a path, and its last name.
    fn place<'a>(&self, path: &'a str) -> (Handle, &'a [u8]) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.at(dir).handle, name.as_bytes())
    }

    fn settle(&self) {
        self.stack.flush_all().expect("flushing");
    }

    fn write(&self, path: &str, offset: u64, bytes: &[u8]) {
        let handle = self.at(path).handle;
        self.stack
            .write(&root(), &handle, offset, bytes, Stability::Unstable)
            .expect(path);
    }

    fn create(&self, path: &str, bytes: &[u8]) {
        let (dir, name) = self.place(path);
        let set = SetAttr {
            mode: Some(0o640),
            ..SetAttr::default()
        };
        self.stack
            .create(&root(), None, &dir, name, CreateMode::Guarded(set))
            .expect(path);
        if !bytes.is_empty() {
            self.write(path, 0, bytes);
        }
    }

    fn mkdir(&self, path: &str) {
        let (dir, name) = self.place(path);
        let set = SetAttr {
            mode: Some(0o750),
            ..SetAttr::default()
        };
        self.stack.mkdir(&root(), None, &dir, name, &set).expect(path);
    }

    fn remove(&self, path: &str) {
        let (dir, name) = self.place(path);
        self.stack.remove(&root(), None, &dir, name).expect(path);
    }

    fn rmdir(&self, path: &str) {
        let (dir, name) = self.place(path);
        self.stack.rmdir(&root(), None, &dir, name).expect(path);
    }

    fn rename(&self, from: &str, to: &str) {
        let ((a, from), (b, to)) = (self.place(from), self.place(to));
        self.stack
            .rename(&root(), None, (&a, from), (&b, to))
            .expect("rename");
    }

    fn link(&self, from: &str, to: &str) {
        let (dir, name) = self.place(to);
        self.stack
            .link(&root(), None, &self.at(from).handle, &dir, name)
            .expect("link");
    }

    fn set(&self, path: &str, set: &SetAttr) {
        self.stack
            .setattr(&root(), None, &self.at(path).handle, set, None)
            .expect(path);
    }

    /// Everything a guest can see, by path; what an archive does not carry is left out.
    fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        let mut todo = vec![(String::new(), self.stack.root())];
        while let Some((path, object)) = todo.pop() {
            let attr = object.attr;
            let content = match attr.file_type {
                FileType::Regular => {
                    let mut bytes = Vec::new();
                    self.stack
                        .read(&root(), &object.handle, 0, 1 << 20, &mut bytes)
                        .expect("read");
                    blake3::hash(&bytes).to_hex().to_string()
                }
                FileType::Symlink => {
                    let target = self.stack.readlink(&root(), &object.handle).expect("readlink").0;
                    String::from_utf8_lossy(&target).into_owned()
                }
                _ => format!("{:?}", attr.device),
            };
            let links = if attr.file_type == FileType::Directory {
                0
            } else {
                attr.links
            };
            let seen = format!(
                "{:?} {:o} {}:{} {links} {} {content}",
                attr.file_type, attr.mode, attr.uid, attr.gid, attr.mtime.seconds
            );
            tree.insert(path.clone(), seen);
            if attr.file_type == FileType::Directory {
                let mut visit = |entry: &crate::service::ListedEntry| {
                    if !matches!(&entry.name[..], b"." | b"..") {
                        let name = String::from_utf8_lossy(&entry.name);
                        todo.push((format!("{path}/{name}"), entry.object.expect("asked for")));
                    }
                    true
                };
                let listed = self.stack.readdir(&root(), &object.handle, 0, true, &mut visit);
                assert!(listed.expect("a listing").1);
            }
        }
        tree
    }
}

/// What a guest may do in an afternoon.
fn afternoon(world: &World) {
    world.write("etc/motd", 6, b"GUEST");
    world.create("etc/new.conf", b"new = true\n");
    world.link("etc/new.conf", "etc/also.conf");
    world.remove("etc/issue");
    world.set(
        "etc/hosts",
        &SetAttr {
            mode: Some(0o600),
            uid: Some(7),
            ..SetAttr::default()
        },
    );
    world.rename("srv/old", "srv/new");
    world.write("srv/new/kept", 0, b"KEPT");
    world.remove("bin/same");
    // Deleted and made again: what was in it is gone.
    world.remove("var/cache/a");
    world.remove("var/cache/b");
    world.rmdir("var/cache");
    world.mkdir("var/cache");
    world.create("var/cache/c", b"c");
    // Replaced, as editors and package managers do it.
    world.create("etc/.site.swp", b"another site\n");
    world.rename("etc/.site.swp", "etc/site");
    world.remove("etc/link");
    world.mkdir("etc/link");
    let (dir, name) = world.place("srv/null");
    let special = Special {
        file_type: FileType::Character,
        device: Device { major: 1, minor: 3 },
    };
    world
        .stack
        .mknod(&root(), None, &dir, name, special, &SetAttr::default())
        .expect("mknod");
    let (dir, name) = world.place("srv/very long");
    let target = vec![b'x'; 300];
    world
        .stack
        .symlink(&root(), None, &dir, name, &target, &SetAttr::default())
        .expect("symlink");
    world.create(&format!("srv/{}", "n".repeat(200)), b"");
    world.settle();
}

fn layers() -> Vec<Arc<dyn Layer>> {
    vec![Arc::new(overlay()), Arc::new(template())]
}

fn told(changes: &[Change]) -> Vec<String> {
    let path = |path: &[u8]| String::from_utf8_lossy(path).replace(&"n".repeat(200), "nnn");
    changes
        .iter()
        .map(|change| {
            let mut words = match &change.how {
                How::Added => "added".to_owned(),
                How::Linked { to } => format!("linked to {}", path(to)),
                How::Changed => "changed".to_owned(),
                How::Replaced { was } => format!("replaced {was:?}"),
                How::Renamed { from } => format!("renamed from {}", path(from)),
                How::Removed => "removed".to_owned(),
            };
            words.push_str(&format!(" /{}", path(&change.path)));
            for (said, word) in [
                (change.content, "content"),
                (change.mode.is_some(), "mode"),
                (change.owner.is_some(), "owner"),
                (change.times, "times"),
                (!change.compared && change.how != How::Removed, "?"),
            ] {
                if said {
                    words.push_str(&format!(" {word}"));
                }
            }
            words
        })
        .collect()
}

#[test]
fn what_a_guest_changed_is_told_path_by_path_while_it_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = World::new(dir.path(), layers());
    afternoon(&world);
    // The stack is open all the while.
    let inspection = Inspection::open(dir.path())
        .expect("it can be looked at")
        .over(layers(), None);
    let changes = inspection.changes().expect("changes");
    assert_eq!(
        told(&changes),
        [
            "removed /bin/same",
            "added /etc/also.conf",
            "changed /etc/hosts mode owner",
            "removed /etc/issue",
            "replaced Symlink /etc/link",
            "changed /etc/motd content",
            "linked to etc/also.conf /etc/new.conf",
            "changed /etc/site content mode",
            "renamed from srv/old /srv/new",
            "changed /srv/new/kept content",
            "added /srv/nnn",
            "added /srv/null",
            "added /srv/very long",
            "changed /var/cache mode",
            "removed /var/cache/a",
            "removed /var/cache/b",
            "added /var/cache/c",
        ]
    );
}

#[test]
fn without_the_layers_below_it_says_what_it_remembers() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = World::new(dir.path(), layers());
    world.write("etc/motd", 6, b"GUEST");
    world.rename("srv/old", "srv/new");
    world.remove("etc/issue");
    world.create("etc/new", b"new");
    world.settle();
    let inspection = Inspection::open(dir.path()).expect("it can be looked at");
    assert_eq!(
        told(&inspection.changes().expect("changes")),
        [
            "removed /etc/issue",
            "changed /etc/motd content ?",
            "added /etc/new ?",
            "renamed from srv/old /srv/new ?",
            "removed /srv/old",
        ]
    );
    let mut buf = [0; 64];
    assert_eq!(inspection.read(b"etc/new", 0, &mut buf).expect("its own"), 3);
    assert!(matches!(
        inspection.read(b"etc/motd", 0, &mut buf),
        Err(InspectError::NeedsBelow { .. })
    ));
    assert!(matches!(
        inspection.publish(std::io::sink()),
        Err(PublishError::Read(InspectError::NeedsBelow { .. }))
    ));
}

#[test]
fn content_is_what_the_guest_reads() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = World::new(dir.path(), layers());
    world.write("bin/tool", 5000, b"WRITTEN");
    world.create("sparse", b"");
    world.write("sparse", 100_000, b"end");
    world.settle();
    let inspection = Inspection::open(dir.path())
        .expect("it can be looked at")
        .over(layers(), None);
    for path in ["bin/tool", "bin/same", "sparse", "etc/motd"] {
        let mut expected = Vec::new();
        let handle = world.at(path).handle;
        world
            .stack
            .read(&root(), &handle, 0, 1 << 20, &mut expected)
            .expect("read");
        let mut seen = vec![0; expected.len() + 10];
        let count = inspection.read(path.as_bytes(), 0, &mut seen).expect(path);
        assert_eq!(seen[..count], expected, "{path}");
    }
    let names = |all| -> Vec<Vec<u8>> {
        let listed = inspection.list(b"etc", all).expect("a listing");
        listed.into_iter().map(|entry| entry.name).collect()
    };
    assert!(names(false).is_empty());
    assert_eq!(names(true).len(), 5);
    assert!(matches!(
        inspection.list(b"etc/motd", true),
        Err(InspectError::NoDirectory { .. })
    ));
    assert!(matches!(
        inspection.list(b"nowhere", true),
        Err(InspectError::NoPath { .. })
    ));
}

#[test]
fn what_is_published_gives_the_same_tree_and_the_same_bytes_each_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = World::new(&dir.path().join("w"), layers());
    afternoon(&world);
    // An archive has whole seconds; what was made just now has more.
    let published = |name: &str| {
        let inspection = Inspection::open(&dir.path().join("w"))
            .expect("it opens")
            .over(layers(), None);
        let path = dir.path().join(name);
        let file = std::fs::File::create(&path).expect("a file");
        (inspection.publish(file).expect("publishing"), path)
    };
    let (first, archive) = published("layer.tar");
    let (second, _) = published("again.tar");
    assert_eq!(first, second);
    assert_eq!(first.bytes, std::fs::metadata(&archive).expect("its size").len());

    // As tar(1) reads it.
    let listed = Command::new("tar")
        .arg("-tvf")
        .arg(&archive)
        .output()
        .expect("tar runs");
    assert!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let listed = String::from_utf8_lossy(&listed.stdout);
    for part in [
        "etc/.wh.issue",
        "var/cache/.wh..wh..opq",
        "srv/.wh.old",
        "srv/new/deep/file",
        "bin/.wh.same",
    ] {
        assert!(
            listed.lines().any(|line| line.ends_with(&format!(" {part}"))),
            "{part} is not in\n{listed}"
        );
    }
    assert!(listed.contains("etc/new.conf link to etc/also.conf"), "{listed}");

    // As a layer under another guest.
    let store = Store::open(&dir.path().join("store")).expect("a store");
    let imported = store.import(
        &Source::at(&archive).expect("there"),
        &TemplateOptions::default(),
        &mut |_| {},
    );
    let layer = store
        .layer(&imported.expect("importing").digest)
        .expect("a layer");
    let other = World::with([vec![layer], layers()].concat(), None);
    let (mut expected, mut seen) = (world.tree(), other.tree());
    // Where a directory is only on the way, its own time is the template's in both; its ctime is nobody's business.
    assert_eq!(expected.len(), seen.len());
    for (path, expected) in &mut expected {
        let seen = seen.remove(path).unwrap_or_default();
        // A name of a file that goes on in the layer below counts there too.
        assert_eq!(&seen, expected, "{path}");
    }
}

#[test]
fn a_layout_is_whole_and_its_digests_are_right() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = World::new(&dir.path().join("w"), layers());
    afternoon(&world);
    let inspection = Inspection::open(&dir.path().join("w"))
        .expect("it opens")
        .over(layers(), None);
    let layout = dir.path().join("layout");
    let published = super::oci::publish(&inspection, &layout).expect("a layout");
    let blob = |digest: &str| {
        let hex = digest.strip_prefix("sha256:").expect("sha256");
        let bytes = std::fs::read(layout.join("blobs/sha256").join(hex)).expect("a blob");
        assert_eq!(crate::template::Digest::of(&bytes).to_string(), digest);
        bytes
    };
    let json = |bytes: &[u8]| -> serde_json::Value { serde_json::from_slice(bytes).expect("JSON") };
    let index = json(&std::fs::read(layout.join("index.json")).expect("an index"));
    let manifest = json(&blob(index["manifests"][0]["digest"].as_str().expect("a digest")));
    let config = json(&blob(manifest["config"]["digest"].as_str().expect("a digest")));
    assert_eq!(config["rootfs"]["diff_ids"][0], published.digest.to_string());
    let layer = blob(manifest["layers"][0]["digest"].as_str().expect("a digest"));
    assert_eq!(manifest["layers"][0]["size"], layer.len());
    assert!(layout.join("oci-layout").exists());
    assert!(matches!(
        super::oci::publish(&inspection, &layout),
        Err(PublishError::Write(_))
    ));
}

#[test]
fn a_name_that_would_delete_something_elsewhere_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = World::new(dir.path(), layers());
    world.create("etc/.wh.motd", b"mine");
    world.settle();
    let inspection = Inspection::open(dir.path())
        .expect("it opens")
        .over(layers(), None);
    let refused = inspection.publish(std::io::sink());
    assert!(matches!(refused, Err(PublishError::Reserved { path }) if path == b"etc/.wh.motd"));
    world.remove("etc/.wh.motd");
    let (dir_handle, name) = world.place("etc/gone");
    let special = Special {
        file_type: FileType::Character,
        device: Device::default(),
    };
    let made = world
        .stack
        .mknod(&root(), None, &dir_handle, name, special, &SetAttr::default());
    made.expect("mknod");
    world.settle();
    let inspection = Inspection::open(dir.path())
        .expect("it opens")
        .over(layers(), None);
    let refused = inspection.publish(std::io::sink());
    assert!(matches!(refused, Err(PublishError::LooksDeleted { path }) if path == b"etc/gone"));
}

#[test]
fn a_file_that_was_touched_only_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = World::new(dir.path(), layers());
    let mtime = SetTime::Client(Time { seconds: 5, nanos: 0 });
    world.set(
        "etc/motd",
        &SetAttr {
            mtime,
            ..SetAttr::default()
        },
    );
    // Written with what was there.
    world.write("etc/hosts", 0, b"127");
    world.settle();
    let inspection = Inspection::open(dir.path())
        .expect("it opens")
        .over(layers(), None);
    let changes = inspection.changes().expect("changes");
    assert_eq!(
        told(&changes),
        ["changed /etc/hosts times", "changed /etc/motd times"]
    );
    let usage = inspection.usage().expect("usage");
    assert_eq!(usage.get(&b"etc/motd"[..]), Some(&0));
    assert!(usage[&b"etc/hosts"[..]] > 0);
}
