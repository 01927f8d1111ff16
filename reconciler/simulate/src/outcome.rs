//! Telling a story, and what came of it.

use std::collections::BTreeMap;

use xeno_model::id::{NodeName, SiteName, SliceName};
use xeno_reconciler::change::ChangeClass;
use xeno_reconciler::rollout::Verdict;

use crate::reach::Reach;
use crate::safety::Broken;
use crate::story::Story;
use crate::trace::Trace;
use crate::world::World;

/// What came of a story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The chance that was in it.
    pub seed: u64,
    /// When each commit was pushed, how it is called, and how many slivers on how many nodes it touches.
    pub pushes: Vec<Pushed>,
    /// How many slivers have gone to another node.
    pub moved: usize,
    /// The nodes, as steps of the trace number them, and their sites.
    pub nodes: Vec<(NodeName, Option<SiteName>)>,
    /// How many slivers are asked for at the end.
    pub slivers: usize,
    /// What became of the rollout of each slice that a push changed.
    pub slices: Vec<SliceEnd>,
    /// How many slivers changed in which way.
    pub classes: BTreeMap<ChangeClass, u64>,
    /// What was asked of the board in each minute.
    pub writes: BTreeMap<u64, u32>,
    /// What was reached.
    pub reach: Reach,
    /// What became of every sliver.
    pub trace: Trace,
    /// Events, after each of which it was watched that nothing is that must not be.
    pub events: u64,
    /// When the last thing happened to a sliver, in milliseconds.
    pub ended_ms: u64,
}

/// A commit that was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// When, in milliseconds.
    pub at_ms: u64,
    /// Its id, in short.
    pub revision: String,
    /// Slivers that it touches.
    pub slivers: u32,
    /// Nodes that these are on.
    pub nodes: usize,
}

/// What became of the rollout of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEnd {
    /// Which slice.
    pub slice: SliceName,
    /// How many slivers it has.
    pub slivers: usize,
    /// How many of them failed.
    pub failed: usize,
    /// How it ended, or where it stands.
    pub verdict: Verdict,
    /// What it waits for, where it has not ended.
    pub waits: Option<String>,
    /// When it began, when each wave began, and when it ended.
    pub milestones: Vec<(u64, Milestone)>,
}

/// A point in a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Milestone {
    /// It began, with its first wave.
    Begins,
    /// A later wave began; the second is 2.
    Wave(u32),
    /// All waves are through.
    Done,
    /// It failed, and all go back.
    Failed,
    /// It failed, and a person has to decide.
    Held,
    /// A person stopped it.
    Stopped,
}

impl Milestone {
    /// In a word or two.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Begins => "begins".to_owned(),
            Self::Wave(wave) => format!("wave {wave}"),
            Self::Done => "done".to_owned(),
            Self::Failed => "failed, goes back".to_owned(),
            Self::Held => "failed, held".to_owned(),
            Self::Stopped => "stopped by a person".to_owned(),
        }
    }
}

impl Story {
    /// Lets it happen.
    ///
    /// # Errors
    /// The first thing that must never be, or what did not come to its end.
    pub fn tell(&self) -> Result<Outcome, Broken> {
        let mut world = World::new(self);
        world.run()?;
        Ok(world.outcome())
    }
}

impl World<'_> {
    fn outcome(self) -> Outcome {
        let last = self.views.len() - 1;
        let changed = |slice: &usize| !self.board.slices[*slice].milestones.is_empty();
        let end = |slice: usize| {
            let record = self.board.records.get(&slice).1?;
            let name = &self.slices[slice];
            let slivers = self.views[last]
                .commit
                .fleet
                .slices
                .get(name)
                .map_or(0, |slice| slice.slivers.len());
            Some(SliceEnd {
                slice: name.clone(),
                slivers,
                failed: record.failed.len(),
                verdict: record.verdict.clone(),
                waits: (record.verdict == Verdict::Rolling).then(|| self.waits_for(slice, record)),
                milestones: self.board.slices[slice].milestones.clone(),
            })
        };
        let slices: Vec<SliceEnd> = (0..self.slices.len()).filter(changed).filter_map(end).collect();
        let site = |name: &NodeName| {
            let nodes = self
                .views
                .iter()
                .rev()
                .find_map(|view| view.commit.fleet.nodes.get(name));
            nodes.map(|node| node.site.clone())
        };
        let pushed = |(at_ms, number): (u64, usize)| {
            let view = &self.views[number];
            Pushed {
                at_ms,
                revision: view.revision.short().to_owned(),
                slivers: view.touched,
                nodes: view.touches.len(),
            }
        };
        let pushes = self
            .story
            .pushes
            .iter()
            .map(|(at, _)| *at)
            .zip(1..)
            .map(pushed)
            .collect();
        let steps = self.trace.steps();
        let ends = slices
            .iter()
            .flat_map(|slice| &slice.milestones)
            .map(|(at, _)| *at);
        let ended_ms = ends
            .chain(steps.last().map(|step| step.at_ms))
            .max()
            .unwrap_or(self.now);
        let mut classes = BTreeMap::new();
        for class in self.classes.values() {
            *classes.entry(*class).or_default() += 1;
        }
        let slivers = self.views[last]
            .commit
            .fleet
            .slices
            .values()
            .map(|slice| slice.slivers.len())
            .sum();
        Outcome {
            seed: self.story.seed,
            moved: self.moved.len(),
            pushes,
            nodes: self
                .nodes
                .iter()
                .map(|node| (node.name.clone(), site(&node.name)))
                .collect(),
            slivers,
            slices,
            classes,
            writes: self.board.writes,
            reach: self.reach,
            trace: self.trace,
            events: self.events,
            ended_ms,
        }
    }
}
