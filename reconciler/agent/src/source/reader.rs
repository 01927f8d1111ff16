//! Reads manifests from an object database: no checkout, nothing followed, everything bounded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use git2::{ErrorCode, ObjectType, Odb, Oid, Repository};
use xeno_model::id::Revision;
use xeno_model::repository::{FileMode, RepositoryTree, TreeEntry};
use xeno_model::resolve::is_manifest;

use super::remote::check_form;
use super::{Limits, Problem, ProblemKind, RepositorySnapshot, SourceError, SourceFile};

/// A repository opened for reading. Not for sharing between threads.
pub struct Reader {
    pub(super) repository: Repository,
    path: PathBuf,
    limits: Limits,
    /// What is known of the files read last, by blob id: a push that changes one file asks for one file. Bounded by
    /// [`Limits::entries`] and [`Limits::total_bytes`], since only what the last snapshot holds is kept.
    kept: BTreeMap<Oid, Known>,
}

/// What is known of a blob.
#[derive(Clone)]
struct Known {
    size: u64,
    /// Its bytes, where it is read as a manifest somewhere.
    content: Option<Arc<[u8]>>,
}

impl Reader {
    /// Opens the repository at `path`: bare, or with a work tree around it.
    ///
    /// # Errors
    /// [`SourceError::Unsupported`] names forms of repository that cannot be read, [`SourceError::Open`] the rest.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        check_form(path)?;
        let repository = Repository::open(path).map_err(|source| SourceError::Open {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::of(repository))
    }

    /// Opens the repository that git's environment variables name, as a hook finds it.
    ///
    /// Objects of a push lie in a quarantine until the hook has agreed (git-receive-pack(1), "Quarantine
    /// Environment"): libgit2 honours `GIT_OBJECT_DIRECTORY` and `GIT_ALTERNATE_OBJECT_DIRECTORIES` here.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_from_env() -> Result<Self, SourceError> {
        let path = std::env::var_os("GIT_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
        check_form(&path)?;
        let repository = Repository::open_from_env().map_err(|source| SourceError::Open { path, source })?;
        let reader = Self::of(repository);
        for directory in quarantine() {
            if let Ok(odb) = reader.repository.odb() {
                // Best effort: where it is already the main directory, this adds nothing; where it is missing, reading
                // says so.
                let _ = odb.add_disk_alternate(&directory);
            }
        }
        Ok(reader)
    }

