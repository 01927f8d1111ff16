//! A repository in memory, for tests: files by path, some of them links or submodules.

use std::collections::BTreeMap;
use std::path::Path;

use xeno_model::desired::DesiredFleet;
use xeno_model::diagnostic::Diagnostic;
use xeno_model::id::Digest;
use xeno_model::manifest::{ParsedFile, parse_file};
use xeno_model::placement::Ground;
use xeno_model::repository::{FileMode, RepositoryTree, TreeEntry};
use xeno_model::resolve::{is_manifest, resolve, survey};

/// Files and what kind they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repository {
    pub(crate) files: BTreeMap<String, (FileMode, Vec<u8>)>,
}

impl Repository {
    /// Reads a directory of this repository's own.
    pub(crate) fn read(directory: &Path) -> Self {
        let mut repository = Self::default();
        repository.read_below(directory, "");
        repository
    }

    fn read_below(&mut self, directory: &Path, prefix: &str) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                self.read_below(&entry.path(), &format!("{path}/"));
            } else {
                let bytes = std::fs::read(entry.path()).unwrap();
                self.files.insert(path, (FileMode::Regular, bytes));
            }
        }
    }

    /// Puts an ordinary file.
    pub(crate) fn put(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.files
            .insert(path.to_owned(), (FileMode::Regular, bytes.into()));
    }

    pub(crate) fn tree(&self) -> RepositoryTree {
        let entry = |(path, (mode, bytes)): (&String, &(FileMode, Vec<u8>))| {
            let entry = TreeEntry {
                blob: Digest::of(bytes).hex()[..40].to_owned(),
                size: bytes.len() as u64,
                mode: *mode,
            };
            (path.clone(), entry)
        };
        RepositoryTree {
            entries: self.files.iter().map(entry).collect(),
        }
    }

    pub(crate) fn parse(&self) -> Vec<ParsedFile> {
        self.files
            .iter()
            .filter(|(path, (mode, _))| {
                is_manifest(path) && matches!(mode, FileMode::Regular | FileMode::Executable)
            })
            .map(|(path, (_, bytes))| parse_file(path, bytes))
            .collect()
    }

    pub(crate) fn resolve(&self) -> Result<DesiredFleet, Vec<Diagnostic>> {
        let parsed = self.parse();
        resolve(&parsed.iter().collect::<Vec<_>>(), &self.tree())
    }

    pub(crate) fn survey(&self) -> Result<Ground, Vec<Diagnostic>> {
        let parsed = self.parse();
        survey(&parsed.iter().collect::<Vec<_>>(), &self.tree())
    }
}
