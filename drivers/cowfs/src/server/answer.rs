//! Whole replies: from an export's service, on the thread that asks.

use std::time::Duration;

use crate::export::{Export, State};
use crate::layer::Lent;
use crate::metrics::Outcome;
use crate::nfs::ops::{self, Context, Procedure};
use crate::nfs::rpc::{self, Call};
use crate::nfs::xdr::{Writer, padding};
use crate::service::{CallKey, Status};

/// Bytes of the reply to a READ that is answered in place if what it reads is in memory: larger ones are worth the way to
/// the pool, where copying them holds up nothing.
const IN_PLACE_MAX: usize = 64 << 10;

fn context<'a>(export: &'a Export, call: &'a Call, key: Option<CallKey>) -> Context<'a> {
    Context {
        service: &**export.service(),
        export: export.id(),
        caller: &call.caller,
        key,
        recent: export.recent(),
        pages: export.pages(),
    }
}

/// The whole reply to a call whose export cannot be asked.
pub(super) fn refusal(call: &Call, procedure: Procedure, status: Status) -> Vec<u8> {
    let mut reply = rpc::begin_success(call.xid, 32);
    ops::refuse(procedure, status, &mut reply);
    rpc::finish(reply)
}

/// The whole reply to a call. May block. Content that need not be copied into it follows it.
pub(super) fn answer(
    export: &Export,
    procedure: Procedure,
    call: &Call,
    key: Option<CallKey>,
) -> (Vec<u8>, Option<Lent>) {
    let room = ops::reply_size(procedure, call.arguments());
    if procedure == Procedure::Read
        && room > IN_PLACE_MAX
        && let Some((bytes, content)) = lent(export, call)
    {
        return (bytes, Some(content));
    }
    let mut reply = rpc::begin_success(call.xid, room);
    let answered = ops::answer(
        &context(export, call, key),
        procedure,
        call.arguments(),
        &mut reply,
    );
    let bytes = match answered {
        Ok(()) => rpc::finish(reply),
        Err(why) => rpc::unaccepted(call.xid, why),
    };
    (bytes, None)
}

/// The reply to a READ of content that need not be copied.
fn lent(export: &Export, call: &Call) -> Option<(Vec<u8>, Lent)> {
    let mut reply = rpc::begin_success(call.xid, 128);
    let content = ops::answer_lent(&context(export, call, None), call.arguments(), &mut reply)?;
    let len = content.bytes.len();
    let more = len + padding(len);
    rpc::finish_after(&mut reply, 0, more);
    Some((reply.into_bytes(), content))
}

/// Whether a call may be answered [in place](in_place), its reply being of `room` bytes or less.
pub(super) fn may_be_in_place(export: &Export, procedure: Procedure, room: usize) -> bool {
    let from_memory = if procedure == Procedure::Read {
        room <= IN_PLACE_MAX
    } else {
        procedure.only_metadata() && export.service().answers_from_memory()
    };
    from_memory && export.state() == State::Active
}

/// Appends the whole reply to a call that waits for no disk; `false` if it has to go to the pool, and then what was
/// appended is to be thrown away.
pub(super) fn in_place(
    export: &Export,
    procedure: Procedure,
    call: &Call,
    room: usize,
    replies: &mut Writer,
) -> bool {
    let start = replies.position();
    replies.buffer().reserve(rpc::SUCCESS_HEAD + room);
    rpc::begin_success_after(replies, call.xid);
    let context = context(export, call, None);
    if procedure == Procedure::Read {
        if !ops::answer_cached(&context, call.arguments(), replies) {
            return false;
        }
    } else if let Err(why) = ops::answer(&context, procedure, call.arguments(), replies) {
        replies.truncate(start);
        replies.array(&rpc::unaccepted(call.xid, why));
        return true;
    }
    rpc::finish_after(replies, start, 0);
    true
}

/// What there is to count of a call and its reply, which has so many bytes in all.
pub(super) fn outcome(
    procedure: Procedure,
    call: &Call,
    reply: &[u8],
    len: usize,
    took: Duration,
) -> Outcome {
    let status = reply
        .get(rpc::SUCCESS_HEAD..)
        .and_then(|body| body.first_chunk::<4>());
    let bytes = match procedure {
        Procedure::Read => len,
        Procedure::Write => call.len(),
        _ => 0,
    };
    Outcome {
        took,
        refused: status != Some(&[0; 4]),
        bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
    }
}
