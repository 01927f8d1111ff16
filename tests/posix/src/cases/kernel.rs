//! What the kernel does with content on its own: maps, copies, holes and locks.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use super::cases;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, meta, pattern};
use crate::short::{both, forget, text};

cases!("kernel":
    data_is_found, hole_is_found_by_the_end, seek_beyond_the_end, mapped_shared, mapped_privately,
    mapped_beyond_the_end_is_zero, mapped_sees_writes, mapped_of_a_removed_file, copied_in_the_kernel,
    copied_within, sent_in_the_kernel, gathered, reserved, punched, lock_is_exclusive, locks_are_shared,
    lock_is_upgraded, lock_goes_with_the_handle, lock_of_another_process,
);

/// A mapping of a whole file that is open in no other process.
#[expect(
    unsafe_code,
    reason = "mapping a file is unsafe, since others may change it; this one is the case's own"
)]
fn map(open: &File) -> Result<memmap2::MmapMut, String> {
    // SAFETY: nobody else has the file, and its length stays while it is mapped.
    ok("mmap", unsafe { memmap2::MmapMut::map_mut(open) })
}

const ALONE: FlockOperation = FlockOperation::NonBlockingLockExclusive;
const SHARED: FlockOperation = FlockOperation::NonBlockingLockShared;

fn data_is_found(g: &Ground) -> Outcome {
    // Where holes are not told apart, all of a file is data (lseek(2)).
    let mut open = both(&g.p("empty"))?;
    ok("write", open.write_all_at(b"data", 1 << 20))?;
    ok("sync", open.sync_all())?;
    let at = ok("seek", rustix::fs::seek(&open, rustix::fs::SeekFrom::Data(0)))?;
    holds("no further than the data", at <= 1 << 20)?;
    ok("seek", open.seek(SeekFrom::Start(1 << 20)))?;
    let mut seen = [0; 4];
    ok("read", open.read_exact(&mut seen))?;
    same("data", &seen, b"data")
}

fn hole_is_found_by_the_end(g: &Ground) -> Outcome {
    let open = ok("open", File::open(g.p("file")))?;
    same(
        "hole",
        ok("seek", rustix::fs::seek(&open, rustix::fs::SeekFrom::Hole(0)))?,
        10_000,
    )
}

fn seek_beyond_the_end(g: &Ground) -> Outcome {
    let open = ok("open", File::open(g.p("file")))?;
    for place in [
        rustix::fs::SeekFrom::Data(10_000),
        rustix::fs::SeekFrom::Hole(10_001),
    ] {
        fails("seek", rustix::fs::seek(&open, place), &[Errno::NXIO])?;
    }
    Ok(())
}

fn mapped_shared(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    let mut pages = map(&open)?;
    same("mapped", pages.to_vec(), pattern())?;
    pages[5_000..5_006].copy_from_slice(b"MAPPED");
    ok("msync", pages.flush())?;
    drop(pages);
    let mut expected = pattern();
    expected[5_000..5_006].copy_from_slice(b"MAPPED");
    same("content", text(&g.p("file"))?, expected)?;
    holds("modified", meta(&g.p("file"))?.mtime() > OLD)
}

#[expect(
    unsafe_code,
    reason = "mapping a file is unsafe, since others may change it; this one is the case's own"
)]
fn mapped_privately(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    // SAFETY: nobody else has the file, and its length stays while it is mapped.
    let mut pages = ok("mmap", unsafe { memmap2::MmapOptions::new().map_copy(&open) })?;
    pages[0] = b'P';
    same("in the file", text(&g.p("file"))?, pattern())
}

fn mapped_beyond_the_end_is_zero(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    let mut pages = map(&open)?;
    pages[9_999] = b'!';
    ok("msync", pages.flush())?;
    drop(pages);
    ok("grow", open.set_len(10_100))?;
    let content = text(&g.p("file"))?;
    same("last byte", content[9_999], b'!')?;
    holds("zeros behind it", content[10_000..].iter().all(|byte| *byte == 0))
}

fn mapped_sees_writes(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    let pages = map(&open)?;
    ok("write", open.write_all_at(b"SEEN", 100))?;
    same("in the mapping", pages[100..104].to_vec(), b"SEEN".to_vec())
}

fn mapped_of_a_removed_file(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    let mut pages = map(&open)?;
    ok("unlink", fs::remove_file(g.p("file")))?;
    pages[0] = b'R';
    ok("msync", pages.flush())?;
    let mut one = [0; 1];
    ok("read", open.read_exact_at(&mut one, 0))?;
    same("through the handle", one, [b'R'])
}

