//! What a root file system must do and other servers get wrong, one story each, through the border of the service.

use std::sync::Arc;

use cowfs::attr::{FileType, SetAttr};
use cowfs::directory::DirectoryLayer;
use cowfs::import::Limits;
use cowfs::layer::Layer;
use cowfs::service::{Caller, CreateMode, FileService, Special, Stability, Status, access};

use crate::support::Tree;

/// A template with a file, a tree, names of one file, a device and a pipe; and a writable layer. Needs no root: the
/// device is made where it can be.
struct World {
    dir: tempfile::TempDir,
    tree: Tree,
}

fn layer(dir: &std::path::Path) -> Vec<Arc<dyn Layer>> {
    let layer =
        DirectoryLayer::open(&dir.join("template"), &Limits::default()).expect("a readable directory");
    vec![Arc::new(layer)]
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("template");
        std::fs::create_dir_all(root.join("etc/apt/conf.d")).expect("mkdir");
        std::fs::write(root.join("etc/hosts"), "127.0.0.1 localhost").expect("write");
        std::fs::write(root.join("etc/apt/conf.d/one"), "one").expect("write");
        std::fs::write(root.join("etc/apt/sources"), "sources").expect("write");
        std::fs::hard_link(root.join("etc/hosts"), root.join("etc/hosts.too")).expect("link");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("initctl"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .expect("mknod");
        let tree = Tree::over(&dir.path().join("w"), 1, layer(dir.path()));
        Self { dir, tree }
    }

    /// Closes it and opens it again under the next epoch.
    fn again(self) -> Self {
        let Self { dir, tree } = self;
        tree.service.flush_all().expect("flushing");
        drop(tree);
        let tree = Tree::over(&dir.path().join("w"), 2, layer(dir.path()));
        Self { dir, tree }
    }
}

fn user(uid: u32, gid: u32) -> Caller {
    Caller {
        uid,
        gid,
        groups: Vec::new(),
    }
}

fn mode(mode: u32) -> SetAttr {
    SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    }
}

#[test]
fn mode_and_owner_in_one_setattr_keep_setuid() {
    let world = World::new();
    let set = SetAttr {
        uid: Some(33),
        gid: Some(34),
        ..mode(0o4755)
    };
    for path in ["etc/hosts", "etc/apt/conf.d/one"] {
        world.tree.set(path, &set);
        let attr = world.tree.at(path).attr;
        assert_eq!((attr.mode, attr.uid, attr.gid), (0o4755, 33, 34), "{path}");
    }
}

#[test]
fn mkdir_takes_mode_and_owner() {
    let World { tree, dir: _dir } = World::new();
    let set = SetAttr {
        uid: Some(33),
        gid: Some(34),
        ..mode(0o2750)
    };
    let made = tree
        .service
        .mkdir(&Caller::root(), None, &tree.at("").handle, b"new", &set);
    let attr = made.expect("mkdir").value.made.expect("something was made").attr;
    assert_eq!((attr.mode, attr.uid, attr.gid), (0o2750, 33, 34));
}

#[test]
fn handles_and_numbers_follow_a_rename_and_a_restart() {
    let world = World::new();
    let paths = [
        "etc/hosts",
        "etc/apt",
        "etc/apt/conf.d",
        "etc/apt/conf.d/one",
        "etc/apt/sources",
    ];
    let before = paths.map(|path| world.tree.at(path));
    world.tree.rename("etc/hosts", "etc/apt/hosts");
    world.tree.rename("etc/apt", "apt");
    world.tree.rename("apt/conf.d", "etc/conf");
    let places = ["apt/hosts", "apt", "etc/conf", "etc/conf/one", "apt/sources"];
    let check = |world: &World| {
        for (object, place) in before.iter().zip(places) {
            let by_handle = world.tree.service.getattr(&object.handle).expect(place);
            let by_path = world.tree.at(place);
            assert_eq!(
                (by_handle.handle, by_handle.fileid),
                (object.handle, object.fileid),
                "{place}"
            );
            assert_eq!(
                (by_path.handle, by_path.fileid),
                (object.handle, object.fileid),
                "{place}"
            );
        }
        assert_eq!(world.tree.read("etc/conf/one", 0, 10), b"one");
        assert_eq!(world.tree.find("etc/apt").err(), Some(Status::NoEnt));
    };
    check(&world);
    check(&world.again());
}

