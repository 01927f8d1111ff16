//! Names and content through layers.

use super::*;

fn lower() -> MemoryLayer {
    MemoryLayer::new(b"template")
        .file("etc/passwd", b"root:x:0:0\n")
        .file("etc/hosts", b"127.0.0.1 localhost\n")
        .file("bin/perl", b"#!perl")
        .link("bin/perl", "bin/perl5")
        .symlink("bin/sh", b"dash")
        .device("dev/null", 1, 3)
        .dir("empty")
        .file("deep/er/est/file", &[7; 10_000])
}

fn upper() -> MemoryLayer {
    MemoryLayer::new(b"overlay1")
        .file("etc/hosts", b"10.0.0.1 web\n")
        .whiteout("etc/passwd")
        .file("srv/page", b"hello")
        .opaque("deep/er")
}

#[test]
fn layers_merge_nearest_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[&upper(), &lower()]);
    assert_eq!(world.names(""), ["bin", "deep", "dev", "empty", "etc", "srv"]);
    assert_eq!(world.names("etc"), ["hosts"]);
    assert_eq!(world.read("etc/hosts"), b"10.0.0.1 web\n");
    assert_eq!(world.at("etc/passwd").map(|_| ()), Err(Status::NoEnt));
    assert!(world.names("deep/er").is_empty());
    assert_eq!(world.attr("bin/perl").links, 2);
    assert_eq!(world.attr("").links, 2 + 6);
}

#[test]
fn everything_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = world(dir.path(), 1, &[&upper(), &lower()]);
    before.create("etc/new");
    before.write("etc/new", 0, b"small and stable", Stability::FileSync);
    before.create("big");
    before.write("big", 100_000, &[3; 50_000], Stability::Unstable);
    before
        .stack
        .commit(&before.root, &before.handle("big"))
        .expect("committing");
    before.write("deep/er/../../bin/perl", 2, b"PERL", Stability::FileSync);
    before.mkdir("deep/er/a").expect("mkdir");
    before.rename("etc", "deep/etc").expect("rename");
    before.link("deep/etc/hosts", "hosts").expect("link");
    before.remove("dev/null").expect("remove");
    let mknod = Special {
        file_type: FileType::Character,
        device: crate::attr::Device::default(),
    };
    let set = SetAttr::default();
    before
        .stack
        .mknod(&before.root, None, &before.handle(""), b".wh.x", mknod, &set)
        .expect("mknod");
    let handles: Vec<(String, Handle)> = before
        .tree()
        .into_keys()
        .map(|path| (path.clone(), before.handle(&path)))
        .collect();
    let tree = before.tree();
    assert_eq!(before.read("bin/perl5"), b"#!PERL");
    drop(before);
    for epoch in [1, 1, 2, 5] {
        let after = world(dir.path(), epoch, &[&upper(), &lower()]);
        assert_eq!(after.tree(), tree);
        for (path, handle) in &handles {
            assert_eq!(
                after.stack.getattr(handle),
                Ok(after.at(path).expect("it is there")),
                "{path}"
            );
        }
    }
}

#[test]
fn a_removed_object_is_stale_for_ever() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[&lower()]);
    let made = world.create("x");
    let lower_file = world.handle("etc/hosts");
    let lower_dir = world.handle("empty");
    world.remove("x").expect("remove");
    world.remove("etc/hosts").expect("remove");
    world.rmdir("empty").expect("rmdir");
    world.create("x");
    world.create("etc/hosts");
    world.mkdir("empty").expect("mkdir");
    for handle in [made, lower_file, lower_dir] {
        assert_eq!(world.stack.getattr(&handle).map(|_| ()), Err(Status::Stale));
    }
}