fn copied_in_the_kernel(g: &Ground) -> Outcome {
    let (from, to) = (ok("open", File::open(g.p("file")))?, both(&g.p("empty"))?);
    let mut done = 0;
    while done < 10_000 {
        match ok(
            "copy_file_range",
            rustix::fs::copy_file_range(&from, None, &to, None, 10_000 - done),
        )? {
            0 => break,
            count => done += count,
        }
    }
    same("content", text(&g.p("empty"))?, pattern())
}

fn copied_within(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    let (mut from, mut to) = (0, 20_000);
    let copied = rustix::fs::copy_file_range(&open, Some(&mut from), &open, Some(&mut to), 5_000);
    same("copied", ok("copy_file_range", copied)?, 5_000)?;
    let mut expected = pattern();
    expected.resize(20_000, 0);
    expected.extend_from_slice(&pattern()[..5_000]);
    same("content", text(&g.p("file"))?, expected)
}

fn sent_in_the_kernel(g: &Ground) -> Outcome {
    let (from, to) = (ok("open", File::open(g.p("file")))?, both(&g.p("empty"))?);
    forget(&g.p("file"))?;
    let mut at = 9_000;
    same(
        "sent",
        ok("sendfile", rustix::fs::sendfile(&to, &from, Some(&mut at), 5_000))?,
        1_000,
    )?;
    same("content", text(&g.p("empty"))?, pattern()[9_000..].to_vec())
}

fn gathered(g: &Ground) -> Outcome {
    let open = both(&g.p("empty"))?;
    let pieces = [b"one ".as_slice(), b"two ", b"three"].map(rustix::io::IoSlice::new);
    same("written", ok("writev", rustix::io::writev(&open, &pieces))?, 13)?;
    same("content", text(&g.p("empty"))?, b"one two three".to_vec())
}

fn reserved(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    ok("fallocate", fallocate(&open, FallocateFlags::empty(), 0, 20_000))?;
    same("size", meta(&g.p("file"))?.len(), 20_000)
}

fn punched(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    ok("fallocate", fallocate(&open, flags, 4_096, 4_096))?;
    let mut expected = pattern();
    expected[4_096..8_192].fill(0);
    same("content", text(&g.p("file"))?, expected)
}

fn lock_is_exclusive(g: &Ground) -> Outcome {
    let (one, two) = (both(&g.p("file"))?, both(&g.p("file"))?);
    ok("lock", flock(&one, ALONE))?;
    fails("another", flock(&two, ALONE), &[Errno::WOULDBLOCK])?;
    fails("a shared one", flock(&two, SHARED), &[Errno::WOULDBLOCK])?;
    ok("unlock", flock(&one, FlockOperation::Unlock))?;
    ok("then the other", flock(&two, ALONE))
}

fn locks_are_shared(g: &Ground) -> Outcome {
    let (one, two, three) = (both(&g.p("file"))?, both(&g.p("file"))?, both(&g.p("file"))?);
    ok("lock", flock(&one, SHARED))?;
    ok("another", flock(&two, SHARED))?;
    fails("an exclusive one", flock(&three, ALONE), &[Errno::WOULDBLOCK])
}

fn lock_is_upgraded(g: &Ground) -> Outcome {
    let (one, two) = (both(&g.p("file"))?, both(&g.p("file"))?);
    ok("lock", flock(&one, SHARED))?;
    ok("upgrade", flock(&one, ALONE))?;
    fails("another", flock(&two, SHARED), &[Errno::WOULDBLOCK])
}

fn lock_goes_with_the_handle(g: &Ground) -> Outcome {
    let one = both(&g.p("file"))?;
    ok("lock", flock(&one, ALONE))?;
    drop(one);
    ok("another", flock(both(&g.p("file"))?, ALONE))
}

fn lock_of_another_process(g: &Ground) -> Outcome {
    // POSIX locks belong to processes, so another one asks for it.
    let open = both(&g.p("file"))?;
    ok("lock", rustix::fs::fcntl_lock(&open, ALONE))?;
    let ask = || -> Result<bool, String> {
        let this = ok("who am I", std::env::current_exe())?;
        let status = Command::new(this).arg("lock").arg(g.p("file")).status();
        Ok(ok("another process", status)?.success())
    };
    same("while it is held", ask()?, false)?;
    ok("unlock", rustix::fs::fcntl_lock(&open, FlockOperation::Unlock))?;
    same("once it is free", ask()?, true)
}
