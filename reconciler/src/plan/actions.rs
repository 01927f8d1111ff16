//! The actions of a plan: from the steps of each sliver, with the edges that their order follows from.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{DesiredSliver, LayerRef, Remote};
use xeno_model::id::{Digest, SliverId};
use xeno_model::observed::{LayerLimits, ObservedStorage};

use super::cost::cost;
use super::{Cost, PlanError, PlanInput, PlannedAction, holds};
use crate::action::{Action, ActionKey, ActionKind, Ingredients, PortsFrom};
use crate::capacity::Claims;
use crate::diff::{Study, domains, epoch_of};
use crate::ports::{Tuning, share};
use crate::situation::Step;

/// What brings here those ingredients of a sliver that are `needed`.
pub(super) fn ingredients(desired: &DesiredSliver, needed: &Ingredients) -> Vec<Action> {
    let layers = desired.mounts.iter().flat_map(|mount| &mount.layers);
    let templates = layers.filter_map(|layer| match layer {
        LayerRef::Template(template) => Some(template),
        LayerRef::Directory { .. } | LayerRef::Files { .. } | LayerRef::Remote { .. } => None,
    });
    let templates = templates
        .chain([&desired.kernel])
        .filter(|template| needed.templates.contains(&template.digest))
        .map(|template| Action::FetchTemplate {
            digest: template.digest,
            sources: template.sources.clone(),
        });
    let files = needed
        .files
        .iter()
        .map(|digest| Action::ImportFiles { digest: *digest });
    let remotes = needed.remotes.iter().map(|remote| Action::MountRemote {
        remote: remote.clone(),
    });
    templates.chain(files).chain(remotes).collect()
}

/// The actions of a plan in the making.
#[derive(Default)]
pub(super) struct Actions {
    pub(super) planned: BTreeMap<ActionKey, PlannedAction>,
}

impl Actions {
    pub(super) fn add_sliver(
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
        let here = |action: &Action| {
            action
                .provides()
                .iter()
                .all(|condition| holds(input.observed, condition))
        };
        for action in ingredients(desired, needed)
            .into_iter()
            .filter(|action| !here(action))
        {
            let cost = cost(input, &action);
            self.add(action, &desired.id, cost)?;
        }
        Ok(())
    }

    /// Adds an action, or lets `sliver` share one that is there already.
    pub(super) fn add(&mut self, action: Action, sliver: &SliverId, cost: Cost) -> Result<(), PlanError> {
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
    pub(super) fn connect(&mut self, input: &PlanInput<'_>) -> Result<(), PlanError> {
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

    pub(super) fn connect_claims(&mut self, claims: &Claims) {
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
    pub(super) fn connect_moves(&mut self) {
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
    pub(super) fn connect_berths(&mut self, studies: &BTreeMap<SliverId, Study>) {
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

fn storage_of<'a>(input: &PlanInput<'a>, of: &SliverId) -> Option<&'a ObservedStorage> {
    input.observed.storage_of(of).ok().flatten()
}

fn action(input: &PlanInput<'_>, of: &SliverId, study: &Study, step: Step) -> Action {
    let sliver = of.clone();
    let desired = input.desired.slivers.get(&of.itself());
    // Who has been replaced is not missed; whoever else ends is to start again, here or in the other berth.
    let replaced = *of != study.berth && study.leaves.as_ref().is_some_and(|leaves| leaves.last);
    // Steps that build something up are only taken for slivers that are desired as running, which have marks.
    let stack = study.marks.map_or(Digest([0; 32]), |marks| marks.stack);
    let boot = study.marks.map_or(Digest([0; 32]), |marks| marks.boot);
    let again = || {
        let starts = desired.filter(|_| !replaced);
        starts
            .map(|desired| study.ingredients(desired))
            .unwrap_or_default()
    };
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
            remotes: desired.map(Remote::all_of).unwrap_or_default(),
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
            again: again(),
        },
        Step::Unexport => Action::Unexport { sliver },
        Step::Close => Action::CloseWritable { sliver },
        Step::Tombstone => Action::Tombstone { sliver },
        Step::Open => Action::OpenWritable {
            sliver,
            epoch: epoch_of(input, of),
            remotes: desired.map(Remote::written_by).unwrap_or_default(),
        },
        Step::Checkpoint => {
            let turn = study.turn.clone();
            Action::Checkpoint {
                sliver,
                epoch: epoch_of(input, of),
                fresh: turn.as_ref().is_some_and(|turn| turn.fresh),
                name: turn.as_ref().map_or_else(String::new, |turn| turn.keeps.clone()),
                drops: turn.map(|turn| turn.drops).unwrap_or_default(),
                again: again(),
            }
        }
        Step::Restore => {
            let turn = study.turn.as_ref();
            let back = turn.and_then(|turn| turn.back.as_ref());
            let text = |text: Option<&String>| text.cloned().unwrap_or_default();
            Action::Restore {
                sliver,
                epoch: epoch_of(input, of),
                name: text(back.map(|back| &back.to)),
                keeps: text(turn.map(|turn| &turn.keeps)),
                done: text(back.map(|back| &back.done)),
            }
        }
        Step::Limit => Action::Limit {
            sliver,
            epoch: storage_of(input, of).and_then(|storage| storage.open),
            limits: desired.map_or_else(LayerLimits::default, |desired| desired.resources.layer_limits()),
            share: desired.map_or(0, share),
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
            remotes: desired.map(Remote::all_of).unwrap_or_default(),
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
