//! Many entries, many threads, quotas, strangers' handles, and stacks without a writable layer.

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::layer::ContentSource;
use crate::quota::Quota;

fn page(world: &World, dir: &Handle, cookie: &mut u64, most: usize, seen: &mut Vec<Vec<u8>>) -> bool {
    let mut count = 0;
    let listed = world
        .stack
        .readdir(&world.root, dir, *cookie, false, &mut |entry| {
            if count == most {
                return false;
            }
            count += 1;
            *cookie = entry.cookie;
            if entry.name != b"." && entry.name != b".." {
                seen.push(entry.name.clone());
            }
            true
        });
    listed.expect("listing").1
}

#[test]
fn a_huge_directory_lists_everything_once_while_it_changes() {
    let mut lower = MemoryLayer::new(b"template");
    for number in 0..90_000 {
        lower = lower.file(&format!("huge/lower-{number}"), b"");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[&lower]);
    let huge = world.handle("huge");
    for number in 0..10_000 {
        let name = format!("upper-{number}");
        let mode = CreateMode::Guarded(SetAttr::default());
        world
            .stack
            .create(&world.root, None, &huge, name.as_bytes(), mode)
            .expect("creating");
    }
    let (mut cookie, mut seen, mut removed) = (0, Vec::new(), 0);
    while !page(&world, &huge, &mut cookie, 500, &mut seen) {
        // As `rm -r` does: what was listed goes, and something else comes.
        for name in &seen[removed..] {
            world
                .stack
                .remove(&world.root, None, &huge, name)
                .expect("remove");
        }
        removed = seen.len();
        let late = format!("late-{removed}");
        let mode = CreateMode::Guarded(SetAttr::default());
        world
            .stack
            .create(&world.root, None, &huge, late.as_bytes(), mode)
            .expect("creating");
        assert!(cookie > 2 && cookie < 1 << 63);
    }
    let unique: HashSet<&Vec<u8>> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "something was listed twice");
    let stayed = seen.iter().filter(|name| !name.starts_with(b"late")).count();
    assert_eq!(stayed, 100_000, "something was not listed");
}

#[test]
fn many_listings_of_a_directory_that_others_change() {
    let mut lower = MemoryLayer::new(b"template");
    for number in 0..60_000 {
        lower = lower.file(&format!("huge/stays-{number}"), b"");
    }
    for number in 0..10_000 {
        lower = lower.file(&format!("huge/goes-{number}"), b"");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[&lower]);
    let huge = world.handle("huge");
    let create = |name: &str| {
        let mode = CreateMode::Guarded(SetAttr::default());
        let made = world
            .stack
            .create(&world.root, None, &huge, name.as_bytes(), mode);
        made.expect("creating");
    };
    for number in 0..30_000 {
        create(&format!("stays-new-{number}"));
    }
    let listing = AtomicUsize::new(3);
    std::thread::scope(|scope| {
        let readers = [97, 1_000, 7_777].map(|most| {
            let (world, huge, listing) = (&world, &huge, &listing);
            scope.spawn(move || {
                let (mut cookie, mut seen) = (0, Vec::new());
                while !page(world, huge, &mut cookie, most, &mut seen) {}
                listing.fetch_sub(1, Ordering::AcqRel);
                seen
            })
        });
        // Until the last has come to its end: names go, come, and move away and back.
        let mut round = 0;
        while listing.load(Ordering::Acquire) > 0 {
            let goes = format!("goes-{}", round % 10_000);
            if round < 10_000 {
                world.remove(&format!("huge/{goes}")).expect("removing");
            } else {
                create(&format!("late-{round}"));
            }
            let late = format!("late-{round}-moved");
            create(&late);
            world.rename(&format!("huge/{late}"), &late).expect("renaming");
            round += 1;
        }
        for reader in readers {
            let seen = reader.join().expect("it did not panic");
            let once: HashSet<&Vec<u8>> = seen.iter().collect();
            assert_eq!(once.len(), seen.len(), "something was listed twice");
            let stayed = seen.iter().filter(|name| name.starts_with(b"stays")).count();
            assert_eq!(stayed, 90_000, "something was not listed");
        }
    });
}

#[test]
fn cookies_outlive_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = world(dir.path(), 1, &[]);
    let names: Vec<String> = (0..300).map(|number| format!("file-{number}")).collect();
    for name in &names {
        first.create(name);
    }
    let (mut cookie, mut seen) = (0, Vec::new());
    assert!(!page(&first, &first.handle(""), &mut cookie, 100, &mut seen));
    drop(first);
    let second = world(dir.path(), 2, &[]);
    while !page(&second, &second.handle(""), &mut cookie, 100, &mut seen) {}
    let mut seen: Vec<String> = seen
        .into_iter()
        .map(|name| String::from_utf8(name).expect("ASCII"))
        .collect();
    seen.sort();
    let mut names = names;
    names.sort();
    assert_eq!(seen, names);
}

