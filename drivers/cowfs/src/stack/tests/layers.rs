//! The layers below a writable layer change between two openings.

use super::*;

fn old() -> MemoryLayer {
    MemoryLayer::new(b"template")
        .file("etc/conf", &[b'o'; 9000])
        .file("etc/other", b"old other")
        .file("usr/lib/a", b"old a")
        .hashed()
        .set("etc/conf", |attr| attr.uid = 12)
}

fn new() -> MemoryLayer {
    MemoryLayer::new(b"tempnew1")
        .file("etc/conf", b"new conf")
        .file("etc/other", b"new other")
        .file("etc/added", b"added")
        .file("usr/lib/b", b"new b")
        .hashed()
}

#[test]
fn what_the_guest_changed_stays_when_the_template_moves() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = world(dir.path(), 1, &[&old()]);
    before.write("etc/conf", 4, b"GUEST", Stability::FileSync);
    before.create("usr/lib/own");
    before.rename("usr/lib", "lib").expect("rename");
    let handle = before.handle("etc/conf");
    drop(before);

    let after = world_with(dir.path(), 2, &[&new()], Options::default(), &[&old()]);
    let mut conf = vec![b'o'; 9000];
    conf[4..9].copy_from_slice(b"GUEST");
    assert_eq!(
        after.read("etc/conf"),
        conf,
        "the base comes from the content store"
    );
    assert_eq!(after.read_handle(&handle), Ok(conf));
    assert_eq!(after.attr("etc/conf").uid, 12);
    assert_eq!(after.read("etc/other"), b"new other");
    assert_eq!(after.read("etc/added"), b"added");
    assert_eq!(
        after.names("lib"),
        ["b", "own"],
        "a renamed directory merges with its old path"
    );
    assert!(after.stack.missing_bases().is_empty());
}

#[test]
fn a_base_that_is_gone_is_reported_and_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = world(dir.path(), 1, &[&old()]);
    before.write("etc/conf", 4, b"GUEST", Stability::FileSync);
    drop(before);

    let without = world(dir.path(), 2, &[&new()]);
    assert_eq!(without.read_handle(&without.handle("etc/conf")), Err(Status::Io));
    let missing: Vec<_> = without
        .stack
        .missing_bases()
        .iter()
        .map(|base| base.path.clone())
        .collect();
    assert_eq!(missing, [b"etc/conf".to_vec()]);
    drop(without);

    let back = world(dir.path(), 3, &[&old()]);
    assert_eq!(&back.read("etc/conf")[..10], b"ooooGUESTo");
    drop(back);
    let report = crate::fsck::fsck(dir.path()).expect("checking");
    assert_eq!(report.problems, Vec::<crate::fsck::Problem>::new());
}

#[test]
fn attributes_alone_are_copied_up_without_content() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = world(dir.path(), 1, &[&old()]);
    let set = SetAttr {
        mode: Some(0o4755),
        uid: Some(7),
        ..SetAttr::default()
    };
    world.set("etc/conf", &set).expect("setattr");
    assert_eq!(world.attr("etc/conf").mode, 0o4755);
    assert_eq!(world.read("etc/conf"), [b'o'; 9000]);
    assert_eq!(world.stack.statistics().bytes, 0);
}

/// Directory layers: no hashes, and a new id after every edit.
fn overlay(id: &[u8; 8], page: &[u8], seconds: i64) -> MemoryLayer {
    MemoryLayer::new(id)
        .file("srv/page", page)
        .file("srv/script", &[b's'; 5000])
        .set("srv/page", |attr| attr.mtime.seconds = seconds)
}

