//! Access and modification times.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
use rustix::io::Errno;

use super::cases;
use crate::act::{OTHER, Who};
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, meta};

cases!("times":
    set_both, of_a_directory, of_a_pipe, of_a_symlink_itself, through_a_symlink, now, only_the_modification,
    only_the_access, neither, nanoseconds, before_1970, in_the_year_2100, of_missing, changes_ctime, keeps_the_content,
    by_another_to_a_value, by_another_to_now, by_a_writer_to_now, by_the_owner, move_forward_with_writes,
    creation_is_now, set_after_write,
);

fn spec(seconds: i64, nanos: i64) -> Timespec {
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    }
}

fn set(path: &Path, access: Timespec, modification: Timespec) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: access,
        last_modification: modification,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn both(path: &Path) -> Result<(i64, i64), String> {
    let meta = meta(path)?;
    Ok((meta.atime(), meta.mtime()))
}

fn set_both(g: &Ground) -> Outcome {
    ok(
        "utimens",
        set(&g.p("file"), spec(1_100_000_000, 0), spec(1_200_000_000, 0)),
    )?;
    same("times", both(&g.p("file"))?, (1_100_000_000, 1_200_000_000))
}

fn of_a_directory(g: &Ground) -> Outcome {
    ok(
        "utimens",
        set(&g.p("dir"), spec(1_100_000_000, 0), spec(1_200_000_000, 0)),
    )?;
    same("modified", meta(&g.p("dir"))?.mtime(), 1_200_000_000)
}

fn of_a_pipe(g: &Ground) -> Outcome {
    ok(
        "utimens",
        set(&g.p("fifo"), spec(1_100_000_000, 0), spec(1_200_000_000, 0)),
    )?;
    same("times", both(&g.p("fifo"))?, (1_100_000_000, 1_200_000_000))
}

fn of_a_symlink_itself(g: &Ground) -> Outcome {
    ok(
        "utimens",
        set(&g.p("link"), spec(1_100_000_000, 0), spec(1_200_000_000, 0)),
    )?;
    same("modified", meta(&g.p("link"))?.mtime(), 1_200_000_000)?;
    same("its target", meta(&g.p("file"))?.mtime(), OLD)
}

fn through_a_symlink(g: &Ground) -> Outcome {
    let times = Timestamps {
        last_access: spec(5, 0),
        last_modification: spec(6, 0),
    };
    ok("utimens", utimensat(CWD, g.p("link"), &times, AtFlags::empty()))?;
    same("target", both(&g.p("file"))?, (5, 6))
}

fn now(g: &Ground) -> Outcome {
    ok(
        "utimens",
        set(&g.p("file"), spec(0, UTIME_NOW), spec(0, UTIME_NOW)),
    )?;
    let (access, modification) = both(&g.p("file"))?;
    holds("both are recent", access > OLD && modification > OLD)
}

fn only_the_modification(g: &Ground) -> Outcome {
    ok("utimens", set(&g.p("file"), spec(0, UTIME_OMIT), spec(7, 0)))?;
    same("times", both(&g.p("file"))?, (OLD, 7))
}

fn only_the_access(g: &Ground) -> Outcome {
    ok("utimens", set(&g.p("file"), spec(7, 0), spec(0, UTIME_OMIT)))?;
    same("times", both(&g.p("file"))?, (7, OLD))
}

fn neither(g: &Ground) -> Outcome {
    ok(
        "utimens",
        set(&g.p("file"), spec(0, UTIME_OMIT), spec(0, UTIME_OMIT)),
    )?;
    same("times", both(&g.p("file"))?, (OLD, OLD))
}

fn nanoseconds(g: &Ground) -> Outcome {
    ok(
        "utimens",
        set(&g.p("file"), spec(8, 123_456_789), spec(9, 987_654_321)),
    )?;
    let meta = meta(&g.p("file"))?;
    same("access", (meta.atime(), meta.atime_nsec()), (8, 123_456_789))?;
    same(
        "modification",
        (meta.mtime(), meta.mtime_nsec()),
        (9, 987_654_321),
    )
}

fn before_1970(g: &Ground) -> Outcome {
    ok("utimens", set(&g.p("file"), spec(-1_000, 0), spec(-2_000, 0)))?;
    same("times", both(&g.p("file"))?, (-1_000, -2_000))
}

fn in_the_year_2100(g: &Ground) -> Outcome {
    ok(
        "utimens",
        set(&g.p("file"), spec(4_102_444_800, 0), spec(4_102_444_801, 0)),
    )?;
    same("times", both(&g.p("file"))?, (4_102_444_800, 4_102_444_801))
}

fn of_missing(g: &Ground) -> Outcome {
    fails(
        "utimens",
        set(&g.p("absent"), spec(1, 0), spec(1, 0)),
        &[Errno::NOENT],
    )
}

fn changes_ctime(g: &Ground) -> Outcome {
    ok("utimens", set(&g.p("file"), spec(1, 0), spec(1, 0)))?;
    holds("changed", meta(&g.p("file"))?.ctime() > OLD)
}

fn keeps_the_content(g: &Ground) -> Outcome {
    ok("utimens", set(&g.p("file"), spec(1, 0), spec(1, 0)))?;
    same("size", meta(&g.p("file"))?.len(), 10_000)
}

fn by_another_to_a_value(g: &Ground) -> Outcome {
    fails(
        "utimens",
        OTHER.does(&["utime", "old"], &g.p("file")),
        &[Errno::PERM],
    )
}

fn by_another_to_now(g: &Ground) -> Outcome {
    fails(
        "utimens",
        OTHER.does(&["utime", "now"], &g.p("file")),
        &[Errno::ACCESS],
    )
}

fn by_a_writer_to_now(g: &Ground) -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    ok(
        "chmod",
        fs::set_permissions(g.p("file"), fs::Permissions::from_mode(0o666)),
    )?;
    ok("utimens", OTHER.does(&["utime", "now"], &g.p("file")))?;
    holds("modified", meta(&g.p("file"))?.mtime() > OLD)
}

fn by_the_owner(g: &Ground) -> Outcome {
    ok(
        "chown",
        std::os::unix::fs::chown(g.p("file"), Some(OTHER.uid), Some(OTHER.gid)),
    )?;
    let owner = Who { ..OTHER };
    ok("utimens", owner.does(&["utime", "old"], &g.p("file")))?;
    same("modified", meta(&g.p("file"))?.mtime(), 1_234_567)
}

fn move_forward_with_writes(g: &Ground) -> Outcome {
    ok("write", fs::write(g.p("file"), b"one"))?;
    let first = meta(&g.p("file"))?;
    ok("write", fs::write(g.p("file"), b"two"))?;
    let second = meta(&g.p("file"))?;
    let time = |meta: &fs::Metadata| (meta.mtime(), meta.mtime_nsec());
    holds("never back", time(&second) >= time(&first))
}

fn creation_is_now(g: &Ground) -> Outcome {
    ok("create", fs::write(g.p("new"), b""))?;
    let meta = meta(&g.p("new"))?;
    holds("access", meta.atime() > OLD)?;
    holds("modification", meta.mtime() > OLD)
}

fn set_after_write(g: &Ground) -> Outcome {
    ok("write", fs::write(g.p("file"), b"written"))?;
    ok("utimens", set(&g.p("file"), spec(3, 0), spec(4, 0)))?;
    same("times", both(&g.p("file"))?, (3, 4))?;
    same("content", ok("read", fs::read(g.p("file")))?, b"written".to_vec())
}
