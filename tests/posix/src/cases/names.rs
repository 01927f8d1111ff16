//! Names: odd ones, long ones, and those that other union file systems keep for themselves.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::fs::{FileType, makedev};
use rustix::io::Errno;

use super::cases;
use super::listing::names as listed;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, meta, named, pattern};
use crate::short::{gone, mknod, put, text};

cases!("names":
    every_byte_alone, longest_of_each_kind, longest_are_listed, longest_of_any_bytes, differ_in_the_last_byte,
    dots_that_are_names, backslashes_are_bytes, two_forms_of_one_letter, not_utf8_is_renamed, not_utf8_is_linked,
    whiteout_name_hides_nothing, whiteout_name_of_a_directory, whiteout_name_of_a_link, whiteout_name_by_rename,
    whiteout_name_that_is_removed, opaque_name_hides_nothing, opaque_name_in_a_new_directory, whiteout_of_a_long_name,
    whiteout_device_is_a_device, whiteout_device_over_an_old_name, names_of_the_server, silly_names_are_names,
    slashes_in_a_row, dot_on_the_way, dot_dot_of_a_file, dot_dot_of_a_missing, path_of_4095_bytes,
    removed_name_in_other_letters, spaces_at_the_ends, name_after_a_removed_directory,
);

fn every_byte_alone(g: &Ground) -> Outcome {
    let bytes: Vec<u8> = (1..=255).filter(|byte| *byte != b'/' && *byte != b'.').collect();
    for byte in &bytes {
        put(&named(&g.p("vacant"), &[*byte]), &[*byte])?;
    }
    let expected: Vec<OsString> = bytes
        .iter()
        .map(|byte| OsStr::from_bytes(&[*byte]).to_owned())
        .collect();
    same("names", listed(&g.p("vacant"))?, expected)?;
    for byte in [1, 0x20, 0x5c, 0x7f, 0xff] {
        same(
            "content",
            ok("read", fs::read(named(&g.p("vacant"), &[byte])))?,
            vec![byte],
        )?;
    }
    Ok(())
}

fn long(first: u8) -> Vec<u8> {
    let mut name = vec![b'l'; 255];
    name[0] = first;
    name
}

fn longest_of_each_kind(g: &Ground) -> Outcome {
    let at = |first| named(&g.p("vacant"), &long(first));
    put(&at(b'f'), b"content")?;
    ok("mkdir", fs::create_dir(at(b'd')))?;
    ok("symlink", symlink("x", at(b's')))?;
    ok("mknod", mknod(&at(b'p'), FileType::Fifo, 0))?;
    ok("link", fs::hard_link(at(b'f'), at(b'h')))?;
    ok("rename", fs::rename(at(b'f'), at(b'r')))?;
    same("content", text(&at(b'r'))?, b"content".to_vec())?;
    ok("unlink", fs::remove_file(at(b'r')))?;
    ok("rmdir", fs::remove_dir(at(b'd')))?;
    same("links", meta(&at(b'h'))?.nlink(), 1)
}

fn longest_are_listed(g: &Ground) -> Outcome {
    for first in b'a'..=b'z' {
        put(&named(&g.p("vacant"), &long(first)), b"")?;
    }
    let expected: Vec<OsString> = (b'a'..=b'z')
        .map(|first| OsStr::from_bytes(&long(first)).to_owned())
        .collect();
    same("names", listed(&g.p("vacant"))?, expected)
}

fn longest_of_any_bytes(g: &Ground) -> Outcome {
    let path = named(&g.p("vacant"), &[0xff; 255]);
    put(&path, b"x")?;
    same("content", text(&path)?, b"x".to_vec())?;
    fails(
        "one more",
        fs::write(named(&g.p("vacant"), &[0xff; 256]), b""),
        &[Errno::NAMETOOLONG],
    )
}

fn differ_in_the_last_byte(g: &Ground) -> Outcome {
    for last in 1..=40u8 {
        let mut name = vec![b'x'; 254];
        name.push(last);
        put(&named(&g.p("vacant"), &name), &[last])?;
    }
    same("names", listed(&g.p("vacant"))?.len(), 40)
}

fn dots_that_are_names(g: &Ground) -> Outcome {
    for name in ["...", "..x", ".x", "....", "x."] {
        put(&g.p(&format!("vacant/{name}")), name.as_bytes())?;
        same(
            "content",
            text(&g.p(&format!("vacant/{name}")))?,
            name.as_bytes().to_vec(),
        )?;
    }
    same("names", listed(&g.p("vacant"))?.len(), 5)
}

