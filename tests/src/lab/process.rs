//! Processes of the laboratory: started in sessions of their own, remembered by pid *and* start time, so that a pid
//! that was given out again is never ended.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::{LabError, LabResult, wait_for};

/// A daemon that this laboratory started.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// Where it writes what it says.
    pub log: PathBuf,
}

impl Daemon {
    /// Starts `program` with `arguments`, its output appended to `log`.
    ///
    /// # Errors
    /// [`LabError::Io`] if the log or the program cannot be opened.
    pub fn start(program: &Path, arguments: &[&str], log: &Path) -> LabResult<Self> {
        Self::start_with(program, arguments, &[], log)
    }

    /// Starts `program` with `arguments` and variables of its environment, its output appended to `log`.
    ///
    /// # Errors
    /// [`LabError::Io`] if the log or the program cannot be opened.
    pub fn start_with(
        program: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
        log: &Path,
    ) -> LabResult<Self> {
        let failed = || LabError::io(format!("starting {}", program.display()));
        if let Some(parent) = log.parent() {
            std::fs::create_dir_all(parent).map_err(failed())?;
        }
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(failed())?;
        let err = out.try_clone().map_err(failed())?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .env("NO_COLOR", "1")
            .envs(variables.iter().copied())
            .process_group(0)
            .spawn()
            .map_err(failed())?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for it to end by itself; the signal that ended it, if one did.
    ///
    /// # Errors
    /// [`LabError::Check`] if it goes on beyond `deadline`.
    pub fn await_end(&mut self, deadline: Duration) -> LabResult<Option<i32>> {
        use std::os::unix::process::ExitStatusExt as _;
        let mut signal = None;
        wait_for(&format!("process {} to end", self.pid()), deadline, || {
            let status = self.child.try_wait().map_err(|error| error.to_string())?;
            signal = status.ok_or("it goes on")?.signal();
            Ok(())
        })?;
        Ok(signal)
    }

    /// Ends it at once, as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// [`LabError::Io`] if it cannot be waited for.
    pub fn kill(&mut self) -> LabResult<()> {
        self.child.kill().map_err(LabError::io("killing a daemon"))?;
        self.child
            .wait()
            .map_err(LabError::io("waiting for a killed daemon"))?;
        Ok(())
    }

    /// Has it stand still (SIGSTOP), or go on.
    ///
    /// # Errors
    /// [`LabError::Io`] if there is no such process.
    pub fn freeze(&self, frozen: bool) -> LabResult<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        rustix::process::kill_process(Pid::from_child(&self.child), signal)
            .map_err(|error| LabError::io("having a daemon stand still")(error.into()))
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// [`LabError::Check`] if it does not end within 30 s.
    pub fn stop(&mut self) -> LabResult<()> {
        if self
            .child
            .try_wait()
            .map_err(LabError::io("looking at a daemon"))?
            .is_some()
        {
            return Ok(());
        }
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM)
            .map_err(|e| LabError::io("asking a daemon to end")(e.into()))?;
        wait_for(
            &format!("process {pid:?} to end"),
            Duration::from_secs(30),
            || match self.child.try_wait() {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err("it still runs".into()),
                Err(e) => Err(e.to_string()),
            },
        )
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

/// Start time of a process in clock ticks since boot (field 22 of proc_pid_stat(5)); `None` if there is none.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may hold spaces and parentheses itself: fields count from the last one.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Ends a process that another run of this program started, if it is still the same one.
///
/// # Errors
/// [`LabError::Check`] if it does not end within 30 s.
pub fn end_recorded(pid: u32, started: u64) -> LabResult<bool> {
    end_by(Signal::TERM, pid, started)
}

/// The same at once, as `kill -9` does.
///
/// # Errors
/// [`LabError::Check`] if it does not end within 30 s.
pub fn kill_recorded(pid: u32, started: u64) -> LabResult<bool> {
    end_by(Signal::KILL, pid, started)
}

fn end_by(signal: Signal, pid: u32, started: u64) -> LabResult<bool> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let (Some(handle), true) = (raw, start_time(pid) == Some(started)) else {
        return Ok(false);
    };
    // An error here means that it went away in between: that is what was wanted.
    let _gone = rustix::process::kill_process(handle, signal);
    wait_for(&format!("process {pid} to end"), Duration::from_secs(30), || {
        if start_time(pid) == Some(started) && !is_zombie(pid) {
            Err("it still runs".into())
        } else {
            Ok(())
        }
    })?;
    Ok(true)
}

fn is_zombie(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            stat.rsplit_once(')')
                .map(|(_, rest)| rest.trim_start().starts_with('Z'))
        })
        .unwrap_or(true)
}
