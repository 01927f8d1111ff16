//! Fleets at commits, and plans from one commit to another without asking any node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use xeno_agent::snapshot::Snapshot;
use xeno_agent::source::{Manifests, Reader, RepositorySnapshot};
use xeno_model::desired::{DeleteBudget, DesiredFleet};
use xeno_model::diagnostic::{Paint, Report};
use xeno_model::id::{Generation, NodeName, Revision, Timestamp};
use xeno_reconciler::assume;
use xeno_reconciler::plan::{Basis, Plan, PlanInput, build};

use crate::failure::{Failure, Outcome};
use crate::output;

/// How long a node keeps what a removal set aside, as far as a plan without a node can know: the agent's default.
const TOMBSTONE_MS: u64 = 7 * 24 * 3_600_000;

/// One commit, or two, as people write them: `B`, `A..B`, `A..` for up to `HEAD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// Where to come from, if that is said.
    pub(crate) from: Option<String>,
    /// Where to go.
    pub(crate) to: String,
}

impl Range {
    /// Reads one (gitrevisions(7); `...` means something else there, and nothing here).
    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        if text.contains("...") {
            return Err(Failure::said(format!("`{text}` has three dots"))
                .hint("a plan leads from one commit to another: A..B".to_owned()));
        }
        let or_head = |text: &str| if text.is_empty() { "HEAD" } else { text }.to_owned();
        Ok(match text.split_once("..") {
            Some((from, to)) => Self {
                from: Some(or_head(from)),
                to: or_head(to),
            },
            None => Self {
                from: None,
                to: text.to_owned(),
            },
        })
    }
}

/// A fleet at a commit.
pub(crate) struct Commit {
    /// Which.
    pub(crate) revision: Revision,
    /// What it asks for.
    pub(crate) fleet: DesiredFleet,
}

/// Reads fleets at commits of one repository.
pub(crate) struct History {
    reader: Reader,
    manifests: Manifests,
    subpath: String,
}

impl History {
    /// The fleet below `subpath` of a repository.
    pub(crate) fn new(reader: Reader, subpath: &str) -> Self {
        Self {
            reader,
            manifests: Manifests::default(),
            subpath: subpath.to_owned(),
        }
    }

    /// The repository at `path`, or around it.
    pub(crate) fn open(path: &Path, subpath: &str) -> Outcome<Self> {
        let reader = match Reader::open(path) {
            Ok(reader) => reader,
            Err(error) => match git2::Repository::discover(path) {
                Ok(found) => Reader::open(found.path())?,
                Err(_) => return Err(error.into()),
            },
        };
        Ok(Self::new(reader, subpath))
    }

    /// The repository itself.
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// What a commit holds, and what it asks for or everything that is wrong with it.
    pub(crate) fn read(
        &mut self,
        at: &Revision,
    ) -> Outcome<(RepositorySnapshot, Result<DesiredFleet, Report>)> {
        let snapshot = self.reader.read(at, &self.subpath)?;
        let fleet = self.manifests.fleet(&snapshot);
        Ok((snapshot, fleet))
    }

    /// What a commit asks for, or everything that is wrong with it.
    pub(crate) fn fleet(&mut self, at: &Revision) -> Outcome<Result<DesiredFleet, Report>> {
        let snapshot = self.reader.read(at, &self.subpath)?;
        Ok(self.manifests.fleet(&snapshot))
    }
}

