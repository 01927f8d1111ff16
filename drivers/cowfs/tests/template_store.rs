//! Templates through the front door: import, open, read, verify.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cowfs::attr::{FileType, Time};
use cowfs::import::{ImportError, ImportReport, Limits, Source};
use cowfs::layer::{Entry, Layer, NodeNumber, ROOT};
use cowfs::template::{Boot, FileToImport, Index, StageError, Store, StoreError, TemplateOptions};
use proptest::prelude::*;
use tempfile::TempDir;

/// A store of its own in a directory that goes away with it.
struct Place {
    dir: TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&dir.path().join("store")).expect("a new store");
        Self { dir, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn import(&self, source: &Source) -> Result<ImportReport, ImportError> {
        self.store
            .import(source, &TemplateOptions::default(), &mut |_| {})
    }

    fn import_tar(&self, bytes: &[u8]) -> Result<ImportReport, ImportError> {
        let path = self.path("archive");
        fs::write(&path, bytes).expect("writing an archive");
        self.import(&Source::Archive(path))
    }

    /// Imports the archive and lists what came of it.
    fn tree_of(&self, bytes: &[u8]) -> Vec<String> {
        let report = self.import_tar(bytes).expect("a good archive");
        list(&*self.store.layer(&report.digest).expect("just imported"))
    }

    /// Every file of the store but the lock, by path.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect(self.store.root(), self.store.root(), &mut found);
        found.retain(|path| path != "lock");
        found.sort();
        found
    }
}

