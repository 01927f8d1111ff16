//! The border between the protocol and the file system.
//!
//! [`FileService`] is NFSv3 without its wire format: `nfs::ops` decodes a call, asks a `FileService`, encodes the
//! answer. A stack implements it; so does the in-memory model that the stack is tested against.
//!
//! Rules both sides keep:
//! - **Access is decided here**, by the caller's uid and groups (uid 0 may do what root may do), not in `nfs::ops`.
//! - **Names are checked in `nfs::ops`** for wire limits only; a service refuses empty names, `/`, NUL, more than 255
//!   bytes ([`Status::NameTooLong`]) and treats `.` and `..` itself: `..` of the root is the root, and neither can be
//!   made or removed.
//! - **A change is durable only once its [`Ticket`] has been settled.** The caller sends no reply before that. This
//!   is what lets many calls share one sync.
//! - **A change that must not run twice carries a [`CallKey`]**. The service keeps the outcome in the same record as
//!   the change itself; [`FileService::replayed`] answers for a key that has already been carried out, also after a
//!   restart and after a move to another machine.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::attr::{Attr, Device, FileType, SetAttr, Time};
use crate::layer::Lent;
use crate::quota::Quota;
use crate::writable::mark::{Mark, MarkAtOpening};
use crate::writable::saved::{Saved, SavedError};
use crate::writable::travel::{Sending, TravelError};

/// A file handle as it goes over the wire: at most 64 bytes (RFC 1813 §2.3.3), opaque to everyone but the service.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle {
    len: u8,
    bytes: [u8; 64],
}

impl Handle {
    /// Takes the bytes of a handle; `None` if there are more than 64.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let len = u8::try_from(bytes.len()).ok().filter(|&len| len <= 64)?;
        let mut array = [0; 64];
        array[..bytes.len()].copy_from_slice(bytes);
        Some(Self { len, bytes: array })
    }

    /// The bytes as they travel.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle(")?;
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        write!(f, ")")
    }
}

/// Who asks, from the call's AUTH_SYS credential (RFC 5531 appendix A).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Other groups, at most 16.
    pub groups: Vec<u32>,
}

impl Caller {
    /// The superuser.
    #[must_use]
    pub fn root() -> Self {
        Self {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
        }
    }

    /// Whether the caller is in `gid`.
    #[must_use]
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// Names one call for good: a hash over the client's machine name, the xid, the procedure and the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallKey(pub [u8; 16]);

/// Where in the log a change ends; settled once everything up to there is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// An error as RFC 1813 §2.6 numbers them (`nfsstat3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names are RFC 1813's, and so is what they mean")]
pub enum Status {
    #[error("not owner")]
    Perm = 1,
    #[error("no such file or directory")]
    NoEnt = 2,
    #[error("input/output error")]
    Io = 5,
    #[error("no such device or address")]
    Nxio = 6,
    #[error("permission denied")]
    Access = 13,
    #[error("file exists")]
    Exist = 17,
    #[error("cross-device link")]
    XDev = 18,
    #[error("no such device")]
    NoDev = 19,
    #[error("not a directory")]
    NotDir = 20,
    #[error("is a directory")]
    IsDir = 21,
    #[error("invalid argument")]
    Inval = 22,
    #[error("file too large")]
    FBig = 27,
    #[error("no space left")]
    NoSpc = 28,
    #[error("read-only file system")]
    RoFs = 30,
    #[error("too many links")]
    MLink = 31,
    #[error("name too long")]
    NameTooLong = 63,
    #[error("directory not empty")]
    NotEmpty = 66,
    #[error("quota exceeded")]
    DQuot = 69,
    #[error("stale handle")]
    Stale = 70,
    #[error("bad handle")]
    BadHandle = 10001,
    #[error("update out of step")]
    NotSync = 10002,
    #[error("bad cookie")]
    BadCookie = 10003,
    #[error("not supported")]
    NotSupp = 10004,
    #[error("too small")]
    TooSmall = 10005,
    #[error("server fault")]
    ServerFault = 10006,
    #[error("bad type")]
    BadType = 10007,
    #[error("try later")]
    Jukebox = 10008,
}

/// Result of a service call.
pub type FsResult<T> = Result<T, Status>;

/// An object's attributes together with its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its handle.
    pub handle: Handle,
    /// Its inode number, the same for as long as it lives: through copy-up, rename, restart and migration.
    pub fileid: u64,
    /// Its attributes, in which `links` counts names in the whole stack.
    pub attr: Attr,
}

