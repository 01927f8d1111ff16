//! Content by every other way: boundaries, holes, maps, copies in the kernel, locks.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::io::Errno;

use super::cases;
use crate::act::OTHER;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, meta, pattern};
use crate::short::{both, chmod, forget, mode_is, mtime, put, text};

cases!("content":
    around_each_block_boundary, overlapping_writes, backwards_byte_by_byte, hole_between_two_writes,
    hole_at_the_beginning, hole_in_an_old_file, five_gigabytes, longest_file_is_bounded,
    shrunk_and_grown_in_turn, shrunk_to_a_block, shrunk_within_a_block, grown_by_one, cut_then_appended,
    written_after_the_cut_by_another, four_mebibytes, names_share_content, through_both_names_in_turn,
    write_then_rename_then_read, truncate_by_one_name_reads_by_the_other, reopened_many_times,
    append_by_another, old_bytes_stay_around_a_write, read_only_bytes_of_a_copied_file, same_bytes_again,
    half_replaced, two_writers, no_space_is_invented, capacity_is_told,
);

/// A file held against a vector, through any writes.
struct Both {
    open: File,
    expected: Vec<u8>,
}

impl Both {
    fn of(g: &Ground, name: &str, expected: Vec<u8>) -> Result<Self, String> {
        Ok(Self {
            open: both(&g.p(name))?,
            expected,
        })
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Outcome {
        let end = at + bytes.len();
        if self.expected.len() < end {
            self.expected.resize(end, 0);
        }
        self.expected[at..end].copy_from_slice(bytes);
        ok(
            "write",
            self.open.write_all_at(bytes, u64::try_from(at).unwrap_or(0)),
        )
    }

    fn cut(&mut self, size: usize) -> Outcome {
        self.expected.resize(size, 0);
        ok("truncate", self.open.set_len(u64::try_from(size).unwrap_or(0)))
    }

    fn is(&self, g: &Ground, name: &str) -> Outcome {
        same("content", text(&g.p(name))?, self.expected.clone())
    }
}

fn around_each_block_boundary(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "file", pattern())?;
    for boundary in [4_096usize, 8_192] {
        for (at, bytes) in [
            (boundary - 1, &b"12"[..]),
            (boundary, b"3"),
            (boundary - 3, b"456"),
        ] {
            file.write(at, bytes)?;
        }
    }
    file.is(g, "file")
}

fn overlapping_writes(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "file", pattern())?;
    let mut seed = 7usize;
    for step in 0..60u8 {
        seed = (seed * 1_103 + 12_345) % 65_521;
        file.write(seed % 14_000, &vec![b'A' + step % 26; 1 + seed % 3_000])?;
    }
    file.is(g, "file")
}

fn backwards_byte_by_byte(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "empty", Vec::new())?;
    for at in (0..64usize).rev() {
        file.write(at * 100, b"b")?;
    }
    file.is(g, "empty")
}

fn hole_between_two_writes(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "empty", Vec::new())?;
    file.write(0, b"first")?;
    file.write(30_000, b"second")?;
    file.is(g, "empty")
}

fn hole_at_the_beginning(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "empty", Vec::new())?;
    file.write(12_345, b"only")?;
    file.is(g, "empty")
}

fn hole_in_an_old_file(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "file", pattern())?;
    file.cut(5_000)?;
    file.write(50_000, b"far")?;
    file.is(g, "file")
}

fn five_gigabytes(g: &Ground) -> Outcome {
    let at = 5_000_000_000;
    let open = both(&g.p("empty"))?;
    ok("write", open.write_all_at(b"beyond 32 bits", at))?;
    ok("sync", open.sync_all())?;
    same("size", meta(&g.p("empty"))?.len(), at + 14)?;
    let mut back = [0; 14];
    ok("read", open.read_exact_at(&mut back, at))?;
    same("content", &back, b"beyond 32 bits")?;
    ok("read", open.read_exact_at(&mut back, at - (1 << 32)))?;
    same("a hole", &back, &[0; 14])?;
    ok("cut", open.set_len(3))
}

fn longest_file_is_bounded(g: &Ground) -> Outcome {
    let open = both(&g.p("empty"))?;
    fails(
        "write",
        open.write_at(b"x", i64::MAX.unsigned_abs()),
        &[Errno::FBIG, Errno::INVAL],
    )?;
    same("size", meta(&g.p("empty"))?.len(), 0)
}

fn shrunk_and_grown_in_turn(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "file", pattern())?;
    for size in [9_000, 12_000, 4_096, 8_192, 4_095, 10_000, 1, 6_000] {
        file.cut(size)?;
    }
    file.is(g, "file")
}

fn shrunk_to_a_block(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "file", pattern())?;
    file.cut(8_192)?;
    file.is(g, "file")
}

fn shrunk_within_a_block(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "file", pattern())?;
    file.cut(9_990)?;
    file.cut(10_000)?;
    file.is(g, "file")
}

fn grown_by_one(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "file", pattern())?;
    file.cut(10_001)?;
    file.is(g, "file")
}

