//! Runs `xl`: argument lists, deadlines, bounded output, never a shell.
//!
//! A *question* is ended with whoever asked it. A *change* is not: it runs on in a process group of its own with its
//! words in a file, since an `xl save` that is cut off, or that writes to a pipe nobody reads any more, leaves a domain
//! that stands still for ever. Who comes later finds it at work by what it was given (`work`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use xeno_reconciler::ports::PortError;

/// How long a question may take; tenths of a second on an idle node.
const QUESTION_LIMIT: Duration = Duration::from_secs(60);
/// Longest answer: `xl list -l` needs about 2 KiB for a domain.
const ANSWER_LEN_MAX: u64 = 32 << 20;
/// What an error quotes of what xl said.
const SAID_LEN_MAX: u64 = 2048;

/// Why xl did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum XlError {
    /// There is no such program.
    #[error("{} was not found: install the package xen-utils, or say where xl is", program.display())]
    Missing {
        /// The program.
        program: PathBuf,
    },
    /// It cannot be started or read from.
    #[error("run `xl {verb}`")]
    Io {
        /// What it was to do.
        verb: String,
        /// Why.
        source: io::Error,
    },
    /// It takes too long. A change goes on.
    #[error("`xl {verb}` takes more than {} s", limit.as_secs())]
    Slow {
        /// What it does.
        verb: String,
        /// How long it had.
        limit: Duration,
    },
    /// Its answer is longer than any should be.
    #[error("`xl {verb}` says more than {ANSWER_LEN_MAX} bytes")]
    TooLong {
        /// What it does.
        verb: String,
    },
    /// It says no.
    #[error("`xl {verb}` ended with {status}: {said}")]
    Failed {
        /// What it was to do.
        verb: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said, in one line.
        said: String,
    },
}

/// The program.
#[derive(Clone, Debug)]
pub struct Xl {
    program: PathBuf,
}

impl Xl {
    /// Runs `program`, which is looked for in `PATH` unless it has a slash.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // Messages are read by machines.
        command.args(args).stdin(Stdio::null()).env("LC_ALL", "C");
        command
    }

    fn not_started(&self, verb: &str, source: io::Error) -> XlError {
        if source.kind() == io::ErrorKind::NotFound {
            return XlError::Missing {
                program: self.program.clone(),
            };
        }
        XlError::Io {
            verb: verb.to_owned(),
            source,
        }
    }

    /// Asks something that changes nothing; returns what it prints.
    ///
    /// # Errors
    /// [`XlError`].
    pub async fn ask(&self, args: &[&str]) -> Result<String, XlError> {
        let verb = args.first().copied().unwrap_or_default();
        let failed = |source| XlError::Io {
            verb: verb.to_owned(),
            source,
        };
        let asked = async {
            let mut command = self.command(args);
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true);
            let mut child = command.spawn().map_err(|error| self.not_started(verb, error))?;
            let (mut out, mut words) = (Vec::new(), Vec::new());
            let mut err = Vec::new();
            if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
                let mut stdout = stdout.take(ANSWER_LEN_MAX + 1);
                let mut stderr = stderr.take(ANSWER_LEN_MAX);
                let (read, heard) = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
                read.and(heard).map_err(failed)?;
                words.append(&mut err);
            }
            if out.len() as u64 > ANSWER_LEN_MAX {
                return Err(XlError::TooLong {
                    verb: verb.to_owned(),
                });
            }
            let status = child.wait().await.map_err(failed)?;
            if status.success() {
                return Ok(String::from_utf8_lossy(&out).into_owned());
            }
            Err(XlError::Failed {
                verb: verb.to_owned(),
                status,
                said: last_words(&words),
            })
        };
        let slow = |_| XlError::Slow {
            verb: verb.to_owned(),
            limit: QUESTION_LIMIT,
        };
        let began = Instant::now();
        let answer = timeout(QUESTION_LIMIT, asked).await.map_err(slow)?;
        log_time(verb, began);
        answer
    }

    /// Changes something. What it says goes to the file `log`, which is made anew.
    ///
    /// # Errors
    /// [`XlError`]. After [`XlError::Slow`], and where this future is dropped, it goes on.
    pub async fn change(&self, args: &[&str], log: &Path, limit: Duration) -> Result<(), XlError> {
        self.change_fed(args, Stdio::null(), log, limit).await
    }

    /// The same, with an input.
    ///
    /// # Errors
    /// As [`Xl::change`].
    pub async fn change_fed(
        &self,
        args: &[&str],
        stdin: Stdio,
        log: &Path,
        limit: Duration,
    ) -> Result<(), XlError> {
        let mut changing = self.begin(args, stdin, log)?;
        let Ok(ended) = timeout(limit, changing.end()).await else {
            return Err(XlError::Slow {
                verb: changing.verb,
                limit,
            });
        };
        ended
    }

    /// Begins to change something, with an input of its own. What it says goes to the file `log`, which is made anew. It goes
    /// on whatever becomes of what is returned.
    ///
    /// # Errors
    /// [`XlError`].
    pub fn begin(&self, args: &[&str], stdin: Stdio, log: &Path) -> Result<Changing, XlError> {
        let verb = args.first().copied().unwrap_or_default();
        let failed = |source| XlError::Io {
            verb: verb.to_owned(),
            source,
        };
        let file = new_log(log).map_err(failed)?;
        let err = file.try_clone().map_err(failed)?;
        let mut command = self.command(args);
        command.stdin(stdin).stdout(file).stderr(err).process_group(0);
        let began = Instant::now();
        let child = command.spawn().map_err(|error| self.not_started(verb, error))?;
        Ok(Changing {
            verb: verb.to_owned(),
            log: log.to_owned(),
            began,
            child,
        })
    }
}