fn collect(root: &Path, dir: &Path, found: &mut Vec<String>) {
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
fn list(layer: &dyn Layer) -> Vec<String> {
    let mut lines = Vec::new();
    list_below(layer, ROOT, "", &mut lines);
    lines
}

fn list_below(layer: &dyn Layer, dir: NodeNumber, path: &str, lines: &mut Vec<String>) {
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

fn content(layer: &dyn Layer, node: NodeNumber) -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    let count = layer.read(node, 0, &mut buffer).expect("readable");
    buffer.truncate(count);
    buffer
}

/// Builds archives member by member.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Writes the path as it is, however wrong.
    fn member(mut self, path: &str, kind: tar::EntryType, mode: u32, link: &str, data: &[u8]) -> Self {
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

    fn file(self, path: &str, text: &str) -> Self {
        self.member(path, tar::EntryType::Regular, 0o644, "", text.as_bytes())
    }

    fn dir(self, path: &str) -> Self {
        self.member(path, tar::EntryType::Directory, 0o755, "", b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.member(path, tar::EntryType::Link, 0o644, target, b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.member(path, tar::EntryType::Symlink, 0o777, target, b"")
    }

    fn pax(mut self, records: &[(&str, &str)]) -> Self {
        self.0
            .append_pax_extensions(records.iter().map(|(key, value)| (*key, value.as_bytes())))
            .expect("writing to memory");
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("writing to memory")
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

/// Makes a small tree on disk with every type that an ordinary user can make.
fn sample_tree(root: &Path) {
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

#[test]
fn one_tree_has_one_digest_however_it_comes() {
    let place = Place::new();
    let tree = place.path("tree");
    sample_tree(&tree);
    let by_directory = place
        .import(&Source::Directory(tree.clone()))
        .expect("a directory");
    let meta = fs::metadata(&tree).expect("the tree");

    let archive = |order: &[&str]| {
        let mut builder = tar::Builder::new(Vec::new());
        builder.follow_symlinks(false);
        for name in order {
            let path = tree.join(name);
            if *name == "motd-link" {
                let mut header = tar::Header::new_gnu();
                header.set_metadata(&fs::metadata(&path).expect("stat"));
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                builder
                    .append_link(&mut header, name, "etc/motd")
                    .expect("append");
            } else if path.is_symlink() {
                let mut header = tar::Header::new_gnu();
                header.set_metadata(&fs::symlink_metadata(&path).expect("stat"));
                builder
                    .append_link(&mut header, name, fs::read_link(&path).expect("readlink"))
                    .expect("append");
            } else {
                builder.append_path_with_name(&path, name).expect("append");
            }
        }
        builder.into_inner().expect("writing to memory")
    };
    let sorted = archive(&[
        ".",
        "etc",
        "etc/deep",
        "etc/deep/same",
        "etc/motd",
        "motd-link",
        "symlink",
    ]);
    let shuffled = archive(&[
        "symlink",
        "etc/motd",
        "motd-link",
        "etc/deep/same",
        "etc",
        ".",
        "etc/deep",
    ]);
    for bytes in [
        &sorted,
        &shuffled,
        &gzip(&sorted),
        &zstd::bulk::compress(&sorted, 3).expect("zstd"),
    ] {
        let by_archive = Place::new().import_tar(bytes).expect("an archive");
        assert_eq!(by_archive.digest, by_directory.digest);
    }
    let layer = place.store.layer(&by_directory.digest).expect("imported");
    let owner = format!("{}:{}", meta.uid(), meta.gid());
    assert_eq!(
        list(&*layer),
        [
            format!("/etc/ 755 {owner}"),
            format!("/etc/deep/ 755 {owner}"),
            format!("/etc/deep/same 4711 {owner} links=1 \"hello\""),
            format!("/etc/motd 644 {owner} links=2 \"hello\""),
            format!("/motd-link 644 {owner} links=2 \"hello\""),
            "/symlink -> etc/motd".to_owned(),
        ]
    );
    let root = layer.attr(ROOT).expect("the root");
    assert_eq!(
        (root.links, root.size, root.mtime),
        (
            3,
            4096,
            Time {
                seconds: 1_600_000_000,
                nanos: 0
            }
        )
    );
}

#[test]
fn content_is_kept_once() {
    let place = Place::new();
    let first = place
        .import_tar(&Tar::new().file("a", "same").file("b", "same").bytes())
        .expect("good");
    assert_eq!((first.bytes, first.bytes_new), (8, 4));
    let second = place
        .import_tar(&Tar::new().file("c", "same").bytes())
        .expect("good");
    assert_eq!((second.bytes, second.bytes_new), (4, 0));
    let contents = place
        .files()
        .into_iter()
        .filter(|path| path.starts_with("content/"))
        .count();
    assert_eq!(contents, 1);
    // Large files take another way in, through a file instead of memory.
    let large = "x".repeat(3 << 20);
    let third = place
        .import_tar(&Tar::new().file("d", &large).file("e", &large).bytes())
        .expect("good");
    assert_eq!(third.bytes_new, 3 << 20);
    let report = place.store.verify(&third.digest, &mut |_| {}).expect("here");
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn marks_of_both_conventions_delete() {
    let place = Place::new();
    let tree = place.tree_of(
        &Tar::new()
            .file("etc/.wh.passwd", "")
            .member("var/gone", tar::EntryType::Char, 0o644, "", b"")
            .dir("opt")
            .file("opt/.wh..wh..opq", "")
            .pax(&[("SCHILY.xattr.trusted.overlay.opaque", "y")])
            .dir("srv")
            // Deleted below and made anew here, in either order.
            .file(".wh.new", "")
            .dir("new")
            .dir("old")
            .file(".wh.old", "")
            .file(".wh..wh.plnk", "")
            .bytes(),
    );
    assert_eq!(
        tree,
        [
            "/etc/ 755 0:0 implied",
            "/etc/passwd whiteout",
            "/new/ 755 7:8 opaque",
            "/old/ 755 7:8 opaque",
            "/opt/ 755 7:8 opaque",
            "/srv/ 755 7:8 opaque",
            "/var/ 755 0:0 implied",
            "/var/gone whiteout",
        ]
    );
}

#[test]
fn the_last_member_of_a_name_wins() {
    let place = Place::new();
    let tree = place.tree_of(
        &Tar::new()
            .file("a", "one")
            .file("./a", "two")
            .file("b/inner", "")
            .file("b", "a file now")
            .file("/c", "a leading slash means the root of the tree")
            .link("d", "a")
            .bytes(),
    );
    assert_eq!(
        tree,
        [
            "/a 644 7:8 links=2 \"two\"",
            "/b 644 7:8 links=1 \"a file now\"",
            "/c 644 7:8 links=1 \"a leading slash means the root of the tree\"",
            "/d 644 7:8 links=2 \"two\"",
        ]
    );
}

#[test]
fn long_names_and_large_owners_come_from_extended_headers() {
    let place = Place::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let tree = place.tree_of(
        &Tar::new()
            .pax(&[
                ("path", &long),
                ("uid", "4000000000"),
                ("gid", "9"),
                ("mtime", "-1.5"),
            ])
            .file("short", "text")
            .bytes(),
    );
    let expected = format!("/{long} 644 4000000000:9 links=1 \"text\"");
    assert_eq!(tree.last(), Some(&expected));
}

#[test]
fn hostile_archives_are_refused_whole() {
    let check = |archive: Vec<u8>, message: &str| {
        let place = Place::new();
        let error = place.import_tar(&archive).expect_err(message);
        let text = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ");
        assert!(text.contains(message), "expected {message:?} in {text:?}");
        assert_eq!(place.files(), ["archive"; 0], "something is left");
    };
    let good = || Tar::new().file("good", "written before the bad one");
    check(
        good().file("a/../../etc/passwd", "").bytes(),
        "not a usable file name: ..",
    );
    check(good().file("..", "").bytes(), "not a usable file name: ..");
    check(
        good().symlink("etc", "/etc").file("etc/passwd", "").bytes(),
        "not a directory",
    );
    check(
        good().link("a", "/etc/passwd").bytes(),
        "not earlier in the archive",
    );
    check(
        good().dir("d").link("a", "d").bytes(),
        "a hard link to a directory",
    );
    check(
        good().symlink("s", "/").link("a", "s/etc").bytes(),
        "not earlier in the archive",
    );
    check(
        good().pax(&[("path", &"n".repeat(256))]).file("x", "").bytes(),
        "not a usable file name",
    );
    check(
        good().pax(&[("path", &"d/".repeat(300))]).dir("x").bytes(),
        "too deep",
    );
    check(
        good().pax(&[("path", "a\0b")]).file("x", "").bytes(),
        "not a usable file name",
    );
    check(
        good()
            .pax(&[("comment", &"c".repeat(100_000))])
            .file("x", "")
            .bytes(),
        "too long",
    );
    check(
        good().pax(&[("GNU.sparse.major", "1")]).file("x", "").bytes(),
        "sparse",
    );
    check(
        good().pax(&[("size", "1000000000000")]).file("x", "").bytes(),
        "cut short",
    );
    check(
        good()
            .member("x", tar::EntryType::Block, 0o644, "", b"data")
            .bytes(),
        "device with data",
    );
    check(good().file(".", "").bytes(), "in place of the root");
    check(good().symlink("s", "").bytes(), "impossible target");
    let mut cut = good().file("x", "some content").bytes();
    cut.truncate(1024 + 512 + 5);
    check(cut, "cut short");
    let mut bent = good().bytes();
    bent[0] ^= 1;
    check(bent, "wrong checksum");
    check(Vec::new(), "it is empty");
    check(
        b"\xfd7zXZ\0 and so on".to_vec(),
        "compressed with something other",
    );
}

#[test]
fn limits_hold() {
    let place = Place::new();
    let archive = Tar::new().file("a", "12345").file("b", "67890").bytes();
    fs::write(place.path("archive"), archive).expect("write");
    let import = |limits| {
        let options = TemplateOptions {
            limits,
            ..TemplateOptions::default()
        };
        place
            .store
            .import(&Source::Archive(place.path("archive")), &options, &mut |_| {})
    };
    let limits = Limits::default();
    assert!(matches!(
        import(Limits {
            entries_max: 1,
            ..limits
        }),
        Err(ImportError::Limit(_))
    ));
    let too_large = import(Limits {
        bytes_max: 9,
        ..limits
    });
    assert!(matches!(
        too_large,
        Err(ImportError::Stage(StageError::TooLarge { max: 9 }))
    ));
    assert!(place.files().is_empty());
    import(Limits {
        bytes_max: 10,
        entries_max: 2,
        ..limits
    })
    .expect("just fits");
}

#[test]
fn verify_finds_a_flipped_byte() {
    let place = Place::new();
    let report = place
        .import_tar(
            &Tar::new()
                .dir("etc")
                .file("etc/motd", "hello")
                .file("other", "world")
                .bytes(),
        )
        .expect("good");
    let verify = || {
        place
            .store
            .verify(&report.digest, &mut |_| {})
            .expect("the manifest is sound")
    };
    assert!(verify().is_sound());

    let motd = "content/2c/f24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    overwrite(&place.store.root().join(motd), b"hellO");
    let damage = verify().damage;
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert!(damage[0].path.ends_with(motd));
    assert_eq!(damage[0].seen_as.as_deref(), Some(b"etc/motd".as_slice()));

    // An index with another tree in it is not opened at all, by a store that has not opened it before.
    let index = place
        .files()
        .into_iter()
        .find(|path| path.starts_with("index/"))
        .expect("one index");
    let index = place.store.root().join(index);
    let mut bytes = fs::read(&index).expect("readable");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    overwrite(&index, &bytes);
    let again = Store::open(place.store.root()).expect("a store");
    assert!(matches!(
        again.layer(&report.digest),
        Err(StoreError::Index { .. })
    ));
    assert!(!verify().is_sound());
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).expect("in the store");
    fs::write(path, bytes).expect("in the store");
}

#[test]
fn what_an_interrupted_import_left_is_cleared_away() {
    let place = Place::new();
    let kept = place
        .import_tar(&Tar::new().file("kept", "kept").bytes())
        .expect("good");
    let before = place.files();
    // As if the machine had stopped between renaming content and renaming the template.
    let left = place.store.root().join("tmp/import-1");
    let content = format!("content/ab/{}", "c".repeat(62));
    fs::create_dir_all(&left).expect("mkdir");
    fs::create_dir_all(place.store.root().join("content/ab")).expect("mkdir");
    fs::write(place.store.root().join(&content), "x").expect("write");
    fs::write(left.join("staged"), "y").expect("write");
    let list = format!("templates/{}.json\n{content}\n../../etc/passwd\n", "d".repeat(64));
    fs::write(left.join("placing"), list).expect("write");
    let again = Store::open(place.store.root()).expect("a store");
    assert_eq!(place.files(), before);
    assert!(again.verify(&kept.digest, &mut |_| {}).expect("here").is_sound());
}

#[test]
fn a_full_disk_leaves_nothing() {
    const INSIDE: &str = "COWFS_TEST_SMALL_DISK";
    if let Some(disk) = std::env::var_os(INSIDE) {
        return on_a_full_disk(Path::new(&disk));
    }
    // This test again, in a mount namespace of its own with a small disk in it: as root, or as nobody in particular
    // where the kernel lets users have namespaces.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut command = std::process::Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let output = command
        .args(["--mount", "sh", "-ec"])
        .arg("mount -t tmpfs -o size=256k tmpfs \"$1\"; exec \"$0\" --exact a_full_disk_leaves_nothing --nocapture")
        .arg(std::env::current_exe().expect("a test knows its own path"))
        .arg(dir.path())
        .env(INSIDE, dir.path())
        .output()
        .expect("unshare(1) of util-linux runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "a small disk needs the right to mount, as root or in a user namespace:\n{said}"
    );
}

fn on_a_full_disk(disk: &Path) {
    let store = Store::open(&disk.join("store")).expect("a store");
    let place = Place::new();
    let small = Tar::new().file("a", "small").bytes();
    let mut large = Tar::new();
    for i in 0..100_u8 {
        large = large.file(&format!("f{i}"), &format!("{i}").repeat(9000));
    }
    fs::write(place.path("small"), small).expect("write");
    fs::write(place.path("large"), large.bytes()).expect("write");
    let import = |name: &str| {
        store.import(
            &Source::Archive(place.path(name)),
            &TemplateOptions::default(),
            &mut |_| {},
        )
    };
    import("small").expect("there is room");
    let mut before = Vec::new();
    collect(store.root(), store.root(), &mut before);
    let error = import("large").expect_err("there is no room");
    let ImportError::Stage(StageError::Store { source, .. }) = error else {
        panic!("another error: {error}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    let mut after = Vec::new();
    collect(store.root(), store.root(), &mut after);
    before.sort();
    after.sort();
    assert_eq!(after, before);
    import("small").expect("still there");
}

#[test]
fn templates_carry_what_boots_them() {
    let place = Place::new();
    fs::write(place.path("archive"), Tar::new().file("a", "").bytes()).expect("write");
    let import = |run: &str, name: &str| {
        let options = TemplateOptions {
            name: Some(name.to_owned()),
            kernel: Some(b"kernel".to_vec()),
            initramfs: Some(b"initramfs".to_vec()),
            boot: Some(Boot::Small { run: run.to_owned() }),
            command_line: "quiet".to_owned(),
            ..TemplateOptions::default()
        };
        place
            .store
            .import(&Source::Archive(place.path("archive")), &options, &mut |_| {})
            .expect("good")
            .digest
    };
    let web = import("apachectl -D FOREGROUND", "web");
    assert_eq!(
        import("apachectl -D FOREGROUND", "www"),
        web,
        "a name is no part of a template"
    );
    let other = import("nginx", "web");
    assert_ne!(other, web);
    assert_eq!(
        place.store.names(&web),
        ["www", "web"]
            .map(str::to_owned)
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
    );
    let mut named = vec![web, other];
    named.sort();
    assert_eq!(place.store.named("web").expect("readable"), named);
    assert_eq!(place.store.list().expect("readable"), named);
    let boot = place.store.boot_files(&web).expect("bootable");
    assert_eq!(fs::read(&boot.kernel).expect("readable"), b"kernel");
    assert_eq!(fs::read(&boot.initramfs).expect("readable"), b"initramfs");
    assert_eq!(boot.command_line, "quiet");
    let summary = place.store.show(&web).expect("here");
    assert_eq!(
        (summary.nodes, summary.contents, summary.content_bytes),
        (2, 1, 0)
    );
}

#[test]
fn a_few_files_make_a_layer() {
    let place = Place::new();
    let page = |bytes: &'static [u8]| FileToImport {
        path: "/var/www/html/index.html",
        mode: 0o644,
        bytes,
    };
    let first = place.store.import_files(&[page(b"one")]).expect("good");
    assert_eq!(place.store.import_files(&[page(b"one")]).expect("good"), first);
    let second = place.store.import_files(&[page(b"two")]).expect("good");
    let first = place.store.layer(&first).expect("here");
    let second = place.store.layer(&second).expect("here");
    assert_eq!(
        list(&*first),
        [
            "/var/ 755 0:0 implied",
            "/var/www/ 755 0:0 implied",
            "/var/www/html/ 755 0:0 implied",
            "/var/www/html/index.html 644 0:0 links=1 \"one\"",
        ]
    );
    assert!(first.is_implied(ROOT).expect("a root"));
    // The fifth node is the page: its time tells the two apart.
    assert_ne!(
        first.attr(5).expect("the page").mtime,
        second.attr(5).expect("the page").mtime
    );
    for wrong in ["", "/", "a/../b", "a//.."] {
        let file = FileToImport {
            path: wrong,
            mode: 0o644,
            bytes: b"",
        };
        assert!(place.store.import_files(&[file]).is_err(), "{wrong:?}");
    }
}

#[test]
fn readers_ask_for_anything_and_get_an_answer() {
    let place = Place::new();
    let report = place
        .import_tar(&Tar::new().file("a", "hello").symlink("s", "a").bytes())
        .expect("good");
    let layer = place.store.layer(&report.digest).expect("here");
    let mut buffer = [0; 8];
    assert_eq!(layer.read(2, 3, &mut buffer).expect("a file"), 2);
    assert_eq!(layer.read(2, 5, &mut buffer).expect("a file"), 0);
    assert_eq!(layer.read(2, u64::MAX, &mut buffer).expect("a file"), 0);
    for node in [0, 4, u64::MAX] {
        assert!(layer.attr(node).is_err() && layer.entries(node).is_err() && layer.place(node).is_err());
    }
    assert!(layer.read(ROOT, 0, &mut buffer).is_err());
    assert!(layer.lookup(2, b"a").is_err());
    assert!(layer.readlink(2).is_err());
    assert_eq!(layer.lookup(ROOT, b"").expect("a directory"), None);
    assert_eq!(layer.place(3).expect("a node"), Some((ROOT, b"s".to_vec())));
}

/// The bytes of an index with some of everything in it.
fn sample_index() -> Vec<u8> {
    let place = Place::new();
    place
        .import_tar(
            &Tar::new()
                .dir("etc")
                .file("etc/motd", "hello")
                .link("etc/motd2", "etc/motd")
                .symlink("link", "etc/motd")
                .file(".wh.gone", "")
                .file("usr/bin/deep/tool", "x")
                .bytes(),
        )
        .expect("good");
    let index = place
        .files()
        .into_iter()
        .find(|path| path.starts_with("index/"))
        .expect("one index");
    fs::read(place.store.root().join(index)).expect("readable")
}

/// Asks an index for everything it has, by way of a layer.
fn walk(bytes: Vec<u8>) {
    if let Ok(index) = Index::from_bytes(bytes) {
        let nodes = index.node_count();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let contents = cowfs::template::ContentStore::new(dir.path().to_owned());
        let layer = cowfs::template::TemplateLayer::new(index.into(), contents.into());
        for node in 0..=nodes + 1 {
            let _ = (
                layer.attr(node),
                layer.entries(node),
                layer.place(node),
                layer.readlink(node),
            );
            let _ = (layer.lookup(node, b"etc"), layer.read(node, 0, &mut [0; 4]));
        }
    }
}

#[test]
fn every_single_flipped_bit_of_an_index_is_survived() {
    let index = sample_index();
    assert!(Index::from_bytes(index.clone()).is_ok());
    for at in 0..index.len() {
        for bit in 0..8 {
            let mut bent = index.clone();
            bent[at] ^= 1 << bit;
            walk(bent);
        }
    }
    for len in 0..index.len() {
        assert!(
            Index::from_bytes(index[..len].to_vec()).is_err(),
            "cut to {len} bytes"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_make_an_index_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut index = SAMPLE.clone();
        for (at, byte) in changes {
            let at = at.index(index.len());
            index[at] = byte;
        }
        walk(index);
    }
}

static SAMPLE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(sample_index);
