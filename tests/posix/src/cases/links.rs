//! Hard links, symbolic links, removing names.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::io::Errno;

use super::cases;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, meta, pattern};

cases!("links":
    a_second_name, both_names_are_one_file, link_over_existing, link_to_a_directory, link_to_a_missing_file,
    link_to_a_symlink_links_the_link, link_across_directories, a_third_name, link_to_a_pipe, link_changes_ctime_only,
    link_changes_the_parents_time, mode_through_one_name, first_name_goes, both_names_go, new_file_under_an_old_name,
    link_survives_rename_of_the_other, linked_then_written, hundred_links,
    unlink_a_file, unlink_missing, unlink_a_directory, unlink_a_symlink, unlink_a_dangling_symlink, unlink_a_pipe,
    unlink_with_a_slash, unlink_changes_the_parents_times, unlink_changes_the_ctime_of_what_stays, unlink_then_directory,
    unlink_then_symlink, unlink_twice, unlink_below_a_file,
    symlink_reads_back, symlink_of_any_bytes, symlink_to_a_long_target, symlink_over_existing, symlink_size_is_its_length,
    symlink_resolves_from_its_own_directory, readlink_of_a_file, dangling_is_there_itself, symlink_to_a_directory,
    symlink_replaced_by_rename, symlink_to_the_empty_string, symlink_with_dots,
);

fn a_second_name(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("file"), g.p("second")))?;
    same("links", meta(&g.p("file"))?.nlink(), 2)?;
    same("content", ok("read", fs::read(g.p("second")))?, pattern())
}

fn both_names_are_one_file(g: &Ground) -> Outcome {
    let (one, two) = (meta(&g.p("hard1"))?, meta(&g.p("hard2"))?);
    same("number", one.ino(), two.ino())?;
    same("links", (one.nlink(), two.nlink()), (2, 2))
}

fn link_over_existing(g: &Ground) -> Outcome {
    fails("link", fs::hard_link(g.p("file"), g.p("empty")), &[Errno::EXIST])?;
    same("links", meta(&g.p("file"))?.nlink(), 1)
}

fn link_to_a_directory(g: &Ground) -> Outcome {
    fails("link", fs::hard_link(g.p("dir"), g.p("second")), &[Errno::PERM])
}

fn link_to_a_missing_file(g: &Ground) -> Outcome {
    fails(
        "link",
        fs::hard_link(g.p("absent"), g.p("second")),
        &[Errno::NOENT],
    )
}

fn link_to_a_symlink_links_the_link(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("link"), g.p("second")))?;
    holds("it is a symlink", meta(&g.p("second"))?.is_symlink())?;
    same("number", meta(&g.p("second"))?.ino(), meta(&g.p("link"))?.ino())
}

fn link_across_directories(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("dir/a"), g.p("vacant/a")))?;
    same("content", ok("read", fs::read(g.p("vacant/a")))?, b"a".to_vec())?;
    same(
        "number",
        meta(&g.p("vacant/a"))?.ino(),
        meta(&g.p("dir/a"))?.ino(),
    )
}

fn a_third_name(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("hard1"), g.p("hard3")))?;
    for name in ["hard1", "hard2", "hard3"] {
        same(name, meta(&g.p(name))?.nlink(), 3)?;
    }
    Ok(())
}

fn link_to_a_pipe(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("fifo"), g.p("second")))?;
    same("links", meta(&g.p("fifo"))?.nlink(), 2)
}

fn link_changes_ctime_only(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("file"), g.p("second")))?;
    let after = meta(&g.p("file"))?;
    same("modified", after.mtime(), OLD)?;
    holds("changed", after.ctime() > OLD)
}

fn link_changes_the_parents_time(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("file"), g.p("dir/second")))?;
    holds("modified", meta(&g.p("dir"))?.mtime() > OLD)
}

fn mode_through_one_name(g: &Ground) -> Outcome {
    ok(
        "chmod",
        fs::set_permissions(g.p("hard1"), fs::Permissions::from_mode(0o640)),
    )?;
    same("mode", meta(&g.p("hard2"))?.mode() & 0o7777, 0o640)?;
    same("number", meta(&g.p("hard2"))?.ino(), meta(&g.p("hard1"))?.ino())
}

