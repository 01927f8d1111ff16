//! A directory as if it were a commit: for looking at manifests before they are committed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use git2::{ObjectType, Oid};
use xeno_agent::source::{Limits, Problem, ProblemKind, RepositorySnapshot, SourceFile};
use xeno_model::id::Revision;
use xeno_model::repository::{FileMode, RepositoryTree, TreeEntry};
use xeno_model::resolve::is_manifest;

use crate::failure::{Failure, Outcome};

/// Stands for "not a commit" where a revision is asked for.
const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

/// Reads everything below `root`, but for `.git`. Symbolic links are listed and not followed, as in a commit.
pub(crate) fn read(root: &Path) -> Outcome<RepositorySnapshot> {
    let limits = Limits::default();
    let mut snapshot = RepositorySnapshot {
        revision: Revision::new(NO_COMMIT).expect("40 zeros are hexadecimal digits"),
        files: Vec::new(),
        tree: RepositoryTree::default(),
        problems: Vec::new(),
    };
    let mut left = vec![(String::new(), root.to_owned())];
    let mut seen = 0;
    while let Some((prefix, directory)) = left.pop() {
        let failed =
            |error: std::io::Error| Failure::doing(format_args!("read {}", directory.display()), &error);
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            seen += 1;
            if seen > limits.entries {
                return Err(Failure::said(format!(
                    "{} holds more than {} files and directories",
                    root.display(),
                    limits.entries
                ))
                .hint("name the directory that fleet.yaml is in".to_owned()));
            }
            let name = entry.file_name();
            if name == ".git" {
                continue;
            }
            let Some(name) = name.to_str() else {
                let path = format!("{prefix}{}", name.to_string_lossy());
                snapshot.problems.push(Problem {
                    path,
                    kind: ProblemKind::Name,
                });
                continue;
            };
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().map_err(failed)?;
            if path.len() > limits.path_bytes {
                snapshot.problems.push(Problem {
                    path,
                    kind: ProblemKind::PathTooLong,
                });
            } else if kind.is_dir() && entry.path().join(".git").exists() {
                // A repository of its own: git commits it as a submodule, by id alone.
                list(&mut snapshot, path, FileMode::Submodule, 0, &Oid::ZERO_SHA1);
            } else if kind.is_dir() {
                left.push((format!("{path}/"), entry.path()));
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).map_err(failed)?;
                let target = target.as_os_str().as_encoded_bytes();
                list(
                    &mut snapshot,
                    path,
                    FileMode::Symlink,
                    target.len() as u64,
                    &hash(target)?,
                );
            } else if kind.is_file() {
                file(&mut snapshot, path, &entry.path(), limits)?;
            }
            // Sockets, pipes and devices cannot be committed.
        }
    }
    snapshot.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(snapshot)
}

/// The nearest directory, from `start` upwards, that has a `fleet.yaml`; `start` itself where there is none.
pub(crate) fn fleet_root(start: &Path) -> PathBuf {
    let absolute = fs::canonicalize(start).unwrap_or_else(|_| start.to_owned());
    let found = absolute
        .ancestors()
        .find(|directory| directory.join(xeno_model::resolve::FLEET_FILE).is_file());
    found.map_or_else(|| start.to_owned(), Path::to_owned)
}

/// Where a fleet's root is in the repository around it, from that one's top; empty where there is none around it.
pub(crate) fn below_repository(root: &Path) -> Outcome<String> {
    let Ok(repository) = git2::Repository::discover(root) else {
        return Ok(String::new());
    };
    let Some(top) = repository.workdir() else {
        return Ok(String::new());
    };
    let resolved = |path: &Path| {
        fs::canonicalize(path)
            .map_err(|error| Failure::doing(format_args!("find {}", path.display()), &error))
    };
    let below = resolved(root)?;
    let below = below.strip_prefix(resolved(top)?).unwrap_or(Path::new(""));
    let text = below.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::said(format!("the path {} is not UTF-8", below.display())))
}

fn file(snapshot: &mut RepositorySnapshot, path: String, at: &Path, limits: Limits) -> Outcome<()> {
    let failed = |error: std::io::Error| Failure::doing(format_args!("read {}", at.display()), &error);
    let metadata = fs::metadata(at).map_err(failed)?;
    let mode = if metadata.permissions().mode() & 0o100 == 0 {
        FileMode::Regular
    } else {
        FileMode::Executable
    };
    if !is_manifest(&path) {
        let id = Oid::hash_file(ObjectType::Blob, at)
            .map_err(|error| Failure::doing(format_args!("read {}", at.display()), &error))?;
        list(snapshot, path, mode, metadata.len(), &id);
        return Ok(());
    }
    if metadata.len() > limits.file_bytes {
        snapshot.problems.push(Problem {
            path,
            kind: ProblemKind::TooLarge {
                size: metadata.len(),
                max: limits.file_bytes,
            },
        });
        return Ok(());
    }
    let content = fs::read(at).map_err(failed)?;
    let id = hash(&content)?;
    list(snapshot, path.clone(), mode, content.len() as u64, &id);
    snapshot.files.push(SourceFile {
        path,
        blob: id.to_string(),
        content: Arc::from(content),
    });
    Ok(())
}

fn list(snapshot: &mut RepositorySnapshot, path: String, mode: FileMode, size: u64, id: &Oid) {
    snapshot.tree.entries.insert(
        path,
        TreeEntry {
            blob: id.to_string(),
            size,
            mode,
        },
    );
}

fn hash(bytes: &[u8]) -> Outcome<Oid> {
    Oid::hash_object(ObjectType::Blob, bytes).map_err(|error| Failure::doing("hash a file", &error))
}
