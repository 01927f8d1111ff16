//! What a crash, a torn write, damage and a late holder of an earlier epoch do to a writable layer: never more than
//! losing what nobody was told about.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::writable::WritableError;
use crate::writable::disk::Disk;
use crate::writable::replay;
use crate::writable::segment::{self, FRAME, HEADER, Header};

fn lower() -> MemoryLayer {
    MemoryLayer::new(b"template")
        .file("etc/conf", &[b'o'; 9000])
        .file("bin/perl", b"#!perl")
        .link("bin/perl", "bin/perl5")
        .dir("usr/lib/deep")
}

/// Writes the layer's files elsewhere, with the log's only segment replaced by `log`.
fn with_log(from: &Path, log: &[u8]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    Writable::create_if_missing(copy.path()).expect("making the layer");
    fs::copy(from.join("layer.json"), copy.path().join("layer.json")).expect("copying");
    for folder in fs::read_dir(from.join("content")).expect("listing") {
        let folder = folder.expect("listing").path();
        let name = folder.file_name().expect("it has one").to_owned();
        fs::create_dir(copy.path().join("content").join(&name)).expect("making");
        for file in fs::read_dir(&folder).expect("listing") {
            let file = file.expect("listing");
            fs::copy(
                file.path(),
                copy.path().join("content").join(&name).join(file.file_name()),
            )
            .expect("copying");
        }
    }
    let segment = segment_path(from);
    let name = segment.file_name().expect("it has one");
    fs::write(copy.path().join("log").join(name), log).expect("writing the log");
    copy
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(dir.join("log")).expect("listing");
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.expect("listing").path()).collect();
    paths.sort();
    paths
}

/// The newest segment.
fn segment_path(dir: &Path) -> PathBuf {
    segments(dir).pop().expect("there is one")
}

/// A few operations of every kind; after each, the log's length and the tree.
fn story(dir: &Path) -> BTreeMap<usize, BTreeMap<String, String>> {
    let world = world(dir, 1, &[&lower()]);
    let mut after = BTreeMap::new();
    let mut note = |world: &World| {
        let len = fs::read(segment_path(dir)).expect("reading the log").len();
        after.insert(len, world.tree());
    };
    note(&world);
    let steps: [&dyn Fn(&World); 11] = [
        &|world| {
            let _ = world.create("etc/new");
        },
        &|world| world.write("etc/new", 0, b"inline", Stability::FileSync),
        &|world| world.write("etc/conf", 4000, &[1; 5000], Stability::FileSync),
        &|world| world.write("bin/perl", 2, b"PERL", Stability::DataSync),
        &|world| world.rename("usr/lib", "etc/lib").expect("rename"),
        &|world| world.link("etc/conf", "conf").expect("link"),
        &|world| world.rename("etc/new", "conf").expect("rename over"),
        &|world| world.remove("bin/perl5").expect("remove"),
        &|world| {
            world
                .set(
                    "etc/conf",
                    &SetAttr {
                        size: Some(100),
                        ..SetAttr::default()
                    },
                )
                .expect("setattr")
        },
        &|world| world.rmdir("etc/lib/deep").expect("rmdir"),
        &|world| {
            let _ = world.mkdir("etc/lib/deep").expect("mkdir");
        },
    ];
    for step in steps {
        step(&world);
        note(&world);
    }
    after
}

