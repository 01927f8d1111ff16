//! Databases that came to harm.

use super::*;
use crate::record::Freeze;

/// A state that has seen something: an accepted commit, a sliver, a freeze, and an hour of node time.
fn lived_in(dir: &TempDir) {
    let mut state = open(dir).unwrap();
    let applied = AppliedSliver {
        desired: sliver("web/0"),
        epoch: Epoch(1),
        complete: true,
        at: Timestamp(7),
    };
    let written = state.write(|w| {
        w.lived(NodeTime(3_600_000), &boot("a", 5))?;
        w.accept(&revision('a'), Timestamp(1))?;
        w.accept(&revision('b'), Timestamp(2))?;
        w.apply(&applied)?;
        w.freeze(&Freeze {
            scope: "slice:web".to_owned(),
            reason: "the database is being moved".to_owned(),
            by: "ada".to_owned(),
            since: Timestamp(4),
            until: None,
        })
    });
    written.unwrap();
    // Enough pages for some to be in the middle.
    let long = "x".repeat(record::TEXT_LEN_MAX);
    state
        .write(|w| (0..64).try_for_each(|n| w.event(event(n, &long)).map(drop)))
        .unwrap();
}

fn boot(boot: &str, ms: u64) -> BootMoment {
    BootMoment {
        boot: boot.to_owned(),
        ms,
    }
}

/// Harms the file and opens it again: what cannot be found out by looking is still known, and all else is new.
fn check(harm: impl FnOnce(&Path), aside: bool) {
    let dir = TempDir::new().unwrap();
    lived_in(&dir);
    let file = dir.path().join("state.db");
    harm(&file);
    let before = fs::read(&file).ok();
    let mut state = open(&dir).unwrap();
    let rebuilt = state.rebuilt().unwrap().expect("it says that it is new");
    assert_eq!(rebuilt.aside.is_some(), aside, "{rebuilt:?}");
    if let Some(aside) = &rebuilt.aside {
        assert!(aside.contains("state.db.broken-2"), "{aside}");
        assert_eq!(fs::read(aside).ok(), before, "it is kept as it was found");
    }
    let accepted = state.accepted().unwrap().unwrap();
    assert_eq!(
        (accepted.generation, accepted.revision),
        (Generation(2), revision('b'))
    );
    assert_eq!(accepted.carried, Generation(0));
    assert_eq!(state.freezes().unwrap()[0].reason, "the database is being moved");
    assert_eq!(state.lived().unwrap().0, NodeTime(3_600_000));
    assert!(state.applied().unwrap().is_empty());
    assert!(state.events(0, 10).unwrap().is_empty());

    // What was removed before nobody knows: no window that reaches so far back has room.
    let unknown = state.removals_since(NodeTime(0)).unwrap();
    assert!(unknown.forgotten);
    state
        .write(|w| w.lived(NodeTime(4_000_000), &boot("a", 9)))
        .unwrap();
    assert!(state.removals_since(NodeTime(4_000_000)).unwrap().forgotten);
    assert!(!state.removals_since(NodeTime(4_000_001)).unwrap().forgotten);

    // The fact is as durable as everything else, and the next start is an ordinary one.
    drop(state);
    let state = open(&dir).unwrap();
    let again = state.rebuilt().unwrap().unwrap();
    assert_eq!((again.at, again.time), (rebuilt.at, Some(NodeTime(4_000_000))));
    let entries = fs::read_dir(dir.path()).unwrap().flatten();
    let broken = entries.filter(|e| e.file_name().to_string_lossy().contains("broken"));
    assert_eq!(broken.count() > 0, aside);
}

#[test]
fn a_garbage_header_is_set_aside() {
    check(
        |file| {
            let mut bytes = fs::read(file).unwrap();
            bytes[..100].fill(0x55);
            fs::write(file, bytes).unwrap();
        },
        true,
    );
}

#[test]
fn something_else_under_its_name_is_set_aside() {
    check(
        |file| fs::write(file, "not a database, whatever its name says ".repeat(999)).unwrap(),
        true,
    );
}

#[test]
fn a_truncated_file_is_set_aside() {
    check(
        |file| {
            let bytes = fs::read(file).unwrap();
            fs::write(file, &bytes[..bytes.len() / 3]).unwrap();
        },
        true,
    );
}

