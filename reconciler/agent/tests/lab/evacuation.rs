//! Four whole agents on one board, each nearly full, that are emptied one after the other in the order that a commit says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use xeno_agent::lab::{LabFleet, LabNetwork, ScriptedBoard};
use xeno_model::desired::{DesiredFleet, SliverState};
use xeno_model::id::{NodeName, SliverId};
use xeno_model::manifest::parse_file;
use xeno_model::observed::DomainState;
use xeno_model::placement::{How, Standing, Step, evacuate, moves_text, standing};
use xeno_model::repository::{FileMode, RepositoryTree, TreeEntry};
use xeno_model::resolve::{resolve, survey};
use xeno_reconciler::ports::PortError;
use xeno_reconciler::scripted::Fault;

use crate::fleet::{HEAD, revision};
use crate::runtime::on_a_clock;
use crate::world::World;

const NODES: [&str; 4] = ["n-0", "n-1", "n-2", "n-3"];
/// What memory is counted in here.
const UNIT_MIB: u64 = 128;

/// A sliver: its slice, which of its slivers it is, its memory in units, its port if any, and its node.
#[derive(Clone, Debug)]
struct Small {
    name: String,
    number: u32,
    units: u64,
    port: Option<u16>,
    node: usize,
}

impl Small {
    fn id(&self) -> SliverId {
        SliverId::parse(&format!("{}/{}", self.name, self.number)).unwrap()
    }
}

/// What is on a node: how much memory each takes, and its port if any.
type Full<'a> = &'a [(u64, Option<u16>)];

struct Fleet {
    worlds: Vec<World>,
    slivers: Vec<Small>,
    /// Memory of each node, in units.
    units: Vec<u64>,
    cordoned: Option<usize>,
    order: String,
    commits: u8,
}