#[test]
fn every_prefix_of_the_log_is_a_state_that_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let trees = story(dir.path());
    let log = fs::read(segment_path(dir.path())).expect("reading the log");
    let (first, _) = trees.first_key_value().expect("there are some");
    let mut ends = vec![HEADER];
    while let Some(&at) = ends.last().filter(|&&at| at < log.len()) {
        let len: [u8; 4] = log[at..at + 4].try_into().expect("four bytes");
        ends.push(at + FRAME + usize::try_from(u32::from_le_bytes(len)).expect("it fits"));
    }
    let copy = with_log(dir.path(), &log);
    let meta = crate::writable::Meta::read(&Disk::Host, copy.path())
        .expect("reading")
        .expect("it is there");
    let segment = segment_path(copy.path());
    for len in 0..log.len() {
        fs::write(&segment, &log[..len]).expect("writing");
        let replayed = replay::replay(&Disk::Host, copy.path(), &meta)
            .unwrap_or_else(|error| panic!("{len} bytes: {error}"));
        let end = ends.iter().rev().find(|&&end| end <= len).copied();
        assert_eq!(replayed.bytes, end.unwrap_or(0) as u64, "{len} bytes");
        assert_eq!(replayed.unborn.len(), usize::from(len < HEADER));
    }
    // Opening for good at the end of each record and a bit beyond. Copy-ups are records of their own and change nothing.
    for &end in ends.iter().filter(|&end| end >= first) {
        for torn in [0, 1, FRAME + 1] {
            let part = &log[..(end + torn).min(log.len())];
            let copy = with_log(dir.path(), part);
            let world = world(copy.path(), 1, &[&lower()]);
            let expected = trees.range(..=end).next_back().expect("the first is lower").1;
            if part.len() == end + torn {
                assert_eq!(&world.tree(), expected, "{end} bytes and {torn} torn");
            }
            world.create("etc/afterwards");
            drop(world);
            assert_eq!(
                crate::fsck::fsck(copy.path()).expect("checking").problems,
                Vec::<crate::fsck::Problem>::new()
            );
        }
    }
}

#[test]
fn damage_in_what_was_acknowledged_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[&lower()]);
    for name in ["a", "b", "c", "d"] {
        world.create(name);
        world.write(name, 0, b"settled", Stability::FileSync);
    }
    drop(world);
    let log = fs::read(segment_path(dir.path())).expect("reading the log");
    let middle = HEADER + (log.len() - HEADER) / 2;
    for at in [HEADER + 1, HEADER + 10, HEADER + 18, middle, middle + 30] {
        let mut damaged = log.clone();
        damaged[at] ^= 0x40;
        let copy = with_log(dir.path(), &damaged);
        let opened = Writable::open(copy.path(), 1, Options::default());
        assert!(
            matches!(opened, Err(WritableError::Damaged { .. })),
            "byte {at}: {opened:?}"
        );
    }
    let mut header = log.clone();
    header[30] ^= 1;
    let copy = with_log(dir.path(), &header);
    assert!(matches!(
        Writable::open(copy.path(), 1, Options::default()),
        Err(WritableError::Damaged { .. })
    ));
}

#[test]
fn no_damage_to_a_compacted_log_passes_for_a_torn_tail() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[&lower()]);
    world.create("a");
    world.write("a", 0, b"settled", Stability::FileSync);
    world.stack.compact().expect("compacting");
    let tree = world.tree();
    drop(world);
    let path = segment_path(dir.path());
    let log = fs::read(&path).expect("reading the log");
    // The last record says nothing but that all before it is on disk.
    let end = log.len() - FRAME - 5;
    for at in HEADER..log.len() {
        let mut damaged = log.clone();
        damaged[at] ^= 0x40;
        fs::write(&path, damaged).expect("writing");
        let checked = crate::fsck::fsck(dir.path()).expect("checking");
        assert_eq!(
            checked.problems.is_empty(),
            at >= end,
            "byte {at} of {}: {checked:?}",
            log.len()
        );
    }
    fs::write(&path, log).expect("writing");
    assert_eq!(self::world(dir.path(), 1, &[&lower()]).tree(), tree);
}

#[test]
fn a_change_from_the_future_is_called_so() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(world(dir.path(), 1, &[&lower()]));
    let mut log = fs::read(segment_path(dir.path())).expect("reading the log");
    let header = Header::decode(&log).expect("a header");
    let payload = [0, 1, 0, 0, 0, 99];
    let binding = header.binding(&log_key(dir.path()));
    let framed = segment::frame(&binding, log.len() as u64, 0, &payload).expect("it is short");
    log.extend_from_slice(&framed);
    let copy = with_log(dir.path(), &log);
    let opened = Writable::open(copy.path(), 1, Options::default());
    let error = opened.expect_err("it must not open").to_string();
    assert!(
        error.ends_with("holds a change of kind 99, which only a newer xeno understands"),
        "{error}"
    );
}

fn log_key(dir: &Path) -> segment::LogKey {
    let meta = crate::writable::Meta::read(&Disk::Host, dir).expect("reading");
    meta.expect("it is there").log_key()
}

