//! Open files whose names go: removed, replaced, or with their directory.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::cases;
use super::listing::names;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, meta};
use crate::short::{both, gone, mode_is, put, text};

cases!("unlinked":
    unlinked_keeps_its_attributes, unlinked_is_truncated, unlinked_is_changed,
    unlinked_and_closed_leaves_nothing, unlinked_by_one_of_two_handles, unlinked_new_file_lives_on,
    replaced_while_open_leaves_nothing, directory_handle_after_rename, directory_handle_makes_and_removes,
    removed_directory_takes_nothing, removed_directory_lists_nothing, unlinked_has_no_links,
    unlinked_does_not_keep_its_directory, unlinked_then_a_new_file_by_that_name,
);

fn unlinked_keeps_its_attributes(g: &Ground) -> Outcome {
    let open = ok("open", File::open(g.p("file")))?;
    let before = ok("stat", open.metadata())?;
    ok("unlink", fs::remove_file(g.p("file")))?;
    let after = ok("stat", open.metadata())?;
    same("number", after.ino(), before.ino())?;
    same("mode", after.mode(), before.mode())?;
    same("modified", after.mtime(), OLD)
}

fn unlinked_is_truncated(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    ok("unlink", fs::remove_file(g.p("file")))?;
    ok("truncate", open.set_len(100))?;
    same("size", ok("stat", open.metadata())?.len(), 100)?;
    same("read", ok("read", open.read_at(&mut [0; 200], 0))?, 100)
}

fn unlinked_is_changed(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    ok("unlink", fs::remove_file(g.p("file")))?;
    ok("fchmod", open.set_permissions(fs::Permissions::from_mode(0o600)))?;
    ok("fchown", std::os::unix::fs::fchown(&open, Some(7), Some(8)))?;
    let meta = ok("stat", open.metadata())?;
    same(
        "mode and owner",
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o600, 7, 8),
    )
}

fn unlinked_and_closed_leaves_nothing(g: &Ground) -> Outcome {
    let open = ok("open", File::open(g.p("dir/a")))?;
    ok("unlink", fs::remove_file(g.p("dir/a")))?;
    drop(open);
    same("names", names(&g.p("dir"))?, vec!["sub".into()])?;
    ok("remove the rest", fs::remove_dir_all(g.p("dir")))
}

fn unlinked_by_one_of_two_handles(g: &Ground) -> Outcome {
    let (one, two) = (both(&g.p("file"))?, both(&g.p("file"))?);
    ok("unlink", fs::remove_file(g.p("file")))?;
    ok("write by one", one.write_all_at(b"ONE", 0))?;
    drop(one);
    let mut seen = [0; 3];
    ok("read by the other", two.read_exact_at(&mut seen, 0))?;
    same("seen", &seen, b"ONE")
}

fn unlinked_new_file_lives_on(g: &Ground) -> Outcome {
    let path = g.p("scratch");
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path);
    let open = ok("create", open)?;
    ok("unlink", fs::remove_file(&path))?;
    ok("write", open.write_all_at(&[b's'; 20_000], 0))?;
    ok("sync", open.sync_all())?;
    let mut back = vec![0; 20_000];
    ok("read", open.read_exact_at(&mut back, 0))?;
    holds("what was written", back.iter().all(|byte| *byte == b's'))?;
    gone(&path)
}

fn replaced_while_open_leaves_nothing(g: &Ground) -> Outcome {
    let open = ok("open", File::open(g.p("dir/a")))?;
    ok("rename over it", fs::rename(g.p("empty"), g.p("dir/a")))?;
    let mut one = [0; 1];
    ok("read", open.read_exact_at(&mut one, 0))?;
    same("the old content", &one, b"a")?;
    drop(open);
    same("names", names(&g.p("dir"))?, vec!["a".into(), "sub".into()])
}

