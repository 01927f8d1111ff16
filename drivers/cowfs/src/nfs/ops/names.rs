//! LOOKUP, READLINK, and everything that makes, removes or moves a name (RFC 1813 §3.3.3, §3.3.5, §3.3.8–15).

use super::wire::{put_ok, put_status, read_sattr};
use super::{Context, Done};
use crate::attr::{Device, FileType};
use crate::nfs::xdr::{Malformed, Reader, Writer, XdrResult};
use crate::service::{CreateMode, FsResult, Handle, InDirectory, Special, Status};

/// What `filename3` may hold on the wire. Names over 255 bytes are the service's to refuse; this bound only keeps
/// nonsense out, and is as long as any path.
const MAX_NAME: usize = 4096;

/// Bytes of a symbolic link's target, as Linux's PATH_MAX.
const MAX_TARGET: usize = 4096;

/// `diropargs3`: a directory and a name in it.
fn read_place<'a>(
    cx: &Context<'_>,
    arguments: &mut Reader<'a>,
) -> XdrResult<(FsResult<Handle>, FsResult<&'a [u8]>)> {
    let dir = cx.handle(arguments)?;
    let name = arguments.opaque(usize::MAX)?;
    let name = if name.len() > MAX_NAME {
        Err(Status::NameTooLong)
    } else {
        Ok(name)
    };
    Ok((dir, name))
}

/// Both, or the first that is wrong.
fn both<A, B>(a: FsResult<A>, b: FsResult<B>) -> FsResult<(A, B)> {
    Ok((a?, b?))
}

pub(super) fn lookup(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let (dir, name) = read_place(cx, arguments)?;
    match both(dir, name).and_then(|(dir, name)| cx.service.lookup(cx.caller, &dir, name)) {
        Ok((object, dir)) => {
            put_ok(reply);
            cx.put_handle(reply, &object.handle);
            cx.put_post(reply, &object);
            cx.put_post(reply, &dir);
        }
        Err(status) => {
            put_status(reply, status);
            cx.put_post_now(reply, &dir);
        }
    }
    Ok(())
}

pub(super) fn readlink(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let handle = cx.handle(arguments)?;
    match handle.and_then(|handle| cx.service.readlink(cx.caller, &handle)) {
        Ok((target, object)) => {
            put_ok(reply);
            cx.put_post(reply, &object);
            reply.opaque(&target);
        }
        Err(status) => {
            put_status(reply, status);
            cx.put_post_now(reply, &handle);
        }
    }
    Ok(())
}

/// Answers CREATE, MKDIR, SYMLINK and MKNOD.
fn put_creation(
    cx: &Context<'_>,
    reply: &mut Writer,
    dir: &FsResult<Handle>,
    result: FsResult<Done<InDirectory>>,
) {
    match result {
        Ok(Done::Now(done)) => {
            put_ok(reply);
            cx.put_made(reply, done.made.as_ref());
            cx.put_wcc(reply, &done.dir);
        }
        Ok(Done::Earlier(replayed)) => {
            put_ok(reply);
            cx.put_made(reply, replayed.made.as_ref());
            cx.put_wcc_now(reply, dir);
        }
        Err(status) => {
            put_status(reply, status);
            cx.put_wcc_now(reply, dir);
        }
    }
}

pub(super) fn create(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let (dir, name) = read_place(cx, arguments)?;
    let mode = match arguments.u32()? {
        0 => CreateMode::Unchecked(read_sattr(arguments)?),
        1 => CreateMode::Guarded(read_sattr(arguments)?),
        2 => CreateMode::Exclusive(arguments.array()?),
        _ => return Err(Malformed),
    };
    let result = both(dir, name)
        .and_then(|(dir, name)| cx.change(cx.key, |key| cx.service.create(cx.caller, key, &dir, name, mode)));
    put_creation(cx, reply, &dir, result);
    Ok(())
}

pub(super) fn mkdir(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let (dir, name) = read_place(cx, arguments)?;
    let set = read_sattr(arguments)?;
    let result = both(dir, name)
        .and_then(|(dir, name)| cx.change(cx.key, |key| cx.service.mkdir(cx.caller, key, &dir, name, &set)));
    put_creation(cx, reply, &dir, result);
    Ok(())
}

pub(super) fn symlink(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let (dir, name) = read_place(cx, arguments)?;
    let set = read_sattr(arguments)?;
    let target = arguments.opaque(usize::MAX)?;
    let target = if target.len() > MAX_TARGET {
        Err(Status::NameTooLong)
    } else {
        Ok(target)
    };
    let result = both(dir, both(name, target)).and_then(|(dir, (name, target))| {
        cx.change(cx.key, |key| {
            cx.service.symlink(cx.caller, key, &dir, name, target, &set)
        })
    });
    put_creation(cx, reply, &dir, result);
    Ok(())
}

