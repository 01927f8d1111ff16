//! Whether a mounted server answers, asked by a thread that may hang.
//!
//! Any call on a mount whose server is gone may sleep in the kernel until the server is back, and cannot be called off.
//! So one thread for each mount asks, at most one question at a time; everybody else looks at when it last had an answer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use xeno_model::id::Timestamp;
use xeno_model::observed::RemoteState;

/// A server that takes longer than this is silent. A busy one answers within a second; guests have not noticed yet.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Asks a file system something that only its server knows.
pub(super) type Question = fn(&Path) -> io::Result<()>;

/// `statfs`: never answered from a cache (FSSTAT in NFSv3, GETATTR of the file system's space in NFSv4).
pub(super) fn statfs(path: &Path) -> io::Result<()> {
    rustix::fs::statfs(path).map(|_| ()).map_err(io::Error::from)
}

/// One mount under watch.
#[derive(Debug)]
pub(super) struct Pulse {
    path: PathBuf,
    question: Question,
    beat: Mutex<Beat>,
    answered: Notify,
}

#[derive(Debug, Default)]
struct Beat {
    /// The question that is on its way.
    asked: Option<(Instant, Timestamp)>,
    /// Whether any answer has come.
    ever: bool,
    /// What the last answer was, if it was an error, and since when.
    failing: Option<(Timestamp, String)>,
}

impl Pulse {
    pub(super) fn new(path: PathBuf, question: Question) -> Arc<Self> {
        Arc::new(Self {
            path,
            question,
            beat: Mutex::default(),
            answered: Notify::new(),
        })
    }

    /// Asks, unless a question is on its way.
    pub(super) fn ask(self: &Arc<Self>, now: Timestamp) {
        let mut beat = self.beat();
        if beat.asked.is_some() {
            return;
        }
        beat.asked = Some((Instant::now(), now));
        drop(beat);
        let asking = Arc::clone(self);
        let thread = std::thread::Builder::new().name("remote".to_owned());
        let spawned = thread.stack_size(64 << 10).spawn(move || {
            let answer = (asking.question)(&asking.path);
            asking.hear(answer);
        });
        if let Err(error) = spawned {
            self.hear(Err(error));
        }
    }

    fn hear(&self, answer: io::Result<()>) {
        let mut beat = self.beat();
        let asked = beat.asked.take();
        beat.ever = true;
        match (answer, asked) {
            (Ok(()), _) => beat.failing = None,
            (Err(error), Some((_, at))) => {
                let since = beat.failing.take().map_or(at, |(since, _)| since);
                beat.failing = Some((since, error.to_string()));
            }
            (Err(_), None) => {}
        }
        drop(beat);
        self.answered.notify_waiters();
    }

    /// How the server is, as far as is known; `None` before its first answer or the end of its time for that.
    pub(super) fn state(&self) -> Option<RemoteState> {
        let beat = self.beat();
        let late = beat.asked.filter(|(asked, _)| asked.elapsed() >= SILENT_AFTER);
        let silent = |since: Timestamp, why: String| Some(RemoteState::Silent { since, why });
        match (late, &beat.failing) {
            (_, Some((since, why))) => silent(*since, why.clone()),
            (Some((_, since)), None) => silent(
                since,
                format!("it has not answered for {} s", SILENT_AFTER.as_secs()),
            ),
            (None, None) if beat.ever => Some(RemoteState::Answers),
            (None, None) => None,
        }
    }

    /// As [`Self::state`], and waits for the first answer as long as one may take.
    pub(super) async fn first_state(&self) -> RemoteState {
        let end = Instant::now() + SILENT_AFTER + Duration::from_secs(1);
        loop {
            let answered = self.answered.notified();
            if let Some(state) = self.state() {
                return state;
            }
            if tokio::time::timeout(Duration::from_millis(500), answered)
                .await
                .is_err()
                && Instant::now() >= end
            {
                // Asked by nobody: a mistake of ours, and no word of the server's.
                return RemoteState::Silent {
                    since: Timestamp(0),
                    why: "it was not asked".to_owned(),
                };
            }
        }
    }

    fn beat(&self) -> MutexGuard<'_, Beat> {
        // Every change of it is whole.
        self.beat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hangs as long as a pipe is not written to: the path is a FIFO.
    fn hangs(path: &Path) -> io::Result<()> {
        std::fs::read(path).map(|_| ())
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_is_silent_until_it_answers_and_is_asked_once_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("server");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let pulse = Pulse::new(fifo.clone(), hangs);
        pulse.ask(Timestamp(7));
        pulse.ask(Timestamp(8));
        assert_eq!(pulse.state(), None);
        tokio::time::advance(SILENT_AFTER).await;
        let silent = RemoteState::Silent {
            since: Timestamp(7),
            why: "it has not answered for 5 s".to_owned(),
        };
        assert_eq!(pulse.state(), Some(silent.clone()));
        assert_eq!(pulse.first_state().await, silent);
        let answered = pulse.answered.notified();
        tokio::task::spawn_blocking(move || std::fs::write(fifo, "here").unwrap())
            .await
            .unwrap();
        answered.await;
        assert_eq!(pulse.state(), Some(RemoteState::Answers));
    }

    #[tokio::test]
    async fn an_error_is_silence_since_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let pulse = Pulse::new(dir.path().join("gone"), statfs);
        for now in [3, 4] {
            let answered = pulse.answered.notified();
            pulse.ask(Timestamp(now));
            answered.await;
        }
        let Some(RemoteState::Silent { since, why }) = pulse.state() else {
            panic!("{:?}", pulse.state())
        };
        assert_eq!(since, Timestamp(3));
        assert!(why.contains("No such file"), "{why}");
        std::fs::create_dir(dir.path().join("gone")).unwrap();
        let answered = pulse.answered.notified();
        pulse.ask(Timestamp(5));
        answered.await;
        assert_eq!(pulse.state(), Some(RemoteState::Answers));
    }
}
