//! External data representation (RFC 4506), as much of it as ONC RPC and NFSv3 use.
//!
//! [`Reader`] hands out slices of the record it reads from and never allocates, so that a length from outside can
//! cost nothing: it is compared with what is really there first.

/// The bytes do not say what they should: they end early, or hold a value its type does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed XDR")]
pub struct Malformed;

/// Result of reading.
pub type XdrResult<T> = Result<T, Malformed>;

/// Reads values off the front of a record.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes exactly `len` bytes, without padding.
    fn take(&mut self, len: usize) -> XdrResult<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = tail;
        Ok(head)
    }

    /// Unsigned integer (RFC 4506 §4.2).
    pub fn u32(&mut self) -> XdrResult<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Unsigned hyper integer (§4.5).
    pub fn u64(&mut self) -> XdrResult<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Boolean (§4.4): 0 or 1 and nothing else.
    pub fn bool(&mut self) -> XdrResult<bool> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// Fixed-length opaque data (§4.9) whose length is a multiple of four.
    pub fn array<const N: usize>(&mut self) -> XdrResult<[u8; N]> {
        debug_assert!(N.is_multiple_of(4), "XDR pads to four bytes");
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    /// Variable-length opaque data or a string (§4.10, §4.11) of at most `max` bytes.
    pub fn opaque(&mut self, max: usize) -> XdrResult<&'a [u8]> {
        let len = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if len > max || len > self.rest.len() {
            return Err(Malformed);
        }
        let bytes = self.take(len)?;
        self.take(padding(len))?;
        Ok(bytes)
    }
}

/// How many zero bytes follow opaque data of `len` bytes.
#[must_use]
pub fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// Appends values to a reply.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Continues after what `bytes` holds.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// What was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Where the next value goes.
    #[must_use]
    pub fn position(&self) -> usize {
        self.bytes.len()
    }

    /// Takes back everything from `position` on.
    pub fn truncate(&mut self, position: usize) {
        self.bytes.truncate(position);
    }

    /// The buffer itself, for a producer that appends to it (READ); call [`Writer::pad`] afterwards.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Unsigned integer.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// Unsigned hyper integer.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// Boolean.
    pub fn bool(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    /// Fixed-length opaque data whose length is a multiple of four.
    pub fn array(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len().is_multiple_of(4), "XDR pads to four bytes");
        self.bytes.extend_from_slice(bytes);
    }

    /// Variable-length opaque data or a string.
    ///
    /// # Panics
    /// If `bytes` has 4 GiB or more; nothing the server sends comes near.
    pub fn opaque(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).expect("opaque data is bounded far below 4 GiB"));
        self.bytes.extend_from_slice(bytes);
        self.pad(bytes.len());
    }

    /// The zero bytes that follow opaque data of `len` bytes.
    pub fn pad(&mut self, len: usize) {
        self.bytes.extend_from_slice(&[0; 3][..padding(len)]);
    }

    /// Overwrites a value written before at `position`, for counts known only later.
    pub fn patch_u32(&mut self, position: usize, value: u32) {
        self.bytes[position..position + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// Overwrites what lies at `position` with what `write` writes, which must be as long as what was reserved.
    pub fn patch(&mut self, position: usize, write: impl FnOnce(&mut Writer)) {
        let mut part = Writer::default();
        write(&mut part);
        self.bytes[position..position + part.bytes.len()].copy_from_slice(&part.bytes);
    }

    /// Overwrites what lies at `position` with as many bytes.
    pub fn overwrite(&mut self, position: usize, bytes: &[u8]) {
        self.bytes[position..position + bytes.len()].copy_from_slice(bytes);
    }

    /// Makes room for `len` bytes that [`Writer::patch`] fills in later.
    pub fn reserve(&mut self, len: usize) {
        self.bytes.resize(self.bytes.len() + len, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::default();
        writer.u32(7);
        writer.u64(1 << 40);
        writer.bool(true);
        writer.opaque(b"hello");
        writer.array(b"fourfour");
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u32(), Ok(7));
        assert_eq!(reader.u64(), Ok(1 << 40));
        assert_eq!(reader.bool(), Ok(true));
        assert_eq!(reader.opaque(5), Ok(&b"hello"[..]));
        assert_eq!(reader.array(), Ok(*b"fourfour"));
        assert!(reader.rest().is_empty());
        assert_eq!(reader.u32(), Err(Malformed));
    }

    #[test]
    fn lengths_from_outside_are_checked_against_what_is_there() {
        let check =
            |bytes: &[u8], max| assert_eq!(Reader::new(bytes).opaque(max), Err(Malformed), "{bytes:?}");
        check(&[0xff, 0xff, 0xff, 0xff], usize::MAX);
        check(&[0, 0, 0, 5, 1, 2, 3, 4], usize::MAX);
        check(&[0, 0, 0, 3, 1, 2, 3], usize::MAX); // padding missing
        check(&[0, 0, 0, 4, 1, 2, 3, 4], 3);
        assert_eq!(Reader::new(&[0, 0, 0, 2]).bool(), Err(Malformed));
    }
}
