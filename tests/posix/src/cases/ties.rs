//! Links of both kinds, the finer points.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, symlink};

use rustix::fs::{AtFlags, CWD, FileType, linkat, makedev};
use rustix::io::Errno;

use super::cases;
use super::listing::names;
use crate::act::OTHER;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, meta, pattern};
use crate::short::{both, chmod, chown, gone, mknod, open_to_all, put, text};

cases!("ties":
    link_over_each_kind, link_of_each_kind, link_follows_when_asked, link_into_a_missing_directory,
    link_below_a_file, link_of_what_was_removed, link_then_truncate, link_then_chown, link_keeps_its_number_when_written,
    names_in_three_directories, renamed_apart_and_removed, link_of_a_file_that_is_open, link_to_dot,
    link_with_a_slash, unlink_with_dots, unlink_through_a_link_to_a_directory, removed_names_count_down,
    all_names_of_a_layers_file_go, one_name_is_made_anew, link_made_and_removed_hundred_times,
    symlink_chain_of_forty, symlink_chain_too_long, symlink_to_itself, symlink_to_the_root, symlink_of_4095_bytes,
    symlink_of_4096_bytes, symlink_with_a_slash_behind, symlink_to_a_file_with_a_slash, symlink_into_what_comes_later,
    symlink_whose_target_is_replaced, symlink_that_is_linked, symlink_cut_when_read, symlink_mode_says_nothing,
    symlink_in_place_of_a_directory, symlink_of_a_layer_is_removed_and_made_anew, symlink_belongs_to_another,
);

fn link_over_each_kind(g: &Ground) -> Outcome {
    for name in ["empty", "dir", "link", "dangling", "fifo", "hard2", "file"] {
        fails(name, fs::hard_link(g.p("file"), g.p(name)), &[Errno::EXIST])?;
    }
    same("links", meta(&g.p("file"))?.nlink(), 1)
}

fn link_of_each_kind(g: &Ground) -> Outcome {
    ok("mknod", mknod(&g.p("socket"), FileType::Socket, 0))?;
    ok(
        "mknod",
        mknod(&g.p("device"), FileType::CharacterDevice, makedev(4, 5)),
    )?;
    for name in ["file", "link", "dangling", "fifo", "socket", "device"] {
        let to = g.p(&format!("dir/{name}"));
        ok(name, fs::hard_link(g.p(name), &to))?;
        let (one, two) = (meta(&g.p(name))?, meta(&to)?);
        same(
            name,
            (one.ino(), one.nlink(), one.file_type()),
            (two.ino(), 2, two.file_type()),
        )?;
    }
    holds("a device", meta(&g.p("dir/device"))?.file_type().is_char_device())
}

fn link_follows_when_asked(g: &Ground) -> Outcome {
    ok(
        "linkat",
        linkat(CWD, g.p("link"), CWD, g.p("new"), AtFlags::SYMLINK_FOLLOW),
    )?;
    same("number", meta(&g.p("new"))?.ino(), meta(&g.p("file"))?.ino())
}

fn link_into_a_missing_directory(g: &Ground) -> Outcome {
    fails(
        "link",
        fs::hard_link(g.p("file"), g.p("absent/new")),
        &[Errno::NOENT],
    )?;
    same("links", meta(&g.p("file"))?.nlink(), 1)
}

fn link_below_a_file(g: &Ground) -> Outcome {
    fails(
        "link",
        fs::hard_link(g.p("file"), g.p("empty/new")),
        &[Errno::NOTDIR],
    )
}

fn link_of_what_was_removed(g: &Ground) -> Outcome {
    holds("it was there", g.p("dir/a").exists())?;
    ok("unlink", fs::remove_file(g.p("dir/a")))?;
    fails("link", fs::hard_link(g.p("dir/a"), g.p("new")), &[Errno::NOENT])
}

fn link_then_truncate(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("file"), g.p("dir/new")))?;
    ok("truncate", both(&g.p("dir/new"))?.set_len(3))?;
    same("content", text(&g.p("file"))?, pattern()[..3].to_vec())
}

fn link_then_chown(g: &Ground) -> Outcome {
    chown(&g.p("hard1"), 41, 42)?;
    let other = meta(&g.p("hard2"))?;
    same(
        "the other name",
        (other.uid(), other.gid(), other.mtime()),
        (41, 42, OLD),
    )
}

fn link_keeps_its_number_when_written(g: &Ground) -> Outcome {
    let before = meta(&g.p("hard2"))?.ino();
    put(&g.p("hard1"), b"copied up")?;
    same("number", meta(&g.p("hard2"))?.ino(), before)?;
    same("number", meta(&g.p("hard1"))?.ino(), before)
}

fn names_in_three_directories(g: &Ground) -> Outcome {
    for name in ["dir/one", "dir/sub/two", "vacant/three"] {
        ok("link", fs::hard_link(g.p("hard1"), g.p(name)))?;
    }
    ok("write", both(&g.p("vacant/three"))?.write_all_at(b"H", 0))?;
    for name in ["hard1", "hard2", "dir/one", "dir/sub/two"] {
        same(name, text(&g.p(name))?, b"Hard".to_vec())?;
        same("links", meta(&g.p(name))?.nlink(), 5)?;
    }
    Ok(())
}

