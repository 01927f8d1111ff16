//! One file of the log: a header, then framed records.
//!
//! ```text
//! header   magic 8 | format 4 | flags 4 | layer id 8 | epoch 8 | sequence 8
//!          | predecessor: sequence 8, epoch 8, sealed length 8, BLAKE3 of the sealed bytes 32 | check 16    = 112
//! record   payload length 4 | check 8 | durable 8 | payload
//! ```
//! All numbers are little-endian. A record's check covers its position, the segment's header, the durable mark and the
//! payload, and its key follows from the layer's secret: so bytes from elsewhere never pass for a record, and neither do
//! bytes that a guest has written into a file and that a crash has put where a record would be. (In format 1 the key was
//! made of the header alone; such segments are read, and gone on with under their epoch.) The *durable mark* is how much of the segment was
//! known to be on disk when the record was written: it is what tells a torn tail (never acknowledged, cut off) from
//! damage in the middle (refused).

use super::codec::{Malformed, Reader, Writer};
use crate::layer::LayerId;

const MAGIC: &[u8; 8] = b"xenolog\n";
/// The format this program begins segments in. It reads all up to this one.
pub(crate) const FORMAT: u32 = 2;
/// The first format whose checks need the layer's secret.
const FORMAT_KEYED: u32 = 2;
/// Bytes before the first record.
pub(crate) const HEADER: usize = 112;
/// Bytes before a record's payload.
pub(crate) const FRAME: usize = 20;
/// Longest payload. A record holds one operation; the longest is a copy-up of a file with very many names.
pub(crate) const PAYLOAD_MAX: usize = 16 << 20;

const CHECKPOINT: u32 = 1;

/// Where a segment stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentName {
    pub(crate) sequence: u64,
    pub(crate) epoch: u64,
}

impl SegmentName {
    /// Its file name.
    pub(crate) fn file_name(self) -> String {
        format!("{:010}-{:010}", self.sequence, self.epoch)
    }

    /// The segment a file name stands for; `None` for other files.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (sequence, epoch) = name.split_once('-')?;
        let parsed = Self {
            sequence: sequence.parse().ok()?,
            epoch: epoch.parse().ok()?,
        };
        (parsed.file_name() == name).then_some(parsed)
    }
}

/// The part of the predecessor that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) name: SegmentName,
    pub(crate) len: u64,
    pub(crate) hash: [u8; 32],
}

/// What the checks of a layer's records are made with.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LogKey(pub(crate) [u8; 32]);

impl std::fmt::Debug for LogKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogKey(secret)")
    }
}

/// The start of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) format: u32,
    pub(crate) layer: LayerId,
    pub(crate) name: SegmentName,
    /// Whether it holds the whole state, so that nothing before it is needed.
    pub(crate) checkpoint: bool,
    pub(crate) predecessor: Option<Sealed>,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(MAGIC);
        out.u32(self.format);
        out.u32(if self.checkpoint { CHECKPOINT } else { 0 });
        out.raw(&self.layer.0);
        out.u64(self.name.epoch);
        out.u64(self.name.sequence);
        let none = Sealed {
            name: SegmentName {
                sequence: 0,
                epoch: 0,
            },
            len: 0,
            hash: [0; 32],
        };
        let before = self.predecessor.unwrap_or(none);
        out.u64(before.name.sequence);
        out.u64(before.name.epoch);
        out.u64(before.len);
        out.raw(&before.hash);
        let check = blake3::hash(&out.bytes);
        out.raw(&check.as_bytes()[..16]);
        debug_assert_eq!(out.bytes.len(), HEADER);
        out.bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut from = Reader::new(bytes);
        if from.raw(8, "magic")? != MAGIC {
            return Err(Malformed::Value("magic").into());
        }
        let format = from.u32("format")?;
        if format == 0 || format > FORMAT {
            return Err(HeaderError::Format(format));
        }
        let checkpoint = match from.u32("flags")? {
            0 => false,
            CHECKPOINT => true,
            _ => return Err(Malformed::Value("flags").into()),
        };
        let layer = LayerId(from.array("layer")?);
        let (epoch, sequence) = (from.u64("epoch")?, from.u64("sequence")?);
        let name = SegmentName {
            sequence: from.u64("predecessor")?,
            epoch: from.u64("predecessor")?,
        };
        let (len, hash) = (from.u64("sealed length")?, from.array("sealed hash")?);
        let signed = from.position();
        let check = from.raw(16, "check")?;
        if blake3::hash(&bytes[..signed]).as_bytes()[..16] != *check {
            return Err(Malformed::Value("check").into());
        }
        Ok(Self {
            format,
            layer,
            name: SegmentName { sequence, epoch },
            checkpoint,
            predecessor: (len > 0).then_some(Sealed { name, len, hash }),
        })
    }

    /// What the checks of its records are bound to.
    pub(crate) fn binding(&self, key: &LogKey) -> [u8; 32] {
        let header = self.encode();
        let hash = if self.format < FORMAT_KEYED {
            blake3::hash(&header)
        } else {
            blake3::keyed_hash(&key.0, &header)
        };
        *hash.as_bytes()
    }
}

