//! One agent per state directory: a lock file, held for as long as the process lives.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::error::StateError;

/// Holds the lock; the kernel gives it back when the process ends, however it ends (flock(2)).
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `dir`, which must exist, and writes our process id into it.
    pub(crate) fn take(dir: &Path) -> Result<Self, StateError> {
        let path = dir.join("agent.lock");
        let fail = |attempt| {
            let path = path.clone();
            move |source| StateError::File {
                attempt,
                path,
                source,
            }
        };
        // Never truncated on open: the content belongs to whoever has the lock.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail("open the lock file"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::Locked {
                    dir: dir.to_owned(),
                    pid: holder(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(fail("lock")(source)),
        }
        // Only for people and messages: a full disk is no reason not to start.
        let _ = write_holder(&mut file);
        Ok(Self { _file: file })
    }
}

fn write_holder(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

/// What the holder wrote; only a hint for the message.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Makes the state directory for its owner alone.
pub(crate) fn make_dir(dir: &Path) -> Result<(), StateError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| StateError::File {
            attempt: "make the state directory",
            path: dir.to_owned(),
            source,
        })
}
