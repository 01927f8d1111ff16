//! The bytes of an index: layout and nothing else. `decisions/0003-index-format.md` says why it looks like this.
//!
//! ```text
//! header   64 bytes: magic 8, version 4, flags 4 (1: snapshot), nodes 8, entries 8, bytes of strings 8, zeros 24
//! nodes    80 bytes each, node 1 first
//! entries  12 bytes each, those of one directory together and sorted by name
//! strings  names in the order of the entries, then targets of symlinks in the order of the nodes
//! ```
//! All numbers are big-endian. One tree has exactly one encoding.

use crate::attr::{Attr, Device, FileType, Time};
use crate::layer::ContentHash;

/// First bytes of an index.
pub(crate) const MAGIC: [u8; 8] = *b"xenoidx\n";
/// Version of the layout.
pub(crate) const VERSION: u32 = 1;
/// Header flag: regular files carry no content hash.
pub(crate) const SNAPSHOT: u32 = 1;
/// Bytes of the header.
pub(crate) const HEADER_SIZE: usize = 64;
/// Bytes of a node.
pub(crate) const NODE_SIZE: usize = 80;
/// Bytes of an entry.
pub(crate) const ENTRY_SIZE: usize = 12;

/// The size every directory of a layer reports: real sizes differ between file systems.
pub(crate) const DIRECTORY_SIZE: u64 = 4096;

/// Longest target of a symlink, as Linux has it (PATH_MAX without the final NUL).
const TARGET_MAX: usize = 4095;
/// Longest name (NAME_MAX).
const NAME_MAX: usize = 255;

const OPAQUE: u8 = 1;
const IMPLIED: u8 = 2;
const WHITEOUT: u16 = 1;

/// What a node holds beyond its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Of a directory: its entries.
    Directory { first: u32, count: u32 },
    /// Of a regular file.
    Content(ContentHash),
    /// Of a symlink: where its target is among the strings.
    Target { offset: u32, len: u32 },
    /// Of everything else; zero but for devices.
    Device(Device),
}

/// One node of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeRecord {
    pub(crate) file_type: FileType,
    pub(crate) opaque: bool,
    pub(crate) implied: bool,
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    /// The directory this node was first named in; 0 for the root.
    pub(crate) parent: u32,
    /// The entry that named it first; 0 for the root.
    pub(crate) place: u32,
    pub(crate) payload: Payload,
}

impl NodeRecord {
    /// Appends the record.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let flags = if self.opaque { OPAQUE } else { 0 } | if self.implied { IMPLIED } else { 0 };
        out.extend_from_slice(&[self.file_type as u8, flags, 0, 0]);
        for word in [self.mode, self.links, self.uid, self.gid, self.mtime.nanos] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.mtime.seconds.to_be_bytes());
        out.extend_from_slice(&self.parent.to_be_bytes());
        out.extend_from_slice(&self.place.to_be_bytes());
        let (a, b) = match self.payload {
            Payload::Content(ContentHash(hash)) => return out.extend_from_slice(&hash),
            Payload::Directory { first, count } => (first, count),
            Payload::Target { offset, len } => (offset, len),
            Payload::Device(Device { major, minor }) => (major, minor),
        };
        out.extend_from_slice(&a.to_be_bytes());
        out.extend_from_slice(&b.to_be_bytes());
        out.extend_from_slice(&[0; 24]);
    }

    /// Reads a record of [`NODE_SIZE`] bytes; says what is impossible about it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; NODE_SIZE] = bytes.try_into().map_err(|_| "a node is cut short")?;
        let file_type = match bytes[0] {
            1 => FileType::Regular,
            2 => FileType::Directory,
            3 => FileType::Block,
            4 => FileType::Character,
            5 => FileType::Symlink,
            6 => FileType::Socket,
            7 => FileType::Fifo,
            _ => return Err("a node of unknown type"),
        };
        let flags = bytes[1];
        if flags & !(OPAQUE | IMPLIED) != 0 || (flags != 0 && file_type != FileType::Directory) {
            return Err("a node with unknown flags");
        }
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| (u64::from(word(at)) << 32) | u64::from(word(at + 4));
        let (a, b) = (word(48), word(52));
        let payload = match file_type {
            FileType::Directory => Payload::Directory { first: a, count: b },
            FileType::Symlink => Payload::Target { offset: a, len: b },
            FileType::Regular => {
                let mut hash = [0; 32];
                hash.copy_from_slice(&bytes[48..]);
                Payload::Content(ContentHash(hash))
            }
            FileType::Block | FileType::Character => Payload::Device(Device { major: a, minor: b }),
            FileType::Socket | FileType::Fifo if (a, b) == (0, 0) => Payload::Device(Device::default()),
            FileType::Socket | FileType::Fifo => return Err("a pipe or socket with device numbers"),
        };
        if bytes[2..4] != [0; 2] || (file_type != FileType::Regular && bytes[56..] != [0; 24]) {
            return Err("a node with bytes set that must be zero");
        }
        let node = Self {
            file_type,
            opaque: flags & OPAQUE != 0,
            implied: flags & IMPLIED != 0,
            mode: word(4),
            links: word(8),
            uid: word(12),
            gid: word(16),
            size: long(24),
            mtime: Time {
                seconds: long(32).cast_signed(),
                nanos: word(20),
            },
            parent: word(40),
            place: word(44),
            payload,
        };
        if node.mode > 0o7777 || node.mtime.nanos >= 1_000_000_000 || i64::try_from(node.size).is_err() {
            return Err("a node with impossible attributes");
        }
        Ok(node)
    }

    /// The attributes as a layer gives them out. Layers keep one time stamp, so all three are the same.
    pub(crate) fn attr(&self) -> Attr {
        Attr {
            file_type: self.file_type,
            mode: self.mode,
            links: self.links,
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            used: match self.file_type {
                FileType::Regular | FileType::Directory => self.size.next_multiple_of(512),
                _ => 0,
            },
            device: match self.payload {
                Payload::Device(device) => device,
                _ => Device::default(),
            },
            atime: self.mtime,
            mtime: self.mtime,
            ctime: self.mtime,
        }
    }
}

