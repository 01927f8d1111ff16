//! A push that changes one file of a large repository, as a machine that follows it takes it in.

use std::time::Duration;

use xeno_agent::source::{Credentials, Limits, Manifests, Mirror, RemoteUrl, SourceConfig};
use xeno_model::id::Revision;
use xeno_reconciler::check::check;
use xeno_reconciler::plan::build;
use xeno_reconciler::{assume, render};

use crate::fleet::{Repository, Shape};
use crate::measure::{Times, memory, once};
use crate::plan::{NOW, input, meaning, megabytes, some_node};
use crate::report::{Figure, Goal};
use crate::{Failure, Scale, Setting};

const STAGES: [&str; 6] = ["fetch", "read", "parse and resolve", "project", "plan", "check"];

/// From a commit on the branch to the checked plan of one machine, at three sizes of repository.
pub(crate) fn one_file(setting: &Setting) -> Result<Vec<Figure>, Failure> {
    let nodes = match setting.scale {
        Scale::Full => [60, 240, 1000],
        Scale::Tiny => [2, 4, 8],
    };
    let per_node = match setting.scale {
        Scale::Full => 100,
        Scale::Tiny => 10,
    };
    let mut figures = Vec::new();
    for (i, (times, nodes)) in ["1×", "4×", "16×"].into_iter().zip(nodes).enumerate() {
        let shape = Shape {
            nodes,
            per_node,
            health: true,
        };
        let repository = Repository::create(&setting.dir.join(format!("push-{i}.git")), shape)?;
        let measured = pushes(repository, shape, setting)?;
        let figure = Figure::times(format!("one-file push → plan, {times}"), &measured.whole).note(format!(
            "{} slivers in {} files",
            shape.slivers(),
            shape.manifests()
        ));
        if i < 2 {
            figures.push(figure);
            continue;
        }
        figures.push(figure.goal(Goal::AtMost(100.0)));
        figures.extend(
            STAGES
                .iter()
                .zip(&measured.stages)
                .map(|(stage, times)| Figure::times(format!("one-file push → plan, 16×: {stage}"), times)),
        );
        figures.push(
            Figure::times("first read of the repository → plan, 16×", &measured.first)
                .note("what an agent does when it starts"),
        );
        figures.push(
            Figure::new(
                "memory of who follows the repository, 16×",
                megabytes(measured.held),
                "MB",
            )
            .note("everything that is kept for the next push"),
        );
    }
    Ok(figures)
}

struct Measured {
    first: Times,
    whole: Times,
    stages: [Times; STAGES.len()],
    held: u64,
}

fn pushes(mut repository: Repository, shape: Shape, setting: &Setting) -> Result<Measured, Failure> {
    let mut mirror = Mirror::new(SourceConfig {
        url: RemoteUrl::parse(&repository.path.to_string_lossy())?,
        branch: "main".to_owned(),
        mirror: repository.path.with_extension("mirror"),
        credentials: Credentials::default(),
        accept_rewrites: false,
        timeout: Duration::from_secs(600),
        limits: Limits::default(),
    });
    let node = some_node(shape)?;
    let mut manifests = Manifests::default();
    let mut measured = Measured {
        first: Times::default(),
        whole: Times::default(),
        stages: Default::default(),
        held: 0,
    };
    let mut known: Option<Revision> = None;
    let mut before = None;
    // The last slice that has a sliver on the machine, so that the plan has something to say.
    let slice = (0..shape.slices())
        .rev()
        .find(|slice| crate::fleet::nodes_of(shape, *slice).any(|name| name == node.as_str()))
        .ok_or("no slice on the machine")?;
    for turn in 0..=setting.runs {
        if turn > 0 {
            // Another amount each time: every push is a change.
            repository.edit_slice(slice, 128 + u32::try_from(turn)?)?;
        }
        let mut whole = Times::default();
        let mut stages: [Times; STAGES.len()] = Default::default();
        let [fetch, read, resolve, projecting, planning, checking] = &mut stages;
        let observed = before.take().map_or_else(
            || (assume::empty(&node, NOW), Default::default()),
            |old| assume::observed_from(&old, NOW),
        );
        let (desired, plan) = once(&mut whole, || -> Result<_, Failure> {
            let fetched = once(fetch, || mirror.fetch(known.as_ref()))?;
            let snapshot = once(read, || mirror.read(&fetched.revision, ""))?;
            let fleet = once(resolve, || meaning(&mut manifests, &snapshot))?;
            let desired = once(projecting, || fleet.project(&node, &fetched.revision));
            let input = input(&desired, &observed.0, &observed.1);
            let plan = once(planning, || build(&input))?;
            let findings = once(checking, || check(&plan, &input));
            if let Some(finding) = findings.first() {
                return Err(format!("the check refuses the plan: {finding}").into());
            }
            Ok((desired, plan))
        })?;
        if render::is_empty(&plan) {
            return Err("a push that changes a slice changes nothing".into());
        }
        known = Some(desired.revision.clone());
        before = Some(desired);
        if turn == 0 {
            measured.first = whole;
        } else {
            measured.whole.merge(whole);
            for (all, this) in measured.stages.iter_mut().zip(stages) {
                all.merge(this);
            }
        }
    }
    measured.held = memory(std::process::id(), "VmRSS:").unwrap_or(0);
    Ok(measured)
}