#[test]
fn another_user_does_not_read_write_or_hear_that_they_may() {
    let world = World::new();
    world.tree.set("etc/hosts", &mode(0o600));
    let (stranger, file) = (user(1000, 1000), world.tree.at("etc/hosts").handle);
    let service = &world.tree.service;
    let mut out = Vec::new();
    assert_eq!(
        service.read(&stranger, &file, 0, 10, &mut out).err(),
        Some(Status::Access)
    );
    let written = service.write(&stranger, &file, 0, b"x", Stability::FileSync);
    assert_eq!(written.err(), Some(Status::Access));
    let all = access::READ | access::MODIFY | access::EXTEND | access::EXECUTE;
    assert_eq!(service.access(&stranger, &file, all).expect("access").0, 0);
    assert_eq!(out, b"");
}

#[test]
fn what_a_user_makes_is_theirs() {
    let world = World::new();
    world.tree.set("etc", &mode(0o777));
    let (stranger, etc) = (user(1000, 2000), world.tree.at("etc").handle);
    let guarded = CreateMode::Guarded(mode(0o644));
    let made = world
        .tree
        .service
        .create(&stranger, None, &etc, b"theirs", guarded);
    let attr = made
        .expect("creating")
        .value
        .made
        .expect("something was made")
        .attr;
    assert_eq!((attr.uid, attr.gid), (1000, 2000));
}

#[test]
fn each_refusal_has_its_number() {
    let world = World::new();
    let (service, root) = (&world.tree.service, Caller::root());
    let (top, etc) = (world.tree.at("").handle, world.tree.at("etc").handle);
    let long = [b'n'; 256];
    assert_eq!(
        service.rmdir(&root, None, &top, b"etc").err(),
        Some(Status::NotEmpty)
    );
    assert_eq!(
        service.remove(&root, None, &top, b"etc").err(),
        Some(Status::IsDir)
    );
    assert_eq!(
        service.rmdir(&root, None, &etc, b"hosts").err(),
        Some(Status::NotDir)
    );
    assert_eq!(
        service.lookup(&root, &etc, &long).err(),
        Some(Status::NameTooLong)
    );
    assert_eq!(
        service.remove(&root, None, &etc, &long).err(),
        Some(Status::NameTooLong)
    );
    for name in [&b"a/b"[..], b"a\0b", b""] {
        assert_eq!(
            service.lookup(&root, &etc, name).err(),
            Some(Status::Inval),
            "{name:?}"
        );
    }
    // `..` of the root is the root.
    assert_eq!(service.lookup(&root, &top, b"..").expect("lookup").0.handle, top);
}

#[test]
fn a_group_members_write_changes_neither_owner_nor_what_it_should_not() {
    let world = World::new();
    let set = SetAttr {
        uid: Some(33),
        gid: Some(2000),
        ..mode(0o664)
    };
    world.tree.set("etc/hosts", &set);
    let before = world.tree.at("etc/hosts").attr;
    let (member, file) = (user(1000, 2000), world.tree.at("etc/hosts").handle);
    let service = &world.tree.service;
    service
        .write(&member, &file, 0, b"!", Stability::FileSync)
        .expect("writing");
    let after = world.tree.at("etc/hosts").attr;
    assert_eq!((after.uid, after.gid, after.mode), (33, 2000, 0o664));
    assert_eq!((after.size, after.atime), (before.size, before.atime));
    assert!(after.mtime > before.mtime);
    // What is copied up without being written keeps the time of the template.
    let template = std::fs::metadata(world.dir.path().join("template/etc/apt/sources")).expect("stat");
    world.tree.set("etc/apt/sources", &mode(0o600));
    let kept = world.tree.at("etc/apt/sources").attr.mtime.seconds;
    assert_eq!(kept, std::os::unix::fs::MetadataExt::mtime(&template));
}

