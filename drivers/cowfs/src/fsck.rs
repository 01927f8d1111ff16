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
use crate::writable::{Meta, WritableError, known_content, must_be_closed, replay, saved};

/// Most names of a path that are shown.
const NAMES_SHOWN: usize = 32;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Damage {
    /// The log, or the file that says who the layer is.
    Log,
    /// Names, links and parents do not fit each other.
    Names,
    /// Written bytes are gone.
    Content,
    /// A checkpoint cannot be gone back to.
    Checkpoint,
    /// A newer program has made it.
    Newer,
}

impl Damage {
    /// Its name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Names => "names",
            Self::Content => "content",
            Self::Checkpoint => "checkpoint",
            Self::Newer => "newer",
        }
    }

    /// What can be done.
    #[must_use]
    pub fn help(self) -> &'static str {
        match self {
            Self::Log => "put back a copy of the whole directory: the log is never guessed at",
            Self::Names => {
                "go back to a checkpoint, or put back a copy; this comes from a fault of the program: please report it"
            }
            Self::Content => {
                "put back the file from a copy of the directory, or go back to a checkpoint; all else can be served"
            }
            Self::Checkpoint => {
                "put back its files from a copy; without its .json the layer does not open, because it would overwrite what the checkpoint needs"
            }
            Self::Newer => "use the program that wrote it, or a newer one",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Of which kind.
    pub damage: Damage,
    /// What, in words.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.what.fmt(f)
    }
}

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
    /// Checkpoints.
    pub checkpoints: u64,
    /// Files that nothing needs: what a crash left, and what the next opening removes.
    pub leftovers: u64,
    /// What is wrong; empty if nothing is.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether what the layer holds was counted: without its log nothing is known, and every count is 0.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        let unread = |problem: &Problem| matches!(problem.damage, Damage::Log | Damage::Newer);
        !self.problems.iter().any(unread)
    }

    fn add(&mut self, damage: Damage, what: String) {
        self.problems.push(Problem { damage, what });
    }
}

/// Checks the writable layer in `path`, which nobody has open. Everything that is wrong is in the report.
///
/// # Errors
/// [`WritableError::Missing`] where there is no layer, [`WritableError::Busy`] while a server has it open: what it changes
/// meanwhile would look like damage. [`WritableError::Io`] where it cannot be read.
pub fn fsck(path: &Path) -> Result<Report, WritableError> {
    must_be_closed(path)?;
    let report = fsck_on(&Disk::Host, path);
    // One that was opened since then.
    must_be_closed(path)?;
    report
}

pub(crate) fn fsck_on(disk: &Disk, path: &Path) -> Result<Report, WritableError> {
    let missing = || WritableError::Missing {
        path: path.to_path_buf(),
    };
    let mut report = Report::default();
    let read = Meta::read(disk, path).and_then(|meta| {
        let meta = meta.ok_or_else(missing)?;
        replay::replay(disk, path, &meta)
    });
    let replayed = match read {
        Ok(replayed) => replayed,
        Err(error @ WritableError::Damaged { .. }) => {
            report.add(Damage::Log, error.to_string());
            return Ok(report);
        }
        Err(error @ WritableError::Newer { .. }) => {
            report.add(Damage::Newer, error.to_string());
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    let state = &replayed.state;
    report.objects = log::as_u64(state.objects.len());
    report.bytes = state.bytes;
    report.log_bytes = replayed.bytes;
    report.torn_bytes = replayed.torn;
    report.epoch = replayed
        .chain
        .last()
        .map_or(0, |segment| segment.header.name.epoch);
    report.leftovers = log::as_u64(replayed.unborn.len() + replayed.others.len());
    let content = ContentStore::new(disk, path);
    check_names(state, "", &mut report);
    check_content(state, &content, Damage::Content, "", &mut report);
    let mut needed = known_content(state);
    for name in state.saved.keys() {
        report.checkpoints += 1;
        let of = format!("checkpoint `{name}`: ");
        match saved::load(disk, path, state, name) {
            Ok((state, _)) => {
                let mut inner = Report::default();
                check_names(&state, &of, &mut inner);
                report.problems.append(&mut inner.problems);
                check_content(&state, &content, Damage::Checkpoint, &of, &mut report);
                needed.extend(known_content(&state));
            }
            Err(error) => report.add(Damage::Checkpoint, format!("{of}{error}")),
        }
    }
    if let Ok(there) = content.list() {
        report.leftovers += log::as_u64(there.iter().filter(|id| !needed.contains(id)).count());
    }
    report.problems.sort();
    Ok(report)
}

fn check_names(state: &State, of: &str, report: &mut Report) {
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
            let shown = shown(name);
            match state.objects.get(child) {
                None => report.add(
                    Damage::Names,
                    format!("{of}the name `{shown}` leads to object {child:?}, which is not there"),
                ),
                Some(object) => {
                    let parent = object.directory().map(|dir| dir.parent);
                    if parent.is_some_and(|parent| parent != key) {
                        report.add(
                            Damage::Names,
                            format!("{of}directory `{shown}` does not know its parent"),
                        );
                    }
                    if reached.insert(*child) {
                        todo.push(*child);
                    } else if parent.is_some() {
                        report.add(Damage::Names, format!("{of}directory `{shown}` has two names"));
                    }
                }
            }
        }
    }
    for (key, object) in &state.objects {
        let counted = names.get(key).copied().unwrap_or(0);
        let directory = matches!(object.kind, Kind::Directory(_));
        if !directory && counted != object.links {
            report.add(
                Damage::Names,
                format!("{of}object {key:?} has {counted} names and says {}", object.links),
            );
        }
        if !reached.contains(key) {
            report.add(Damage::Names, format!("{of}no name leads to object {key:?}"));
        }
    }
}

