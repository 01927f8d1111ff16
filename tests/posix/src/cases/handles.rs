//! Open files: what their flags allow, and what they are when their names change or go.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};

use rustix::fs::{CWD, FileType, Mode, OFlags, openat};
use rustix::io::Errno;

use super::cases;
use super::listing::names;
use crate::act::OTHER;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, meta, pattern};
use crate::short::{both, chmod, mknod, mode_is, open_to_all, put, text};

cases!("handles":
    write_only_cannot_read, append_ignores_the_offset, append_after_a_truncation, truncates_through_a_link,
    exclusive_keeps_what_is_there, nofollow_takes_a_file, nofollow_follows_on_the_way, path_only_needs_no_leave,
    path_only_of_a_symlink, directory_flag_through_a_link, directory_flag_with_nofollow,
    copies_share_the_offset, two_opens_have_offsets_of_their_own, empty_path, pipe_for_both,
    socket_cannot_be_opened, creating_a_directorys_name, made_without_leave_is_still_written,
    closed_to_the_owner_while_open, closed_to_others_while_open, synchronous_writes, unnamed_file,
    renamed_then_truncated_by_handle, seek_from_each_place, negative_offsets, read_by_many_pieces,
);

fn write_only_cannot_read(g: &Ground) -> Outcome {
    let mut open = ok("open", OpenOptions::new().write(true).open(g.p("file")))?;
    fails("read", open.read(&mut [0; 4]), &[Errno::BADF])
}

fn append_ignores_the_offset(g: &Ground) -> Outcome {
    let mut open = ok("open", OpenOptions::new().append(true).open(g.p("file")))?;
    ok("seek", open.seek(SeekFrom::Start(5)))?;
    ok("write", open.write_all(b"at the end"))?;
    let mut expected = pattern();
    expected.extend(b"at the end");
    same("content", text(&g.p("file"))?, expected)
}

fn append_after_a_truncation(g: &Ground) -> Outcome {
    let mut open = ok("open", OpenOptions::new().append(true).open(g.p("file")))?;
    ok("write", open.write_all(b"one"))?;
    ok("truncate", both(&g.p("file"))?.set_len(3))?;
    ok("write", open.write_all(b"two"))?;
    let mut expected = pattern()[..3].to_vec();
    expected.extend(b"two");
    same("content", text(&g.p("file"))?, expected)
}

fn truncates_through_a_link(g: &Ground) -> Outcome {
    drop(ok("open", File::create(g.p("link")))?);
    same("size", meta(&g.p("file"))?.len(), 0)?;
    holds("the link is still one", meta(&g.p("link"))?.is_symlink())
}

fn exclusive_keeps_what_is_there(g: &Ground) -> Outcome {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC | OFlags::WRONLY;
    fails(
        "open",
        openat(CWD, g.p("file"), flags, Mode::from_raw_mode(0o600)),
        &[Errno::EXIST],
    )?;
    same("content", text(&g.p("file"))?, pattern())?;
    mode_is(&g.p("file"), 0o644)
}

fn nofollow_takes_a_file(g: &Ground) -> Outcome {
    let open = ok("open", openat(CWD, g.p("file"), OFlags::NOFOLLOW, Mode::empty()))?;
    same("size", ok("stat", File::from(open).metadata())?.len(), 10_000)
}

fn nofollow_follows_on_the_way(g: &Ground) -> Outcome {
    ok("symlink", symlink("dir", g.p("way")))?;
    let open = ok("open", openat(CWD, g.p("way/a"), OFlags::NOFOLLOW, Mode::empty()))?;
    same("size", ok("stat", File::from(open).metadata())?.len(), 1)
}

