//! Which bytes of a file were written, and where they are.

use std::collections::BTreeMap;

/// Names a content file: a number of the writable layer and the epoch that made the file.
///
/// A file of an earlier epoch is never written again; the epoch in its name keeps a fenced server that has not noticed
/// yet from making a file of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ContentId {
    pub(crate) number: u64,
    pub(crate) epoch: u64,
}

/// Where written bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// In a content file, at the offset they have in the file itself.
    Content(ContentId),
    /// In the log: the bytes of file offset `file_offset` are at `at` in segment number `segment`.
    Log { segment: u32, at: u64, file_offset: u64 },
}

impl Source {
    /// The content file, if it is one.
    pub(crate) fn content(self) -> Option<ContentId> {
        match self {
            Self::Content(id) => Some(id),
            Self::Log { .. } => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Extent {
    end: u64,
    source: Source,
}

/// What a content file takes up on disk comes in blocks of this many bytes.
pub(crate) const BLOCK: u64 = 4096;
/// What a range in the log costs beside its bytes: its place in memory and the frame of its record.
const LOGGED: u64 = 128;

impl Extent {
    /// What the range costs: disk, and memory with it, so that a quota in bytes bounds both. A range of one byte takes a
    /// whole block of a content file.
    fn charge(&self, start: u64) -> u64 {
        match self.source {
            Source::Content(_) => blocks(start, self.end),
            Source::Log { .. } => self.end - start + LOGGED,
        }
    }
}

/// Bytes of all blocks that `start..end` touches.
pub(crate) fn blocks(start: u64, end: u64) -> u64 {
    end.div_ceil(BLOCK).saturating_mul(BLOCK) - start / BLOCK * BLOCK
}

/// Disjoint written ranges, each with its source. What is outside of them comes from the base or is zero.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extents {
    by_start: BTreeMap<u64, Extent>,
    bytes: u64,
    charge: u64,
}

impl Extents {
    /// How many bytes are written.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What they cost.
    pub(crate) fn charge(&self) -> u64 {
        self.charge
    }

    /// Where the last range ends; 0 if there is none.
    pub(crate) fn end(&self) -> u64 {
        self.by_start.last_key_value().map_or(0, |(_, extent)| extent.end)
    }

    /// Number of ranges.
    pub(crate) fn len(&self) -> usize {
        self.by_start.len()
    }

    fn put(&mut self, start: u64, extent: Extent) {
        self.bytes = self.bytes.wrapping_add(extent.end - start);
        self.charge = self.charge.wrapping_add(extent.charge(start));
        self.by_start.insert(start, extent);
    }

    fn take(&mut self, start: u64) {
        if let Some(extent) = self.by_start.remove(&start) {
            self.bytes = self.bytes.wrapping_sub(extent.end - start);
            self.charge = self.charge.wrapping_sub(extent.charge(start));
        }
    }

    /// Says that `start..end` is now at `source`.
    pub(crate) fn insert(&mut self, start: u64, end: u64, source: Source) {
        if start >= end {
            return;
        }
        self.remove(start, end);
        let mut start = start;
        let mut end = end;
        if matches!(source, Source::Content(_)) {
            // Join with neighbours in the same content file, so that a file written in order is one extent.
            if let Some((&before, &extent)) = self.by_start.range(..start).next_back()
                && extent.end == start
                && extent.source == source
            {
                self.take(before);
                start = before;
            }
            if let Some(&extent) = self.by_start.get(&end)
                && extent.source == source
            {
                self.take(end);
                end = extent.end;
            }
        }
        self.put(start, Extent { end, source });
    }

    /// Forgets what was written in `start..end`.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        if let Some((&first, &extent)) = self.by_start.range(..start).next_back()
            && extent.end > start
        {
            self.take(first);
            self.put(first, Extent { end: start, ..extent });
            if extent.end > end {
                self.put(end, extent);
            }
        }
        while let Some((&first, &extent)) = self.by_start.range(start..end).next() {
            self.take(first);
            if extent.end > end {
                self.put(end, extent);
            }
        }
    }

    /// Forgets everything from `size` on.
    pub(crate) fn cut(&mut self, size: u64) {
        self.remove(size, u64::MAX);
    }

    /// The written parts of `start..end`, in order, clipped to it.
    pub(crate) fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, Source)> + '_ {
        let first = match self.by_start.range(..=start).next_back() {
            Some((&first, extent)) if extent.end > start => first,
            _ => start,
        };
        let end = end.max(first);
        self.by_start
            .range(first..end)
            .map(move |(&from, extent)| (from.max(start), extent.end.min(end), extent.source))
    }

    /// All ranges.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64, Source)> + '_ {
        self.by_start
            .iter()
            .map(|(&start, extent)| (start, extent.end, extent.source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(number: u64) -> Source {
        Source::Content(ContentId { number, epoch: 1 })
    }

    /// Compares with one source per byte.
    #[test]
    fn agrees_with_an_array_of_bytes() {
        let mut seed = 0x1234_5678_u64;
        let mut next = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let mut extents = Extents::default();
            let mut plain: Vec<Option<Source>> = vec![None; 64];
            for _ in 0..40 {
                let start = next(64);
                let end = start + next(64 - start) + 1;
                let source = match next(4) {
                    0 => {
                        extents.remove(start, end);
                        None
                    }
                    1 => {
                        let source = Source::Log {
                            segment: 0,
                            at: next(1000),
                            file_offset: start,
                        };
                        extents.insert(start, end, source);
                        Some(source)
                    }
                    n => {
                        extents.insert(start, end, content(n));
                        Some(content(n))
                    }
                };
                for offset in start..end {
                    plain[usize::try_from(offset).expect("small")] = source;
                }
                let mut seen: Vec<Option<Source>> = vec![None; 64];
                for (from, to, source) in extents.iter() {
                    for offset in from..to {
                        seen[usize::try_from(offset).expect("small")] = Some(source);
                    }
                }
                assert_eq!(seen, plain);
                assert_eq!(extents.bytes(), plain.iter().flatten().count() as u64);
                let charges = extents
                    .by_start
                    .iter()
                    .map(|(&start, extent)| extent.charge(start));
                assert_eq!(extents.charge(), charges.sum::<u64>());
                let (start, end) = (next(32), 32 + next(32));
                let part: u64 = extents.within(start, end).map(|(from, to, _)| to - from).sum();
                let expected = (start..end).filter(|&o| plain[usize::try_from(o).expect("small")].is_some());
                assert_eq!(part, expected.count() as u64);
            }
        }
    }

    #[test]
    fn a_file_written_in_order_is_one_extent() {
        let mut extents = Extents::default();
        for block in 0..100 {
            extents.insert(block * 4096, (block + 1) * 4096, content(3));
        }
        assert_eq!(extents.len(), 1);
        extents.cut(5000);
        assert_eq!((extents.bytes(), extents.charge()), (5000, 8192));
    }
}