fn backslashes_are_bytes(g: &Ground) -> Outcome {
    put(&g.p("vacant/a\\b"), b"one")?;
    put(&g.p("vacant/a\\\\b"), b"two")?;
    same("one", text(&g.p("vacant/a\\b"))?, b"one".to_vec())?;
    same("names", listed(&g.p("vacant"))?.len(), 2)
}

fn two_forms_of_one_letter(g: &Ground) -> Outcome {
    // Composed and decomposed; a file system of bytes keeps both.
    put(&g.p("vacant/\u{e9}"), b"composed")?;
    put(&g.p("vacant/e\u{301}"), b"decomposed")?;
    same("composed", text(&g.p("vacant/\u{e9}"))?, b"composed".to_vec())?;
    same("names", listed(&g.p("vacant"))?.len(), 2)
}

fn not_utf8_is_renamed(g: &Ground) -> Outcome {
    let (one, two) = (named(g.root(), b"\xff1"), named(&g.p("dir"), b"\xc0\x80"));
    ok("rename", fs::rename(g.p("file"), &one))?;
    ok("rename", fs::rename(&one, &two))?;
    same("content", text(&two)?, pattern())?;
    gone(&one)
}

fn not_utf8_is_linked(g: &Ground) -> Outcome {
    let name = named(&g.p("dir"), b"\xfe\xed");
    ok("link", fs::hard_link(g.p("file"), &name))?;
    same("number", meta(&name)?.ino(), meta(&g.p("file"))?.ino())?;
    ok("unlink", fs::remove_file(&name))
}

fn whiteout_name_hides_nothing(g: &Ground) -> Outcome {
    put(&g.p("dir/.wh.a"), b"not a mark")?;
    same("what it would hide", text(&g.p("dir/a"))?, b"a".to_vec())?;
    same("itself", text(&g.p("dir/.wh.a"))?, b"not a mark".to_vec())?;
    same(
        "names",
        listed(&g.p("dir"))?,
        vec![".wh.a".into(), "a".into(), "sub".into()],
    )
}

fn whiteout_name_of_a_directory(g: &Ground) -> Outcome {
    ok("mkdir", fs::create_dir(g.p("dir/.wh.sub")))?;
    put(&g.p("dir/.wh.sub/x"), b"x")?;
    same("what it would hide", listed(&g.p("dir/sub"))?, vec!["b".into()])?;
    same("itself", listed(&g.p("dir/.wh.sub"))?, vec!["x".into()])
}

fn whiteout_name_of_a_link(g: &Ground) -> Outcome {
    ok("symlink", symlink("a", g.p("dir/.wh.a")))?;
    ok("link", fs::hard_link(g.p("dir/a"), g.p("dir/.wh.b")))?;
    same("through it", text(&g.p("dir/.wh.a"))?, b"a".to_vec())?;
    same("links", meta(&g.p("dir/a"))?.nlink(), 2)
}

fn whiteout_name_by_rename(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("file"), g.p("dir/.wh.sub")))?;
    same("content", text(&g.p("dir/.wh.sub"))?, pattern())?;
    same("what it would hide", text(&g.p("dir/sub/b"))?, b"b".to_vec())?;
    ok("and away", fs::rename(g.p("dir/.wh.sub"), g.p("file")))
}

fn whiteout_name_that_is_removed(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("dir/a")))?;
    put(&g.p("dir/.wh.a"), b"")?;
    ok("unlink", fs::remove_file(g.p("dir/.wh.a")))?;
    // Removing the mark of another file system must not bring back what was removed in this one.
    gone(&g.p("dir/a"))?;
    same("names", listed(&g.p("dir"))?, vec!["sub".into()])
}

fn opaque_name_hides_nothing(g: &Ground) -> Outcome {
    put(&g.p("dir/.wh..wh..opq"), b"")?;
    same("names", listed(&g.p("dir"))?.len(), 3)?;
    same("content", text(&g.p("dir/a"))?, b"a".to_vec())
}

fn opaque_name_in_a_new_directory(g: &Ground) -> Outcome {
    ok("mkdir", fs::create_dir(g.p("new")))?;
    put(&g.p("new/.wh..wh..opq"), b"o")?;
    put(&g.p("new/.wh..wh.aufs"), b"a")?;
    put(&g.p("new/.wh."), b"w")?;
    same("names", listed(&g.p("new"))?.len(), 3)?;
    ok("remove", fs::remove_dir_all(g.p("new")))
}

fn whiteout_of_a_long_name(g: &Ground) -> Outcome {
    // A mark made of a prefix and this name would be too long.
    let path = named(&g.p("dir"), &[b'w'; 255]);
    put(&path, b"x")?;
    ok("unlink", fs::remove_file(&path))?;
    gone(&path)?;
    let path = named(&g.p("dir"), &[&b".wh."[..], &[b'w'; 251]].concat());
    put(&path, b"x")?;
    ok("unlink", fs::remove_file(&path))
}