fn path_only_needs_no_leave(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0)?;
    let (size, read) = ok(
        "open",
        OTHER.be(|| {
            let open = File::from(openat(CWD, g.p("file"), OFlags::PATH, Mode::empty())?);
            Ok((
                open.metadata()?.len(),
                (&open).read(&mut [0; 1]).map_err(|error| error.raw_os_error()),
            ))
        }),
    )?;
    same("size", size, 10_000)?;
    same("read", read, Err(Some(Errno::BADF.raw_os_error())))
}

fn path_only_of_a_symlink(g: &Ground) -> Outcome {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let open = ok("open", openat(CWD, g.p("link"), flags, Mode::empty()))?;
    let target = ok("readlink", rustix::fs::readlinkat(&open, "", Vec::new()))?;
    same("target", target.into_bytes(), b"file".to_vec())
}

fn directory_flag_through_a_link(g: &Ground) -> Outcome {
    ok("symlink", symlink("dir", g.p("way")))?;
    ok("open", openat(CWD, g.p("way"), OFlags::DIRECTORY, Mode::empty())).map(drop)
}

fn directory_flag_with_nofollow(g: &Ground) -> Outcome {
    ok("symlink", symlink("dir", g.p("way")))?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    fails(
        "open",
        openat(CWD, g.p("way"), flags, Mode::empty()),
        &[Errno::NOTDIR, Errno::LOOP],
    )
}

fn copies_share_the_offset(g: &Ground) -> Outcome {
    let mut one = ok("open", File::open(g.p("file")))?;
    let mut two = ok("dup", one.try_clone())?;
    ok("seek", one.seek(SeekFrom::Start(1_000)))?;
    same("offset of the copy", ok("seek", two.stream_position())?, 1_000)
}

fn two_opens_have_offsets_of_their_own(g: &Ground) -> Outcome {
    let mut one = ok("open", File::open(g.p("file")))?;
    let mut two = ok("open", File::open(g.p("file")))?;
    ok("seek", one.seek(SeekFrom::Start(1_000)))?;
    same("offset of the other", ok("seek", two.stream_position())?, 0)
}

fn empty_path(_: &Ground) -> Outcome {
    fails("open", File::open(""), &[Errno::NOENT])?;
    fails("stat", fs::metadata(""), &[Errno::NOENT])
}

fn pipe_for_both(g: &Ground) -> Outcome {
    let mut open = both(&g.p("fifo"))?;
    ok("write", open.write_all(b"round"))?;
    let mut read = [0; 5];
    ok("read", open.read_exact(&mut read))?;
    same("what came", &read, b"round")
}

fn socket_cannot_be_opened(g: &Ground) -> Outcome {
    ok("mknod", mknod(&g.p("socket"), FileType::Socket, 0))?;
    fails("open", File::open(g.p("socket")), &[Errno::NXIO])
}

fn creating_a_directorys_name(g: &Ground) -> Outcome {
    let flags = OFlags::CREATE | OFlags::RDONLY;
    fails(
        "open",
        openat(CWD, g.p("dir"), flags, Mode::from_raw_mode(0o644)),
        &[Errno::ISDIR],
    )
}

fn made_without_leave_is_still_written(g: &Ground) -> Outcome {
    // As tar and git do: the mode is for those who come later.
    open_to_all(&g.p("dir"))?;
    let path = g.p("dir/sealed");
    ok(
        "the owner",
        OTHER.be(|| {
            let mut open = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o444)
                .open(&path)?;
            open.write_all(b"written once")?;
            open.sync_all()?;
            let mut back = [0; 12];
            open.read_exact_at(&mut back, 0)
        }),
    )?;
    same("content", text(&path)?, b"written once".to_vec())?;
    mode_is(&path, 0o444)?;
    fails("a second time", OTHER.does(&["write"], &path), &[Errno::ACCESS])
}

