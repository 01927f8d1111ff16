//! An index that has been opened: checked once from end to end, then read where it lies.
//!
//! Checking reads every node, entry and string once and accepts nothing but what [`super::tree::Tree::encode`] writes,
//! so a tree that loops, an offset that points nowhere or a directory with two names never gets past [`Index::map`].
//! Accesses check their bounds all the same, since a mapped file can be changed under us: that gives errors, not
//! wrong memory.

use std::fs::File;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::format::{
    self, DIRECTORY_SIZE, ENTRY_SIZE, EntryRecord, HEADER_SIZE, NODE_SIZE, NodeRecord, Payload,
};
use crate::attr::FileType;
use crate::layer::{Entry, LayerError, LayerId, NamedEntry, NodeNumber, ROOT};

/// Why an index was not opened.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file cannot be read.
    #[error("reading an index")]
    Io(#[source] std::io::Error),
    /// Not what its digest names.
    #[error("the index does not match its digest")]
    WrongDigest,
    /// Not an index, or none of ours.
    #[error("not an index of a version known here")]
    NotAnIndex,
    /// The structure is impossible.
    #[error("the index is damaged: {0}")]
    Damaged(&'static str),
}

/// A whole tree, ready to be asked.
pub struct Index {
    bytes: Bytes,
    digest: [u8; 32],
    snapshot: bool,
    nodes: usize,
    entries: usize,
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl Index {
    /// Maps the index in `path`, which must have this digest, and checks it.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn map(path: &Path, digest: &[u8; 32]) -> Result<Self, IndexError> {
        let file = File::open(path).map_err(IndexError::Io)?;
        #[expect(
            unsafe_code,
            reason = "mapping a file; its bytes are only ever read through bounds checks, and the files of a store \
                      are written once, under another name, before they are opened here"
        )]
        // SAFETY: nothing of ours writes to or truncates an index after its rename into place. Were a stranger to
        // change it, reads would give other bytes, for which every access is prepared.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(IndexError::Io)?;
        let index = Self::check(Bytes::Mapped(map))?;
        if index.digest != *digest {
            return Err(IndexError::WrongDigest);
        }
        Ok(index)
    }

    /// Checks an index in memory.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, IndexError> {
        Self::check(Bytes::Owned(bytes))
    }

    /// SHA-256 of the whole index.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The first bytes of the digest.
    #[must_use]
    pub fn id(&self) -> LayerId {
        let mut id = [0; 8];
        id.copy_from_slice(&self.digest[..8]);
        LayerId(id)
    }

    /// Whether this is a snapshot, whose regular files have no content hash.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.snapshot
    }

    /// How many objects there are; they are numbered from 1 to this.
    #[must_use]
    pub fn node_count(&self) -> u64 {
        self.nodes as u64
    }

    /// How many names there are, whiteouts included.
    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.entries as u64
    }

    /// The node of this number.
    pub(crate) fn node(&self, node: NodeNumber) -> Result<NodeRecord, LayerError> {
        let missing = || LayerError::NoSuchNode {
            layer: self.id(),
            node,
        };
        let at = usize::try_from(node)
            .ok()
            .and_then(|node| node.checked_sub(1))
            .ok_or_else(missing)?;
        if at >= self.nodes {
            return Err(missing());
        }
        self.record(at).map_err(|what| self.damaged(what))
    }

    /// What this layer says about `name` in `dir`.
    pub(crate) fn lookup(&self, dir: NodeNumber, name: &[u8]) -> Result<Option<Entry>, LayerError> {
        let (first, count) = self.range(dir)?;
        let (mut low, mut high) = (first, first + count);
        while low < high {
            let middle = low + (high - low) / 2;
            let (entry, found) = self.entry(middle).map_err(|what| self.damaged(what))?;
            match found.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(meaning(entry))),
            }
        }
        Ok(None)
    }

    /// All entries of `dir`.
    pub(crate) fn list(&self, dir: NodeNumber) -> Result<Vec<NamedEntry>, LayerError> {
        let (first, count) = self.range(dir)?;
        (first..first + count)
            .map(|at| {
                let (entry, name) = self.entry(at).map_err(|what| self.damaged(what))?;
                Ok(NamedEntry {
                    name: name.to_vec(),
                    entry: meaning(entry),
                })
            })
            .collect()
    }

    /// Directory and name of the first name of a node.
    pub(crate) fn place(&self, node: NodeNumber) -> Result<Option<(NodeNumber, Vec<u8>)>, LayerError> {
        let record = self.node(node)?;
        if node == ROOT {
            return Ok(None);
        }
        let (_, name) = self
            .entry(record.place as usize)
            .map_err(|what| self.damaged(what))?;
        Ok(Some((u64::from(record.parent), name.to_vec())))
    }

    /// Target of a symlink.
    pub(crate) fn target(&self, node: NodeNumber) -> Result<Vec<u8>, LayerError> {
        match self.node(node)?.payload {
            Payload::Target { offset, len } => {
                let target = self
                    .string(offset, len as usize)
                    .map_err(|what| self.damaged(what))?;
                Ok(target.to_vec())
            }
            _ => Err(LayerError::NoSuchNode {
                layer: self.id(),
                node,
            }),
        }
    }

    pub(crate) fn damaged(&self, what: &str) -> LayerError {
        LayerError::Damaged {
            layer: self.id(),
            what: what.to_owned(),
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// First entry and number of entries of a directory.
    fn range(&self, dir: NodeNumber) -> Result<(usize, usize), LayerError> {
        match self.node(dir)?.payload {
            Payload::Directory { first, count } => Ok((first as usize, count as usize)),
            _ => Err(LayerError::NoSuchNode {
                layer: self.id(),
                node: dir,
            }),
        }
    }

    /// The record at a position that counts from 0.
    fn record(&self, at: usize) -> Result<NodeRecord, &'static str> {
        let start = HEADER_SIZE + at * NODE_SIZE;
        NodeRecord::decode(
            self.bytes()
                .get(start..start + NODE_SIZE)
                .ok_or("a node beyond the end")?,
        )
    }

    fn entry(&self, at: usize) -> Result<(EntryRecord, &[u8]), &'static str> {
        if at >= self.entries {
            return Err("an entry beyond the end");
        }
        let start = HEADER_SIZE + self.nodes * NODE_SIZE + at * ENTRY_SIZE;
        let entry = EntryRecord::decode(
            self.bytes()
                .get(start..start + ENTRY_SIZE)
                .ok_or("an entry beyond the end")?,
        )?;
        let name = self.string(entry.offset, usize::from(entry.len))?;
        Ok((entry, name))
    }

    fn string(&self, offset: u32, len: usize) -> Result<&[u8], &'static str> {
        let strings = HEADER_SIZE + self.nodes * NODE_SIZE + self.entries * ENTRY_SIZE;
        let start = strings + offset as usize;
        self.bytes()
            .get(start..start + len)
            .ok_or("a string beyond the end")
    }

    fn check(bytes: Bytes) -> Result<Self, IndexError> {
        let all: &[u8] = match &bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        };
        let header = all.get(..HEADER_SIZE).ok_or(IndexError::NotAnIndex)?;
        let word =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let count = |at: usize| {
            // Anything above 32 bits is beyond what the format can number.
            if word(at) == 0 {
                Ok(word(at + 4))
            } else {
                Err(IndexError::Damaged("impossible counts"))
            }
        };
        if header[..8] != format::MAGIC || word(8) != format::VERSION || word(12) & !format::SNAPSHOT != 0 {
            return Err(IndexError::NotAnIndex);
        }
        if header[40..] != [0; 24] {
            return Err(IndexError::Damaged("a header with bytes set that must be zero"));
        }
        let (nodes, entries, strings) = (count(16)?, count(24)?, count(32)?);
        let len = HEADER_SIZE as u64
            + u64::from(nodes) * NODE_SIZE as u64
            + u64::from(entries) * ENTRY_SIZE as u64
            + u64::from(strings);
        if len != all.len() as u64 || nodes == 0 {
            return Err(IndexError::Damaged("the length does not fit the counts"));
        }
        let digest = Sha256::digest(all).into();
        let snapshot = word(12) == format::SNAPSHOT;
        let index = Self {
            digest,
            snapshot,
            nodes: nodes as usize,
            entries: entries as usize,
            bytes,
        };
        index.check_structure(strings).map_err(IndexError::Damaged)?;
        Ok(index)
    }

    /// Walks the tree in the order in which it was numbered and compares everything with what the numbering implies.
    fn check_structure(&self, strings: u32) -> Result<(), &'static str> {
        let mut links = vec![0_u32; self.nodes];
        let mut next_entry = 0_usize;
        let mut next_string = 0_u64;
        // How many nodes have been named so far: the next new one must be this number plus one.
        let mut named = 1_usize;
        for at in 0..self.nodes {
            if at >= named {
                return Err("a node without a name");
            }
            let node = self.record(at)?;
            if at == 0 && (node.file_type != FileType::Directory || (node.parent, node.place) != (0, 0)) {
                return Err("the root is no directory");
            }
            let (first, count) = match node.payload {
                Payload::Directory { first, count } => (first as usize, count as usize),
                Payload::Content(hash) if self.snapshot && hash.0 != [0; 32] => {
                    return Err("a snapshot with content");
                }
                Payload::Content(_) | Payload::Target { .. } | Payload::Device(_) => continue,
            };
            if first != next_entry || count > self.entries - next_entry {
                return Err("entries of a directory are not where they should be");
            }
            next_entry += count;
            links[at] += 2;
            let mut before: &[u8] = b"";
            for position in first..next_entry {
                let (entry, name) = self.entry(position)?;
                if u64::from(entry.offset) != next_string || !format::is_name(name) || name <= before {
                    return Err("names are wrong or out of order");
                }
                next_string += u64::from(entry.len);
                before = name;
                let Some(child) = (entry.node as usize).checked_sub(1) else {
                    continue;
                };
                let record = if child < self.nodes {
                    self.record(child)?
                } else {
                    return Err("a name for no node");
                };
                let is_directory = record.file_type == FileType::Directory;
                if child == named {
                    if (record.parent as usize, record.place as usize) != (at + 1, position) {
                        return Err("a node that does not know its place");
                    }
                    named += 1;
                } else if child > named || is_directory {
                    return Err("nodes out of order, or a directory with two names");
                }
                let counted = if is_directory { at } else { child };
                links[counted] = links[counted].checked_add(1).ok_or("too many links")?;
            }
        }
        if named != self.nodes || next_entry != self.entries {
            return Err("nodes or entries that nothing leads to");
        }
        for (at, links) in links.into_iter().enumerate() {
            let node = self.record(at)?;
            if node.links != links {
                return Err("a wrong number of links");
            }
            let size_fits = match node.file_type {
                FileType::Regular => true,
                FileType::Directory => node.size == DIRECTORY_SIZE,
                // Checked with the target.
                FileType::Symlink => node.mode == 0o777,
                FileType::Block | FileType::Character | FileType::Socket | FileType::Fifo => node.size == 0,
            };
            if !size_fits {
                return Err("a node with a size or mode that its type never has");
            }
            if let Payload::Target { offset, len } = node.payload {
                let target = self.string(offset, len as usize)?;
                if u64::from(offset) != next_string
                    || !format::is_target(target)
                    || node.size != u64::from(len)
                {
                    return Err("a symlink with a wrong target");
                }
                next_string += u64::from(len);
            }
        }
        if next_string != u64::from(strings) {
            return Err("strings that nothing uses");
        }
        Ok(())
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index")
            .field("id", &self.id())
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

fn meaning(entry: EntryRecord) -> Entry {
    if entry.node == 0 {
        Entry::Whiteout
    } else {
        Entry::Node(u64::from(entry.node))
    }
}