/// What an object was before a change, for the client's cache (RFC 1813 §2.6, `wcc_attr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Length in bytes.
    pub size: u64,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of attributes.
    pub ctime: Time,
}

/// An object around a change: `before` and `after` are from the same atomic step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Around {
    /// As it was.
    pub before: Before,
    /// As it is.
    pub after: Object,
}

/// A change that has been made, and what must be settled before anybody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed<T> {
    /// What the change gave.
    pub value: T,
    /// Settle this before replying.
    pub ticket: Ticket,
}

/// Outcome of a change in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InDirectory {
    /// The directory around the change.
    pub dir: Around,
    /// The object that was made, if one was.
    pub made: Option<Object>,
}

/// Outcome of RENAME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// The directory the name left.
    pub from: Around,
    /// The directory it came to; the same object as `from` when renamed in place.
    pub to: Around,
}

/// What CREATE should do with an existing name (RFC 1813 §3.3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateMode {
    /// UNCHECKED: take what is there (truncated if the attributes say so).
    Unchecked(SetAttr),
    /// GUARDED: fail with [`Status::Exist`].
    Guarded(SetAttr),
    /// EXCLUSIVE: fail unless what is there was made with this verifier; kept with the file.
    Exclusive([u8; 8]),
}

/// What MKNOD makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// [`FileType::Block`], [`FileType::Character`], [`FileType::Socket`] or [`FileType::Fifo`].
    pub file_type: FileType,
    /// Numbers of a device; zero otherwise.
    pub device: Device,
}

/// How sure WRITE must be (RFC 1813 §3.3.7, `stable_how`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Stability {
    /// May be lost if the server dies before COMMIT; then the verifier changes.
    Unstable = 0,
    /// Content durable.
    DataSync = 1,
    /// Content and attributes durable.
    FileSync = 2,
}

/// What the server says WRITE and COMMIT can be compared by; new at every start of the service.
pub type WriteVerifier = [u8; 8];

/// Outcome of WRITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file around the change.
    pub file: Around,
    /// How many bytes were taken.
    pub count: u32,
    /// How sure they are once the ticket is settled; at least what was asked for.
    pub stability: Stability,
}

/// Outcome of READ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOutcome {
    /// The file.
    pub file: Object,
    /// How many bytes were put at the end of the buffer.
    pub count: u32,
    /// Whether they reach the end of the file.
    pub eof: bool,
}

/// One entry of a directory listing. `.` and `..` come first, with cookies 1 and 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEntry {
    /// The name.
    pub name: Vec<u8>,
    /// Inode number.
    pub fileid: u64,
    /// Continue after this entry with this cookie; the same for as long as the entry lives.
    pub cookie: u64,
    /// The object; present when it was asked for.
    pub object: Option<Object>,
}

/// What a service needs to tell later whether a part of a listing still stands; nobody else's business.
pub struct Stamp(Box<dyn Any + Send + Sync>);

impl Stamp {
    /// Wraps whatever the service wants to know again.
    #[must_use]
    pub fn new(known: impl Any + Send + Sync) -> Self {
        Self(Box::new(known))
    }

    /// What it wraps, if that is a `T`.
    #[must_use]
    pub fn known<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl std::fmt::Debug for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stamp")
    }
}

/// Space and inodes for FSSTAT (RFC 1813 §3.3.18), in bytes and objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsStat {
    /// Total bytes.
    pub bytes_total: u64,
    /// Free bytes, also for an unprivileged caller.
    pub bytes_free: u64,
    /// Total objects.
    pub files_total: u64,
    /// Free objects.
    pub files_free: u64,
}

