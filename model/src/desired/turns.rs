//! In which order slivers move, where that matters: what a commit says beside where they are to be in the end.
//!
//! No node directs the others. Each reads the same turns, and who holds which sliver from the board, and so knows whose turn
//! it is. A turn that no longer leads to where its sliver is placed counts for nothing: the placement has the last word, and
//! whoever receives a sliver makes sure by itself that it fits.

use std::collections::{BTreeMap, BTreeSet};

use super::{DesiredNode, DesiredSliver, SliverState};
use crate::id::{NodeName, SliverId};

/// One step of a sliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Which.
    pub sliver: SliverId,
    /// Where it is before.
    pub from: NodeName,
    /// Where it goes; `None`: it stays, and is stopped until its next turn, so that it takes no memory.
    pub to: Option<NodeName>,
    /// Which turns come first, by their index.
    pub after: Vec<usize>,
}

/// All turns of a commit, and the ways that they come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    all: Vec<Turn>,
    ways: BTreeMap<SliverId, Way>,
}

/// The way of a sliver, which ends where it is placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Way {
    /// The nodes in order. None comes twice.
    nodes: Vec<NodeName>,
    /// The turn that takes it from each of these but the last.
    goes: Vec<usize>,
    /// The turn in which it is stopped on each of these but the last.
    rests: Vec<Option<usize>>,
}

/// Where a sliver is, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seat {
    /// Nobody knows.
    Unknown,
    /// Nobody has the right to run it.
    Nobody,
    /// It is this node's. `settled`: it goes on there, and nothing of it is elsewhere.
    On {
        /// The node.
        node: NodeName,
        /// Whether it has arrived.
        settled: bool,
    },
}

/// Where a sliver is to be for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Where it is placed.
    AsPlaced,
    /// On its way.
    At {
        /// The node for now.
        node: NodeName,
        /// Whether it is stopped there meanwhile.
        rests: bool,
        /// Where it goes then, and what comes first.
        waits: Option<Wait>,
    },
}

/// What a sliver waits for before it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Where it is to go.
    pub to: NodeName,
    /// The sliver that comes first.
    pub first: SliverId,
    /// Where that one has to be by then.
    pub there: NodeName,
}

impl Turns {
    /// The turns as they are written, and where slivers are placed.
    #[must_use]
    pub fn new<'a>(all: Vec<Turn>, placed: impl Fn(&SliverId) -> Option<&'a NodeName>) -> Self {
        let mut of: BTreeMap<&SliverId, Vec<usize>> = BTreeMap::new();
        for (index, turn) in all.iter().enumerate() {
            of.entry(&turn.sliver).or_default().push(index);
        }
        let ways = of.into_iter().filter_map(|(sliver, turns)| {
            let way = Way::of(&all, &turns)?;
            (way.nodes.last() == placed(sliver)).then(|| (sliver.clone(), way))
        });
        let ways = ways.collect();
        Self { all, ways }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ways.is_empty()
    }

    /// All of them, as they are written.
    #[must_use]
    pub fn all(&self) -> &[Turn] {
        &self.all
    }

    /// Those that lead somewhere, of slivers for which `keep` holds; numbered anew.
    #[must_use]
    pub fn kept(&self, keep: impl Fn(&SliverId) -> bool) -> Vec<Turn> {
        let holds = |turn: &Turn| self.ways.contains_key(&turn.sliver) && keep(&turn.sliver);
        let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
        let mut kept: Vec<Turn> = Vec::new();
        for (index, turn) in self.all.iter().enumerate().filter(|(_, turn)| holds(turn)) {
            numbers.insert(index, kept.len());
            let after = turn.after.iter().filter_map(|first| numbers.get(first).copied());
            kept.push(Turn {
                after: after.collect(),
                ..turn.clone()
            });
        }
        kept
    }

    /// The nodes that a sliver comes by, from the first to the last; none: it has no turn.
    #[must_use]
    pub fn way(&self, sliver: &SliverId) -> &[NodeName] {
        self.ways.get(sliver).map_or(&[], |way| &way.nodes)
    }

    /// The slivers that have a way.
    pub fn slivers(&self) -> impl Iterator<Item = &SliverId> {
        self.ways.keys()
    }

    /// Slivers whose places say when it is whose turn on a node: those that come by, and those that they wait for.
    #[must_use]
    pub fn watched(&self, node: &NodeName) -> BTreeSet<SliverId> {
        let ways = self.ways.iter().filter(|(_, way)| way.nodes.contains(node));
        ways.flat_map(|(sliver, way)| {
            let turns = way.goes.iter().chain(way.rests.iter().flatten());
            let first = turns.flat_map(|turn| &self.all[*turn].after);
            let first = first.filter_map(|turn| Some(self.all.get(*turn)?.sliver.clone()));
            first.chain([sliver.clone()]).collect::<Vec<_>>()
        })
        .collect()
    }

    /// Where a sliver is to be for now.
    #[must_use]
    pub fn stage(&self, sliver: &SliverId, seat: impl Fn(&SliverId) -> Seat) -> Stage {
        let Some(way) = self.ways.get(sliver) else {
            return Stage::AsPlaced;
        };
        let Seat::On { node, settled } = seat(sliver) else {
            return Stage::AsPlaced;
        };
        let Some(at) = way.nodes.iter().position(|on| *on == node) else {
            return Stage::AsPlaced;
        };
        let Some(next) = way.nodes.get(at + 1) else {
            return Stage::AsPlaced;
        };
        let stays = |rests, waits| Stage::At {
            node: node.clone(),
            rests,
            waits,
        };
        if !settled {
            return stays(false, None);
        }
        let wait = |turn: usize| {
            let first = self.first_of(turn, &seat)?;
            Some(Wait {
                to: next.clone(),
                first: first.sliver.clone(),
                there: first.to.clone().unwrap_or_else(|| first.from.clone()),
            })
        };
        let Some(waits) = wait(way.goes[at]) else {
            return Stage::At {
                node: next.clone(),
                rests: way.rests[at].is_some(),
                waits: None,
            };
        };
        let rests = way.rests[at].is_some_and(|turn| self.first_of(turn, &seat).is_none());
        stays(rests, Some(waits))
    }

    /// The first turn that is not done, of those that come before one.
    fn first_of(&self, turn: usize, seat: &impl Fn(&SliverId) -> Seat) -> Option<&Turn> {
        let before = self.all[turn].after.iter().filter_map(|turn| self.all.get(*turn));
        before.into_iter().find(|first| !self.is_done(first, seat))
    }

    /// Whether a sliver is past a turn. Nobody but its own node sees whether one is stopped; whoever comes there waits for the
    /// room.
    fn is_done(&self, turn: &Turn, seat: &impl Fn(&SliverId) -> Seat) -> bool {
        let (Some(way), Some(to)) = (self.ways.get(&turn.sliver), &turn.to) else {
            return true;
        };
        let at = |node: &NodeName| way.nodes.iter().position(|on| on == node);
        match seat(&turn.sliver) {
            Seat::Unknown => false,
            Seat::Nobody => true,
            Seat::On { node, settled } => match (at(&node), at(to)) {
                (Some(is), Some(wanted)) => is > wanted || (is == wanted && settled),
                (None, _) | (_, None) => true,
            },
        }
    }
}

