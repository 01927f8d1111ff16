//! One private directory for each domain: its record, its sockets, its logs.
//!
//! The directory outlives the domain, so that its logs can be read afterwards; [`crate::QemuDriver::forget`] removes
//! it. Whether a domain *runs* is never read from here: only the process table knows.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use xeno_kept::lock::Lock;
use xeno_model::id::{Digest, SliverId};

use crate::record::{Record, RecordError};

/// Longest name of a run directory; a longer label is shortened, with a digest in place of the rest.
const NAME_LEN_MAX: usize = 24;
/// A log is cut once it is this long: a guest must not fill the node's disk by printing.
const LOG_LEN_MAX: u64 = 8 << 20;
/// What is kept, in the file's `.1`, when a log is cut.
const LOG_KEPT: u64 = 1 << 20;
/// What an error message quotes of a log.
const TAIL_LEN: u64 = 2048;

/// Paths of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// The run directory of a sliver: its label, or a shorter unique name where sockets would not fit.
    #[must_use]
    pub fn of(state_dir: &Path, sliver: &SliverId) -> Self {
        let label = sliver.label();
        let name = if label.len() <= NAME_LEN_MAX {
            label
        } else {
            // A label has no `~`, so this is nobody else's.
            let digest = Digest::of(label.as_bytes()).short();
            format!("{}~{digest}", &label[..NAME_LEN_MAX - 1 - digest.len()])
        };
        Self {
            path: state_dir.join(name),
        }
    }

    /// A run directory found on disk, or named by a process.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The record.
    #[must_use]
    pub fn record_path(&self) -> PathBuf {
        self.path.join("domain.json")
    }

    /// File in which QEMU keeps its process id, locked while it runs.
    #[must_use]
    pub fn pid(&self) -> PathBuf {
        self.path.join("pid")
    }

    /// Socket of the QEMU machine protocol.
    #[must_use]
    pub fn qmp(&self) -> PathBuf {
        self.path.join("qmp.sock")
    }

    /// Socket of the guest's serial console, for one client at a time. A client must read as long as it is
    /// connected: after a few hundred characters that nobody took, the guest's serial port waits for it. Without a
    /// client nothing waits, and the log gets everything in any case.
    #[must_use]
    pub fn console_socket(&self) -> PathBuf {
        self.path.join("console.sock")
    }

    /// What the guest's serial console printed since it was started.
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.path.join("console.log")
    }

    /// What QEMU itself had to say.
    #[must_use]
    pub fn qemu_log(&self) -> PathBuf {
        self.path.join("qemu.log")
    }

    /// Makes the directory, and takes it for one change. `None`: somebody else is changing this domain.
    ///
    /// # Errors
    /// Of the file system.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        Lock::take(&self.path)
    }

    /// Reads the record. `None`: there is none.
    ///
    /// # Errors
    /// [`RecordError`] if there is one that cannot be used.
    pub fn record(&self) -> Result<Option<Record>, RecordError> {
        Record::read(&self.record_path())
    }

    /// Writes the record so that it survives a power failure.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn write_record(&self, record: &Record) -> Result<(), RecordError> {
        record.write(&self.record_path())
    }

    /// Makes room for a new process: removes what an earlier one left, and sets its logs aside, unless the same guest
    /// goes on.
    ///
    /// # Errors
    /// Of the file system.
    pub fn clear(&self, logs: Logs) -> io::Result<()> {
        self.remove_traces()?;
        for log in [self.console_log(), self.qemu_log()] {
            if logs == Logs::New && log.exists() {
                fs::rename(&log, older(&log))?;
            }
            // QEMU would make them with the umask it happens to have.
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&log)?;
        }
        Ok(())
    }

    /// Removes what only means something while a domain runs. The record goes first: without it nothing is claimed.
    ///
    /// # Errors
    /// Of the file system.
    pub fn remove_traces(&self) -> io::Result<()> {
        for path in [self.record_path(), self.pid(), self.qmp(), self.console_socket()] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Cuts logs that have grown too long. QEMU appends to them, so it goes on at the new end.
    ///
    /// # Errors
    /// Of the file system.
    pub fn trim_logs(&self) -> io::Result<()> {
        for log in [self.console_log(), self.qemu_log()] {
            trim(&log, LOG_LEN_MAX, LOG_KEPT)?;
        }
        Ok(())
    }

    /// The last lines of QEMU's own log, for an error message.
    #[must_use]
    pub fn qemu_log_tail(&self) -> String {
        tail(&self.qemu_log()).unwrap_or_default()
    }
}

/// What becomes of the logs of an earlier process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logs {
    /// They are set aside.
    New,
    /// They go on.
    Kept,
}

fn older(log: &Path) -> PathBuf {
    log.with_extension("log.1")
}

fn trim(log: &Path, len_max: u64, kept: u64) -> io::Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let len = file.metadata()?.len();
    if len <= len_max {
        return Ok(());
    }
    file.seek(SeekFrom::Start(len.saturating_sub(kept)))?;
    let mut end = Vec::new();
    (&mut file).take(kept).read_to_end(&mut end)?;
    let mut copy = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(older(log))?;
    copy.write_all(&end)?;
    file.set_len(0)
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_LEN)))?;
    let mut end = Vec::new();
    file.take(TAIL_LEN).read_to_end(&mut end)?;
    let text = String::from_utf8_lossy(&end);
    Ok(text.trim().replace('\n', "; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_still_leaves_room_for_sockets() {
        let state = PathBuf::from("/".to_owned() + &"s".repeat(crate::config::STATE_DIR_LEN_MAX - 1));
        let of = |slice: &str| RunDir::of(&state, &SliverId::parse(&format!("{slice}/4294967295")).unwrap());
        let (one, two) = ("a".repeat(63), "a".repeat(62) + "b");
        assert_ne!(of(&one), of(&two));
        for dir in [of(&one), of(&two), of("a")] {
            assert!(dir.console_socket().as_os_str().len() <= 107);
        }
    }

    #[test]
    fn a_log_is_cut_and_its_end_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console.log");
        fs::write(&log, "0123456789").unwrap();
        trim(&log, 10, 4).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "0123456789");
        trim(&log, 9, 4).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "");
        assert_eq!(fs::read_to_string(older(&log)).unwrap(), "6789");
        trim(&dir.path().join("none"), 9, 4).unwrap();
    }
}
