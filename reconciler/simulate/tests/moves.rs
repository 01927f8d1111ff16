//! Stories of slivers that go to other nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use xeno_model::desired::{DesiredFleet, MigrationPolicy};
use xeno_model::id::NodeName;
use xeno_model::manifest::parse_file;
use xeno_model::placement::{How, Standing, evacuate, moves_text, standing};
use xeno_model::repository::{FileMode, RepositoryTree, TreeEntry};
use xeno_model::resolve::{resolve, survey};
use xeno_reconciler::action::ActionKind;
use xeno_simulate::{Commit, Fault, Outcome, Story, Trouble, fleet, revision};

const HOUR: u64 = 3_600_000;

fn commit(number: u64, fleet: DesiredFleet) -> Commit {
    Commit {
        revision: revision(1, number),
        fleet,
    }
}

fn tell(story: &Story) -> Outcome {
    story.tell().unwrap_or_else(|broken| panic!("{broken}"))
}

/// How often guests were started.
fn boots(outcome: &Outcome) -> u64 {
    let boots = outcome
        .reach
        .actions()
        .filter(|(kind, _)| *kind == ActionKind::Boot);
    boots.map(|(_, count)| count).sum()
}

/// One sliver goes to another node while it runs.
fn one_goes() -> Story {
    let mut before = fleet(5, 1);
    let slice = before.slices.values_mut().next().unwrap();
    let slice = Arc::make_mut(slice);
    for (_, sliver) in slice.slivers.values_mut() {
        sliver.migration.policy = MigrationPolicy::Live;
    }
    // Whatever was there has gone before.
    slice.slivers.retain(|number, _| *number == 0);
    let mut after = before.clone();
    let slice = after.slices.values_mut().next().unwrap();
    let (node, _) = Arc::make_mut(slice).slivers.get_mut(&0).unwrap();
    *node = before.nodes.keys().find(|other| *other != node).unwrap().clone();
    Story {
        seed: 1,
        before: commit(0, before),
        pushes: vec![(60_000, commit(1, after))],
        faults: Vec::new(),
        approves_ms: 60_000,
        patience_ms: 8 * HOUR,
    }
}

#[test]
fn a_guest_goes_and_is_not_started_again() {
    let outcome = tell(&one_goes());
    assert_eq!((outcome.moved, boots(&outcome)), (1, 0));
    assert_eq!(outcome.reach.count("right: hand over"), 1);
}

#[test]
fn a_move_reported_failed_that_had_succeeded() {
    let mut story = one_goes();
    let nodes = story.nodes().len();
    story.faults = (0..nodes)
        .map(|node| Fault {
            from_ms: 0,
            until_ms: HOUR,
            trouble: Trouble::MoveUnsaid { node },
        })
        .collect();
    let outcome = tell(&story);
    assert!(outcome.reach.count("move unsaid") > 0);
    assert!(
        outcome.reach.count("move: wake") >= outcome.reach.count("move unsaid"),
        "each time it goes on where it was"
    );
    assert_eq!((outcome.moved, boots(&outcome)), (1, 0), "and goes in the end");
}

#[test]
fn a_hand_over_of_which_nobody_hears() {
    let mut story = one_goes();
    story.faults = vec![Fault {
        from_ms: 0,
        until_ms: 2 * HOUR,
        trouble: Trouble::AnswersLost { permille: 700 },
    }];
    let lost = ["hand-over lost", "hand-over unsaid", "hand-over late"];
    let mut heard = [0; 3];
    for seed in 1..20 {
        story.seed = seed;
        let outcome = tell(&story);
        assert_eq!(outcome.moved, 1, "seed {seed}");
        for (heard, lost) in heard.iter_mut().zip(lost) {
            *heard += outcome.reach.count(lost);
        }
    }
    assert!(heard.iter().all(|heard| *heard > 0), "{heard:?}");
}

#[test]
fn a_line_that_is_cut_and_agents_that_die_at_any_moment_of_a_move() {
    let mut story = one_goes();
    let (mut cut, mut alone) = (0, 0);
    for seed in 1..25 {
        story.seed = seed;
        story.faults = (0..3)
            .map(|number| {
                let from_ms = 60_000 + seed * 1_500 + number * 20_000;
                let node = usize::try_from(seed + number).unwrap() % 5;
                let trouble = match number {
                    0 => Trouble::Away { node },
                    1 => Trouble::AgentDies { node },
                    _ => Trouble::PowerFails { node },
                };
                Fault {
                    from_ms,
                    until_ms: from_ms + 5_000 + seed * 1_000,
                    trouble,
                }
            })
            .collect();
        let outcome = tell(&story);
        assert_eq!(outcome.moved, 1, "seed {seed}");
        cut += outcome.reach.count("move cut off");
        alone += outcome.reach.count("copy goes on alone");
    }
    assert!(cut > 0, "{alone}");
}

/// Four nodes of which three quarters are taken, by slivers of slices of their own: memory in units of 128 MiB.
struct Hosts {
    slivers: Vec<(u64, usize)>,
    cordoned: Option<usize>,
    order: String,
}

