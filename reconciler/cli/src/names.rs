//! Names that a shell may complete: of the fleet whose directory this is, else of this machine's agent.
//!
//! Nothing here fails: who presses Tab wants names or nothing. What is asked is bounded in time.

use std::path::Path;
use std::time::Duration;

use clap_complete::engine::CompletionCandidate;
use xeno_agent::source::Manifests;
use xeno_model::desired::DesiredFleet;
use xeno_model::manifest::{Kind, parse_file};

use crate::directory;
use crate::link::{AgentArgs, wait};

/// Longest wait for an agent: whoever presses Tab does not wait longer gladly.
const AGENT_WAIT: Duration = Duration::from_millis(500);

/// Names of slices.
pub(crate) fn slices() -> Vec<CompletionCandidate> {
    match here() {
        Some(snapshot) => documents(&snapshot, Kind::Slice),
        None => of_agent(|sliver| {
            sliver
                .split_once('/')
                .map_or(sliver, |(slice, _)| slice)
                .to_owned()
        }),
    }
}

/// Names of nodes.
pub(crate) fn nodes() -> Vec<CompletionCandidate> {
    here().map_or_else(Vec::new, |snapshot| documents(&snapshot, Kind::Node))
}

/// Names of slivers, as in `web/0`. A fleet with mistakes has none that could be told.
pub(crate) fn slivers() -> Vec<CompletionCandidate> {
    let Some(snapshot) = here() else {
        return of_agent(str::to_owned);
    };
    let fleet = Manifests::default().fleet(&snapshot).ok();
    fleet.map_or_else(Vec::new, |fleet| candidates(sliver_names(&fleet)))
}

fn sliver_names(fleet: &DesiredFleet) -> Vec<String> {
    let slivers = fleet.slices.values().flat_map(|slice| slice.slivers.values());
    slivers.map(|(_, sliver)| sliver.id.to_string()).collect()
}

/// The fleet whose directory this is, if it is one.
fn here() -> Option<xeno_agent::source::RepositorySnapshot> {
    let root = directory::fleet_root(Path::new("."));
    root.join(xeno_model::resolve::FLEET_FILE)
        .is_file()
        .then(|| directory::read(&root).ok())
        .flatten()
}

/// Documents that are named, whatever else is wrong with the fleet.
fn documents(snapshot: &xeno_agent::source::RepositorySnapshot, wanted: Kind) -> Vec<CompletionCandidate> {
    let files = snapshot
        .files
        .iter()
        .map(|file| parse_file(&file.path, &file.content));
    let mut all = Vec::new();
    for file in files {
        let names = file.names().filter(|(kind, _)| *kind == wanted);
        all.extend(names.map(|(_, name)| name.to_owned()));
    }
    candidates(all)
}

fn of_agent(name: impl Fn(&str) -> String) -> Vec<CompletionCandidate> {
    let client = AgentArgs::default().client();
    let asked = wait(async { Ok(tokio::time::timeout(AGENT_WAIT, client.slivers()).await) });
    match asked {
        Ok(Ok(Ok(slivers))) => candidates(slivers.slivers.iter().map(|sliver| name(&sliver.id)).collect()),
        Ok(Ok(Err(_)) | Err(_)) | Err(_) => Vec::new(),
    }
}

fn candidates(mut names: Vec<String>) -> Vec<CompletionCandidate> {
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}