fn renamed_apart_and_removed(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("hard1"), g.p("dir/one")))?;
    ok("remove the tree", fs::remove_dir_all(g.p("dir")))?;
    same("links", meta(&g.p("hard2"))?.nlink(), 1)?;
    same("content", text(&g.p("hard2"))?, b"hard".to_vec())
}

fn link_of_a_file_that_is_open(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    ok("link", fs::hard_link(g.p("file"), g.p("new")))?;
    ok("unlink the first", fs::remove_file(g.p("file")))?;
    ok("write", open.write_all_at(b"by the handle", 0))?;
    same(
        "beginning",
        text(&g.p("new"))?[..13].to_vec(),
        b"by the handle".to_vec(),
    )?;
    same("links", meta(&g.p("new"))?.nlink(), 1)
}

fn link_to_dot(g: &Ground) -> Outcome {
    fails("link", fs::hard_link(g.p("file"), g.p("dir/.")), &[Errno::EXIST])?;
    fails("link", fs::hard_link(g.p("file"), g.p("dir/..")), &[Errno::EXIST])
}

fn link_with_a_slash(g: &Ground) -> Outcome {
    fails(
        "source",
        fs::hard_link(g.p("file/"), g.p("new")),
        &[Errno::NOTDIR],
    )?;
    fails(
        "target",
        fs::hard_link(g.p("file"), g.p("new/")),
        &[Errno::NOENT, Errno::NOTDIR],
    )
}

fn unlink_with_dots(g: &Ground) -> Outcome {
    fails(
        "dot",
        fs::remove_file(g.p("dir/.")),
        &[Errno::ISDIR, Errno::PERM, Errno::INVAL],
    )?;
    fails(
        "dot dot",
        fs::remove_file(g.p("dir/..")),
        &[Errno::ISDIR, Errno::PERM, Errno::NOTEMPTY],
    )
}

fn unlink_through_a_link_to_a_directory(g: &Ground) -> Outcome {
    ok("symlink", symlink("dir", g.p("way")))?;
    ok("what is below", fs::remove_file(g.p("way/a")))?;
    fails(
        "with a slash",
        fs::remove_file(g.p("way/")),
        &[Errno::NOTDIR, Errno::ISDIR],
    )?;
    ok("the link", fs::remove_file(g.p("way")))?;
    same("names", names(&g.p("dir"))?, vec!["sub".into()])
}

fn removed_names_count_down(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("hard1"), g.p("hard3")))?;
    for (name, left) in [("hard1", 2), ("hard3", 1)] {
        ok("unlink", fs::remove_file(g.p(name)))?;
        same("links", meta(&g.p("hard2"))?.nlink(), left)?;
    }
    same("content", text(&g.p("hard2"))?, b"hard".to_vec())
}

fn all_names_of_a_layers_file_go(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("hard1")))?;
    ok("unlink", fs::remove_file(g.p("hard2")))?;
    put(&g.p("hard1"), b"new")?;
    gone(&g.p("hard2"))?;
    same("links", meta(&g.p("hard1"))?.nlink(), 1)
}

fn one_name_is_made_anew(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("hard1")))?;
    ok("link", fs::hard_link(g.p("hard2"), g.p("hard1")))?;
    same("links", meta(&g.p("hard1"))?.nlink(), 2)?;
    same("number", meta(&g.p("hard1"))?.ino(), meta(&g.p("hard2"))?.ino())
}

fn link_made_and_removed_hundred_times(g: &Ground) -> Outcome {
    for _ in 0..100 {
        ok("link", fs::hard_link(g.p("file"), g.p("dir/again")))?;
        ok("unlink", fs::remove_file(g.p("dir/again")))?;
    }
    same("links", meta(&g.p("file"))?.nlink(), 1)?;
    same("content", text(&g.p("file"))?, pattern())
}

/// `c0` leads to `file` over this many symbolic links.
fn chain(g: &Ground, count: usize) -> Outcome {
    for i in 0..count {
        let to = if i + 1 == count {
            "file".to_owned()
        } else {
            format!("c{}", i + 1)
        };
        ok("symlink", symlink(to, g.p(&format!("c{i}"))))?;
    }
    Ok(())
}

fn symlink_chain_of_forty(g: &Ground) -> Outcome {
    chain(g, 40)?;
    same("size", ok("stat", fs::metadata(g.p("c0")))?.len(), 10_000)
}

fn symlink_chain_too_long(g: &Ground) -> Outcome {
    chain(g, 41)?;
    fails("stat", fs::metadata(g.p("c0")), &[Errno::LOOP])
}

fn symlink_to_itself(g: &Ground) -> Outcome {
    ok("symlink", symlink("self", g.p("self")))?;
    fails("stat", fs::metadata(g.p("self")), &[Errno::LOOP])?;
    fails(
        "chmod",
        fs::set_permissions(g.p("self"), meta(&g.p("file"))?.permissions()),
        &[Errno::LOOP],
    )?;
    ok("unlink", fs::remove_file(g.p("self")))
}

