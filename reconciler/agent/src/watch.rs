//! When to look at the repository again: soon after it changed where that shows, and every so often in any case.
//!
//! A notification carries nothing but "look": what changed is found by fetching. So one that is lost costs time, one
//! too many costs a fetch that finds nothing, and correctness leans on neither.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Longest pause between two looks at a repository on this machine, watched or not.
const LOCAL_POLL_MAX: Duration = Duration::from_secs(60);

/// Shortest pause between two looks, whatever the configuration says.
const POLL_MIN: Duration = Duration::from_secs(1);

/// Why to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something changed in the repository's directory.
    Hint,
    /// Time has passed.
    Poll,
}

/// Says when to look at a repository again.
#[derive(Debug)]
pub struct RepositoryWatch {
    local: Option<PathBuf>,
    poll: Duration,
    watcher: Option<RecommendedWatcher>,
    sender: mpsc::Sender<()>,
    hints: mpsc::Receiver<()>,
    random: u64,
    next: Instant,
}

impl RepositoryWatch {
    /// Watches the repository at `local`, if it is on this machine, and wakes every `poll` (± a quarter, different for
    /// each `seed`, so that a fleet does not ask its repository at once).
    #[must_use]
    pub fn new(local: Option<&Path>, poll: Duration, seed: u64) -> Self {
        let poll = if local.is_some() {
            poll.min(LOCAL_POLL_MAX)
        } else {
            poll
        };
        // One place: many hints that nobody has looked at yet are one.
        let (sender, hints) = mpsc::channel(1);
        let mut watch = Self {
            local: local.map(git_directory),
            poll: poll.max(POLL_MIN),
            watcher: None,
            sender,
            hints,
            random: seed | 1,
            next: Instant::now(),
        };
        watch.arm();
        watch.next = Instant::now() + watch.pause();
        watch
    }

    /// Waits until it is time to look again. Safe to drop and call again.
    pub async fn wake(&mut self) -> Wake {
        tokio::select! {
            // `self` holds a sender, so this never ends.
            Some(()) = self.hints.recv() => Wake::Hint,
            () = tokio::time::sleep_until(self.next) => {
                self.next = Instant::now() + self.pause();
                // A directory that was not there when it was first watched, or was replaced since.
                self.arm();
                Wake::Poll
            }
        }
    }

    /// Watches directories, not files: git replaces files by renaming.
    fn arm(&mut self) {
        let Some(directory) = &self.local else {
            return;
        };
        self.watcher = None;
        match watch(directory, self.sender.clone()) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                tracing::debug!(%error, directory = %directory.display(), "cannot watch the repository; looking now and then");
            }
        }
    }

    /// A pause between three and five quarters of `poll`.
    fn pause(&mut self) -> Duration {
        // xorshift64 (Marsaglia, 2003): good enough to spread wishes, and needs no crate.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let share = u32::try_from(self.random % 1000).unwrap_or(0);
        self.poll * 3 / 4 + self.poll / 2 * share / 1000
    }
}

fn watch(directory: &Path, hint: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Fetching opens files, so reactions to reading would feed themselves.
        let matters = match &event {
            Ok(event) => event.need_rescan() || !matches!(event.kind, EventKind::Access(_)),
            Err(_) => true,
        };
        if matters {
            // A full place means that a hint is waiting already.
            let _ = hint.try_send(());
        }
    })?;
    // `packed-refs` and `HEAD` are in the directory itself; branches in the making below `refs`.
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    watcher.watch(&directory.join("refs"), RecursiveMode::Recursive)?;
    Ok(watcher)
}

/// Says when a server has taken its socket anew: its guests wait for what it served before, so every second counts.
/// Watches for as long as the result is held; `None` where that cannot be done, and looking now and then has to do.
pub(crate) fn watch_socket(socket: &Path, hint: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let name = socket.file_name()?.to_owned();
    let directory = match socket.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let watching = || {
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let matters = event.is_ok_and(|event| {
                matches!(event.kind, EventKind::Create(_) | EventKind::Modify(_))
                    && event.paths.iter().any(|path| path.file_name() == Some(&name))
            });
            if matters {
                // A full place means that a hint is waiting already.
                let _ = hint.try_send(());
            }
        })?;
        // The directory, since the socket is another file each time.
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok::<_, notify::Error>(watcher)
    };
    watching()
        .inspect_err(|error| {
            tracing::debug!(%error, directory = %directory.display(), "cannot watch for the file server; looking now and then");
        })
        .ok()
}

fn git_directory(path: &Path) -> PathBuf {
    let inner = path.join(".git");
    if inner.is_dir() { inner } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("refs/heads")).expect("refs");
        std::fs::write(dir.path().join("HEAD"), "ref: refs/heads/main\n").expect("HEAD");
        dir
    }

    async fn woken(watch: &mut RepositoryWatch) -> Wake {
        tokio::time::timeout(Duration::from_secs(30), watch.wake())
            .await
            .expect("a wake")
    }

    #[tokio::test]
    async fn a_branch_that_moves_is_noticed_at_once_and_reading_is_not() {
        let dir = repository();
        let mut watch = RepositoryWatch::new(Some(dir.path()), Duration::from_secs(3600), 7);
        std::fs::read(dir.path().join("HEAD")).expect("HEAD");
        std::fs::write(dir.path().join("refs/heads/main.lock"), "x").expect("a lock");
        std::fs::rename(
            dir.path().join("refs/heads/main.lock"),
            dir.path().join("refs/heads/main"),
        )
        .expect("a ref");
        assert_eq!(woken(&mut watch).await, Wake::Hint);
        std::fs::write(dir.path().join("packed-refs"), "x").expect("packed refs");
        assert_eq!(woken(&mut watch).await, Wake::Hint);
    }

    #[tokio::test]
    async fn a_socket_that_is_taken_anew_is_noticed_and_others_are_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("cowfs.sock");
        let (hint, mut hints) = mpsc::channel(1);
        let _watching = watch_socket(&socket, hint).expect("a watch");
        std::fs::write(dir.path().join("cowfs.log"), "x").expect("a file");
        std::fs::write(dir.path().join("hidden"), "x").expect("a file");
        std::fs::rename(dir.path().join("hidden"), &socket).expect("a socket");
        let hint = tokio::time::timeout(Duration::from_secs(30), hints.recv()).await;
        assert_eq!(hint.expect("a hint in time"), Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn time_passes_with_jitter_where_nothing_can_be_watched() {
        let mut watch = RepositoryWatch::new(None, Duration::from_secs(100), 7);
        let mut pauses = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let before = Instant::now();
            assert_eq!(watch.wake().await, Wake::Poll);
            let pause = before.elapsed().as_millis();
            assert!((74_000..126_000).contains(&pause), "{pause}");
            pauses.insert(pause);
        }
        assert!(pauses.len() > 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_local_repository_is_looked_at_every_minute_even_if_it_is_not_there() {
        let mut watch = RepositoryWatch::new(Some(Path::new("/nonexistent")), Duration::from_secs(3600), 7);
        let before = Instant::now();
        assert_eq!(watch.wake().await, Wake::Poll);
        assert!(before.elapsed() <= Duration::from_secs(76));
    }
}
