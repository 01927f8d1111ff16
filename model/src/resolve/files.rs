//! Files that slices carry in the repository.

use std::collections::BTreeMap;

use super::{At, Resolver};
use crate::desired::{CarriedContent, CarriedFile, FileSet};
use crate::diagnostic::{Code, Diagnostic, Place, nearest};
use crate::manifest::{Entries, FILES_MAX, FilePath, RawFile, Stated, Step, Text};
use crate::repository::{FileMode, TreeEntry};
use crate::units::Bytes;

/// Largest file a slice may carry: git is not a store for images.
pub const CARRIED_LEN_MAX: u64 = 64 << 20;
/// Most bytes that one `files:` layer may carry.
pub const SET_LEN_MAX: u64 = 256 << 20;

/// Names that mean "deleted" in a layer (OCI image layer specification, "Whiteouts").
const WHITEOUT: &str = ".wh.";

/// Most paths among which the nearest is looked for.
const COMPARED_MAX: usize = 5_000;

impl<'a> Resolver<'a> {
    /// Collects the files of one layer; `None` if one of them cannot be carried.
    pub(super) fn file_set(
        &mut self,
        at: At<'a>,
        path: &[Step<'_>],
        raw: &Entries<Text<FilePath>, RawFile>,
    ) -> Option<FileSet> {
        let before = self.findings.len();
        let mut set = FileSet {
            files: BTreeMap::new(),
        };
        let mut whole = raw.whole;
        for (target, raw) in &raw.known {
            let Some(raw) = raw else {
                whole = false;
                continue;
            };
            let target = target.0.0.as_str();
            let key = format!("/{target}");
            let entry = [path, &[Step::Key(&key)]].concat();
            let carried = self.carried(at, &entry, target, raw);
            whole &= carried.is_some();
            for (target, file) in carried.into_iter().flatten() {
                if target.split('/').any(|name| name.starts_with(WHITEOUT)) {
                    let message = format!("`/{target}`: a name may not begin with `{WHITEOUT}`");
                    let finding = Diagnostic::error(Code::File, at.key_place(&entry), message).help(
                        "that is how layers say that a file is deleted (OCI image layer specification)",
                    );
                    self.findings.push(finding);
                } else if let Some(other) = clash(&set, &target) {
                    let message = if other == target {
                        format!("`/{target}` is carried twice in this layer")
                    } else {
                        format!("`/{other}` and `/{target}`: one would have to be a file and a directory")
                    };
                    self.findings
                        .push(Diagnostic::error(Code::File, at.key_place(&entry), message));
                } else {
                    set.files.insert(target, file);
                }
            }
        }
        let bytes = set
            .files
            .values()
            .fold(0_u64, |sum, file| sum.saturating_add(len(file)));
        if set.files.len() > FILES_MAX || bytes > SET_LEN_MAX {
            let message = format!(
                "{} files with {} are too much for a layer",
                set.files.len(),
                Bytes(bytes)
            );
            let finding = Diagnostic::error(Code::Limit, at.key_place(path), message).help(format!(
                "at most {FILES_MAX} files and {}; larger things belong into a template",
                Bytes(SET_LEN_MAX)
            ));
            self.findings.push(finding);
        }
        (whole && self.findings.len() == before).then_some(set)
    }

    /// The files that one entry asks for, by their paths in the mount; `None` if that cannot be told.
    fn carried(
        &mut self,
        at: At<'a>,
        entry: &[Step<'_>],
        target: &str,
        raw: &RawFile,
    ) -> Option<Vec<(String, CarriedFile)>> {
        let from = match (&raw.from, &raw.text) {
            (Stated::Absent, Stated::Given(text)) => {
                let file = CarriedFile {
                    executable: raw.executable.read(false, |flag| Some(*flag))?,
                    content: CarriedContent::Inline(text.0.0.clone()),
                };
                return Some(vec![(target.to_owned(), file)]);
            }
            (Stated::Given(from), Stated::Absent) => from.0.0.as_str(),
            (Stated::Absent | Stated::Unclear | Stated::Given(_), _) => return None,
        };
        if raw.executable.given().is_some() {
            let step = [entry, &[Step::Key("executable")]].concat();
            let finding = Diagnostic::error(
                Code::BadValue,
                at.key_place(&step),
                "`executable` goes with `text` only",
            )
            .help("for a file of the repository git says it: git update-index --chmod=+x FILE");
            self.findings.push(finding);
        }
        let tree = self.tree;
        let from_path = [entry, &[Step::Key("from")]].concat();
        let place = || at.place(&from_path);
        if let Some(found) = tree.entries.get(from) {
            let file = self.file(&place, from, found)?;
            return Some(vec![(target.to_owned(), file)]);
        }
        // Links and submodules are entries of the tree, so what lies behind one can only be reached through its name.
        let parents = from.match_indices('/').map(|(i, _)| &from[..i]);
        if let Some((parent, found)) = parents
            .filter_map(|parent| Some((parent, tree.entries.get(parent)?)))
            .next()
        {
            if self.file(&place, parent, found).is_some() {
                let message = format!("`{parent}` is a file, so there is no `{from}`");
                self.findings
                    .push(Diagnostic::error(Code::File, place(), message));
            }
            return None;
        }
        let mut files = Vec::new();
        let mut count = 0_usize;
        for (path, found) in tree.below(from).take(FILES_MAX + 1) {
            count += 1;
            let below = &path[from.len() + 1..];
            files.extend(
                self.file(&place, path, found)
                    .map(|file| (format!("{target}/{below}"), file)),
            );
        }
        if count == 0 {
            let message = format!("there is no file or directory `{from}` in this commit");
            let mut finding = Diagnostic::error(Code::File, place(), message);
            let known = tree.entries.keys().map(String::as_str).take(COMPARED_MAX);
            finding
                .help
                .extend(nearest(from, known).map(|near| format!("did you mean `{near}`?")));
            self.findings.push(finding);
        }
        Some(files)
    }

    /// One file of the repository.
    fn file(&mut self, place: &dyn Fn() -> Place, path: &str, found: &TreeEntry) -> Option<CarriedFile> {
        let refusal = match found.mode {
            FileMode::Symlink => format!("`{path}` is a symbolic link, which cannot be carried"),
            FileMode::Submodule => format!("`{path}` is a submodule: its content is not in this commit"),
            FileMode::Regular | FileMode::Executable if found.size > CARRIED_LEN_MAX => {
                format!(
                    "`{path}` is too large: {} of at most {}",
                    Bytes(found.size),
                    Bytes(CARRIED_LEN_MAX)
                )
            }
            FileMode::Regular | FileMode::Executable => {
                return Some(CarriedFile {
                    executable: found.mode == FileMode::Executable,
                    content: CarriedContent::Blob {
                        id: found.blob.clone(),
                        size: found.size,
                    },
                });
            }
        };
        self.findings
            .push(Diagnostic::error(Code::File, place(), refusal));
        None
    }
}

/// The file of the set that cannot be there together with `target`.
fn clash<'s>(set: &'s FileSet, target: &'s str) -> Option<&'s str> {
    if set.files.contains_key(target) {
        return Some(target);
    }
    let parent = target
        .match_indices('/')
        .map(|(i, _)| &target[..i])
        .find(|parent| set.files.contains_key(*parent));
    parent.or_else(|| {
        let below = format!("{target}/");
        let (path, _) = set.files.range(below.clone()..).next()?;
        path.starts_with(&below).then_some(path.as_str())
    })
}

fn len(file: &CarriedFile) -> u64 {
    match &file.content {
        CarriedContent::Inline(text) => u64::try_from(text.len()).unwrap_or(u64::MAX),
        CarriedContent::Blob { size, .. } => *size,
    }
}