impl Fleet {
    /// `nodes`: how many units each has, and what is on it, each of a slice of its own.
    async fn new(nodes: &[(u64, Full<'_>)]) -> Self {
        Self::with(nodes, |at| (format!("s{at}"), 0)).await
    }

    /// The same; `slice`: to which slice each belongs, and as which of its slivers.
    async fn with(nodes: &[(u64, Full<'_>)], slice: impl Fn(usize) -> (String, u32)) -> Self {
        let board = ScriptedBoard::new("a");
        let network = LabNetwork::default();
        let mut worlds = Vec::new();
        let mut slivers = Vec::new();
        for (node, (units, here)) in nodes.iter().enumerate() {
            let fleet = LabFleet {
                board: board.client(NODES[node]),
                network: network.clone(),
                life: 1,
                fence: None,
            };
            let mut world = World::one_of_size(NODES[node], fleet, units * UNIT_MIB);
            world.start().await;
            worlds.push(world);
            for (units, port) in *here {
                let (name, number) = slice(slivers.len());
                slivers.push(Small {
                    name,
                    number,
                    units: *units,
                    port: *port,
                    node,
                });
            }
        }
        let mut fleet = Self {
            worlds,
            slivers,
            units: nodes.iter().map(|(units, _)| *units).collect(),
            cordoned: None,
            order: String::new(),
            commits: 0,
        };
        fleet.push().await;
        fleet.settles().await;
        fleet
    }

    fn text(&self) -> String {
        let (before, rest) = HEAD
            .split_once("---\napiVersion: xenoslice/v1\nkind: Node")
            .expect("nodes");
        let (_, templates) = rest.split_once("kind: Template").expect("templates");
        let mut text = format!("{before}---\napiVersion: xenoslice/v1\nkind: Template{templates}");
        for (node, units) in self.units.iter().enumerate() {
            let cordoned = self.cordoned == Some(node);
            text.push_str(&format!(
                "---\napiVersion: xenoslice/v1\nkind: Node\nmetadata: {{ name: {} }}\nspec: {{ site: cambridge, hypervisor: qemu, \
                 cordoned: {cordoned}, capacity: {{ memory: {}MiB, vcpus: 64 }} }}\n",
                NODES[node],
                units * UNIT_MIB
            ));
        }
        for Small {
            name,
            units,
            port,
            number,
            ..
        } in &self.slivers
        {
            if *number > 0 {
                continue;
            }
            let of_slice = self.slivers.iter().filter(|sliver| sliver.name == *name);
            let nodes: Vec<&str> = of_slice.map(|sliver| NODES[sliver.node]).collect();
            let publish = port.map_or_else(String::new, |port| {
                format!("  publish: [{{ guest: 80, host: {port} }}]\n")
            });
            text.push_str(&format!(
                "---\napiVersion: xenoslice/v1\nkind: Slice\nmetadata: {{ name: {name} }}\nspec:\n  image:\n    \
                 kernel: debian/current\n    mounts:\n      - {{ path: /, layers: [{{ template: debian/current }}], writable: local }}\n  \
                 resources: {{ vcpus: 1, memory: {}MiB }}\n  placement: {{ nodes: [{}] }}\n  migration: {{ downtime: 100ms }}\n{publish}",
                units * UNIT_MIB,
                nodes.join(", ")
            ));
        }
        text.push_str(&self.order);
        text
    }

    fn resolved<T>(&self, what: impl Fn(&[&xeno_model::manifest::ParsedFile], &RepositoryTree) -> T) -> T {
        let text = self.text();
        let entry = TreeEntry {
            blob: "0".repeat(40),
            size: text.len().try_into().unwrap(),
            mode: FileMode::Regular,
        };
        let tree = RepositoryTree {
            entries: BTreeMap::from([("fleet.yaml".to_owned(), entry)]),
        };
        what(&[&parse_file("fleet.yaml", text.as_bytes())], &tree)
    }

    fn desired(&self) -> DesiredFleet {
        self.resolved(resolve)
            .unwrap_or_else(|findings| panic!("{findings:#?}"))
    }

    async fn push(&mut self) {
        self.commits += 1;
        let desired = self.desired();
        for (node, world) in NODES.iter().zip(&mut self.worlds) {
            let node = NodeName::new(node).unwrap();
            world.push(desired.project(&node, &revision(self.commits))).await;
        }
    }

    /// As `xeno evacuate` and `git push` do.
    async fn evacuate(&mut self, node: usize) -> Vec<Step> {
        self.order.clear();
        let desired = self.desired();
        let ground = self.resolved(survey).expect("a fleet");
        let all: Vec<Standing> = standing(&ground, &desired);
        let name = NodeName::new(NODES[node]).unwrap();
        let steps = evacuate(&ground, &all, &name).unwrap_or_else(|stuck| panic!("{stuck:?}"));
        for step in &steps {
            if let How::Goes(to) = &step.how {
                let to = NODES.iter().position(|name| *name == to.as_str()).unwrap();
                let moved = self.slivers.iter_mut().find(|sliver| sliver.id() == step.sliver);
                moved.unwrap().node = to;
            }
        }
        let turns: Vec<_> = steps.iter().map(|step| step.turn(&[])).collect();
        self.order = format!("---\n{}", moves_text(&name, &turns));
        self.cordoned = Some(node);
        self.push().await;
        steps
    }

    fn runs(&self) -> BTreeMap<SliverId, BTreeSet<usize>> {
        let mut runs: BTreeMap<SliverId, BTreeSet<usize>> = BTreeMap::new();
        for (node, world) in self.worlds.iter().enumerate() {
            let observed = world.node.observed(&NodeName::new(NODES[node]).unwrap());
            let domains = observed.domains.known().cloned().unwrap_or_default();
            let held: u64 = domains.ours.values().map(|domain| domain.memory_mib).sum();
            assert!(
                held <= self.units[node] * UNIT_MIB,
                "{} is too full: {held} MiB",
                NODES[node]
            );
            for (sliver, domain) in domains.ours {
                if domain.state == DomainState::Running {
                    runs.entry(sliver).or_default().insert(node);
                }
            }
        }
        runs
    }

    /// Waits until every sliver runs where it is placed; never do two of one run, and never is a node too full.
    async fn settles(&self) {
        for _ in 0..40_000 {
            let runs = self.runs();
            assert!(runs.values().all(|nodes| nodes.len() == 1), "two run: {runs:?}");
            let done = self.slivers.iter().all(|sliver| {
                runs.get(&sliver.id())
                    .is_some_and(|nodes| nodes.contains(&sliver.node))
            });
            if done {
                for world in &self.worlds {
                    world.converged().await;
                }
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut said = format!("{:?}\n{:?}\n", self.slivers, self.runs());
        for world in &self.worlds {
            said.push_str(&format!(
                "{}\n{:?}\n",
                world.plan().await.text,
                world.events("moved").await
            ));
        }
        panic!("it does not come to an end: {said}\n{}", self.order);
    }

    async fn end(self) {
        for mut world in self.worlds {
            assert_eq!(world.node.violations(), Vec::<String>::new());
            world.kill().await;
        }
    }
}

#[test]
fn nearly_full_nodes_are_emptied_one_by_one() {
    on_a_clock(async {
        // Three quarters of each are taken.
        let plain =
            |sizes: &[u64]| -> Vec<(u64, Option<u16>)> { sizes.iter().map(|size| (*size, None)).collect() };
        let (a, b, c, d) = (
            plain(&[4, 3, 2]),
            plain(&[5, 2, 2]),
            plain(&[3, 3, 3]),
            plain(&[6, 3]),
        );
        let mut fleet = Fleet::new(&[(12, &a), (12, &b), (12, &c), (12, &d)]).await;
        let mut others = 0;
        for (node, name) in NODES.iter().enumerate() {
            let steps = fleet.evacuate(node).await;
            others += steps.iter().filter(|step| step.from.as_str() != *name).count();
            fleet.settles().await;
            assert!(
                fleet.slivers.iter().all(|sliver| sliver.node != node),
                "{name} is empty"
            );
            // It is back, and the next one goes.
            fleet.cordoned = None;
        }
        assert!(others > 0, "somebody had to make room");
        fleet.end().await;
    });
}

#[test]
fn a_circle_is_broken_by_one_that_stops_meanwhile() {
    on_a_clock(async {
        let (x, a, b) = ([(2, Some(8001))], [(4, Some(8001))], [(4, Some(8002))]);
        let mut fleet = Fleet::new(&[(6, &x), (6, &a), (4, &b)]).await;
        let steps = fleet.evacuate(0).await;
        assert!(steps.iter().any(|step| step.how == How::Rests), "{steps:#?}");
        fleet.settles().await;
        let running = fleet.desired().slices.len();
        assert_eq!(fleet.runs().len(), running);
        assert!(fleet.desired().slices.values().all(|slice| {
            slice
                .slivers
                .values()
                .all(|(_, sliver)| sliver.state == SliverState::Running)
        }));
        fleet.end().await;
    });
}

#[test]
fn a_slice_whose_guest_stood_still_for_too_long_goes_on_in_calmer_times() {
    on_a_clock(async {
        let here = [(1, None), (1, None), (1, None)];
        // Two of one slice and one of another.
        let slices = |at: usize| {
            let which = u32::try_from(at).unwrap();
            if at < 2 {
                ("db".to_owned(), which)
            } else {
                ("web".to_owned(), 0)
            }
        };
        let mut fleet = Fleet::with(&[(4, &here), (4, &[])], slices).await;
        let [source, ..] = &fleet.worlds[..] else {
            unreachable!()
        };
        // The first guest that stands still waits for its file server, which has to be asked twice.
        let busy = Fault::Fails(PortError::later("as the test wants it"));
        source.node.script("park", busy);
        fleet.evacuate(0).await;
        let on_1 = |fleet: &Fleet, sliver: &Small| {
            let runs = fleet.runs();
            runs.get(&sliver.id()).is_some_and(|nodes| nodes.contains(&1))
        };
        let begun = tokio::time::Instant::now();
        let waits = ": It goes to n-1 then: the last of db to move stood still for";
        let mut said = String::new();
        while !fleet.slivers.iter().all(|sliver| on_1(&fleet, sliver)) {
            assert!(begun.elapsed() < Duration::from_secs(3600), "{said}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            let there = |name: &str| {
                let of_slice = fleet.slivers.iter().filter(|sliver| sliver.name == name);
                of_slice.filter(|sliver| on_1(&fleet, sliver)).count()
            };
            // The other slice has nothing to do with that.
            if (there("db"), there("web")) == (1, 1) && !said.contains(waits) {
                said = fleet.worlds[0].plan().await.text;
            }
        }
        let moved = fleet.worlds[0].events("moved").await;
        assert!(
            moved.iter().any(|text| text.contains("and 100 ms were wanted")),
            "{moved:?}"
        );
        assert!(said.contains(waits), "{said}\n{moved:?}");
        fleet.settles().await;
        fleet.end().await;
    });
}