fn first_name_goes(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("hard1")))?;
    same("links", meta(&g.p("hard2"))?.nlink(), 1)?;
    same("content", ok("read", fs::read(g.p("hard2")))?, b"hard".to_vec())
}

fn both_names_go(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("hard1")))?;
    ok("unlink", fs::remove_file(g.p("hard2")))?;
    fails("stat", fs::symlink_metadata(g.p("hard2")), &[Errno::NOENT])
}

fn new_file_under_an_old_name(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("hard1")))?;
    ok("create", fs::write(g.p("hard1"), b"another"))?;
    same("old", ok("read", fs::read(g.p("hard2")))?, b"hard".to_vec())?;
    holds(
        "they are two files",
        meta(&g.p("hard1"))?.ino() != meta(&g.p("hard2"))?.ino(),
    )
}

fn link_survives_rename_of_the_other(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("hard1"), g.p("dir/moved")))?;
    same(
        "number",
        meta(&g.p("dir/moved"))?.ino(),
        meta(&g.p("hard2"))?.ino(),
    )?;
    same("links", meta(&g.p("hard2"))?.nlink(), 2)?;
    ok("write", fs::write(g.p("dir/moved"), b"one file"))?;
    same(
        "content",
        ok("read", fs::read(g.p("hard2")))?,
        b"one file".to_vec(),
    )
}

fn linked_then_written(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("file"), g.p("second")))?;
    ok("write", fs::write(g.p("second"), b"by the second"))?;
    same(
        "content",
        ok("read", fs::read(g.p("file")))?,
        b"by the second".to_vec(),
    )
}

fn hundred_links(g: &Ground) -> Outcome {
    for i in 0..100 {
        ok("link", fs::hard_link(g.p("empty"), g.p(&format!("dir/link{i}"))))?;
    }
    same("links", meta(&g.p("empty"))?.nlink(), 101)?;
    for i in 0..100 {
        ok("unlink", fs::remove_file(g.p(&format!("dir/link{i}"))))?;
    }
    same("links", meta(&g.p("empty"))?.nlink(), 1)
}

fn unlink_a_file(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("file")))?;
    fails("stat", fs::symlink_metadata(g.p("file")), &[Errno::NOENT])?;
    let names = super::listing::names(g.root())?;
    holds("it is not listed", !names.iter().any(|name| name == "file"))
}

fn unlink_missing(g: &Ground) -> Outcome {
    fails("unlink", fs::remove_file(g.p("absent")), &[Errno::NOENT])
}

fn unlink_a_directory(g: &Ground) -> Outcome {
    fails(
        "unlink",
        fs::remove_file(g.p("vacant")),
        &[Errno::ISDIR, Errno::PERM],
    )?;
    holds("it is still there", meta(&g.p("vacant"))?.is_dir())
}

fn unlink_a_symlink(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("link")))?;
    same("the target stays", ok("read", fs::read(g.p("file")))?, pattern())
}

fn unlink_a_dangling_symlink(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("dangling")))?;
    fails("stat", fs::symlink_metadata(g.p("dangling")), &[Errno::NOENT])
}

fn unlink_a_pipe(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("fifo")))?;
    fails("stat", fs::symlink_metadata(g.p("fifo")), &[Errno::NOENT])
}

fn unlink_with_a_slash(g: &Ground) -> Outcome {
    fails("unlink", fs::remove_file(g.p("file/")), &[Errno::NOTDIR])
}

fn unlink_changes_the_parents_times(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("dir/a")))?;
    let parent = meta(&g.p("dir"))?;
    holds("modified", parent.mtime() > OLD)?;
    holds("changed", parent.ctime() > OLD)
}

fn unlink_changes_the_ctime_of_what_stays(g: &Ground) -> Outcome {
    let before = meta(&g.p("hard2"))?;
    ok("unlink", fs::remove_file(g.p("hard1")))?;
    let after = meta(&g.p("hard2"))?;
    holds(
        "changed",
        (after.ctime(), after.ctime_nsec()) >= (before.ctime(), before.ctime_nsec()),
    )?;
    same("modified", after.mtime(), OLD)
}

