//! A fleet in somebody's working directory, and commits in it: the way in which commands change what is wanted.
//!
//! Intent lives in git and nowhere else, so a command that changes it edits manifests and commits them, as their author
//! would. It touches only files that hold nothing uncommitted, proves that the fleet still reads before anything is
//! written, and commits these files alone, whatever else is staged.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use clap::Args;
use git2::{ObjectType, Oid, RepositoryState, Status};
use xeno_agent::source::{Manifests, RepositorySnapshot, SourceFile};
use xeno_model::desired::DesiredFleet;
use xeno_model::manifest::{Kind, ParsedFile, parse_file};
use xeno_model::placement::Ground;
use xeno_model::repository::{FileMode, TreeEntry};
use xeno_model::resolve::is_manifest;

use crate::commits::show;
use crate::directory;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{self, GOOD, paint};
use crate::unified::unified;
use crate::whole_file;

/// Where and how a command changes what is wanted.
#[derive(Args)]
pub(crate) struct IntentArgs {
    /// The fleet's working directory [default: the nearest one upwards with a fleet.yaml].
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// Message of the commit.
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Shows what would be changed, and changes nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What one file is to become.
pub(crate) struct FileChange {
    /// Its path from the fleet's root.
    pub(crate) path: String,
    /// Its content from now on.
    pub(crate) content: Vec<u8>,
    /// Whether it may be executed; only where it is new.
    pub(crate) executable: bool,
}

/// A fleet in a working directory, as it is on disk.
pub(crate) struct Worktree {
    repository: git2::Repository,
    /// The repository's top directory.
    top: PathBuf,
    /// The fleet's root.
    root: PathBuf,
    /// The fleet's root from the top; empty where they are the same.
    below: String,
    snapshot: RepositorySnapshot,
    fleet: DesiredFleet,
}

impl Worktree {
    /// Opens the working directory that `args` name. It has to be in order.
    pub(crate) fn open(args: &IntentArgs) -> Outcome<Self> {
        let start = args.repo.as_deref().unwrap_or(Path::new("."));
        let root = directory::fleet_root(start);
        let repository = git2::Repository::discover(&root).map_err(|error| {
            Failure::doing(
                format_args!("find a repository around {}", root.display()),
                &error,
            )
        })?;
        let top = repository.workdir().map(Path::to_owned).ok_or_else(|| {
            Failure::said(format!("{} has no files to edit", repository.path().display()))
                .hint("name a clone with --repo, and push from there".to_owned())
        })?;
        let snapshot = directory::read(&root)?;
        let fleet = Manifests::default()
            .fleet(&snapshot)
            .map_err(|report| show(&report))?;
        Ok(Self {
            below: directory::below_repository(&root)?,
            repository,
            top,
            root,
            snapshot,
            fleet,
        })
    }

    /// What the files ask for.
    pub(crate) fn fleet(&self) -> &DesiredFleet {
        &self.fleet
    }

    /// What placements start from.
    pub(crate) fn survey(&self) -> Outcome<Ground> {
        Manifests::default()
            .survey(&self.snapshot)
            .map_err(|report| show(&report))
    }

    /// The repository.
    pub(crate) fn repository(&self) -> &git2::Repository {
        &self.repository
    }

    /// Where the fleet's root is in the repository.
    pub(crate) fn below(&self) -> &str {
        &self.below
    }

    /// Whether the fleet has a file of that path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.snapshot.tree.entries.contains_key(path)
    }

    /// The file that defines a name.
    pub(crate) fn defining(&self, kind: Kind, name: &str) -> Option<ParsedFile> {
        let mentions = |file: &&SourceFile| {
            let (content, name) = (&file.content, name.as_bytes());
            content.windows(name.len().max(1)).any(|part| part == name)
        };
        self.snapshot
            .files
            .iter()
            .filter(mentions)
            .map(|file| parse_file(&file.path, &file.content))
            .find(|file| file.names().any(|found| found == (kind, name)))
    }

    /// The content of a manifest.
    pub(crate) fn manifest(&self, path: &str) -> Option<&[u8]> {
        let file = self.snapshot.files.iter().find(|file| file.path == path)?;
        Some(&file.content)
    }

    /// What the fleet would ask for after some changes.
    pub(crate) fn after(&self, changes: &[FileChange]) -> Outcome<DesiredFleet> {
        let mut snapshot = self.snapshot.clone();
        for change in changes {
            let id = Oid::hash_object(ObjectType::Blob, &change.content)
                .map_err(|error| Failure::doing("hash a file", &error))?;
            let mode = if change.executable {
                FileMode::Executable
            } else {
                FileMode::Regular
            };
            let entry = TreeEntry {
                blob: id.to_string(),
                size: change.content.len() as u64,
                mode,
            };
            snapshot.tree.entries.insert(change.path.clone(), entry);
            snapshot.files.retain(|file| file.path != change.path);
            if is_manifest(&change.path) {
                snapshot.files.push(SourceFile {
                    path: change.path.clone(),
                    blob: id.to_string(),
                    content: Arc::from(change.content.as_slice()),
                });
            }
        }
        snapshot.files.sort_by(|a, b| a.path.cmp(&b.path));
        Manifests::default().fleet(&snapshot).map_err(|report| {
            let shown = show(&report);
            output::note("nothing was written: the fleet would not read any more");
            shown
        })
    }

