//! Trees and archives that come in: one digest however they come, and nothing of what must not.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use cowfs::attr::Time;
use cowfs::import::{ImportError, Limits, Source};
use cowfs::layer::ROOT;
use cowfs::template::{StageError, TemplateOptions};

use crate::support::{Place, Tar, gzip, list, sample_tree};

#[test]
fn one_tree_has_one_digest_however_it_comes() {
    let place = Place::new();
    let tree = place.path("tree");
    sample_tree(&tree);
    let by_directory = place
        .import(&Source::Directory(tree.clone()))
        .expect("a directory");
    let meta = fs::metadata(&tree).expect("the tree");

    let archive = |order: &[&str]| {
        let mut builder = tar::Builder::new(Vec::new());
        builder.follow_symlinks(false);
        for name in order {
            let path = tree.join(name);
            if *name == "motd-link" {
                let mut header = tar::Header::new_gnu();
                header.set_metadata(&fs::metadata(&path).expect("stat"));
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                builder
                    .append_link(&mut header, name, "etc/motd")
                    .expect("append");
            } else if path.is_symlink() {
                let mut header = tar::Header::new_gnu();
                header.set_metadata(&fs::symlink_metadata(&path).expect("stat"));
                builder
                    .append_link(&mut header, name, fs::read_link(&path).expect("readlink"))
                    .expect("append");
            } else {
                builder.append_path_with_name(&path, name).expect("append");
            }
        }
        builder.into_inner().expect("writing to memory")
    };
    let sorted = archive(&[
        ".",
        "etc",
        "etc/deep",
        "etc/deep/same",
        "etc/motd",
        "motd-link",
        "symlink",
    ]);
    let shuffled = archive(&[
        "symlink",
        "etc/motd",
        "motd-link",
        "etc/deep/same",
        "etc",
        ".",
        "etc/deep",
    ]);
    for bytes in [
        &sorted,
        &shuffled,
        &gzip(&sorted),
        &zstd::bulk::compress(&sorted, 3).expect("zstd"),
    ] {
        let by_archive = Place::new().import_tar(bytes).expect("an archive");
        assert_eq!(by_archive.digest, by_directory.digest);
    }
    let layer = place.store.layer(&by_directory.digest).expect("imported");
    let owner = format!("{}:{}", meta.uid(), meta.gid());
    assert_eq!(
        list(&*layer),
        [
            format!("/etc/ 755 {owner}"),
            format!("/etc/deep/ 755 {owner}"),
            format!("/etc/deep/same 4711 {owner} links=1 \"hello\""),
            format!("/etc/motd 644 {owner} links=2 \"hello\""),
            format!("/motd-link 644 {owner} links=2 \"hello\""),
            "/symlink -> etc/motd".to_owned(),
        ]
    );
    let root = layer.attr(ROOT).expect("the root");
    assert_eq!(
        (root.links, root.size, root.mtime),
        (
            3,
            4096,
            Time {
                seconds: 1_600_000_000,
                nanos: 0
            }
        )
    );
}

#[test]
fn marks_of_both_conventions_delete() {
    let place = Place::new();
    let tree = place.tree_of(
        &Tar::new()
            .file("etc/.wh.passwd", "")
            .member("var/gone", tar::EntryType::Char, 0o644, "", b"")
            .dir("opt")
            .file("opt/.wh..wh..opq", "")
            .pax(&[("SCHILY.xattr.trusted.overlay.opaque", "y")])
            .dir("srv")
            // Deleted below and made anew here, in either order.
            .file(".wh.new", "")
            .dir("new")
            .dir("old")
            .file(".wh.old", "")
            .file(".wh..wh.plnk", "")
            .bytes(),
    );
    assert_eq!(
        tree,
        [
            "/etc/ 755 0:0 implied",
            "/etc/passwd whiteout",
            "/new/ 755 7:8 opaque",
            "/old/ 755 7:8 opaque",
            "/opt/ 755 7:8 opaque",
            "/srv/ 755 7:8 opaque",
            "/var/ 755 0:0 implied",
            "/var/gone whiteout",
        ]
    );
}

