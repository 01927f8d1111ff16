//! A hundred slivers on one node that has nothing to do: the agent's own loop, state and mirror, over a hypervisor and a
//! file server in memory, so that the agent alone is measured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use xeno_agent::lab::{Lab, LabClock, LabConfig};
use xeno_agent::source::RemoteUrl;
use xeno_reconciler::scripted::ScriptedNode;

use crate::fleet::{Repository, Shape};
use crate::measure::{Times, memory};
use crate::plan::{NOW, megabytes, some_node};
use crate::report::{Figure, Goal};
use crate::{Failure, Scale, Setting};

/// Generous: what takes longer than this is broken, not slow.
const DEADLINE: Duration = Duration::from_secs(300);

/// What it costs to look and find nothing to do, and what the idle agent holds.
pub(crate) fn slivers(setting: &Setting) -> Result<Vec<Figure>, Failure> {
    let per_node = match setting.scale {
        Scale::Full => 100,
        Scale::Tiny => 4,
    };
    let shape = Shape {
        nodes: 1,
        per_node,
        health: false,
    };
    let repository = Repository::create(&setting.dir.join("hundred.git"), shape)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(measure(setting, shape, &repository))
}

async fn measure(setting: &Setting, shape: Shape, repository: &Repository) -> Result<Vec<Figure>, Failure> {
    let node = Arc::new(ScriptedNode::new(1 << 20));
    let config = LabConfig {
        node: some_node(shape)?,
        state_dir: setting.dir.join("state"),
        repository: Some(RemoteUrl::parse(&repository.path.to_string_lossy())?),
        look_every: Duration::from_secs(3600),
        parallel: 8,
        tombstone: Duration::from_secs(86_400),
        clock: LabClock::new(NOW.0),
        limits: Default::default(),
        fuse: None,
        fleet: None,
    };
    let begun = Instant::now();
    let lab = Lab::start(config, Arc::clone(&node), Arc::clone(&node)).await?;
    // Health checks of guests that are not there never answer, so converging means: no action is left.
    let mut nothing = false;
    while !nothing {
        if begun.elapsed() > DEADLINE {
            return Err("the agent does not come to rest".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        // Before the first commit is read there is nothing to plan for.
        nothing = lab.handle().plan().await.is_ok_and(|plan| plan.empty);
    }
    let converged = begun.elapsed();
    let mut times = Times::default();
    for _ in 0..setting.runs.max(3) * 3 {
        let begun = Instant::now();
        let plan = lab.handle().plan().await?;
        times.add(begun.elapsed(), Duration::ZERO);
        if !plan.empty {
            return Err("the agent found something to do".into());
        }
    }
    let resident = memory(std::process::id(), "VmRSS:").unwrap_or(0);
    lab.stop().await?;
    let what = format!("{} slivers on a node", shape.slivers());
    Ok(vec![
        Figure::new(format!("look and find nothing to do, {what}"), times.best(), "ms")
            .median(times.median())
            .goal(Goal::AtMost(50.0))
            .note("look, plan, check, the answer as text and JSON"),
        Figure::new(format!("idle agent, {what}"), megabytes(resident), "MB")
            .goal(Goal::AtMost(30.0))
            .note("resident, the measuring program included"),
        Figure::new(
            format!("first commit → all run, {what}"),
            converged.as_secs_f64() * 1000.0,
            "ms",
        )
        .note("every step journalled on disk; hypervisor and file server in memory"),
    ])
}