    /// Shows the changes, and writes and commits them unless this is a dry run.
    pub(crate) fn commit(&self, args: &IntentArgs, message: &str, changes: &[FileChange]) -> Outcome {
        for change in changes {
            self.refuse_uncommitted(&change.path)?;
        }
        self.after(changes)?;
        for change in changes {
            let before = self.before(&change.path)?;
            let was = before
                .as_deref()
                .map_or("", |bytes| std::str::from_utf8(bytes).unwrap_or(""));
            let path = self.below_top(&change.path);
            let from = if before.is_some() {
                format!("a/{path}")
            } else {
                "/dev/null".to_owned()
            };
            let text = match std::str::from_utf8(&change.content) {
                Ok(is) => unified(was, is, &from, &format!("b/{path}")),
                Err(_) => format!("{path}: {}\n", output::bytes(change.content.len() as u64)),
            };
            output::styled(&text)?;
        }
        let message = args.message.as_deref().unwrap_or(message);
        if args.dry_run {
            output::note("nothing was written (--dry-run)");
            return Ok(Exit::Done);
        }
        let id = self.write_and_commit(message, changes)?;
        let subject = message.lines().next().unwrap_or_default();
        output::styled(&format!(
            "{} {id}: {}\n",
            paint(GOOD, "committed"),
            output::clean(subject)
        ))?;
        output::note("`git push` brings it to the nodes");
        Ok(Exit::Done)
    }

    /// A path of the fleet as the repository knows it.
    fn below_top(&self, path: &str) -> String {
        if self.below.is_empty() {
            path.to_owned()
        } else {
            format!("{}/{path}", self.below)
        }
    }

    /// What a file holds now; `None` if it is not there.
    fn before(&self, path: &str) -> Outcome<Option<Vec<u8>>> {
        let file = self.root.join(path);
        match fs::read(&file) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::doing(format_args!("read {}", file.display()), &error)),
        }
    }

    fn refuse_uncommitted(&self, path: &str) -> Outcome<()> {
        let state = self.repository.state();
        if state != RepositoryState::Clean {
            return Err(
                Failure::said("a merge, rebase or the like is under way in this repository")
                    .hint("finish it first".to_owned()),
            );
        }
        let path = self.below_top(path);
        match self.repository.status_file(Path::new(&path)) {
            Ok(Status::CURRENT) => Ok(()),
            Ok(_) => Err(
                Failure::said(format!("{path} has changes that are not committed"))
                    .hint("commit them or put them away with `git stash`; nothing was written".to_owned()),
            ),
            // Neither there nor known.
            Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(()),
            Err(error) => Err(Failure::doing(format_args!("ask git about {path}"), &error)),
        }
    }

    fn write_and_commit(&self, message: &str, changes: &[FileChange]) -> Outcome<String> {
        let mut undo = Vec::new();
        let done = changes
            .iter()
            .try_for_each(|change| {
                undo.push((change.path.clone(), self.before(&change.path)?));
                self.write(change)
            })
            .and_then(|()| self.git_commit(message, changes));
        if done.is_err() {
            // As it was: what git refused must not lie around half done.
            for (path, before) in undo {
                let file = self.root.join(&path);
                let restored = match before {
                    Some(content) => fs::write(&file, content),
                    None => fs::remove_file(&file),
                };
                if let Err(error) = restored {
                    output::note(&format!(
                        "{} could not be put back as it was: {error}",
                        file.display()
                    ));
                }
            }
            let names: Vec<String> = changes
                .iter()
                .map(|change| self.below_top(&change.path))
                .collect();
            // Only what was added for this commit; that there is nothing to take back is no failure.
            let _ = self.git(&["reset", "--quiet", "--"], &names);
        }
        done
    }

    fn write(&self, change: &FileChange) -> Outcome<()> {
        let file = self.root.join(&change.path);
        let mode = match fs::metadata(&file) {
            Ok(metadata) => metadata.permissions().mode(),
            Err(_) if change.executable => 0o755,
            Err(_) => 0o644,
        };
        whole_file::replace(&file, &change.content, Some(mode))
            .map_err(|error| Failure::doing(format_args!("write {}", file.display()), &error))
    }

    /// By git itself, so that hooks, identity and signing are those of every other commit here.
    fn git_commit(&self, message: &str, changes: &[FileChange]) -> Outcome<String> {
        let names: Vec<String> = changes
            .iter()
            .map(|change| self.below_top(&change.path))
            .collect();
        self.git(&["add", "--"], &names)?;
        self.git(&["commit", "--quiet", "--only", "-m", message, "--"], &names)?;
        let id = self.git(&["rev-parse", "--short=8", "HEAD"], &[])?;
        Ok(id.trim().to_owned())
    }

    fn git(&self, words: &[&str], paths: &[String]) -> Outcome<String> {
        let said = Command::new("git")
            .arg("-C")
            .arg(&self.top)
            .args(words)
            .args(paths)
            .output()
            .map_err(|error| Failure::doing("run git", &error))?;
        if said.status.success() {
            return Ok(String::from_utf8_lossy(&said.stdout).into_owned());
        }
        let why = format!(
            "{}{}",
            String::from_utf8_lossy(&said.stdout),
            String::from_utf8_lossy(&said.stderr)
        );
        let verb = words.first().copied().unwrap_or_default();
        Err(Failure::said(format!("git {verb} failed: {}", why.trim()))
            .hint("nothing was changed".to_owned()))
    }
}
