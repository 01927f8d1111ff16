//! Which QEMU processes there are, and whose.
//!
//! A process belongs to a run directory if it was given that directory's pid file as an argument *and* runs as the
//! user who owns the directory: anybody can start a process with any arguments, but not as somebody else. A pid
//! alone is never believed, since it can be used again; a process is held by a pidfd, identified a second time, and
//! only then signalled (pidfd_open(2)).

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use xeno_model::observed::Stranger;

/// What is read of a process's arguments; ours have about 3 KiB, and 32 mounts make it 8.
const ARGUMENTS_LEN_MAX: u64 = 256 << 10;
/// Memory that QEMU gives a guest when nobody says how much.
const MEMORY_MIB_DEFAULT: u64 = 128;
/// Longest wait of a thread for a process: this long it may hold up an agent that wants to end.
const WAIT_SLICE: Duration = Duration::from_millis(200);

/// A running QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuProcess {
    /// Its process id.
    pub pid: u32,
    /// The user it runs as.
    pub uid: u32,
    args: Vec<String>,
}

impl QemuProcess {
    /// Looks at one process. `None`: it is gone, is not QEMU, or has ended and was not collected yet.
    ///
    /// # Errors
    /// If it cannot be looked at although it may be QEMU.
    pub fn look(pid: u32) -> io::Result<Option<Self>> {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let gone = |error: &io::Error| {
            error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
        };
        let uid = match fs::metadata(&dir) {
            Ok(status) => status.uid(),
            Err(error) if gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        let read = fs::File::open(dir.join("cmdline"))
            .and_then(|file| file.take(ARGUMENTS_LEN_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(Self::from_arguments(pid, uid, &bytes)),
            Err(error) if gone(&error) => Ok(None),
            // Another user's, hidden by `hidepid` (proc(5)): not ours in any case.
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied
                    && uid != rustix::process::getuid().as_raw() =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn from_arguments(pid: u32, uid: u32, bytes: &[u8]) -> Option<Self> {
        let args: Vec<String> = bytes
            .strip_suffix(b"\0")
            .unwrap_or(bytes)
            .split(|byte| *byte == 0)
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .collect();
        let program = Path::new(args.first()?).file_name()?.to_str()?;
        let qemu = program.starts_with("qemu-system-") || program == "qemu-kvm" || program == "kvm";
        qemu.then_some(Self { pid, uid, args })
    }

    /// The value of an option, `-uuid` or `--uuid`; the last one, as QEMU takes it.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        let is = |arg: &String| arg.trim_start_matches('-') == name && arg.starts_with('-');
        let at = self.args.iter().rposition(is)?;
        self.args.get(at + 1).map(String::as_str)
    }

    /// The UUID it was given.
    #[must_use]
    pub fn uuid(&self) -> Option<&str> {
        self.option("uuid")
    }

    /// The run directory it claims.
    #[must_use]
    pub fn run_dir(&self) -> Option<&Path> {
        let file = Path::new(self.option("pidfile")?);
        (file.file_name()? == "pid").then(|| file.parent())?
    }

    /// Memory it has of the node, in MiB, as far as the kernel says (`VmRSS` in proc(5)): what its guest has touched.
    /// What is not known is taken for all.
    pub(crate) fn resident_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.map_or(u64::MAX, |kib| kib / 1024 + 1)
    }

    /// The process as it is shown to people who did not expect it.
    #[must_use]
    pub fn stranger(&self) -> Stranger {
        let name = self.option("name").and_then(|value| {
            let first = value.split(',').next()?;
            Some(first.strip_prefix("guest=").unwrap_or(first).to_owned())
        });
        Stranger {
            name: name.unwrap_or_else(|| format!("qemu process {}", self.pid)),
            memory_mib: self
                .option("m")
                .and_then(memory_mib)
                .unwrap_or(MEMORY_MIB_DEFAULT),
        }
    }
}

/// Reads the value of `-m`: `512`, `2G`, `size=1G,slots=2,maxmem=4G`; MiB where no unit is given (qemu(1)).
fn memory_mib(value: &str) -> Option<u64> {
    let size = value
        .split(',')
        .find_map(|part| part.strip_prefix("size="))
        .or_else(|| value.split(',').next())?;
    let digits = size.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = size[..digits].parse().ok()?;
    match size[digits..].to_ascii_lowercase().as_str() {
        "" | "m" => Some(number),
        "k" => Some(number / 1024),
        "g" => number.checked_mul(1024),
        "t" => number.checked_mul(1024 * 1024),
        _ => None,
    }
}

/// All QEMU processes of this machine that can be seen, by process id.
///
/// # Errors
/// If the process table cannot be read. Nothing then follows about what runs.
pub fn scan() -> io::Result<Vec<QemuProcess>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        found.extend(QemuProcess::look(pid)?);
    }
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

/// Holds one identified process, so that its id cannot come to mean another one.
#[derive(Debug)]
pub struct Held {
    fd: Arc<OwnedFd>,
}

impl Held {
    /// Takes hold of `process`. `None`: it is gone.
    ///
    /// # Errors
    /// Of the system calls.
    pub fn take(process: &QemuProcess) -> io::Result<Option<Self>> {
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Only now the id is pinned: is it still the process that was meant?
        if QemuProcess::look(process.pid)?.as_ref() != Some(process) {
            return Ok(None);
        }
        Ok(Some(Self { fd: Arc::new(fd) }))
    }

