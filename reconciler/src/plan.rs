//! A plan: an immutable graph of actions on a stated basis, and what it will cost.

mod next;

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use xeno_model::desired::{CarriedContent, DesiredNode, DesiredSliver, LayerRef, Mount, WritableKind};
use xeno_model::id::{Digest, Generation, NodeName, Revision, SliverId, Timestamp};
use xeno_model::observed::{DomainState, HealthVerdict, ObservedNode, ObservedStorage};

use crate::action::{Action, ActionKey, ActionKind, Condition, Ingredients, PortsFrom};
use crate::capacity::{self, Claims};
use crate::change::{AppliedSliver, Change, Reason};
use crate::diff::{Study, domains, epoch_of, study};
use crate::freeze::Freeze;
use crate::ports::Tuning;
use crate::situation::{Step, mistuned};

/// All that a plan is made from. Equal inputs give equal plans, byte for byte.
#[derive(Clone, Debug)]
pub struct PlanInput<'a> {
    /// What should be.
    pub desired: &'a DesiredNode,
    /// What was last carried through, by sliver.
    pub applied: &'a BTreeMap<SliverId, AppliedSliver>,
    /// What is.
    pub observed: &'a ObservedNode,
    /// The generation this plan would carry the node to.
    pub generation: Generation,
    /// The generation that was last carried through; 0: none yet.
    pub applied_generation: Generation,
    /// Whether `observed` was looked at or made up from the commit before.
    pub basis: Basis,
    /// Slivers removed within the delete budget's window so far.
    pub removed_recently: u32,
    /// How long a tombstone is kept, in milliseconds.
    pub tombstone_ms: u64,
    /// Slivers whose last action failed and that wait before the next try, each with its reason.
    pub backing_off: &'a BTreeMap<SliverId, Reason>,
    /// When slivers were started again because they had ended by themselves, oldest first.
    pub restarts: &'a BTreeMap<SliverId, Vec<Timestamp>>,
    /// What is to be left alone.
    pub freezes: &'a [Freeze],
    /// Now.
    pub now: Timestamp,
}

impl<'a> PlanInput<'a> {
    /// Three sides and the time, and nothing else that could hold anything back: no removals, failures, restarts or
    /// freezes, on generation 0, with tombstones that are kept for a day.
    #[must_use]
    pub fn plain(
        desired: &'a DesiredNode,
        applied: &'a BTreeMap<SliverId, AppliedSliver>,
        observed: &'a ObservedNode,
        now: Timestamp,
    ) -> Self {
        Self {
            desired,
            applied,
            observed,
            generation: Generation(0),
            applied_generation: Generation(0),
            basis: Basis::Observed,
            removed_recently: 0,
            tombstone_ms: 86_400_000,
            backing_off: const { &BTreeMap::new() },
            restarts: const { &BTreeMap::new() },
            freezes: &[],
            now,
        }
    }
}

/// Where the observation of a plan comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// A node looked at itself.
    Observed,
    /// Nobody looked: taken to be what an earlier commit asks for.
    Assumed,
}

/// One action in a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedAction {
    /// What to do.
    pub action: Action,
    /// Actions that must have succeeded before.
    pub after: BTreeSet<ActionKey>,
    /// The slivers it is for; several may share a fetch.
    pub serves: BTreeSet<SliverId>,
    /// What it will cost.
    pub cost: Cost,
}

/// What an action is predicted to cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Bytes that will be brought or written; `None` where nobody can know before it is done.
    pub bytes: Option<u64>,
    /// Memory of guests that it takes, or gives back where negative, in MiB.
    pub memory_mib: i64,
}