#[test]
fn an_edited_overlay_keeps_what_the_guest_did_to_its_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = world(dir.path(), 1, &[&overlay(b"overlay1", b"first", 1)]);
    let chown = SetAttr {
        uid: Some(33),
        ..SetAttr::default()
    };
    before.set("srv/page", &chown).expect("setattr");
    before.write("srv/script", 1, b"guest", Stability::FileSync);
    drop(before);

    let after = world(dir.path(), 1, &[&overlay(b"overlay2", b"the second", 2)]);
    assert!(after.stack.missing_bases().is_empty());
    assert_eq!(
        after.read("srv/page"),
        b"the second",
        "a file only chowned follows the overlay"
    );
    assert_eq!(after.attr("srv/page").uid, 33);
    assert_eq!(
        &after.read("srv/script")[..8],
        b"sguestss",
        "an unchanged file is known again"
    );
    assert_eq!(after.attr("srv/script").size, 5000);
    after.write("srv/page", 0, b"THE", Stability::FileSync);
    drop(after);

    let edited = world(dir.path(), 1, &[&overlay(b"overlay3", b"the third one", 3)]);
    assert_eq!(
        edited.stack.missing_bases().len(),
        1,
        "ranges over a file that changed belong to nothing"
    );
    assert_eq!(edited.read_handle(&edited.handle("srv/page")), Err(Status::Io));
    drop(edited);
    assert_eq!(
        world(dir.path(), 1, &[&overlay(b"overlay2", b"the second", 2)]).read("srv/page"),
        b"THE second"
    );
}

fn without_lib() -> MemoryLayer {
    MemoryLayer::new(b"tempnew2").file("usr/share/x", b"x").hashed()
}

#[test]
fn a_directory_renamed_while_its_template_was_away_has_one_name_when_that_is_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = world(dir.path(), 1, &[&old()]);
    before.create("usr/lib/own");
    drop(before);
    let away = world(dir.path(), 2, &[&without_lib()]);
    away.rename("usr/lib", "lib").expect("rename");
    drop(away);

    let back = world(dir.path(), 3, &[&old()]);
    assert_eq!(back.names("lib"), ["a", "own"]);
    assert_eq!(back.names("usr"), Vec::<String>::new());
    assert_eq!(back.at("usr/lib").map(|found| found.fileid), Err(Status::NoEnt));
    back.mkdir("usr/lib").expect("the name is free");
    back.rename("lib", "usr/lib").expect("rename over an empty one");
    assert_eq!(back.names("usr/lib"), ["a", "own"]);
    drop(back);
    let again = world(dir.path(), 3, &[&old()]);
    assert_eq!(again.names("usr/lib"), ["a", "own"]);
    drop(again);
    let report = crate::fsck::fsck(dir.path()).expect("checking");
    assert_eq!(report.problems, Vec::<crate::fsck::Problem>::new());
}

#[test]
fn a_link_that_an_overlay_hid_counts_once_it_is_renamed() {
    let dir = tempfile::tempdir().expect("a directory");
    let template = MemoryLayer::new(b"template")
        .file("bin/perl", b"#!perl")
        .link("bin/perl", "bin/perl5")
        .hashed();
    let hiding = MemoryLayer::new(b"overlay1").whiteout("bin/perl5");
    let before = world(dir.path(), 1, &[&hiding, &template]);
    before.write("bin/perl", 0, b"#!PERL", Stability::FileSync);
    drop(before);

    let after = world(dir.path(), 2, &[&template]);
    after.rename("bin/perl5", "bin/other").expect("rename");
    assert_eq!(after.attr("bin/perl").links, 2);
    after.remove("bin/perl").expect("remove");
    assert_eq!(after.read("bin/other"), b"#!PERL", "it has a name left");
    drop(after);
    let again = world(dir.path(), 2, &[&template]);
    assert_eq!(again.read("bin/other"), b"#!PERL");
    drop(again);
    let report = crate::fsck::fsck(dir.path()).expect("checking");
    assert_eq!(report.problems, Vec::<crate::fsck::Problem>::new());
}

#[test]
fn opening_again_records_nothing_while_the_layers_are_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = world(dir.path(), 1, &[&old(), &new()]);
    before.create("usr/lib/own");
    before.rename("usr/lib", "lib").expect("rename");
    before.write("etc/conf", 4, b"GUEST", Stability::FileSync);
    before.rename("lib/own", "etc/own").expect("rename");
    drop(before);
    let checked = || crate::fsck::fsck(dir.path()).expect("checking").log_bytes;
    drop(world(dir.path(), 1, &[&old(), &new()]));
    let bytes = checked();
    drop(world(dir.path(), 1, &[&old(), &new()]));
    assert_eq!(checked(), bytes);
}
