//! Little-endian fields in a byte string, bounded on the way out.

/// What a decoder says about bytes that do not hold what they should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// Fewer bytes than the field needs.
    #[error("it ends in the middle of {0}")]
    Short(&'static str),
    /// A value that the field cannot have.
    #[error("{0} has an impossible value")]
    Value(&'static str),
    /// A kind of change this program does not know.
    #[error("it holds a change of kind {0}, which only a newer xeno understands")]
    Newer(u8),
    /// Bytes after the last field.
    #[error("it goes on after its end")]
    Trailing,
}

/// Appends fields.
#[derive(Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    /// A byte string with its length before it. Longer than `u32::MAX` never comes here: records are bounded.
    pub(crate) fn string(&mut self, value: &[u8]) {
        self.count(value.len());
        self.raw(value);
    }

    /// How many items follow.
    pub(crate) fn count(&mut self, items: usize) {
        self.u32(u32::try_from(items).unwrap_or(u32::MAX));
    }
}

/// Takes fields off the front.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How far it has read.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn raw(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(len).ok_or(Malformed::Short(what))?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed::Short(what))?;
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N, what)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64, Malformed> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn string(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.u32(what)?).map_err(|_| Malformed::Value(what))?;
        self.raw(len, what)
    }

    /// How many items follow, none of them smaller than `least` bytes: a bound on what the caller may reserve.
    pub(crate) fn count(&mut self, least: usize, what: &'static str) -> Result<usize, Malformed> {
        let count = usize::try_from(self.u32(what)?).map_err(|_| Malformed::Value(what))?;
        let left = self.bytes.len() - self.at;
        if count.checked_mul(least).is_none_or(|needed| needed > left) {
            return Err(Malformed::Short(what));
        }
        Ok(count)
    }

    pub(crate) fn done(&self) -> Result<(), Malformed> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(Malformed::Trailing)
        }
    }
}
