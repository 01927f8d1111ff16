//! READDIR and READDIRPLUS (RFC 1813 §3.3.16, §3.3.17).
//!
//! Cookies are the service's and stay valid while entries come and go, so the cookie verifier is always zero and
//! never checked.

use super::wire::{FATTR3_LEN, put_ok, put_status};
use super::{Context, MAX_HANDLE};
use crate::nfs::pages::{Page, Question};
use crate::nfs::rpc::MAX_TRANSFER;
use crate::nfs::xdr::{Reader, Writer, XdrResult, padding};
use crate::service::{FsResult, Handle, ListedEntry, Object, Status};

/// What precedes the entries: status, attributes of the directory, cookie verifier.
const HEAD: usize = 4 + 4 + FATTR3_LEN + 8;

/// What follows them: "no more entries here", "end of directory".
const TAIL: usize = 4 + 4;

/// Limits of one listing.
struct Limits {
    /// Bytes of the whole result.
    result: usize,
    /// Bytes of names, inode numbers and cookies alone (READDIRPLUS's `dircount`).
    names: usize,
}

pub(super) fn readdir(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let dir = cx.handle(arguments)?;
    let cookie = arguments.u64()?;
    let _verifier = arguments.u64()?;
    let count = size(arguments.u32()?);
    let limits = Limits {
        result: count,
        names: usize::MAX,
    };
    list(cx, reply, &dir, cookie, &limits, false);
    Ok(())
}

pub(super) fn readdirplus(cx: &Context<'_>, arguments: &mut Reader<'_>, reply: &mut Writer) -> XdrResult<()> {
    let dir = cx.handle(arguments)?;
    let cookie = arguments.u64()?;
    let _verifier = arguments.u64()?;
    let limits = Limits {
        names: size(arguments.u32()?),
        result: size(arguments.u32()?),
    };
    list(cx, reply, &dir, cookie, &limits, true);
    Ok(())
}

fn size(count: u32) -> usize {
    usize::try_from(count.min(MAX_TRANSFER)).unwrap_or(usize::MAX)
}

fn list(
    cx: &Context<'_>,
    reply: &mut Writer,
    dir: &FsResult<Handle>,
    cookie: u64,
    limits: &Limits,
    with_objects: bool,
) {
    let head = reply.position();
    reply.reserve(HEAD);
    let question = dir.map(|dir| Question {
        dir,
        cookie,
        limits: (limits.result, limits.names),
        with_objects,
    });
    if let Ok(question) = &question
        && list_again(cx, reply, question, head)
    {
        return;
    }
    let mut names = 0;
    let mut refused = false;
    let mut attributes = Vec::new();
    let mut any = false;
    let result = dir.and_then(|dir| {
        let mut visit = |entry: &ListedEntry| {
            let name = 16 + 4 + entry.name.len() + padding(entry.name.len());
            let whole = 4 + name + if with_objects { plus_len(entry) } else { 0 };
            let used = reply.position() - head;
            // dircount is a hint (§3.3.17): the first entry goes out whatever it says.
            if used + whole + TAIL > limits.result || (any && names + name > limits.names) {
                refused = true;
                return false;
            }
            names += name;
            any = true;
            if with_objects {
                // After "an entry follows", its name and "attributes follow".
                attributes.push(used - HEAD + 4 + name + 4);
            }
            put_entry(cx, reply, entry, with_objects);
            true
        };
        cx.service
            .readdir_stamped(cx.caller, &dir, cookie, with_objects, &mut visit)
    });
    let result = match result {
        Ok(_) if refused && !any => Err(Status::TooSmall),
        other => other,
    };
    match result {
        Ok((object, ended, stamp)) => {
            reply.bool(false);
            reply.bool(ended && !refused);
            put_head(cx, reply, head, &object);
            if let (Some(stamp), Ok(question)) = (stamp, question) {
                let page = Page {
                    bytes: reply.buffer()[head + HEAD..].to_vec(),
                    attributes,
                    stamp,
                };
                cx.pages.keep(question, page);
            }
        }
        Err(status) => {
            reply.truncate(head);
            put_status(reply, status);
            cx.put_post_now(reply, dir);
        }
    }
}

/// Answers with the page that is kept for the question, if there is one and it still stands.
fn list_again(cx: &Context<'_>, reply: &mut Writer, question: &Question, head: usize) -> bool {
    let Some(page) = cx.pages.get(question) else {
        return false;
    };
    let start = reply.position();
    reply.array(&page.bytes);
    let mut changed = |entry: usize, object: &Object| {
        if let Some(at) = page.attributes.get(entry) {
            reply.overwrite(start + at, &cx.attr_bytes(object));
        }
    };
    let stands = cx
        .service
        .stands(cx.caller, &question.dir, &page.stamp, &mut changed);
    match stands {
        Some(object) => put_head(cx, reply, head, &object),
        None => reply.truncate(start),
    }
    stands.is_some()
}

/// Fills in what precedes the entries.
fn put_head(cx: &Context<'_>, reply: &mut Writer, head: usize, dir: &Object) {
    reply.patch(head, |reply| {
        put_ok(reply);
        cx.put_post(reply, dir);
        reply.u64(0);
    });
}

/// Bytes of `name_attributes` and `name_handle`, at most.
fn plus_len(entry: &ListedEntry) -> usize {
    match entry.object {
        Some(_) => 4 + FATTR3_LEN + 4 + 4 + MAX_HANDLE,
        None => 4 + 4,
    }
}

fn put_entry(cx: &Context<'_>, reply: &mut Writer, entry: &ListedEntry, with_objects: bool) {
    reply.bool(true);
    reply.u64(entry.fileid);
    reply.opaque(&entry.name);
    reply.u64(entry.cookie);
    if !with_objects {
        return;
    }
    match &entry.object {
        Some(object) => {
            cx.put_post(reply, object);
            reply.bool(true);
            cx.put_handle(reply, &object.handle);
        }
        None => {
            reply.bool(false);
            reply.bool(false);
        }
    }
}
