//! What changes cost, counted and not timed: bytes read from the layer below, bytes that came into the writable layer.
#![expect(
    clippy::print_stdout,
    reason = "the figures are worth seeing, and `--nocapture` shows them"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cowfs::attr::SetAttr;
use cowfs::service::{Caller, FileService, Stability};

use crate::made_up::{MadeUp, byte_at};
use crate::support::{Tree, disk_usage};

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;

/// Writes one byte into a file of this length; what it cost: bytes read below, bytes the writable layer grew by.
fn one_byte_into(size: u64, stability: Stability) -> (u64, u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let layer = Arc::new(MadeUp::new(1, 1, size));
    let tree = Tree::over(dir.path(), 1, vec![Arc::clone(&layer) as _]);
    let file = tree.at("d0/f0");
    let before = disk_usage(dir.path());
    let at = size / 2 + 3;
    tree.write("d0/f0", at, b"!", stability);
    tree.service
        .commit(&Caller::root(), &file.handle)
        .expect("committing");
    let cost = (
        layer.read.load(Ordering::Relaxed),
        disk_usage(dir.path()) - before,
    );
    // And it is right, on both sides of the byte and after a restart.
    drop(tree);
    let tree = Tree::over(dir.path(), 2, vec![layer]);
    let mut out = Vec::new();
    tree.service
        .read(&Caller::root(), &file.handle, at - 1, 3, &mut out)
        .expect("reading");
    assert_eq!(out, [byte_at(at - 1), b'!', byte_at(at + 1)]);
    assert_eq!(tree.at("d0/f0").attr.size, size);
    cost
}

#[test]
fn one_byte_costs_the_same_in_a_kibibyte_a_gibibyte_and_a_tebibyte() {
    for stability in [Stability::Unstable, Stability::DataSync, Stability::FileSync] {
        let costs = [64 * KIB, GIB, 1 << 40].map(|size| one_byte_into(size, stability));
        for (read, written) in costs {
            assert!(
                read <= 8 * KIB,
                "{stability:?}: read {read} bytes from the template"
            );
            assert!(written <= 24 * KIB, "{stability:?}: wrote {written} bytes");
        }
        let [(small, _), (big, _), (huge, _)] = costs;
        assert!(small == big && big == huge, "{stability:?}: {costs:?}");
        println!("one byte, {stability:?}: (read, written) for 64 KiB, 1 GiB, 1 TiB: {costs:?}");
    }
}

#[test]
fn a_truncation_reads_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let layer = Arc::new(MadeUp::new(1, 1, GIB));
    let tree = Tree::over(dir.path(), 1, vec![Arc::clone(&layer) as _]);
    for size in [GIB - 1, 5_000, 2 * GIB, 0] {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        tree.set("d0/f0", &set);
        assert_eq!(tree.at("d0/f0").attr.size, size);
    }
    assert_eq!(layer.read.load(Ordering::Relaxed), 0);
    assert!(disk_usage(dir.path()) < 64 * KIB);
}

#[test]
fn a_whole_template_changes_hands_without_copying_data() {
    const FILES: u64 = 20_000;
    let dir = tempfile::tempdir().expect("a directory");
    let layer = Arc::new(MadeUp::new(FILES, 200, 50 * KIB));
    let tree = Tree::over(dir.path(), 1, vec![Arc::clone(&layer) as _]);
    let owner = SetAttr {
        uid: Some(1000),
        gid: Some(1000),
        ..SetAttr::default()
    };
    // As `chown -R` does: list, then change each.
    let mut changed = 0;
    let mut todo = vec![tree.service.root()];
    let mut last = None;
    while let Some(object) = todo.pop() {
        todo.extend(tree.objects_in(&object));
        let set = tree
            .service
            .setattr(&Caller::root(), None, &object.handle, &owner, None)
            .expect("setattr");
        last = Some(set.ticket);
        changed += 1;
    }
    tree.service
        .settle(last.expect("something changed"))
        .expect("settling");
    assert_eq!(changed, FILES + FILES / 200 + 1);
    assert_eq!(layer.read.load(Ordering::Relaxed), 0, "content was read");
    let grown = disk_usage(dir.path());
    println!(
        "{changed} objects of {} MiB changed hands for {grown} bytes",
        (FILES * 50 * KIB) >> 20
    );
    assert!(grown / changed < 300, "{grown} bytes for {changed} objects");
    assert_eq!(files_in(&dir.path().join("content")), 0, "content was copied");
    // The content is still that of the template, times are kept, and all of it outlives a restart.
    drop(tree);
    let tree = Tree::over(dir.path(), 2, vec![layer]);
    for path in ["d0/f0", "d99/f19999", "d50"] {
        let attr = tree.at(path).attr;
        assert_eq!(
            (attr.uid, attr.gid, attr.mtime.seconds),
            (1000, 1000, 1_000_000_000),
            "{path}"
        );
    }
    assert_eq!(
        tree.read("d7/f1400", 1_000, 3),
        [byte_at(1_000), byte_at(1_001), byte_at(1_002)]
    );
}

#[test]
fn a_whole_tree_is_renamed_for_the_price_of_one_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let layer = Arc::new(MadeUp::new(10_000, 10_000, KIB));
    let tree = Tree::over(dir.path(), 1, vec![Arc::clone(&layer) as _]);
    let child = tree.at("d0/f77");
    let (before, asked) = (disk_usage(dir.path()), layer.asked.load(Ordering::Relaxed));
    tree.rename("d0", "moved");
    assert!(disk_usage(dir.path()) - before < 4 * KIB);
    assert!(
        layer.asked.load(Ordering::Relaxed) - asked < 100,
        "the tree was walked"
    );
    assert_eq!(tree.at("moved/f77").handle, child.handle);
    assert_eq!(tree.at("moved/f77").fileid, child.fileid);
    assert_eq!(tree.names("moved").len(), 10_000);
    assert!(tree.find("d0").is_err());
    tree.write("moved/f77", 0, b"changed", Stability::FileSync);
    drop(tree);
    let tree = Tree::over(dir.path(), 2, vec![layer]);
    assert_eq!(tree.read("moved/f77", 0, 7), b"changed");
    assert_eq!(tree.names("moved").len(), 10_000);
}

fn files_in(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .map(|entry| entry.expect("listing").path())
        .map(|path| if path.is_dir() { files_in(&path) } else { 1 })
        .sum()
}