/// The records of a log under another header.
fn under(log: &[u8], key: &segment::LogKey, header: &Header) -> Vec<u8> {
    let old = Header::decode(log).expect("a header").binding(key);
    let mut out = header.encode();
    let mut at = HEADER;
    while at < log.len() {
        let framed = segment::unframe(&old, at as u64, &log[at..]).expect("a record");
        let position = out.len() as u64;
        let again = segment::frame(&header.binding(key), position, framed.durable, framed.payload);
        out.extend(again.expect("it is short"));
        at += framed.len;
    }
    out
}

#[test]
fn what_a_guest_can_compute_is_no_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[&lower()]);
    world.create("a");
    drop(world);
    let mut log = fs::read(segment_path(dir.path())).expect("reading the log");
    let header = Header::decode(&log).expect("a header");
    // A handle shows the layer's id, and the rest of the first segment's header can be guessed. What a crash leaves of a
    // write may hold such a record, one that says that all before it was on disk.
    let guessed = segment::LogKey::default();
    for binding in [
        header.binding(&guessed),
        *blake3::hash(&header.encode()).as_bytes(),
    ] {
        let torn = log.len();
        log.extend_from_slice(&[0xa5; 64]);
        let at = log.len() as u64;
        let forged = segment::frame(&binding, at, at, &[0, 1, 0, 0, 0, 99]).expect("it is short");
        log.extend_from_slice(&forged);
        let copy = with_log(dir.path(), &log);
        let opened = Writable::open(copy.path(), 1, Options::default());
        assert!(opened.is_ok(), "a torn end is cut, whatever it holds: {opened:?}");
        log.truncate(torn);
    }
}

#[test]
fn a_log_of_the_first_format_is_read_and_gone_on_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = |epoch| world(dir.path(), epoch, &[&lower()]);
    let before = world(1);
    before.create("a");
    before.write("a", 0, b"in the log", Stability::FileSync);
    let tree = before.tree();
    drop(before);
    let path = segment_path(dir.path());
    let log = fs::read(&path).expect("reading the log");
    let header = Header {
        format: 1,
        ..Header::decode(&log).expect("a header")
    };
    fs::write(&path, under(&log, &log_key(dir.path()), &header)).expect("writing the log");
    let again = world(1);
    assert_eq!(again.tree(), tree);
    again.create("b");
    let tree = again.tree();
    drop(again);
    let format = |path: &Path| {
        Header::decode(&fs::read(path).expect("reading"))
            .expect("a header")
            .format
    };
    assert_eq!(
        format(&segment_path(dir.path())),
        1,
        "under its epoch it stays what it is"
    );
    let next = world(2);
    assert_eq!(next.tree(), tree);
    assert_eq!(next.read("a"), b"in the log");
    drop(next);
    assert_eq!(format(&segment_path(dir.path())), segment::FORMAT);
    assert_eq!(world(2).tree(), tree);
}

#[test]
fn a_later_epoch_seals_the_earlier_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let old = world(dir.path(), 3, &[&lower()]);
    old.create("file");
    old.write("file", 0, &[1; 10_000], Stability::FileSync);
    drop(old);
    let content = |dir: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        for folder in fs::read_dir(dir.join("content")).expect("listing") {
            for file in fs::read_dir(folder.expect("listing").path()).expect("listing") {
                let path = file.expect("listing").path();
                files.push((path.clone(), fs::read(path).expect("reading")));
            }
        }
        files
    };
    let sealed = content(dir.path());
    let new = world(dir.path(), 4, &[&lower()]);
    new.write("file", 5000, &[2; 10_000], Stability::FileSync);
    let mut expected = vec![1; 15_000];
    expected[5000..].fill(2);
    assert_eq!(new.read("file"), expected);
    drop(new);
    for (path, bytes) in sealed {
        assert_eq!(
            fs::read(&path).expect("it is still there"),
            bytes,
            "written in place"
        );
    }
    let lower_epoch = Writable::open(dir.path(), 3, Options::default());
    assert!(
        matches!(
            lower_epoch,
            Err(WritableError::EpochPassed {
                seen: 4,
                asked: 3,
                ..
            })
        ),
        "{lower_epoch:?}"
    );

    // The fenced holder still has its segment open and goes on.
    let first = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&first).expect("reading");
    bytes.extend_from_slice(b"late words");
    fs::write(&first, &bytes).expect("writing");
    let again = world(dir.path(), 4, &[&lower()]);
    assert_eq!(again.read("file"), expected);
    drop(again);

    let last = bytes.len() - 11;
    bytes[last] ^= 1;
    fs::write(&first, &bytes).expect("writing");
    let opened = Writable::open(dir.path(), 5, Options::default());
    assert!(matches!(opened, Err(WritableError::Damaged { .. })), "{opened:?}");
}