/// Permission questions of ACCESS (RFC 1813 §3.3.4), as bits.
pub mod access {
    /// Read a file, list a directory.
    pub const READ: u32 = 0x01;
    /// Look up a name in a directory.
    pub const LOOKUP: u32 = 0x02;
    /// Change existing content.
    pub const MODIFY: u32 = 0x04;
    /// Add to a file or directory.
    pub const EXTEND: u32 = 0x08;
    /// Remove a name from a directory.
    pub const DELETE: u32 = 0x10;
    /// Execute a file.
    pub const EXECUTE: u32 = 0x20;
}

/// Outcome kept for a call that must not run twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The object that was made, as it is now; `None` if the call makes none or if it is gone again.
    pub made: Option<Object>,
}

/// A tree that can be served. Calls may run at the same time from many threads and may block on the disk.
pub trait FileService: Send + Sync {
    /// The root directory.
    fn root(&self) -> Object;

    /// Whether questions about names and attributes (GETATTR, LOOKUP, ACCESS, READLINK, listings) are answered from
    /// memory, without waiting for a disk or for a lock that is held across a sync. The server then answers them on
    /// the thread that decodes them, in one go with their neighbours; otherwise they go to the pool.
    fn answers_from_memory(&self) -> bool {
        false
    }

    /// GETATTR.
    fn getattr(&self, handle: &Handle) -> FsResult<Object>;

    /// SETATTR; with `guard`, only if the object's ctime is exactly that ([`Status::NotSync`] otherwise).
    fn setattr(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        handle: &Handle,
        set: &SetAttr,
        guard: Option<Time>,
    ) -> FsResult<Changed<Around>>;

    /// LOOKUP of `name` in `dir`: the object found and the directory.
    fn lookup(&self, caller: &Caller, dir: &Handle, name: &[u8]) -> FsResult<(Object, Object)>;

    /// ACCESS: which of the [`access`] bits in `wanted` the caller has.
    fn access(&self, caller: &Caller, handle: &Handle, wanted: u32) -> FsResult<(u32, Object)>;

    /// READLINK.
    fn readlink(&self, caller: &Caller, handle: &Handle) -> FsResult<(Vec<u8>, Object)>;

    /// READ of at most `count` bytes at `offset`, appended to `out`. The owner may read whatever the mode says, and
    /// execute permission suffices (RFC 1813 §3.3.6: the client has checked at open).
    fn read(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        count: u32,
        out: &mut Vec<u8>,
    ) -> FsResult<ReadOutcome>;

    /// READ, if everything it asks for is in memory; `None` to be asked again where waiting holds up nobody, also for
    /// every kind of failure. Then `out` may hold anything beyond what it held.
    fn read_cached(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        count: u32,
        out: &mut Vec<u8>,
    ) -> Option<ReadOutcome> {
        let _ = (caller, handle, offset, count, out);
        None
    }

    /// READ of content that need not be copied; `None` to be asked for a copy, also for every kind of failure.
    fn read_lent(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        count: u32,
    ) -> Option<(ReadOutcome, Lent)> {
        let _ = (caller, handle, offset, count);
        None
    }

    /// WRITE. The owner may write whatever the mode says.
    fn write(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        data: &[u8],
        stability: Stability,
    ) -> FsResult<Changed<Written>>;

    /// CREATE of a regular file.
    fn create(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        mode: CreateMode,
    ) -> FsResult<Changed<InDirectory>>;

    /// MKDIR.
    fn mkdir(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        set: &SetAttr,
    ) -> FsResult<Changed<InDirectory>>;

    /// SYMLINK.
    fn symlink(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        target: &[u8],
        set: &SetAttr,
    ) -> FsResult<Changed<InDirectory>>;

    /// MKNOD.
    fn mknod(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        special: Special,
        set: &SetAttr,
    ) -> FsResult<Changed<InDirectory>>;

    /// REMOVE of anything but a directory.
    fn remove(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
    ) -> FsResult<Changed<InDirectory>>;

    /// RMDIR.
    fn rmdir(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
    ) -> FsResult<Changed<InDirectory>>;

