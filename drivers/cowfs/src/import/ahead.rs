//! Looks ahead of a walk, at many directories and names at once.
//!
//! On a directory that another machine serves nearly all of a walk is waiting for answers: over a line of 50 ms one way, two
//! questions for each of a thousand files are minutes. So workers ask while the walk is still elsewhere, and it finds the
//! answers ready. What the walk sees, and in which order, is the same.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Stat};

use super::look::{Listing, Look, Named, Questions, What, enter, is_marked_opaque};
use super::{ImportError, Limits};

/// Questions at once. The sessions of NFS 4.1 have room for 64, and others use the mount too.
const AT_ONCE: usize = 32;
/// Names of one directory that one worker asks about: few, since each may cost two answers.
const NAMES_AT_ONCE: usize = 4;

/// Has `work` walk the directory `root`, which is `path`, with workers that look ahead of it.
pub(crate) fn ahead<T>(
    root: &OwnedFd,
    stat: &Stat,
    path: &Path,
    questions: Questions,
    limits: &Limits,
    work: impl FnOnce(&Ahead<'_>) -> Result<T, ImportError>,
) -> Result<T, ImportError> {
    let failed = |source| ImportError::Read {
        path: path.to_owned(),
        source,
    };
    let root = root.try_clone().map_err(failed)?;
    let root = Arc::new(Open::new(root, PathBuf::new(), 0));
    let ahead = Ahead {
        path,
        device: stat.st_dev,
        depth_max: limits.depth_max,
        questions,
        state: Mutex::new(State {
            jobs: Job::all_of(root),
            ..State::default()
        }),
        more: Condvar::new(),
        answered: Condvar::new(),
    };
    std::thread::scope(|scope| {
        let spawn = |_| {
            let worker = std::thread::Builder::new().name("look-ahead".to_owned());
            worker.spawn_scoped(scope, || ahead.work())
        };
        let workers: Vec<_> = (0..AT_ONCE).map(spawn).collect();
        // Fewer are slower, and that is all.
        if workers.iter().all(Result::is_err) {
            let error = workers.into_iter().find_map(Result::err);
            return Err(failed(error.unwrap_or_else(|| io::ErrorKind::Other.into())));
        }
        let done = work(&ahead);
        ahead.stop();
        done
    })
}

/// What was found in the directory of this path.
type Ready = (PathBuf, Result<Listing, ImportError>);

/// The answers, and who gets them.
pub(crate) struct Ahead<'a> {
    path: &'a Path,
    device: u64,
    depth_max: usize,
    questions: Questions,
    state: Mutex<State>,
    /// There is work, or no more will come.
    more: Condvar,
    /// A directory is ready, or nobody is at work any more.
    answered: Condvar,
}

#[derive(Default)]
struct State {
    /// The last first: so few directories are open at a time.
    jobs: Vec<Job>,
    busy: usize,
    stopped: bool,
    ready: BTreeMap<PathBuf, Result<Listing, ImportError>>,
}

enum Job {
    /// Opens a directory in another.
    Enter(Arc<Open>, OsString),
    /// Asks how a directory is marked.
    Marks(Arc<Open>),
    /// Asks for its names.
    List(Arc<Open>),
    /// Asks about some of them; the number of the first.
    See(Arc<Open>, usize, Vec<OsString>),
}

impl Job {
    /// What is asked of a directory that was just opened.
    fn all_of(open: Arc<Open>) -> Vec<Self> {
        vec![Self::Marks(Arc::clone(&open)), Self::List(open)]
    }
}

/// A directory that is being looked at.
struct Open {
    fd: OwnedFd,
    /// Its path from the root.
    at: PathBuf,
    depth: usize,
    answers: Mutex<Answers>,
}

struct Answers {
    is_opaque: bool,
    /// By the number of the first name.
    parts: BTreeMap<usize, Vec<Named>>,
    /// Jobs that are not done.
    left: usize,
    failed: Option<ImportError>,
}

impl Open {
    fn new(fd: OwnedFd, at: PathBuf, depth: usize) -> Self {
        let answers = Mutex::new(Answers {
            is_opaque: false,
            parts: BTreeMap::new(),
            // Its marks and its names; the rest follows from those.
            left: 2,
            failed: None,
        });
        Self {
            fd,
            at,
            depth,
            answers,
        }
    }

    /// Notes that `more` jobs have come and one is done; what there is in it, if that was the last.
    fn done(
        &self,
        more: usize,
        answer: impl FnOnce(&mut Answers) -> Result<(), ImportError>,
    ) -> Option<Result<Listing, ImportError>> {
        let mut answers = lock(&self.answers);
        if let Err(error) = answer(&mut answers) {
            answers.failed.get_or_insert(error);
        }
        answers.left = (answers.left + more).saturating_sub(1);
        if answers.left > 0 {
            return None;
        }
        if let Some(error) = answers.failed.take() {
            return Some(Err(error));
        }
        Some(Ok(Listing {
            is_opaque: answers.is_opaque,
            names: std::mem::take(&mut answers.parts)
                .into_values()
                .flatten()
                .collect(),
        }))
    }
}

