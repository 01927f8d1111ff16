//! In which order slivers go where they are placed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::draft::Draft;
use super::{At, Resolver, slice};
use crate::desired::{DesiredFleet, Turn, Turns};
use crate::diagnostic::{Code, Diagnostic};
use crate::id::{NodeName, SliverId};
use crate::manifest::{Body, RawMoves, Step};

impl<'a> Resolver<'a> {
    /// Reads the orders there are into `fleet`, whose slices are there by now.
    pub(super) fn turns(&mut self, drafts: &[Draft<'a>], fleet: &mut DesiredFleet) {
        let documents: Vec<(At<'a>, &'a RawMoves)> = self
            .defined
            .values()
            .filter_map(|at| match &at.document.body {
                Some(Body::Moves(raw)) => Some((*at, raw)),
                _ => None,
            })
            .collect();
        let mut all = Vec::new();
        for (at, raw) in documents {
            self.read_turns(at, raw, &mut all);
        }
        let turns = Turns::new(all, |sliver| node_of(fleet, sliver));
        let drafts: BTreeMap<_, _> = drafts.iter().map(|draft| (&draft.name, draft)).collect();
        for sliver in turns.slivers() {
            let way = turns.way(sliver);
            let Some(draft) = drafts.get(&sliver.slice) else {
                continue;
            };
            for node in &way[..way.len().saturating_sub(1)] {
                let Ok(number) = usize::try_from(sliver.number) else {
                    continue;
                };
                let there = self
                    .pattern_of(draft, number, node, fleet)
                    .and_then(|pattern| slice::sliver_of(&fleet.name, draft, &pattern, sliver.number));
                if let Some(there) = there {
                    let at = fleet.transit.entry(node.clone()).or_default();
                    at.insert(sliver.clone(), there);
                }
            }
        }
        fleet.turns = Arc::new(turns);
    }

    fn read_turns(&mut self, at: At<'a>, raw: &'a RawMoves, all: &mut Vec<Turn>) {
        let before = all.len();
        for (i, raw) in raw.steps.iter().flatten().enumerate() {
            // What is wrong has been said.
            let Some(raw) = raw else { return };
            let (Some(sliver), Some(from)) = (&raw.sliver, &raw.from) else {
                return;
            };
            let numbers = raw.after.given().into_iter().flatten().flatten();
            let mut after = Vec::new();
            for number in numbers {
                match usize::try_from(*number).ok().filter(|number| *number <= i) {
                    Some(number) => after.push(before + number - 1),
                    None => {
                        let path = [
                            Step::Key("spec"),
                            Step::Key("steps"),
                            Step::Index(i),
                            Step::Key("after"),
                        ];
                        let message = format!(
                            "step {} can only come after steps before it, and {number} is none",
                            i + 1
                        );
                        self.findings
                            .push(Diagnostic::error(Code::BadValue, at.place(&path), message));
                    }
                }
            }
            all.push(Turn {
                sliver: sliver.0.clone(),
                from: from.0.clone(),
                to: raw.to.given().map(|to| to.0.clone()),
                after,
            });
        }
    }
}

fn node_of<'f>(fleet: &'f DesiredFleet, sliver: &SliverId) -> Option<&'f NodeName> {
    let slice = fleet.slices.get(&sliver.slice)?;
    slice.slivers.get(&sliver.number).map(|(node, _)| node)
}
