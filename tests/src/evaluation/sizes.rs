//! How large a tree is.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::lab::{LabError, LabResult};

/// How large a tree is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Bytes in regular files, each counted once however many names it has.
    pub bytes: u64,
    /// Regular files.
    pub files: u64,
    /// Everything that has a name.
    pub entries: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes in the ten largest files.
    pub ten_largest: u64,
}

impl Size {
    /// Measures the tree below `path`.
    ///
    /// # Errors
    /// [`LabError::Io`] naming what cannot be read.
    pub fn of(path: &Path) -> LabResult<Self> {
        let mut size = Self::default();
        let mut seen = BTreeSet::new();
        let mut lengths = Vec::new();
        let mut left = vec![path.to_owned()];
        while let Some(directory) = left.pop() {
            let failed = || LabError::io(format!("reading {}", directory.display()));
            for entry in std::fs::read_dir(&directory).map_err(failed())? {
                let entry = entry.map_err(failed())?;
                let metadata = entry.metadata().map_err(failed())?;
                size.entries += 1;
                if metadata.is_dir() {
                    size.directories += 1;
                    left.push(entry.path());
                } else if metadata.is_file() && seen.insert((metadata.dev(), metadata.ino())) {
                    size.files += 1;
                    size.bytes += metadata.len();
                    lengths.push(metadata.len());
                }
            }
        }
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        size.ten_largest = lengths.iter().take(10).sum();
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("d")).expect("a directory in it");
        std::fs::write(dir.path().join("d/a"), "12345").expect("a file");
        std::fs::hard_link(dir.path().join("d/a"), dir.path().join("b")).expect("another name");
        std::os::unix::fs::symlink("a", dir.path().join("c")).expect("a symlink");
        let size = Size::of(dir.path()).expect("it can be read");
        let expected = Size {
            bytes: 5,
            files: 1,
            entries: 4,
            directories: 1,
            ten_largest: 5,
        };
        assert_eq!(size, expected);
    }
}
