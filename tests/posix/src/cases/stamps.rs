//! Which deed changes which time, and which does not.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{FileType, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};
use rustix::io::Errno;

use super::cases;
use crate::act::OTHER;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, meta, pattern};
use crate::short::{both, chmod, chown, ctime, mknod, mtime, put, utimes};

const NOW: (i64, i64) = (0, UTIME_NOW);
const OMIT: (i64, i64) = (0, UTIME_OMIT);
const REFUSED: &[Errno] = &[Errno::PERM];

cases!("stamps":
    by_an_open_file, by_a_closed_ones_owner, now_and_a_value_by_a_writer, value_and_nothing_by_a_writer,
    after_2106, at_the_end_of_2105, at_the_first_second, rename_keeps_them, link_keeps_them, chmod_keeps_them,
    chown_keeps_them, reading_keeps_the_modification, listing_keeps_the_modification, readlink_keeps_the_modification,
    child_write_keeps_the_parents, child_chmod_keeps_the_parents, failed_create_keeps_the_parents,
    failed_unlink_keeps_the_parents, failed_rename_keeps_the_parents, failed_rmdir_keeps_the_parents,
    symlink_changes_the_parents, rmdir_changes_the_parents_both, rename_in_place_changes_the_parents,
    rename_over_changes_the_replaced_names_ctime, chmod_changes_ctime, chown_changes_ctime, truncate_changes_ctime,
    write_changes_ctime, rename_changes_ctime, utimens_changes_ctime_to_now, made_in_order, cut_to_the_same_size,
    opened_to_truncate_the_empty, of_a_copy_that_keeps_them, of_a_tree_that_is_moved, of_a_device,
    mapped_and_written_later, directory_keeps_what_is_set,
);

fn by_an_open_file(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    ok("write", open.write_all_at(b"first", 0))?;
    let at = |tv_sec| Timespec { tv_sec, tv_nsec: 7 };
    let times = Timestamps {
        last_access: at(11),
        last_modification: at(22),
    };
    ok("futimens", futimens(&open, &times))?;
    drop(open);
    let meta = meta(&g.p("file"))?;
    // What was written before must not come to the server after the time was set.
    same(
        "times",
        (meta.atime(), meta.mtime(), meta.mtime_nsec()),
        (11, 22, 7),
    )
}

fn by_a_closed_ones_owner(g: &Ground) -> Outcome {
    chown(&g.p("file"), OTHER.uid, OTHER.gid)?;
    chmod(&g.p("file"), 0)?;
    ok("utimens", OTHER.be(|| utimes(&g.p("file"), (1, 0), (2, 0))))?;
    same("modified", mtime(&g.p("file"))?, (2, 0))
}

fn now_and_a_value_by_a_writer(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o666)?;
    fails(
        "now, value",
        OTHER.be(|| utimes(&g.p("file"), NOW, (5, 0))),
        REFUSED,
    )?;
    fails(
        "value, now",
        OTHER.be(|| utimes(&g.p("file"), (5, 0), NOW)),
        REFUSED,
    )?;
    same("modified", mtime(&g.p("file"))?.0, OLD)
}

fn value_and_nothing_by_a_writer(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o666)?;
    fails(
        "one value",
        OTHER.be(|| utimes(&g.p("file"), OMIT, (5, 0))),
        REFUSED,
    )
}

fn after_2106(g: &Ground) -> Outcome {
    ok(
        "utimens",
        utimes(&g.p("file"), (5_000_000_000, 0), (5_000_000_001, 0)),
    )?;
    same("modified", mtime(&g.p("file"))?, (5_000_000_001, 0))
}

// The very first and the very last second lose their fractions in Linux (`timestamp_truncate`), so one beside each.
fn at_the_end_of_2105(g: &Ground) -> Outcome {
    ok(
        "utimens",
        utimes(&g.p("file"), (4_294_967_294, 0), (4_294_967_294, 999_999_999)),
    )?;
    same("modified", mtime(&g.p("file"))?, (4_294_967_294, 999_999_999))
}

fn at_the_first_second(g: &Ground) -> Outcome {
    ok("utimens", utimes(&g.p("file"), (1, 0), (1, 1)))?;
    same("modified", mtime(&g.p("file"))?, (1, 1))
}

fn stays_old(path: &Path) -> Outcome {
    same("modified", mtime(path)?, (OLD, 0))
}

fn rename_keeps_them(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("file"), g.p("dir/new")))?;
    ok("rename", fs::rename(g.p("vacant"), g.p("dir/moved")))?;
    stays_old(&g.p("dir/new"))?;
    stays_old(&g.p("dir/moved"))
}

