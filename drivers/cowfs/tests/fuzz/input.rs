//! A fuzzer's bytes as a supply of decisions: when they run out, every decision is the first one.

use arbitrary::Unstructured;

pub(crate) struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub(crate) fn word(&mut self) -> u32 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// A number below `limit`, which is at most 256.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit.max(1)
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// At most `max` bytes as they are.
    pub(crate) fn bytes(&mut self, max: usize) -> &'a [u8] {
        let len = self.below(max + 1).min(self.0.len());
        self.0.bytes(len).unwrap_or(&[])
    }

    /// A number with a liking for edges.
    pub(crate) fn long(&mut self) -> u64 {
        const EDGES: [u64; 20] = [
            0,
            1,
            2,
            3,
            100,
            4095,
            4096,
            4097,
            5000,
            70_000,
            100_000,
            1 << 20,
            (1 << 31) - 1,
            1 << 32,
            (1 << 40) + 1,
            (1 << 62) - 1,
            (1 << 63) - 1,
            1 << 63,
            u64::MAX - 1,
            u64::MAX,
        ];
        match self.below(EDGES.len() + 2) {
            at if at < EDGES.len() => EDGES[at],
            at if at == EDGES.len() => u64::from(self.byte()),
            _ => self.0.arbitrary().unwrap_or(0),
        }
    }
}