/// What to do on one node, in an order that is safe, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which node.
    pub node: NodeName,
    /// The commit.
    pub revision: Revision,
    /// The generation it carries the node to.
    pub generation: Generation,
    /// The generation that was last carried through; 0: none yet.
    pub applied_generation: Generation,
    /// Where its observation comes from.
    pub basis: Basis,
    /// What happens to each sliver, by name; slivers that stay as they are included.
    pub changes: BTreeMap<SliverId, Change>,
    /// The actions, in the order in which they are ranked.
    pub actions: Vec<PlannedAction>,
    /// Predicted memory of guests, in MiB: now and after; `None` where the domains could not be seen.
    pub memory_mib: Option<MemoryForecast>,
    /// The earliest moment at which time alone may change the plan: a window opens, a pause ends, something expires.
    pub next: Option<Timestamp>,
}

/// Memory of a node's guests around a plan, in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryForecast {
    /// For guests in all.
    pub capacity: u64,
    /// Held now, strangers included.
    pub now: u64,
    /// Held afterwards.
    pub after: u64,
}

/// Why no plan could be made. Each is a mistake of the planner, not of the input: whatever the node looks like, slivers
/// that cannot be helped wait.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Actions wait for each other.
    #[error("order the plan: {} wait for each other", list(keys))]
    Cycle {
        /// All actions on the cycle.
        keys: Vec<ActionKey>,
    },
    /// An action needs what is not so and nothing provides.
    #[error("order the plan: {action} needs {condition}, which is not so and nothing provides")]
    Unmet {
        /// The action.
        action: ActionKey,
        /// What it needs.
        condition: Condition,
    },
    /// Two different actions have the same key.
    #[error("order the plan: two different actions are called {key}")]
    Ambiguous {
        /// The key.
        key: ActionKey,
    },
}

