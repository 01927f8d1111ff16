//! What cases do most, in a word.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Advice, AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};
use rustix::io::Errno;

use crate::act::OTHER;
use crate::check::{Outcome, fails, ok, same};
use crate::ground::{Ground, bits, meta};

/// Makes a file or replaces its content.
pub(crate) fn put(path: &Path, content: &[u8]) -> Outcome {
    ok("write", fs::write(path, content))
}

/// What stands in a file: by the client's memory, and again by the server after the client has been asked to forget.
pub(crate) fn text(path: &Path) -> Result<Vec<u8>, String> {
    let remembered = ok("read", fs::read(path))?;
    forget(path)?;
    let fetched = ok("read anew", fs::read(path))?;
    same("what the server has", fetched, remembered.clone())?;
    Ok(remembered)
}

/// Makes the client forget the content of a file once it is synced.
pub(crate) fn forget(path: &Path) -> Outcome {
    let open = ok("open", File::open(path))?;
    ok("sync", open.sync_all())?;
    ok("fadvise", rustix::fs::fadvise(&open, 0, None, Advice::DontNeed))
}

/// Opens for reading and writing.
pub(crate) fn both(path: &Path) -> Result<File, String> {
    ok("open", OpenOptions::new().read(true).write(true).open(path))
}

/// chmod(2).
pub(crate) fn chmod(path: &Path, mode: u32) -> Outcome {
    ok(
        "chmod",
        fs::set_permissions(path, fs::Permissions::from_mode(mode)),
    )
}

/// lchown(2) of both.
pub(crate) fn chown(path: &Path, uid: u32, gid: u32) -> Outcome {
    ok("chown", std::os::unix::fs::lchown(path, Some(uid), Some(gid)))
}

/// A directory that everybody may write.
pub(crate) fn open_to_all(path: &Path) -> Outcome {
    chmod(path, 0o777)
}

/// Nothing is there.
pub(crate) fn gone(path: &Path) -> Outcome {
    fails("stat", fs::symlink_metadata(path), &[Errno::NOENT])
}

/// The permission bits are these.
pub(crate) fn mode_is(path: &Path, mode: u32) -> Outcome {
    same("mode", format!("{:o}", bits(path)?), format!("{mode:o}"))
}

/// The owner and group are these.
pub(crate) fn owner_is(path: &Path, uid: u32, gid: u32) -> Outcome {
    let meta = meta(path)?;
    same("owner", (meta.uid(), meta.gid()), (uid, gid))
}

/// Makes a pipe, socket or device.
pub(crate) fn mknod(path: &Path, kind: FileType, device: u64) -> io::Result<()> {
    Ok(mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), device)?)
}

/// Sets access and modification time of the object itself.
pub(crate) fn utimes(path: &Path, access: (i64, i64), modification: (i64, i64)) -> io::Result<()> {
    let spec = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: spec(access),
        last_modification: spec(modification),
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Seconds and nanoseconds of the last change of content.
pub(crate) fn mtime(path: &Path) -> Result<(i64, i64), String> {
    let meta = meta(path)?;
    Ok((meta.mtime(), meta.mtime_nsec()))
}

/// Seconds and nanoseconds of the last change of attributes.
pub(crate) fn ctime(path: &Path) -> Result<(i64, i64), String> {
    let meta = meta(path)?;
    Ok((meta.ctime(), meta.ctime_nsec()))
}

/// `file` belongs to the other one, with this mode.
pub(crate) fn theirs(g: &Ground, mode: u32) -> Outcome {
    chown(&g.p("file"), OTHER.uid, OTHER.gid)?;
    chmod(&g.p("file"), mode)
}