    fn of(repository: Repository) -> Self {
        let path = repository.path().to_owned();
        Self {
            repository,
            path,
            limits: Limits::default(),
            kept: BTreeMap::new(),
        }
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Directory of the repository: what `git rev-parse --git-dir` says.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The commit that a branch, tag, id or expression such as `HEAD~1` leads to.
    ///
    /// # Errors
    /// [`SourceError::NoCommit`] where it leads to none.
    pub fn resolve(&self, name: &str) -> Result<Revision, SourceError> {
        let no_commit = |source| SourceError::NoCommit {
            name: name.to_owned(),
            source,
        };
        let object = self.repository.revparse_single(name).map_err(no_commit)?;
        let commit = object.peel(ObjectType::Commit).map_err(no_commit)?;
        Ok(revision(commit.id()))
    }

    /// Whether `new` is `old` or descends from it. A commit that is not here descends from nothing.
    ///
    /// # Errors
    /// [`SourceError::Damaged`] where history cannot be walked.
    pub fn is_descendant(&self, new: &Revision, old: &Revision) -> Result<bool, SourceError> {
        let (new, old) = (self.commit_id(new)?, self.commit_id(old));
        match old {
            Ok(old) if old == new => Ok(true),
            Ok(old) => self
                .repository
                .graph_descendant_of(new, old)
                .map_err(|source| SourceError::Damaged {
                    what: "the history".to_owned(),
                    source,
                }),
            Err(SourceError::NoCommit { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The first parent of a commit, if it has one.
    ///
    /// # Errors
    /// [`SourceError::NoCommit`] where there is no such commit.
    pub fn parent(&self, of: &Revision) -> Result<Option<Revision>, SourceError> {
        let commit = self.find_commit(of)?;
        Ok(commit.parent_id(0).ok().map(revision))
    }

    /// First line of a commit's message, at most 100 characters, without control characters.
    ///
    /// # Errors
    /// [`SourceError::NoCommit`] where there is no such commit.
    pub fn subject(&self, of: &Revision) -> Result<String, SourceError> {
        let commit = self.find_commit(of)?;
        let message = String::from_utf8_lossy(commit.message_bytes()).into_owned();
        let line = message.lines().next().unwrap_or_default();
        Ok(line.chars().filter(|c| !c.is_control()).take(100).collect())
    }

    /// Everything below the directory `subpath` of a commit: the listing, and the content of the manifests.
    ///
    /// # Errors
    /// What concerns one file is a [`Problem`] in the snapshot. Errors are for a commit or directory that is not
    /// there, for limits on the whole, and for damage.
    pub fn read(&mut self, at: &Revision, subpath: &str) -> Result<RepositorySnapshot, SourceError> {
        let commit = self.find_commit(at)?;
        let mut root = commit.tree_id();
        let no_directory = || SourceError::NoDirectory {
            revision: at.clone(),
            path: subpath.to_owned(),
        };
        for part in subpath.split('/').filter(|part| !part.is_empty() && *part != ".") {
            let tree = self
                .repository
                .find_tree(root)
                .map_err(damaged("the tree of the commit"))?;
            let entry = tree.get_name(part).ok_or_else(no_directory)?;
            if entry.kind() != Some(ObjectType::Tree) {
                return Err(no_directory());
            }
            root = entry.id();
        }
        drop(commit);
        let odb = self.repository.odb().map_err(damaged("objects"))?;
        let mut walk = Walk {
            repository: &self.repository,
            odb,
            limits: self.limits,
            kept: std::mem::take(&mut self.kept),
            seen: 0,
            bytes: 0,
            files: Vec::new(),
            tree: RepositoryTree::default(),
            problems: Vec::new(),
            keep: BTreeMap::new(),
        };
        walk.directory(root)?;
        let Walk {
            mut files,
            tree,
            problems,
            keep,
            ..
        } = walk;
        self.kept = keep;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(RepositorySnapshot {
            revision: at.clone(),
            files,
            tree,
            problems,
        })
    }

    /// Content of a blob.
    ///
    /// # Errors
    /// [`SourceError::NoBlob`] where there is none, [`SourceError::Limit`] above [`Limits::blob_bytes`].
    pub fn blob(&self, id: &str) -> Result<Vec<u8>, SourceError> {
        let no_blob = || SourceError::NoBlob {
            id: id.chars().take(64).collect(),
        };
        let oid = Oid::from_str(id).map_err(|_| no_blob())?;
        let odb = self.repository.odb().map_err(|_| no_blob())?;
        let (size, kind) = odb.read_header(oid).map_err(|_| no_blob())?;
        if kind != ObjectType::Blob {
            return Err(no_blob());
        }
        over(&format!("blob {id}"), size as u64, self.limits.blob_bytes)?;
        let object = odb.read(oid).map_err(|source| SourceError::Damaged {
            what: format!("blob {id}"),
            source,
        })?;
        Ok(object.data().to_vec())
    }

    fn commit_id(&self, of: &Revision) -> Result<Oid, SourceError> {
        self.find_commit(of).map(|commit| commit.id())
    }

    fn find_commit(&self, of: &Revision) -> Result<git2::Commit<'_>, SourceError> {
        let no_commit = |source| SourceError::NoCommit {
            name: of.as_str().to_owned(),
            source,
        };
        let oid = Oid::from_str(of.as_str()).map_err(no_commit)?;
        self.repository
            .find_commit(oid)
            .map_err(|source| match source.code() {
                ErrorCode::NotFound => SourceError::NoCommit {
                    name: of.as_str().to_owned(),
                    source,
                },
                _ => SourceError::Damaged {
                    what: format!("commit {}", of.short()),
                    source,
                },
            })
    }
}

/// A commit's id as the model writes it.
pub(super) fn revision(oid: Oid) -> Revision {
    Revision::new(&oid.to_string()).expect("git writes ids as 40 hexadecimal digits")
}

struct Walk<'a> {
    repository: &'a Repository,
    odb: Odb<'a>,
    limits: Limits,
    kept: BTreeMap<Oid, Known>,
    seen: u64,
    bytes: u64,
    files: Vec<SourceFile>,
    tree: RepositoryTree,
    problems: Vec<Problem>,
    keep: BTreeMap<Oid, Known>,
}

impl Walk<'_> {
    /// Goes through everything below `root` with a list of its own: the depth of a tree is the pusher's choice, the
    /// depth of our stack is not.
    fn directory(&mut self, root: Oid) -> Result<(), SourceError> {
        let mut left = vec![(String::new(), 0_usize, root)];
        while let Some((prefix, depth, id)) = left.pop() {
            let what = || {
                if prefix.is_empty() {
                    "the root directory".to_owned()
                } else {
                    format!("directory {prefix}")
                }
            };
            let tree = self
                .repository
                .find_tree(id)
                .map_err(|source| SourceError::Damaged { what: what(), source })?;
            for entry in &tree {
                self.seen += 1;
                over(
                    "the repository, in files and directories",
                    self.seen,
                    self.limits.entries,
                )?;
                let Some(name) = usable_name(entry.name_bytes()) else {
                    let shown = format!(
                        "{prefix}{}",
                        String::from_utf8_lossy(entry.name_bytes()).escape_debug()
                    );
                    self.problem(shown, ProblemKind::Name);
                    continue;
                };
                let path = format!("{prefix}{name}");
                if path.len() > self.limits.path_bytes {
                    self.problem(path.chars().take(200).collect(), ProblemKind::PathTooLong);
                    continue;
                }
                match entry.filemode_raw() & 0o170_000 {
                    0o040_000 if depth + 1 >= self.limits.depth => self.problem(path, ProblemKind::TooDeep),
                    0o040_000 => left.push((format!("{path}/"), depth + 1, entry.id())),
                    0o120_000 => self.file(path, entry.id(), FileMode::Symlink)?,
                    0o160_000 => self.file(path, entry.id(), FileMode::Submodule)?,
                    _ if entry.filemode_raw() & 0o111 != 0 => {
                        self.file(path, entry.id(), FileMode::Executable)?
                    }
                    _ => self.file(path, entry.id(), FileMode::Regular)?,
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, path: String, id: Oid, mode: FileMode) -> Result<(), SourceError> {
        let mut known = self.known(&path, id, mode)?;
        let (blob, size) = (id.to_string(), known.size);
        self.tree.entries.insert(
            path.clone(),
            TreeEntry {
                blob: blob.clone(),
                size,
                mode,
            },
        );
        let max = self.limits.file_bytes;
        match mode {
            _ if !is_manifest(&path) => {}
            FileMode::Symlink | FileMode::Submodule => self.problem(path, ProblemKind::NotOrdinary(mode)),
            FileMode::Regular | FileMode::Executable if size > max => {
                self.problem(path, ProblemKind::TooLarge { size, max });
            }
            FileMode::Regular | FileMode::Executable => {
                self.bytes += size;
                over("the manifests, in bytes", self.bytes, self.limits.total_bytes)?;
                let files = self.files.len() as u64 + 1;
                over("the manifests, in files", files, self.limits.files)?;
                let content = match known.content.take() {
                    Some(content) => content,
                    None => Arc::from(self.odb.read(id).map_err(damaged(&path))?.data()),
                };
                known.content = Some(Arc::clone(&content));
                self.files.push(SourceFile { path, blob, content });
            }
        }
        // A submodule's id names a commit of another repository.
        if mode != FileMode::Submodule {
            self.keep.insert(id, known);
        }
        Ok(())
    }

    /// What is known of a file, or its size. For that only its header is inflated: a blob of a hundred megabytes costs no
    /// more than one of a hundred bytes.
    fn known(&mut self, path: &str, id: Oid, mode: FileMode) -> Result<Known, SourceError> {
        let none = |size| Known { size, content: None };
        if mode == FileMode::Submodule {
            return Ok(none(0));
        }
        // The same content may lie at several paths.
        if let Some(known) = self.kept.remove(&id).or_else(|| self.keep.get(&id).cloned()) {
            return Ok(known);
        }
        let (size, _) = self.odb.read_header(id).map_err(damaged(path))?;
        Ok(none(size as u64))
    }

    fn problem(&mut self, path: String, kind: ProblemKind) {
        // Each is one line of a report that shows a hundred; more would only cost memory.
        if self.problems.len() < 1000 {
            self.problems.push(Problem { path, kind });
        }
    }
}

/// A name that a path can be made of. Git itself never writes others; a hand-made tree may hold anything.
fn usable_name(bytes: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(bytes).ok()?;
    let bad = name.is_empty()
        || name == "."
        || name == ".."
        || name.contains('/')
        || name.contains(char::is_control);
    (!bad).then_some(name)
}

fn damaged(what: &str) -> impl FnOnce(git2::Error) -> SourceError {
    let what = what.to_owned();
    move |source| SourceError::Damaged { what, source }
}

fn over(what: &str, size: u64, max: u64) -> Result<(), SourceError> {
    if size > max {
        return Err(SourceError::Limit {
            what: what.to_owned(),
            size,
            max,
        });
    }
    Ok(())
}

fn quarantine() -> Vec<String> {
    let variable = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    let alternates = variable("GIT_ALTERNATE_OBJECT_DIRECTORIES");
    let own = [variable("GIT_QUARANTINE_PATH"), variable("GIT_OBJECT_DIRECTORY")];
    let listed = alternates
        .iter()
        .flat_map(|list| list.split(':'))
        .map(str::to_owned)
        .collect::<Vec<_>>();
    own.into_iter()
        .flatten()
        .chain(listed)
        .filter(|path| path.starts_with('/'))
        .collect()
}