#[test]
fn two_servers_never_share_a_layer() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = world(dir.path(), 1, &[&lower()]);
    let second = Writable::open(dir.path(), 2, Options::default());
    assert!(matches!(second, Err(WritableError::Busy { .. })), "{second:?}");
    drop(first);
    assert!(Writable::open(dir.path(), 2, Options::default()).is_ok());
}

#[test]
fn what_was_not_committed_may_go_but_shows_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = world(dir.path(), 1, &[&lower()]);
    before.create("file");
    before.write("file", 0, &[1; 8192], Stability::Unstable);
    before
        .stack
        .commit(&before.root, &before.handle("file"))
        .expect("committing");
    before.write("file", 8192, &[2; 8192], Stability::Unstable);
    before.write("etc/conf", 9000, &[3; 10], Stability::Unstable);
    assert_eq!(before.attr("file").size, 16_384);
    let verifier = before.stack.write_verifier();
    drop(before);
    let after = world(dir.path(), 1, &[&lower()]);
    assert_ne!(after.stack.write_verifier(), verifier);
    assert_eq!(after.read("file"), [1; 8192]);
    assert_eq!(after.read("etc/conf"), [b'o'; 9000]);
    // The content file still holds what was lost; a size that covers it shows zeros.
    after
        .set(
            "file",
            &SetAttr {
                size: Some(20_000),
                ..SetAttr::default()
            },
        )
        .expect("setattr");
    assert_eq!(after.read("file")[8192..], [0; 20_000 - 8192]);
    after
        .set(
            "file",
            &SetAttr {
                size: Some(10),
                ..SetAttr::default()
            },
        )
        .expect("setattr");
    after
        .set(
            "file",
            &SetAttr {
                size: Some(20),
                ..SetAttr::default()
            },
        )
        .expect("setattr");
    assert_eq!(after.read("file"), [&[1; 10][..], &[0; 10]].concat());
    after
        .set(
            "etc/conf",
            &SetAttr {
                size: Some(10),
                ..SetAttr::default()
            },
        )
        .expect("setattr");
    after
        .set(
            "etc/conf",
            &SetAttr {
                size: Some(20),
                ..SetAttr::default()
            },
        )
        .expect("setattr");
    assert_eq!(after.read("etc/conf"), [&[b'o'; 10][..], &[0; 10]].concat());
}

#[test]
fn files_that_nothing_refers_to_are_swept() {
    let dir = tempfile::tempdir().expect("a directory");
    let count = || -> usize {
        let folders = fs::read_dir(dir.path().join("content")).expect("listing");
        folders
            .map(|folder| {
                fs::read_dir(folder.expect("listing").path())
                    .expect("listing")
                    .count()
            })
            .sum()
    };
    let before = world(dir.path(), 1, &[&lower()]);
    for name in ["a", "b"] {
        before.create(name);
        before.write(name, 0, &[7; 10_000], Stability::FileSync);
    }
    before.create("never-committed");
    before.write("never-committed", 0, &[7; 10_000], Stability::Unstable);
    assert_eq!(count(), 3);
    let (dir_handle, name) = before.split("a");
    let removed = before
        .stack
        .remove(&before.root, None, &dir_handle, name)
        .expect("remove");
    assert_eq!(count(), 3, "the removal is not durable yet");
    before.stack.settle(removed.ticket).expect("settling");
    assert_eq!(count(), 2);
    drop(before);
    let after = world(dir.path(), 1, &[&lower()]);
    assert_eq!(count(), 1);
    assert_eq!(after.read("b"), [7; 10_000]);
}

