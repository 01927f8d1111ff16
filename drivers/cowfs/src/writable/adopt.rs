//! Content of a holder that may not know yet that it has been replaced.
//!
//! A holder writes in place to the content files of its own epoch, and its log is sealed when the next one comes: but no
//! seal keeps it from a write it was about to make. Where locks of the file system prove that it is gone, or it has said in
//! its log that it will write no more, its files are taken as they are. Otherwise everything the log says of them is copied
//! to files of the new epoch before the layer is served, and nobody looks at the old ones again.

use std::io;

use super::WritableError;
use super::content::ContentStore;
use super::extents::{ContentId, Source};
use super::log::{self, Log};
use super::record::Change;
use super::state::State;
use crate::handle::ObjectKey;

/// Bytes copied at a time.
const PIECE: usize = 1 << 20;
/// Ranges in one record.
const RANGES_MAX: usize = 65_536;

/// A content file, where it is used.
struct Used {
    key: ObjectKey,
    content: ContentId,
    ranges: Vec<(u64, u64)>,
}

/// Makes the content that earlier epochs have left the business of `epoch` alone.
pub(super) fn adopt(
    log: &Log,
    content: &ContentStore,
    state: &mut State,
    epoch: u64,
) -> Result<(), WritableError> {
    let failed = |doing| {
        let path = log.folder().to_path_buf();
        move |source| WritableError::Io { doing, path, source }
    };
    let left_alone = log.is_alone() || state.closed;
    let used = if left_alone {
        Vec::new()
    } else {
        used(state, epoch)
    };
    for one in &used {
        let copied = ContentId {
            number: one.content.number,
            epoch,
        };
        copy(content, one, copied).map_err(failed("copying content of an earlier holder of"))?;
        for ranges in one.ranges.chunks(RANGES_MAX) {
            let change = Change::Extents {
                key: one.key,
                content: copied,
                ranges: ranges.to_vec(),
            };
            log::append_change(log, state, change).map_err(failed("taking over"))?;
        }
    }
    log::append_change(log, state, Change::Adopted { epoch }).map_err(failed("taking over"))?;
    if !used.is_empty() {
        tracing::info!(files = used.len(), "content of an earlier holder has been copied");
    }
    log.settle(log.end())
        .map_err(io::Error::other)
        .map_err(failed("taking over"))
}

/// What is in files that an earlier holder may still write to.
fn used(state: &State, epoch: u64) -> Vec<Used> {
    let mut used: Vec<Used> = Vec::new();
    for (&key, object) in &state.objects {
        let first = used.len();
        for (start, end, source) in object.file().into_iter().flat_map(|file| file.extents.iter()) {
            let Source::Content(content) = source else {
                continue;
            };
            if content.epoch < state.frozen || content.epoch >= epoch {
                continue;
            }
            match used[first..].iter_mut().find(|one| one.content == content) {
                Some(one) => one.ranges.push((start, end)),
                None => used.push(Used {
                    key,
                    content,
                    ranges: vec![(start, end)],
                }),
            }
        }
    }
    used.sort_unstable_by_key(|one| one.content);
    used
}

fn copy(content: &ContentStore, from: &Used, to: ContentId) -> io::Result<()> {
    let old = content.open_to_read(from.content)?;
    let new = content.create(to)?;
    let mut buffer = vec![0; PIECE];
    for &(start, end) in &from.ranges {
        let mut at = start;
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let piece = &mut buffer[..count];
            old.read_exact_at(piece, at)?;
            new.write_all_at(piece, at)?;
            at += log::as_u64(count);
        }
    }
    new.sync()?;
    content.sync_name(to)
}
