//! One change of a domain at a time.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use crate::files::make_private;

/// Holds the directory of a domain for one change; let go when the last copy is dropped, or when the process ends.
#[derive(Clone, Debug)]
pub struct Lock {
    _file: Arc<File>,
}

impl Lock {
    /// Makes the directory, for its user alone, and takes it. `None`: somebody else is changing this domain.
    ///
    /// # Errors
    /// Of the file system.
    pub fn take(dir: &Path) -> io::Result<Option<Self>> {
        make_private(dir)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join("lock"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self {
                _file: Arc::new(file),
            })),
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_change_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("web-0");
        let first = Lock::take(&dir).unwrap();
        assert!(first.is_some());
        assert!(Lock::take(&dir).unwrap().is_none());
        drop(first);
        assert!(Lock::take(&dir).unwrap().is_some());
    }
}