#[test]
fn threads_change_one_stack_together() {
    const THREADS: u8 = 6;
    let dir = tempfile::tempdir().expect("a directory");
    let lower = MemoryLayer::new(b"template").file("shared/file", &[0; 6000]);
    let before = world(dir.path(), 1, &[&lower]);
    let barrier = Barrier::new(THREADS.into());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (before, barrier) = (&before, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for number in 0..20 {
                    let name = format!("shared/{thread}-{number}");
                    before.create(&name);
                    before.write(&name, 0, &[1; 5000], Stability::FileSync);
                    before.write(
                        "shared/file",
                        1000 * u64::from(thread),
                        &[thread + 1; 1000],
                        Stability::Unstable,
                    );
                    before
                        .rename(&name, &format!("shared/done-{thread}-{number}"))
                        .expect("rename");
                    before
                        .stack
                        .commit(&before.root, &before.handle("shared/file"))
                        .expect("committing");
                    assert!(before.names("shared").len() > number);
                }
            });
        }
    });
    let tree = before.tree();
    assert_eq!(before.names("shared").len(), 1 + usize::from(THREADS) * 20);
    let expected: Vec<u8> = (0..THREADS).flat_map(|thread| [thread + 1; 1000]).collect();
    assert_eq!(before.read("shared/file"), expected);
    drop(before);
    assert_eq!(world(dir.path(), 1, &[&lower]).tree(), tree);
}

#[test]
fn quotas_are_kept_and_removal_always_works() {
    let dir = tempfile::tempdir().expect("a directory");
    let quota = Quota::new(Some(14_000));
    let options = Options {
        quota: quota.clone(),
        objects_max: Some(4),
    };
    let lower = MemoryLayer::new(b"template")
        .file("etc/a", b"a")
        .file("etc/b", b"b");
    let world = world_with(dir.path(), 1, &[&lower], options, &[]);
    world.create("x");
    world.write("x", 0, &[1; 9000], Stability::FileSync);
    let over = world.stack.write(
        &world.root,
        &world.handle("x"),
        9000,
        &[1; 2000],
        Stability::FileSync,
    );
    assert_eq!(over.map(|_| ()), Err(Status::DQuot));
    world.create("y");
    world.create("z");
    assert_eq!(world.mkdir("more").map(|_| ()), Err(Status::DQuot));
    let stat = world.stack.fsstat().expect("fsstat");
    assert_eq!((stat.bytes_total, stat.files_free), (14_000, 0));
    quota.set(Some(5000), None);
    let stat = world.stack.fsstat().expect("fsstat");
    assert_eq!((stat.bytes_total, stat.bytes_free), (5000, 0));
    world.write("x", 0, &[2; 9000], Stability::FileSync);
    quota.set(Some(14_000), None);
    for path in ["etc/a", "x", "y"] {
        world.remove(path).expect("removing");
    }
    assert_eq!(world.stack.statistics().bytes, 0);
    world.mkdir("more").expect("there is room again");
}

#[test]
fn handles_of_another_stack_are_refused() {
    let (one, two) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let lower = MemoryLayer::new(b"template").file("etc/shadow", b"secret");
    let (one, two) = (world(one.path(), 1, &[&lower]), world(two.path(), 1, &[&lower]));
    let stranger = two.stack.getattr(&one.handle("etc/shadow")).map(|_| ());
    assert_eq!(stranger, Err(Status::BadHandle));
    assert!(
        one.handle("etc/shadow").as_bytes().len() <= 56,
        "the export has a prefix of its own"
    );
}

#[test]
fn without_a_writable_layer_everything_can_be_read_and_nothing_changed() {
    let lower = MemoryLayer::new(b"template")
        .file("etc/hosts", b"hosts")
        .symlink("l", b"t");
    let make = || {
        let stack = open(StackSpec {
            layers: vec![Arc::new(lower.clone())],
            writable: None,
            content: MemoryContent::of(&[]) as Arc<dyn ContentSource>,
            read_only_key: [5; 32],
        });
        World {
            stack: stack.expect("opening"),
            root: Caller::root(),
        }
    };
    let world = make();
    assert_eq!(world.read("etc/hosts"), b"hosts");
    assert_eq!(world.remove("etc/hosts"), Err(Status::RoFs));
    assert_eq!(world.mkdir("x").map(|_| ()), Err(Status::RoFs));
    assert_eq!(
        world.set(
            "l",
            &SetAttr {
                uid: Some(1),
                ..SetAttr::default()
            }
        ),
        Err(Status::RoFs)
    );
    let written = world.stack.write(
        &world.root,
        &world.handle("etc/hosts"),
        0,
        b"x",
        Stability::Unstable,
    );
    assert_eq!(written.map(|_| ()), Err(Status::RoFs));
    let handle = world.handle("etc/hosts");
    drop(world);
    assert_eq!(
        make().read_handle(&handle),
        Ok(b"hosts".to_vec()),
        "handles outlive a restart"
    );
}

