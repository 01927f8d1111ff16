//! The border between a stack and the read-only layers in it.
//!
//! A layer is an immutable tree whose objects carry *numbers*. Numbers are the identity that handles and inode
//! numbers are made of, so they must be the same every time the same content is opened, on any machine.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use crate::attr::Attr;

/// Names the content of one layer: the first eight bytes of its digest. Equal content, equal id, on every machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub [u8; 8]);

impl std::fmt::Debug for LayerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayerId(")?;
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        write!(f, ")")
    }
}

/// The number of an object within its layer; the root is [`ROOT`]. Hard links of one file share a number.
pub type NodeNumber = u64;

/// The number of every layer's root directory.
pub const ROOT: NodeNumber = 1;

/// SHA-256 of a regular file's content, by which the content store of a node keeps it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl std::fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// What one layer says about one name in one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An object of this layer.
    Node(NodeNumber),
    /// "Deleted here": hides the name in every layer below.
    Whiteout,
}

/// A name and what the layer says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedEntry {
    /// The name: 1 to 255 bytes, without `/` and NUL, neither `.` nor `..`.
    pub name: Vec<u8>,
    /// What it stands for.
    pub entry: Entry,
}

/// Why a layer could not answer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The number names nothing in this layer, or something of the wrong type for the question.
    #[error("layer {layer:?} has no such object: {node}")]
    NoSuchNode {
        /// The layer asked.
        layer: LayerId,
        /// The number asked for.
        node: NodeNumber,
    },
    /// What the layer keeps does not fit its digest or its own structure.
    #[error("layer {layer:?} is damaged: {what}")]
    Damaged {
        /// The layer asked.
        layer: LayerId,
        /// What is wrong, in words.
        what: String,
    },
    /// The medium failed.
    #[error("reading layer {layer:?}")]
    Io {
        /// The layer asked.
        layer: LayerId,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// One immutable tree of a stack. All calls may run at the same time from many threads.
pub trait Layer: Send + Sync {
    /// The content's identity.
    fn id(&self) -> LayerId;

    /// Attributes of an object. `links` counts names *within this layer* (for a directory: 2 + subdirectories).
    fn attr(&self, node: NodeNumber) -> Result<Attr, LayerError>;

    /// What this layer says about `name` in `dir`; `None` means nothing, so layers below decide.
    fn lookup(&self, dir: NodeNumber, name: &[u8]) -> Result<Option<Entry>, LayerError>;

    /// Whether `dir` hides everything that lower layers have at its place.
    fn is_opaque(&self, dir: NodeNumber) -> Result<bool, LayerError>;

    /// Whether `dir` is there only to carry what is below it: it must not change the attributes of the directory it
    /// merges with, so a stack takes those from the nearest layer that does not merely imply it.
    fn is_implied(&self, dir: NodeNumber) -> Result<bool, LayerError> {
        let _ = dir;
        Ok(false)
    }

    /// All entries of `dir`, whiteouts included, sorted by name as bytes.
    fn entries(&self, dir: NodeNumber) -> Result<Vec<NamedEntry>, LayerError>;

    /// The object's directory and name, as far as the layer knows one (any of them for a file with several names);
    /// `None` for the root. Used to remember by path where something came from.
    fn place(&self, node: NodeNumber) -> Result<Option<(NodeNumber, Vec<u8>)>, LayerError>;

    /// Reads from a regular file at `offset` into `buf`; returns how many bytes were there (short only at its end).
    fn read(&self, node: NodeNumber, offset: u64, buf: &mut [u8]) -> Result<usize, LayerError>;

    /// The same for `count` bytes, appended to `out`: a layer that can do so need not write zeros there first. After an
    /// error `out` may hold anything beyond what it held.
    fn read_append(
        &self,
        node: NodeNumber,
        offset: u64,
        count: usize,
        out: &mut Vec<u8>,
    ) -> Result<usize, LayerError> {
        let start = out.len();
        out.resize(start + count, 0);
        let read = self.read(node, offset, &mut out[start..])?;
        out.truncate(start + read);
        Ok(read)
    }

    /// Fills `buf` from a regular file, if all of that is in memory and nobody need wait for it; `false` where it is not,
    /// or where that cannot be told.
    fn read_cached(&self, node: NodeNumber, offset: u64, buf: &mut [u8]) -> bool {
        let _ = (node, offset, buf);
        false
    }

    /// `count` bytes of a regular file from `offset` on, in memory and not copied; `None` where the layer cannot do so, and for
    /// every kind of failure.
    fn lend(&self, node: NodeNumber, offset: u64, count: usize) -> Option<Lent> {
        let _ = (node, offset, count);
        None
    }

    /// Target of a symbolic link.
    fn readlink(&self, node: NodeNumber) -> Result<Vec<u8>, LayerError>;

    /// Hash of a regular file's content where it is kept by hash in the node's content store (so that it stays
    /// readable after this layer has left the stack); `None` for layers that keep no such copy.
    fn content(&self, node: NodeNumber) -> Result<Option<ContentHash>, LayerError>;
}

/// Content that need not be copied before it is sent, for as long as it is held. It is for sending, not for looking at: if the
/// medium loses it meanwhile, the kernel cannot send it.
#[derive(Clone, Debug)]
pub struct Lent {
    /// It, mapped and in memory.
    pub bytes: Bytes,
    /// Where it lies, for whoever can send from there.
    pub file: Arc<File>,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
}

/// Reads file content by hash, whatever template it came with: the content store of a node.
pub trait ContentSource: Send + Sync {
    /// Reads from the content `hash` at `offset` into `buf`; short only at the end.
    ///
    /// # Errors
    /// `NotFound` where the store does not hold it.
    fn read_content(&self, hash: &ContentHash, offset: u64, buf: &mut [u8]) -> std::io::Result<usize>;
}
