//! Files that look like manifests but are not read: each would be overlooked silently, and what it describes removed.

use std::collections::BTreeSet;

use super::{Resolver, is_manifest};
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::manifest::{Body, Kind, RawImage, RawLayer, RawSlice, Stated};
use crate::repository::FileMode;

impl<'a> Resolver<'a> {
    /// Manifests whose content is not in the commit.
    pub(super) fn refuse_odd_modes(&mut self) {
        for (path, entry) in &self.tree.entries {
            let what = match entry.mode {
                FileMode::Regular | FileMode::Executable => continue,
                FileMode::Symlink => "a symbolic link",
                FileMode::Submodule => "a submodule",
            };
            if is_manifest(path) {
                self.unread.add_everything();
                let message = format!("a manifest may not be {what}");
                self.findings.push(
                    Diagnostic::error(Code::NotOrdinary, Place::file(path), message)
                        .help("what a commit asks for must be in the commit; put the file itself here"),
                );
            }
        }
    }

    /// `*.yml`: only the name can be looked at here, so whatever no slice carries must say what it is.
    pub(super) fn refuse_other_endings(&mut self) {
        let suspects: Vec<&String> = self
            .tree
            .entries
            .keys()
            .filter(|path| other_ending(path))
            .collect();
        if suspects.is_empty() {
            return;
        }
        let Some(carried) = self.carried_paths() else {
            return;
        };
        for path in suspects {
            let mut above = path.match_indices('/').map(|(i, _)| &path[..i]);
            if carried.contains(path.as_str()) || above.any(|directory| carried.contains(directory)) {
                continue;
            }
            // Names that seem to be missing may be in there.
            self.unread.add_everything();
            let stem = path.rsplit_once('.').map_or(path.as_str(), |(stem, _)| stem);
            let message = "a manifest must end in .yaml: this file is not read, and no slice carries it";
            self.findings.push(
                Diagnostic::error(Code::Ending, Place::file(path), message)
                    .help(format!("if it is a manifest, rename it to {stem}.yaml"))
                    .help("if it belongs to another tool, put it outside the fleet's root or into a directory that begins with a dot"),
            );
        }
    }

    /// What slices carry from the repository: files and directories. `None` if that cannot be told for all of them.
    fn carried_paths(&self) -> Option<BTreeSet<&'a str>> {
        let mut paths = BTreeSet::new();
        if !self.unread.is_nothing() {
            return None;
        }
        for at in self.defined.values().chain(&self.again) {
            let document = at.document;
            match &document.body {
                Some(Body::Slice(raw)) => carried_by(raw, &mut paths)?,
                None if document.kind == Kind::Slice => return None,
                Some(
                    Body::Fleet(_)
                    | Body::Site(_)
                    | Body::Node(_)
                    | Body::Template(_)
                    | Body::Tenant(_)
                    | Body::Placement(_)
                    | Body::Moves(_),
                )
                | None => {}
            }
        }
        Some(paths)
    }
}

/// Adds what a slice carries from the repository; `None` if that cannot be told.
pub(super) fn carried_by<'r>(raw: &'r RawSlice, paths: &mut BTreeSet<&'r str>) -> Option<()> {
    carried_by_image(raw.image.as_ref()?, paths)?;
    let overrides = match &raw.overrides {
        Stated::Absent => return Some(()),
        Stated::Unclear => return None,
        Stated::Given(overrides) => overrides,
    };
    for with in overrides {
        match &with.as_ref()?.patch.as_ref()?.image {
            Stated::Absent => {}
            Stated::Unclear => return None,
            Stated::Given(image) => carried_by_image(image, paths)?,
        }
    }
    Some(())
}

fn carried_by_image<'r>(raw: &'r RawImage, paths: &mut BTreeSet<&'r str>) -> Option<()> {
    let mounts = match &raw.mounts {
        Stated::Absent => return Some(()),
        Stated::Unclear => return None,
        Stated::Given(mounts) => mounts,
    };
    for mount in mounts {
        match &mount.as_ref()?.layers {
            Stated::Absent => {}
            Stated::Unclear => return None,
            Stated::Given(layers) => {
                for layer in layers {
                    carried_in(layer.as_ref()?, paths)?;
                }
            }
        }
    }
    Some(())
}

fn carried_in<'r>(layer: &'r RawLayer, paths: &mut BTreeSet<&'r str>) -> Option<()> {
    let files = match &layer.files {
        Stated::Absent => return Some(()),
        Stated::Unclear => return None,
        Stated::Given(files) => files,
    };
    for file in files.known.values() {
        match &file.as_ref()?.from {
            Stated::Absent => {}
            Stated::Unclear => return None,
            Stated::Given(from) => {
                paths.insert(&from.0.0);
            }
        }
    }
    files.whole.then_some(())
}

/// Whether a file is not read as a manifest only because of how its ending is written.
pub(super) fn other_ending(path: &str) -> bool {
    let ending = path.rsplit('/').next().and_then(|name| name.rsplit_once('.'));
    let yaml = ending
        .is_some_and(|(_, ending)| ending.eq_ignore_ascii_case("yml") || ending.eq_ignore_ascii_case("yaml"));
    yaml && !is_manifest(path) && !path.split('/').any(|part| part.starts_with('.'))
}