fn link_keeps_them(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("file"), g.p("dir/new")))?;
    stays_old(&g.p("file"))?;
    same("accessed", meta(&g.p("dir/new"))?.atime(), OLD)
}

fn chmod_keeps_them(g: &Ground) -> Outcome {
    for name in ["file", "dir", "fifo"] {
        chmod(&g.p(name), 0o700)?;
        stays_old(&g.p(name))?;
    }
    Ok(())
}

fn chown_keeps_them(g: &Ground) -> Outcome {
    for name in ["file", "dir", "fifo"] {
        chown(&g.p(name), 9, 9)?;
        stays_old(&g.p(name))?;
    }
    Ok(())
}

fn reading_keeps_the_modification(g: &Ground) -> Outcome {
    same("content", ok("read", fs::read(g.p("file")))?, pattern())?;
    stays_old(&g.p("file"))
}

fn listing_keeps_the_modification(g: &Ground) -> Outcome {
    super::listing::names(&g.p("dir"))?;
    stays_old(&g.p("dir"))
}

fn readlink_keeps_the_modification(g: &Ground) -> Outcome {
    let before = mtime(&g.p("link"))?;
    ok("readlink", fs::read_link(g.p("link")))?;
    same("modified", mtime(&g.p("link"))?, before)
}

fn child_write_keeps_the_parents(g: &Ground) -> Outcome {
    put(&g.p("dir/a"), b"longer than it was")?;
    stays_old(&g.p("dir"))
}

fn child_chmod_keeps_the_parents(g: &Ground) -> Outcome {
    chmod(&g.p("dir/a"), 0o600)?;
    chown(&g.p("dir/sub"), 5, 5)?;
    stays_old(&g.p("dir"))
}

fn failed_create_keeps_the_parents(g: &Ground) -> Outcome {
    fails("create", fs::File::create_new(g.p("dir/a")), &[Errno::EXIST])?;
    fails("mkdir", fs::create_dir(g.p("dir/sub")), &[Errno::EXIST])?;
    fails("symlink", symlink("x", g.p("dir/a")), &[Errno::EXIST])?;
    stays_old(&g.p("dir"))
}

fn failed_unlink_keeps_the_parents(g: &Ground) -> Outcome {
    fails("unlink", fs::remove_file(g.p("dir/absent")), &[Errno::NOENT])?;
    fails(
        "unlink",
        fs::remove_file(g.p("dir/sub")),
        &[Errno::ISDIR, Errno::PERM],
    )?;
    stays_old(&g.p("dir"))
}

fn failed_rename_keeps_the_parents(g: &Ground) -> Outcome {
    fails("rename", fs::rename(g.p("dir/a"), g.p("vacant")), &[Errno::ISDIR])?;
    fails(
        "rename",
        fs::rename(g.p("dir/sub"), g.p("file")),
        &[Errno::NOTDIR],
    )?;
    stays_old(&g.p("dir"))?;
    stays_old(&g.p("vacant"))
}

fn failed_rmdir_keeps_the_parents(g: &Ground) -> Outcome {
    fails(
        "rmdir",
        fs::remove_dir(g.p("dir/sub")),
        &[Errno::NOTEMPTY, Errno::EXIST],
    )?;
    stays_old(&g.p("dir"))?;
    stays_old(&g.p("dir/sub"))
}

fn changed(path: &Path) -> Outcome {
    holds("modified", mtime(path)?.0 > OLD)?;
    holds("changed", ctime(path)?.0 > OLD)
}

fn symlink_changes_the_parents(g: &Ground) -> Outcome {
    ok("symlink", symlink("x", g.p("dir/new")))?;
    changed(&g.p("dir"))
}

fn rmdir_changes_the_parents_both(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("dir/sub/b")))?;
    changed(&g.p("dir/sub"))?;
    stays_old(&g.p("dir"))?;
    ok("rmdir", fs::remove_dir(g.p("dir/sub")))?;
    changed(&g.p("dir"))
}

fn rename_in_place_changes_the_parents(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir/a"), g.p("dir/z")))?;
    changed(&g.p("dir"))
}

fn rename_over_changes_the_replaced_names_ctime(g: &Ground) -> Outcome {
    // A client that does not know what it replaces cannot know whose attributes it remembers: let it look.
    same("number", meta(&g.p("hard1"))?.ino(), meta(&g.p("hard2"))?.ino())?;
    let before = ctime(&g.p("hard2"))?;
    ok("rename over a name of it", fs::rename(g.p("empty"), g.p("hard1")))?;
    holds("changed", ctime(&g.p("hard2"))? > before)?;
    stays_old(&g.p("hard2"))
}