fn unlink_then_directory(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("file")))?;
    ok("mkdir", fs::create_dir(g.p("file")))?;
    ok("create inside", fs::write(g.p("file/x"), b"x"))?;
    same("names", super::listing::names(&g.p("file"))?, vec!["x".into()])
}

fn unlink_then_symlink(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("file")))?;
    ok("symlink", symlink("empty", g.p("file")))?;
    same("size through it", ok("stat", fs::metadata(g.p("file")))?.len(), 0)
}

fn unlink_twice(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("file")))?;
    fails("again", fs::remove_file(g.p("file")), &[Errno::NOENT])
}

fn unlink_below_a_file(g: &Ground) -> Outcome {
    fails("unlink", fs::remove_file(g.p("file/x")), &[Errno::NOTDIR])
}

fn target(path: &Path) -> Result<Vec<u8>, String> {
    Ok(ok("readlink", fs::read_link(path))?
        .as_os_str()
        .as_bytes()
        .to_vec())
}

fn symlink_reads_back(g: &Ground) -> Outcome {
    same("old", target(&g.p("link"))?, b"file".to_vec())?;
    ok("symlink", symlink("some/where", g.p("new")))?;
    same("new", target(&g.p("new"))?, b"some/where".to_vec())
}

fn symlink_of_any_bytes(g: &Ground) -> Outcome {
    let bytes = b"\xff\xfe \n\t\x01 \"quoted\"";
    ok("symlink", symlink(OsStr::from_bytes(bytes), g.p("new")))?;
    same("target", target(&g.p("new"))?, bytes.to_vec())
}

fn symlink_to_a_long_target(g: &Ground) -> Outcome {
    for length in [255, 1_000, 1_023] {
        let path = g.p(&format!("long{length}"));
        let bytes = vec![b't'; length];
        ok("symlink", symlink(OsStr::from_bytes(&bytes), &path))?;
        same("target", target(&path)?, bytes)?;
    }
    Ok(())
}

fn symlink_over_existing(g: &Ground) -> Outcome {
    for name in ["file", "dir", "link", "dangling"] {
        fails(name, symlink("x", g.p(name)), &[Errno::EXIST])?;
    }
    Ok(())
}

fn symlink_size_is_its_length(g: &Ground) -> Outcome {
    same("size", meta(&g.p("link"))?.len(), 4)?;
    ok("symlink", symlink("0123456789", g.p("new")))?;
    same("size", meta(&g.p("new"))?.len(), 10)
}

fn symlink_resolves_from_its_own_directory(g: &Ground) -> Outcome {
    ok("symlink", symlink("../file", g.p("dir/up")))?;
    same("content", ok("read", fs::read(g.p("dir/up")))?, pattern())
}

fn readlink_of_a_file(g: &Ground) -> Outcome {
    fails("readlink", fs::read_link(g.p("file")), &[Errno::INVAL])?;
    fails("readlink", fs::read_link(g.p("dir")), &[Errno::INVAL])
}

fn dangling_is_there_itself(g: &Ground) -> Outcome {
    holds("itself", meta(&g.p("dangling"))?.is_symlink())?;
    fails("through it", fs::metadata(g.p("dangling")), &[Errno::NOENT])
}

fn symlink_to_a_directory(g: &Ground) -> Outcome {
    ok("symlink", symlink("dir", g.p("way")))?;
    same(
        "through it",
        ok("read", fs::read(g.p("way/sub/b")))?,
        b"b".to_vec(),
    )?;
    ok("create through it", fs::write(g.p("way/new"), b"n"))?;
    same("seen", ok("read", fs::read(g.p("dir/new")))?, b"n".to_vec())
}

fn symlink_replaced_by_rename(g: &Ground) -> Outcome {
    ok("symlink", symlink("empty", g.p("link.new")))?;
    ok("rename", fs::rename(g.p("link.new"), g.p("link")))?;
    same("target", target(&g.p("link"))?, b"empty".to_vec())
}

fn symlink_to_the_empty_string(g: &Ground) -> Outcome {
    fails("symlink", symlink("", g.p("new")), &[Errno::NOENT])
}

fn symlink_with_dots(g: &Ground) -> Outcome {
    ok("symlink", symlink("./dir/../file", g.p("new")))?;
    same("content", ok("read", fs::read(g.p("new")))?, pattern())
}
