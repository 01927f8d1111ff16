//! The node's own bare copy of one branch.
//!
//! It is a cache: git is the truth, so a damaged mirror is made anew beside the old one and put in its place when
//! whole. It never collects garbage, so a commit that was once accepted stays readable after the branch was
//! rewritten; when too many packs have gathered, one new mirror takes over what the old one holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use git2::{
    AutotagOption, Direction, ErrorClass, ErrorCode, FetchOptions, Oid, Repository, RepositoryInitOptions,
};
use xeno_model::id::Revision;

use super::reader::{Reader, revision};
use super::remote::{callbacks, check_form, remedy, unreadable_key};
use super::{Fetched, Relation, RepositorySnapshot, SourceConfig, SourceError};

/// Packs in a mirror before it is made anew. Each fetch brings one, and lookups ask every pack.
const PACKS_MAX: usize = 200;

/// How long a connection may stay silent. The whole fetch has its own deadline.
const SILENCE: Duration = Duration::from_secs(30);

/// The mirror of one branch. All calls block.
pub struct Mirror {
    config: SourceConfig,
    reader: Option<Reader>,
    damaged: bool,
    pub(super) packs_max: usize,
}

impl Mirror {
    /// A mirror that is opened, or made, when it is first needed.
    #[must_use]
    pub fn new(config: SourceConfig) -> Self {
        limit_silence();
        Self {
            config,
            reader: None,
            damaged: false,
            packs_max: PACKS_MAX,
        }
    }

    /// See [`super::Source::fetch`].
    ///
    /// # Errors
    /// See there.
    pub fn fetch(&mut self, known: Option<&Revision>) -> Result<Fetched, SourceError> {
        let deadline = Instant::now() + self.config.timeout;
        let tip = if self.damaged || self.open().is_err() {
            self.remake(deadline, None)?
        } else if packs(&self.config.mirror) > self.packs_max {
            self.remake(deadline, Some(known))?
        } else {
            let config = self.config.clone();
            match fetch_into(&self.open()?.repository, &config, deadline) {
                Ok(tip) => tip,
                Err(SourceError::Damaged { .. }) => self.remake(deadline, None)?,
                Err(error) => return Err(error),
            }
        };
        let tip = revision(tip);
        let relation = match known {
            None => Relation::First,
            Some(known) if *known == tip => Relation::Same,
            Some(known) if self.is_descendant(&tip, known)? => Relation::Descendant,
            Some(_) if self.config.accept_rewrites => Relation::Rewritten,
            Some(known) => {
                return Err(SourceError::Rewritten {
                    branch: self.config.branch.clone(),
                    known: known.clone(),
                    tip,
                });
            }
        };
        Ok(Fetched {
            revision: tip,
            relation,
        })
    }

    /// See [`Reader::read`].
    ///
    /// # Errors
    /// See there.
    pub fn read(&mut self, at: &Revision, subpath: &str) -> Result<RepositorySnapshot, SourceError> {
        let read = self.open()?.read(at, subpath);
        self.note(read)
    }

    /// See [`Reader::blob`].
    ///
    /// # Errors
    /// See there.
    pub fn blob(&mut self, id: &str) -> Result<Vec<u8>, SourceError> {
        let read = self.open()?.blob(id);
        self.note(read)
    }

    /// See [`Reader::subject`].
    ///
    /// # Errors
    /// See there.
    pub fn subject(&mut self, of: &Revision) -> Result<String, SourceError> {
        let read = self.open()?.subject(of);
        self.note(read)
    }

    /// See [`Reader::is_descendant`].
    ///
    /// # Errors
    /// See there.
    pub fn is_descendant(&mut self, new: &Revision, old: &Revision) -> Result<bool, SourceError> {
        let read = self.open()?.is_descendant(new, old);
        self.note(read)
    }

    /// Remembers damage, so that the next fetch makes the mirror anew instead of believing it is up to date.
    fn note<T>(&mut self, result: Result<T, SourceError>) -> Result<T, SourceError> {
        if matches!(result, Err(SourceError::Damaged { .. })) {
            self.damaged = true;
            self.reader = None;
        }
        result
    }

    fn open(&mut self) -> Result<&mut Reader, SourceError> {
        if self.reader.is_none() {
            let reader = Reader::open(&self.config.mirror)?.with_limits(self.config.limits);
            self.reader = Some(reader);
        }
        Ok(self.reader.as_mut().expect("it was opened just now"))
    }

    /// Makes a new mirror beside the old one, and puts it in its place when it is whole.
    ///
    /// `adopting` takes over what the old one holds, the commit it names included; a damaged one has nothing to give.
    fn remake(&mut self, deadline: Instant, adopting: Option<Option<&Revision>>) -> Result<Oid, SourceError> {
        let path = self.config.mirror.clone();
        let io = |source| SourceError::Mirror {
            path: path.clone(),
            source,
        };
        let git = |source| SourceError::MirrorGit {
            path: path.clone(),
            source,
        };
        let new = beside(&path, "new");
        remove(&new).map_err(io)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        let repository = create(&new).map_err(git)?;
        if let Some(known) = adopting {
            adopt(&repository, &path, known).map_err(git)?;
        }
        let tip = fetch_into(&repository, &self.config, deadline).map_err(|error| match error {
            // A mirror that was made just now holds nothing that could be damaged.
            SourceError::Damaged { source, .. } => SourceError::Unreachable {
                url: self.config.url.to_string(),
                source,
            },
            other => other,
        })?;
        drop(repository);
        self.reader = None;
        replace(&path, &new).map_err(io)?;
        self.damaged = false;
        Ok(tip)
    }
}