/// One entry of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryRecord {
    /// Where the name is among the strings.
    pub(crate) offset: u32,
    /// Bytes of the name.
    pub(crate) len: u16,
    /// The node named; 0 for a whiteout.
    pub(crate) node: u32,
}

impl EntryRecord {
    /// Reads an entry of [`ENTRY_SIZE`] bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; ENTRY_SIZE] = bytes.try_into().map_err(|_| "an entry is cut short")?;
        let [o0, o1, o2, o3, l0, l1, f0, f1, n0, n1, n2, n3] = *bytes;
        let entry = Self {
            offset: u32::from_be_bytes([o0, o1, o2, o3]),
            len: u16::from_be_bytes([l0, l1]),
            node: u32::from_be_bytes([n0, n1, n2, n3]),
        };
        match (u16::from_be_bytes([f0, f1]), entry.node) {
            (WHITEOUT, 0) => Ok(entry),
            (0, node) if node != 0 => Ok(entry),
            _ => Err("an entry that is neither a node nor a whiteout"),
        }
    }
}

/// Appends an entry; `node` is 0 for a whiteout. The name has been checked by [`is_name`].
pub(crate) fn put_entry(out: &mut Vec<u8>, offset: u32, name: &[u8], node: u32) {
    let len = u16::try_from(name.len()).expect("a checked name has at most 255 bytes");
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&(if node == 0 { WHITEOUT } else { 0 }).to_be_bytes());
    out.extend_from_slice(&node.to_be_bytes());
}

/// Puts the sections together under a header.
pub(crate) fn assemble(snapshot: bool, nodes: &[u8], entries: &[u8], strings: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_SIZE + nodes.len() + entries.len() + strings.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&(if snapshot { SNAPSHOT } else { 0 }).to_be_bytes());
    for count in [nodes.len() / NODE_SIZE, entries.len() / ENTRY_SIZE, strings.len()] {
        out.extend_from_slice(&(count as u64).to_be_bytes());
    }
    out.resize(HEADER_SIZE, 0);
    out.extend_from_slice(nodes);
    out.extend_from_slice(entries);
    out.extend_from_slice(strings);
    out
}

/// Whether these bytes can be the name of a file.
pub(crate) fn is_name(name: &[u8]) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name != b"."
        && name != b".."
        && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}

/// Whether these bytes can be the target of a symlink.
pub(crate) fn is_target(target: &[u8]) -> bool {
    (1..=TARGET_MAX).contains(&target.len()) && !target.contains(&0)
}
