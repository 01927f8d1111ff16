//! One private directory for each sliver: the configuration that xl was given, what xl said, and a lock.
//!
//! What is in it says nothing about whether a domain is there: only the hypervisor knows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use xeno_model::id::SliverId;

use xeno_kept::files::write_durably;
use xeno_kept::lock::Lock;

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

    /// Where xl's transport is awaited while the domain moves away.
    pub(crate) fn gate_socket(&self) -> PathBuf {
        self.path.join("gate.sock")
    }

    /// Makes the directory, and takes it for one change. `None`: somebody else is changing this domain.
    pub(crate) fn lock(&self) -> io::Result<Option<Lock>> {
        Lock::take(&self.path)
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
