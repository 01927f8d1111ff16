//! What a mark says and does not say.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::*;
use crate::writable::mark::{Mark, fingerprint};

fn layers() -> MemoryLayer {
    MemoryLayer::new(b"base0000")
        .file("etc/motd", b"hello")
        .dir("var")
}

fn mark(path: &Path) -> Mark {
    Mark::of(path).expect("taking the mark of a closed layer")
}

/// The mark while the layer is open, closed again.
fn open_mark(path: &Path, epoch: u64) -> Option<Mark> {
    world(path, epoch, &[&layers()]).stack.unchanged_mark()
}

/// A layer with a bit of everything: small and large content, names, a whiteout, a copied-up file.
fn filled(path: &Path) {
    let world = world(path, 1, &[&layers()]);
    world.create("var/small");
    world.write("var/small", 0, b"in the log", Stability::FileSync);
    world.create("var/large");
    world.write("var/large", 0, &[7; 100_000], Stability::FileSync);
    world.link("var/small", "var/second").expect("linking");
    world.rename("etc/motd", "etc/old").expect("renaming");
    assert_eq!(world.stack.unchanged_mark(), None, "a guest has been here");
}

#[test]
fn a_mark_outlives_closing_opening_moving_and_a_new_epoch() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("w");
    filled(&path);
    let before = mark(&path);
    let print = fingerprint(&path).expect("a fingerprint");
    assert_eq!(mark(&path), before, "looking changes nothing");
    assert_eq!(fingerprint(&path).expect("a fingerprint"), print);
    assert_eq!(open_mark(&path, 1), Some(before));
    assert_eq!(open_mark(&path, 2), Some(before));
    // Reading is no change.
    let reader = world(&path, 2, &[&layers()]);
    assert_eq!(reader.read("var/large").len(), 100_000);
    reader.tree();
    assert_eq!(reader.stack.unchanged_mark(), Some(before));
    drop(reader);
    let moved = dir.path().join("elsewhere");
    fs::rename(&path, &moved).expect("moving");
    assert_eq!(mark(&moved), before);
    assert_eq!(Mark::parse(&before.to_string()), Some(before));
    assert_eq!(Mark::parse("short"), None);
}

#[test]
fn compaction_is_no_change() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("w");
    filled(&path);
    let world = world(&path, 1, &[&layers()]);
    for size in 0..4_000 {
        let set = SetAttr {
            mode: Some(0o600 + size % 8),
            ..SetAttr::default()
        };
        world.set("var/small", &set).expect("changing the mode");
    }
    world.stack.flush_all().expect("flushing");
    let long = world.stack.statistics().log_bytes;
    drop(world);
    let before = mark(&path);
    let compacted = open_mark(&path, 9);
    assert_eq!(compacted, Some(before), "of {long} bytes of log");
    assert_eq!(mark(&path), before);
}

#[test]
fn every_change_of_a_guest_changes_the_mark() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("w");
    filled(&path);
    let mut seen = vec![mark(&path)];
    let mut check = |what: &str, change: &dyn Fn(&World)| {
        let world = world(&path, 1, &[&layers()]);
        change(&world);
        assert_eq!(world.stack.unchanged_mark(), None, "{what}");
        drop(world);
        let now = mark(&path);
        assert!(!seen.contains(&now), "{what} left the mark as it was");
        seen.push(now);
    };
    check("a file", &|world| {
        world.create("var/new");
    });
    check("bytes in the log", &|world| {
        world.write("var/small", 3, b"X", Stability::FileSync);
    });
    // In place: the ranges stay what they were.
    check("bytes in content", &|world| {
        world.write("var/large", 50_000, &[8; 10_000], Stability::FileSync);
    });
    check("unstable bytes that were committed", &|world| {
        world.write("var/large", 0, &[9; 10_000], Stability::Unstable);
        world.stack.flush_all().expect("flushing");
    });
    check("a mode", &|world| {
        let set = SetAttr {
            mode: Some(0o4711),
            ..SetAttr::default()
        };
        world.set("var/small", &set).expect("changing the mode");
    });
    check("a size", &|world| {
        let set = SetAttr {
            size: Some(9),
            ..SetAttr::default()
        };
        world.set("var/large", &set).expect("cutting");
    });
    check("a name less", &|world| {
        world.remove("var/second").expect("removing")
    });
    check("a directory", &|world| {
        world.mkdir("var/dir").expect("making");
    });
}

#[test]
fn other_layers_below_change_the_mark() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("w");
    filled(&path);
    let before = mark(&path);
    let other = MemoryLayer::new(b"other000")
        .file("etc/motd", b"hello")
        .dir("var");
    let world = world(&path, 1, &[&other]);
    assert_eq!(world.stack.unchanged_mark(), None);
    drop(world);
    assert_ne!(mark(&path), before);
}

/// The largest file below a directory.
fn largest(dir: &Path) -> PathBuf {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("listing") {
            let path = entry.expect("listing").path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.push((fs::metadata(&path).expect("looking").len(), path));
            }
        }
    }
    files.into_iter().max().expect("a file").1
}

#[test]
fn a_person_who_changes_content_changes_the_mark() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("w");
    filled(&path);
    let before = (mark(&path), fingerprint(&path).expect("a fingerprint"));
    let content = largest(&path.join("content"));
    let file = File::options().write(true).open(content).expect("opening");
    // As an editor leaves it; the clock of a file system need not have moved since the test began.
    let later = SystemTime::now() + Duration::from_secs(1);
    file.set_modified(later).expect("setting the time");
    assert_ne!(mark(&path), before.0);
    assert_ne!(fingerprint(&path).expect("a fingerprint"), before.1);
}
