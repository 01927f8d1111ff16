//! What a file system object is: type, attributes, and the changes a client may ask for.

/// A point in time as the server keeps it: seconds since 1970 and nanoseconds below one second.
///
/// NFSv3 carries 32 bits of seconds (RFC 1813 §2.6, `nfstime3`); the server keeps 64 so that layers made elsewhere
/// lose nothing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Time {
    /// Seconds since the Unix epoch.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// The type of an object, as RFC 1813 §2.6 `ftype3` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum FileType {
    /// Regular file.
    Regular = 1,
    /// Directory.
    Directory = 2,
    /// Block device node.
    Block = 3,
    /// Character device node.
    Character = 4,
    /// Symbolic link.
    Symlink = 5,
    /// Socket node.
    Socket = 6,
    /// Named pipe.
    Fifo = 7,
}

/// Device numbers of a block or character node; zero for every other type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// All attributes of one object but its identity (which is the layer's or the stack's business).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attr {
    /// Type.
    pub file_type: FileType,
    /// Permission bits, setuid, setgid and sticky: at most `0o7777`.
    pub mode: u32,
    /// Number of names.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes; for a symlink the length of its target.
    pub size: u64,
    /// Bytes of storage the object takes up.
    pub used: u64,
    /// Device numbers.
    pub device: Device,
    /// Last access.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the attributes.
    pub ctime: Time,
}

/// How SETATTR, CREATE and their kin set one time stamp (RFC 1813 §2.6, `set_atime`/`set_mtime`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it.
    #[default]
    Keep,
    /// The server's clock.
    ServerNow,
    /// The client's value.
    Client(Time),
}

/// Changes asked for by SETATTR and by the operations that make objects (RFC 1813 §2.6, `sattr3`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits, at most `0o7777`.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes: truncates or extends with zeros.
    pub size: Option<u64>,
    /// Last access.
    pub atime: SetTime,
    /// Last change of content.
    pub mtime: SetTime,
}
