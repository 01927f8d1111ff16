//! FSSTAT, FSINFO, PATHCONF (RFC 1813 §3.3.18–20).

use super::Context;
use super::wire::{put_ok, put_status};
use crate::nfs::rpc::MAX_TRANSFER;
use crate::nfs::xdr::{Reader, Writer, XdrResult};

/// FSF3_LINK | FSF3_SYMLINK | FSF3_HOMOGENEOUS | FSF3_CANSETTIME.
const PROPERTIES: u32 = 0x01 | 0x02 | 0x08 | 0x10;

/// What clients should ask READDIR for.
const LISTING_PREFERRED: u32 = 64 << 10;

/// Names one object may have; the on-the-wire count has 32 bits, and this is what ext4 allows for directories.
const LINKS_MAX: u32 = 65_000;

pub(super) fn fsstat(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let handle = cx.handle(arguments)?;
    let result = handle.and_then(|handle| Ok((cx.service.getattr(&handle)?, cx.service.fsstat()?)));
    match result {
        Ok((object, stat)) => {
            put_ok(reply);
            cx.put_post(reply, &object);
            reply.u64(stat.bytes_total);
            reply.u64(stat.bytes_free);
            reply.u64(stat.bytes_free);
            reply.u64(stat.files_total);
            reply.u64(stat.files_free);
            reply.u64(stat.files_free);
            reply.u32(0); // invarsec: may change at any time
        }
        Err(status) => {
            put_status(reply, status);
            cx.put_post_now(reply, &handle);
        }
    }
    Ok(())
}

pub(super) fn fsinfo(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let handle = cx.handle(arguments)?;
    match handle.and_then(|handle| cx.service.getattr(&handle)) {
        Ok(object) => {
            put_ok(reply);
            cx.put_post(reply, &object);
            for _read_then_write in 0..2 {
                reply.u32(MAX_TRANSFER); // max
                reply.u32(MAX_TRANSFER); // preferred
                reply.u32(4096); // multiple
            }
            reply.u32(LISTING_PREFERRED);
            reply.u64(i64::MAX.unsigned_abs()); // maxfilesize
            reply.u32(0); // time_delta: one nanosecond
            reply.u32(1);
            reply.u32(PROPERTIES);
        }
        Err(status) => {
            put_status(reply, status);
            cx.put_post_now(reply, &handle);
        }
    }
    Ok(())
}

pub(super) fn pathconf(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let handle = cx.handle(arguments)?;
    match handle.and_then(|handle| cx.service.getattr(&handle)) {
        Ok(object) => {
            put_ok(reply);
            cx.put_post(reply, &object);
            reply.u32(LINKS_MAX);
            reply.u32(255); // name_max
            reply.bool(true); // no_trunc
            reply.bool(true); // chown_restricted
            reply.bool(false); // case_insensitive
            reply.bool(true); // case_preserving
        }
        Err(status) => {
            put_status(reply, status);
            cx.put_post_now(reply, &handle);
        }
    }
    Ok(())
}