#[test]
fn names_that_look_like_whiteouts_are_names() {
    let dir = tempfile::tempdir().expect("a directory");
    let lower = MemoryLayer::new(b"template").file("etc/hosts", b"hosts");
    let before = world(dir.path(), 1, &[&lower]);
    before.create("etc/.wh.hosts");
    before.create("etc/.wh..wh..opq");
    let device = Special {
        file_type: FileType::Character,
        device: crate::attr::Device::default(),
    };
    let set = SetAttr::default();
    before
        .stack
        .mknod(&before.root, None, &before.handle("etc"), b"zero", device, &set)
        .expect("mknod");
    drop(before);
    let after = world(dir.path(), 1, &[&lower]);
    assert_eq!(after.names("etc"), [".wh..wh..opq", ".wh.hosts", "hosts", "zero"]);
    assert_eq!(after.attr("etc/zero").file_type, FileType::Character);
}

#[test]
fn exclusive_create_may_be_retried() {
    let dir = tempfile::tempdir().expect("a directory");
    let create = |world: &World, verifier: u8| {
        let mode = CreateMode::Exclusive([verifier; 8]);
        let made = world
            .stack
            .create(&world.root, None, &world.handle(""), b"x", mode)?;
        Ok(made.value.made.map(|object| object.handle))
    };
    let before = world(dir.path(), 1, &[]);
    let made = create(&before, 1);
    assert_eq!(create(&before, 1), made);
    assert_eq!(create(&before, 2), Err(Status::Exist));
    drop(before);
    assert_eq!(create(&world(dir.path(), 1, &[]), 1), made);
}

#[test]
fn the_log_stays_short_whatever_a_guest_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let lower = MemoryLayer::new(b"template").file("etc/conf", &[b'o'; 9000]);
    let before = world(dir.path(), 1, &[&lower]);
    before.create("small");
    before.create("big");
    let mode = |mode| SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    };
    let handle = before.handle("etc/conf");
    for round in 0..6_000_u32 {
        let set = mode(round & 0o777);
        let changed = before.stack.setattr(&before.root, None, &handle, &set, None);
        let ticket = changed.expect("setattr").ticket;
        if round % 500 == 0 {
            let byte = u8::try_from(round / 500).expect("a byte");
            before.write("small", u64::from(round), &[byte; 700], Stability::FileSync);
            before.write(
                "small",
                u64::from(round) + 100,
                &[byte + 1; 20],
                Stability::FileSync,
            );
            before.write("big", u64::from(round), &[byte; 5000], Stability::Unstable);
        }
        if round % 100 == 0 {
            before.stack.settle(ticket).expect("settling");
            before.stack.tend(&|| true);
            assert!(before.stack.statistics().log_bytes < 100 << 10, "round {round}");
        }
    }
    let tree = before.tree();
    let segments = std::fs::read_dir(dir.path().join("log")).expect("listing");
    assert_eq!(segments.count(), 1, "what was replaced is gone");
    before.stack.flush_all().expect("flushing");
    drop(before);
    let report = crate::fsck::fsck(dir.path()).expect("checking");
    assert_eq!(report.problems, Vec::<crate::fsck::Problem>::new());
    assert_eq!(world(dir.path(), 2, &[&lower]).tree(), tree);
}

