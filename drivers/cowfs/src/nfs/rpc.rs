//! ONC RPC version 2 (RFC 5531): records in a byte stream, heads of calls and replies, credentials.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use super::xdr::{Malformed, Reader, Writer, XdrResult};
use crate::service::Caller;

/// Bytes of content that one READ or WRITE may carry.
pub const MAX_TRANSFER: u32 = 1 << 20;

/// The longest record taken: a full WRITE and everything around it (head, two credentials, handle, and names).
pub const MAX_RECORD: usize = (1 << 20) + 8192;

/// Fragments one record may come in. Clients send one; the bound keeps a trickle of tiny ones from costing more than
/// it should.
const MAX_FRAGMENTS: u32 = 256;

/// Bytes of a credential or verifier (RFC 5531 §8.2).
const MAX_AUTH: usize = 400;

/// Bytes of a machine name (RFC 5531 appendix A).
const MAX_MACHINE_NAME: usize = 255;

/// Groups in an AUTH_SYS credential beside the primary one (RFC 5531 appendix A).
const MAX_GROUPS: u32 = 16;

/// Who an AUTH_NONE call speaks for: nobody.
const NOBODY: u32 = 65_534;

/// A client that does not speak RPC; its connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRpc {
    /// More than [`MAX_RECORD`] bytes announced.
    #[error("record of {0} bytes or more")]
    TooLong(usize),
    /// Empty fragments, or too many of them.
    #[error("record in too many or empty fragments")]
    Fragments,
    /// Not the head of a call.
    #[error("not an RPC call")]
    NotACall,
}

/// Cuts a byte stream into records (RFC 5531 §11, record marking).
#[derive(Debug, Default)]
pub struct Records {
    /// Read from the stream, not yet taken.
    input: BytesMut,
    /// Earlier fragments of a record that comes in several.
    earlier: BytesMut,
    fragments: u32,
}

impl Records {
    /// The buffer to read into, with room for the rest of the record that has begun, so that it is not moved while it
    /// grows; never for more than one record and a bit. What is announced and never comes costs address space only:
    /// pages become real when something is read into them.
    pub fn room(&mut self) -> &mut BytesMut {
        let (fragment, _) = self.fragment();
        self.input
            .reserve((fragment + 4).saturating_sub(self.input.len()).max(1 << 14));
        &mut self.input
    }

    /// Bytes of the record that has begun, as it announces them, and no more than a record may have; 0 where none has.
    #[must_use]
    pub fn announced(&self) -> usize {
        let (fragment, last) = self.fragment();
        // Once there is more than one fragment the record may become as long as any.
        if last && self.earlier.is_empty() {
            fragment
        } else {
            MAX_RECORD
        }
    }

    /// Bytes of the fragment that has begun, no more than a record may have, and whether it is its record's last; 0 bytes
    /// that no other follows where none has.
    fn fragment(&self) -> (usize, bool) {
        let mark = self.input.first_chunk::<4>();
        let mark = mark.map_or(0, |&mark| u32::from_be_bytes(mark));
        let len = usize::try_from(mark & !(1 << 31)).unwrap_or(MAX_RECORD);
        (len.min(MAX_RECORD), mark == 0 || mark & (1 << 31) != 0)
    }

    /// The next whole record; `None` until more has been read.
    pub fn next_record(&mut self) -> Result<Option<Bytes>, NotRpc> {
        loop {
            let Some(&mark) = self.input.first_chunk::<4>() else {
                return Ok(None);
            };
            let mark = u32::from_be_bytes(mark);
            let last = mark & (1 << 31) != 0;
            let len = usize::try_from(mark & !(1 << 31)).map_err(|_| NotRpc::TooLong(MAX_RECORD))?;
            if self.earlier.len() + len > MAX_RECORD {
                return Err(NotRpc::TooLong(self.earlier.len() + len));
            }
            if len == 0 || self.fragments == MAX_FRAGMENTS {
                return Err(NotRpc::Fragments);
            }
            if self.input.len() < 4 + len {
                return Ok(None);
            }
            self.input.advance(4);
            let fragment = self.input.split_to(len);
            if last && self.earlier.is_empty() {
                return Ok(Some(fragment.freeze()));
            }
            self.earlier.extend_from_slice(&fragment);
            self.fragments += 1;
            if last {
                self.fragments = 0;
                return Ok(Some(std::mem::take(&mut self.earlier).freeze()));
            }
        }
    }
}