impl Look for Ahead<'_> {
    type Dir = PathBuf;

    fn list(&self, dir: &PathBuf, path: &Path) -> Result<Listing, ImportError> {
        let mut state = lock(&self.state);
        loop {
            if let Some(listing) = state.ready.remove(dir) {
                return listing;
            }
            if state.jobs.is_empty() && state.busy == 0 {
                return Err(ImportError::Read {
                    path: path.to_owned(),
                    source: io::Error::other("nobody has looked at it"),
                });
            }
            state = self.answered.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn enter(&self, dir: &PathBuf, name: &OsStr, _: &Path) -> Result<PathBuf, ImportError> {
        Ok(dir.join(name))
    }
}

impl Ahead<'_> {
    fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped = true;
        state.jobs.clear();
        drop(state);
        self.more.notify_all();
    }

    fn work(&self) {
        let mut state = lock(&self.state);
        while !state.stopped {
            let Some(job) = state.jobs.pop() else {
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            drop(state);
            let (jobs, ready) = self.carry_out(job);
            state = lock(&self.state);
            state.busy -= 1;
            if state.stopped {
                break;
            }
            // Only those are woken for whom there is something; this one takes one of the jobs itself.
            for _ in 1..jobs.len() {
                self.more.notify_one();
            }
            state.jobs.extend(jobs);
            let is_ready = ready.is_some();
            state.ready.extend(ready);
            if is_ready || (state.jobs.is_empty() && state.busy == 0) {
                self.answered.notify_one();
            }
        }
    }

    /// Does one thing: what is to be done after it, and the directory of which it was the last.
    fn carry_out(&self, job: Job) -> (Vec<Job>, Option<Ready>) {
        match job {
            Job::Enter(parent, name) => {
                let at = parent.at.join(&name);
                match enter(parent.fd.as_fd(), &name, &self.path.join(&at)) {
                    Ok(fd) => (Job::all_of(Arc::new(Open::new(fd, at, parent.depth + 1))), None),
                    Err(error) => (Vec::new(), Some((at, Err(error)))),
                }
            }
            Job::List(open) => {
                forget_names(open.fd.as_fd());
                let names = self.questions.names(open.fd.as_fd(), &self.path.join(&open.at));
                let mut jobs = Vec::new();
                let listed = names.map(|names| {
                    let mut names = names.into_iter();
                    let mut first = 0;
                    loop {
                        let some: Vec<_> = names.by_ref().take(NAMES_AT_ONCE).collect();
                        if some.is_empty() {
                            break;
                        }
                        let next = first + some.len();
                        jobs.push(Job::See(Arc::clone(&open), first, some));
                        first = next;
                    }
                });
                let ready = open.done(jobs.len(), |_| listed);
                (jobs, ready.map(|listing| (open.at.clone(), listing)))
            }
            Job::Marks(open) => {
                let path = self.path.join(&open.at);
                let marked = is_marked_opaque(open.fd.as_fd(), &path);
                let ready = open.done(0, |answers| {
                    answers.is_opaque = marked?;
                    Ok(())
                });
                (Vec::new(), ready.map(|listing| (open.at.clone(), listing)))
            }
            Job::See(open, first, names) => {
                let path = self.path.join(&open.at);
                let names = names.into_iter();
                let seen = names.map(|name| self.questions.see(open.fd.as_fd(), name, &path));
                let seen: Result<Vec<_>, _> = seen.collect();
                let jobs = match &seen {
                    Ok(seen) => self.below(&open, seen),
                    Err(_) => Vec::new(),
                };
                let ready = open.done(0, |answers| {
                    answers.parts.insert(first, seen?);
                    Ok(())
                });
                (jobs, ready.map(|listing| (open.at.clone(), listing)))
            }
        }
    }
}

impl Ahead<'_> {
    /// What follows from names that were looked at: the directories among them, as far as the walk will come to them.
    fn below(&self, open: &Arc<Open>, seen: &[Named]) -> Vec<Job> {
        let is_wanted = |named: &&Named| match &named.what {
            What::Object(seen) => {
                FileType::from_raw_mode(seen.stat.st_mode) == FileType::Directory
                    && seen.stat.st_dev == self.device
                    && open.depth < self.depth_max
            }
            What::Whiteout(_) | What::Opaque | What::Nothing => false,
        };
        seen.iter()
            .filter(is_wanted)
            .map(|named| Job::Enter(Arc::clone(open), named.name.clone()))
            .collect()
    }
}