fn whiteout_device_is_a_device(g: &Ground) -> Outcome {
    ok(
        "mknod",
        mknod(&g.p("dir/zero"), FileType::CharacterDevice, makedev(0, 0)),
    )?;
    same("device", meta(&g.p("dir/zero"))?.rdev(), makedev(0, 0))?;
    ok("rename", fs::rename(g.p("dir/zero"), g.p("vacant/zero")))?;
    same("names", listed(&g.p("vacant"))?, vec!["zero".into()])?;
    ok("unlink", fs::remove_file(g.p("vacant/zero")))?;
    ok("rmdir", fs::remove_dir(g.p("vacant")))
}

fn whiteout_device_over_an_old_name(g: &Ground) -> Outcome {
    ok(
        "mknod",
        mknod(&g.p("zero"), FileType::CharacterDevice, makedev(0, 0)),
    )?;
    ok("rename over a file", fs::rename(g.p("zero"), g.p("dir/a")))?;
    same("device", meta(&g.p("dir/a"))?.rdev(), makedev(0, 0))?;
    same("names", listed(&g.p("dir"))?.len(), 2)?;
    ok("rename over it", fs::rename(g.p("file"), g.p("dir/a")))?;
    same("content", text(&g.p("dir/a"))?, pattern())
}

fn names_of_the_server(g: &Ground) -> Outcome {
    for name in [
        "layer.json",
        "lock",
        "log",
        "content",
        ".snapshot",
        ".xeno",
        "manifest.json",
    ] {
        gone(&g.p(&format!("vacant/{name}")))?;
        put(&g.p(&format!("vacant/{name}")), name.as_bytes())?;
        same(
            "content",
            text(&g.p(&format!("vacant/{name}")))?,
            name.as_bytes().to_vec(),
        )?;
    }
    ok("remove", fs::remove_dir_all(g.p("vacant")))
}

fn silly_names_are_names(g: &Ground) -> Outcome {
    put(&g.p("dir/.nfs000000000000000100000001"), b"not silly")?;
    same("names", listed(&g.p("dir"))?.len(), 3)?;
    ok("unlink", fs::remove_file(g.p("dir/.nfs000000000000000100000001")))
}

fn slashes_in_a_row(g: &Ground) -> Outcome {
    same("content", text(&g.p("dir///sub//b"))?, b"b".to_vec())
}

fn dot_on_the_way(g: &Ground) -> Outcome {
    same("content", text(&g.p("./dir/./sub/./b"))?, b"b".to_vec())?;
    same("up and down", text(&g.p("dir/sub/../sub/../../file"))?, pattern())
}

fn dot_dot_of_a_file(g: &Ground) -> Outcome {
    fails("stat", fs::metadata(g.p("file/..")), &[Errno::NOTDIR])?;
    fails("stat", fs::metadata(g.p("file/.")), &[Errno::NOTDIR])
}

fn dot_dot_of_a_missing(g: &Ground) -> Outcome {
    fails("stat", fs::metadata(g.p("absent/..")), &[Errno::NOENT])?;
    fails("create", File::create_new(g.p("absent/../new")), &[Errno::NOENT])
}

fn path_of_4095_bytes(g: &Ground) -> Outcome {
    let base = g.p("file").as_os_str().len();
    let dots = "./".repeat((4_095 - base) / 2);
    let path = format!("{}/{dots}file", g.root().display());
    holds(
        "it is as long as may be",
        path.len() >= 4_094 && path.len() <= 4_095,
    )?;
    same("size", ok("stat", fs::metadata(path))?.len(), 10_000)
}

fn removed_name_in_other_letters(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("dir/a")))?;
    put(&g.p("dir/A"), b"upper")?;
    gone(&g.p("dir/a"))?;
    same("names", listed(&g.p("dir"))?, vec!["A".into(), "sub".into()])
}

fn spaces_at_the_ends(g: &Ground) -> Outcome {
    for name in [" a", "a ", "a", " a "] {
        put(&g.p(&format!("vacant/{name}")), name.as_bytes())?;
    }
    same("names", listed(&g.p("vacant"))?.len(), 4)?;
    same("content", text(&g.p("vacant/a "))?, b"a ".to_vec())
}

fn name_after_a_removed_directory(g: &Ground) -> Outcome {
    ok("remove", fs::remove_dir_all(g.p("dir")))?;
    ok("symlink", symlink("vacant", g.p("dir")))?;
    put(&g.p("dir/new"), b"through the link")?;
    same("content", text(&g.p("vacant/new"))?, b"through the link".to_vec())?;
    gone(&g.p("dir/a"))
}