pub(super) fn mknod(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let (dir, name) = read_place(cx, arguments)?;
    let file_type = match arguments.u32()? {
        3 => Ok(FileType::Block),
        4 => Ok(FileType::Character),
        6 => Ok(FileType::Socket),
        7 => Ok(FileType::Fifo),
        1 | 2 | 5 => Err(Status::BadType),
        _ => return Err(Malformed),
    };
    let file_type = match file_type {
        Ok(file_type) => file_type,
        Err(status) => {
            put_creation(cx, reply, &dir, Err(status));
            return Ok(());
        }
    };
    let set = read_sattr(arguments)?;
    let mut device = Device::default();
    if matches!(file_type, FileType::Block | FileType::Character) {
        device.major = arguments.u32()?;
        device.minor = arguments.u32()?;
    }
    let special = Special { file_type, device };
    let result = both(dir, name).and_then(|(dir, name)| {
        cx.change(cx.key, |key| {
            cx.service.mknod(cx.caller, key, &dir, name, special, &set)
        })
    });
    put_creation(cx, reply, &dir, result);
    Ok(())
}

/// Answers REMOVE and RMDIR.
fn put_removal(
    cx: &Context<'_>,
    reply: &mut Writer,
    dir: &FsResult<Handle>,
    result: FsResult<Done<InDirectory>>,
) {
    match result {
        Ok(Done::Now(done)) => {
            put_ok(reply);
            cx.put_wcc(reply, &done.dir);
        }
        Ok(Done::Earlier(_)) => {
            put_ok(reply);
            cx.put_wcc_now(reply, dir);
        }
        Err(status) => {
            put_status(reply, status);
            cx.put_wcc_now(reply, dir);
        }
    }
}

pub(super) fn remove(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let (dir, name) = read_place(cx, arguments)?;
    let result = both(dir, name)
        .and_then(|(dir, name)| cx.change(cx.key, |key| cx.service.remove(cx.caller, key, &dir, name)));
    put_removal(cx, reply, &dir, result);
    Ok(())
}

pub(super) fn rmdir(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let (dir, name) = read_place(cx, arguments)?;
    let result = both(dir, name)
        .and_then(|(dir, name)| cx.change(cx.key, |key| cx.service.rmdir(cx.caller, key, &dir, name)));
    put_removal(cx, reply, &dir, result);
    Ok(())
}

/// A second handle in the arguments: one that another export's tree belongs to is on another device.
fn on_this_device(handle: FsResult<Handle>) -> FsResult<Handle> {
    match handle {
        Err(Status::Stale) => Err(Status::XDev),
        other => other,
    }
}

pub(super) fn rename(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let (from_dir, from_name) = read_place(cx, arguments)?;
    let (to_dir, to_name) = read_place(cx, arguments)?;
    let to_dir = on_this_device(to_dir);
    let places = both(both(from_dir, from_name), both(to_dir, to_name));
    let result = places.and_then(|((from_dir, from_name), (to_dir, to_name))| {
        cx.change(cx.key, |key| {
            let (from, to) = ((&from_dir, from_name), (&to_dir, to_name));
            cx.service.rename(cx.caller, key, from, to)
        })
    });
    match result {
        Ok(Done::Now(done)) => {
            put_ok(reply);
            cx.put_wcc(reply, &done.from);
            cx.put_wcc(reply, &done.to);
        }
        Ok(Done::Earlier(_)) => {
            put_ok(reply);
            cx.put_wcc_now(reply, &from_dir);
            cx.put_wcc_now(reply, &to_dir);
        }
        Err(status) => {
            put_status(reply, status);
            cx.put_wcc_now(reply, &from_dir);
            cx.put_wcc_now(reply, &to_dir);
        }
    }
    Ok(())
}

pub(super) fn link(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let file = cx.handle(arguments)?;
    let (dir, name) = read_place(cx, arguments)?;
    let dir = on_this_device(dir);
    let result = both(file, both(dir, name)).and_then(|(file, (dir, name))| {
        cx.change(cx.key, |key| cx.service.link(cx.caller, key, &file, &dir, name))
    });
    match result {
        Ok(Done::Now(done)) => {
            put_ok(reply);
            match &done.made {
                Some(object) => cx.put_post(reply, object),
                None => cx.put_post_now(reply, &file),
            }
            cx.put_wcc(reply, &done.dir);
        }
        Ok(Done::Earlier(_)) => {
            put_ok(reply);
            cx.put_post_now(reply, &file);
            cx.put_wcc_now(reply, &dir);
        }
        Err(status) => {
            put_status(reply, status);
            cx.put_post_now(reply, &file);
            cx.put_wcc_now(reply, &dir);
        }
    }
    Ok(())
}
