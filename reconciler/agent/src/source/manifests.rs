//! From a snapshot of the repository to the fleet it asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use xeno_model::desired::DesiredFleet;
use xeno_model::diagnostic::{Code, Diagnostic, Place, Report};
use xeno_model::manifest::{ParsedFile, parse_file};
use xeno_model::placement::Ground;
use xeno_model::repository::RepositoryTree;
use xeno_model::resolve::{Successive, survey};

use super::{Problem, ProblemKind, RepositorySnapshot, SourceFile};

/// Parses and resolves commit after commit, and keeps what they have in common: a push that changes one file of many
/// parses one file, and resolves what is in it.
///
/// Bounded by the limits of the snapshot, since only what the last one held is kept, and the last one without mistakes.
#[derive(Debug, Default)]
pub struct Manifests {
    kept: BTreeMap<(String, String), Arc<ParsedFile>>,
    resolving: Successive,
    parsed: usize,
}

impl Manifests {
    /// What a commit asks for.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once. It then asks for nothing: not for less.
    pub fn fleet(&mut self, snapshot: &RepositorySnapshot) -> Result<DesiredFleet, Report> {
        self.read(snapshot, Successive::resolve)
    }

    /// What slivers have to be placed on, with the locks that a commit has.
    ///
    /// # Errors
    /// Everything else that is wrong with it.
    pub fn survey(&mut self, snapshot: &RepositorySnapshot) -> Result<Ground, Report> {
        self.read(snapshot, |_, files, tree| {
            let files: Vec<&ParsedFile> = files.iter().map(Arc::as_ref).collect();
            survey(&files, tree)
        })
    }

    fn read<T>(
        &mut self,
        snapshot: &RepositorySnapshot,
        resolve: impl FnOnce(&mut Successive, &[Arc<ParsedFile>], &RepositoryTree) -> Result<T, Vec<Diagnostic>>,
    ) -> Result<T, Report> {
        self.parse(&snapshot.files);
        let too_large = snapshot.problems.iter().filter_map(too_large).map(Arc::new);
        let files: Vec<Arc<ParsedFile>> = self.kept.values().cloned().chain(too_large).collect();
        let mut findings: Vec<Diagnostic> = snapshot.problems.iter().filter_map(diagnostic).collect();
        match resolve(&mut self.resolving, &files, &snapshot.tree) {
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

    fn parse(&mut self, files: &[SourceFile]) {
        let mut keep = BTreeMap::new();
        let mut new = Vec::new();
        for file in files {
            let key = (file.path.clone(), file.blob.clone());
            match self.kept.remove(&key) {
                Some(parsed) => drop(keep.insert(key, parsed)),
                None => new.push(file),
            }
        }
        self.parsed = new.len();
        let parsed = parse_all(&new);
        keep.extend(new.into_iter().zip(parsed).map(|(file, parsed)| {
            let key = (file.path.clone(), file.blob.clone());
            (key, Arc::new(parsed))
        }));
        self.kept = keep;
    }
}

/// Files that one thread parses sooner than it could be told to.
const PARSED_ALONE: usize = 64;

/// Parses files, all cores at it where there are many. The result is that of parsing one after the other.
fn parse_all(files: &[&SourceFile]) -> Vec<ParsedFile> {
    let parse = |file: &&SourceFile| parse_file(&file.path, &file.content);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if files.len() < PARSED_ALONE || threads == 1 {
        return files.iter().map(parse).collect();
    }
    let share = files.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let shares: Vec<_> = files
            .chunks(share)
            .map(|chunk| scope.spawn(move || chunk.iter().map(parse).collect::<Vec<_>>()))
            .collect();
        let joined = shares.into_iter().flat_map(|parsing| match parsing.join() {
            Ok(parsed) => parsed,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
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
