//! GETATTR, SETATTR, ACCESS (RFC 1813 §3.3.1, §3.3.2, §3.3.4).

use super::wire::{put_ok, put_status, read_guard, read_sattr, wire_time};
use super::{Context, Done};
use crate::attr::Time;
use crate::nfs::xdr::{Reader, Writer, XdrResult};
use crate::service::{Handle, access as bits};

pub(super) fn getattr(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let handle = cx.handle(arguments)?;
    match handle.and_then(|handle| cx.service.getattr(&handle)) {
        Ok(object) => {
            put_ok(reply);
            cx.put_attr(reply, &object);
        }
        Err(status) => put_status(reply, status),
    }
    Ok(())
}

pub(super) fn setattr(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let handle = cx.handle(arguments)?;
    let set = read_sattr(arguments)?;
    let guard = read_guard(arguments)?;
    // A second run would cut off what was written between the first and itself, or take back a later change of mode.
    let result = handle.and_then(|handle| {
        cx.change(cx.key, |key| {
            let guard = guard.map(|guard| full_ctime(cx, &handle, guard));
            cx.service.setattr(cx.caller, key, &handle, &set, guard)
        })
    });
    match result {
        Ok(Done::Now(around)) => {
            put_ok(reply);
            cx.put_wcc(reply, &around);
        }
        Ok(Done::Earlier(_)) => {
            put_ok(reply);
            cx.put_wcc_now(reply, &handle);
        }
        Err(status) => {
            put_status(reply, status);
            cx.put_wcc_now(reply, &handle);
        }
    }
    Ok(())
}

/// The ctime a guard means: the client saw 32 bits of its seconds, the service compares all of them.
fn full_ctime(cx: &Context<'_>, handle: &Handle, guard: Time) -> Time {
    match cx.service.getattr(handle) {
        Ok(object) if wire_time(object.attr.ctime) == wire_time(guard) => object.attr.ctime,
        _ => guard,
    }
}

pub(super) fn access(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let handle = cx.handle(arguments)?;
    // Unknown bits are "not supported by the server": left out of the answer.
    let all = bits::READ | bits::LOOKUP | bits::MODIFY | bits::EXTEND | bits::DELETE | bits::EXECUTE;
    let wanted = arguments.u32()? & all;
    match handle.and_then(|handle| cx.service.access(cx.caller, &handle, wanted)) {
        Ok((granted, object)) => {
            put_ok(reply);
            cx.put_post(reply, &object);
            reply.u32(granted & wanted);
        }
        Err(status) => {
            put_status(reply, status);
            cx.put_post_now(reply, &handle);
        }
    }
    Ok(())
}