/// Why a header does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("the header is no header")]
    Malformed(#[from] Malformed),
    #[error("it is in format {0}, and this program knows those up to {FORMAT}")]
    Format(u32),
}

fn check(binding: &[u8; 32], position: u64, durable: u64, payload: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new_keyed(binding);
    hasher.update(&position.to_le_bytes());
    hasher.update(&durable.to_le_bytes());
    hasher.update(payload);
    let mut check = [0; 8];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    check
}

/// A payload with its frame, to be written at `position`.
pub(crate) fn frame(binding: &[u8; 32], position: u64, durable: u64, payload: &[u8]) -> Option<Vec<u8>> {
    let len = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= PAYLOAD_MAX)?;
    let mut framed = Vec::with_capacity(FRAME + payload.len());
    framed.extend_from_slice(&len.to_le_bytes());
    framed.extend_from_slice(&check(binding, position, durable, payload));
    framed.extend_from_slice(&durable.to_le_bytes());
    framed.extend_from_slice(payload);
    Some(framed)
}

/// A record found in a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framed<'a> {
    pub(crate) payload: &'a [u8],
    /// How much of the segment was known to be on disk when it was written.
    pub(crate) durable: u64,
    /// Bytes up to the next record.
    pub(crate) len: usize,
}

/// The record at the start of `bytes`, which are at `position` in their segment; `None` if there is none that passes.
pub(crate) fn unframe<'a>(binding: &[u8; 32], position: u64, bytes: &'a [u8]) -> Option<Framed<'a>> {
    let mut from = Reader::new(bytes);
    let len = usize::try_from(from.u32("length").ok()?)
        .ok()
        .filter(|&len| len <= PAYLOAD_MAX)?;
    let expected: [u8; 8] = from.array("check").ok()?;
    let durable = from.u64("durable").ok()?;
    let payload = from.raw(len, "payload").ok()?;
    let found = durable <= position && check(binding, position, durable, payload) == expected;
    found.then_some(Framed {
        payload,
        durable,
        len: FRAME + len,
    })
}

/// Whether a record after `position` in `rest` (which starts there) knew that what is at `position` was on disk.
///
/// If so, the bytes there were acknowledged once and are damaged; if not, they are a torn tail.
pub(crate) fn was_durable(binding: &[u8; 32], position: u64, rest: &[u8]) -> bool {
    (1..rest.len()).any(|skip| {
        let here = position.saturating_add(u64::try_from(skip).unwrap_or(u64::MAX));
        let mark = rest
            .get(skip + 12..skip + FRAME)
            .and_then(|mark| <[u8; 8]>::try_from(mark).ok());
        // The mark first: hashing at every byte of a long tail would take minutes.
        mark.map(u64::from_le_bytes)
            .is_some_and(|mark| mark > position && mark <= here)
            && unframe(binding, here, &rest[skip..]).is_some()
    })
}
