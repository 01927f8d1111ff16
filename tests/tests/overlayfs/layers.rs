//! The layers that all sides look at: a template and a directory overlay, in the conventions of overlayfs.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat};

/// Whole seconds, since a template keeps no more; each object has its own.
const OLD: i64 = 1_000_000_000;

/// Makes the layer that lies lowest.
pub(crate) fn template(root: &Path) -> io::Result<()> {
    for dir in ["etc/sub/deep", "bin", "sub/etc/bin", "var/lib/dpkg", "empty"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for (path, content) in [
        ("etc/passwd", vec![b'p'; 5_000]),
        ("etc/hosts", b"hosts".to_vec()),
        ("etc/sub/a", b"deep a".to_vec()),
        ("etc/sub/b", b"deep b".to_vec()),
        ("etc/sub/deep/c", b"deeper".to_vec()),
        ("bin/perl", b"#!perl".to_vec()),
        ("bin/gone", b"deleted above".to_vec()),
        ("var/lib/dpkg/status", vec![b's'; 30_000]),
        ("var/lib/dpkg/lock", Vec::new()),
        ("a", vec![b'a'; 70_000]),
    ] {
        fs::write(root.join(path), content)?;
    }
    fs::hard_link(root.join("bin/perl"), root.join("bin/perl5"))?;
    fs::hard_link(root.join("bin/perl"), root.join("etc/sub/perl"))?;
    fs::hard_link(root.join("a"), root.join("var/a"))?;
    symlink("../etc/hosts", root.join("bin/c"))?;
    node(&root.join("dev"), FileType::CharacterDevice, makedev(1, 3))?;
    node(&root.join("sub/fifo"), FileType::Fifo, 0)?;
    owned(&root.join("a"), 1000, 100, 0o6755)?;
    owned(&root.join("etc/sub"), 0, 50, 0o3777)?;
    owned(&root.join("var"), 1000, 100, 0o775)?;
    stamp(root, &mut 0)
}

/// Makes the layer above it: another content, names deleted, a directory that hides what is below.
pub(crate) fn overlay(root: &Path) -> io::Result<()> {
    for dir in ["etc/sub", "sub/etc", "bin", "opt/www"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for (path, content) in [
        ("etc/hosts", b"other hosts".to_vec()),
        ("etc/sub/c", b"c of the overlay".to_vec()),
        ("sub/c", b"more".to_vec()),
        ("sub/etc/only", b"hides bin".to_vec()),
        ("opt/www/page", vec![b'w'; 12_345]),
    ] {
        fs::write(root.join(path), content)?;
    }
    fs::hard_link(root.join("opt/www/page"), root.join("opt/page"))?;
    for path in ["etc/sub/b", "bin/gone"] {
        whiteout(&root.join(path))?;
    }
    let opaque = root.join("sub/etc");
    rustix::fs::setxattr(&opaque, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
    owned(&root.join("etc"), 0, 0, 0o1777)?;
    owned(&root.join("sub"), 0, 100, 0o775)?;
    owned(&root.join("opt/www"), 1000, 100, 0o2775)?;
    stamp(root, &mut 100)
}

/// Makes the directory `to` look as `from` does.
pub(crate) fn copy_meta(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    owned(to, meta.uid(), meta.gid(), meta.mode() & 0o7777)?;
    times(to, meta.mtime())
}

/// A copy that keeps hard links, devices, owners, extended attributes and times.
pub(crate) fn copy(from: &Path, to: &PathBuf) -> io::Result<()> {
    let done = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()?;
    if done.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("cp ended with {done}")))
    }
}

/// Marks a name as deleted, as overlayfs does.
pub(crate) fn whiteout(path: &Path) -> io::Result<()> {
    node(path, FileType::CharacterDevice, 0)
}

fn node(path: &Path, kind: FileType, device: u64) -> io::Result<()> {
    Ok(mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), device)?)
}

fn owned(path: &Path, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    chown(path, Some(uid), Some(gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn times(path: &Path, seconds: i64) -> io::Result<()> {
    let at = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let both = Timestamps {
        last_access: at,
        last_modification: at,
    };
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &both,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Gives each object a time of its own, a directory after what is in it.
fn stamp(path: &Path, count: &mut i64) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        let mut below = fs::read_dir(path)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()?;
        below.sort();
        for path in below {
            stamp(&path, count)?;
        }
    }
    *count += 1;
    times(path, OLD + *count)
}
