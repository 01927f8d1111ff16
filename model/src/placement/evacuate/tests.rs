use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::super::ground::{Fixed, Spot};
use super::*;
use crate::desired::Whereabouts;
use crate::id::SiteName;
use crate::units::Bytes;

fn node(index: usize) -> NodeName {
    NodeName::new(&format!("n-{index}")).unwrap()
}

/// A node with its room beyond what is on it, whether it is cordoned, and the slivers on it: memory, and a port or none.
type Full = (u64, bool, Vec<(u64, Option<u16>)>);

/// Each sliver is a slice of its own: `s0/0`, `s1/0`, and so on, node by node.
fn scene(nodes: &[Full]) -> (Ground, Vec<Standing>) {
    let mut ground = Ground::default();
    let mut standing = Vec::new();
    for (at, (room, cordoned, slivers)) in nodes.iter().enumerate() {
        let used: u64 = slivers.iter().map(|(memory, _)| memory).sum();
        let spot = Spot {
            at: Arc::new(Whereabouts {
                site: SiteName::new("here").unwrap(),
                region: None,
                labels: BTreeMap::new(),
            }),
            memory_mib: used + room,
            cordoned: *cordoned,
        };
        ground.nodes.insert(node(at), spot);
        let mut taken = BTreeSet::new();
        for (memory, port) in slivers {
            let port = port.filter(|port| taken.insert(*port));
            let slice = SliceName::new(&format!("s{}", standing.len())).unwrap();
            ground.fixed.push(Fixed {
                slice: slice.clone(),
                tenant: None,
                node: node(at),
                memory_mib: *memory,
                ports: port.into_iter().collect(),
            });
            let size = Size {
                memory_mib: *memory,
                memory_most: Bytes(memory << 20),
                vcpus: 1,
            };
            let ask = Ask {
                tenant: None,
                replicas: 0,
                size,
                size_on: BTreeMap::new(),
                ports: port.into_iter().collect(),
                matching: Matching::default(),
                spread: Spread::None,
                moves_max: None,
                previous: BTreeMap::new(),
                held: false,
            };
            standing.push(Standing {
                sliver: SliverId::new(slice, 0),
                node: node(at),
                ask,
            });
        }
    }
    (ground, standing)
}

/// What a node has left, and the ports that are taken there.
#[derive(Clone, Debug, Default)]
struct Book {
    left: u64,
    ports: BTreeSet<u16>,
}

impl Book {
    fn fits(&self, ask: &Ask) -> bool {
        ask.size.memory_mib <= self.left && ask.ports.iter().all(|port| !self.ports.contains(port))
    }

    fn take(&mut self, ask: &Ask) {
        self.left -= ask.size.memory_mib;
        self.ports.extend(&ask.ports);
    }

    fn give(&mut self, ask: &Ask) {
        self.left += ask.size.memory_mib;
        self.ports.retain(|port| !ask.ports.contains(port));
    }
}

/// The fleet as a person with a pencil would keep it.
#[derive(Clone, Debug)]
struct Books {
    nodes: BTreeMap<NodeName, Book>,
    cordoned: BTreeSet<NodeName>,
    at: BTreeMap<SliverId, (NodeName, bool)>,
}

impl Books {
    fn new(ground: &Ground, standing: &[Standing]) -> Self {
        let open = |(name, spot): (&NodeName, &Spot)| {
            let book = Book {
                left: spot.memory_mib,
                ports: BTreeSet::new(),
            };
            (name.clone(), book)
        };
        let mut books = Self {
            nodes: ground.nodes.iter().map(open).collect(),
            cordoned: ground
                .nodes
                .iter()
                .filter(|(_, spot)| spot.cordoned)
                .map(|(name, _)| name.clone())
                .collect(),
            at: BTreeMap::new(),
        };
        for one in standing {
            books.nodes.get_mut(&one.node).unwrap().take(&one.ask);
            books.at.insert(one.sliver.clone(), (one.node.clone(), false));
        }
        books
    }

    /// Makes a step, if it fits.
    fn step(&mut self, step: &Step, ask: &Ask) -> bool {
        let (at, rests) = self.at[&step.sliver].clone();
        assert_eq!(at, step.from, "{step:?}");
        let to = match &step.how {
            How::Rests => {
                assert!(!rests, "{step:?}");
                self.nodes.get_mut(&at).unwrap().give(ask);
                self.at.insert(step.sliver.clone(), (at, true));
                return true;
            }
            How::Goes(to) => to,
        };
        assert!(*to != at && !self.cordoned.contains(to), "{step:?}");
        if !self.nodes[to].fits(ask) {
            return false;
        }
        self.nodes.get_mut(to).unwrap().take(ask);
        if !rests {
            self.nodes.get_mut(&at).unwrap().give(ask);
        }
        self.at.insert(step.sliver.clone(), (to.clone(), false));
        true
    }
}