#[test]
fn names_of_one_template_file_stay_one_file() {
    let world = World::new();
    let before = (world.tree.at("etc/hosts"), world.tree.at("etc/hosts.too"));
    assert_eq!(before.0.fileid, before.1.fileid);
    world.tree.write("etc/hosts.too", 0, b"::1", Stability::FileSync);
    world.tree.rename("etc/hosts", "hosts");
    let world = world.again();
    let (one, two) = (world.tree.at("hosts"), world.tree.at("etc/hosts.too"));
    assert_eq!(
        (one.handle, one.fileid, one.attr.links),
        (before.0.handle, before.0.fileid, 2)
    );
    assert_eq!(
        (two.handle, two.fileid, two.attr.links),
        (before.0.handle, before.0.fileid, 2)
    );
    assert_eq!(world.tree.read("hosts", 0, 3), b"::1");
}

#[test]
fn special_files_of_a_template_are_changed_linked_renamed_and_removed() {
    let world = World::new();
    let (service, root) = (&world.tree.service, Caller::root());
    let (top, pipe) = (world.tree.at("").handle, world.tree.at("initctl"));
    world.tree.set("initctl", &mode(0o622));
    service
        .link(&root, None, &pipe.handle, &top, b"pipe")
        .expect("linking");
    world.tree.rename("initctl", "etc/initctl");
    let found = world.tree.at("etc/initctl");
    assert_eq!(
        (found.fileid, found.attr.links, found.attr.mode),
        (pipe.fileid, 2, 0o622)
    );
    assert_eq!(found.attr.file_type, FileType::Fifo);
    service.remove(&root, None, &top, b"pipe").expect("removing");
    assert_eq!(world.again().tree.at("etc/initctl").attr.links, 1);
}

#[test]
fn a_removed_directory_leaves_nothing_behind() {
    let world = World::new();
    let (service, root) = (&world.tree.service, Caller::root());
    let remove = |path: &str| {
        let (dir, name) = world.tree.split(path);
        service.remove(&root, None, &dir, name).expect(path);
    };
    let rmdir = |path: &str| {
        let (dir, name) = world.tree.split(path);
        service.rmdir(&root, None, &dir, name).map(|_| ())
    };
    remove("etc/apt/conf.d/one");
    // Only a mark is left in it, which is nothing to a guest.
    assert_eq!(world.tree.names("etc/apt/conf.d"), Vec::<String>::new());
    rmdir("etc/apt/conf.d").expect("it is empty");
    let (dir, name) = world.tree.split("etc/apt/conf.d");
    service
        .mkdir(&root, None, &dir, name, &mode(0o755))
        .expect("mkdir");
    let world = world.again();
    assert_eq!(world.tree.names("etc/apt/conf.d"), Vec::<String>::new());
    assert_eq!(world.tree.find("etc/apt/conf.d/one").err(), Some(Status::NoEnt));
}

#[test]
fn every_kind_of_object_can_be_made_and_outlives_a_restart() {
    let world = World::new();
    let (service, root, top) = (&world.tree.service, Caller::root(), world.tree.at("").handle);
    let kinds = [
        FileType::Block,
        FileType::Character,
        FileType::Socket,
        FileType::Fifo,
    ];
    for (minor, file_type) in (0..).zip(kinds) {
        let device = cowfs::attr::Device { major: 300, minor };
        let name = format!("{file_type:?}");
        let special = Special { file_type, device };
        service
            .mknod(&root, None, &top, name.as_bytes(), special, &mode(0o640))
            .expect("mknod");
    }
    service
        .symlink(&root, None, &top, b"way", b"etc/hosts", &SetAttr::default())
        .expect("symlink");
    let world = world.again();
    for (minor, file_type) in (0..).zip(kinds) {
        let attr = world.tree.at(&format!("{file_type:?}")).attr;
        assert_eq!((attr.file_type, attr.mode), (file_type, 0o640));
        if matches!(file_type, FileType::Block | FileType::Character) {
            assert_eq!((attr.device.major, attr.device.minor), (300, minor));
        }
    }
    let way = world.tree.at("way").handle;
    assert_eq!(
        world.tree.service.readlink(&root, &way).expect("readlink").0,
        b"etc/hosts"
    );
}
