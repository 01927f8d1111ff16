//! What the store keeps: once, whole, and with all that boots it.

use std::fs;
use std::path::Path;

use cowfs::import::{ImportError, Source};
use cowfs::layer::ROOT;
use cowfs::template::{Boot, FileToImport, StageError, Store, StoreError, TemplateOptions};

use crate::support::{Place, Tar, collect, list};

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
        .arg("mount -t tmpfs -o size=256k tmpfs \"$1\"; exec \"$0\" --exact kept::a_full_disk_leaves_nothing --nocapture")
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
