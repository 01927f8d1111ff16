//! Checks a writable layer that nobody has open, changing nothing.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::handle::ObjectKey;
use crate::writable::content::ContentStore;
use crate::writable::disk::Disk;
use crate::writable::extents::Source;
use crate::writable::log;
use crate::writable::record::Name;
use crate::writable::state::{Kind, State};
use crate::writable::{Meta, WritableError};

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects with a record.
    pub objects: u64,
    /// Of these, directories.
    pub directories: u64,
    /// Names, without whiteouts.
    pub names: u64,
    /// Names that hide something below.
    pub whiteouts: u64,
    /// Written bytes that are still there.
    pub bytes: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Bytes at the log's end that are no whole record: a write that nobody was told about.
    pub torn_bytes: u64,
    /// The epoch last written under.
    pub epoch: u64,
    /// What is wrong; empty if nothing is.
    pub problems: Vec<String>,
}

/// Checks the writable layer in `path`. The log must be readable; everything else that is wrong is in the report.
///
/// # Errors
/// As [`crate::writable::Writable::open`], but for locks and epochs.
pub fn fsck(path: &Path) -> Result<Report, WritableError> {
    fsck_on(&Disk::Host, path)
}

pub(crate) fn fsck_on(disk: &Disk, path: &Path) -> Result<Report, WritableError> {
    let missing = || WritableError::Missing {
        path: path.to_path_buf(),
    };
    let meta = Meta::read(disk, path)?.ok_or_else(missing)?;
    let replayed = log::replay(disk, path, meta.layer)?;
    let state = &replayed.state;
    let mut report = Report {
        objects: log::as_u64(state.objects.len()),
        bytes: state.bytes,
        log_bytes: replayed.bytes,
        torn_bytes: replayed.torn,
        epoch: replayed
            .chain
            .last()
            .map_or(0, |segment| segment.header.name.epoch),
        ..Report::default()
    };
    check_names(state, &mut report);
    check_content(state, &ContentStore::new(disk, path), &mut report);
    Ok(report)
}

fn check_names(state: &State, report: &mut Report) {
    let mut names: HashMap<ObjectKey, u32> = HashMap::new();
    let mut reached = HashSet::from([state.root()]);
    let mut todo = vec![state.root()];
    while let Some(key) = todo.pop() {
        let Some(dir) = state.objects.get(&key).and_then(|object| object.directory()) else {
            continue;
        };
        report.directories += 1;
        for (name, target) in &dir.entries {
            let Name::Object(child) = target else {
                report.whiteouts += 1;
                continue;
            };
            report.names += 1;
            *names.entry(*child).or_default() += 1;
            let shown = String::from_utf8_lossy(name);
            match state.objects.get(child) {
                None => report.problems.push(format!(
                    "the name `{shown}` leads to object {child:?}, which is not there"
                )),
                Some(object) => {
                    let parent = object.directory().map(|dir| dir.parent);
                    if parent.is_some_and(|parent| parent != key) {
                        report
                            .problems
                            .push(format!("directory `{shown}` does not know its parent"));
                    }
                    if reached.insert(*child) {
                        todo.push(*child);
                    } else if parent.is_some() {
                        report.problems.push(format!("directory `{shown}` has two names"));
                    }
                }
            }
        }
    }
    for (key, object) in &state.objects {
        let counted = names.get(key).copied().unwrap_or(0);
        let directory = matches!(object.kind, Kind::Directory(_));
        if !directory && counted != object.links {
            report.problems.push(format!(
                "object {key:?} has {counted} names and says {}",
                object.links
            ));
        }
        if !reached.contains(key) {
            report.problems.push(format!("no name leads to object {key:?}"));
        }
    }
}

fn check_content(state: &State, content: &ContentStore, report: &mut Report) {
    for (key, object) in &state.objects {
        let Some(file) = object.file() else { continue };
        let mut ends: HashMap<_, u64> = HashMap::new();
        for (_, end, source) in file.extents.iter() {
            if let Source::Content(id) = source {
                let known = ends.entry(id).or_default();
                *known = end.max(*known);
            }
            if end > file.size {
                report
                    .problems
                    .push(format!("object {key:?} has content beyond its size"));
            }
        }
        for (id, end) in ends {
            match content.len(id) {
                Ok(len) if len >= end => {}
                Ok(len) => report.problems.push(format!(
                    "content file {:016x}-{} has {len} bytes and should have {end}",
                    id.number, id.epoch
                )),
                Err(error) => {
                    report
                        .problems
                        .push(format!("content file {:016x}-{}: {error}", id.number, id.epoch));
                }
            }
        }
    }
    report.problems.sort();
}