impl Way {
    /// What the turns of a sliver come to; `None`: to no way, or to one that comes by a node twice.
    fn of(all: &[Turn], turns: &[usize]) -> Option<Self> {
        let mut way = Self::default();
        let mut rest = None;
        for index in turns {
            let turn = &all[*index];
            match way.nodes.last() {
                None => way.nodes.push(turn.from.clone()),
                Some(last) if *last == turn.from => {}
                Some(_) => return None,
            }
            let Some(to) = &turn.to else {
                rest = Some(*index);
                continue;
            };
            if way.nodes.contains(to) {
                return None;
            }
            way.nodes.push(to.clone());
            way.goes.push(*index);
            way.rests.push(rest.take());
        }
        (!way.goes.is_empty()).then_some(way)
    }
}

impl DesiredNode {
    /// What the node should be doing for now, with slivers where their `stages` say; `self` says where they are in the end.
    #[must_use]
    pub fn staged(&self, stages: &BTreeMap<SliverId, Stage>) -> Self {
        let mut staged = self.clone();
        for (sliver, stage) in stages {
            let Stage::At { node, rests, .. } = stage else {
                continue;
            };
            if *node != self.node {
                staged.slivers.remove(sliver);
                staged.ruled_out.remove(sliver);
                staged.elsewhere.insert(sliver.clone(), node.clone());
                continue;
            }
            let here = self.transit.get(sliver).or_else(|| self.slivers.get(sliver));
            let Some(mut here) = here.cloned() else {
                continue;
            };
            if *rests && here.state == SliverState::Running {
                here.state = SliverState::Stopped;
            }
            staged.elsewhere.welcome(sliver.clone());
            staged.slivers.insert(sliver.clone(), here);
        }
        staged
    }
}

