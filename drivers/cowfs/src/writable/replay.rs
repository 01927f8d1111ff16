//! Reading the log: which segments count, and what they say.
//!
//! Segments form a chain, each sealing the one before it; the newest under the highest epoch is its end, and a checkpoint its
//! beginning. What else lies in the folder was never answered for.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Mode};
use super::log::{FOLDER, as_u64, io_at};
use super::record::Record;
use super::segment::{self, HEADER, Header, HeaderError, Sealed, SegmentName, unframe, was_durable};
use super::state::{Position, State};
use super::{Meta, WritableError};
use crate::layer::LayerId;

/// What reading the log gave.
pub(crate) struct Replayed {
    pub(crate) state: State,
    /// The segments that count, oldest first.
    pub(crate) chain: Vec<Segment>,
    /// The highest epoch that any file is of, also one that holds nothing yet.
    pub(crate) epoch_seen: u64,
    /// Bytes of all segments of the chain.
    pub(crate) bytes: u64,
    /// Bytes at the end of the last segment that are no whole record.
    pub(crate) torn: u64,
    /// The end of the last segment, of which no record says that it was on disk.
    pub(super) unproven: Unproven,
    /// Files that were made and never got a header.
    pub(crate) unborn: Vec<PathBuf>,
    /// Segments that are not part of the chain: replaced by a checkpoint, or made by a server that lost its epoch.
    pub(crate) others: Vec<SegmentName>,
}

/// Bytes of a segment that may be in no more than the page cache.
#[derive(Default)]
pub(super) struct Unproven {
    pub(super) at: u64,
    pub(super) bytes: Vec<u8>,
}

/// One segment of the chain.
pub(crate) struct Segment {
    pub(crate) header: Header,
    pub(crate) path: PathBuf,
    /// Up to where it counts.
    pub(crate) len: u64,
    pub(crate) hash: [u8; 32],
}

impl Segment {
    pub(super) fn sealed(&self) -> Sealed {
        Sealed {
            name: self.header.name,
            len: self.len,
            hash: self.hash,
        }
    }
}

/// Reads the whole log of the layer in `dir`, changing nothing.
pub(crate) fn replay(disk: &Disk, dir: &Path, meta: &Meta) -> Result<Replayed, WritableError> {
    let folder = dir.join(FOLDER);
    let mut found = look(disk, &folder, meta.layer)?;
    let mut replayed = Replayed {
        state: State::new(meta.layer, meta.log_key()),
        chain: Vec::new(),
        epoch_seen: found.epoch_seen,
        bytes: 0,
        torn: 0,
        unproven: Unproven::default(),
        unborn: std::mem::take(&mut found.unborn),
        others: Vec::new(),
    };
    for (header, path, seal) in found.chain()? {
        let index = u32::try_from(replayed.chain.len()).unwrap_or(u32::MAX);
        let bytes = disk.read(&path).map_err(io_at("reading", &path))?;
        let damaged = |position: u64, what: String| WritableError::Damaged {
            file: path.clone(),
            position,
            what,
        };
        let counts = match seal {
            None => &bytes[..],
            Some(seal) => {
                let sealed = usize::try_from(seal.len).ok().and_then(|len| bytes.get(..len));
                let Some(sealed) = sealed else {
                    let what = format!("it was sealed at {} bytes and has {}", seal.len, bytes.len());
                    return Err(damaged(as_u64(bytes.len()), what));
                };
                if *blake3::hash(sealed).as_bytes() != seal.hash {
                    return Err(damaged(0, "its sealed part has changed".to_owned()));
                }
                sealed
            }
        };
        let (end, proven) = replay_segment(&header, index, counts, &mut replayed.state, &damaged)?;
        if seal.is_some() && end != counts.len() {
            return Err(damaged(
                as_u64(end),
                "its sealed part holds something that is no record".to_owned(),
            ));
        }
        replayed.bytes += as_u64(end);
        replayed.torn = as_u64(counts.len() - end);
        // The first record was written only once the header was on disk.
        let proven = if end == HEADER { 0 } else { proven };
        replayed.unproven = Unproven {
            at: as_u64(proven),
            bytes: bytes.get(proven..end).unwrap_or_default().to_vec(),
        };
        replayed.chain.push(Segment {
            header,
            path,
            len: as_u64(end),
            hash: *blake3::hash(&bytes[..end]).as_bytes(),
        });
    }
    replayed.state.unused.clear();
    replayed.state.cut.clear();
    replayed.others = found.headers.into_keys().collect();
    for segment in &replayed.chain {
        replayed.others.retain(|name| *name != segment.header.name);
    }
    Ok(replayed)
}

