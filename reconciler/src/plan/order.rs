//! One order for all actions of a plan.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use super::{PlanError, PlannedAction};
use crate::action::ActionKey;

/// Puts actions in an order that respects their edges; among those free to go, by rank, sliver and key.
pub(super) fn in_order(planned: BTreeMap<ActionKey, PlannedAction>) -> Result<Vec<PlannedAction>, PlanError> {
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
