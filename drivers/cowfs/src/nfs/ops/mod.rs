//! NFS version 3 (RFC 1813 §3): its 21 procedures beside NULL, each as one question for a [`FileService`].
//!
//! [`answer`] decodes the arguments, asks, and encodes. What fails is answered with the attributes that RFC 1813
//! wants, read afterwards; what cannot even be asked (a handle that leads nowhere) goes through [`refuse`].

mod attributes;
mod content;
mod filesystem;
mod listing;
mod names;
mod wire;

pub use wire::{FATTR3_LEN, read_attr, read_status, write_sattr};

use super::pages::Pages;
use super::replay::Recent;
use super::rpc::Unaccepted;
use super::xdr::{Malformed, Reader, Writer, XdrResult};
use crate::export::ExportId;
use crate::layer::Lent;
use crate::service::{CallKey, Caller, Changed, FileService, FsResult, Handle, Replayed, Status};

/// Program number of NFS.
pub const PROGRAM: u32 = 100_003;

/// The version served.
pub const VERSION: u32 = 3;

/// Bytes of a handle on the wire (RFC 1813 §2.4, `NFS3_FHSIZE`).
pub const MAX_HANDLE: usize = 64;

/// A procedure, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names are RFC 1813's")]
pub enum Procedure {
    Null = 0,
    GetAttr = 1,
    SetAttr = 2,
    Lookup = 3,
    Access = 4,
    ReadLink = 5,
    Read = 6,
    Write = 7,
    Create = 8,
    MkDir = 9,
    Symlink = 10,
    MkNod = 11,
    Remove = 12,
    RmDir = 13,
    Rename = 14,
    Link = 15,
    ReadDir = 16,
    ReadDirPlus = 17,
    FsStat = 18,
    FsInfo = 19,
    PathConf = 20,
    Commit = 21,
}

impl Procedure {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 22] = [
        Self::Null,
        Self::GetAttr,
        Self::SetAttr,
        Self::Lookup,
        Self::Access,
        Self::ReadLink,
        Self::Read,
        Self::Write,
        Self::Create,
        Self::MkDir,
        Self::Symlink,
        Self::MkNod,
        Self::Remove,
        Self::RmDir,
        Self::Rename,
        Self::Link,
        Self::ReadDir,
        Self::ReadDirPlus,
        Self::FsStat,
        Self::FsInfo,
        Self::PathConf,
        Self::Commit,
    ];

    /// The procedure with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Whether running it twice may differ from running it once, so that it carries a [`CallKey`].
    #[must_use]
    pub fn must_not_run_twice(self) -> bool {
        match self {
            Self::SetAttr
            | Self::Write
            | Self::Create
            | Self::MkDir
            | Self::Symlink
            | Self::MkNod
            | Self::Remove
            | Self::RmDir
            | Self::Rename
            | Self::Link => true,
            Self::Null
            | Self::GetAttr
            | Self::Lookup
            | Self::Access
            | Self::ReadLink
            | Self::Read
            | Self::ReadDir
            | Self::ReadDirPlus
            | Self::FsStat
            | Self::FsInfo
            | Self::PathConf
            | Self::Commit => false,
        }
    }

    /// Whether it only asks about names and attributes, so that a service that
    /// [answers from memory](FileService::answers_from_memory) need not be asked on another thread.
    #[must_use]
    pub fn only_metadata(self) -> bool {
        matches!(
            self,
            Self::Null
                | Self::GetAttr
                | Self::Lookup
                | Self::Access
                | Self::ReadLink
                | Self::ReadDir
                | Self::ReadDirPlus
                | Self::FsInfo
                | Self::PathConf
        )
    }

    /// How many absent optional attributes follow the status in a failed reply.
    fn absences_on_failure(self) -> usize {
        match self {
            Self::Null | Self::GetAttr => 0,
            Self::Lookup
            | Self::Access
            | Self::ReadLink
            | Self::Read
            | Self::ReadDir
            | Self::ReadDirPlus
            | Self::FsStat
            | Self::FsInfo
            | Self::PathConf => 1,
            Self::SetAttr
            | Self::Write
            | Self::Create
            | Self::MkDir
            | Self::Symlink
            | Self::MkNod
            | Self::Remove
            | Self::RmDir
            | Self::Commit => 2,
            Self::Link => 3,
            Self::Rename => 4,
        }
    }
}

/// What a procedure needs to know beside its arguments.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The tree asked.
    pub service: &'a dyn FileService,
    /// The export it is served as; part of every handle.
    pub export: ExportId,
    /// Who asks.
    pub caller: &'a Caller,
    /// The call's name, where it must not run twice.
    pub key: Option<CallKey>,
    /// The export's recent failures.
    pub recent: &'a Recent,
    /// Parts of the export's listings.
    pub pages: &'a Pages,
}

/// Outcome of a change: made now, or known to have been made by an earlier run of the same call.
enum Done<T> {
    Now(T),
    Earlier(Replayed),
}

