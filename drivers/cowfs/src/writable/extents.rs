//! Which bytes of a file were written, and where they are.

use super::sorted::Sorted;

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
pub(crate) struct Extents(Option<Box<Written>>);

#[derive(Clone, Debug)]
struct Written {
    ranges: Ranges,
    bytes: u64,
    charge: u64,
}

/// Ranges by where they start.
#[derive(Clone, Debug)]
enum Ranges {
    /// As most files have it.
    One(u64, Extent),
    Many(Sorted<u64, Extent>),
}

impl Ranges {
    fn len(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::Many(many) => many.len(),
        }
    }

    fn get(&self, start: u64) -> Option<Extent> {
        match self {
            Self::One(first, extent) => (*first == start).then_some(*extent),
            Self::Many(many) => many.get(&start).copied(),
        }
    }

    fn last(&self) -> Option<Extent> {
        match self {
            Self::One(_, extent) => Some(*extent),
            Self::Many(many) => many.last().map(|(_, extent)| *extent),
        }
    }

    fn before(&self, start: u64) -> Option<(u64, Extent)> {
        match self {
            Self::One(first, extent) => (*first < start).then_some((*first, *extent)),
            Self::Many(many) => many.before(&start).map(|(first, extent)| (*first, *extent)),
        }
    }

    fn from(&self, start: u64) -> impl Iterator<Item = (u64, Extent)> {
        let (one, many) = match self {
            Self::One(first, extent) => ((*first >= start).then_some((*first, *extent)), None),
            Self::Many(many) => (
                None,
                Some(many.from(&start).map(|(first, extent)| (*first, *extent))),
            ),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn insert(&mut self, start: u64, extent: Extent) {
        match self {
            Self::One(first, known) if *first == start => *known = extent,
            Self::One(first, known) => {
                let mut many = Sorted::default();
                many.insert(*first, *known);
                many.insert(start, extent);
                *self = Self::Many(many);
            }
            Self::Many(many) => {
                many.insert(start, extent);
            }
        }
    }
}

impl Extents {
    /// How many bytes are written.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |written| written.bytes)
    }

    /// What they cost.
    pub(crate) fn charge(&self) -> u64 {
        self.0.as_ref().map_or(0, |written| written.charge)
    }

    /// Where the last range ends; 0 if there is none.
    pub(crate) fn end(&self) -> u64 {
        let last = self.0.as_ref().and_then(|written| written.ranges.last());
        last.map_or(0, |extent| extent.end)
    }

    /// Number of ranges.
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |written| written.ranges.len())
    }

    fn put(&mut self, start: u64, extent: Extent) {
        let (bytes, charge) = (extent.end - start, extent.charge(start));
        match &mut self.0 {
            None => {
                self.0 = Some(Box::new(Written {
                    ranges: Ranges::One(start, extent),
                    bytes,
                    charge,
                }));
            }
            Some(written) => {
                written.bytes = written.bytes.wrapping_add(bytes);
                written.charge = written.charge.wrapping_add(charge);
                written.ranges.insert(start, extent);
            }
        }
    }

    fn take(&mut self, start: u64) {
        let Some(written) = &mut self.0 else { return };
        let taken = match &mut written.ranges {
            Ranges::One(first, extent) => (*first == start).then_some(*extent),
            Ranges::Many(many) => many.remove(&start),
        };
        let Some(extent) = taken else { return };
        written.bytes = written.bytes.wrapping_sub(extent.end - start);
        written.charge = written.charge.wrapping_sub(extent.charge(start));
        let left = match &written.ranges {
            Ranges::One(..) => 0,
            Ranges::Many(many) => many.len(),
        };
        match (left, &written.ranges) {
            (0, _) => self.0 = None,
            (1, Ranges::Many(many)) => {
                if let Some((first, extent)) = many.last() {
                    written.ranges = Ranges::One(*first, *extent);
                }
            }
            _ => {}
        }
    }

    fn get(&self, start: u64) -> Option<Extent> {
        self.0.as_ref()?.ranges.get(start)
    }

    /// The last range that starts before `start`.
    fn before(&self, start: u64) -> Option<(u64, Extent)> {
        self.0.as_ref()?.ranges.before(start)
    }

    /// The ranges that start at `start` or later, in order.
    fn from(&self, start: u64) -> impl Iterator<Item = (u64, Extent)> {
        self.0.iter().flat_map(move |written| written.ranges.from(start))
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
            if let Some((before, extent)) = self.before(start)
                && extent.end == start
                && extent.source == source
            {
                self.take(before);
                start = before;
            }
            if let Some(extent) = self.get(end)
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
        if let Some((first, extent)) = self.before(start)
            && extent.end > start
        {
            self.take(first);
            self.put(first, Extent { end: start, ..extent });
            if extent.end > end {
                self.put(end, extent);
            }
        }
        loop {
            let found = self.from(start).next().filter(|(first, _)| *first < end);
            let Some((first, extent)) = found else { break };
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
        let first = match self.before(start) {
            Some((first, extent)) if extent.end > start => first,
            _ => start,
        };
        self.from(first)
            .take_while(move |(from, _)| *from < end)
            .map(move |(from, extent)| (from.max(start), extent.end.min(end), extent.source))
    }

    /// All ranges.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64, Source)> + '_ {
        self.from(0)
            .map(|(start, extent)| (start, extent.end, extent.source))
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
                let charges = extents.from(0).map(|(start, extent)| extent.charge(start));
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