#[test]
fn flipped_pages_are_set_aside() {
    check(
        |file| {
            let mut bytes = fs::read(file).unwrap();
            for page in bytes.chunks_mut(4096).skip(1) {
                page.iter_mut().take(512).for_each(|byte| *byte = !*byte);
            }
            fs::write(file, bytes).unwrap();
        },
        true,
    );
}

#[test]
fn an_empty_or_missing_file_is_no_first_start() {
    check(|file| fs::write(file, "").unwrap(), false);
    check(|file| fs::remove_file(file).unwrap(), false);
}

#[test]
fn a_first_start_is_no_rebuild() {
    let dir = TempDir::new().unwrap();
    assert_eq!(open(&dir).unwrap().rebuilt().unwrap(), None);
    assert_eq!(open(&dir).unwrap().rebuilt().unwrap(), None);
}

#[test]
fn another_nodes_leavings_are_refused_without_its_database() {
    let dir = TempDir::new().unwrap();
    lived_in(&dir);
    fs::remove_file(dir.path().join("state.db")).unwrap();
    let other = NodeName::new("nyc-02").unwrap();
    let refused = NodeState::open(dir.path(), &other, Limits::default()).unwrap_err();
    assert!(
        matches!(refused, StateError::OtherNode { .. }),
        "{}",
        chain(&refused)
    );
}

#[test]
fn without_what_is_kept_beside_it_less_is_known_and_it_is_still_no_first_start() {
    let dir = TempDir::new().unwrap();
    lived_in(&dir);
    fs::write(dir.path().join("state.db"), "garbage".repeat(999)).unwrap();
    fs::write(dir.path().join("state.keep.json"), "{ \"formatVersion\": 1, ").unwrap();
    let state = open(&dir).unwrap();
    assert!(state.rebuilt().unwrap().is_some());
    assert_eq!(state.accepted().unwrap(), None);
    assert!(state.removals_since(NodeTime(0)).unwrap().forgotten);
}

#[test]
fn damage_that_comes_later_is_told_and_the_state_goes_on_with_a_new_database() {
    let dir = TempDir::new().unwrap();
    lived_in(&dir);
    let mut state = open(&dir).unwrap();
    let file = dir.path().join("state.db");
    conn(&state).pragma_update(None, "cache_size", 0).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[4096..].fill(0xa5);
    fs::write(&file, bytes).unwrap();
    let damaged = state
        .events(0, 1000)
        .map(drop)
        .or_else(|_| state.write(|w| w.event(event(1, "one")).map(drop)))
        .unwrap_err();
    assert!(damaged.is_damage(), "{}", chain(&damaged));
    state.rebuild(&chain(&damaged)).unwrap();
    let rebuilt = state.rebuilt().unwrap().unwrap();
    assert!(rebuilt.why.contains("damaged"), "{rebuilt:?}");
    assert_eq!(state.freezes().unwrap().len(), 1);
    state.write(|w| w.event(event(1, "one"))).unwrap();
    drop(state);
    assert_eq!(open(&dir).unwrap().events(0, 10).unwrap().len(), 1);
}

#[test]
fn a_disk_that_breaks_one_after_the_other_does_not_fill_up_with_them() {
    let dir = TempDir::new().unwrap();
    let mut state = open(&dir).unwrap();
    for _ in 0..8 {
        state.rebuild("again").unwrap();
    }
    let entries = fs::read_dir(dir.path()).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let broken =
        names.filter(|name| name.contains("broken") && !name.ends_with("-wal") && !name.ends_with("-shm"));
    assert_eq!(broken.count(), 5);
    assert!(state.rebuilt().unwrap().is_some());
}

#[test]
fn without_a_new_database_nothing_is_read_or_written() {
    let dir = TempDir::new().unwrap();
    let mut state = open(&dir).unwrap();
    // A directory under that name: no new database can be made there, and no old one be moved away onto it.
    drop(state.conn.take());
    fs::rename(dir.path().join("state.db"), dir.path().join("moved")).unwrap();
    fs::create_dir_all(dir.path().join("state.db-wal/in-the-way")).unwrap();
    let error = state.events(0, 1).unwrap_err();
    assert!(matches!(error, StateError::Gone { .. }) && error.is_damage());
    assert!(state.write(|w| w.event(event(1, "one"))).is_err());
    // Once nothing is in the way any more it goes on.
    fs::remove_dir_all(dir.path().join("state.db-wal")).unwrap();
    state.rebuild("it was moved").unwrap();
    state.write(|w| w.event(event(1, "one"))).unwrap();
}
