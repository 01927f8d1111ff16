//! What a file holds, block by block, so that only what differs is sent.

use std::io;

use super::super::codec::Writer;
use super::super::disk::DiskFile;
use super::super::log::as_u64;
use super::name::Name;

/// Bytes of a block.
pub(crate) const BLOCK: usize = if cfg!(test) { 4 << 10 } else { 1 << 20 };

/// A BLAKE3 hash.
pub(crate) type Hash = [u8; 32];

/// A file: its length and the hash of each block that is not all zeros. Holes and zeros are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Described {
    pub(super) len: u64,
    /// By index, ascending.
    pub(super) blocks: Vec<(u64, Hash)>,
}

impl Described {
    /// One hash that says what it is called, how long it is and what it holds.
    pub(super) fn digest(&self, name: &Name) -> Hash {
        let mut head = Writer::default();
        name.encode(&mut head);
        head.u64(self.len);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&head.bytes);
        for (index, hash) in &self.blocks {
            hasher.update(&index.to_le_bytes());
            hasher.update(hash);
        }
        *hasher.finalize().as_bytes()
    }

    /// The hash of a block that is not all zeros.
    pub(super) fn block(&self, index: u64) -> Option<&Hash> {
        let at = self
            .blocks
            .binary_search_by_key(&index, |(index, _)| *index)
            .ok()?;
        self.blocks.get(at).map(|(_, hash)| hash)
    }

    /// Bytes of its blocks, at most.
    pub(super) fn bytes(&self) -> u64 {
        as_u64(self.blocks.len())
            .saturating_mul(as_u64(BLOCK))
            .min(self.len)
    }

    /// What is in `file` up to `len`.
    pub(super) fn read(file: &DiskFile, len: u64) -> io::Result<Self> {
        let mut described = Self {
            len,
            blocks: Vec::new(),
        };
        each_block(file, 0, len, &mut |index, bytes| {
            described.blocks.push((index, *blake3::hash(bytes).as_bytes()));
            Ok(())
        })?;
        Ok(described)
    }
}

/// How many bytes block `index` of a file of `len` bytes has.
pub(super) fn block_len(index: u64, len: u64) -> Option<usize> {
    let start = index.checked_mul(as_u64(BLOCK)).filter(|&start| start < len)?;
    Some(usize::try_from(len - start).unwrap_or(BLOCK).min(BLOCK))
}

/// Visits the blocks of the first `len` bytes of a file that are not all zeros, from block `first` on. What the file does
/// not have counts as zeros.
pub(super) fn each_block(
    file: &DiskFile,
    first: u64,
    len: u64,
    visit: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let block = as_u64(BLOCK);
    let mut buffer = Vec::new();
    let mut index = first;
    while let Some(count) = block_len(index, len) {
        match file.data_from(index * block)? {
            None => return Ok(()),
            // A hole ends within a block or behind it.
            Some(data) if data / block > index => {
                index = data / block;
                continue;
            }
            Some(_) => {}
        }
        buffer.resize(count, 0);
        let got = file.read_at(&mut buffer, index * block)?;
        if let Some(beyond) = buffer.get_mut(got..) {
            beyond.fill(0);
        }
        if buffer.iter().any(|&byte| byte != 0) {
            visit(index, &buffer)?;
        }
        index += 1;
    }
    Ok(())
}
