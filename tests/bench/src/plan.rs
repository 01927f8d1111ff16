//! Planning a whole fleet from its repository: the answer to a push, and what each part of it costs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use xeno_agent::source::{Manifests, Reader, RepositorySnapshot};
use xeno_model::desired::{DesiredFleet, DesiredNode};
use xeno_model::id::{NodeName, Revision, Timestamp};
use xeno_model::manifest::{ParsedFile, parse_file};
use xeno_model::resolve::resolve;
use xeno_reconciler::check::check;
use xeno_reconciler::plan::{Basis, Plan, PlanInput, build};
use xeno_reconciler::{assume, render};

use crate::fleet::{Repository, Shape};
use crate::measure::{self, Times, spend, times};
use crate::report::{Figure, Goal};
use crate::{Failure, Scale, Setting};

/// Some moment: nothing that is measured depends on it.
pub(crate) const NOW: Timestamp = Timestamp(1_795_348_800_000);

/// The command an operator runs, from the process's start to its end.
pub(crate) fn command(setting: &Setting) -> Result<Vec<Figure>, Failure> {
    let shape = match setting.scale {
        Scale::Full => Shape {
            nodes: 1000,
            per_node: 20,
            health: true,
        },
        Scale::Tiny => Shape {
            nodes: 5,
            per_node: 4,
            health: true,
        },
    };
    let what = format!("{} nodes × {} slivers", shape.nodes, shape.per_node);
    let Some(xeno) = &setting.xeno else {
        let missing =
            |name: &str, unit| Figure::missing(format!("{name}, {what}"), unit, "no xeno program was built");
        return Ok(vec![
            missing("plan, all new", "s"),
            missing("plan, all new, peak memory", "MB"),
            missing("plan, no change", "s"),
        ]);
    };
    let mut repository = Repository::create(&setting.dir.join("plan.git"), shape)?;
    repository.commit(&[(
        "README.md".to_owned(),
        "Nothing that a node would notice.\n".to_owned(),
    )])?;
    // Without a commit before: as if nothing ran anywhere.
    let new = run(xeno, &repository.path, "HEAD~1", setting.runs)?;
    let nothing = run(xeno, &repository.path, "HEAD", setting.runs)?;
    let figure = |name: &str, run: &Runs, goal: f64| {
        Figure::new(format!("{name}, {what}"), run.times.best() / 1000.0, "s")
            .median(run.times.median() / 1000.0)
            .goal(Goal::AtMost(goal))
            .note(format!(
                "xeno plan --repo; {:.2} s of CPU",
                run.times.cpu() / 1000.0
            ))
    };
    let peak = |name: &str, run: &Runs| {
        Figure::new(format!("{name}, peak memory, {what}"), megabytes(run.peak), "MB")
            .goal(Goal::AtMost(500.0))
    };
    Ok(vec![
        figure("plan, all new", &new, 2.0),
        peak("plan, all new", &new),
        figure("plan, no change", &nothing, 0.5),
        peak("plan, no change", &nothing),
    ])
}

struct Runs {
    times: Times,
    peak: u64,
}

fn run(xeno: &Path, repository: &Path, revision: &str, runs: usize) -> Result<Runs, Failure> {
    let mut result = Runs {
        times: Times::default(),
        peak: 0,
    };
    for _ in 0..runs {
        let mut command = Command::new(xeno);
        command
            .args(["plan", "--rev", revision, "--repo"])
            .arg(repository);
        let spent = spend(&mut command)?;
        result.times.add(spent.wall, spent.cpu);
        result.peak = result.peak.max(spent.peak);
    }
    Ok(result)
}

/// What each stage between repository and plan costs, at 1×, 4× and 16×.
pub(crate) fn stages(setting: &Setting) -> Result<Vec<Figure>, Failure> {
    let nodes = match setting.scale {
        Scale::Full => [60, 240, 960],
        Scale::Tiny => [2, 4, 8],
    };
    let mut figures = Vec::new();
    for (times, nodes) in [1, 4, 16].into_iter().zip(nodes) {
        let shape = Shape {
            nodes,
            per_node: 20,
            health: true,
        };
        let repository = Repository::create(&setting.dir.join(format!("stages-{times}.git")), shape)?;
        let stages = stages_of(&repository, setting.runs)?;
        let slivers = f64::from(shape.slivers());
        figures.extend(stages.into_iter().map(|(name, times_spent)| {
            let each = times_spent.best() * 1000.0 / slivers;
            Figure::times(format!("{name}, {times}×"), &times_spent).note(format!(
                "{slivers} slivers in {} files: {each:.2} µs a sliver",
                shape.manifests()
            ))
        }));
    }
    // The three sizes of one stage beside each other.
    figures.sort_by_key(|figure| STAGES.iter().position(|stage| figure.is_about(stage)));
    Ok(figures)
}

const STAGES: [&str; 9] = [
    "read the commit",
    "parse",
    "resolve",
    "project onto every node",
    "plan, all new",
    "plan, no change",
    "check, all new",
    "render, all new",
    "whole way, warm",
];

