//! A fleet as its board tells of it: what each node said last of its slivers, put together with the commits that ask for that.
//!
//! A node says of a sliver only as which revision of its slice it stands, and how it is. What that revision is, a commit says: the
//! one that is planned from, the one that is planned to, or one that a rollout names. Where no commit at hand says it, or the
//! node has said nothing, the sliver is unknown; the commit that is planned from stands in for it, and that is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use xeno_model::desired::{DesiredFleet, DesiredSliver, Slice};
use xeno_model::id::{Digest, NodeName, SliceName, SliverId};
use xeno_model::normal::{held_back, rollout_digest, rollout_revision};

use crate::rollout::{Condition, RolloutKey, SliverSummary, Verdict};

/// What the board says of a fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// By node; nodes that have never said anything may be left out.
    pub nodes: BTreeMap<NodeName, NodeSaid>,
    /// How far rollouts are, by slice.
    pub rollouts: BTreeMap<SliceName, RolloutSaid>,
}

/// What a node says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSaid {
    /// Whether it has a sign of life.
    pub alive: bool,
    /// What it said last of its slivers; `None`: nothing, ever, or nothing that could be understood.
    pub slivers: Option<BTreeMap<SliverId, SliverSummary>>,
}

/// How far the rollout of a slice is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutSaid {
    /// What it brings.
    pub to: RolloutKey,
    /// What its slivers would go back to.
    pub good: Option<RolloutKey>,
    /// Whether it goes on.
    pub verdict: Verdict,
}

/// A fleet as it is, as far as the board tells.
#[derive(Clone, Debug)]
pub struct Found {
    /// What runs, as if a commit had asked for just that.
    pub fleet: DesiredFleet,
    /// Slivers of which it is not known what they are, and why not; the commit that is planned from stands in for them.
    pub unknown: BTreeMap<SliverId, Unknown>,
    /// Slivers that are not as they should be, and that their nodes have given up on for now.
    pub failed: BTreeMap<SliverId, Failed>,
    /// Nodes without a sign of life.
    pub silent: BTreeSet<NodeName>,
    /// Rollouts that do not go on by themselves, of slices that are to become what those bring; in words.
    pub held: BTreeMap<SliceName, String>,
}

/// A sliver that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Where.
    pub node: NodeName,
    /// What went wrong, as its node says.
    pub why: String,
}

/// Why it is not known what a sliver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// Its node has never said anything.
    Unheard {
        /// Its node.
        node: NodeName,
    },
    /// Its node has it as a revision that no commit at hand asks for.
    Foreign {
        /// Its node.
        node: NodeName,
        /// That revision.
        revision: Digest,
    },
    /// Several nodes say that they have it, as while it moves.
    Several {
        /// Which.
        nodes: Vec<NodeName>,
    },
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unheard { node } => write!(f, "node {node} has said nothing of its slivers"),
            Self::Foreign { node, revision } => write!(
                f,
                "node {node} has it as revision {}, which no commit at hand asks for",
                revision.short()
            ),
            Self::Several { nodes } => {
                let nodes: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
                write!(f, "nodes {} all say that they have it", nodes.join(", "))
            }
        }
    }
}