/// Reads a segment that holds a whole state and stands alone; returns its hash too.
pub(super) fn replay_alone(
    disk: &Disk,
    path: &Path,
    now: &State,
) -> Result<(State, [u8; 32]), WritableError> {
    let (layer, key) = (now.layer(), now.log_key());
    let bytes = disk.read(path).map_err(io_at("reading", path))?;
    let damaged = |position: u64, what: String| WritableError::Damaged {
        file: path.to_path_buf(),
        position,
        what,
    };
    let header = Header::decode(&bytes).map_err(|error| damaged(0, error.to_string()))?;
    if header.layer != layer || !header.checkpoint {
        return Err(damaged(0, "it is of another layer".to_owned()));
    }
    let mut state = State::new(layer, key);
    let (end, _) = replay_segment(&header, 0, &bytes, &mut state, &damaged)?;
    if end != bytes.len() {
        return Err(damaged(
            as_u64(end),
            "it holds something that is no record".to_owned(),
        ));
    }
    state.unused.clear();
    state.cut.clear();
    Ok((state, *blake3::hash(&bytes).as_bytes()))
}

/// Applies the records of one segment; returns where they end, and up to where they say themselves that they were on disk.
fn replay_segment(
    header: &Header,
    index: u32,
    bytes: &[u8],
    state: &mut State,
    damaged: &dyn Fn(u64, String) -> WritableError,
) -> Result<(usize, usize), WritableError> {
    let binding = header.binding(&state.log_key());
    let (mut at, mut proven) = (HEADER, HEADER);
    while at < bytes.len() {
        let position = as_u64(at);
        let Some(framed) = unframe(&binding, position, &bytes[at..]) else {
            if was_durable(&binding, position, &bytes[at..]) {
                return Err(damaged(
                    position,
                    "a record that was on disk does not pass its check".to_owned(),
                ));
            }
            return Ok((at, proven));
        };
        proven = proven.max(usize::try_from(framed.durable).unwrap_or(HEADER));
        let record = Record::decode(framed.payload).map_err(|error| match error {
            super::codec::Malformed::Newer(kind) => WritableError::Newer {
                file: PathBuf::from(header.name.file_name()),
                what: format!("a change of kind {kind}"),
            },
            error => damaged(position, error.to_string()),
        })?;
        let payload = position + as_u64(segment::FRAME);
        state
            .apply(
                record,
                Position {
                    segment: index,
                    payload,
                },
            )
            .map_err(|misfit| damaged(position, misfit.to_string()))?;
        at += framed.len;
    }
    Ok((at, proven))
}

/// The segments in the folder.
struct Found {
    headers: HashMap<SegmentName, (Header, PathBuf)>,
    unborn: Vec<PathBuf>,
    epoch_seen: u64,
}

fn look(disk: &Disk, folder: &Path, layer: LayerId) -> Result<Found, WritableError> {
    let mut found = Found {
        headers: HashMap::new(),
        unborn: Vec::new(),
        epoch_seen: 0,
    };
    let listing = match disk.list(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(io_at("listing", folder)(error)),
    };
    for name in listing {
        let path = folder.join(&name);
        let Some(name) = name.to_str().and_then(SegmentName::parse) else {
            continue;
        };
        found.epoch_seen = found.epoch_seen.max(name.epoch);
        let file = disk.open(&path, Mode::Read).map_err(io_at("opening", &path))?;
        let len = file.len().map_err(io_at("reading", &path))?;
        let mut bytes = vec![0; HEADER.min(usize::try_from(len).unwrap_or(HEADER))];
        file.read_exact_at(&mut bytes, 0)
            .map_err(io_at("reading", &path))?;
        match Header::decode(&bytes) {
            Ok(header) if header.layer == layer && header.name == name => {
                found.headers.insert(name, (header, path));
            }
            // Records come only after the header is on disk: a file without them may have been torn at its making.
            Err(HeaderError::Malformed(_)) if len <= as_u64(HEADER) => found.unborn.push(path),
            Err(HeaderError::Format(format)) => {
                return Err(WritableError::Newer {
                    file: path,
                    what: format!("format {format}"),
                });
            }
            Err(HeaderError::Malformed(error)) => {
                return Err(WritableError::Damaged {
                    file: path,
                    position: 0,
                    what: error.to_string(),
                });
            }
            Ok(_) => {
                let what = "its header is of another layer or segment".to_owned();
                return Err(WritableError::Damaged {
                    file: path,
                    position: 0,
                    what,
                });
            }
        }
    }
    Ok(found)
}

impl Found {
    /// The segments that count, oldest first, each with the seal its successor put on it.
    fn chain(&self) -> Result<Vec<(Header, PathBuf, Option<Sealed>)>, WritableError> {
        let mut chain = Vec::new();
        let newest = self
            .headers
            .values()
            .max_by_key(|(header, _)| (header.name.epoch, header.name.sequence));
        let mut next = newest.map(|(header, path)| (*header, path.clone(), None));
        while let Some((header, path, seal)) = next.take() {
            chain.push((header, path.clone(), seal));
            if header.checkpoint {
                break;
            }
            if let Some(seal) = header.predecessor {
                let before = self.headers.get(&seal.name).filter(|_| seal.name < header.name);
                let Some((before, path)) = before else {
                    let what = format!("the segment before it, {}, is missing", seal.name.file_name());
                    return Err(WritableError::Damaged {
                        file: path,
                        position: 0,
                        what,
                    });
                };
                next = Some((*before, path.clone(), Some(seal)));
            }
        }
        chain.reverse();
        Ok(chain)
    }
}
