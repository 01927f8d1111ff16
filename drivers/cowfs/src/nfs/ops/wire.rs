//! Types of RFC 1813 §2.6 on the wire: attributes, times, weak cache consistency data.

use super::Context;
use crate::attr::{Attr, Device, FileType, SetAttr, SetTime, Time};
use crate::nfs::xdr::{Malformed, Reader, Writer, XdrResult};
use crate::service::{Around, Before, FsResult, Handle, Object, Status};

/// Bytes of an encoded `fattr3`.
pub const FATTR3_LEN: usize = 84;

/// NFS3_OK.
pub(super) fn put_ok(reply: &mut Writer) {
    reply.u32(0);
}

/// An `nfsstat3` that is not NFS3_OK.
pub(super) fn put_status(reply: &mut Writer, status: Status) {
    reply.u32(status as u32);
}

/// `nfstime3`: 32 bits of unsigned seconds. What does not fit becomes the nearest that does.
pub(super) fn put_time(reply: &mut Writer, time: Time) {
    let (seconds, nanos) = wire_time(time);
    reply.u32(seconds);
    reply.u32(nanos);
}

/// What [`put_time`] writes for `time`.
pub(super) fn wire_time(time: Time) -> (u32, u32) {
    match u32::try_from(time.seconds) {
        Ok(seconds) => (seconds, time.nanos),
        Err(_) if time.seconds < 0 => (0, 0),
        Err(_) => (u32::MAX, 999_999_999),
    }
}

fn read_time(reader: &mut Reader<'_>) -> XdrResult<Time> {
    let seconds = i64::from(reader.u32()?);
    let nanos = reader.u32()?;
    if nanos >= 1_000_000_000 {
        return Err(Malformed);
    }
    Ok(Time { seconds, nanos })
}

/// `sattr3`. Bits of the mode that are not permissions are dropped, as every server does.
pub(super) fn read_sattr(reader: &mut Reader<'_>) -> XdrResult<SetAttr> {
    let mut optional = || -> XdrResult<Option<u32>> {
        if reader.bool()? {
            Ok(Some(reader.u32()?))
        } else {
            Ok(None)
        }
    };
    let mode = optional()?.map(|mode| mode & 0o7777);
    let uid = optional()?;
    let gid = optional()?;
    let size = if reader.bool()? { Some(reader.u64()?) } else { None };
    let mut time = || match reader.u32()? {
        0 => Ok(SetTime::Keep),
        1 => Ok(SetTime::ServerNow),
        2 => read_time(reader).map(SetTime::Client),
        _ => Err(Malformed),
    };
    let atime = time()?;
    let mtime = time()?;
    Ok(SetAttr {
        mode,
        uid,
        gid,
        size,
        atime,
        mtime,
    })
}

/// Writes `sattr3`; the client's side of the server's reader.
pub fn write_sattr(call: &mut Writer, set: &SetAttr) {
    for value in [set.mode, set.uid, set.gid] {
        call.bool(value.is_some());
        if let Some(value) = value {
            call.u32(value);
        }
    }
    call.bool(set.size.is_some());
    if let Some(size) = set.size {
        call.u64(size);
    }
    for time in [set.atime, set.mtime] {
        match time {
            SetTime::Keep => call.u32(0),
            SetTime::ServerNow => call.u32(1),
            SetTime::Client(time) => {
                call.u32(2);
                put_time(call, time);
            }
        }
    }
}

/// The guard of SETATTR (`sattrguard3`).
pub(super) fn read_guard(reader: &mut Reader<'_>) -> XdrResult<Option<Time>> {
    if reader.bool()? {
        read_time(reader).map(Some)
    } else {
        Ok(None)
    }
}

/// Reads `fattr3`: the inode number and the attributes. The client's side.
pub fn read_attr(reader: &mut Reader<'_>) -> XdrResult<(u64, Attr)> {
    let file_type = match reader.u32()? {
        1 => FileType::Regular,
        2 => FileType::Directory,
        3 => FileType::Block,
        4 => FileType::Character,
        5 => FileType::Symlink,
        6 => FileType::Socket,
        7 => FileType::Fifo,
        _ => return Err(Malformed),
    };
    let (mode, links, uid, gid) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    let (size, used) = (reader.u64()?, reader.u64()?);
    let device = Device {
        major: reader.u32()?,
        minor: reader.u32()?,
    };
    let _file_system = reader.u64()?;
    let fileid = reader.u64()?;
    let (atime, mtime, ctime) = (read_time(reader)?, read_time(reader)?, read_time(reader)?);
    let attr = Attr {
        file_type,
        mode,
        links,
        uid,
        gid,
        size,
        used,
        device,
        atime,
        mtime,
        ctime,
    };
    Ok((fileid, attr))
}