fn check_content(state: &State, content: &ContentStore, damage: Damage, of: &str, report: &mut Report) {
    // Only asked for once something is wrong.
    let mut names = None;
    for (key, object) in &state.objects {
        let Some(file) = object.file() else { continue };
        let mut ends: HashMap<_, u64> = HashMap::new();
        for (_, end, source) in file.extents.iter() {
            if let Source::Content(id) = source {
                let known = ends.entry(id).or_default();
                *known = end.max(*known);
            }
            if end > file.size {
                report.add(
                    Damage::Names,
                    format!("{of}object {key:?} has content beyond its size"),
                );
            }
        }
        for (id, end) in ends {
            let why = match content.len(id) {
                Ok(len) if len >= end => continue,
                Ok(len) => format!("has {len} bytes and should have {end}"),
                Err(error) => format!("cannot be read: {error}"),
            };
            let above = names.get_or_insert_with(|| above(state));
            let whose = path_of(*key, state.root(), above)
                .map_or_else(|| format!("object {key:?}"), |path| format!("`{path}`"));
            let path = content.path(id);
            report.add(
                damage,
                format!("{of}content of {whose}: `{}` {why}", path.display()),
            );
        }
    }
}

/// Where each object has a name: in which directory, and which one.
fn above(state: &State) -> HashMap<ObjectKey, (ObjectKey, &[u8])> {
    let mut above = HashMap::new();
    for (key, object) in &state.objects {
        let entries = object.directory().into_iter().flat_map(|dir| &dir.entries);
        for (name, target) in entries {
            if let Name::Object(child) = target {
                above.entry(*child).or_insert((*key, &name[..]));
            }
        }
    }
    above
}

/// A path of an object, as a guest calls it; `None` where there is none. A guest makes them as deep as it likes, so only the
/// last names of a long one are shown.
fn path_of(
    key: ObjectKey,
    root: ObjectKey,
    above: &HashMap<ObjectKey, (ObjectKey, &[u8])>,
) -> Option<String> {
    let mut names = Vec::new();
    let mut at = key;
    while at != root {
        if names.len() == NAMES_SHOWN {
            names.push("\u{2026}".to_owned());
            break;
        }
        let (parent, name) = above.get(&at)?;
        names.push(shown(name));
        at = *parent;
    }
    names.reverse();
    Some(format!("/{}", names.join("/")))
}

/// A name on one line, whatever a guest has put into it.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::LayerId;

    fn key(number: u64) -> ObjectKey {
        ObjectKey {
            layer: LayerId([1; 8]),
            number,
        }
    }

    #[test]
    fn a_path_is_one_line_and_no_longer_than_can_be_read() {
        let mut above = HashMap::from([
            (key(1), (key(0), b"etc".as_slice())),
            (key(2), (key(1), b"a\nhelp: b\x1b[2J".as_slice())),
        ]);
        let path = |number, above: &_| path_of(key(number), key(0), above);
        assert_eq!(path(0, &above).as_deref(), Some("/"));
        assert_eq!(
            path(2, &above).as_deref(),
            Some("/etc/a\u{fffd}help: b\u{fffd}[2J")
        );
        assert_eq!(path(9, &above), None);
        for depth in 3..1000 {
            above.insert(key(depth), (key(depth - 1), b"d"));
        }
        let deep = format!("/\u{2026}{}", "/d".repeat(NAMES_SHOWN));
        assert_eq!(path(999, &above), Some(deep.clone()));
        // Directories that are each other's are told as damage; asking for a path of one must end.
        above.insert(key(3), (key(999), b"d"));
        assert_eq!(path(999, &above), Some(deep));
    }
}