/// Has the kernel ask the server for a directory's names again. They come with what each of them is (`READDIRPLUS`; RFC 1813,
/// section 3.3.17), where names that it has kept would have to be asked about one by one once their attributes are too old.
fn forget_names(dir: BorrowedFd<'_>) {
    // A directory of which nothing can be forgotten is slower, and that is all.
    let _ = rustix::fs::fadvise(dir, 0, None, rustix::fs::Advice::DontNeed);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::look::Here;
    use super::super::walk::{Found, Visitor, open_root, walk};
    use super::*;
    use crate::attr::Time;
    use crate::template::{Leaf, Meta, Tree, TreeId};

    /// Keeps what it is told, in order.
    #[derive(Default)]
    struct Told(Vec<String>);

    impl<D> Visitor<D> for Told {
        fn regular(&mut self, file: &Found<'_, D>) -> Result<Leaf, ImportError> {
            self.0
                .push(format!("{} {}", file.path.display(), file.is_readable));
            Ok(Leaf::Symlink(b"a file".to_vec()))
        }

        fn placed(&mut self, _: TreeId, stat: &Stat) -> Result<(), ImportError> {
            self.0.push(format!("{:o} {}", stat.st_mode, stat.st_ino));
            Ok(())
        }

        fn meta(&self, stat: &Stat) -> Meta {
            Meta {
                mode: stat.st_mode & 0o7777,
                uid: stat.st_uid,
                gid: stat.st_gid,
                mtime: Time {
                    seconds: stat.st_mtime,
                    nanos: 0,
                },
            }
        }
    }

    /// The tree and all that was told on the way, or what was wrong.
    type Walked = Result<(Vec<u8>, Vec<String>), String>;

    /// Walked here, and with somebody who looks ahead.
    fn both(root: &Path, limits: &Limits) -> [Walked; 2] {
        let questions = || Questions::new(true, limits);
        let said = |told: Told, tree: Result<Tree, ImportError>| -> Walked {
            let tree = tree.map_err(|error| error.to_string())?;
            let bytes = tree.encode(true).map_err(|error| error.to_string())?.bytes;
            Ok((bytes, told.0))
        };
        let (fd, stat) = open_root(root).unwrap();
        let mut told = Told::default();
        let here = walk(&Here(questions()), &fd, &stat, root, limits, &mut told);
        let here = said(told, here);
        let mut told = Told::default();
        let far = ahead(&fd, &stat, root, questions(), limits, |ahead| {
            walk(ahead, &PathBuf::new(), &stat, root, limits, &mut told)
        });
        [here, said(told, far)]
    }

    fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for outer in 0..12 {
            for inner in 0..7 {
                let below = root.join(format!("d{outer}/e{inner}/f/g"));
                fs::create_dir_all(&below).unwrap();
                for file in 0..outer {
                    fs::write(below.join(format!("file{file}")), "x").unwrap();
                }
                symlink("/nowhere", below.join("link")).unwrap();
                fs::write(below.join(".wh.deleted"), "").unwrap();
            }
            fs::create_dir(root.join(format!("d{outer}/empty"))).unwrap();
        }
        fs::write(root.join("d3/.wh..wh..opq"), "").unwrap();
        fs::hard_link(root.join("d4/e1/f/g/file1"), root.join("d0/other-name")).unwrap();
        dir
    }

    #[test]
    fn looking_ahead_finds_the_same_in_the_same_order() {
        let dir = sample();
        let [here, far] = both(dir.path(), &Limits::default());
        let (tree, told) = here.unwrap();
        assert!(told.len() > 600, "{}", told.len());
        assert_eq!(far.unwrap(), (tree, told));
        let empty = tempfile::tempdir().unwrap();
        let [here, far] = both(empty.path(), &Limits::default());
        assert_eq!(here.unwrap(), far.unwrap());
    }

    #[test]
    fn limits_and_failures_are_said_alike_and_end_everybody() {
        let dir = sample();
        let check = |limits: Limits, words: &str| {
            for said in both(dir.path(), &limits) {
                let error = said.unwrap_err();
                assert!(error.contains(words), "{error}");
            }
        };
        let usual = Limits::default();
        check(
            Limits {
                entries_max: 40,
                ..usual
            },
            "too many files",
        );
        check(
            Limits {
                depth_max: 3,
                ..usual
            },
            "too deep",
        );
    }

    #[test]
    fn a_walk_that_gives_up_waits_for_nobody() {
        let dir = sample();
        let (fd, stat) = open_root(dir.path()).unwrap();
        let limits = Limits::default();
        let questions = Questions::new(false, &limits);
        let given_up: Result<(), _> = ahead(&fd, &stat, dir.path(), questions, &limits, |_| {
            Err(ImportError::Limit("given up"))
        });
        assert!(matches!(given_up, Err(ImportError::Limit("given up"))));
    }
}