/// Brings the branch into the mirror and returns the commit it points at.
fn fetch_into(mirror: &Repository, config: &SourceConfig, deadline: Instant) -> Result<Oid, SourceError> {
    if let Some(path) = config.url.local_path() {
        // libgit2 would take what is not there for a kind of address that it does not know.
        fs::metadata(path).map_err(|source| SourceError::Missing {
            path: path.to_owned(),
            source,
        })?;
        check_form(path)?;
    }
    let url = || config.url.to_string();
    let failed = |source: git2::Error| match source.code() {
        ErrorCode::Auth | ErrorCode::Certificate => SourceError::Refused {
            url: url(),
            remedy: remedy(&config.url, &config.credentials, source.code()),
            source,
        },
        _ if unreadable_key(&config.url, &config.credentials) => SourceError::Refused {
            url: url(),
            remedy: remedy(&config.url, &config.credentials, ErrorCode::Auth),
            source,
        },
        ErrorCode::User if Instant::now() >= deadline => SourceError::TimedOut {
            what: "fetch the branch",
            after: config.timeout,
        },
        _ => match source.class() {
            // Of our own side; what the remote lacks is of class `Net`, or has no such code.
            ErrorClass::Odb | ErrorClass::Object => SourceError::Damaged {
                what: "the mirror".to_owned(),
                source,
            },
            _ => SourceError::Unreachable { url: url(), source },
        },
    };
    let mut remote = mirror.remote_anonymous(&config.url.for_git()).map_err(failed)?;
    let wanted = format!("refs/heads/{}", config.branch);
    let mut connection = remote
        .connect_auth(
            Direction::Fetch,
            Some(callbacks(&config.credentials, deadline)),
            None,
        )
        .map_err(failed)?;
    let heads = connection.list().map_err(failed)?;
    let Some(tip) = heads
        .iter()
        .find(|head| head.name() == wanted)
        .map(git2::RemoteHead::oid)
    else {
        let branches = heads
            .iter()
            .filter_map(|head| head.name().strip_prefix("refs/heads/"));
        let have = branches.take(10).map(str::to_owned).collect();
        return Err(SourceError::NoBranch {
            branch: config.branch.clone(),
            url: url(),
            have,
        });
    };
    let reference = format!("refs/xeno/{wanted}");
    let have = mirror.refname_to_id(&reference).ok();
    if have != Some(tip) {
        let mut options = FetchOptions::new();
        options
            .remote_callbacks(callbacks(&config.credentials, deadline))
            .download_tags(AutotagOption::None)
            .update_fetchhead(false);
        connection
            .remote()
            .download(&[format!("+{wanted}:{reference}")], Some(&mut options))
            .map_err(failed)?;
    }
    let missing = |source| SourceError::Damaged {
        what: "the mirror".to_owned(),
        source,
    };
    mirror
        .find_commit(tip)
        .and_then(|commit| commit.tree())
        .map_err(missing)?;
    // One more reference for each commit that the branch was rewritten away from would grow for ever; the objects
    // stay without one, since nothing collects garbage here.
    mirror
        .reference(&reference, tip, true, "fetch")
        .map_err(missing)?;
    Ok(tip)
}

/// A bare repository in the form libgit2 reads: SHA-1, references as files. `git` itself may default to others.
fn create(path: &Path) -> Result<Repository, git2::Error> {
    let mut options = RepositoryInitOptions::new();
    options
        .bare(true)
        .no_reinit(true)
        .mkpath(true)
        .external_template(false);
    let repository = Repository::init_opts(path, &options)?;
    repository.config()?.set_bool("core.fsyncObjectFiles", true)?;
    Ok(repository)
}

/// Takes over all that another mirror's references lead to, and the history of `known`, as one pack.
fn adopt(into: &Repository, from: &Path, known: Option<&Revision>) -> Result<(), git2::Error> {
    if let Some(known) = known {
        let old = Repository::open_bare(from)?;
        let known = Oid::from_str(known.as_str())?;
        if old.find_commit(known).is_ok() {
            old.reference("refs/xeno/known", known, true, "keep")?;
        }
    }
    let mut remote = into.remote_anonymous(&from.to_string_lossy())?;
    remote.fetch(&["+refs/xeno/*:refs/xeno/*"], None, None)
}

/// Puts `new` in the place of `path`, so that at every moment a whole mirror is there.
fn replace(path: &Path, new: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if !path.exists() {
        return fs::rename(new, path);
    }
    if renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE).is_err() {
        // Not every file system can exchange. A crash in between costs a fetch.
        remove(path)?;
        return fs::rename(new, path);
    }
    remove(new)
}

fn packs(repository: &Path) -> usize {
    let Ok(entries) = fs::read_dir(repository.join("objects/pack")) else {
        return 0;
    };
    entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "pack"))
        .count()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes libgit2 give up on silent peers, once for the process.
fn limit_silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let ms = i32::try_from(SILENCE.as_millis()).unwrap_or(i32::MAX);
        #[expect(
            unsafe_code,
            reason = "libgit2's options are global: set once, before the first connection"
        )]
        // SAFETY: `Once` keeps two of our threads from writing it at a time, and connections are only made by
        // mirrors, which come after this.
        let set = unsafe {
            git2::opts::set_server_connect_timeout_in_milliseconds(ms)
                .and_then(|()| git2::opts::set_server_timeout_in_milliseconds(ms))
        };
        if let Err(error) = set {
            tracing::warn!(%error, "cannot limit how long a git server may stay silent");
        }
    });
}