fn list(keys: &[ActionKey]) -> String {
    keys.iter()
        .map(ActionKey::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Bytes that opening the writable layers of a new sliver writes: the head of a log per mount.
const NEW_WRITABLE_BYTES: u64 = 4096;

/// Makes the plan that carries a node from what is to what should be.
///
/// # Shape
/// Every need of an action is met by what was observed or by an action of the plan, which then comes before it. An
/// action that takes away what another needs comes after that one, or before what provides it anew. A boot whose memory
/// or ports are not free yet comes after the shutdowns that free them. The steps of one sliver never change places.
/// Actions iterate in an order that respects all of
/// this, and beyond it by rank, sliver and [`ActionKey`].
///
/// # Errors
/// [`PlanError::Cycle`] lists every action on the cycle; [`PlanError::Unmet`] names a need that nothing provides.
pub fn build(input: &PlanInput<'_>) -> Result<Plan, PlanError> {
    let studies = study(input);
    let mut actions = Actions::default();
    for (sliver, study) in &studies {
        actions.add_sliver(input, sliver, study)?;
    }
    actions.connect(input)?;
    actions.connect_claims(&capacity::claims(input, &studies));
    actions.connect_moves();
    actions.connect_berths(&studies);
    let memory_mib = capacity::forecast(input, &studies);
    let next = next::next(input, studies.values().map(|study| &study.change));
    let actions = in_order(actions.planned)?;
    Ok(Plan {
        node: input.desired.node.clone(),
        revision: input.desired.revision.clone(),
        generation: input.generation,
        applied_generation: input.applied_generation,
        basis: input.basis,
        changes: studies
            .into_iter()
            .map(|(sliver, study)| (sliver, study.change))
            .collect(),
        actions,
        memory_mib,
        next,
    })
}

/// Whether an observation shows that `condition` holds. What could not be seen does not hold.
#[must_use]
pub fn holds(observed: &ObservedNode, condition: &Condition) -> bool {
    let nothing = ObservedStorage::default();
    let storage = |sliver: &SliverId, test: &dyn Fn(&ObservedStorage) -> bool| {
        let known = observed.storage.known();
        known.is_some_and(|storage| test(storage.get(sliver).unwrap_or(&nothing)))
    };
    let domain = |sliver: &SliverId| observed.domains.known().map(|domains| domains.ours.get(sliver));
    let image = |sliver: &SliverId| observed.domains.known().map(|domains| domains.images.get(sliver));
    match condition {
        Condition::TemplatePresent(digest) => observed.templates.known().is_some_and(|t| t.contains(digest)),
        Condition::FilesPresent(digest) => observed.file_layers.known().is_some_and(|f| f.contains(digest)),
        Condition::WritableOpen(sliver) => storage(sliver, &|s| s.open.is_some()),
        Condition::Limited(sliver, disk) => storage(sliver, &|s| s.limits.iter().all(|limit| limit == disk)),
        Condition::Stacked(sliver, stack) => storage(sliver, &|s| s.stack == Some(*stack)),
        Condition::Exported(sliver, stack) => storage(sliver, &|s| s.exported && s.stack == Some(*stack)),
        Condition::Unexported(sliver) => storage(sliver, &|s| !s.exported),
        Condition::Released(sliver) => storage(sliver, &|s| s.open.is_none() && s.stack.is_none()),
        Condition::SetAside(sliver) => storage(sliver, &|s| s.tombstone.is_some()),
        Condition::Running(sliver) => {
            domain(sliver).is_some_and(|d| d.is_some_and(|d| d.state == DomainState::Running))
        }
        Condition::DomainGone(sliver) => domain(sliver).is_some_and(|d| d.is_none()),
        Condition::Tuned(sliver, tuning) => domain(sliver).flatten().is_some_and(|domain| {
            let able = observed.domains.known().map(|domains| &domains.able);
            able.is_some_and(|able| mistuned(domain, tuning, able).is_empty())
        }),
        Condition::ImageGone(sliver) => image(sliver).is_some_and(|image| image.is_none()),
        Condition::ImageStored(sliver) => image(sliver).flatten().is_some(),
        Condition::ImageSealed(sliver) => image(sliver).flatten().is_some_and(|image| {
            let storage = observed.storage.known().map(|storage| storage.get(sliver));
            image.mark.is_some()
                && storage.is_some_and(|storage| image.mark == ObservedStorage::mark_of(storage))
        }),
        Condition::Healthy(sliver) => observed.health.get(sliver) == Some(&HealthVerdict::Healthy),
    }
}

/// The actions of a plan in the making.
#[derive(Default)]
struct Actions {
    planned: BTreeMap<ActionKey, PlannedAction>,
}

impl Actions {
    fn add_sliver(
        &mut self,
        input: &PlanInput<'_>,
        sliver: &SliverId,
        study: &Study,
    ) -> Result<(), PlanError> {
        let desired = input.desired.slivers.get(sliver);
        if let Some(desired) = desired {
            self.add_ingredients(input, desired, &study.ingredients(desired))?;
        }
        let here = study.steps.iter().map(|step| (&study.berth, step));
        let leaves = study.leaves.iter();
        let there = leaves.flat_map(|leaves| leaves.steps.iter().map(|step| (&leaves.berth, step)));
        for (berth, step) in here.chain(there) {
            let action = action(input, berth, study, *step);
            let cost = cost(input, &action);
            self.add(action, sliver, cost)?;
        }
        Ok(())
    }

    /// Adds what brings here those of a sliver's `needed` ingredients that are missing.
    fn add_ingredients(
        &mut self,
        input: &PlanInput<'_>,
        desired: &DesiredSliver,
        needed: &Ingredients,
    ) -> Result<(), PlanError> {
        let missing = |condition: Condition| !holds(input.observed, &condition);
        let layers = desired.mounts.iter().flat_map(|mount| &mount.layers);
        let templates = layers.filter_map(|layer| match layer {
            LayerRef::Template(template) => Some(template),
            LayerRef::Directory { .. } | LayerRef::Files { .. } | LayerRef::Remote { .. } => None,
        });
        let templates = templates
            .chain([&desired.kernel])
            .filter(|template| needed.templates.contains(&template.digest))
            .filter(|template| missing(Condition::TemplatePresent(template.digest)))
            .map(|template| Action::FetchTemplate {
                digest: template.digest,
                sources: template.sources.clone(),
            });
        let files = needed
            .files
            .iter()
            .filter(|digest| missing(Condition::FilesPresent(**digest)))
            .map(|digest| Action::ImportFiles { digest: *digest });
        for action in templates.chain(files) {
            let cost = cost(input, &action);
            self.add(action, &desired.id, cost)?;
        }
        Ok(())
    }

    /// Adds an action, or lets `sliver` share one that is there already.
    fn add(&mut self, action: Action, sliver: &SliverId, cost: Cost) -> Result<(), PlanError> {
        let key = action.key();
        let planned = self.planned.entry(key.clone()).or_insert_with(|| PlannedAction {
            action: action.clone(),
            after: BTreeSet::new(),
            serves: BTreeSet::new(),
            cost,
        });
        planned.serves.insert(sliver.clone());
        match (&mut planned.action, action) {
            // Two slivers may know different places for the same content: all are tried.
            (
                Action::FetchTemplate { digest, sources },
                Action::FetchTemplate {
                    digest: same,
                    sources: more,
                },
            ) if *digest == same => {
                for source in more {
                    if !sources.contains(&source) {
                        sources.push(source);
                    }
                }
                Ok(())
            }
            (there, action) if *there == action => Ok(()),
            _ => Err(PlanError::Ambiguous { key }),
        }
    }

    /// Derives the order from what actions need, provide and revoke.
    fn connect(&mut self, input: &PlanInput<'_>) -> Result<(), PlanError> {
        let actions: Vec<&Action> = self.planned.values().map(|planned| &planned.action).collect();
        let keys: Vec<ActionKey> = self.planned.keys().cloned().collect();
        let mut providers = BTreeMap::new();
        let mut of_sliver: BTreeMap<&SliverId, Vec<usize>> = BTreeMap::new();
        for (at, action) in actions.iter().enumerate() {
            let provided = action.provides().into_iter();
            providers.extend(provided.map(|condition| (condition, at)));
            if let Some(sliver) = action.sliver() {
                of_sliver.entry(sliver).or_default().push(at);
            }
        }
        // Pairs of places: what comes before, what comes after.
        let mut edges: Vec<(usize, usize)> = Vec::new();
        for (at, action) in actions.iter().enumerate() {
            // Only a sliver's own actions take away what it needs.
            let siblings = action.sliver().and_then(|sliver| of_sliver.get(sliver));
            for condition in action.needs() {
                let provider = providers.get(&condition).copied();
                match provider {
                    Some(provider) => edges.push((provider, at)),
                    None if holds(input.observed, &condition) => {}
                    None => {
                        return Err(PlanError::Unmet {
                            action: keys[at].clone(),
                            condition,
                        });
                    }
                }
                let siblings = siblings.into_iter().flatten().copied();
                for revoker in siblings.filter(|other| *other != at && actions[*other].revokes(&condition)) {
                    edges.push(match provider {
                        Some(provider) if actions[revoker].rank() < actions[provider].rank() => {
                            (revoker, provider)
                        }
                        Some(_) | None => (at, revoker),
                    });
                }
            }
        }
        // Besides, the steps of one sliver keep their order: an export for a boot to come must not be made while the
        // domain before it still runs.
        for of_one in of_sliver.values_mut() {
            of_one.sort_by_key(|at| actions[*at].rank());
            edges.extend(of_one.windows(2).map(|pair| (pair[0], pair[1])));
        }
        let mut planned: Vec<&mut PlannedAction> = self.planned.values_mut().collect();
        for (before, after) in edges {
            planned[after].after.insert(keys[before].clone());
        }
        Ok(())
    }

    fn connect_claims(&mut self, claims: &Claims) {
        use ActionKind::{Boot, Publish, Resume, Retune, Shutdown, Suspend, Unpublish};
        // A sliver that ends and is started again gives up everything at its end. One that takes over gets its limits with
        // its ports.
        let frees = [Shutdown, Suspend, Retune, Unpublish, Publish];
        let each = |claims: &BTreeMap<SliverId, BTreeSet<SliverId>>, takes: &[ActionKind]| {
            let mut edges = Vec::new();
            for (sliver, holders) in claims {
                for holder in holders {
                    let pairs = frees
                        .iter()
                        .flat_map(|frees| takes.iter().map(move |takes| (frees, takes)));
                    edges.extend(pairs.map(|(frees, takes)| (frees.key(holder), takes.key(sliver))));
                }
            }
            edges
        };
        let mut edges = each(&claims.memory, &[Boot, Resume, Retune, Shutdown]);
        edges.extend(each(&claims.ports, &[Boot, Resume, Retune, Publish]));
        for (before, after) in edges {
            self.edge(&before, &after);
        }
    }

    /// What takes over another's writable layers ends only once those are free: so that whoever stops the run between
    /// the two leaves it running, not waiting for the other.
    fn connect_moves(&mut self) {
        use ActionKind::{CloseWritable, Shutdown, Suspend, Unexport};
        let moves: Vec<_> = self
            .planned
            .values()
            .filter_map(|planned| match &planned.action {
                Action::Adopt { sliver, from } => Some((from.clone(), sliver.clone())),
                _ => None,
            })
            .collect();
        for (from, sliver) in moves {
            for frees in [Shutdown, Suspend, Unexport, CloseWritable] {
                for ends in [Shutdown, Suspend] {
                    self.edge(&frees.key(&from), &ends.key(&sliver));
                }
            }
        }
    }

    /// Of the two berths of a sliver one comes after the other. Where one takes over, the other keeps its ports until the
    /// new one is healthy, and ends once that one has them.
    fn connect_berths(&mut self, studies: &BTreeMap<SliverId, Study>) {
        for study in studies.values() {
            let Some(leaves) = &study.leaves else { continue };
            let keys = |steps: &BTreeSet<Step>, berth: &SliverId| -> Vec<ActionKey> {
                steps.iter().map(|step| step.kind().key(berth)).collect()
            };
            let (here, mut there) = (
                keys(&study.steps, &study.berth),
                keys(&leaves.steps, &leaves.berth),
            );
            let (publish, unpublish) = (
                ActionKind::Publish.key(&study.berth),
                ActionKind::Unpublish.key(&leaves.berth),
            );
            // The steps of each berth keep their order anyway.
            if !leaves.last {
                if let (Some(before), Some(after)) = (there.last(), here.first()) {
                    self.edge(before, after);
                }
                continue;
            }
            if let Some(before) = here.iter().rfind(|key| **key != publish) {
                self.edge(before, &unpublish);
            }
            self.edge(&unpublish, &publish);
            there.retain(|key| *key != unpublish);
            if let (Some(before), Some(after)) = (here.last(), there.first()) {
                self.edge(before, after);
            }
        }
    }

    /// Puts `before` before `after`, if the plan has both.
    fn edge(&mut self, before: &ActionKey, after: &ActionKey) {
        if self.planned.contains_key(before)
            && let Some(planned) = self.planned.get_mut(after)
        {
            planned.after.insert(before.clone());
        }
    }
}

fn action(input: &PlanInput<'_>, of: &SliverId, study: &Study, step: Step) -> Action {
    let sliver = of.clone();
    let desired = input.desired.slivers.get(&of.itself());
    // Who has been replaced is not missed; whoever else ends is to start again, here or in the other berth.
    let replaced = *of != study.berth && study.leaves.as_ref().is_some_and(|leaves| leaves.last);
    // Steps that build something up are only taken for slivers that are desired as running, which have marks.
    let stack = study.marks.map_or(Digest([0; 32]), |marks| marks.stack);
    let boot = study.marks.map_or(Digest([0; 32]), |marks| marks.boot);
    match step {
        Step::Suspend => Action::Suspend { sliver },
        Step::Seal => Action::Seal { sliver },
        Step::Discard => Action::DiscardImage { sliver },
        Step::Revive => Action::Revive { sliver },
        Step::Adopt => Action::Adopt {
            sliver,
            from: study.adopts.clone().unwrap_or_else(|| of.clone()),
        },
        Step::Resume => Action::Resume {
            sliver,
            boot,
            stack,
            kernel: desired.map_or(Digest([0; 32]), |desired| desired.kernel.digest),
            mark: if study.steps.contains(&Step::Seal) {
                None
            } else {
                domains(input).and_then(|domains| domains.images.get(of)?.mark)
            },
        },
        Step::Unpause => Action::Unpause { sliver, stack },
        Step::Retune => Action::Retune {
            sliver,
            tuning: desired.map(Tuning::of).unwrap_or_default(),
        },
        Step::Unpublish => Action::Unpublish { sliver },
        Step::Publish => Action::Publish {
            sliver,
            tuning: desired.map(Tuning::of).unwrap_or_default(),
        },
        Step::Shutdown => Action::Shutdown {
            sliver,
            again: desired
                .filter(|_| !replaced)
                .map(|desired| study.ingredients(desired))
                .unwrap_or_default(),
        },
        Step::Unexport => Action::Unexport { sliver },
        Step::Close => Action::CloseWritable { sliver },
        Step::Tombstone => Action::Tombstone { sliver },
        Step::Open => Action::OpenWritable {
            sliver,
            epoch: epoch_of(input, of),
        },
        Step::Limit => Action::Limit {
            sliver,
            epoch: epoch_of(input, of),
            disk: desired.and_then(|desired| desired.resources.disk),
        },
        Step::Stack => Action::Stack {
            sliver,
            stack,
            from: desired.map(Ingredients::of).unwrap_or_default(),
        },
        Step::Export => Action::Export { sliver, stack },
        Step::Boot => Action::Boot {
            sliver,
            boot,
            stack,
            kernel: desired.map_or(Digest([0; 32]), |desired| desired.kernel.digest),
            ports: if study.leaves.as_ref().is_some_and(|leaves| leaves.last) {
                PortsFrom::Takeover
            } else {
                PortsFrom::Start
            },
        },
        Step::Await => Action::AwaitHealthy { sliver },
        Step::Purge => Action::Purge { sliver },
    }
}

fn cost(input: &PlanInput<'_>, action: &Action) -> Cost {
    let mib = |mib: u64| i64::try_from(mib).unwrap_or(i64::MAX);
    let (bytes, memory_mib) = match action {
        // Only the template's own index, which is not here yet, says how long it is.
        Action::FetchTemplate { .. } => (None, 0),
        Action::ImportFiles { digest } => (input.desired.files.get(digest).map(file_bytes), 0),
        Action::OpenWritable { sliver, .. } => {
            let storage = input.observed.storage.known();
            let kept = storage.and_then(|s| s.get(sliver));
            let kept = kept.is_some_and(|s| s.on_disk || s.tombstone.is_some());
            let desired = input.desired.slivers.get(&sliver.itself());
            let writes = |mount: &&Mount| mount.writable != WritableKind::ReadOnly;
            let mounts = desired.map_or(0, |d| d.mounts.iter().filter(writes).count());
            let new = NEW_WRITABLE_BYTES.saturating_mul(u64::try_from(mounts).unwrap_or(u64::MAX));
            (Some(if kept { 0 } else { new }), 0)
        }
        Action::Boot { sliver, .. } | Action::Resume { sliver, .. } => {
            let desired = input.desired.slivers.get(&sliver.itself());
            (Some(0), mib(desired.map_or(0, |d| d.resources.memory.mib())))
        }
        Action::Shutdown { sliver, .. } => (Some(0), -mib(held(input, sliver))),
        // Pages that the guest never touched take no room: nobody knows how many.
        Action::Suspend { sliver } => (Some(held(input, sliver) << 20), -mib(held(input, sliver))),
        Action::Retune { sliver, tuning } | Action::Publish { sliver, tuning } => {
            // One that this plan starts has what it gets from its start.
            let held = Some(held(input, sliver)).filter(|held| *held > 0);
            (Some(0), held.map_or(0, |held| mib(tuning.memory_mib) - mib(held)))
        }
        Action::Limit { .. }
        | Action::Stack { .. }
        | Action::Export { .. }
        | Action::AwaitHealthy { .. }
        | Action::Unexport { .. }
        | Action::CloseWritable { .. }
        | Action::Seal { .. }
        | Action::DiscardImage { .. }
        | Action::Revive { .. }
        | Action::Adopt { .. }
        | Action::Unpause { .. }
        | Action::Unpublish { .. }
        | Action::Tombstone { .. }
        | Action::Purge { .. } => (Some(0), 0),
    };
    Cost { bytes, memory_mib }
}

/// Memory that the domain of a sliver holds, in MiB.
fn held(input: &PlanInput<'_>, sliver: &SliverId) -> u64 {
    let domain = domains(input).and_then(|domains| domains.ours.get(sliver));
    domain.map_or(0, |domain| domain.memory_mib)
}

fn file_bytes(set: &xeno_model::desired::FileSet) -> u64 {
    let sizes = set.files.values().map(|file| match &file.content {
        CarriedContent::Inline(text) => u64::try_from(text.len()).unwrap_or(u64::MAX),
        CarriedContent::Blob { size, .. } => *size,
    });
    sizes.fold(0, u64::saturating_add)
}

/// Puts actions in an order that respects their edges; among those free to go, by rank, sliver and key.
fn in_order(planned: BTreeMap<ActionKey, PlannedAction>) -> Result<Vec<PlannedAction>, PlanError> {
    let keys: Vec<&ActionKey> = planned.keys().collect();
    let edges = planned.values().enumerate().flat_map(|(at, planned)| {
        let before = planned
            .after
            .iter()
            .filter_map(|key| keys.binary_search(&key).ok());
        before.map(move |before| (NodeIndex::new(before), NodeIndex::new(at)))
    });
    // Nodes are numbered as keys are ordered.
    let mut graph: DiGraph<(), ()> = DiGraph::with_capacity(keys.len(), 2 * keys.len());
    for _ in &keys {
        graph.add_node(());
    }
    graph.extend_with_edges(edges);
    let ranks: Vec<_> = planned
        .values()
        .map(|planned| (planned.action.rank(), planned.action.sliver()))
        .collect();
    let place = |node: NodeIndex| (ranks[node.index()], node);
    let mut waits_for: Vec<usize> = graph
        .node_indices()
        .map(|node| graph.edges_directed(node, petgraph::Direction::Incoming).count())
        .collect();
    let free = graph.node_indices().filter(|node| waits_for[node.index()] == 0);
    let mut free: BTreeSet<_> = free.map(place).collect();
    let mut order = Vec::with_capacity(keys.len());
    while let Some((_, node)) = free.pop_first() {
        order.push(node.index());
        for edge in graph.edges(node) {
            let count = &mut waits_for[edge.target().index()];
            *count -= 1;
            if *count == 0 {
                free.insert(place(edge.target()));
            }
        }
    }
    if order.len() < keys.len() {
        let cycles = tarjan_scc(&graph).into_iter().filter(|group| group.len() > 1);
        let mut keys: Vec<_> = cycles.flatten().map(|node| keys[node.index()].clone()).collect();
        keys.sort();
        return Err(PlanError::Cycle { keys });
    }
    let mut planned: Vec<_> = planned.into_values().map(Some).collect();
    Ok(order.into_iter().filter_map(|at| planned[at].take()).collect())
}

#[cfg(test)]
mod tests;