/// A lot of garbage around a little that lives.
fn churn(world: &World) {
    for round in 0..4000_u32 {
        world.create("etc/churn");
        let (root, handle) = (&world.root, world.handle("etc/churn"));
        world
            .stack
            .write(root, &handle, 0, &round.to_le_bytes(), Stability::FileSync)
            .expect("writing");
        world.rename("etc/churn", "etc/kept").expect("rename");
    }
}

#[test]
fn a_log_full_of_garbage_is_compacted_at_open() {
    let dir = tempfile::tempdir().expect("a directory");
    story(dir.path());
    let before = world(dir.path(), 1, &[&lower()]);
    // Not while it is served.
    let top = before.stack.top.as_ref().expect("it can be written to");
    top.log.is_long_beyond(1 << 30);
    churn(&before);
    let key = CallKey([4; 16]);
    let made = before.stack.mkdir(
        &before.root,
        Some(key),
        &before.handle(""),
        b"made",
        &SetAttr::default(),
    );
    made.expect("mkdir");
    before.write("etc/kept", 100_000, &[5; 100], Stability::Unstable);
    before
        .stack
        .commit(&before.root, &before.handle("etc/kept"))
        .expect("committing");
    let (tree, handle, bytes) = (
        before.tree(),
        before.handle("etc/kept"),
        before.stack.statistics().log_bytes,
    );
    drop(before);
    let old = fs::read(segment_path(dir.path())).expect("reading the log");

    let after = world(dir.path(), 2, &[&lower()]);
    assert!(
        after.stack.statistics().log_bytes < bytes / 50,
        "{bytes} bytes before"
    );
    assert_eq!(after.tree(), tree);
    assert_eq!(after.read_handle(&handle).map(|bytes| bytes.len()), Ok(100_100));
    assert!(
        after
            .stack
            .replayed(&key)
            .is_some_and(|replayed| replayed.made.is_some())
    );
    let fresh = after.create("etc/fresh");
    drop(after);
    assert_eq!(
        crate::fsck::fsck(dir.path()).expect("checking").problems,
        Vec::<crate::fsck::Problem>::new()
    );
    assert_eq!(segments(dir.path()).len(), 1, "what was replaced is gone");

    // A crash before the old segment was removed.
    fs::write(dir.path().join("log/0000000001-0000000001"), old).expect("writing");
    let again = world(dir.path(), 2, &[&lower()]);
    assert_eq!(again.handle("etc/fresh"), fresh);
    assert_eq!(segments(dir.path()).len(), 1);
    drop(again);

    // Damage in a checkpoint is never a torn tail.
    let path = segment_path(dir.path());
    let mut bytes = fs::read(&path).expect("reading");
    bytes[HEADER + 40] ^= 1;
    fs::write(&path, bytes).expect("writing");
    let opened = Writable::open(dir.path(), 2, Options::default());
    assert!(matches!(opened, Err(WritableError::Damaged { .. })), "{opened:?}");
}

#[test]
fn a_file_synced_over_and_over_does_not_fill_the_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = world(dir.path(), 1, &[&lower()]);
    before.create("journal");
    let handle = before.handle("journal");
    for round in 0..200_u8 {
        let written = before
            .stack
            .write(&before.root, &handle, 0, &[round; 4096], Stability::FileSync);
        assert_eq!(written.expect("writing").value.stability, Stability::FileSync);
    }
    assert!(
        before.stack.statistics().log_bytes < 100_000,
        "{:?}",
        before.stack.statistics()
    );
    drop(before);
    assert_eq!(world(dir.path(), 1, &[&lower()]).read("journal"), [199; 4096]);
}

#[test]
fn many_holders_leave_few_segments() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut tree = None;
    for epoch in 1..40 {
        let holder = world(dir.path(), epoch, &[&lower()]);
        if let Some(tree) = tree {
            assert_eq!(holder.tree(), tree);
        }
        holder.create(&format!("epoch-{epoch}"));
        holder.write("etc/conf", epoch * 100, &[9; 10], Stability::FileSync);
        tree = Some(holder.tree());
    }
    assert!(segments(dir.path()).len() <= 20);
}