#[test]
fn the_last_member_of_a_name_wins() {
    let place = Place::new();
    let tree = place.tree_of(
        &Tar::new()
            .file("a", "one")
            .file("./a", "two")
            .file("b/inner", "")
            .file("b", "a file now")
            .file("/c", "a leading slash means the root of the tree")
            .link("d", "a")
            .bytes(),
    );
    assert_eq!(
        tree,
        [
            "/a 644 7:8 links=2 \"two\"",
            "/b 644 7:8 links=1 \"a file now\"",
            "/c 644 7:8 links=1 \"a leading slash means the root of the tree\"",
            "/d 644 7:8 links=2 \"two\"",
        ]
    );
}

#[test]
fn long_names_and_large_owners_come_from_extended_headers() {
    let place = Place::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let tree = place.tree_of(
        &Tar::new()
            .pax(&[
                ("path", &long),
                ("uid", "4000000000"),
                ("gid", "9"),
                ("mtime", "-1.5"),
            ])
            .file("short", "text")
            .bytes(),
    );
    let expected = format!("/{long} 644 4000000000:9 links=1 \"text\"");
    assert_eq!(tree.last(), Some(&expected));
}

#[test]
fn hostile_archives_are_refused_whole() {
    let check = |archive: Vec<u8>, message: &str| {
        let place = Place::new();
        let error = place.import_tar(&archive).expect_err(message);
        let text = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ");
        assert!(text.contains(message), "expected {message:?} in {text:?}");
        assert_eq!(place.files(), ["archive"; 0], "something is left");
    };
    let good = || Tar::new().file("good", "written before the bad one");
    check(
        good().file("a/../../etc/passwd", "").bytes(),
        "not a usable file name: ..",
    );
    check(good().file("..", "").bytes(), "not a usable file name: ..");
    check(
        good().symlink("etc", "/etc").file("etc/passwd", "").bytes(),
        "not a directory",
    );
    check(
        good().link("a", "/etc/passwd").bytes(),
        "not earlier in the archive",
    );
    check(
        good().dir("d").link("a", "d").bytes(),
        "a hard link to a directory",
    );
    check(
        good().symlink("s", "/").link("a", "s/etc").bytes(),
        "not earlier in the archive",
    );
    check(
        good().pax(&[("path", &"n".repeat(256))]).file("x", "").bytes(),
        "not a usable file name",
    );
    check(
        good().pax(&[("path", &"d/".repeat(300))]).dir("x").bytes(),
        "too deep",
    );
    check(
        good().pax(&[("path", "a\0b")]).file("x", "").bytes(),
        "not a usable file name",
    );
    check(
        good()
            .pax(&[("comment", &"c".repeat(100_000))])
            .file("x", "")
            .bytes(),
        "too long",
    );
    check(
        good().pax(&[("GNU.sparse.major", "1")]).file("x", "").bytes(),
        "sparse",
    );
    check(
        good().pax(&[("size", "1000000000000")]).file("x", "").bytes(),
        "cut short",
    );
    check(
        good()
            .member("x", tar::EntryType::Block, 0o644, "", b"data")
            .bytes(),
        "device with data",
    );
    check(good().file(".", "").bytes(), "in place of the root");
    check(good().symlink("s", "").bytes(), "impossible target");
    let mut cut = good().file("x", "some content").bytes();
    cut.truncate(1024 + 512 + 5);
    check(cut, "cut short");
    let mut bent = good().bytes();
    bent[0] ^= 1;
    check(bent, "wrong checksum");
    check(Vec::new(), "it is empty");
    check(
        b"\xfd7zXZ\0 and so on".to_vec(),
        "compressed with something other",
    );
}

#[test]
fn limits_hold() {
    let place = Place::new();
    let archive = Tar::new().file("a", "12345").file("b", "67890").bytes();
    fs::write(place.path("archive"), archive).expect("write");
    let import = |limits| {
        let options = TemplateOptions {
            limits,
            ..TemplateOptions::default()
        };
        place
            .store
            .import(&Source::Archive(place.path("archive")), &options, &mut |_| {})
    };
    let limits = Limits::default();
    assert!(matches!(
        import(Limits {
            entries_max: 1,
            ..limits
        }),
        Err(ImportError::Limit(_))
    ));
    let too_large = import(Limits {
        bytes_max: 9,
        ..limits
    });
    assert!(matches!(
        too_large,
        Err(ImportError::Stage(StageError::TooLarge { max: 9 }))
    ));
    assert!(place.files().is_empty());
    import(Limits {
        bytes_max: 10,
        entries_max: 2,
        ..limits
    })
    .expect("just fits");
}