fn stages_of(repository: &Repository, runs: usize) -> Result<Vec<(&'static str, Times)>, Failure> {
    let mut spent: BTreeMap<&'static str, Times> = BTreeMap::new();
    let mut last = None;
    for _ in 0..runs {
        let mut reader = Reader::open(&repository.path)?;
        let revision = reader.resolve("HEAD")?;
        let snapshot = measure::once(spent.entry("read the commit").or_default(), || {
            reader.read(&revision, "")
        })?;
        let parsed: Vec<ParsedFile> = measure::once(spent.entry("parse").or_default(), || {
            let files = snapshot.files.iter();
            files.map(|file| parse_file(&file.path, &file.content)).collect()
        });
        let fleet = measure::once(spent.entry("resolve").or_default(), || {
            resolve(&parsed.iter().collect::<Vec<_>>(), &snapshot.tree)
        })
        .map_err(|findings| format!("{findings:#?}"))?;
        let nodes: Vec<DesiredNode> =
            measure::once(spent.entry("project onto every node").or_default(), || {
                project(&fleet, &revision)
            });
        let all_new: Vec<Plan> = measure::once(spent.entry("plan, all new").or_default(), || {
            plans(&nodes, Before::Nothing)
        })?;
        measure::once(spent.entry("check, all new").or_default(), || {
            check_all(&nodes, &all_new)
        })?;
        measure::once(spent.entry("render, all new").or_default(), || {
            all_new
                .iter()
                .map(|plan| render::text(plan, render::Colour::Plain).len())
                .sum::<usize>()
        });
        let nothing: Vec<Plan> = measure::once(spent.entry("plan, no change").or_default(), || {
            plans(&nodes, Before::Same)
        })?;
        if !nothing.iter().all(render::is_empty) {
            return Err("a fleet that did as it was told has something to do".into());
        }
        last = Some((reader, revision, snapshot));
    }
    // Again with everything read and parsed, as on a machine that follows the repository.
    if let Some((mut reader, revision, snapshot)) = last {
        let mut manifests = Manifests::default();
        meaning(&mut manifests, &snapshot)?;
        let (warm, _) = times(runs, || {
            let snapshot = reader.read(&revision, "")?;
            let fleet = meaning(&mut manifests, &snapshot)?;
            plans(&project(&fleet, &revision), Before::Same)
        })?;
        spent.insert("whole way, warm", warm);
    }
    Ok(spent.into_iter().collect())
}

pub(crate) fn meaning(
    manifests: &mut Manifests,
    snapshot: &RepositorySnapshot,
) -> Result<DesiredFleet, Failure> {
    let fleet = manifests.fleet(snapshot);
    fleet.map_err(|report| report.render(xeno_model::diagnostic::Paint::Plain).into())
}

fn project(fleet: &DesiredFleet, revision: &Revision) -> Vec<DesiredNode> {
    let placed = fleet.by_node();
    fleet
        .nodes
        .keys()
        .map(|node| placed.project(node, revision))
        .collect()
}

#[derive(Clone, Copy)]
enum Before {
    Nothing,
    Same,
}

fn plans(nodes: &[DesiredNode], before: Before) -> Result<Vec<Plan>, Failure> {
    nodes
        .iter()
        .map(|node| Ok(with_input(node, before, build)?))
        .collect()
}

fn check_all(nodes: &[DesiredNode], plans: &[Plan]) -> Result<(), Failure> {
    for (node, plan) in nodes.iter().zip(plans) {
        if let Some(finding) = with_input(node, Before::Nothing, |input| check(plan, input)).first() {
            return Err(format!("the check refuses a plan: {finding}").into());
        }
    }
    Ok(())
}

fn with_input<T>(node: &DesiredNode, before: Before, then: impl FnOnce(&PlanInput<'_>) -> T) -> T {
    let (observed, applied) = match before {
        Before::Nothing => (assume::empty(&node.node, NOW), BTreeMap::new()),
        Before::Same => assume::observed_from(node, NOW),
    };
    then(&input(node, &observed, &applied))
}

/// What a plan is made from, with nothing special about it.
pub(crate) fn input<'a>(
    desired: &'a DesiredNode,
    observed: &'a xeno_model::observed::ObservedNode,
    applied: &'a BTreeMap<xeno_model::id::SliverId, xeno_reconciler::change::AppliedSliver>,
) -> PlanInput<'a> {
    PlanInput {
        basis: Basis::Assumed,
        tombstone_ms: 7 * 24 * 3_600_000,
        ..PlanInput::plain(desired, applied, observed, NOW)
    }
}

/// A machine of the fleet that is measured.
pub(crate) fn some_node(shape: Shape) -> Result<NodeName, Failure> {
    Ok(NodeName::new(&crate::fleet::node_name(shape.nodes / 2))?)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "megabytes of a machine fit a float with room to spare"
)]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
