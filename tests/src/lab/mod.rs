//! The laboratory: real parts in one directory, ended by their own process ids.

pub mod built;
pub mod dice;
pub mod etcd;
pub mod http;
pub mod link;
pub mod node;
pub mod one_guest;
pub mod process;
pub mod repository;
pub mod scratch;
pub mod template;
pub mod watcher;
pub mod witness;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What went wrong in the laboratory, in words for the person in front of it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Reading, writing or starting something failed.
    #[error("{what}")]
    Io {
        /// What was attempted.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A check did not hold.
    #[error("{0}")]
    Check(String),
}

impl LabError {
    /// Wraps an I/O error with what was attempted.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Result of laboratory work.
pub type LabResult<T> = Result<T, LabError>;

/// Fails with `message` unless `holds`.
///
/// # Errors
/// [`LabError::Check`] with the message.
pub fn ensure(holds: bool, message: impl FnOnce() -> String) -> LabResult<()> {
    if holds {
        Ok(())
    } else {
        Err(LabError::Check(message()))
    }
}

/// Asks `probe` again and again until it gives a value; fails with its last complaint once `deadline` has passed.
///
/// # Errors
/// [`LabError::Check`] naming what was waited for.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> LabResult<T> {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(why) if start.elapsed() >= deadline => {
                return Err(LabError::Check(format!(
                    "waited {} s for {what}: {why}",
                    deadline.as_secs()
                )));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Writes a file, making its directories.
///
/// # Errors
/// [`LabError::Io`] naming the path.
pub fn write(path: &Path, text: &str) -> LabResult<()> {
    let failed = || LabError::io(format!("writing {}", path.display()));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed())?;
    }
    std::fs::write(path, text).map_err(failed())
}

/// The program under test and the images it boots.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The `xeno` program.
    pub xeno: PathBuf,
    /// Template digest, as `xeno template import` printed it.
    pub template: String,
    /// Template store that nodes fetch from.
    pub published: PathBuf,
}