/// One call, as its head says; the arguments are what follows in the record.
#[derive(Clone, Debug)]
pub struct Call {
    /// The whole record.
    record: Bytes,
    /// The client's number for the call; a retransmission has the same.
    pub xid: u32,
    /// Program asked.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// Its procedure.
    pub procedure: u32,
    /// Who asks.
    pub caller: Caller,
    machine: Range<usize>,
    arguments: usize,
}

impl Call {
    /// The client's machine name; empty with AUTH_NONE.
    #[must_use]
    pub fn machine(&self) -> &[u8] {
        &self.record[self.machine.clone()]
    }

    /// The arguments, in XDR.
    #[must_use]
    pub fn arguments(&self) -> &[u8] {
        &self.record[self.arguments..]
    }

    /// Bytes the call takes up.
    #[must_use]
    pub fn len(&self) -> usize {
        self.record.len()
    }

    /// Never: a call has a head.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.record.is_empty()
    }
}

/// What a record turned out to be.
#[derive(Debug)]
pub enum Incoming {
    /// A call to carry out.
    Call(Call),
    /// A call that is refused for its head alone, and the reply that says so.
    Refused(Vec<u8>),
}

/// Reads the head of a call (RFC 5531 §9).
pub fn read_call(record: Bytes) -> Result<Incoming, NotRpc> {
    let mut reader = Reader::new(&record);
    let mut head = || reader.u32().map_err(|Malformed| NotRpc::NotACall);
    let (xid, message_type) = (head()?, head()?);
    if message_type != 0 {
        return Err(NotRpc::NotACall);
    }
    let (rpc_version, program, version, procedure) = (head()?, head()?, head()?, head()?);
    if rpc_version != 2 {
        return Ok(Incoming::Refused(denied(xid, Denial::RpcMismatch)));
    }
    let (caller, machine) = match read_credential(&mut reader) {
        Ok(credential) => credential,
        Err(Malformed) => return Ok(Incoming::Refused(denied(xid, Denial::BadCredential))),
    };
    if reader.u32().and_then(|_flavor| reader.opaque(MAX_AUTH)).is_err() {
        return Ok(Incoming::Refused(denied(xid, Denial::BadVerifier)));
    }
    let offset_of = |slice: &[u8]| slice.as_ptr() as usize - record.as_ptr() as usize;
    let machine = if machine.is_empty() {
        0..0
    } else {
        let start = offset_of(machine);
        start..start + machine.len()
    };
    let arguments = record.len() - reader.rest().len();
    Ok(Incoming::Call(Call {
        xid,
        program,
        version,
        procedure,
        caller,
        machine,
        arguments,
        record,
    }))
}

/// Reads AUTH_NONE (flavor 0) or AUTH_SYS (flavor 1, RFC 5531 appendix A): who asks, and from which machine.
fn read_credential<'a>(reader: &mut Reader<'a>) -> XdrResult<(Caller, &'a [u8])> {
    let flavor = reader.u32()?;
    let mut body = Reader::new(reader.opaque(MAX_AUTH)?);
    match flavor {
        0 => {
            let nobody = Caller {
                uid: NOBODY,
                gid: NOBODY,
                groups: Vec::new(),
            };
            Ok((nobody, &[]))
        }
        1 => {
            let _stamp = body.u32()?;
            let machine = body.opaque(MAX_MACHINE_NAME)?;
            let (uid, gid) = (body.u32()?, body.u32()?);
            let count = body.u32()?;
            if count > MAX_GROUPS {
                return Err(Malformed);
            }
            let groups = (0..count).map(|_| body.u32()).collect::<XdrResult<Vec<u32>>>()?;
            Ok((Caller { uid, gid, groups }, machine))
        }
        _ => Err(Malformed),
    }
}

/// Why a call is not even accepted (RFC 5531 §9, `rejected_reply`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denial {
    RpcMismatch,
    BadCredential,
    BadVerifier,
}

/// Why an accepted call was not carried out (RFC 5531 §9, `accept_stat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unaccepted {
    /// No such program here.
    ProgramUnavailable,
    /// Only this version of the program.
    VersionMismatch {
        /// The version there is.
        only: u32,
    },
    /// No such procedure.
    ProcedureUnavailable,
    /// The arguments cannot be decoded.
    GarbageArguments,
    /// The server failed.
    SystemError,
}

/// Begins a reply after what `reply` holds: record mark (filled in by [`finish_after`]), xid, REPLY.
fn begin_after(reply: &mut Writer, xid: u32) {
    reply.u32(0);
    reply.u32(xid);
    reply.u32(1); // REPLY
}

fn begin(xid: u32, room: usize) -> Writer {
    let mut writer = Writer::new(Vec::with_capacity(room));
    begin_after(&mut writer, xid);
    writer
}

