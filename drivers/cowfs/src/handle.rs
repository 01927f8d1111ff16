//! File handles: who an object is, in bytes that nobody else can make.
//!
//! ```text
//! version 1 | kind 1 | flags 2 | layer id 8 | number 8 | generation 4 | keyed MAC 16      = 40 bytes
//! ```
//!
//! A handle names an object by the layer it was born in and its number there, so it outlives copy-up, rename, restart
//! and a move to another machine; there is no path, host inode, pointer or start time in it. The MAC is BLAKE3 keyed
//! with the writable layer's secret: a guest cannot make a handle it was not given.

use crate::layer::{LayerId, NodeNumber};
use crate::service::{FsResult, Handle, Status};

const VERSION: u8 = 1;
const KIND_OBJECT: u8 = 1;
const SIGNED: usize = 24;
const MAC: usize = 16;

/// Bytes in a handle. The export adds a prefix of its own and 64 is the limit (RFC 1813 §2.4, `NFS3_FHSIZE`).
pub const HANDLE_BYTES: usize = SIGNED + MAC;

/// Names an object for good: the layer it was born in, and its number there. Copy-up does not change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The layer.
    pub layer: LayerId,
    /// The number in that layer.
    pub number: NodeNumber,
}

impl ObjectKey {
    /// The inode number: a mix of both parts, different for all objects of one layer, never 0.
    ///
    /// Collisions between layers are as likely as between random numbers of 64 bits.
    #[must_use]
    pub fn fileid(&self) -> u64 {
        let layer = mix(u64::from_be_bytes(self.layer.0));
        match mix(self.number.wrapping_add(layer)) {
            0 => layer | 1,
            id => id,
        }
    }
}

/// The finaliser of SplitMix64: a bijection, so numbers of one layer never collide.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Makes handles and takes them apart.
#[derive(Clone)]
pub struct HandleKey {
    key: [u8; 32],
}

impl std::fmt::Debug for HandleKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HandleKey(secret)")
    }
}

impl HandleKey {
    /// Takes the secret that handles are signed with.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// The handle of an object.
    #[must_use]
    pub fn seal(&self, object: ObjectKey) -> Handle {
        let mut bytes = [0; HANDLE_BYTES];
        bytes[0] = VERSION;
        bytes[1] = KIND_OBJECT;
        bytes[4..12].copy_from_slice(&object.layer.0);
        bytes[12..20].copy_from_slice(&object.number.to_be_bytes());
        let mac = self.mac(&bytes[..SIGNED]);
        bytes[SIGNED..].copy_from_slice(&mac);
        Handle::new(&bytes).unwrap_or_else(|| unreachable!("{HANDLE_BYTES} bytes fit a handle"))
    }

    /// The object a handle names.
    ///
    /// # Errors
    /// [`Status::BadHandle`] for anything [`HandleKey::seal`] has not made with the same secret.
    pub fn open(&self, handle: &Handle) -> FsResult<ObjectKey> {
        let bytes: &[u8; HANDLE_BYTES] = handle.as_bytes().try_into().map_err(|_| Status::BadHandle)?;
        let (signed, mac) = bytes.split_at(SIGNED);
        let differs = self
            .mac(signed)
            .iter()
            .zip(mac)
            .fold(0, |differs, (a, b)| differs | (a ^ b));
        if differs != 0 || signed[0] != VERSION || signed[1] != KIND_OBJECT {
            return Err(Status::BadHandle);
        }
        let mut layer = [0; 8];
        layer.copy_from_slice(&signed[4..12]);
        let mut number = [0; 8];
        number.copy_from_slice(&signed[12..20]);
        Ok(ObjectKey {
            layer: LayerId(layer),
            number: u64::from_be_bytes(number),
        })
    }

    /// A secret of its own for the checks of the log's records.
    pub(crate) fn for_the_log(&self) -> [u8; 32] {
        blake3::derive_key(
            "cowfs 2026-11 checks of the records of a writable layer's log",
            &self.key,
        )
    }

    /// A hash of `name` that nobody without the secret can aim at, for directory cookies.
    pub(crate) fn name_hash(&self, name: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.key, name);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_be_bytes(first)
    }

    fn mac(&self, signed: &[u8]) -> [u8; MAC] {
        let hash = blake3::keyed_hash(&self.key, signed);
        let mut mac = [0; MAC];
        mac.copy_from_slice(&hash.as_bytes()[..MAC]);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_opens_with_its_key_and_no_other() {
        let key = HandleKey::new([7; 32]);
        let object = ObjectKey {
            layer: LayerId(*b"template"),
            number: 42,
        };
        let handle = key.seal(object);
        assert_eq!(handle.as_bytes().len(), HANDLE_BYTES);
        assert_eq!(key.open(&handle), Ok(object));
        assert_eq!(HandleKey::new([8; 32]).open(&handle), Err(Status::BadHandle));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let key = HandleKey::new([7; 32]);
        let handle = key.seal(ObjectKey {
            layer: LayerId([1; 8]),
            number: 1,
        });
        for bit in 0..HANDLE_BYTES * 8 {
            let mut bytes = handle.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let forged = Handle::new(&bytes).expect("it is short enough");
            assert_eq!(key.open(&forged), Err(Status::BadHandle), "bit {bit}");
        }
        for len in 0..HANDLE_BYTES {
            let short = Handle::new(&handle.as_bytes()[..len]).expect("it is short enough");
            assert_eq!(key.open(&short), Err(Status::BadHandle));
        }
    }
}
