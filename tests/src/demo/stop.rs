//! Ending what a demonstration started: its guests by a push, its daemons by their own pids.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::report::say;
use crate::lab::node::Node;
use crate::lab::process::{Daemon, end_recorded, kill_recorded, start_time};
use crate::lab::{LabError, LabResult};

const RECORD: &str = "processes.json";

/// Notes which processes the laboratory in `dir` started.
///
/// # Errors
/// [`LabError::Io`] naming the path.
pub fn record(dir: &Path, nodes: &[Node]) -> LabResult<()> {
    record_all(dir, nodes.iter().flat_map(|node| [&node.agent, &node.cowfs]))
}

/// Notes that these are the processes which the laboratory in `dir` started.
///
/// # Errors
/// [`LabError::Io`] naming the path.
pub fn record_all<'a>(dir: &Path, daemons: impl IntoIterator<Item = &'a Daemon>) -> LabResult<()> {
    let processes: Vec<Value> = daemons
        .into_iter()
        .map(Daemon::pid)
        .filter_map(|pid| start_time(pid).map(|started| json!({ "pid": pid, "started": started })))
        .collect();
    crate::lab::write(&dir.join(RECORD), &format!("{}\n", json!(processes)))
}

/// Ends every process that a demonstration in `dir` started and that still runs: daemons as recorded, guests by the
/// run directories that lie in `dir`.
///
/// # Errors
/// If one does not end.
pub fn end_all(dir: &Path) -> LabResult<()> {
    let mut ended = 0;
    if let Ok(text) = std::fs::read_to_string(dir.join(RECORD)) {
        let processes: Vec<Value> =
            serde_json::from_str(&text).map_err(|e| LabError::Check(format!("{RECORD} is not ours: {e}")))?;
        for process in processes {
            if let (Some(pid), Some(started)) = (process["pid"].as_u64(), process["started"].as_u64()) {
                ended += u32::from(end_recorded(u32::try_from(pid).unwrap_or(0), started)?);
            }
        }
    }
    for pid in guests(dir) {
        if let Some(started) = start_time(pid) {
            ended += u32::from(end_recorded(pid, started)?);
        }
    }
    let _absent = std::fs::remove_file(dir.join(RECORD));
    if ended > 0 {
        say(&format!("ended {ended} processes of the demonstration"));
    }
    Ok(())
}

/// Ends everything in its directory when it goes, so that a failed check leaves nobody behind on a port.
#[derive(Debug)]
pub struct AtTheEnd(PathBuf);

impl AtTheEnd {
    /// For what is started in `dir` from now on.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        Self(dir.to_owned())
    }
}

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        if let Err(error) = end_all(&self.0) {
            say(&error.to_string());
        }
    }
}

/// Ends a guest as a power failure would, and waits until it is gone.
///
/// # Errors
/// If it does not end.
pub fn kill_guest(pid: u32) -> LabResult<()> {
    let Some(started) = start_time(pid) else {
        return Ok(());
    };
    kill_recorded(pid, started).map(drop)
}

/// QEMU processes whose command line names a path in `dir`: nobody else's can.
pub(crate) fn guests(dir: &Path) -> Vec<u32> {
    let Ok(dir) = dir.canonicalize() else {
        return Vec::new();
    };
    let needle = format!("{}/", dir.display());
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let text = String::from_utf8_lossy(&command);
            let program = text.split('\0').next().unwrap_or_default();
            program.contains("qemu-system-") && text.contains(&needle)
        })
        .collect()
}
