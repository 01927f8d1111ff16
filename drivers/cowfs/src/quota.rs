//! How much a writable layer may hold: a bound that can be moved while the layer is in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stands for "no bound"; as a number of bytes no file system reaches it.
const NONE: u64 = u64::MAX;

/// Bytes of quota that come with the right to one record of an object: as many objects as an ext4 of that size made
/// for small files (`mke2fs -T news`) has inodes. Without such a bound, empty files would fill the disk of the node.
const BYTES_PER_OBJECT: u64 = 4096;

/// Objects that the smallest quota allows.
const OBJECTS_LEAST: u64 = 1024;

/// Most bytes of written content and most objects, shared between whoever sets them and the layer that keeps to them.
#[derive(Clone, Debug)]
pub struct Quota(Arc<Bounds>);

#[derive(Debug)]
struct Bounds {
    bytes: AtomicU64,
    objects: AtomicU64,
}

fn known(bound: &AtomicU64) -> Option<u64> {
    Some(bound.load(Ordering::Acquire)).filter(|bound| *bound != NONE)
}

impl Quota {
    /// A quota of so many bytes and the objects that come with them; `None` leaves both to the file system the layer is on.
    #[must_use]
    pub fn new(bytes: Option<u64>) -> Self {
        Self::with_objects(bytes, None)
    }

    /// A quota of so many bytes and so many objects; without a number of objects, those that come with the bytes.
    #[must_use]
    pub fn with_objects(bytes: Option<u64>, objects: Option<u64>) -> Self {
        Self(Arc::new(Bounds {
            bytes: AtomicU64::new(bytes.unwrap_or(NONE)),
            objects: AtomicU64::new(objects.unwrap_or(NONE)),
        }))
    }

    /// The bound on bytes as it is now.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        known(&self.0.bytes)
    }

    /// Most objects that may have a record in the layer.
    #[must_use]
    pub fn objects(&self) -> Option<u64> {
        let from_bytes = || Some((self.bytes()? / BYTES_PER_OBJECT).max(OBJECTS_LEAST));
        known(&self.0.objects).or_else(from_bytes)
    }

    /// Moves the bounds. A layer that holds more already keeps what it has and takes nothing new.
    pub fn set(&self, bytes: Option<u64>, objects: Option<u64>) {
        self.0.bytes.store(bytes.unwrap_or(NONE), Ordering::Release);
        self.0.objects.store(objects.unwrap_or(NONE), Ordering::Release);
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self::new(None)
    }
}

/// Reads an amount of bytes as the configuration file has it: a whole number directly followed by B, KiB, MiB, GiB or
/// TiB, at least one byte.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let digits = text.bytes().position(|b| !b.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let shift = ["B", "KiB", "MiB", "GiB", "TiB"]
        .iter()
        .position(|known| *known == unit)?;
    let factor = 1_u64 << (10 * shift);
    let bytes = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (bytes > 0 && bytes != NONE).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_a_unit_and_fit() {
        assert_eq!(parse("1GiB"), Some(1 << 30));
        assert_eq!(parse("512B"), Some(512));
        for text in [
            "",
            "1",
            "GiB",
            "1GB",
            "1 GiB",
            "1.5GiB",
            "-1B",
            "+1B",
            "0MiB",
            "16777216TiB",
            "1gib",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn objects_follow_bytes_unless_they_have_a_bound_of_their_own() {
        let quota = Quota::new(Some(1 << 30));
        assert_eq!(quota.objects(), Some(1 << 18));
        quota.set(Some(1), None);
        assert_eq!(quota.objects(), Some(OBJECTS_LEAST));
        quota.set(Some(1 << 30), Some(7));
        assert_eq!((quota.bytes(), quota.objects()), (Some(1 << 30), Some(7)));
        quota.set(None, Some(7));
        assert_eq!((quota.bytes(), quota.objects()), (None, Some(7)));
        quota.set(None, None);
        assert_eq!((quota.bytes(), quota.objects()), (None, None));
    }
}
