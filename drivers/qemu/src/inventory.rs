//! Which domains there are: found in the process table and the records, without asking anybody.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use xeno_model::id::SliverId;
use xeno_reconciler::ports::{PortError, PortResult};

use crate::domain::{Domain, io_failed};
use crate::process::{self, QemuProcess};
use crate::run_dir::RunDir;
use crate::{blocking, chain};

/// Run directories that are looked at; far more than a node has memory for.
const RUN_DIRS_MAX: usize = 10_000;

/// What the process table and the records say, before anybody is asked.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) ours: Vec<Domain>,
    pub(crate) strangers: Vec<QemuProcess>,
}

/// Looks at all QEMU processes and all records.
pub(crate) fn take_inventory(state_dir: &Path) -> PortResult<Inventory> {
    // Processes first: a record is written before its process starts and removed after it has ended, so a process
    // seen here has its record, or ends meanwhile.
    let processes = scan()?;
    let mut inventory = Inventory::default();
    let mut by_dir: BTreeMap<PathBuf, Vec<QemuProcess>> = BTreeMap::new();
    for process in processes {
        match owned_dir(&process, state_dir) {
            Some(dir) => by_dir.entry(dir).or_default().push(process),
            None => inventory.strangers.push(process),
        }
    }
    let no_dir = |error: io::Error| io_failed("list the state directory", &error);
    for (count, entry) in fs::read_dir(state_dir).map_err(no_dir)?.enumerate() {
        if count >= RUN_DIRS_MAX {
            return Err(PortError::never("the state directory holds too many entries"));
        }
        let path = entry.map_err(no_dir)?.path();
        if !path.is_dir() {
            continue;
        }
        let dir = RunDir::at(path);
        let running = by_dir.remove(dir.path()).unwrap_or_default();
        if let Some(domain) = settle(&dir, running)? {
            if let Err(error) = dir.trim_logs() {
                tracing::warn!(sliver = %domain.record.sliver, %error, "cannot cut the logs");
            }
            inventory.ours.push(domain);
        }
    }
    for (path, running) in by_dir {
        settle(&RunDir::at(path), running)?;
    }
    Ok(inventory)
}

/// The run directory of ours that a process lives in, if it does.
fn owned_dir(process: &QemuProcess, state_dir: &Path) -> Option<PathBuf> {
    let dir = process.run_dir().filter(|dir| dir.parent() == Some(state_dir))?;
    let owner = rustix::fs::stat(state_dir).ok()?.st_uid;
    (process.uid == owner).then(|| dir.to_owned())
}

/// Decides which of the processes that name a run directory is the domain of its record.
fn settle(dir: &RunDir, running: Vec<QemuProcess>) -> PortResult<Option<Domain>> {
    if running.is_empty() {
        return Ok(None);
    }
    let record = match dir.record() {
        Ok(Some(record)) => record,
        unusable => {
            // Between the two looks it may have ended and been cleaned away.
            let gone = |process: &&QemuProcess| matches!(QemuProcess::look(process.pid), Ok(now) if now.as_ref() != Some(*process));
            let Some(process) = running.iter().find(|process| !gone(process)) else {
                return Ok(None);
            };
            let why = match unusable {
                Err(error) => chain(&error),
                Ok(_) => format!("{} is missing", dir.record_path().display()),
            };
            return Err(PortError::never(format!(
                "QEMU process {} is ours, but its record is of no use: {why}",
                process.pid
            )));
        }
    };
    let uuid = record.uuid.to_string();
    if let Some(other) = running
        .iter()
        .find(|process| process.uuid() != Some(uuid.as_str()))
    {
        return Err(PortError::never(format!(
            "QEMU process {} in {} has UUID {}, its record says {uuid}",
            other.pid,
            dir.path().display(),
            other.uuid().unwrap_or("none"),
        )));
    }
    // While QEMU starts a child, the child looks like QEMU for a moment; the pid file names the real one.
    let named = fs::read_to_string(dir.pid())
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    let domain = running.iter().find(|process| Some(process.pid) == named);
    let domain = domain.or_else(|| running.first()).cloned();
    Ok(domain.map(|process| Domain {
        dir: dir.clone(),
        record,
        process,
    }))
}

/// Looks for the domain of one sliver.
pub(crate) async fn find(dir: &RunDir, sliver: &SliverId) -> PortResult<Option<Domain>> {
    let (dir, sliver) = (dir.clone(), sliver.clone());
    blocking(move || {
        let state_dir = dir.path().parent().unwrap_or(dir.path());
        let mut running = scan()?;
        running.retain(|process| owned_dir(process, state_dir).as_deref() == Some(dir.path()));
        let found = settle(&dir, running)?;
        if let Some(domain) = &found
            && domain.record.sliver != sliver
        {
            let (path, other) = (dir.path().display(), &domain.record.sliver);
            return Err(PortError::never(format!(
                "{path} is in use by {other}, not by {sliver}"
            )));
        }
        Ok(found)
    })
    .await
}

fn scan() -> PortResult<Vec<QemuProcess>> {
    process::scan().map_err(|error| io_failed("read the process table", &error))
}
