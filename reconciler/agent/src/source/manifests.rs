//! From a snapshot of the repository to the fleet it asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use xeno_model::desired::DesiredFleet;
use xeno_model::diagnostic::{Code, Diagnostic, Place, Report};
use xeno_model::manifest::{ParsedFile, parse_file};
use xeno_model::placement::Ground;
use xeno_model::repository::RepositoryTree;
use xeno_model::resolve::{resolve, survey};

use super::{Problem, ProblemKind, RepositorySnapshot};

/// Parses manifests, and keeps what it parsed: a push that changes one file of many parses one file.
///
/// Bounded by the limits of the snapshot, since only what the last one held is kept.
#[derive(Debug, Default)]
pub struct Manifests {
    kept: BTreeMap<(String, String), Arc<ParsedFile>>,
    parsed: usize,
}

impl Manifests {
    /// What a commit asks for.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once. It then asks for nothing: not for less.
    pub fn fleet(&mut self, snapshot: &RepositorySnapshot) -> Result<DesiredFleet, Report> {
        self.read(snapshot, resolve)
    }

    /// What slivers have to be placed on, with the locks that a commit has.
    ///
    /// # Errors
    /// Everything else that is wrong with it.
    pub fn survey(&mut self, snapshot: &RepositorySnapshot) -> Result<Ground, Report> {
        self.read(snapshot, survey)
    }

    fn read<T>(
        &mut self,
        snapshot: &RepositorySnapshot,
        resolve: impl FnOnce(&[&ParsedFile], &RepositoryTree) -> Result<T, Vec<Diagnostic>>,
    ) -> Result<T, Report> {
        let mut keep = BTreeMap::new();
        self.parsed = 0;
        for file in &snapshot.files {
            let key = (file.path.clone(), file.blob.clone());
            let parsed = match self.kept.remove(&key) {
                Some(parsed) => parsed,
                None => {
                    self.parsed += 1;
                    Arc::new(parse_file(&file.path, &file.content))
                }
            };
            keep.insert(key, parsed);
        }
        self.kept = keep;
        let too_large: Vec<ParsedFile> = snapshot.problems.iter().filter_map(too_large).collect();
        let files: Vec<&ParsedFile> = self.kept.values().map(Arc::as_ref).chain(&too_large).collect();
        let mut findings: Vec<Diagnostic> = snapshot.problems.iter().filter_map(diagnostic).collect();
        match resolve(&files, &snapshot.tree) {
            Ok(read) if findings.is_empty() => Ok(read),
            Ok(_) => Err(Report::new(findings)),
            Err(found) => {
                findings.extend(found);
                Err(Report::new(findings))
            }
        }
    }

    /// How many files the last call had to parse.
    #[must_use]
    pub fn parsed(&self) -> usize {
        self.parsed
    }
}

fn too_large(problem: &Problem) -> Option<ParsedFile> {
    match problem.kind {
        ProblemKind::TooLarge { size, .. } => Some(ParsedFile::too_large(&problem.path, size)),
        ProblemKind::NotOrdinary(_) | ProblemKind::Name | ProblemKind::PathTooLong | ProblemKind::TooDeep => {
            None
        }
    }
}

/// What the listing itself says (links, submodules) and what parsing says (size) is not said twice.
fn diagnostic(problem: &Problem) -> Option<Diagnostic> {
    let code = match problem.kind {
        ProblemKind::NotOrdinary(_) | ProblemKind::TooLarge { .. } => return None,
        ProblemKind::Name => Code::NotText,
        ProblemKind::PathTooLong | ProblemKind::TooDeep => Code::TooLarge,
    };
    let place = Place::file(&problem.path);
    Some(Diagnostic::error(code, place, problem.kind.message()).help(problem.kind.help()))
}
