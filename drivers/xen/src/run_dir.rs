//! One private directory for each sliver: the configuration that xl was given, what xl said, and a lock.
//!
//! What is in it says nothing about whether a domain is there: only the hypervisor knows.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use xeno_model::id::SliverId;

use crate::files::{make_private, write_durably};

/// Paths of one sliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunDir {
    path: PathBuf,
}

impl RunDir {
    pub(crate) fn of(state_dir: &Path, sliver: &SliverId) -> Self {
        Self {
            path: state_dir.join(sliver.label()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What xl is given.
    pub(crate) fn config(&self) -> PathBuf {
        self.path.join("domain.cfg")
    }

    /// What xl said about the last change.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("xl.log")
    }

    /// A stream to the console of the running domain.
    pub(crate) fn console_socket(&self) -> PathBuf {
        self.path.join("console.sock")
    }

    /// Makes the directory, and takes it for one change. `None`: somebody else is changing this domain.
    pub(crate) fn lock(&self) -> io::Result<Option<RunDirLock>> {
        make_private(&self.path)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.path.join("lock"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(RunDirLock {
                _file: Arc::new(file),
            })),
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn write_config(&self, text: &str) -> io::Result<()> {
        write_durably(&self.config(), text.as_bytes())
    }

    /// Removes what only means something while a domain is there.
    pub(crate) fn remove_traces(&self) -> io::Result<()> {
        match fs::remove_file(self.config()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Holds a run directory for one change; let go when the last copy is dropped, or when the process ends.
#[derive(Clone, Debug)]
pub(crate) struct RunDirLock {
    _file: Arc<File>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_change_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        let dir = RunDir::of(state.path(), &SliverId::parse("web/0").unwrap());
        let first = dir.lock().unwrap();
        assert!(first.is_some());
        assert!(dir.lock().unwrap().is_none());
        drop(first);
        assert!(dir.lock().unwrap().is_some());
    }
}