fn symlink_to_the_root(g: &Ground) -> Outcome {
    ok("symlink", symlink("/", g.p("top")))?;
    same(
        "number",
        ok("stat", fs::metadata(g.p("top")))?.ino(),
        ok("stat", fs::metadata("/"))?.ino(),
    )
}

fn symlink_of_4095_bytes(g: &Ground) -> Outcome {
    let target = vec![b't'; 4_095];
    ok("symlink", symlink(OsStr::from_bytes(&target), g.p("new")))?;
    same(
        "target",
        ok("readlink", fs::read_link(g.p("new")))?.as_os_str().len(),
        4_095,
    )?;
    same("size", meta(&g.p("new"))?.len(), 4_095)
}

fn symlink_of_4096_bytes(g: &Ground) -> Outcome {
    let target = vec![b't'; 4_096];
    fails(
        "symlink",
        symlink(OsStr::from_bytes(&target), g.p("new")),
        &[Errno::NAMETOOLONG],
    )?;
    gone(&g.p("new"))
}

fn symlink_with_a_slash_behind(g: &Ground) -> Outcome {
    ok("symlink", symlink("dir", g.p("way")))?;
    holds(
        "followed",
        ok("stat", fs::symlink_metadata(g.p("way/")))?.is_dir(),
    )?;
    fails("a file", fs::symlink_metadata(g.p("link/")), &[Errno::NOTDIR])
}

fn symlink_to_a_file_with_a_slash(g: &Ground) -> Outcome {
    ok("symlink", symlink("file/", g.p("way")))?;
    fails("stat", fs::metadata(g.p("way")), &[Errno::NOTDIR])?;
    same(
        "target",
        ok("readlink", fs::read_link(g.p("way")))?.into_os_string(),
        "file/".into(),
    )
}

fn symlink_into_what_comes_later(g: &Ground) -> Outcome {
    ok("symlink", symlink("later/x", g.p("way")))?;
    fails("before", fs::metadata(g.p("way")), &[Errno::NOENT])?;
    ok("mkdir", fs::create_dir(g.p("later")))?;
    put(&g.p("later/x"), b"now")?;
    same("after", text(&g.p("way"))?, b"now".to_vec())
}

fn symlink_whose_target_is_replaced(g: &Ground) -> Outcome {
    same("before", text(&g.p("link"))?, pattern())?;
    ok("rename", fs::rename(g.p("hard1"), g.p("file")))?;
    same("after", text(&g.p("link"))?, b"hard".to_vec())
}

fn symlink_that_is_linked(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("link"), g.p("dir/link")))?;
    fails(
        "from there it leads nowhere",
        fs::metadata(g.p("dir/link")),
        &[Errno::NOENT],
    )?;
    same("links", meta(&g.p("link"))?.nlink(), 2)?;
    ok("unlink", fs::remove_file(g.p("link")))?;
    same(
        "target",
        ok("readlink", fs::read_link(g.p("dir/link")))?.into_os_string(),
        "file".into(),
    )
}

fn symlink_cut_when_read(g: &Ground) -> Outcome {
    ok("symlink", symlink("0123456789", g.p("new")))?;
    let mut short = [std::mem::MaybeUninit::uninit(); 4];
    let (target, _) = ok(
        "readlink",
        rustix::fs::readlinkat_raw(CWD, g.p("new"), &mut short[..]),
    )?;
    same("as much as fits", target.to_vec(), b"0123".to_vec())
}

fn symlink_mode_says_nothing(g: &Ground) -> Outcome {
    open_to_all(&g.p("dir"))?;
    ok("symlink", symlink("a", g.p("dir/way")))?;
    chown(&g.p("dir/way"), 77, 77)?;
    ok("through it", OTHER.does(&["read"], &g.p("dir/way")))?;
    chmod(&g.p("dir/a"), 0o600)?;
    fails(
        "its target is asked",
        OTHER.does(&["read"], &g.p("dir/way")),
        &[Errno::ACCESS],
    )
}

fn symlink_in_place_of_a_directory(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir"), g.p("moved")))?;
    ok("symlink", symlink("moved", g.p("dir")))?;
    same("through it", text(&g.p("dir/sub/b"))?, b"b".to_vec())?;
    fails("rmdir", fs::remove_dir(g.p("dir")), &[Errno::NOTDIR])
}

fn symlink_of_a_layer_is_removed_and_made_anew(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("link")))?;
    ok("symlink", symlink("empty", g.p("link")))?;
    same(
        "target",
        ok("readlink", fs::read_link(g.p("link")))?.into_os_string(),
        "empty".into(),
    )?;
    ok("unlink", fs::remove_file(g.p("link")))?;
    gone(&g.p("link"))
}

fn symlink_belongs_to_another(g: &Ground) -> Outcome {
    chown(&g.p("link"), OTHER.uid, OTHER.gid)?;
    let link = meta(&g.p("link"))?;
    holds("it is still a link", link.is_symlink())?;
    same("owner", (link.uid(), link.gid()), (OTHER.uid, OTHER.gid))?;
    same("target", text(&g.p("link"))?, pattern())
}
