//! Who may do what: mode bits, ownership, the sticky bit, and what a change of owner or content does to setuid.

use crate::attr::{Attr, FileType, SetAttr, SetTime};
use crate::service::{Caller, FsResult, Status, access};

/// Read.
pub(crate) const R: u32 = 4;
/// Write.
pub(crate) const W: u32 = 2;
/// Execute, or search in a directory.
pub(crate) const X: u32 = 1;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

/// The bits of `wanted` that the mode gives the caller. The superuser reads and writes everything, and executes what
/// anybody may execute.
pub(crate) fn granted(caller: &Caller, attr: &Attr, wanted: u32) -> u32 {
    if caller.uid == 0 {
        let executable = attr.file_type == FileType::Directory || attr.mode & 0o111 != 0;
        return wanted & (R | W | if executable { X } else { 0 });
    }
    let class = if caller.uid == attr.uid {
        attr.mode >> 6
    } else if caller.in_group(attr.gid) {
        attr.mode >> 3
    } else {
        attr.mode
    };
    wanted & class & 7
}

/// Refuses unless all of `wanted` is granted.
pub(crate) fn require(caller: &Caller, attr: &Attr, wanted: u32) -> FsResult<()> {
    if granted(caller, attr, wanted) == wanted {
        Ok(())
    } else {
        Err(Status::Access)
    }
}

/// Whether the caller is the owner or root.
pub(crate) fn owns(caller: &Caller, attr: &Attr) -> bool {
    caller.uid == 0 || caller.uid == attr.uid
}

/// Refuses to take a name out of a sticky directory for anybody but the owner of either.
pub(crate) fn unlinkable(caller: &Caller, dir: &Attr, object: &Attr) -> FsResult<()> {
    require(caller, dir, W | X)?;
    if dir.mode & STICKY != 0 && !owns(caller, dir) && !owns(caller, object) {
        return Err(Status::Perm);
    }
    Ok(())
}

/// The answer to ACCESS. Bits that make no sense for the type are never given.
pub(crate) fn access_bits(caller: &Caller, attr: &Attr, wanted: u32, writable: bool) -> u32 {
    let directory = attr.file_type == FileType::Directory;
    let granted = granted(caller, attr, R | W | X);
    let mut bits = 0;
    if granted & R != 0 {
        bits |= access::READ;
    }
    let changes = if directory { W | X } else { W };
    if granted & changes == changes && (writable || is_device(attr.file_type)) {
        bits |= access::MODIFY | access::EXTEND | if directory { access::DELETE } else { 0 };
    }
    if granted & X != 0 {
        bits |= if directory {
            access::LOOKUP
        } else {
            access::EXECUTE
        };
    }
    bits & wanted
}

/// Writing to a device or pipe changes nothing in the tree, so it is not a matter of the tree being writable.
fn is_device(file_type: FileType) -> bool {
    match file_type {
        FileType::Block | FileType::Character | FileType::Socket | FileType::Fifo => true,
        FileType::Regular | FileType::Directory | FileType::Symlink => false,
    }
}

/// Checks a SETATTR but for the rights that a change of size needs of the content.
pub(crate) fn may_set(caller: &Caller, attr: &Attr, set: &SetAttr) -> FsResult<()> {
    let owner = owns(caller, attr);
    if set.mode.is_some() && !owner {
        return Err(Status::Perm);
    }
    if set.uid.is_some_and(|uid| uid != attr.uid || !owner) && caller.uid != 0 {
        return Err(Status::Perm);
    }
    if let Some(gid) = set.gid
        && caller.uid != 0
        && !(owner && (gid == attr.gid || caller.in_group(gid)))
    {
        return Err(Status::Perm);
    }
    if !owner {
        let times = [set.atime, set.mtime];
        // A value needs the owner (EPERM), the clock's time needs leave to write (EACCES): utimensat(2).
        if times.iter().any(|time| matches!(time, SetTime::Client(_))) {
            return Err(Status::Perm);
        }
        if times.contains(&SetTime::ServerNow) {
            require(caller, attr, W)?;
        }
    }
    Ok(())
}

/// The mode after a SETATTR. An explicit mode is taken as it is, but for the setgid of a group the caller is not in
/// (chmod(2)). Without one, setuid and, where the group may execute, setgid are cleared by a change of owner, whoever asks
/// (chown(2); Linux does so for root too, and its client leaves it to us), and by a change of size by anybody but root.
pub(crate) fn mode_after_set(caller: &Caller, attr: &Attr, set: &SetAttr) -> u32 {
    let gid = set.gid.unwrap_or(attr.gid);
    if let Some(mode) = set.mode {
        let foreign = caller.uid != 0 && !caller.in_group(gid);
        return mode & 0o7777 & if foreign { !SETGID } else { !0 };
    }
    let given = set.uid.is_some() || set.gid.is_some();
    let loses = given || (set.size.is_some() && caller.uid != 0);
    if loses && attr.file_type != FileType::Directory {
        return without_setuid(caller, attr.mode, attr.gid);
    }
    attr.mode
}

/// The mode of a file of the group `gid` after the caller has written to it.
pub(crate) fn mode_after_write(caller: &Caller, mode: u32, gid: u32) -> u32 {
    if caller.uid == 0 {
        mode
    } else {
        without_setuid(caller, mode, gid)
    }
}

/// Setgid goes where the group may execute; where it may not, the bit lends nothing, and goes only with somebody who is not
/// in the group (Linux, `setattr_should_drop_sgid`).
fn without_setuid(caller: &Caller, mode: u32, gid: u32) -> u32 {
    let lends = mode & 0o010 != 0 || (caller.uid != 0 && !caller.in_group(gid));
    mode & !SETUID & if lends { !SETGID } else { !0 }
}

/// Mode, owner and group of a new object. Only root gives a new object away; what others ask for is not refused but
/// ignored, as Linux's server does.
pub(crate) fn birth(caller: &Caller, dir: &Attr, file_type: FileType, set: &SetAttr) -> (u32, u32, u32) {
    let inherits = dir.mode & SETGID != 0;
    let mut mode = set.mode.unwrap_or(0) & 0o7777;
    let (mut uid, mut gid) = (caller.uid, if inherits { dir.gid } else { caller.gid });
    let directory = file_type == FileType::Directory;
    if directory && inherits {
        mode |= SETGID;
    }
    if caller.uid == 0 {
        uid = set.uid.unwrap_or(uid);
        gid = set.gid.unwrap_or(gid);
    } else if !directory && !caller.in_group(gid) {
        mode &= !SETGID;
    }
    (mode, uid, gid)
}