#[test]
fn copy_up_changes_neither_handle_nor_hard_links() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[&lower()]);
    let before = world.at("bin/perl").expect("it is there");
    world.write("bin/perl", 0, b"!!", Stability::Unstable);
    let after = world.at("bin/perl5").expect("it is there");
    assert_eq!((before.handle, before.fileid), (after.handle, after.fileid));
    assert_eq!(world.read("bin/perl5"), b"!!perl");
    assert_eq!(after.attr.links, 2);
    world.remove("bin/perl").expect("remove");
    assert_eq!(world.attr("bin/perl5").links, 1);
    assert_eq!(world.read_handle(&before.handle), Ok(b"!!perl".to_vec()));
    world.remove("bin/perl5").expect("remove");
    assert_eq!(world.read_handle(&before.handle), Err(Status::Stale));
}

#[test]
fn a_call_is_remembered_over_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = world(dir.path(), 1, &[&lower()]);
    let key = CallKey([9; 16]);
    let mode = CreateMode::Guarded(SetAttr::default());
    let made = first
        .stack
        .create(&first.root, Some(key), &first.handle("etc"), b"once", mode)
        .expect("creating");
    drop(first);
    let second = world(dir.path(), 1, &[&lower()]);
    let replayed = second.stack.replayed(&key).expect("it is known");
    assert_eq!(
        replayed.made.map(|object| object.handle),
        made.value.made.map(|object| object.handle)
    );
    assert_eq!(second.stack.replayed(&CallKey([8; 16])), None);
    second.remove("etc/once").expect("remove");
    assert_eq!(second.stack.replayed(&key).expect("it is known").made, None);
}

#[test]
fn a_change_of_owner_clears_setuid_even_for_root() {
    let dir = tempfile::tempdir().expect("a directory");
    let lower = MemoryLayer::new(b"template").file("su", b"#!su");
    let lower = lower.set("su", |attr| attr.mode = 0o6755);
    let world = world(dir.path(), 1, &[&lower]);
    let check = |set: SetAttr, expected: u32| {
        world.set("su", &set).expect("setattr");
        assert_eq!(world.attr("su").mode, expected, "{set:?}");
    };
    let none = SetAttr::default();
    check(
        SetAttr {
            size: Some(2),
            ..none
        },
        0o6755,
    );
    check(SetAttr { uid: Some(7), ..none }, 0o755);
    let both = SetAttr {
        mode: Some(0o4755),
        gid: Some(7),
        ..none
    };
    check(both, 0o4755);
    check(SetAttr { gid: Some(8), ..none }, 0o755);
}

#[test]
fn an_exclusive_create_is_known_again_until_the_file_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = world(dir.path(), 1, &[]);
    let create = |world: &World| {
        let mode = CreateMode::Exclusive(*b"verifier");
        let made = world
            .stack
            .create(&world.root, None, &world.handle(""), b"f", mode);
        made.map(|made| made.value.made.expect("something was made").fileid)
    };
    let made = create(&first).expect("creating");
    assert_eq!(create(&first), Ok(made));
    first.stack.flush_all().expect("flushing");
    drop(first);
    let second = world(dir.path(), 1, &[]);
    assert_eq!(create(&second), Ok(made));
    let mode = SetAttr {
        mode: Some(0o644),
        ..SetAttr::default()
    };
    second.set("f", &mode).expect("setattr");
    assert_eq!(create(&second), Err(Status::Exist));
    second.stack.flush_all().expect("flushing");
    drop(second);
    assert_eq!(create(&world(dir.path(), 1, &[])), Err(Status::Exist));
}

#[test]
fn losing_a_name_moves_the_change_time_of_what_stays() {
    let check = |lose: fn(&World)| {
        let dir = tempfile::tempdir().expect("a directory");
        let world = world(dir.path(), 1, &[&lower()]);
        let handle = world.handle("bin/perl5");
        let before = world.attr("bin/perl5");
        lose(&world);
        let after = world.stack.getattr(&handle).expect("it has another name").attr;
        assert_eq!(after.links, 1);
        assert!(
            after.ctime > before.ctime,
            "{:?} and {:?}",
            after.ctime,
            before.ctime
        );
        assert_eq!(after.mtime, before.mtime);
    };
    check(|world| world.remove("bin/perl").expect("removing"));
    check(|world| world.rename("etc/hosts", "bin/perl").expect("renaming"));
}
