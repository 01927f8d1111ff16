//! Content of a regular file, with holes.

use std::collections::BTreeMap;

/// Bytes of a page; pages never written read as zeros.
const PAGE: u64 = 4096;

const PAGE_LEN: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Content {
    size: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE_LEN]>>,
}

/// Where a byte lies: its page, and the place in it.
fn place(offset: u64) -> (u64, usize) {
    (offset / PAGE, usize::try_from(offset % PAGE).expect("below 4096"))
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn used(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// Appends at most `count` bytes from `offset` to `out`; returns how many there were.
    pub(super) fn read(&self, offset: u64, count: u32, out: &mut Vec<u8>) -> u32 {
        let there = self.size.saturating_sub(offset);
        let count = count.min(u32::try_from(there).unwrap_or(u32::MAX));
        let mut at = offset;
        let end = offset + u64::from(count);
        while at < end {
            let (page, start) = place(at);
            let len = (PAGE_LEN - start).min(usize::try_from(end - at).unwrap_or(usize::MAX));
            match self.pages.get(&page) {
                Some(bytes) => out.extend_from_slice(&bytes[start..start + len]),
                None => out.resize(out.len() + len, 0),
            }
            at += len as u64;
        }
        count
    }

    pub(super) fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        let mut at = offset;
        while !bytes.is_empty() {
            let (page, start) = place(at);
            let len = (PAGE_LEN - start).min(bytes.len());
            let (now, later) = bytes.split_at(len);
            let page = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE_LEN]));
            page[start..start + len].copy_from_slice(now);
            bytes = later;
            at += len as u64;
        }
        self.size = self.size.max(at);
    }

    /// Cuts off, or extends with a hole.
    pub(super) fn resize(&mut self, size: u64) {
        if size < self.size {
            let (page, start) = place(size);
            let beyond = if start == 0 { page } else { page + 1 };
            self.pages.split_off(&beyond);
            if start != 0
                && let Some(bytes) = self.pages.get_mut(&page)
            {
                bytes[start..].fill(0);
            }
        }
        self.size = size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_bytes_with_zeros_in_the_holes() {
        let mut content = Content::default();
        content.write(5000, b"hello");
        content.resize(5003);
        content.resize(5010);
        let mut out = Vec::new();
        assert_eq!(content.read(4998, 100, &mut out), 12);
        assert_eq!(out, b"\0\0hel\0\0\0\0\0\0\0");
        assert_eq!(content.read(6000, 10, &mut out), 0);
        assert_eq!(content.used(), PAGE);
        content.write(1 << 60, b"x");
        assert_eq!(content.size(), (1 << 60) + 1);
    }
}