/// Bytes before the result in the whole reply to an accepted call, the record mark included.
pub(crate) const SUCCESS_HEAD: usize = 28;

/// Begins the reply to an accepted call after what `reply` holds; the procedure's result follows.
pub fn begin_success_after(reply: &mut Writer, xid: u32) {
    begin_after(reply, xid);
    reply.u32(0); // MSG_ACCEPTED
    reply.u64(0); // AUTH_NONE verifier: flavor, length
    reply.u32(0); // SUCCESS
}

/// Begins the reply to an accepted call; the procedure's result follows. `room` is a guess at its length.
#[must_use]
pub fn begin_success(xid: u32, room: usize) -> Writer {
    let mut writer = Writer::new(Vec::with_capacity(room + SUCCESS_HEAD));
    begin_success_after(&mut writer, xid);
    writer
}

/// Ends the reply that begins at `start`, and that `more` bytes will follow which are not in it: fills in the record mark.
/// The reply is one fragment.
///
/// # Panics
/// If the reply has 2 GiB or more; every procedure keeps its results far below.
pub fn finish_after(reply: &mut Writer, start: usize, more: usize) {
    let len = u32::try_from(reply.position() - start - 4 + more).expect("replies are bounded");
    assert!(len < 1 << 31, "replies are bounded");
    reply.patch_u32(start, len | 1 << 31);
}

/// Ends a reply: fills in the record mark. The reply is one fragment.
///
/// # Panics
/// If the reply has 2 GiB or more; every procedure keeps its results far below.
#[must_use]
pub fn finish(mut reply: Writer) -> Vec<u8> {
    finish_after(&mut reply, 0, 0);
    reply.into_bytes()
}

/// The whole reply to a call that is accepted but not carried out.
#[must_use]
pub fn unaccepted(xid: u32, why: Unaccepted) -> Vec<u8> {
    let mut writer = begin(xid, 40);
    writer.u32(0); // MSG_ACCEPTED
    writer.u64(0); // AUTH_NONE verifier
    match why {
        Unaccepted::ProgramUnavailable => writer.u32(1),
        Unaccepted::VersionMismatch { only } => {
            writer.u32(2);
            writer.u32(only);
            writer.u32(only);
        }
        Unaccepted::ProcedureUnavailable => writer.u32(3),
        Unaccepted::GarbageArguments => writer.u32(4),
        Unaccepted::SystemError => writer.u32(5),
    }
    finish(writer)
}

/// The whole reply to a call that is denied.
fn denied(xid: u32, why: Denial) -> Vec<u8> {
    let mut writer = begin(xid, 40);
    writer.u32(1); // MSG_DENIED
    match why {
        Denial::RpcMismatch => {
            writer.u32(0); // RPC_MISMATCH
            writer.u32(2);
            writer.u32(2);
        }
        Denial::BadCredential => {
            writer.u32(1); // AUTH_ERROR
            writer.u32(1); // AUTH_BADCRED
        }
        Denial::BadVerifier => {
            writer.u32(1); // AUTH_ERROR
            writer.u32(3); // AUTH_BADVERF
        }
    }
    finish(writer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(records: &mut Records, bytes: &[u8]) {
        records.room().extend_from_slice(bytes);
    }

    #[test]
    fn records_are_cut_whatever_the_pieces() {
        let mut records = Records::default();
        feed(&mut records, &[0x80, 0, 0]);
        assert_eq!(records.next_record(), Ok(None));
        feed(&mut records, &[3, 1, 2]);
        assert_eq!(records.next_record(), Ok(None));
        feed(&mut records, &[3, 0, 0, 0, 1, 9, 0x80, 0, 0, 2, 8, 7]);
        assert_eq!(records.next_record().unwrap().unwrap(), &[1, 2, 3][..]);
        assert_eq!(records.next_record().unwrap().unwrap(), &[9, 8, 7][..]);
        assert_eq!(records.next_record(), Ok(None));
    }

    #[test]
    fn records_that_cannot_be_are_refused_before_they_cost_anything() {
        let check = |bytes: &[u8], why| {
            let mut records = Records::default();
            feed(&mut records, bytes);
            assert_eq!(records.next_record(), Err(why));
        };
        check(&[0xff, 0xff, 0xff, 0xff], NotRpc::TooLong(0x7fff_ffff));
        check(&[0, 0, 0, 0], NotRpc::Fragments);
        check(&[0x80, 0, 0, 0], NotRpc::Fragments);
        let ones: Vec<u8> = std::iter::repeat_n([0, 0, 0, 1, 5], 300).flatten().collect();
        check(&ones, NotRpc::Fragments);
    }
}