/// Finds out what runs: `base` stands in for what is not known, `after` is to be, `others` are more commits that rollouts name.
#[must_use]
pub fn find(said: &Said, base: &DesiredFleet, after: &DesiredFleet, others: &[DesiredFleet]) -> Found {
    let mut book = Book::new([after, base].into_iter().chain(others));
    let mut found = Found {
        fleet: base.clone(),
        unknown: BTreeMap::new(),
        failed: BTreeMap::new(),
        silent: BTreeSet::new(),
        held: held(said, after),
    };
    let mut sayings: BTreeMap<&SliverId, Vec<(&NodeName, &SliverSummary)>> = BTreeMap::new();
    for (node, words) in &said.nodes {
        for (sliver, summary) in words.slivers.iter().flatten() {
            sayings.entry(sliver).or_default().push((node, summary));
        }
    }
    let named = base.nodes.keys().chain(after.nodes.keys());
    let is_silent = |node: &&NodeName| said.nodes.get(*node).is_none_or(|words| !words.alive);
    found.silent = named.filter(is_silent).cloned().collect();
    let mut slices: BTreeMap<SliceName, Slice> = BTreeMap::new();
    let asked = |sliver: &SliverId| place(base, sliver);
    let mut all: BTreeSet<SliverId> = sayings.keys().map(|sliver| (*sliver).clone()).collect();
    for slice in base.slices.values() {
        all.extend(slice.slivers.values().map(|(_, sliver)| sliver.id.clone()));
    }
    for sliver in all {
        let nodes = sayings.get(&sliver).map(Vec::as_slice).unwrap_or_default();
        let is = match nodes {
            [(node, summary)] => match book.find(&sliver, summary.revision) {
                Some(of) => {
                    // What no rollout changes counts as soon as a node has read it.
                    let of = asked(&sliver).map_or_else(|| of.clone(), |(_, asked)| held_back(&of, asked));
                    Some(((*node).clone(), of))
                }
                None => {
                    let (node, revision) = ((*node).clone(), summary.revision);
                    found
                        .unknown
                        .insert(sliver.clone(), Unknown::Foreign { node, revision });
                    asked(&sliver).cloned()
                }
            },
            [] => match asked(&sliver) {
                Some((node, _)) if is_unheard(said, node) => {
                    let node = node.clone();
                    found.unknown.insert(sliver.clone(), Unknown::Unheard { node });
                    asked(&sliver).cloned()
                }
                // It has said what it has, and this is not among it.
                Some(_) | None => None,
            },
            several => {
                let nodes = several.iter().map(|(node, _)| (*node).clone()).collect();
                found.unknown.insert(sliver.clone(), Unknown::Several { nodes });
                asked(&sliver).cloned()
            }
        };
        if let [(node, summary)] = nodes
            && let Condition::Failed { why } = &summary.condition
        {
            let (node, why) = ((*node).clone(), why.clone());
            found.failed.insert(sliver.clone(), Failed { node, why });
        }
        if let Some(is) = is {
            let slice = slices.entry(sliver.slice.clone()).or_insert_with(|| Slice {
                slivers: BTreeMap::new(),
            });
            slice.slivers.insert(sliver.number, is);
        }
    }
    found.fleet.slices = slices
        .into_iter()
        .map(|(name, slice)| (name, Arc::new(slice)))
        .collect();
    found
}

/// The commits that `said` names: what slivers stand at may be found there.
pub fn commits(said: &Said) -> impl Iterator<Item = &RolloutKey> {
    let rollouts = said.rollouts.values();
    rollouts.flat_map(|rollout| [Some(&rollout.to), rollout.good.as_ref()].into_iter().flatten())
}

fn is_unheard(said: &Said, node: &NodeName) -> bool {
    said.nodes.get(node).is_none_or(|words| words.slivers.is_none())
}

/// Where a commit places a sliver, and as what.
fn place<'a>(fleet: &'a DesiredFleet, sliver: &SliverId) -> Option<&'a (NodeName, DesiredSliver)> {
    fleet.slices.get(&sliver.slice)?.slivers.get(&sliver.number)
}

/// Rollouts that bring what a commit asks for, and in which nothing begins.
fn held(said: &Said, after: &DesiredFleet) -> BTreeMap<SliceName, String> {
    let is_held = |(name, rollout): (&SliceName, &RolloutSaid)| {
        let waits = match rollout.verdict {
            Verdict::Rolling | Verdict::Done => false,
            Verdict::Paused { .. }
            | Verdict::Held { .. }
            | Verdict::Failed { .. }
            | Verdict::Aborted { .. } => true,
        };
        let slice = after.slices.get(name).filter(|_| waits)?;
        let revision = revision_of(slice);
        (revision == rollout.to.revision).then(|| (name.clone(), rollout.verdict.to_string()))
    };
    said.rollouts.iter().filter_map(is_held).collect()
}

fn revision_of(slice: &Slice) -> Digest {
    rollout_revision(slice.slivers.values().map(|(_, sliver)| sliver))
}

/// What commits ask for, by slice and revision.
struct Book<'a> {
    fleets: Vec<&'a DesiredFleet>,
    /// Per slice, each commit's with its revision. Filled in as slices are asked for.
    read: BTreeMap<SliceName, Vec<(Digest, &'a Slice)>>,
}