#[test]
fn making_the_log_short_ends_early_when_somebody_waits_for_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[]);
    for file in 0..200 {
        world.create(&format!("file-{file}"));
    }
    // Long, and nobody has looked after it.
    let handle = world.handle("file-0");
    while world.stack.statistics().log_bytes < 200 << 10 {
        let written = world
            .stack
            .write(&world.root, &handle, 0, &[1; 700], Stability::FileSync);
        world
            .stack
            .settle(written.expect("writing").ticket)
            .expect("settling");
    }
    let (tree, long) = (world.tree(), world.stack.statistics().log_bytes);
    let log = || {
        let names = std::fs::read_dir(dir.path().join("log")).expect("listing");
        let mut names: Vec<_> = names.map(|name| name.expect("listing").file_name()).collect();
        names.sort();
        names
    };
    let before = log();
    // However far it has come.
    let mut asked = 1;
    loop {
        let left = std::cell::Cell::new(asked);
        let wanted = || {
            left.set(left.get() - 1);
            left.get() > 0
        };
        world.stack.tend(&wanted);
        if left.get() > 0 {
            break;
        }
        assert_eq!(world.stack.statistics().log_bytes, long, "asked {asked} times");
        assert_eq!(log(), before, "asked {asked} times");
        asked += 1;
    }
    assert!(asked > 2, "it is asked often enough to end early");
    assert!(world.stack.statistics().log_bytes < long);
    assert_eq!(world.tree(), tree);
}

#[test]
fn a_byte_here_and_there_costs_what_it_takes() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        quota: Quota::new(Some(1 << 20)),
        objects_max: None,
    };
    let world = world_with(dir.path(), 1, &[], options, &[]);
    let check = |path: &str, stability, expected: std::ops::Range<u64>| {
        let handle = world.create(path);
        let write = |round| {
            let offset = round * 8192;
            world.stack.write(&world.root, &handle, offset, b"x", stability)
        };
        let taken = (0..100_000).take_while(|&round| write(round).is_ok()).count();
        let taken = u64::try_from(taken).expect("small");
        assert!(expected.contains(&taken), "{path}: {taken}");
        assert_eq!(write(taken).map(|_| ()), Err(Status::DQuot));
        // What is there may be written again.
        write(0).expect("writing again");
        world.remove(path).expect("removing");
        assert_eq!(world.stack.statistics().bytes, 0);
    };
    check("unstable", Stability::Unstable, 250..257);
    check("stable", Stability::FileSync, 250..8_200);
}

#[test]
fn a_truncation_gives_space_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let on_disk = || {
        let folders = std::fs::read_dir(dir.path().join("content")).expect("listing");
        let files =
            folders.flat_map(|folder| std::fs::read_dir(folder.expect("listing").path()).expect("listing"));
        let lens = files.map(|file| file.expect("listing").metadata().expect("reading").len());
        lens.sum::<u64>()
    };
    let before = world(dir.path(), 1, &[]);
    let cut = |world: &World, size| {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        let handle = world.handle("f");
        let changed = world.stack.setattr(&world.root, None, &handle, &set, None);
        changed.expect("setattr").ticket
    };
    before.create("f");
    before.write("f", 0, &[1; 100_000], Stability::FileSync);
    let first = cut(&before, 60_000);
    assert_eq!(on_disk(), 100_000, "the truncation is not durable yet");
    // What was written after it stays, whatever a later truncation that nobody was told of takes away.
    before.write("f", 60_000, &[2; 20_000], Stability::Unstable);
    before.stack.settle(first).expect("settling");
    assert_eq!(on_disk(), 80_000);
    let last = cut(&before, 10);
    before.stack.settle(last).expect("settling");
    assert_eq!(on_disk(), 10);
    before.write("f", 20, &[3; 10], Stability::Unstable);
    let expected = [[1; 10], [0; 10], [3; 10]].concat();
    assert_eq!(before.read("f"), expected);
    before.stack.flush_all().expect("flushing");
    drop(before);
    let after = world(dir.path(), 2, &[]);
    assert_eq!(after.read("f"), expected);
    after.write("f", 100, &[4; 5000], Stability::FileSync);
    let ticket = cut(&after, 0);
    after.stack.settle(ticket).expect("settling");
    assert_eq!(on_disk(), 0, "content of the earlier epoch goes as well");
}

#[test]
fn reads_and_writes_pass_truncations() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[]);
    let handle = world.create("f");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (world, handle, stop) = (&world, &handle, &stop);
        let _over = AtTheEnd(stop);
        scope.spawn(move || {
            while !stop.load(Ordering::Acquire) {
                let bytes = world.read_handle(handle).expect("reading beside truncations");
                assert!(bytes.iter().all(|&byte| byte <= 1));
            }
        });
        for round in 0..150_u64 {
            world
                .stack
                .write(&world.root, handle, 0, &[1; 200_000], Stability::Unstable)
                .expect("writing");
            let set = SetAttr {
                size: Some(100 + round),
                ..SetAttr::default()
            };
            let changed = world.stack.setattr(&world.root, None, handle, &set, None);
            world
                .stack
                .settle(changed.expect("setattr").ticket)
                .expect("settling");
        }
    });
    assert_eq!(world.read("f"), [1; 249]);
}