/// Reads an `nfsstat3`: `Ok(Err(_))` for every error RFC 1813 knows. The client's side.
pub fn read_status(reader: &mut Reader<'_>) -> XdrResult<FsResult<()>> {
    use Status as S;
    const ALL: [Status; 27] = [
        S::Perm,
        S::NoEnt,
        S::Io,
        S::Nxio,
        S::Access,
        S::Exist,
        S::XDev,
        S::NoDev,
        S::NotDir,
        S::IsDir,
        S::Inval,
        S::FBig,
        S::NoSpc,
        S::RoFs,
        S::MLink,
        S::NameTooLong,
        S::NotEmpty,
        S::DQuot,
        S::Stale,
        S::BadHandle,
        S::NotSync,
        S::BadCookie,
        S::NotSupp,
        S::TooSmall,
        S::ServerFault,
        S::BadType,
        S::Jukebox,
    ];
    let number = reader.u32()?;
    if number == 0 {
        return Ok(Ok(()));
    }
    ALL.into_iter()
        .find(|&status| status as u32 == number)
        .map(Err)
        .ok_or(Malformed)
}

fn put_words<const N: usize>(bytes: &mut [u8], words: [u32; N]) {
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}

impl Context<'_> {
    /// `fattr3`.
    pub(super) fn put_attr(&self, reply: &mut Writer, object: &Object) {
        reply.array(&self.attr_bytes(object));
    }

    /// `fattr3` as it is put.
    pub(super) fn attr_bytes(&self, object: &Object) -> [u8; FATTR3_LEN] {
        let attr = &object.attr;
        // Put together beside the reply, since each value that is appended by itself costs a look at the room left.
        let mut bytes = [0; FATTR3_LEN];
        let words = [
            u32::from(attr.file_type as u8),
            attr.mode,
            attr.links,
            attr.uid,
            attr.gid,
        ];
        put_words(&mut bytes[..20], words);
        bytes[20..28].copy_from_slice(&attr.size.to_be_bytes());
        bytes[28..36].copy_from_slice(&attr.used.to_be_bytes());
        put_words(&mut bytes[36..44], [attr.device.major, attr.device.minor]);
        bytes[44..52].copy_from_slice(&self.export.file_system_id().to_be_bytes());
        bytes[52..60].copy_from_slice(&object.fileid.to_be_bytes());
        for (place, time) in bytes[60..]
            .chunks_exact_mut(8)
            .zip([attr.atime, attr.mtime, attr.ctime])
        {
            let (seconds, nanos) = wire_time(time);
            put_words(place, [seconds, nanos]);
        }
        bytes
    }

    /// `nfs_fh3`: the export, then the service's handle.
    pub(super) fn put_handle(&self, reply: &mut Writer, handle: &Handle) {
        let (bytes, len) = self.export.join(handle);
        reply.opaque(&bytes[..len]);
    }

    /// `post_op_attr` of a known object.
    pub(super) fn put_post(&self, reply: &mut Writer, object: &Object) {
        reply.bool(true);
        self.put_attr(reply, object);
    }

    /// `post_op_attr` of whatever `handle` leads to now.
    pub(super) fn put_post_now(&self, reply: &mut Writer, handle: &FsResult<Handle>) {
        match handle.and_then(|handle| self.service.getattr(&handle)) {
            Ok(object) => self.put_post(reply, &object),
            Err(_) => reply.bool(false),
        }
    }

    /// `wcc_data` of a change.
    pub(super) fn put_wcc(&self, reply: &mut Writer, around: &Around) {
        let Before { size, mtime, ctime } = around.before;
        reply.bool(true);
        reply.u64(size);
        put_time(reply, mtime);
        put_time(reply, ctime);
        self.put_post(reply, &around.after);
    }

    /// `wcc_data` where no change was made, or none whose "before" is known.
    pub(super) fn put_wcc_now(&self, reply: &mut Writer, handle: &FsResult<Handle>) {
        reply.bool(false);
        self.put_post_now(reply, handle);
    }

    /// `post_op_fh3` and `post_op_attr` of what a call made; both absent if it is gone again.
    pub(super) fn put_made(&self, reply: &mut Writer, made: Option<&Object>) {
        match made {
            Some(object) => {
                reply.bool(true);
                self.put_handle(reply, &object.handle);
                self.put_post(reply, object);
            }
            None => {
                reply.bool(false);
                reply.bool(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_saturate() {
        let check = |seconds, nanos, expected| assert_eq!(wire_time(Time { seconds, nanos }), expected);
        check(5, 7, (5, 7));
        check(-1, 5, (0, 0));
        check(1 << 32, 5, (u32::MAX, 999_999_999));
        check(i64::from(u32::MAX), 5, (u32::MAX, 5));
    }
}
