//! Reading, writing and truncating.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::io::Errno;

use super::cases;
use crate::act::OTHER;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{FILE_LEN, Ground, OLD, bits, meta, pattern};

cases!("data":
    writes_in_the_middle, writes_the_first_byte, writes_across_the_end, writes_beyond_the_end, reads_at_the_end,
    a_mebibyte, many_small_writes, write_changes_the_times, write_through_one_name_is_read_through_the_other,
    sync_after_write, sparse_file, overwritten_twice, by_rename_into_place, truncate_shorter, truncate_longer,
    truncate_to_nothing, truncate_to_the_same, truncate_changes_the_time, truncate_a_directory, truncate_missing,
    shorter_then_longer_reads_zeros, longer_then_written, truncate_an_open_file, truncate_the_empty_longer,
    appended_by_two_handles, write_by_another_clears_setuid, size_after_seek_and_write, interleaved_writes_and_reads,
    copies_keep_the_bytes, zero_length_write_changes_nothing,
);

fn writable(g: &Ground, name: &str) -> Result<File, String> {
    ok("open", OpenOptions::new().read(true).write(true).open(g.p(name)))
}

fn content(g: &Ground, name: &str) -> Result<Vec<u8>, String> {
    ok("read", fs::read(g.p(name)))
}

fn writes_in_the_middle(g: &Ground) -> Outcome {
    ok("write", writable(g, "file")?.write_all_at(b"MIDDLE", 4_093))?;
    let mut expected = pattern();
    expected[4_093..4_099].copy_from_slice(b"MIDDLE");
    same("content", content(g, "file")?, expected)
}

fn writes_the_first_byte(g: &Ground) -> Outcome {
    ok("write", writable(g, "file")?.write_all_at(b"F", 0))?;
    let mut expected = pattern();
    expected[0] = b'F';
    same("content", content(g, "file")?, expected)
}

fn writes_across_the_end(g: &Ground) -> Outcome {
    ok("write", writable(g, "file")?.write_all_at(b"ACROSS", 9_997))?;
    let mut expected = pattern();
    expected.truncate(9_997);
    expected.extend(b"ACROSS");
    same("content", content(g, "file")?, expected)
}

fn writes_beyond_the_end(g: &Ground) -> Outcome {
    ok("write", writable(g, "file")?.write_all_at(b"BEYOND", 20_000))?;
    let mut expected = pattern();
    expected.resize(20_000, 0);
    expected.extend(b"BEYOND");
    same("content", content(g, "file")?, expected)
}

fn reads_at_the_end(g: &Ground) -> Outcome {
    let open = writable(g, "file")?;
    let mut buffer = [0; 100];
    same("at the end", ok("read", open.read_at(&mut buffer, 10_000))?, 0)?;
    same("far beyond", ok("read", open.read_at(&mut buffer, 1 << 40))?, 0)?;
    same("across", ok("read", open.read_at(&mut buffer, 9_950))?, 50)
}

fn a_mebibyte(g: &Ground) -> Outcome {
    let bytes: Vec<u8> = (0..1u32 << 20)
        .map(|at| at.to_le_bytes()[1] ^ at.to_le_bytes()[0])
        .collect();
    ok("write", fs::write(g.p("empty"), &bytes))?;
    same("content", content(g, "empty")?, bytes)
}

fn many_small_writes(g: &Ground) -> Outcome {
    let mut open = writable(g, "empty")?;
    let mut expected = Vec::new();
    for i in 0..300u32 {
        let line = format!("line {i}\n");
        ok("write", open.write_all(line.as_bytes()))?;
        expected.extend(line.as_bytes());
    }
    drop(open);
    same("content", content(g, "empty")?, expected)
}

fn write_changes_the_times(g: &Ground) -> Outcome {
    let before = meta(&g.p("file"))?;
    ok("write", writable(g, "file")?.write_all_at(b"x", 10))?;
    let after = meta(&g.p("file"))?;
    holds("modified", after.mtime() > OLD)?;
    holds("changed", after.ctime() >= before.ctime())?;
    same("accessed", after.atime(), OLD)
}

fn write_through_one_name_is_read_through_the_other(g: &Ground) -> Outcome {
    ok("write", fs::write(g.p("hard1"), b"changed"))?;
    same("the other", content(g, "hard2")?, b"changed".to_vec())?;
    same("number", meta(&g.p("hard1"))?.ino(), meta(&g.p("hard2"))?.ino())?;
    same("links", meta(&g.p("hard2"))?.nlink(), 2)
}

fn sync_after_write(g: &Ground) -> Outcome {
    let mut open = writable(g, "file")?;
    ok("write", open.write_all(b"durable"))?;
    ok("fdatasync", open.sync_data())?;
    ok("fsync", open.sync_all())?;
    let directory = ok("open", File::open(g.root()))?;
    ok("fsync of the directory", directory.sync_all())
}

fn sparse_file(g: &Ground) -> Outcome {
    let open = writable(g, "empty")?;
    ok("write", open.write_all_at(b"end", 50_000_000))?;
    ok("sync", open.sync_all())?;
    let meta = meta(&g.p("empty"))?;
    same("size", meta.len(), 50_000_003)?;
    holds(
        "it takes less space than it is long",
        meta.blocks() * 512 < 1_000_000,
    )?;
    let mut buffer = [1; 4096];
    ok("read", open.read_exact_at(&mut buffer, 25_000_000))?;
    holds("the hole reads as zeros", buffer.iter().all(|byte| *byte == 0))
}

