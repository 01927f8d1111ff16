//! A directory as a layer: what it shows, and what happens when it changes under us.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use cowfs::directory::DirectoryLayer;
use cowfs::import::Limits;
use cowfs::layer::{Entry, Layer, LayerError, NodeNumber, ROOT};
use tempfile::TempDir;

fn sample() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fill(dir.path());
    dir
}

fn fill(root: &Path) {
    fs::create_dir_all(root.join("www/img")).expect("mkdir");
    fs::write(root.join("www/page"), "hello").expect("write");
    fs::write(root.join("www/.wh.old"), "").expect("write");
    fs::write(root.join("www/img/.wh..wh..opq"), "").expect("write");
    symlink("/etc/passwd", root.join("www/link")).expect("symlink");
    for name in ["www/page", "www/img", "www", "."] {
        set_time(&root.join(name), 1_600_000_000);
    }
}

fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 7);
    fs::File::open(path)
        .and_then(|file| file.set_modified(time))
        .expect("utimes");
}

fn open(root: &Path) -> DirectoryLayer {
    DirectoryLayer::open(root, &Limits::default()).expect("a readable directory")
}

fn find(layer: &dyn Layer, path: &str) -> Option<Entry> {
    path.split('/').try_fold(Entry::Node(ROOT), |at, name| match at {
        Entry::Node(dir) => layer.lookup(dir, name.as_bytes()).expect("a directory"),
        Entry::Whiteout => None,
    })
}

fn node(layer: &dyn Layer, path: &str) -> NodeNumber {
    match find(layer, path) {
        Some(Entry::Node(node)) => node,
        other => panic!("{path} is {other:?}"),
    }
}

fn read(layer: &dyn Layer, path: &str) -> Result<String, LayerError> {
    let mut buffer = [0; 100];
    let count = layer.read(node(layer, path), 0, &mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

#[test]
fn shows_what_was_there_and_follows_nothing() {
    let dir = sample();
    let layer = open(dir.path());
    assert_eq!(read(&layer, "www/page").expect("readable"), "hello");
    assert_eq!(
        layer.attr(node(&layer, "www/page")).expect("a file").mtime.nanos,
        7
    );
    assert_eq!(find(&layer, "www/old"), Some(Entry::Whiteout));
    assert!(layer.is_opaque(node(&layer, "www/img")).expect("a directory"));
    assert!(!layer.is_opaque(node(&layer, "www")).expect("a directory"));
    assert_eq!(
        layer.readlink(node(&layer, "www/link")).expect("a symlink"),
        b"/etc/passwd"
    );
    assert_eq!(layer.content(node(&layer, "www/page")).expect("a file"), None);
    assert_eq!(find(&layer, "www/absent"), None);
    assert!(layer.unreadable().is_empty());
}

#[test]
fn copies_with_equal_times_are_the_same_layer() {
    let (one, two) = (sample(), sample());
    // Symbolic links keep the time they were made at, which nothing here can set.
    fs::remove_file(one.path().join("www/link")).expect("rm");
    fs::remove_file(two.path().join("www/link")).expect("rm");
    set_time(&one.path().join("www"), 1_600_000_000);
    set_time(&two.path().join("www"), 1_600_000_000);
    for root in [one.path(), two.path()] {
        for mark in ["www/.wh.old", "www/img/.wh..wh..opq"] {
            set_time(&root.join(mark), 1);
        }
    }
    assert_eq!(open(one.path()).id(), open(two.path()).id());
    set_time(&two.path().join("www/page"), 1_600_000_001);
    assert_ne!(open(one.path()).id(), open(two.path()).id());
}

#[test]
fn a_changed_file_is_an_error_and_not_a_mixture() {
    let check = |change: &dyn Fn(&Path)| {
        for read_before in [false, true] {
            let dir = sample();
            let layer = open(dir.path());
            if read_before {
                assert_eq!(read(&layer, "www/page").expect("unchanged"), "hello");
            }
            change(&dir.path().join("www/page"));
            match read(&layer, "www/page") {
                Err(LayerError::Damaged { .. } | LayerError::Io { .. }) => {}
                // A file that was open already goes on being what it was.
                Ok(text) if read_before && text == "hello" => {}
                other => panic!("{other:?}"),
            }
        }
    };
    check(&|page| {
        let mut file = fs::OpenOptions::new().append(true).open(page).expect("open");
        file.write_all(b" and more").expect("write");
    });
    check(&|page| fs::write(page, "HELLO").expect("write"));
    check(&|page| fs::write(page, "").expect("write"));
    check(&|page| fs::remove_file(page).expect("rm"));
    check(&|page| {
        fs::remove_file(page).expect("rm");
        fs::write(page, "other").expect("write");
    });
    check(&|page| {
        fs::remove_file(page).expect("rm");
        symlink("/etc/passwd", page).expect("symlink");
    });
    check(&|page| {
        let www = page.parent().expect("it has one");
        fs::rename(www, www.with_file_name("away")).expect("mv");
        symlink("away", www).expect("symlink");
    });
}

#[test]
fn names_made_later_do_not_appear() {
    let dir = sample();
    let layer = open(dir.path());
    fs::write(dir.path().join("www/later"), "").expect("write");
    assert_eq!(find(&layer, "www/later"), None);
    assert_ne!(open(dir.path()).id(), layer.id());
}

#[test]
fn what_cannot_be_read_is_told() {
    let dir = sample();
    let page = dir.path().join("www/page");
    fs::set_permissions(&page, fs::Permissions::from_mode(0o000)).expect("chmod");
    let layer = open(dir.path());
    if fs::File::open(&page).is_ok() {
        // Root reads everything.
        assert!(layer.unreadable().is_empty());
    } else {
        assert_eq!(layer.unreadable(), [page]);
        assert!(matches!(read(&layer, "www/page"), Err(LayerError::Io { .. })));
    }
    assert!(DirectoryLayer::open(&dir.path().join("absent"), &Limits::default()).is_err());
    assert!(DirectoryLayer::open(&dir.path().join("www/page"), &Limits::default()).is_err());
}

#[test]
fn limits_hold() {
    let dir = sample();
    let limits = Limits {
        entries_max: 3,
        ..Limits::default()
    };
    assert!(DirectoryLayer::open(dir.path(), &limits).is_err());
    let limits = Limits {
        depth_max: 1,
        ..Limits::default()
    };
    assert!(DirectoryLayer::open(dir.path(), &limits).is_err());
}
