//! Pipes, sockets and devices.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;

use super::cases;
use super::listing::names;
use crate::act::OTHER;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, bits, meta};

cases!("nodes":
    pipe, socket, character_device, block_device, large_device_numbers, device_zero_zero, over_existing,
    in_a_missing_directory, changes_the_parents_time, renamed_device_keeps_its_number, removed, device_by_another,
    listening_socket, pipe_of_a_layer_is_changed, linked_device, mode_of_a_device, pipe_carries_bytes,
);

fn make(path: &Path, kind: FileType, device: u64) -> rustix::io::Result<()> {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device)
}

fn pipe(g: &Ground) -> Outcome {
    ok("mknod", make(&g.p("new"), FileType::Fifo, 0))?;
    holds("it is a pipe", meta(&g.p("new"))?.file_type().is_fifo())?;
    same("mode", bits(&g.p("new"))?, 0o640)
}

fn socket(g: &Ground) -> Outcome {
    ok("mknod", make(&g.p("new"), FileType::Socket, 0))?;
    holds("it is a socket", meta(&g.p("new"))?.file_type().is_socket())
}

fn character_device(g: &Ground) -> Outcome {
    ok(
        "mknod",
        make(&g.p("new"), FileType::CharacterDevice, makedev(1, 3)),
    )?;
    let meta = meta(&g.p("new"))?;
    holds("it is a character device", meta.file_type().is_char_device())?;
    same("device", meta.rdev(), makedev(1, 3))
}

fn block_device(g: &Ground) -> Outcome {
    ok("mknod", make(&g.p("new"), FileType::BlockDevice, makedev(7, 11)))?;
    let meta = meta(&g.p("new"))?;
    holds("it is a block device", meta.file_type().is_block_device())?;
    same("device", meta.rdev(), makedev(7, 11))
}

fn large_device_numbers(g: &Ground) -> Outcome {
    ok(
        "mknod",
        make(&g.p("new"), FileType::CharacterDevice, makedev(4_095, 1_048_575)),
    )?;
    same("device", meta(&g.p("new"))?.rdev(), makedev(4_095, 1_048_575))
}

fn device_zero_zero(g: &Ground) -> Outcome {
    // Union file systems use this device as a mark of their own; here it is a device.
    ok("mknod", make(&g.p("vacant/new"), FileType::CharacterDevice, 0))?;
    holds(
        "it is there",
        meta(&g.p("vacant/new"))?.file_type().is_char_device(),
    )?;
    same("names", names(&g.p("vacant"))?, vec!["new".into()])
}

fn over_existing(g: &Ground) -> Outcome {
    for name in ["file", "dir", "link", "dangling", "fifo"] {
        fails(name, make(&g.p(name), FileType::Fifo, 0), &[Errno::EXIST])?;
    }
    Ok(())
}

fn in_a_missing_directory(g: &Ground) -> Outcome {
    fails(
        "mknod",
        make(&g.p("absent/new"), FileType::Fifo, 0),
        &[Errno::NOENT],
    )
}

fn changes_the_parents_time(g: &Ground) -> Outcome {
    ok("mknod", make(&g.p("dir/new"), FileType::Fifo, 0))?;
    holds("modified", meta(&g.p("dir"))?.mtime() > OLD)
}

fn renamed_device_keeps_its_number(g: &Ground) -> Outcome {
    ok(
        "mknod",
        make(&g.p("new"), FileType::CharacterDevice, makedev(5, 1)),
    )?;
    ok("rename", fs::rename(g.p("new"), g.p("dir/device")))?;
    same("device", meta(&g.p("dir/device"))?.rdev(), makedev(5, 1))
}

fn removed(g: &Ground) -> Outcome {
    ok("mknod", make(&g.p("new"), FileType::Socket, 0))?;
    ok("unlink", fs::remove_file(g.p("new")))?;
    fails("stat", fs::symlink_metadata(g.p("new")), &[Errno::NOENT])
}

fn device_by_another(g: &Ground) -> Outcome {
    // Without the capability the kernel of the client refuses; a pipe needs only the directory's leave.
    ok(
        "chmod",
        fs::set_permissions(g.p("dir"), fs::Permissions::from_mode(0o777)),
    )?;
    ok("a file", OTHER.does(&["create"], &g.p("dir/new")))?;
    same("owner", meta(&g.p("dir/new"))?.uid(), OTHER.uid)
}

fn listening_socket(g: &Ground) -> Outcome {
    // Names of sockets are short: sun_path has 108 bytes.
    let here = ok("where", std::env::current_dir())?;
    ok("chdir", std::env::set_current_dir(g.root()))?;
    let bound = UnixListener::bind("s");
    ok("chdir back", std::env::set_current_dir(here))?;
    drop(ok("bind", bound)?);
    holds("it is a socket", meta(&g.p("s"))?.file_type().is_socket())
}

fn pipe_of_a_layer_is_changed(g: &Ground) -> Outcome {
    ok(
        "chmod",
        fs::set_permissions(g.p("fifo"), fs::Permissions::from_mode(0o622)),
    )?;
    ok(
        "chown",
        std::os::unix::fs::chown(g.p("fifo"), Some(4_001), Some(4_001)),
    )?;
    let meta = meta(&g.p("fifo"))?;
    holds("it is a pipe", meta.file_type().is_fifo())?;
    same(
        "owner and mode",
        (meta.uid(), meta.mode() & 0o7777),
        (4_001, 0o622),
    )
}

fn linked_device(g: &Ground) -> Outcome {
    ok("mknod", make(&g.p("new"), FileType::BlockDevice, makedev(8, 1)))?;
    ok("link", fs::hard_link(g.p("new"), g.p("second")))?;
    same("device", meta(&g.p("second"))?.rdev(), makedev(8, 1))?;
    same("links", meta(&g.p("new"))?.nlink(), 2)
}

fn mode_of_a_device(g: &Ground) -> Outcome {
    ok(
        "mknod",
        make(&g.p("new"), FileType::CharacterDevice, makedev(1, 5)),
    )?;
    ok(
        "chmod",
        fs::set_permissions(g.p("new"), fs::Permissions::from_mode(0o666)),
    )?;
    let meta = meta(&g.p("new"))?;
    same(
        "device and mode",
        (meta.rdev(), meta.mode() & 0o7777),
        (makedev(1, 5), 0o666),
    )
}

fn pipe_carries_bytes(g: &Ground) -> Outcome {
    let path = g.p("fifo");
    let writer = std::thread::spawn(move || fs::write(path, b"through"));
    let content = ok("read", fs::read(g.p("fifo")))?;
    ok(
        "write",
        writer
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the writer panicked"))),
    )?;
    same("content", content, b"through".to_vec())
}
