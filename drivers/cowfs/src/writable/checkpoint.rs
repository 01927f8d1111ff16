//! Compaction: the state as a segment of its own, so that what it replaces can go.
//!
//! A checkpoint is written at open, once the log holds more garbage than what lives. It appears by a rename, whole or
//! not at all; only then are the segments before it removed. A crash in between leaves both, and the checkpoint wins.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::WritableError;
use super::extents::{ContentId, Source};
use super::log::{FOLDER, Replayed, as_u64, io_at};
use super::meta::sync_dir;
use super::record::{Body, Change, Record};
use super::segment::{self, Header, SegmentName};
use super::state::{Kind, Object};
use crate::handle::ObjectKey;

/// A log below this many bytes is left alone: it replays in a few milliseconds.
const WORTHWHILE: u64 = 1 << 20;
/// Longer chains are made short whatever they hold: each segment is an open file.
const SEGMENTS_MAX: usize = 16;
/// Changes in one record of a checkpoint.
const CHANGES_MAX: usize = 256;
/// Written before it gets its name.
const TEMPORARY: &str = ".checkpoint";

/// Writes a checkpoint if that at least halves the log, or there are too many segments; says whether it has.
pub(super) fn write(dir: &Path, epoch: u64, replayed: &Replayed) -> Result<bool, WritableError> {
    let too_many = replayed.chain.len() >= SEGMENTS_MAX;
    let Some(last) = replayed
        .chain
        .last()
        .filter(|_| too_many || replayed.bytes >= WORTHWHILE)
    else {
        return Ok(false);
    };
    let sequence = last.header.name.sequence + 1;
    let name = SegmentName { sequence, epoch };
    let header = Header {
        layer: replayed.state.layer(),
        name,
        checkpoint: true,
        predecessor: None,
    };
    let mut bytes = header.encode();
    let binding = header.binding();
    for changes in snapshot(replayed)?.chunks(CHANGES_MAX) {
        let payload = Record {
            call: None,
            changes: changes.to_vec(),
        }
        .encode();
        let position = as_u64(bytes.len());
        // The whole file is on disk before it has a name: nothing in it can be a torn tail.
        let Some(framed) = segment::frame(&binding, position, position, &payload) else {
            return Ok(false);
        };
        bytes.extend_from_slice(&framed);
        if !too_many && as_u64(bytes.len()) > replayed.bytes / 2 {
            return Ok(false);
        }
    }
    let folder = dir.join(FOLDER);
    let temporary = folder.join(TEMPORARY);
    let doing = io_at("writing a checkpoint to", &temporary);
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary);
    let mut file = open.map_err(&doing)?;
    file.write_all(&bytes)
        .and_then(|()| file.sync_all())
        .map_err(&doing)?;
    fs::rename(&temporary, folder.join(name.file_name())).map_err(&doing)?;
    sync_dir(&folder).map_err(&doing)?;
    tracing::info!(
        before = replayed.bytes,
        after = bytes.len(),
        "the log of a writable layer has been compacted"
    );
    Ok(true)
}

/// Removes the segments that the checkpoint at the chain's start replaces.
pub(super) fn remove_replaced(dir: &Path, replayed: &Replayed) -> Result<(), WritableError> {
    let Some(first) = replayed.chain.first().filter(|first| first.header.checkpoint) else {
        return Ok(());
    };
    for name in replayed
        .others
        .iter()
        .filter(|name| name.sequence < first.header.name.sequence)
    {
        let path = dir.join(FOLDER).join(name.file_name());
        fs::remove_file(&path).map_err(io_at("removing a replaced segment", &path))?;
    }
    Ok(())
}

/// The changes that make the state from nothing.
fn snapshot(replayed: &Replayed) -> Result<Vec<Change>, WritableError> {
    let state = &replayed.state;
    let mut changes = vec![
        Change::Next { number: state.next },
        Change::Stack {
            layers: state.stack.clone(),
        },
    ];
    changes.extend(state.calls.iter().map(Change::Called));
    // Objects before the names that lead to them. In order, so that equal states give equal bytes.
    let mut objects: Vec<(&ObjectKey, &Object)> = state.objects.iter().collect();
    objects.sort_unstable_by_key(|(key, _)| **key);
    changes.extend(objects.iter().map(|(key, object)| make(**key, object)));
    for (key, object) in &objects {
        changes.extend(names(**key, object));
    }
    for (key, object) in &objects {
        changes.extend(content(**key, object, replayed)?);
    }
    Ok(changes)
}

fn make(key: ObjectKey, object: &Object) -> Change {
    let body = match &object.kind {
        Kind::File(file) => Body::File {
            size: file.size,
            base: file.base.clone(),
            verifier: file.verifier,
        },
        Kind::Directory(dir) => Body::Directory {
            parent: dir.parent,
            merge: dir.merge.clone(),
        },
        Kind::Symlink { target } => Body::Symlink {
            target: target.clone(),
        },
        Kind::Special { file_type, device } => Body::Special {
            file_type: *file_type,
            device: *device,
        },
    };
    Change::Make {
        key,
        links: object.links,
        attr: object.attr,
        body,
    }
}

fn names(dir: ObjectKey, object: &Object) -> impl Iterator<Item = Change> + '_ {
    let entries = object.directory().into_iter().flat_map(|dir| &dir.entries);
    entries.map(move |(name, target)| Change::Entry {
        dir,
        name: name.to_vec(),
        target: Some(*target),
    })
}

fn content(key: ObjectKey, object: &Object, replayed: &Replayed) -> Result<Vec<Change>, WritableError> {
    let mut changes: Vec<Change> = Vec::new();
    let mut ranges: Vec<(ContentId, Vec<(u64, u64)>)> = Vec::new();
    let extents = object.file().into_iter().flat_map(|file| file.extents.iter());
    for (start, end, source) in extents {
        match source {
            Source::Content(id) => match ranges.iter_mut().find(|(known, _)| *known == id) {
                Some((_, ranges)) => ranges.push((start, end)),
                None => ranges.push((id, vec![(start, end)])),
            },
            Source::Log {
                segment,
                at,
                file_offset,
            } => {
                let segment = usize::try_from(segment)
                    .ok()
                    .and_then(|index| replayed.chain.get(index));
                let Some(segment) = segment else {
                    unreachable!("a state refers to segments of its own chain only")
                };
                let mut bytes = vec![0; usize::try_from(end - start).unwrap_or_default()];
                let read = File::open(&segment.path)
                    .and_then(|file| file.read_exact_at(&mut bytes, at + (start - file_offset)));
                read.map_err(io_at("reading", &segment.path))?;
                changes.push(Change::Inline {
                    key,
                    offset: start,
                    bytes,
                    at: 0,
                });
            }
        }
    }
    changes.extend(
        ranges
            .into_iter()
            .map(|(content, ranges)| Change::Extents { key, content, ranges }),
    );
    Ok(changes)
}