    /// Waits for its end; `false` if it is still there after `limit`.
    ///
    /// # Errors
    /// Of the system calls.
    pub async fn ended(&self, limit: Duration) -> io::Result<bool> {
        let until = Instant::now() + limit;
        loop {
            let slice = until.saturating_duration_since(Instant::now()).min(WAIT_SLICE);
            let fd = Arc::clone(&self.fd);
            let wait = move || {
                let slice = Timespec::try_from(slice).map_err(|_| rustix::io::Errno::INVAL)?;
                // A pidfd becomes readable when the process ends (pidfd_open(2)).
                poll(&mut [PollFd::new(&*fd, PollFlags::IN)], Some(&slice))
            };
            match crate::blocking(wait).await {
                Ok(0) | Err(rustix::io::Errno::INTR) if Instant::now() >= until => return Ok(false),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Destroys it (SIGKILL). Success if it has already ended.
    ///
    /// # Errors
    /// Of the system call.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&*self.fd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(args: &[&str]) -> Option<QemuProcess> {
        QemuProcess::from_arguments(42, 1000, args.join("\0").as_bytes())
    }

    #[test]
    fn only_qemu_is_qemu() {
        assert!(process(&["/usr/bin/qemu-system-x86_64", "-m", "64"]).is_some());
        assert!(process(&["/bin/sh", "-c", "qemu-system-x86_64 -m 64"]).is_none());
        assert!(process(&[""]).is_none());
    }

    #[test]
    fn arguments_are_read_as_qemu_reads_them() {
        let qemu = process(&[
            "qemu-system-x86_64",
            "-name",
            "guest=xeno-web-0,debug-threads=on",
            "--uuid",
            "u",
            "-pidfile",
            "/s/web-0/pid",
            "-m",
            "size=2G,slots=2",
        ])
        .unwrap();
        assert_eq!(
            (qemu.uuid(), qemu.run_dir()),
            (Some("u"), Some(Path::new("/s/web-0")))
        );
        let shown = qemu.stranger();
        assert_eq!((shown.name.as_str(), shown.memory_mib), ("xeno-web-0", 2048));
        let bare = process(&["qemu-system-arm"]).unwrap().stranger();
        assert_eq!((bare.name.as_str(), bare.memory_mib), ("qemu process 42", 128));
    }

    #[test]
    fn memory_in_every_spelling() {
        for (text, mib) in [
            ("512", Some(512)),
            ("512M", Some(512)),
            ("1g", Some(1024)),
            ("2048k", Some(2)),
            ("size=1G,maxmem=4G", Some(1024)),
            ("lots", None),
            ("99999999999999999999G", None),
            ("18446744073709551615T", None),
        ] {
            assert_eq!(memory_mib(text), mib, "{text}");
        }
    }
}