fn overwritten_twice(g: &Ground) -> Outcome {
    ok("first", fs::write(g.p("file"), b"first, and longer"))?;
    ok("second", fs::write(g.p("file"), b"second"))?;
    same("content", content(g, "file")?, b"second".to_vec())
}

fn by_rename_into_place(g: &Ground) -> Outcome {
    ok("write", fs::write(g.p("file.new"), b"replaced"))?;
    ok("rename", fs::rename(g.p("file.new"), g.p("file")))?;
    same("content", content(g, "file")?, b"replaced".to_vec())?;
    same("by the link", content(g, "link")?, b"replaced".to_vec())
}

fn truncate_shorter(g: &Ground) -> Outcome {
    ok("truncate", writable(g, "file")?.set_len(4_100))?;
    same("content", content(g, "file")?, pattern()[..4_100].to_vec())
}

fn truncate_longer(g: &Ground) -> Outcome {
    ok("truncate", writable(g, "file")?.set_len(30_000))?;
    let mut expected = pattern();
    expected.resize(30_000, 0);
    same("content", content(g, "file")?, expected)
}

fn truncate_to_nothing(g: &Ground) -> Outcome {
    ok("truncate", writable(g, "file")?.set_len(0))?;
    same("content", content(g, "file")?, vec![])
}

fn truncate_to_the_same(g: &Ground) -> Outcome {
    ok("truncate", writable(g, "file")?.set_len(10_000))?;
    same("content", content(g, "file")?, pattern())
}

fn truncate_changes_the_time(g: &Ground) -> Outcome {
    ok("truncate", writable(g, "file")?.set_len(5))?;
    holds("modified", meta(&g.p("file"))?.mtime() > OLD)
}

fn truncate_a_directory(g: &Ground) -> Outcome {
    fails(
        "open",
        OpenOptions::new().write(true).truncate(true).open(g.p("dir")),
        &[Errno::ISDIR],
    )
}

fn truncate_missing(g: &Ground) -> Outcome {
    fails(
        "open",
        OpenOptions::new().write(true).truncate(true).open(g.p("absent")),
        &[Errno::NOENT],
    )
}

fn shorter_then_longer_reads_zeros(g: &Ground) -> Outcome {
    let open = writable(g, "file")?;
    ok("shorter", open.set_len(3_000))?;
    ok("longer", open.set_len(9_000))?;
    let mut expected = pattern()[..3_000].to_vec();
    expected.resize(9_000, 0);
    same("content", content(g, "file")?, expected)
}

fn longer_then_written(g: &Ground) -> Outcome {
    let open = writable(g, "file")?;
    ok("longer", open.set_len(20_000))?;
    ok("write", open.write_all_at(b"W", 15_000))?;
    let mut expected = pattern();
    expected.resize(20_000, 0);
    expected[15_000] = b'W';
    same("content", content(g, "file")?, expected)
}

fn truncate_an_open_file(g: &Ground) -> Outcome {
    let reader = ok("open", File::open(g.p("file")))?;
    ok("truncate", writable(g, "file")?.set_len(100))?;
    same(
        "size by the other handle",
        ok("stat", reader.metadata())?.len(),
        100,
    )
}

fn truncate_the_empty_longer(g: &Ground) -> Outcome {
    ok("truncate", writable(g, "empty")?.set_len(5_000))?;
    same("content", content(g, "empty")?, vec![0; 5_000])
}

fn appended_by_two_handles(g: &Ground) -> Outcome {
    let open = || ok("open", OpenOptions::new().append(true).open(g.p("empty")));
    let (mut first, mut second) = (open()?, open()?);
    ok("write", first.write_all(b"one "))?;
    ok("write", second.write_all(b"two "))?;
    ok("write", first.write_all(b"three"))?;
    same("content", content(g, "empty")?, b"one two three".to_vec())
}

fn write_by_another_clears_setuid(g: &Ground) -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    ok(
        "chmod",
        fs::set_permissions(g.p("file"), fs::Permissions::from_mode(0o6777)),
    )?;
    ok("the other writes", OTHER.does(&["write"], &g.p("file")))?;
    same("mode", bits(&g.p("file"))?, 0o777)
}

fn size_after_seek_and_write(g: &Ground) -> Outcome {
    let mut open = writable(g, "file")?;
    ok("seek", open.seek(SeekFrom::End(100)))?;
    ok("write", open.write_all(b"!"))?;
    same("size", meta(&g.p("file"))?.len(), 10_101)
}

fn interleaved_writes_and_reads(g: &Ground) -> Outcome {
    let open = writable(g, "file")?;
    let mut expected = pattern();
    for step in 0..40usize {
        let at = step * 239;
        let byte = [b'A' + u8::try_from(step % 26).unwrap_or(0)];
        ok("write", open.write_all_at(&byte, u64::try_from(at).unwrap_or(0)))?;
        expected[at] = byte[0];
        let mut seen = vec![0; FILE_LEN];
        ok("read", open.read_exact_at(&mut seen, 0))?;
        same("content so far", seen, expected.clone())?;
    }
    Ok(())
}

fn copies_keep_the_bytes(g: &Ground) -> Outcome {
    same("copied", ok("copy", fs::copy(g.p("file"), g.p("copy")))?, 10_000)?;
    same("content", content(g, "copy")?, pattern())
}

fn zero_length_write_changes_nothing(g: &Ground) -> Outcome {
    same("written", ok("write", writable(g, "file")?.write_at(b"", 5))?, 0)?;
    same("content", content(g, "file")?, pattern())?;
    same("modified", meta(&g.p("file"))?.mtime(), OLD)
}