/// What slivers are on nodes that they only come by, by node.
pub type Transit = BTreeMap<NodeName, BTreeMap<SliverId, DesiredSliver>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn sliver(name: &str) -> SliverId {
        SliverId::parse(name).unwrap()
    }

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    /// Turns as `sliver from to after...`; `-` for a rest.
    fn turns(text: &str, placed: &[(&str, &str)]) -> Turns {
        let all = text.lines().map(|line| {
            let mut words = line.split_whitespace();
            let mut word = || words.next().unwrap();
            let (of, from, to) = (word(), word(), word());
            Turn {
                sliver: sliver(of),
                from: node(from),
                to: (to != "-").then(|| node(to)),
                after: words.map(|word| word.parse().unwrap()).collect(),
            }
        });
        let placed: BTreeMap<SliverId, NodeName> =
            placed.iter().map(|(of, at)| (sliver(of), node(at))).collect();
        Turns::new(all.collect(), |of| placed.get(of))
    }

    /// Where each of `asked` is to be for now: `node`, `node rests`, with `, FIRST at NODE` where it waits; `-` as placed.
    fn check(turns: &Turns, seats: &[(&str, &str)], asked: &[(&str, &str)]) {
        let seats: BTreeMap<SliverId, &str> = seats.iter().map(|(of, at)| (sliver(of), *at)).collect();
        let seat = |of: &SliverId| match seats.get(of).copied() {
            None => Seat::Unknown,
            Some("nobody") => Seat::Nobody,
            Some(at) => Seat::On {
                node: node(at.trim_end_matches('~')),
                settled: !at.ends_with('~'),
            },
        };
        for (of, expected) in asked {
            let said = match turns.stage(&sliver(of), seat) {
                Stage::AsPlaced => "-".to_owned(),
                Stage::At { node, rests, waits } => {
                    let rests = if rests { " rests" } else { "" };
                    let waits = waits.map(|wait| format!(", {} at {}", wait.first, wait.there));
                    format!("{node}{rests}{}", waits.unwrap_or_default())
                }
            };
            assert_eq!(said, *expected, "{of} in {seats:?}");
        }
    }

    #[test]
    fn a_sliver_goes_when_those_before_it_have_gone() {
        let turns = turns("b/0 b c\na/0 a b 0", &[("a/0", "b"), ("b/0", "c")]);
        let both = |a, b| [("a/0", a), ("b/0", b)];
        check(&turns, &both("a", "b"), &both("a, b/0 at c", "c"));
        check(&turns, &both("a", "c~"), &both("a, b/0 at c", "-"));
        check(&turns, &both("a", "c"), &both("b", "-"));
        check(&turns, &both("b~", "c"), &both("-", "-"));
        check(&turns, &both("b", "c"), &both("-", "-"));
        // What nobody can know is waited for; what a person has taken out of the order is not.
        check(&turns, &[("a/0", "a")], &[("a/0", "a, b/0 at c"), ("b/0", "-")]);
        check(&turns, &both("a", "nobody"), &both("b", "-"));
        check(&turns, &both("a", "far"), &both("b", "-"));
    }

    #[test]
    fn one_sliver_steps_aside_and_comes_back_by_another_way() {
        let turns = turns("x/0 a s\ny/0 b a 0\nx/0 s b 1", &[("x/0", "b"), ("y/0", "a")]);
        let both = |x, y| [("x/0", x), ("y/0", y)];
        check(&turns, &both("a", "b"), &both("s", "b, x/0 at s"));
        check(&turns, &both("s~", "b"), &both("s", "b, x/0 at s"));
        check(&turns, &both("s", "b"), &both("s, y/0 at a", "a"));
        check(&turns, &both("s", "a"), &both("b", "-"));
        check(&turns, &both("b", "a"), &both("-", "-"));
    }

    #[test]
    fn one_sliver_is_stopped_until_the_other_has_come() {
        let turns = turns("x/0 a -\ny/0 b a 0\nx/0 a b 1", &[("x/0", "b"), ("y/0", "a")]);
        let both = |x, y| [("x/0", x), ("y/0", y)];
        check(&turns, &both("a", "b"), &both("a rests, y/0 at a", "a"));
        check(&turns, &both("a", "a~"), &both("a rests, y/0 at a", "-"));
        check(&turns, &both("a", "a"), &both("b rests", "-"));
    }

    #[test]
    fn what_leads_nowhere_counts_for_nothing() {
        for (text, at) in [
            ("a/0 a b", "c"),
            ("a/0 a b\na/0 c d", "d"),
            ("a/0 a b\na/0 b a", "a"),
            ("a/0 a -", "a"),
        ] {
            let turns = turns(text, &[("a/0", at)]);
            assert!(turns.is_empty(), "{text}");
            check(&turns, &[("a/0", "a")], &[("a/0", "-")]);
        }
        assert!(turns("a/0 a b", &[]).is_empty());
    }

    #[test]
    fn a_node_watches_who_comes_by_and_who_comes_first() {
        let turns = turns(
            "b/0 b c\na/0 a b 0\nz/0 y z",
            &[("a/0", "b"), ("b/0", "c"), ("z/0", "z")],
        );
        let watched = |at: &str| {
            turns
                .watched(&node(at))
                .into_iter()
                .map(|of| of.to_string())
                .collect()
        };
        let names = |at: &str| -> Vec<String> { watched(at) };
        assert_eq!(names("a"), ["a/0", "b/0"]);
        assert_eq!(names("c"), ["b/0"]);
        assert_eq!(names("z"), ["z/0"]);
    }
}