fn cut_then_appended(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "file", pattern())?;
    file.cut(6_000)?;
    let mut open = ok("open", OpenOptions::new().append(true).open(g.p("file")))?;
    ok("append", open.write_all(b"tail"))?;
    file.expected.extend(b"tail");
    file.is(g, "file")
}

fn written_after_the_cut_by_another(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "file", pattern())?;
    file.write(9_999, b"!")?;
    ok("cut by another handle", both(&g.p("file"))?.set_len(10))?;
    file.expected.truncate(10);
    file.write(20, b"after")?;
    file.is(g, "file")
}

fn four_mebibytes(g: &Ground) -> Outcome {
    let bytes: Vec<u8> = (0..4u32 << 20)
        .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    put(&g.p("empty"), &bytes)?;
    let found = text(&g.p("empty"))?;
    same("length", found.len(), bytes.len())?;
    holds("each byte", found == bytes)
}

fn names_share_content(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("hard1"), g.p("dir/third")))?;
    put(&g.p("dir/third"), b"one content")?;
    for name in ["hard1", "hard2", "dir/third"] {
        same(name, text(&g.p(name))?, b"one content".to_vec())?;
    }
    Ok(())
}

fn through_both_names_in_turn(g: &Ground) -> Outcome {
    let (one, two) = (both(&g.p("hard1"))?, both(&g.p("hard2"))?);
    for step in 0..10u8 {
        let open = if step % 2 == 0 { &one } else { &two };
        ok("write", open.write_all_at(&[b'0' + step], u64::from(step)))?;
    }
    same("content", text(&g.p("hard2"))?, b"0123456789".to_vec())
}

fn write_then_rename_then_read(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "file", pattern())?;
    file.write(100, b"before the rename")?;
    ok("rename", fs::rename(g.p("file"), g.p("dir/moved")))?;
    file.write(8_000, b"after the rename")?;
    file.is(g, "dir/moved")
}

fn truncate_by_one_name_reads_by_the_other(g: &Ground) -> Outcome {
    ok("truncate", both(&g.p("hard1"))?.set_len(2))?;
    same("content", text(&g.p("hard2"))?, b"ha".to_vec())?;
    same("size", meta(&g.p("hard2"))?.len(), 2)
}

fn reopened_many_times(g: &Ground) -> Outcome {
    let mut expected = pattern();
    for step in 0..20usize {
        ok(
            "write",
            both(&g.p("file"))?.write_all_at(b"*", u64::try_from(step * 500).unwrap_or(0)),
        )?;
        expected[step * 500] = b'*';
    }
    same("content", text(&g.p("file"))?, expected)
}

fn append_by_another(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o666)?;
    ok(
        "append",
        OTHER.be(|| {
            OpenOptions::new()
                .append(true)
                .open(g.p("file"))?
                .write_all(b"theirs")
        }),
    )?;
    let mut expected = pattern();
    expected.extend(b"theirs");
    same("content", text(&g.p("file"))?, expected)
}

fn old_bytes_stay_around_a_write(g: &Ground) -> Outcome {
    // Nothing was read before, so the client must fetch what it does not write.
    let mut file = Both::of(g, "file", pattern())?;
    file.write(4_095, b"XX")?;
    ok("sync", file.open.sync_all())?;
    file.write(1, b"Y")?;
    file.is(g, "file")
}

fn read_only_bytes_of_a_copied_file(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o600)?;
    same("content", text(&g.p("file"))?, pattern())?;
    same("modified", meta(&g.p("file"))?.mtime(), OLD)
}

fn same_bytes_again(g: &Ground) -> Outcome {
    ok("write", both(&g.p("file"))?.write_all_at(&pattern(), 0))?;
    same("content", text(&g.p("file"))?, pattern())?;
    holds("modified all the same", mtime(&g.p("file"))?.0 > OLD)
}

fn half_replaced(g: &Ground) -> Outcome {
    let mut file = Both::of(g, "file", pattern())?;
    file.write(0, &[b'h'; 5_000])?;
    file.is(g, "file")
}

fn two_writers(g: &Ground) -> Outcome {
    let (one, two) = (both(&g.p("empty"))?, both(&g.p("empty"))?);
    for step in 0..20u64 {
        ok("write", one.write_all_at(b"one.", step * 8))?;
        ok("write", two.write_all_at(b"two.", step * 8 + 4))?;
    }
    same("content", text(&g.p("empty"))?, b"one.two.".repeat(20))
}

fn no_space_is_invented(g: &Ground) -> Outcome {
    put(&g.p("empty"), &[b'x'; 100_000])?;
    forget(&g.p("empty"))?;
    let blocks = meta(&g.p("empty"))?.blocks();
    holds("it takes about what was written", (195..=400).contains(&blocks))?;
    mode_is(&g.p("empty"), 0o644)
}

fn capacity_is_told(g: &Ground) -> Outcome {
    let told = ok("statvfs", rustix::fs::statvfs(g.root()))?;
    holds(
        "there is room",
        told.f_bavail > 0 && told.f_bfree <= told.f_blocks,
    )?;
    holds("and for names", told.f_ffree > 0 && told.f_ffree <= told.f_files)?;
    same("longest name", told.f_namemax, 255)?;
    holds("blocks have a size", told.f_bsize >= 512 && told.f_frsize >= 512)
}