const UNIT_MIB: u64 = 128;
const HOSTS: usize = 4;

impl Hosts {
    fn text(&self) -> String {
        let mut text = "apiVersion: xenoslice/v1\nkind: Fleet\nmetadata: { name: acme }\n---\napiVersion: xenoslice/v1\n\
                        kind: Site\nmetadata: { name: cambridge }\nspec: { region: eu }\n---\napiVersion: xenoslice/v1\n\
                        kind: Template\nmetadata: { name: debian }\nspec:\n  channels: { current: \"sha256:\
                        1111111111111111111111111111111111111111111111111111111111111111\" }\n  \
                        sources: [ \"file:///srv/templates\" ]\n"
            .to_owned();
        for node in 0..HOSTS {
            let cordoned = self.cordoned == Some(node);
            text.push_str(&format!(
                "---\napiVersion: xenoslice/v1\nkind: Node\nmetadata: {{ name: n-{node} }}\nspec: {{ site: cambridge, \
                 hypervisor: xen, cordoned: {cordoned}, capacity: {{ memory: {}MiB, vcpus: 64 }} }}\n",
                12 * UNIT_MIB
            ));
        }
        for (number, (units, node)) in self.slivers.iter().enumerate() {
            text.push_str(&format!(
                "---\napiVersion: xenoslice/v1\nkind: Slice\nmetadata: {{ name: s{number:02} }}\nspec:\n  image:\n    \
                 kernel: debian/current\n    mounts:\n      - {{ path: /, layers: [{{ template: debian/current }}], \
                 writable: local }}\n  resources: {{ vcpus: 1, memory: {}MiB }}\n  placement: {{ nodes: [n-{node}] }}\n",
                units * UNIT_MIB
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

    fn fleet(&self) -> DesiredFleet {
        self.resolved(resolve)
            .unwrap_or_else(|findings| panic!("{findings:#?}"))
    }

    /// As `xeno evacuate` does; how many of those that go were on other nodes.
    fn evacuate(&mut self, node: usize) -> usize {
        self.order.clear();
        self.cordoned = None;
        let ground = self.resolved(survey).expect("a fleet");
        let all: Vec<Standing> = standing(&ground, &self.fleet());
        let name = NodeName::new(&format!("n-{node}")).unwrap();
        let steps = evacuate(&ground, &all, &name).unwrap_or_else(|stuck| panic!("{stuck:?}"));
        for step in &steps {
            let of: usize = step.sliver.slice.as_str()[1..].parse().unwrap();
            if let How::Goes(to) = &step.how {
                self.slivers[of].1 = to.as_str()[2..].parse().unwrap();
            }
        }
        let turns: Vec<_> = steps.iter().map(|step| step.turn(&[])).collect();
        self.order = format!("---\n{}", moves_text(&name, &turns));
        self.cordoned = Some(node);
        steps.iter().filter(|step| step.from != name).count()
    }
}

fn emptied_one_by_one() -> (Story, usize) {
    let sizes = [[4, 3, 2], [5, 2, 2], [3, 3, 3], [6, 3, 0]];
    let on = |(node, sizes): (usize, &[u64; 3])| -> Vec<(u64, usize)> {
        sizes
            .iter()
            .filter(|size| **size > 0)
            .map(|size| (*size, node))
            .collect()
    };
    let mut hosts = Hosts {
        slivers: sizes.iter().enumerate().flat_map(on).collect(),
        cordoned: None,
        order: String::new(),
    };
    let before = commit(0, hosts.fleet());
    let (mut pushes, mut others) = (Vec::new(), 0);
    for (node, number) in (0..HOSTS).zip(1..) {
        others += hosts.evacuate(node);
        assert!(
            hosts.slivers.iter().all(|(_, on)| *on != node),
            "n-{node} is empty"
        );
        pushes.push((number * HOUR, commit(number, hosts.fleet())));
    }
    let story = Story {
        seed: 1,
        before,
        pushes,
        faults: Vec::new(),
        approves_ms: 60_000,
        patience_ms: 8 * HOUR,
    };
    (story, others)
}

#[test]
fn four_nearly_full_hosts_are_emptied_one_by_one() {
    let (story, others) = emptied_one_by_one();
    assert!(others > 0, "somebody had to make room");
    let outcome = tell(&story);
    assert!(outcome.reach.count("move waits for its turn") > 0);
    assert!(outcome.moved > 0);
    assert_eq!(boots(&outcome), 0, "each goes while it runs");
    assert!(outcome.ended_ms < 5 * HOUR, "{}", outcome.ended_ms);
}

#[test]
fn and_so_they_are_while_much_goes_wrong() {
    let (story, _) = emptied_one_by_one();
    for seed in 1..6 {
        let mut story = story.clone();
        story.seed = seed;
        let story = story.with_faults();
        let outcome = story
            .tell()
            .unwrap_or_else(|broken| panic!("seed {seed}: {broken}: {:?}", story.faults));
        assert!(outcome.moved > 0);
    }
}