impl<'a> Book<'a> {
    fn new(fleets: impl Iterator<Item = &'a DesiredFleet>) -> Self {
        Self {
            fleets: fleets.collect(),
            read: BTreeMap::new(),
        }
    }

    /// What a sliver is at a revision of its slice.
    fn find(&mut self, sliver: &SliverId, revision: Digest) -> Option<DesiredSliver> {
        let fleets = &self.fleets;
        let read = self.read.entry(sliver.slice.clone()).or_insert_with(|| {
            let slices = fleets.iter().filter_map(|fleet| fleet.slices.get(&sliver.slice));
            slices.map(|slice| (revision_of(slice), &**slice)).collect()
        });
        let at = |slice: &Slice| {
            let (_, of) = slice.slivers.get(&sliver.number)?;
            Some(of.clone())
        };
        // A node that no rollout has come to yet names what the sliver itself is.
        read.iter()
            .filter(|(of, _)| *of == revision)
            .find_map(|(_, slice)| at(slice))
            .or_else(|| {
                let mut all = read.iter().filter_map(|(_, slice)| at(slice));
                all.find(|of| rollout_digest(of) == revision)
            })
    }
}

#[cfg(test)]
mod tests {
    use xeno_model::desired::{DeleteBudget, HypervisorKind, Node, Site, SitePolicy};
    use xeno_model::id::{FleetName, Revision, SiteName, Timestamp};
    use xeno_model::units::Bytes;

    use super::*;
    use crate::testing::{id, sliver};

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn web() -> SliceName {
        SliceName::new("web").unwrap()
    }

    fn commit(n: u8) -> Revision {
        Revision::new(&format!("{n:02x}").repeat(20)).unwrap()
    }

    /// Three nodes with a sliver of `web` each, of so much memory.
    fn fleet(mib: u64) -> DesiredFleet {
        let site = SiteName::new("home").unwrap();
        let names = ["a", "b", "c"];
        let of_site = Node {
            site: site.clone(),
            address: None,
            labels: BTreeMap::new(),
            hypervisor: HypervisorKind::Qemu,
            memory: Bytes(2 << 30),
            vcpus: 4,
        };
        let slivers = (0..).zip(names).map(|(number, name)| {
            let mut sliver = sliver(&format!("web/{number}"));
            sliver.resources.memory = Bytes(mib << 20);
            (number, (node(name), sliver))
        });
        let slice = Slice {
            slivers: slivers.collect(),
        };
        DesiredFleet {
            name: FleetName::new("acme").unwrap(),
            delete_budget: DeleteBudget::default(),
            approval: None,
            sites: [(
                site,
                Site {
                    region: None,
                    distances: BTreeMap::new(),
                    policy: SitePolicy::default(),
                },
            )]
            .into(),
            nodes: names.map(|name| (node(name), of_site.clone())).into(),
            cordoned: BTreeSet::new(),
            tenants: BTreeMap::new(),
            templates: BTreeMap::new(),
            slices: [(web(), Arc::new(slice))].into(),
            files: BTreeMap::new(),
            turns: Arc::default(),
            transit: BTreeMap::new(),
        }
    }

    fn revision(mib: u64) -> Digest {
        revision_of(&fleet(mib).slices[&web()])
    }

    /// What a node says of one sliver.
    fn says(sliver: &str, revision: Digest, condition: Condition) -> NodeSaid {
        let summary = SliverSummary {
            revision,
            condition,
            since: Timestamp(7),
        };
        NodeSaid {
            alive: true,
            slivers: Some([(id(sliver), summary)].into()),
        }
    }

    /// What is found of each sliver: its node and its memory in MiB.
    fn memory(found: &Found) -> Vec<(String, u64)> {
        let slivers = found
            .fleet
            .slices
            .values()
            .flat_map(|slice| slice.slivers.values());
        slivers
            .map(|(node, sliver)| (node.to_string(), sliver.resources.memory.mib()))
            .collect()
    }

    fn is(parts: [(&str, u64); 3]) -> Vec<(String, u64)> {
        parts.map(|(node, mib)| (node.to_owned(), mib)).into()
    }