fn closed_to_the_owner_while_open(g: &Ground) -> Outcome {
    crate::short::chown(&g.p("file"), OTHER.uid, OTHER.gid)?;
    ok(
        "the owner",
        OTHER.be(|| {
            let mut open = OpenOptions::new().read(true).write(true).open(g.p("file"))?;
            open.set_permissions(fs::Permissions::from_mode(0o000))?;
            open.write_all(b"still mine")?;
            open.sync_all()?;
            open.read_exact_at(&mut [0; 100], 5_000)
        }),
    )?;
    same(
        "beginning",
        text(&g.p("file"))?[..10].to_vec(),
        b"still mine".to_vec(),
    )
}

fn closed_to_others_while_open(g: &Ground) -> Outcome {
    // The pages are in the client's memory from before; what an open file may do was settled when it was opened.
    let read = OTHER.be(|| {
        let open = File::open(g.p("file"))?;
        open.read_exact_at(&mut [0; 100], 0)?;
        Ok(open)
    });
    let open = ok("open", read)?;
    chmod(&g.p("file"), 0o600)?;
    ok("read", OTHER.be(|| open.read_exact_at(&mut [0; 100], 0)))?;
    fails(
        "open again",
        OTHER.does(&["read"], &g.p("file")),
        &[Errno::ACCESS],
    )
}

fn synchronous_writes(g: &Ground) -> Outcome {
    for (flags, byte) in [(OFlags::SYNC, b'S'), (OFlags::DSYNC, b'D')] {
        let open = openat(CWD, g.p("file"), OFlags::RDWR | flags, Mode::empty());
        ok(
            "write",
            File::from(ok("open", open)?).write_all_at(&[byte; 10], 4_090),
        )?;
        let mut expected = pattern();
        expected[4_090..4_100].fill(byte);
        same("content", text(&g.p("file"))?, expected)?;
    }
    Ok(())
}

fn unnamed_file(g: &Ground) -> Outcome {
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let open = ok("open", openat(CWD, g.p("dir"), flags, Mode::from_raw_mode(0o600)))?;
    ok("write", File::from(open).write_all(b"nameless"))?;
    same("names", names(&g.p("dir"))?.len(), 2)
}

fn renamed_then_truncated_by_handle(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    ok("rename", fs::rename(g.p("file"), g.p("dir/moved")))?;
    put(&g.p("file"), b"another")?;
    ok("truncate", open.set_len(7))?;
    same("the renamed", text(&g.p("dir/moved"))?, pattern()[..7].to_vec())?;
    same("the new one", text(&g.p("file"))?, b"another".to_vec())
}

fn seek_from_each_place(g: &Ground) -> Outcome {
    let mut open = ok("open", File::open(g.p("file")))?;
    same("start", ok("seek", open.seek(SeekFrom::Start(20_000)))?, 20_000)?;
    same(
        "current",
        ok("seek", open.seek(SeekFrom::Current(-15_000)))?,
        5_000,
    )?;
    same("end", ok("seek", open.seek(SeekFrom::End(-1)))?, 9_999)?;
    same("read", ok("read", open.read(&mut [0; 10]))?, 1)
}

fn negative_offsets(g: &Ground) -> Outcome {
    let mut open = ok("open", File::open(g.p("file")))?;
    fails("seek", open.seek(SeekFrom::Current(-1)), &[Errno::INVAL])?;
    fails(
        "pread",
        rustix::io::pread(&open, &mut [0; 1][..], u64::MAX),
        &[Errno::INVAL],
    )
}

fn read_by_many_pieces(g: &Ground) -> Outcome {
    let open = ok("open", File::open(g.p("file")))?;
    let (mut one, mut two, mut three) = ([0; 7], [0; 4_096], [0; 9_000]);
    let mut pieces = [
        rustix::io::IoSliceMut::new(&mut one),
        rustix::io::IoSliceMut::new(&mut two),
        rustix::io::IoSliceMut::new(&mut three),
    ];
    same(
        "read",
        ok("readv", rustix::io::readv(&open, &mut pieces))?,
        10_000,
    )?;
    let mut all = [&one[..], &two, &three].concat();
    all.truncate(10_000);
    same("content", all, pattern())
}