/// A deed moves the change time on.
fn moves_on(path: &Path, deed: impl FnOnce() -> Outcome) -> Outcome {
    let before = ctime(path)?;
    deed()?;
    holds("the change time is later", ctime(path)? > before)
}

fn chmod_changes_ctime(g: &Ground) -> Outcome {
    for name in ["file", "dir", "fifo"] {
        moves_on(&g.p(name), || chmod(&g.p(name), 0o711))?;
    }
    Ok(())
}

fn chown_changes_ctime(g: &Ground) -> Outcome {
    for name in ["file", "dir", "link"] {
        moves_on(&g.p(name), || chown(&g.p(name), 3, 4))?;
    }
    Ok(())
}

fn truncate_changes_ctime(g: &Ground) -> Outcome {
    moves_on(&g.p("file"), || ok("truncate", both(&g.p("file"))?.set_len(1)))
}

fn write_changes_ctime(g: &Ground) -> Outcome {
    moves_on(&g.p("file"), || put(&g.p("file"), b"new"))
}

fn rename_changes_ctime(g: &Ground) -> Outcome {
    let before = ctime(&g.p("file"))?;
    ok("rename", fs::rename(g.p("file"), g.p("new")))?;
    holds("the change time is later", ctime(&g.p("new"))? > before)
}

fn utimens_changes_ctime_to_now(g: &Ground) -> Outcome {
    // Nobody sets it, whatever else is set.
    let before = ctime(&g.p("file"))?;
    ok("utimens", utimes(&g.p("file"), (1, 0), (1, 0)))?;
    holds("the change time is later", ctime(&g.p("file"))? > before)
}

fn made_in_order(g: &Ground) -> Outcome {
    let mut last = (0, 0);
    for i in 0..10 {
        let path = g.p(&format!("n{i}"));
        put(&path, b"x")?;
        let made = mtime(&path)?;
        holds("not before the one before", made >= last)?;
        last = made;
    }
    Ok(())
}

fn cut_to_the_same_size(g: &Ground) -> Outcome {
    ok("ftruncate", both(&g.p("file"))?.set_len(10_000))?;
    holds("modified", mtime(&g.p("file"))?.0 > OLD)
}

fn opened_to_truncate_the_empty(g: &Ground) -> Outcome {
    drop(ok("open", fs::File::create(g.p("empty")))?);
    holds("modified", mtime(&g.p("empty"))?.0 > OLD)
}

fn of_a_copy_that_keeps_them(g: &Ground) -> Outcome {
    // As cp -p and tar do: content, owner, mode, then times.
    let to = g.p("copy");
    ok("copy", fs::copy(g.p("file"), &to))?;
    chown(&to, 12, 34)?;
    chmod(&to, 0o4711)?;
    ok("utimens", utimes(&to, (OLD, 123), (OLD, 456)))?;
    let meta = meta(&to)?;
    same(
        "all of it",
        (
            meta.uid(),
            meta.gid(),
            meta.permissions().mode() & 0o7777,
            meta.mtime(),
            meta.mtime_nsec(),
        ),
        (12, 34, 0o4711, OLD, 456),
    )
}

fn of_a_tree_that_is_moved(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir"), g.p("vacant/dir")))?;
    for name in ["vacant/dir/a", "vacant/dir/sub", "vacant/dir/sub/b", "vacant/dir"] {
        stays_old(&g.p(name))?;
    }
    Ok(())
}

fn of_a_device(g: &Ground) -> Outcome {
    let path = g.p("device");
    ok(
        "mknod",
        mknod(&path, FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
    )?;
    holds("made just now", mtime(&path)?.0 > OLD)?;
    ok("utimens", utimes(&path, (3, 0), (4, 0)))?;
    same("modified", mtime(&path)?, (4, 0))
}

fn mapped_and_written_later(g: &Ground) -> Outcome {
    // A time that is set after a write stays, though the write may reach the server later.
    let open = both(&g.p("file"))?;
    ok("write", open.write_all_at(&[b'w'; 9_000], 0))?;
    ok("utimens", utimes(&g.p("file"), (6, 0), (7, 0)))?;
    ok("sync", open.sync_all())?;
    drop(open);
    same("modified", mtime(&g.p("file"))?, (7, 0))
}

fn directory_keeps_what_is_set(g: &Ground) -> Outcome {
    put(&g.p("dir/new"), b"n")?;
    ok("utimens", utimes(&g.p("dir"), (8, 0), (9, 0)))?;
    put(&g.p("dir/new"), b"written, not made")?;
    same("modified", mtime(&g.p("dir"))?, (9, 0))
}