/// Whether all slivers can be anywhere but on the first node, however they get there.
fn possible(ground: &Ground, standing: &[Standing], nodes: &mut BTreeMap<NodeName, Book>) -> bool {
    let Some((one, rest)) = standing.split_first() else {
        return true;
    };
    let names: Vec<NodeName> = nodes.keys().cloned().collect();
    names.iter().any(|to| {
        let may = *to == one.node || !ground.nodes[to].cordoned;
        if *to == node(0) || !may || !nodes[to].fits(&one.ask) {
            return false;
        }
        let before = nodes[to].clone();
        nodes.get_mut(to).unwrap().take(&one.ask);
        let found = possible(ground, rest, nodes);
        nodes.insert(to.clone(), before);
        found
    })
}

/// Whatever the nodes do first, as long as each keeps to the order and takes nothing that does not fit, all of it gets done.
fn carried_out(books: &Books, steps: &[Step], asks: &BTreeMap<&SliverId, &Ask>, mut chance: u64) {
    let mut books = books.clone();
    let mut done = vec![false; steps.len()];
    while done.iter().any(|done| !done) {
        let mut ready: Vec<usize> = (0..steps.len())
            .filter(|index| {
                let step = &steps[*index];
                let own = steps[..*index]
                    .iter()
                    .zip(&done)
                    .all(|(other, done)| *done || other.sliver != step.sliver);
                // Nobody sees of another node's sliver that it rests.
                let first = step
                    .after
                    .iter()
                    .all(|first| done[*first] || steps[*first].how == How::Rests);
                !done[*index] && own && first
            })
            .collect();
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let turn = usize::try_from(chance >> 33).unwrap() % ready.len().max(1);
        ready.rotate_left(turn);
        let made = ready
            .into_iter()
            .find(|index| books.step(&steps[*index], asks[&steps[*index].sliver]));
        let made = made.unwrap_or_else(|| {
            panic!("nothing can be done any more after {done:?} of {steps:#?} in {books:?}")
        });
        done[made] = true;
    }
}