/// An `xl` that changes something.
#[derive(Debug)]
pub struct Changing {
    verb: String,
    log: PathBuf,
    began: Instant,
    child: Child,
}

impl Changing {
    /// Waits for its end. It can be asked again when this was given up.
    ///
    /// # Errors
    /// [`XlError`].
    pub async fn end(&mut self) -> Result<(), XlError> {
        let status = self.child.wait().await.map_err(|source| XlError::Io {
            verb: self.verb.clone(),
            source,
        })?;
        log_time(&self.verb, self.began);
        if status.success() {
            return Ok(());
        }
        Err(XlError::Failed {
            verb: self.verb.clone(),
            status,
            said: last_words(&tail(&self.log).unwrap_or_default()),
        })
    }

    /// Ends it at once: only where it has nothing more to do.
    ///
    /// # Errors
    /// [`XlError::Io`].
    pub async fn kill(mut self) -> Result<(), XlError> {
        let killed = self.child.kill().await;
        killed.map_err(|source| XlError::Io {
            verb: self.verb,
            source,
        })
    }
}

/// What of an action is the tool stack's own time.
fn log_time(verb: &str, began: Instant) {
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(verb, took_ms, "xl has ended");
}

fn new_log(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.set_len(0).map(|()| file))
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(SAID_LEN_MAX)))?;
    let mut end = Vec::new();
    file.take(SAID_LEN_MAX).read_to_end(&mut end)?;
    Ok(end)
}

/// The end of what xl said, in one line. Progress is no message.
fn last_words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines = text.lines().map(str::trim);
    let lines: Vec<_> = lines
        .filter(|line| !line.is_empty() && !line.starts_with("xc: progress"))
        .collect();
    let words = lines.join("; ");
    let len = words.chars().count();
    let max = usize::try_from(SAID_LEN_MAX).unwrap_or(usize::MAX);
    let words: String = words.chars().skip(len.saturating_sub(max)).collect();
    if words.is_empty() {
        "it said nothing".to_owned()
    } else {
        words
    }
}

/// Texts of xl, libxl and libxc after which the same again cannot help (Xen 4.14 to 4.20: `tools/xl/xl_parse.c`,
/// `tools/libs/util/libxlu_cfg*.c`, `tools/libs/guest/xg_dom_core.c`).
const FINAL: [&str; 5] = [
    "Failed to parse config",
    "config parsing error",
    "no loader found",
    "xc_dom_parse_image returned",
    "not capable of running",
];