fn directory_handle_after_rename(g: &Ground) -> Outcome {
    let dir = ok("open", File::open(g.p("dir")))?;
    ok("rename", fs::rename(g.p("dir"), g.p("vacant/moved")))?;
    let inside = ok("openat", openat(&dir, "sub/b", OFlags::RDONLY, Mode::empty()))?;
    let mut content = String::new();
    ok("read", File::from(inside).read_to_string(&mut content))?;
    same("content", content, "b".to_owned())?;
    ok(
        "mkdirat",
        rustix::fs::mkdirat(&dir, "new", Mode::from_raw_mode(0o755)),
    )?;
    holds("it is where the directory is", g.p("vacant/moved/new").is_dir())
}

fn directory_handle_makes_and_removes(g: &Ground) -> Outcome {
    let dir = ok("open", File::open(g.p("dir")))?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    drop(ok(
        "openat",
        openat(&dir, "new", flags, Mode::from_raw_mode(0o600)),
    )?);
    mode_is(&g.p("dir/new"), 0o600)?;
    ok(
        "renameat",
        rustix::fs::renameat(&dir, "new", CWD, g.p("vacant/new")),
    )?;
    ok(
        "linkat",
        rustix::fs::linkat(CWD, g.p("vacant/new"), &dir, "again", AtFlags::empty()),
    )?;
    ok("unlinkat", rustix::fs::unlinkat(&dir, "again", AtFlags::empty()))?;
    fails(
        "rmdir of a file",
        rustix::fs::unlinkat(&dir, "a", AtFlags::REMOVEDIR),
        &[Errno::NOTDIR],
    )?;
    same("names", names(&g.p("dir"))?, vec!["a".into(), "sub".into()])
}

fn removed_directory_takes_nothing(g: &Ground) -> Outcome {
    let dir = ok("open", File::open(g.p("vacant")))?;
    ok("rmdir", fs::remove_dir(g.p("vacant")))?;
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let made = openat(&dir, "x", flags, Mode::from_raw_mode(0o600));
    fails("create", made, &[Errno::NOENT, Errno::STALE])?;
    let made = rustix::fs::mkdirat(&dir, "x", Mode::from_raw_mode(0o700));
    fails("mkdir", made, &[Errno::NOENT, Errno::STALE])
}

fn removed_directory_lists_nothing(g: &Ground) -> Outcome {
    let dir = ok("open", File::open(g.p("vacant")))?;
    ok("rmdir", fs::remove_dir(g.p("vacant")))?;
    ok("mkdir", fs::create_dir(g.p("vacant")))?;
    put(&g.p("vacant/new"), b"")?;
    let listing = rustix::fs::Dir::read_from(dir.as_fd());
    let seen = listing.map(|listing| {
        listing
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_bytes() == b"new")
            .count()
    });
    // It may fail or be empty, but shows nothing of the directory that has its name now.
    same("of the new directory", seen.unwrap_or(0), 0)
}

fn unlinked_has_no_links(g: &Ground) -> Outcome {
    let open = ok("open", File::open(g.p("file")))?;
    ok("unlink", fs::remove_file(g.p("file")))?;
    same("links", ok("stat", open.metadata())?.nlink(), 0)
}

fn unlinked_does_not_keep_its_directory(g: &Ground) -> Outcome {
    put(&g.p("vacant/x"), b"x")?;
    let open = ok("open", File::open(g.p("vacant/x")))?;
    ok("unlink", fs::remove_file(g.p("vacant/x")))?;
    ok("rmdir", fs::remove_dir(g.p("vacant")))?;
    drop(open);
    Ok(())
}

fn unlinked_then_a_new_file_by_that_name(g: &Ground) -> Outcome {
    let old = both(&g.p("file"))?;
    ok("unlink", fs::remove_file(g.p("file")))?;
    put(&g.p("file"), b"new")?;
    ok("write to the old", old.write_all_at(b"OLD", 0))?;
    ok("sync", old.sync_all())?;
    same("the new", text(&g.p("file"))?, b"new".to_vec())?;
    holds(
        "they are two files",
        ok("stat", old.metadata())?.ino() != meta(&g.p("file"))?.ino(),
    )?;
    holds("the old is a file", ok("stat", old.metadata())?.is_file())?;
    holds("the pipe is none", meta(&g.p("fifo"))?.file_type().is_fifo())
}