/// Plans of every node that either commit names, in order, assuming that each has carried out `before`.
///
/// Without a commit before, nothing is assumed to run anywhere.
pub(crate) fn plans(before: Option<&Commit>, after: &Commit, only: Option<&NodeName>) -> Outcome<Vec<Plan>> {
    let nothing;
    let (old, old_revision) = match before {
        Some(commit) => (&commit.fleet, &commit.revision),
        None => {
            nothing = empty(&after.fleet);
            (&nothing, &after.revision)
        }
    };
    let named: BTreeSet<&NodeName> = old.nodes.keys().chain(after.fleet.nodes.keys()).collect();
    if let Some(only) = only
        && !named.contains(only)
    {
        return Err(Failure::said(format!("no commit names a node `{only}`")).hint(
            xeno_model::diagnostic::did_you_mean(only.as_str(), named.iter().map(|n| n.as_str()), "nodes"),
        ));
    }
    let now = Timestamp(output::now_ms());
    let wanted: Vec<&NodeName> = named
        .into_iter()
        .filter(|node| only.is_none_or(|only| only == *node))
        .collect();
    let (old, new) = (old.by_node(), after.fleet.by_node());
    let plan = |node: &&NodeName| {
        let (observed, applied) = assume::observed_from(&old.project(node, old_revision), now);
        let desired = new.project(node, &after.revision);
        let planned = build(&PlanInput {
            basis: Basis::Assumed,
            tombstone_ms: TOMBSTONE_MS,
            ..PlanInput::plain(&desired, &applied, &observed, now)
        });
        planned.map_err(|error| Failure::doing(format_args!("plan node {node}"), &error))
    };
    on_all_cores(&wanted, plan).into_iter().collect()
}

/// Does the same with each, all cores at it; the results are in order.
pub(crate) fn on_all_cores<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = all.len().div_ceil(threads).max(1);
    let (work, mut results) = (&work, Vec::with_capacity(all.len()));
    std::thread::scope(|scope| {
        let shares: Vec<_> = all
            .chunks(share)
            .map(|share| scope.spawn(move || share.iter().map(work).collect::<Vec<R>>()))
            .collect();
        for share in shares {
            match share.join() {
                Ok(part) => results.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    results
}

/// The plan of the node that `seen` is of, from what it saw and recorded to what a commit asks for.
///
/// Time stands still: what waited for a moment when the node was looked at waits for it here, too.
pub(crate) fn plan_from(seen: &Snapshot, after: &Commit) -> Outcome<Plan> {
    let node = &seen.observed.node;
    // The node would accept another commit as its next generation.
    let same = seen.revision.as_ref() == Some(&after.revision);
    let generation = if same {
        seen.generation
    } else {
        Generation(seen.generation.0.saturating_add(1))
    };
    let desired = after.fleet.project(node, &after.revision);
    build(&PlanInput {
        generation,
        applied_generation: seen.applied_generation,
        basis: Basis::Observed,
        removed_recently: seen.removed_recently,
        tombstone_ms: seen.tombstone_ms,
        restarts: &seen.restarts,
        freezes: &seen.freezes,
        ..PlanInput::plain(&desired, &seen.applied, &seen.observed, seen.observed.at)
    })
    .map_err(|error| Failure::doing(format_args!("plan node {node}"), &error))
}

/// Prints diagnostics to standard error, and how many there are.
pub(crate) fn show(report: &Report) -> Failure {
    let paint = match anstream::AutoStream::choice(&std::io::stderr()) {
        anstream::ColorChoice::Never => Paint::Plain,
        _ => Paint::Colour,
    };
    output::note(report.render(paint).trim_end());
    let mistakes = report.shown().len() + report.more();
    let files: BTreeSet<&str> = report.shown().iter().map(|d| d.place.path.as_str()).collect();
    output::note(&format!(
        "\n{} in {}",
        output::count(mistakes, "mistake", "mistakes"),
        output::count(files.len(), "file", "files"),
    ));
    Failure::Shown
}

/// A fleet of the same nodes that asks for nothing.
pub(crate) fn empty(like: &DesiredFleet) -> DesiredFleet {
    DesiredFleet {
        name: like.name.clone(),
        delete_budget: DeleteBudget::default(),
        approval: None,
        sites: like.sites.clone(),
        nodes: like.nodes.clone(),
        cordoned: like.cordoned.clone(),
        tenants: BTreeMap::new(),
        templates: BTreeMap::new(),
        slices: BTreeMap::new(),
        files: BTreeMap::new(),
        turns: std::sync::Arc::default(),
        transit: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_commit_or_two() {
        let check = |text: &str, from: Option<&str>, to: &str| {
            let range = Range::parse(text).expect("a range");
            assert_eq!((range.from.as_deref(), range.to.as_str()), (from, to), "{text}");
        };
        check("HEAD~1", None, "HEAD~1");
        check("a..b", Some("a"), "b");
        check("v1..", Some("v1"), "HEAD");
        check("..v2", Some("HEAD"), "v2");
        assert!(Range::parse("a...b").is_err());
    }
}