    /// RENAME, as rename(2).
    fn rename(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        from: (&Handle, &[u8]),
        to: (&Handle, &[u8]),
    ) -> FsResult<Changed<Renamed>>;

    /// LINK: gives `file` the name `name` in `dir`; `made` is the file.
    fn link(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        file: &Handle,
        dir: &Handle,
        name: &[u8],
    ) -> FsResult<Changed<InDirectory>>;

    /// READDIR and READDIRPLUS: entries of `dir` after `cookie` (0: from the start), handed to `visit` in order until
    /// it says `false` or there are no more. Returns the directory and whether the listing was handed out to its end.
    /// With `with_objects` each entry carries its object.
    fn readdir(
        &self,
        caller: &Caller,
        dir: &Handle,
        cookie: u64,
        with_objects: bool,
        visit: &mut dyn FnMut(&ListedEntry) -> bool,
    ) -> FsResult<(Object, bool)>;

    /// The same, and what tells later whether what was handed out (each entry for which `visit` said `true`) can be said
    /// again; `None` where that cannot be told.
    fn readdir_stamped(
        &self,
        caller: &Caller,
        dir: &Handle,
        cookie: u64,
        with_objects: bool,
        visit: &mut dyn FnMut(&ListedEntry) -> bool,
    ) -> FsResult<(Object, bool, Option<Stamp>)> {
        let (object, ended) = self.readdir(caller, dir, cookie, with_objects, visit)?;
        Ok((object, ended, None))
    }

    /// Whether this caller would be told the same again of `dir` as was handed out with `stamp`: the same entries, and after
    /// the last of them as many others or none as then. If so, the directory as it is now; and `changed` has been told of
    /// each entry whose attributes may be others, by its place among those handed out, what they are now. `None`: ask again
    /// (also for every kind of failure), whatever `changed` was told.
    fn stands(
        &self,
        caller: &Caller,
        dir: &Handle,
        stamp: &Stamp,
        changed: &mut dyn FnMut(usize, &Object),
    ) -> Option<Object> {
        let _ = (caller, dir, stamp, changed);
        None
    }

    /// FSSTAT.
    fn fsstat(&self) -> FsResult<FsStat>;

    /// COMMIT of the whole file; blocks until its content is durable.
    fn commit(&self, caller: &Caller, handle: &Handle) -> FsResult<Around>;

    /// The verifier of WRITE and COMMIT.
    fn write_verifier(&self) -> WriteVerifier;

    /// Blocks until everything up to `ticket` is durable. An error means that it may not be: nobody is told "done".
    fn settle(&self, ticket: Ticket) -> FsResult<()>;

    /// Does what is due now and then, and takes a while: whoever changes something calls it once the answer is on its
    /// way. Ends early once it is not `wanted` any more, and is then left for the next time: somebody waits for it.
    fn tend(&self, wanted: &dyn Fn() -> bool) {
        let _ = wanted;
    }

    /// Whether the call `key` has been carried out, and with what outcome.
    fn replayed(&self, key: &CallKey) -> Option<Replayed>;

    /// Blocks until everything that any call has changed is durable, unstable content included: before a checkpoint,
    /// and before the tree is served elsewhere.
    fn flush_all(&self) -> FsResult<()>;

    /// What the writable layer holds, as long as that is what it held when it was opened; `None` once something may
    /// have changed, and where it cannot be told.
    fn unchanged_mark(&self) -> Option<Mark> {
        None
    }

    /// Figures of the writable layer, where there is one.
    fn statistics(&self) -> Option<Statistics> {
        None
    }

    /// Makes a checkpoint of the writable layer as it is, with everything durable; one of that name stays as it is.
    ///
    /// # Errors
    /// [`SavedError`].
    fn save(&self, _name: &str) -> Result<(), SavedError> {
        Err(SavedError::ReadOnly)
    }

    /// Removes a checkpoint, if there is one of that name.
    ///
    /// # Errors
    /// [`SavedError`].
    fn delete_saved(&self, _name: &str) -> Result<(), SavedError> {
        Err(SavedError::ReadOnly)
    }