impl Context<'_> {
    /// Reads a handle and takes the export off it. A handle of another export leads nowhere here.
    fn handle(&self, arguments: &mut Reader<'_>) -> XdrResult<FsResult<Handle>> {
        let bytes = arguments.opaque(MAX_HANDLE)?;
        Ok(match ExportId::split(bytes) {
            Some((export, inner)) if export == self.export => Ok(inner),
            Some(_) => Err(Status::Stale),
            None => Err(Status::BadHandle),
        })
    }

    /// Makes a change durable before anybody is told, and makes it once.
    fn change<T>(
        &self,
        key: Option<CallKey>,
        run: impl FnOnce(Option<CallKey>) -> FsResult<Changed<T>>,
    ) -> FsResult<Done<T>> {
        let Some(key) = key else {
            return self.settled(run(None)).map(Done::Now);
        };
        if let Some(status) = self.recent.failure(&key) {
            return Err(status);
        }
        if let Some(replayed) = self.service.replayed(&key) {
            return Ok(Done::Earlier(replayed));
        }
        let result = self.settled(run(Some(key)));
        if let Err(status) = result {
            self.recent.note_failure(key, status);
        }
        result.map(Done::Now)
    }

    fn settled<T>(&self, result: FsResult<Changed<T>>) -> FsResult<T> {
        let Changed { value, ticket } = result?;
        self.service.settle(ticket)?;
        Ok(value)
    }
}

/// Carries out one procedure: reads `arguments`, appends the result to `reply`.
///
/// # Errors
/// [`Unaccepted::GarbageArguments`]; then `reply` is to be thrown away, and nothing was changed.
pub fn answer(
    context: &Context<'_>,
    procedure: Procedure,
    arguments: &[u8],
    reply: &mut Writer,
) -> Result<(), Unaccepted> {
    let operation = match procedure {
        Procedure::Null => return Ok(()),
        Procedure::GetAttr => attributes::getattr,
        Procedure::SetAttr => attributes::setattr,
        Procedure::Access => attributes::access,
        Procedure::Lookup => names::lookup,
        Procedure::ReadLink => names::readlink,
        Procedure::Create => names::create,
        Procedure::MkDir => names::mkdir,
        Procedure::Symlink => names::symlink,
        Procedure::MkNod => names::mknod,
        Procedure::Remove => names::remove,
        Procedure::RmDir => names::rmdir,
        Procedure::Rename => names::rename,
        Procedure::Link => names::link,
        Procedure::Read => content::read,
        Procedure::Write => content::write,
        Procedure::Commit => content::commit,
        Procedure::ReadDir => listing::readdir,
        Procedure::ReadDirPlus => listing::readdirplus,
        Procedure::FsStat => filesystem::fsstat,
        Procedure::FsInfo => filesystem::fsinfo,
        Procedure::PathConf => filesystem::pathconf,
    };
    let operation: fn(&Context<'_>, &mut Reader<'_>, &mut Writer) -> XdrResult<()> = operation;
    operation(context, &mut Reader::new(arguments), reply).map_err(|Malformed| Unaccepted::GarbageArguments)
}

/// Carries out a READ that needs no disk; `false` if it may, and then `reply` is to be thrown away.
#[must_use]
pub fn answer_cached(context: &Context<'_>, arguments: &[u8], reply: &mut Writer) -> bool {
    content::read_cached(context, &mut Reader::new(arguments), reply) == Ok(true)
}

/// Carries out a READ of content that need not be copied: the bytes that follow `reply`, and then
/// [padding](super::xdr::padding). `None` if it must be, and then `reply` is to be thrown away. May block.
#[must_use]
pub fn answer_lent(context: &Context<'_>, arguments: &[u8], reply: &mut Writer) -> Option<Lent> {
    content::read_lent(context, &mut Reader::new(arguments), reply)
        .ok()
        .flatten()
}

/// Answers a procedure with `status` and nothing else, where no service can be asked.
pub fn refuse(procedure: Procedure, status: Status, reply: &mut Writer) {
    if procedure == Procedure::Null {
        return;
    }
    wire::put_status(reply, status);
    for _ in 0..procedure.absences_on_failure() {
        reply.bool(false);
    }
}

/// A guess at how many bytes the reply to this call has at most, from its arguments, for bounding what is in flight.
#[must_use]
pub fn reply_size(procedure: Procedure, arguments: &[u8]) -> usize {
    let mut reader = Reader::new(arguments);
    let asked = match procedure {
        // handle, offset, count
        Procedure::Read => reader
            .opaque(MAX_HANDLE)
            .and_then(|_| reader.u64())
            .and_then(|_| reader.u32()),
        // handle, cookie, verifier, count (or dircount, which READDIRPLUS's maxcount is near to in practice; the reply
        // is bounded by the same maximum either way)
        Procedure::ReadDir => skip_to_count(&mut reader),
        Procedure::ReadDirPlus => skip_to_count(&mut reader).and_then(|_dircount| reader.u32()),
        _ => Ok(0),
    };
    let asked = asked.unwrap_or(0).min(super::rpc::MAX_TRANSFER);
    512 + usize::try_from(asked).unwrap_or(usize::MAX)
}

fn skip_to_count(reader: &mut Reader<'_>) -> XdrResult<u32> {
    reader.opaque(MAX_HANDLE)?;
    reader.u64()?;
    reader.u64()?;
    reader.u32()
}