    #[test]
    fn each_sliver_is_what_its_node_says() {
        let why = || "it is never healthy".to_owned();
        let mut said = Said {
            nodes: [
                (node("a"), says("web/0", revision(256), Condition::Healthy)),
                (
                    node("b"),
                    says("web/1", revision(512), Condition::Failed { why: why() }),
                ),
                (node("c"), says("web/2", revision(128), Condition::Healthy)),
            ]
            .into(),
            rollouts: BTreeMap::new(),
        };
        // From 128 to 256 MiB; a third commit, which a rollout names, has 512.
        let found = find(&said, &fleet(128), &fleet(256), &[fleet(512)]);
        assert_eq!(memory(&found), is([("a", 256), ("b", 512), ("c", 128)]));
        assert_eq!(found.unknown, BTreeMap::new());
        assert_eq!(found.silent, BTreeSet::new());
        let failed = Failed {
            node: node("b"),
            why: why(),
        };
        assert_eq!(found.failed, [(id("web/1"), failed)].into());
        // Without that commit nobody knows what it is.
        let found = find(&said, &fleet(128), &fleet(256), &[]);
        assert_eq!(memory(&found), is([("a", 256), ("b", 128), ("c", 128)]));
        let foreign = Unknown::Foreign {
            node: node("b"),
            revision: revision(512),
        };
        assert_eq!(found.unknown, [(id("web/1"), foreign)].into());
        // One that is out of reach is what it was when it was heard of last.
        said.nodes.get_mut(&node("a")).unwrap().alive = false;
        let found = find(&said, &fleet(128), &fleet(256), &[]);
        assert_eq!((memory(&found)[0].1, found.silent), (256, [node("a")].into()));
    }

    #[test]
    fn what_nobody_said_is_unknown_and_what_is_not_there_is_not() {
        let empty = NodeSaid {
            alive: true,
            slivers: Some(BTreeMap::new()),
        };
        let said = Said {
            nodes: [(node("a"), empty), (node("b"), NodeSaid::default())].into(),
            rollouts: BTreeMap::new(),
        };
        let found = find(&said, &fleet(128), &fleet(256), &[]);
        // `a` has told all it has; `b` and `c` never spoke.
        assert_eq!(memory(&found), [("b".to_owned(), 128), ("c".to_owned(), 128)]);
        let unheard = |name| Unknown::Unheard { node: node(name) };
        assert_eq!(
            found.unknown,
            [(id("web/1"), unheard("b")), (id("web/2"), unheard("c"))].into()
        );
        assert_eq!(found.silent, [node("b"), node("c")].into());
    }

    #[test]
    fn of_two_that_say_they_have_it_nobody_is_believed() {
        let has = || says("web/0", revision(256), Condition::Healthy);
        let said = Said {
            nodes: [(node("a"), has()), (node("b"), has())].into(),
            rollouts: BTreeMap::new(),
        };
        let found = find(&said, &fleet(128), &fleet(256), &[]);
        let several = Unknown::Several {
            nodes: vec![node("a"), node("b")],
        };
        assert_eq!(found.unknown[&id("web/0")], several);
        assert_eq!(memory(&found)[0], ("a".to_owned(), 128));
    }

    #[test]
    fn a_rollout_that_failed_holds_up_what_brings_the_same() {
        let rollout = |verdict| RolloutSaid {
            to: RolloutKey {
                revision: revision(256),
                commit: commit(2),
            },
            good: None,
            verdict,
        };
        let check = |verdict: Verdict, after: u64, holds: bool| {
            let said = Said {
                nodes: BTreeMap::new(),
                rollouts: [(web(), rollout(verdict.clone()))].into(),
            };
            let found = find(&said, &fleet(128), &fleet(after), &[]);
            assert_eq!(found.held.contains_key(&web()), holds, "{verdict:?} {after}");
        };
        let why = || "1 of 3 slivers failed".to_owned();
        check(Verdict::Failed { why: why() }, 256, true);
        check(Verdict::Failed { why: why() }, 512, false);
        check(Verdict::Paused { by: why() }, 256, true);
        check(Verdict::Rolling, 256, false);
        check(Verdict::Done, 256, false);
    }
}