    /// Checkpoints of the writable layer, by name.
    ///
    /// # Errors
    /// [`SavedError`].
    fn saved(&self) -> Result<Vec<Saved>, SavedError> {
        Err(SavedError::ReadOnly)
    }

    /// Sends the writable layer to another machine, as far as it is not there.
    ///
    /// # Errors
    /// [`TravelError`].
    fn embark(&self, _sending: &mut Sending<'_>) -> Result<(), TravelError> {
        Err(TravelError::NoLayer)
    }

    /// Makes the log of the writable layer as short as it can be.
    ///
    /// # Errors
    /// Those of the disk.
    fn compact(&self) -> FsResult<()> {
        Err(Status::RoFs)
    }
}

/// Figures of a writable layer that is being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Objects that it has a record of.
    pub objects: u64,
    /// What was written and is still there costs, in bytes; whole blocks of content.
    pub bytes: u64,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// Whether a failure has made it refuse changes.
    pub failed: bool,
}

/// Opens what a stack is made of. The server asks it; `assembly` keeps what it opened.
pub trait StackOpener: Send + Sync + 'static {
    /// A writable layer, open and not yet part of a stack.
    type Writable: Send + 'static;

    /// Opens the writable layer in the directory `path` for the holder of `epoch`, making it when it is missing. It
    /// keeps to `quota` for as long as it is open, also where that is moved meanwhile.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is left open.
    fn open_writable(&self, path: &Path, epoch: u64, quota: Quota) -> Result<Self::Writable, OpenError>;

    /// What a layer holds that is open and not yet part of a stack, so that nobody has changed it.
    fn mark(&self, _writable: &Self::Writable) -> Option<MarkAtOpening> {
        None
    }

    /// Makes a checkpoint of an open layer that is not part of a stack.
    ///
    /// # Errors
    /// [`SavedError`].
    fn save(&self, _writable: &mut Self::Writable, _name: &str) -> Result<(), SavedError> {
        Err(SavedError::ReadOnly)
    }

    /// Removes a checkpoint of such a layer, if there is one of that name.
    ///
    /// # Errors
    /// [`SavedError`].
    fn delete_saved(&self, _writable: &mut Self::Writable, _name: &str) -> Result<(), SavedError> {
        Err(SavedError::ReadOnly)
    }

    /// Checkpoints of such a layer, by name.
    ///
    /// # Errors
    /// [`SavedError`].
    fn saved(&self, _writable: &Self::Writable) -> Result<Vec<Saved>, SavedError> {
        Err(SavedError::ReadOnly)
    }

    /// Has such a layer go back to a checkpoint.
    ///
    /// # Errors
    /// [`SavedError`]; the layer is then closed.
    fn restore(&self, _writable: Self::Writable, _name: &str) -> Result<Self::Writable, SavedError> {
        Err(SavedError::ReadOnly)
    }

    /// Sends such a layer to another machine, as far as it is not there.
    ///
    /// # Errors
    /// [`TravelError`].
    fn embark(&self, _writable: &Self::Writable, _sending: &mut Sending<'_>) -> Result<(), TravelError> {
        Err(TravelError::NoLayer)
    }

    /// Makes the log of such a layer as short as it can be.
    ///
    /// # Errors
    /// [`SavedError`].
    fn compact(&self, _writable: Self::Writable) -> Result<Self::Writable, SavedError> {
        Err(SavedError::ReadOnly)
    }

    /// Makes one tree of `layers` (nearest the guest first) and the writable layer above them.
    ///
    /// # Errors
    /// [`OpenError`]; the writable layer is then closed again.
    fn open_stack(
        &self,
        layers: &[LayerSource],
        writable: Option<Self::Writable>,
    ) -> Result<Arc<dyn FileService>, OpenError>;
}

/// Where a read-only layer comes from; written `{ dir = "PATH" }` or `{ template = "sha256:…" }`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerSource {
    /// A directory.
    Dir(PathBuf),
    /// A template of the node's store, by digest.
    Template(String),
}

/// Why something could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct OpenError {
    /// What was attempted.
    pub what: String,
    /// Whether trying again later can help.
    pub retryable: bool,
    /// The cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}