fn full(slivers: usize) -> impl Strategy<Value = Full> {
    let sliver = (0_u64..6, proptest::option::weighted(0.3, 0_u16..3));
    (
        0_u64..6,
        proptest::bool::weighted(0.1),
        proptest::collection::vec(sliver, 0..slivers),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Each step fits when it is made, all leave, others are stopped only for a time, and a way is found exactly if there is one.
    #[test]
    fn every_step_fits_and_a_way_is_found_if_there_is_one(
        nodes in proptest::collection::vec(full(4), 1..5), chance in any::<u64>(),
    ) {
        let (ground, standing) = scene(&nodes);
        let books = Books::new(&ground, &standing);
        let asks: BTreeMap<&SliverId, &Ask> = standing.iter().map(|one| (&one.sliver, &one.ask)).collect();
        match evacuate(&ground, &standing, &node(0)) {
            Ok(steps) => {
                let mut play = books.clone();
                for (index, step) in steps.iter().enumerate() {
                    prop_assert!(play.step(step, asks[&step.sliver]), "{step:?} of {steps:#?}");
                    let at = &play.at[&step.sliver].0;
                    prop_assert_eq!(play.nodes[at].left, step.left_mib);
                    prop_assert!(*at != node(0) && step.after.iter().all(|first| *first < index));
                }
                prop_assert!(play.at.values().all(|(at, rests)| *at != node(0) && !rests));
                for sliver in play.at.keys() {
                    let mut by: Vec<&NodeName> = steps.iter().filter(|step| step.sliver == *sliver).filter_map(|step| match &step.how {
                        How::Goes(to) => Some(to),
                        How::Rests => None,
                    }).collect();
                    by.extend(standing.iter().filter(|one| one.sliver == *sliver).map(|one| &one.node));
                    let different: BTreeSet<_> = by.iter().collect();
                    prop_assert_eq!(different.len(), by.len(), "{} comes by a node twice: {:?}", sliver, steps);
                }
                carried_out(&books, &steps, &asks, chance);
            }
            Err(stuck) => {
                prop_assert!(!stuck.slivers.is_empty());
                let mut empty = books.nodes.clone();
                for (name, book) in &mut empty {
                    *book = Book { left: ground.nodes[name].memory_mib, ports: BTreeSet::new() };
                }
                prop_assert!(!possible(&ground, &standing, &mut empty), "{stuck:?}");
                prop_assert!(stuck.certain);
            }
        }
    }
}

fn told(nodes: &[Full]) -> Vec<String> {
    let (ground, standing) = scene(nodes);
    let steps = evacuate(&ground, &standing, &node(0)).unwrap();
    let told = steps.iter().map(|step| {
        let how = match &step.how {
            How::Goes(to) => to.to_string(),
            How::Rests => "rests".to_owned(),
        };
        let after: Vec<String> = step.after.iter().map(|first| format!(" {first}")).collect();
        format!("{} {} {how}{}", step.sliver, step.from, after.concat())
    });
    told.collect()
}

#[test]
fn where_the_first_try_fails_another_is_found() {
    // The roomiest node for the first of two is the only one for the second, which has the same size and a port.
    let nodes = [
        (0, false, vec![(4, None), (4, Some(1))]),
        (5, false, Vec::new()),
        (4, false, vec![(1, Some(1))]),
    ];
    assert_eq!(told(&nodes), ["s0/0 n-0 n-2", "s1/0 n-0 n-1"]);
}

#[test]
fn others_make_room_before_it_is_taken() {
    let nodes = [
        (0, false, vec![(6, None)]),
        (3, false, vec![(4, None), (2, None)]),
        (5, false, vec![(1, None)]),
    ];
    assert_eq!(told(&nodes), ["s3/0 n-2 n-1", "s0/0 n-0 n-2 0"]);
    // One makes room for the one that makes room.
    let nodes = [
        (0, false, vec![(6, None)]),
        (1, false, vec![(5, None)]),
        (2, false, vec![(3, None)]),
        (3, false, Vec::new()),
    ];
    assert_eq!(told(&nodes), ["s2/0 n-2 n-3", "s1/0 n-1 n-2 0", "s0/0 n-0 n-1 1"]);
}

#[test]
fn a_circle_is_broken_by_one_that_steps_aside_or_rests() {
    // What comes may be beside one of the others only, and these are on the wrong nodes for that.
    let circle = [
        (0, false, vec![(2, Some(1))]),
        (2, false, vec![(4, Some(1))]),
        (0, false, vec![(4, Some(2))]),
    ];
    let rests = [
        "s1/0 n-1 rests",
        "s0/0 n-0 n-1 0",
        "s2/0 n-2 n-1 1",
        "s1/0 n-1 n-2 2",
    ];
    assert_eq!(told(&circle), rests);
    // A spare has room for either of them, and may keep neither: another is to have that room.
    let spare = [
        (0, false, vec![(2, Some(1)), (4, Some(1))]),
        (2, false, vec![(4, Some(1))]),
        (0, false, vec![(4, Some(2))]),
        (4, false, Vec::new()),
    ];
    let steps = told(&spare);
    assert!(!steps.iter().any(|step| step.contains("rests")), "{steps:?}");
}

/// A fleet of four nodes, each three quarters full, which are emptied one after the other.
#[test]
fn nearly_full_nodes_are_emptied_one_by_one() {
    let slivers = |sizes: &[u64]| {
        (
            3,
            false,
            sizes.iter().map(|size| (*size, None)).collect::<Vec<_>>(),
        )
    };
    let nodes = [
        slivers(&[4, 3, 2]),
        slivers(&[5, 2, 2]),
        slivers(&[3, 3, 3]),
        slivers(&[6, 3]),
    ];
    let (ground, standing) = scene(&nodes);
    for empty in 0..4 {
        let steps = evacuate(&ground, &standing, &node(empty)).unwrap();
        let asks: BTreeMap<&SliverId, &Ask> = standing.iter().map(|one| (&one.sliver, &one.ask)).collect();
        let mut books = Books::new(&ground, &standing);
        for step in &steps {
            assert!(books.step(step, asks[&step.sliver]), "{step:?} of {steps:#?}");
        }
        assert!(
            books.at.values().all(|(at, rests)| *at != node(empty) && !rests),
            "{steps:#?}"
        );
    }
}

#[test]
fn large_fleets_find_a_way_at_once() {
    // A hundred nodes with twenty slivers and no room but in small pieces.
    let nodes: Vec<Full> = (0..100_u64)
        .map(|at| {
            (
                3,
                false,
                (0..20)
                    .map(|number| (1 + (at * 7 + number * 5) % 6, None))
                    .collect(),
            )
        })
        .collect();
    let (ground, standing) = scene(&nodes);
    let steps = evacuate(&ground, &standing, &node(0)).unwrap();
    let moved: BTreeSet<&SliverId> = steps.iter().map(|step| &step.sliver).collect();
    assert!(moved.len() < 60, "{} move for 20", moved.len());
}

#[test]
fn what_is_missing_is_told() {
    let (ground, standing) = scene(&[
        (0, false, vec![(8, None), (2, None)]),
        (5, false, Vec::new()),
        (9, true, Vec::new()),
    ]);
    let stuck = evacuate(&ground, &standing, &node(0)).unwrap_err();
    assert_eq!(stuck.slivers.len(), 1, "{stuck:?}");
    let left = &stuck.slivers[0];
    assert_eq!((left.sliver.to_string().as_str(), left.need_mib), ("s0/0", 8));
    assert_eq!(left.missing_mib(), Some((3, &node(1))));
    assert_eq!(left.refusals[&Refusal::Cordoned], [node(2)]);
    assert_eq!((stuck.short_mib, stuck.certain), (5, true));
}