/// Texts that say that memory was missing.
const NO_MEMORY: [&str; 3] = [
    "failed to free memory for the domain",
    "not enough memory",
    "can't allocate low memory for domain",
];

impl XlError {
    /// In the words of a port: what was being done, why it failed, and whether trying again can help.
    #[must_use]
    pub fn port(self, doing: &str) -> PortError {
        let text = format!("{doing}: {}", crate::chain(&self));
        match &self {
            Self::Missing { .. } => PortError::never(text),
            Self::Failed { said, .. } if FINAL.iter().any(|word| said.contains(word)) => {
                PortError::never(text)
            }
            Self::Failed { said, .. } if NO_MEMORY.iter().any(|word| said.contains(word)) => {
                PortError::later(format!(
                    "{doing}: the node has too little free memory: {}",
                    crate::chain(&self)
                ))
            }
            Self::Io { .. } | Self::Slow { .. } | Self::TooLong { .. } | Self::Failed { .. } => {
                PortError::later(text)
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes a script that stands for xl.
    pub(crate) fn written(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("xl");
        xeno_test_support::write_script(&path, text);
        path
    }

    fn script(dir: &Path, text: &str) -> Xl {
        Xl::new(written(dir, text))
    }

    #[tokio::test]
    async fn a_question_is_answered_with_what_is_printed() {
        let dir = tempfile::tempdir().unwrap();
        let xl = script(dir.path(), "echo \"<$1|$2>\"; echo noise >&2");
        assert_eq!(
            xl.ask(&["list", "a b; $(reboot)"]).await.unwrap(),
            "<list|a b; $(reboot)>\n"
        );
    }

    #[tokio::test]
    async fn a_change_goes_on_without_whoever_asked_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let (gate, done) = (dir.path().join("gate"), dir.path().join("done"));
        let xl = script(
            dir.path(),
            &format!(
                "echo begun; while ! [ -e {} ]; do sleep 0.01; done; echo on; : > {}",
                gate.display(),
                done.display()
            ),
        );
        let log = dir.path().join("xl.log");
        let limit = Duration::from_millis(50);
        let slow = xl.change(&["save", "x"], &log, limit).await.unwrap_err();
        assert!(matches!(slow, XlError::Slow { .. }), "{slow}");
        std::fs::write(gate, "").unwrap();
        while !done.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn what_xl_says_decides_whether_to_try_again() {
        let check = async |said: &str, retry: xeno_reconciler::ports::Retry| {
            let dir = tempfile::tempdir().unwrap();
            let xl = script(dir.path(), &format!("echo '{said}' >&2; exit 3"));
            let log = dir.path().join("xl.log");
            let error = xl
                .change(&["create"], &log, Duration::from_secs(60))
                .await
                .unwrap_err();
            let error = error.port("cannot start web/0");
            assert!(
                error.what.contains("exit status: 3") && error.what.contains(said),
                "{error}"
            );
            assert_eq!(error.retry, retry, "{error}");
        };
        use xeno_reconciler::ports::Retry::{Later, Never};
        check("Failed to parse config: Invalid argument", Never).await;
        check(
            "xc: error: panic: xc_dom_core.c:702: xc_dom_find_loader: no loader found",
            Never,
        )
        .await;
        check("failed to free memory for the domain", Later).await;
        check("libxl: error: something else", Later).await;
        let gone = Xl::new("/nonexistent/xl".into())
            .ask(&["list"])
            .await
            .unwrap_err();
        assert_eq!(gone.port("look").retry, Never);
    }

    #[test]
    fn progress_is_not_quoted() {
        let said = b"Saving to x\nxc: progress: Frames: 1/2 50%\n\nlibxl: error: no\n";
        assert_eq!(last_words(said), "Saving to x; libxl: error: no");
        assert_eq!(last_words(b""), "it said nothing");
    }
}
