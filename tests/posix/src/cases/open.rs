//! Opening and creating.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, symlink};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::cases;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, bits, meta, named, pattern};

cases!("open":
    creates_a_regular_file, takes_the_mode_less_the_umask, exclusive_over_a_file, exclusive_over_a_dangling_link,
    exclusive_over_a_link, creates_through_a_dangling_link, missing, missing_parent, below_a_file, directory_for_writing,
    directory_for_reading, file_as_directory, link_not_followed, loop_of_links, truncates, truncating_keeps_the_mode,
    truncating_the_empty_is_fine, appends, name_of_255_bytes, name_of_256_bytes, path_too_long,
    creating_what_exists_keeps_it, creating_changes_the_parents_times, file_with_a_slash_at_its_end,
    create_over_a_directory, unlinked_is_still_read, unlinked_is_still_written, pipe_without_a_reader,
    creates_again_after_unlink, through_a_link, two_handles_see_each_other, parent_times_stay_when_it_exists,
    exclusive_creates_once, read_only_handle_cannot_write,
);

fn create(path: &std::path::Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

fn creates_a_regular_file(g: &Ground) -> Outcome {
    drop(ok("create", create(&g.p("new")))?);
    let meta = meta(&g.p("new"))?;
    holds("it is a regular file", meta.is_file())?;
    same("size", meta.len(), 0)?;
    same("links", meta.nlink(), 1)
}

fn takes_the_mode_less_the_umask(g: &Ground) -> Outcome {
    for (asked, given) in [(0o666, 0o644), (0o777, 0o755), (0o600, 0o600), (0o4755, 0o4755)] {
        let path = g.p(&format!("mode{asked:o}"));
        drop(ok(
            "create",
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(asked)
                .open(&path),
        )?);
        same("mode", bits(&path)?, given)?;
    }
    Ok(())
}

fn exclusive_over_a_file(g: &Ground) -> Outcome {
    fails("create_new", File::create_new(g.p("file")), &[Errno::EXIST])?;
    same("content", ok("read", fs::read(g.p("file")))?, pattern())
}

fn exclusive_over_a_dangling_link(g: &Ground) -> Outcome {
    fails("create_new", File::create_new(g.p("dangling")), &[Errno::EXIST])?;
    fails("its target", fs::metadata(g.p("nowhere")), &[Errno::NOENT])
}

fn exclusive_over_a_link(g: &Ground) -> Outcome {
    fails("create_new", File::create_new(g.p("link")), &[Errno::EXIST])
}

fn creates_through_a_dangling_link(g: &Ground) -> Outcome {
    drop(ok("create", create(&g.p("dangling")))?);
    holds("the target is there", meta(&g.p("nowhere"))?.is_file())?;
    holds("the link is still one", meta(&g.p("dangling"))?.is_symlink())
}

fn missing(g: &Ground) -> Outcome {
    fails("open", File::open(g.p("absent")), &[Errno::NOENT])
}

fn missing_parent(g: &Ground) -> Outcome {
    fails("open", create(&g.p("absent/new")), &[Errno::NOENT])
}

fn below_a_file(g: &Ground) -> Outcome {
    fails("open", File::open(g.p("file/x")), &[Errno::NOTDIR])?;
    fails("create", create(&g.p("file/x")), &[Errno::NOTDIR])
}

fn directory_for_writing(g: &Ground) -> Outcome {
    fails(
        "open",
        OpenOptions::new().write(true).open(g.p("dir")),
        &[Errno::ISDIR],
    )
}

fn directory_for_reading(g: &Ground) -> Outcome {
    let mut open = ok("open", File::open(g.p("dir")))?;
    fails("read", open.read(&mut [0; 10]), &[Errno::ISDIR])
}

fn file_as_directory(g: &Ground) -> Outcome {
    fails(
        "open",
        openat(CWD, g.p("file"), OFlags::DIRECTORY, Mode::empty()),
        &[Errno::NOTDIR],
    )
}

fn link_not_followed(g: &Ground) -> Outcome {
    fails(
        "open",
        openat(CWD, g.p("link"), OFlags::NOFOLLOW, Mode::empty()),
        &[Errno::LOOP],
    )
}

fn loop_of_links(g: &Ground) -> Outcome {
    ok("symlink", symlink("second", g.p("first")))?;
    ok("symlink", symlink("first", g.p("second")))?;
    fails("open", File::open(g.p("first")), &[Errno::LOOP])
}

fn truncates(g: &Ground) -> Outcome {
    drop(ok("open", File::create(g.p("file")))?);
    same("size", meta(&g.p("file"))?.len(), 0)?;
    same("content", ok("read", fs::read(g.p("file")))?, vec![])
}

fn truncating_keeps_the_mode(g: &Ground) -> Outcome {
    let before = meta(&g.p("file"))?;
    drop(ok("open", File::create(g.p("file")))?);
    let after = meta(&g.p("file"))?;
    same("mode", after.mode(), before.mode())?;
    same("number", after.ino(), before.ino())?;
    same("owner", (after.uid(), after.gid()), (before.uid(), before.gid()))
}

fn truncating_the_empty_is_fine(g: &Ground) -> Outcome {
    drop(ok("open", File::create(g.p("empty")))?);
    same("size", meta(&g.p("empty"))?.len(), 0)
}

fn appends(g: &Ground) -> Outcome {
    let mut open = ok("open", OpenOptions::new().append(true).open(g.p("file")))?;
    ok("write", open.write_all(b"tail"))?;
    let mut expected = pattern();
    expected.extend(b"tail");
    same("content", ok("read", fs::read(g.p("file")))?, expected)
}

fn name_of_255_bytes(g: &Ground) -> Outcome {
    let path = named(g.root(), &[b'n'; 255]);
    ok("create", fs::write(&path, b"long"))?;
    same("content", ok("read", fs::read(&path))?, b"long".to_vec())?;
    ok("remove", fs::remove_file(&path))
}

fn name_of_256_bytes(g: &Ground) -> Outcome {
    let path = named(g.root(), &[b'n'; 256]);
    fails("create", fs::write(&path, b""), &[Errno::NAMETOOLONG])?;
    fails("open", File::open(&path), &[Errno::NAMETOOLONG])
}

fn path_too_long(g: &Ground) -> Outcome {
    let path = g.p(&"dir/../".repeat(700));
    fails("open", File::open(path), &[Errno::NAMETOOLONG])
}

fn creating_what_exists_keeps_it(g: &Ground) -> Outcome {
    let before = meta(&g.p("file"))?;
    drop(ok("open", create(&g.p("file")))?);
    let after = meta(&g.p("file"))?;
    same("number", after.ino(), before.ino())?;
    same("size", after.len(), before.len())?;
    same("modified", after.mtime(), OLD)
}

fn creating_changes_the_parents_times(g: &Ground) -> Outcome {
    ok("create", fs::write(g.p("dir/new"), b""))?;
    let parent = meta(&g.p("dir"))?;
    holds("modified", parent.mtime() > OLD)?;
    holds("changed", parent.ctime() > OLD)
}

fn parent_times_stay_when_it_exists(g: &Ground) -> Outcome {
    drop(ok("open", create(&g.p("dir/a")))?);
    same("modified", meta(&g.p("dir"))?.mtime(), OLD)
}

fn file_with_a_slash_at_its_end(g: &Ground) -> Outcome {
    fails("open", File::open(g.p("file/")), &[Errno::NOTDIR])
}

fn create_over_a_directory(g: &Ground) -> Outcome {
    fails("create", create(&g.p("dir")), &[Errno::ISDIR])?;
    fails("create_new", File::create_new(g.p("dir")), &[Errno::EXIST])
}

fn unlinked_is_still_read(g: &Ground) -> Outcome {
    let mut open = ok("open", File::open(g.p("file")))?;
    ok("unlink", fs::remove_file(g.p("file")))?;
    let mut content = Vec::new();
    ok("read", open.read_to_end(&mut content))?;
    same("content", content, pattern())?;
    fails("open again", File::open(g.p("file")), &[Errno::NOENT])
}

fn unlinked_is_still_written(g: &Ground) -> Outcome {
    let mut open = ok(
        "open",
        OpenOptions::new().read(true).write(true).open(g.p("file")),
    )?;
    ok("unlink", fs::remove_file(g.p("file")))?;
    ok("write", open.write_all(b"still"))?;
    ok("sync", open.sync_all())?;
    same("size", ok("stat", open.metadata())?.len(), 10_000)
}

fn pipe_without_a_reader(g: &Ground) -> Outcome {
    holds("it is a pipe", meta(&g.p("fifo"))?.file_type().is_fifo())?;
    let flags = OFlags::WRONLY | OFlags::NONBLOCK;
    fails(
        "open",
        openat(CWD, g.p("fifo"), flags, Mode::empty()),
        &[Errno::NXIO],
    )
}

fn creates_again_after_unlink(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("file")))?;
    ok("create", fs::write(g.p("file"), b"second life"))?;
    same(
        "content",
        ok("read", fs::read(g.p("file")))?,
        b"second life".to_vec(),
    )?;
    same("links", meta(&g.p("file"))?.nlink(), 1)
}

fn through_a_link(g: &Ground) -> Outcome {
    same("content", ok("read", fs::read(g.p("link")))?, pattern())?;
    ok("write", fs::write(g.p("link"), b"by the link"))?;
    same(
        "target",
        ok("read", fs::read(g.p("file")))?,
        b"by the link".to_vec(),
    )?;
    holds("the link is still one", meta(&g.p("link"))?.is_symlink())
}

fn two_handles_see_each_other(g: &Ground) -> Outcome {
    let mut reader = ok("open", File::open(g.p("empty")))?;
    ok("write", fs::write(g.p("empty"), b"seen"))?;
    let mut content = Vec::new();
    ok("read", reader.read_to_end(&mut content))?;
    same("content", content, b"seen".to_vec())
}

fn exclusive_creates_once(g: &Ground) -> Outcome {
    drop(ok("first", File::create_new(g.p("once")))?);
    fails("second", File::create_new(g.p("once")), &[Errno::EXIST])
}

fn read_only_handle_cannot_write(g: &Ground) -> Outcome {
    let mut open = ok("open", File::open(g.p("file")))?;
    fails("write", open.write(b"x"), &[Errno::BADF])
}
