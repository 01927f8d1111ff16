//! READ, WRITE, COMMIT (RFC 1813 §3.3.6, §3.3.7, §3.3.21).

use super::Context;
use super::wire::{FATTR3_LEN, put_ok, put_status};
use crate::layer::Lent;
use crate::nfs::replay::Taken;
use crate::nfs::rpc::MAX_TRANSFER;
use crate::nfs::xdr::{Malformed, Reader, Writer, XdrResult};
use crate::service::{ReadOutcome, Stability, Status};

/// What precedes the content in a READ reply: status, attributes, count, eof, length.
const READ_HEAD: usize = 4 + 4 + FATTR3_LEN + 4 + 4 + 4;

pub(super) fn read(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let handle = cx.handle(arguments)?;
    let offset = arguments.u64()?;
    let count = arguments.u32()?.min(MAX_TRANSFER);
    // The service appends the content to the reply itself; the head is filled in once it is known.
    let head = reply.position();
    reply.reserve(READ_HEAD);
    let result = handle.and_then(|handle| {
        let outcome = cx
            .service
            .read(cx.caller, &handle, offset, count, reply.buffer())?;
        let appended = reply.position() - head - READ_HEAD;
        // A service that says other than what it did would make a reply nobody can parse.
        if u32::try_from(appended) != Ok(outcome.count) || outcome.count > count {
            tracing::error!(
                appended,
                said = outcome.count,
                "READ gave another number of bytes than it said"
            );
            return Err(Status::ServerFault);
        }
        Ok((outcome, appended))
    });
    match result {
        Ok((outcome, appended)) => put_content(cx, reply, head, &outcome, appended),
        Err(status) => {
            reply.truncate(head);
            put_status(reply, status);
            cx.put_post_now(reply, &handle);
        }
    }
    Ok(())
}

/// READ, if it can be answered without waiting for a disk; otherwise `reply` is to be thrown away.
pub(super) fn read_cached(
    cx: &Context<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> XdrResult<bool> {
    let handle = cx.handle(arguments)?;
    let offset = arguments.u64()?;
    let count = arguments.u32()?.min(MAX_TRANSFER);
    let Ok(handle) = handle else { return Ok(false) };
    let head = reply.position();
    reply.reserve(READ_HEAD);
    let outcome = cx
        .service
        .read_cached(cx.caller, &handle, offset, count, reply.buffer());
    let Some(outcome) = outcome else { return Ok(false) };
    let appended = reply.position() - head - READ_HEAD;
    if u32::try_from(appended) != Ok(outcome.count) || outcome.count > count {
        return Ok(false);
    }
    put_content(cx, reply, head, &outcome, appended);
    Ok(true)
}

/// READ of content that is lent: the reply holds what precedes it, and after it come as many zero bytes as pad it. `None`
/// if it is not, and then `reply` is to be thrown away.
pub(super) fn read_lent(
    cx: &Context<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> XdrResult<Option<Lent>> {
    let handle = cx.handle(arguments)?;
    let offset = arguments.u64()?;
    let count = arguments.u32()?.min(MAX_TRANSFER);
    let lent = handle
        .ok()
        .and_then(|handle| cx.service.read_lent(cx.caller, &handle, offset, count));
    let fits = |outcome: &ReadOutcome, content: &Lent| {
        u32::try_from(content.bytes.len()) == Ok(outcome.count) && outcome.count <= count
    };
    let Some((outcome, content)) = lent.filter(|(outcome, content)| fits(outcome, content)) else {
        return Ok(None);
    };
    put_head(cx, reply, &outcome);
    Ok(Some(content))
}

/// Fills in what precedes the content, and pads it.
fn put_content(cx: &Context<'_>, reply: &mut Writer, head: usize, outcome: &ReadOutcome, appended: usize) {
    reply.pad(appended);
    reply.patch(head, |reply| put_head(cx, reply, outcome));
}

/// What precedes the content.
fn put_head(cx: &Context<'_>, reply: &mut Writer, outcome: &ReadOutcome) {
    put_ok(reply);
    cx.put_post(reply, &outcome.file);
    reply.u32(outcome.count);
    reply.bool(outcome.eof);
    reply.u32(outcome.count);
}

pub(super) fn write(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let handle = cx.handle(arguments)?;
    let offset = arguments.u64()?;
    let count = arguments.u32()?;
    let stability = match arguments.u32()? {
        0 => Stability::Unstable,
        1 => Stability::DataSync,
        2 => Stability::FileSync,
        _ => return Err(Malformed),
    };
    let content = arguments.opaque(usize::MAX)?;
    // From before: if something is lost from here on, what is written now may be lost with it.
    let verifier = cx.service.write_verifier();
    let result = handle.and_then(|handle| {
        if u32::try_from(content.len()) != Ok(count) {
            return Err(Status::Inval);
        }
        // wtmax is a promise of FSINFO, not a limit clients must keep: take what fits, the client sends the rest.
        let taken = content
            .len()
            .min(usize::try_from(MAX_TRANSFER).unwrap_or(usize::MAX));
        let content = &content[..taken];
        if let Some(earlier) = cx.key.and_then(|key| cx.recent.write(&key)) {
            return Ok((None, earlier));
        }
        let written = cx.settled(cx.service.write(cx.caller, &handle, offset, content, stability))?;
        let taken = Taken {
            count: written.count,
            stability: written.stability,
            verifier,
        };
        if let Some(key) = cx.key {
            cx.recent.note_write(key, taken);
        }
        Ok((Some(written.file), taken))
    });
    match result {
        Ok((file, taken)) => {
            put_ok(reply);
            match file {
                Some(file) => cx.put_wcc(reply, &file),
                None => cx.put_wcc_now(reply, &handle),
            }
            reply.u32(taken.count);
            reply.u32(taken.stability as u32);
            reply.array(&taken.verifier);
        }
        Err(status) => {
            put_status(reply, status);
            cx.put_wcc_now(reply, &handle);
        }
    }
    Ok(())
}

pub(super) fn commit(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let handle = cx.handle(arguments)?;
    // Offset and count would allow for less; the whole file is always right.
    let (_offset, _count) = (arguments.u64()?, arguments.u32()?);
    match handle.and_then(|handle| cx.service.commit(cx.caller, &handle)) {
        Ok(around) => {
            put_ok(reply);
            cx.put_wcc(reply, &around);
            // As it is now: it says whether anything was lost that was written before.
            reply.array(&cx.service.write_verifier());
        }
        Err(status) => {
            put_status(reply, status);
            cx.put_wcc_now(reply, &handle);
        }
    }
    Ok(())
}
