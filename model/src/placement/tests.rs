//! Stories of placements, and what holds for every one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::desired::{SiteCaps, SitePolicy, Whereabouts};
use crate::id::{NodeName, SiteName, SliceName};
use crate::units::Bytes;

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn site(name: &str) -> SiteName {
    SiteName::new(name).unwrap()
}

fn slice(name: &str) -> SliceName {
    SliceName::new(name).unwrap()
}

fn spot(at: &str, memory_mib: u64) -> Spot {
    Spot {
        cordoned: false,
        at: Arc::new(Whereabouts {
            site: site(at),
            region: None,
            labels: BTreeMap::new(),
        }),
        memory_mib,
    }
}

/// Nodes are named after their sites: `cam-1` stands in `cam`.
fn ground(nodes: &[(&str, u64)]) -> Ground {
    let spots = nodes.iter().map(|(name, memory)| {
        let at = name.split_once('-').unwrap().0;
        (node(name), spot(at, *memory))
    });
    Ground {
        nodes: spots.collect(),
        ..Ground::default()
    }
}

fn ask(replicas: u32, memory_mib: u64) -> Ask {
    Ask {
        tenant: None,
        replicas,
        size: Size {
            memory_mib,
            memory_most: Bytes(memory_mib << 20),
            vcpus: 1,
        },
        size_on: BTreeMap::new(),
        ports: Vec::new(),
        matching: Matching::default(),
        spread: Spread::Site,
        moves_max: None,
        previous: BTreeMap::new(),
        held: false,
    }
}

impl Ground {
    fn with(mut self, name: &str, ask: Ask) -> Self {
        self.asks.insert(slice(name), ask);
        self
    }

    fn ask(&mut self, name: &str) -> &mut Ask {
        self.asks.get_mut(&slice(name)).unwrap()
    }

    fn site(&mut self, name: &str) -> &mut SitePolicy {
        self.sites.entry(site(name)).or_default()
    }

    /// Places, writes the locks, and tells all moves: `web/1: cam-1 → nyc-1 (node gone)`.
    fn place(&mut self, effort: Effort) -> Vec<String> {
        let mut told = Vec::new();
        for (name, placed) in place(self, effort) {
            let placed = placed.unwrap_or_else(|shortage| panic!("{shortage}"));
            for Move {
                number,
                from,
                to,
                why,
            } in &placed.moves
            {
                let name_of =
                    |node: &Option<NodeName>| node.as_ref().map_or("-".to_owned(), |node| node.to_string());
                told.push(format!(
                    "{name}/{number}: {} → {} ({why})",
                    name_of(from),
                    name_of(to)
                ));
            }
            self.asks.get_mut(&name).unwrap().previous = placed.slivers;
        }
        told
    }

    fn settled(mut self) -> Self {
        self.place(Effort::Even);
        self
    }

    /// How many slivers of a slice each node and each site has.
    fn counts(&self, name: &str) -> (BTreeMap<&str, u32>, BTreeMap<&str, u32>) {
        let (mut nodes, mut sites) = (BTreeMap::new(), BTreeMap::new());
        for node in self.asks[&slice(name)].previous.values() {
            *nodes.entry(node.as_str()).or_default() += 1;
            *sites.entry(self.nodes[node].at.site.as_str()).or_default() += 1;
        }
        (nodes, sites)
    }

    fn shortage(&self, name: &str) -> Shortage {
        place(self, Effort::Needed)
            .remove(&slice(name))
            .unwrap()
            .unwrap_err()
    }
}

const THREE_SITES: &[(&str, u64)] = &[
    ("cam-1", 1024),
    ("cam-2", 1024),
    ("nyc-1", 1024),
    ("nyc-2", 1024),
    ("tok-1", 1024),
    ("tok-2", 1024),
];

#[test]
fn slivers_are_spread_over_sites_and_then_over_nodes() {
    let ground = ground(THREE_SITES).with("web", ask(6, 128)).settled();
    assert_eq!(ground.counts("web").0.into_values().collect::<Vec<_>>(), [1; 6]);
    let seven = {
        let mut ground = ground.clone();
        ground.ask("web").replicas = 7;
        let told = ground.place(Effort::Needed);
        assert!(
            told.len() == 1 && told[0].starts_with("web/6: - → ") && told[0].ends_with("(new)"),
            "{told:?}"
        );
        ground
    };
    let mut four = seven;
    four.ask("web").replicas = 4;
    let told = four.place(Effort::Needed);
    assert!(
        told.len() == 3 && told.iter().all(|line| line.contains("→ - (only 4 wanted)")),
        "{told:?}"
    );
}

#[test]
fn who_loses_a_node_moves_what_was_on_it() {
    let mut ground = ground(THREE_SITES)
        .with("web", ask(6, 128))
        .with("db", ask(3, 512))
        .settled();
    let lost = node("cam-1");
    let on_it: BTreeSet<String> = ground
        .asks
        .iter()
        .flat_map(|(name, ask)| {
            ask.previous
                .iter()
                .map(move |(n, at)| (format!("{name}/{n}"), at))
        })
        .filter(|(_, at)| **at == lost)
        .map(|(sliver, _)| sliver)
        .collect();
    assert!(!on_it.is_empty());
    ground.nodes.remove(&lost);
    let told = ground.place(Effort::Even);
    assert!(
        told.iter()
            .all(|line| line.contains("cam-1 → ") && line.ends_with("(node gone)")),
        "{told:?}"
    );
    let moved: BTreeSet<String> = told
        .iter()
        .map(|line| line.split(':').next().unwrap().to_owned())
        .collect();
    assert_eq!(moved, on_it);
}

#[test]
fn a_new_site_makes_no_lock_stale_and_gets_its_share_when_asked() {
    let mut ground = ground(THREE_SITES).with("web", ask(9, 128)).settled();
    ground.nodes.insert(node("par-1"), spot("par", 1024));
    ground.nodes.insert(node("par-2"), spot("par", 1024));
    assert_eq!(ground.place(Effort::Needed), [""; 0]);
    ground.ask("web").moves_max = Some(1);
    let placed = place(&ground, Effort::Even)
        .remove(&slice("web"))
        .unwrap()
        .unwrap();
    assert!(placed.moves.len() == 1 && placed.more, "{placed:?}");
    let first = ground.place(Effort::Even);
    assert!(
        first[0].contains(" → par-") && first[0].ends_with("(spread by site: 3 there, 1 here)"),
        "{first:?}"
    );
    let second = ground.place(Effort::Even);
    assert_eq!(second.len(), 1, "{second:?}");
    assert_eq!(ground.place(Effort::Even), [""; 0]);
    assert_eq!(
        ground.counts("web").1.into_values().collect::<Vec<_>>(),
        [3, 2, 2, 2]
    );
}

#[test]
fn spreading_over_nodes_looks_at_nodes_and_chance_at_nothing() {
    let nodes = [("cam-1", 4096), ("nyc-1", 4096), ("nyc-2", 4096), ("nyc-3", 4096)];
    let mut by_node = ground(&nodes)
        .with(
            "web",
            Ask {
                spread: Spread::Node,
                ..ask(8, 128)
            },
        )
        .settled();
    assert_eq!(by_node.counts("web").0.into_values().collect::<Vec<_>>(), [2; 4]);
    by_node.nodes.insert(node("nyc-4"), spot("nyc", 4096));
    assert_eq!(by_node.place(Effort::Even).len(), 1);
    assert_eq!(by_node.counts("web").0.into_values().sum::<u32>(), 8);
    let chance = Ask {
        spread: Spread::None,
        ..ask(8, 128)
    };
    let mut by_chance = ground(&nodes).with("web", chance).settled();
    by_chance.nodes.insert(node("nyc-4"), spot("nyc", 4096));
    assert_eq!(by_chance.place(Effort::Even), [""; 0]);
}

#[test]
fn only_nodes_that_match_are_taken() {
    let mut ground = ground(THREE_SITES).with("web", ask(2, 128));
    let spot = ground.nodes.get_mut(&node("nyc-2")).unwrap();
    Arc::make_mut(&mut spot.at)
        .labels
        .insert("tier".into(), "edge".into());
    ground.ask("web").matching = Matching([("tier".into(), "edge".into())].into());
    ground.place(Effort::Needed);
    assert_eq!(
        ground.counts("web").0.into_iter().collect::<Vec<_>>(),
        [("nyc-2", 2)]
    );
    ground.ask("web").matching = Matching([("site".into(), "tok".into())].into());
    let told = ground.place(Effort::Needed);
    assert!(
        told.iter()
            .all(|line| line.contains("nyc-2 → tok-") && line.ends_with("(node does not match)")),
        "{told:?}"
    );
    ground.ask("web").matching =
        Matching([("site".into(), "tok".into()), ("region".into(), "asia".into())].into());
    assert_eq!(
        ground.shortage("web").to_string(),
        "2 of 2 slivers of web have no place: of 6 nodes, 6 do not match { region: asia, site: tok }"
    );
}

#[test]
fn the_owner_of_a_site_has_the_last_word() {
    let mut ground = ground(THREE_SITES).with("web", ask(6, 128)).settled();
    ground.site("cam").vetoes.slices.insert(slice("web"));
    let told = ground.place(Effort::Needed);
    assert!(
        told.len() == 2
            && told
                .iter()
                .all(|line| line.contains("(site cam does not run the slice web)")),
        "{told:?}"
    );
    ground.site("nyc").caps.slice_slivers = Some(1);
    let told = ground.place(Effort::Needed);
    assert!(
        told.len() == 2 && told.iter().all(|line| line.contains("→ tok-")),
        "{told:?}"
    );
    ground.site("tok").caps.sliver_memory = Some(Bytes(64 << 20));
    assert_eq!(
        ground.shortage("web").to_string(),
        "5 of 6 slivers of web have no place: of 6 nodes, 2 are at cam, which does not run the slice web; 2 are at nyc, \
         which runs at most 1 slivers of a slice, and this one asks for 2; 2 are at tok, which gives a sliver at most \
         64MiB of memory, and this one asks for 128MiB"
    );
}

#[test]
fn what_does_not_fit_is_told_with_numbers() {
    let ground = ground(&[("cam-1", 300), ("nyc-1", 200)]).with("web", ask(4, 128));
    let shortage = ground.shortage("web");
    assert_eq!(
        shortage.to_string(),
        "1 of 4 slivers of web has no place: of 2 nodes, 2 have too little memory left (128 MiB each; most on nyc-1: 72 MiB)"
    );
    assert_eq!(
        shortage.help(),
        "add a node, ask for less memory or ask for fewer replicas"
    );
    let nowhere = Ground::default().with("web", ask(1, 1)).shortage("web");
    assert_eq!(
        nowhere.to_string(),
        "1 of 1 slivers of web has no place: there is no node"
    );
}

#[test]
fn ports_are_taken_once() {
    let mut ground = ground(&[("cam-1", 4096), ("cam-2", 4096)])
        .with(
            "web",
            Ask {
                ports: vec![8080],
                ..ask(2, 64)
            },
        )
        .with(
            "api",
            Ask {
                ports: vec![8080],
                ..ask(2, 64)
            },
        );
    ground.fixed.push(Fixed {
        slice: slice("old"),
        tenant: None,
        node: node("cam-1"),
        memory_mib: 0,
        ports: vec![8081],
    });
    // 8081 of cam-1 is taken, and both second slivers want the one of cam-2.
    assert_eq!(
        ground.shortage("web").to_string(),
        "1 of 2 slivers of web has no place: of 2 nodes, 2 have port 8081 taken"
    );
    ground.ask("web").ports = vec![9000, 9001];
    ground.place(Effort::Needed);
    let nodes = ground.asks[&slice("web")]
        .previous
        .values()
        .collect::<BTreeSet<_>>();
    assert_eq!(nodes.len(), 2, "9001 is wanted by both slivers");
}

#[test]
fn a_full_node_loses_as_little_as_it_can() {
    let mut ground = ground(&[("cam-1", 1000), ("nyc-1", 4000)])
        .with("big", ask(1, 500))
        .with("mid", ask(1, 200))
        .with("tiny", ask(2, 100));
    for name in ["big", "mid", "tiny"] {
        let ask = ground.ask(name);
        ask.previous = (0..ask.replicas).map(|number| (number, node("cam-1"))).collect();
    }
    assert_eq!(ground.place(Effort::Needed), [""; 0]);
    // 150 too much: `mid` alone is enough, and smaller than `big`.
    ground.ask("tiny").size.memory_mib = 225;
    assert_eq!(
        ground.place(Effort::Needed),
        ["mid/0: cam-1 → nyc-1 (needs 200 MiB, 50 MiB left there)"]
    );
}

#[test]
fn what_is_held_is_not_touched() {
    let mut ground = ground(&[("cam-1", 1000), ("nyc-1", 1000)])
        .with("web", ask(2, 400))
        .with("db", ask(1, 900));
    ground.ask("web").previous = [(0, node("cam-1")), (1, node("gone-1"))].into();
    ground.ask("web").held = true;
    ground.ask("db").previous = [(0, node("cam-1"))].into();
    assert_eq!(
        ground.place(Effort::Even),
        ["db/0: cam-1 → nyc-1 (needs 900 MiB, 600 MiB left there)"]
    );
    assert_eq!(ground.asks[&slice("web")].previous.len(), 2);
}

/// A thousand nodes and twenty thousand slivers. An optimised build needs a fraction of a second, another one several, so
/// that has fewer slivers to place.
#[test]
fn large_fleets_are_placed_at_once() {
    let each = if cfg!(debug_assertions) { 100 } else { 1000 };
    let mut ground = Ground::default();
    for i in 0..1000 {
        ground
            .nodes
            .insert(node(&format!("n{i}")), spot(&format!("s{}", i % 50), 4096));
    }
    for i in 0..20 {
        let spread = [Spread::Site, Spread::Node, Spread::None][i % 3];
        ground = ground.with(
            &format!("web{i}"),
            Ask {
                ports: vec![8080],
                spread,
                ..ask(each, 128)
            },
        );
    }
    for i in 0..20_u16 {
        ground.ask(&format!("web{i}")).ports = vec![1000 + 2000 * i];
    }
    ground.place(Effort::Even);
    assert_eq!(
        ground.asks.values().map(|ask| ask.previous.len()).sum::<usize>(),
        20 * usize::try_from(each).unwrap()
    );
    assert_eq!(ground.place(Effort::Needed), [""; 0]);
    ground.nodes.remove(&node("n77"));
    let told = ground.place(Effort::Needed);
    assert!(!told.is_empty() && told.iter().all(|line| line.contains(": n77 → ")));
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let ports = proptest::sample::select(vec![vec![], vec![100], vec![100, 102]]);
    let spread = proptest::sample::select(vec![Spread::Site, Spread::Node, Spread::None]);
    let matching = proptest::sample::select(vec![vec![], vec![], vec![("tier", "edge")]]);
    (
        0..9_u32,
        1..200_u64,
        ports,
        spread,
        matching,
        proptest::option::of(0..3_u32),
    )
        .prop_map(|(replicas, memory, ports, spread, matching, moves_max)| Ask {
            ports,
            spread,
            moves_max,
            matching: Matching(
                matching
                    .into_iter()
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .collect(),
            ),
            ..ask(replicas, memory)
        })
}

prop_compose! {
    fn any_ground(asks: usize)(
        nodes in proptest::collection::vec((0..4_usize, 50..1500_u64, any::<bool>()), 1..10),
        caps in proptest::collection::vec(proptest::option::weighted(0.3, 0..6_u32), 4),
        asks in proptest::collection::vec(any_ask(), 1..=asks),
    ) -> Ground {
        let mut ground = Ground::default();
        for (i, (site, memory, edge)) in nodes.into_iter().enumerate() {
            let mut spot = spot(&format!("s{site}"), memory);
            if edge {
                Arc::make_mut(&mut spot.at).labels.insert("tier".into(), "edge".into());
            }
            ground.nodes.insert(node(&format!("n{i}")), spot);
        }
        for (i, cap) in caps.into_iter().enumerate() {
            ground.site(&format!("s{i}")).caps = SiteCaps { slice_slivers: cap, ..SiteCaps::default() };
        }
        for (i, ask) in asks.into_iter().enumerate() {
            ground = ground.with(&format!("web{i}"), ask);
        }
        ground
    }
}

/// Places what can be placed and forgets the rest.
fn settle(ground: &mut Ground, effort: Effort) -> Vec<(SliceName, Move)> {
    let mut moves = Vec::new();
    for (name, placed) in place(ground, effort) {
        match placed {
            Ok(placed) => {
                moves.extend(placed.moves.into_iter().map(|change| (name.clone(), change)));
                ground.asks.get_mut(&name).unwrap().previous = placed.slivers;
            }
            Err(_) => drop(ground.asks.remove(&name)),
        }
    }
    moves
}

/// What the locks say is allowed: memory, ports, labels, caps, and everybody has a place.
fn allowed(ground: &Ground) {
    let mut memory: BTreeMap<&NodeName, u64> = BTreeMap::new();
    let mut ports = BTreeSet::new();
    for (name, ask) in &ground.asks {
        assert_eq!(
            ask.previous.keys().copied().collect::<Vec<_>>(),
            (0..ask.replicas).collect::<Vec<_>>()
        );
        let mut at_site: BTreeMap<&SiteName, u32> = BTreeMap::new();
        for (number, node) in &ask.previous {
            let spot = &ground.nodes[node];
            assert!(ask.matching.holds(node, &spot.at));
            *memory.entry(node).or_default() += ask.size.memory_mib;
            *at_site.entry(&spot.at.site).or_default() += 1;
            for port in &ask.ports {
                let port = u32::from(*port) + number;
                assert!(
                    ports.insert((node, port)),
                    "port {port} of {node} twice, for {name} too"
                );
            }
        }
        for (site, count) in at_site {
            let cap = ground
                .sites
                .get(site)
                .and_then(|policy| policy.caps.slice_slivers);
            assert!(cap.is_none_or(|cap| count <= cap), "{name} has {count} at {site}");
        }
    }
    for (node, used) in memory {
        assert!(used <= ground.nodes[node].memory_mib, "{node} is too full");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_placed_is_allowed_and_stays(mut ground in any_ground(5), change in any_ground(5)) {
        settle(&mut ground, Effort::Even);
        allowed(&ground);
        prop_assert_eq!(settle(&mut ground.clone(), Effort::Needed), []);
        // Whatever happens to the fleet, the next locks are as good.
        ground.nodes = change.nodes;
        ground.sites = change.sites;
        for (name, changed) in change.asks {
            if let Some(ask) = ground.asks.get_mut(&name) {
                *ask = Ask { previous: std::mem::take(&mut ask.previous), ..changed };
            }
        }
        for effort in [Effort::Needed, Effort::Even] {
            let mut ground = ground.clone();
            settle(&mut ground, effort);
            allowed(&ground);
            prop_assert_eq!(settle(&mut ground, Effort::Needed), []);
        }
    }

    #[test]
    fn a_lost_node_moves_what_was_on_it_and_nothing_else(mut ground in any_ground(4), which in any::<prop::sample::Index>()) {
        settle(&mut ground, Effort::Even);
        let lost = ground.nodes.keys().nth(which.index(ground.nodes.len())).unwrap().clone();
        ground.nodes.remove(&lost);
        for (name, placed) in place(&ground, Effort::Needed) {
            let Ok(placed) = placed else { continue };
            let on_it: Vec<u32> =
                ground.asks[&name].previous.iter().filter(|(_, at)| **at == lost).map(|(number, _)| *number).collect();
            prop_assert_eq!(placed.moves.iter().map(|change| change.number).collect::<Vec<_>>(), on_it);
            prop_assert!(placed.moves.iter().all(|change| change.why == Why::NodeGone));
        }
    }

    #[test]
    fn a_new_node_moves_nothing_by_itself(mut ground in any_ground(4), memory in 50..1500_u64, at in 0..6_usize) {
        settle(&mut ground, Effort::Even);
        ground.nodes.insert(node("new"), spot(&format!("s{at}"), memory));
        prop_assert_eq!(settle(&mut ground, Effort::Needed), []);
    }

    /// Slivers of one slice only ever move to a new node, no more than it takes, and each move pays.
    #[test]
    fn spreading_moves_no_more_than_it_must(mut ground in any_ground(1), memory in 50..1500_u64, at in 0..6_usize) {
        for ask in ground.asks.values_mut() {
            ask.moves_max = None;
        }
        settle(&mut ground, Effort::Even);
        prop_assert_eq!(settle(&mut ground, Effort::Even), []);
        ground.nodes.insert(node("new"), spot(&format!("s{at}"), memory));
        let moves = settle(&mut ground, Effort::Even);
        for (name, change) in &moves {
            prop_assert_eq!(change.to.as_ref(), Some(&node("new")));
            prop_assert!(matches!(change.why, Why::Even { there, here, .. } if here < there), "{:?}", change);
            prop_assert!(ground.asks[name].spread != Spread::None);
        }
        prop_assert_eq!(settle(&mut ground, Effort::Even), []);
    }

    #[test]
    fn budgets_of_moves_are_kept(mut ground in any_ground(4), nodes in any_ground(1)) {
        settle(&mut ground, Effort::Even);
        ground.nodes.extend(nodes.nodes.into_iter().map(|(name, spot)| (node(&format!("x{name}")), spot)));
        for (name, placed) in place(&ground, Effort::Even) {
            let max = ground.asks[&name].moves_max.map_or(usize::MAX, |max| max as usize);
            prop_assert!(placed.is_ok_and(|placed| placed.moves.len() <= max));
        }
    }

    /// Without locks and with room for all, a node that goes changes only the places of its own slivers.
    #[test]
    fn hashing_alone_disturbs_nobody(replicas in 1..60_u32, nodes in 2..12_usize, lost in any::<prop::sample::Index>()) {
        let mut ground = Ground::default().with("web", Ask { spread: Spread::None, ..ask(replicas, 1) });
        for i in 0..nodes {
            ground.nodes.insert(node(&format!("n{i}")), spot("s", 10_000));
        }
        let before = place(&ground, Effort::Needed)[&slice("web")].clone().unwrap().slivers;
        let lost = node(&format!("n{}", lost.index(nodes)));
        ground.nodes.remove(&lost);
        let after = place(&ground, Effort::Needed)[&slice("web")].clone().unwrap().slivers;
        for (number, at) in before {
            prop_assert!(at == lost || after[&number] == at);
        }
    }

    #[test]
    fn the_order_of_what_is_fixed_does_not_matter(ground in any_ground(3), fixed in Just((0..12_u16).collect::<Vec<_>>()).prop_shuffle()) {
        let with = |order: &[u16]| {
            let mut ground = ground.clone();
            ground.fixed = order
                .iter()
                .map(|i| Fixed {
                    slice: slice(&format!("web{}", i % 4)),
                    tenant: None,
                    node: node(&format!("n{}", i % 7)),
                    memory_mib: u64::from(*i) * 20,
                    ports: vec![100 + i],
                })
                .collect();
            place(&ground, Effort::Even)
        };
        let ordered: Vec<u16> = (0..12).collect();
        prop_assert_eq!(with(&fixed), with(&ordered));
    }
}

#[test]
fn a_cordoned_node_keeps_what_it_has_and_gets_nothing_new() {
    let mut ground = ground(&[("cam-1", 1024), ("cam-2", 1024)])
        .with("web", ask(2, 128))
        .settled();
    ground.nodes.get_mut(&node("cam-1")).unwrap().cordoned = true;
    assert_eq!(ground.place(Effort::Even), [] as [String; 0]);
    ground.ask("web").replicas = 4;
    assert_eq!(
        ground.place(Effort::Even),
        ["web/2: - → cam-2 (new)", "web/3: - → cam-2 (new)"]
    );
    assert_eq!(ground.counts("web").0, [("cam-1", 1), ("cam-2", 3)].into());
    // Nor does what has to go from elsewhere go there.
    ground.nodes.get_mut(&node("cam-2")).unwrap().memory_mib = 300;
    let short = ground.shortage("web");
    assert!(short.to_string().contains("1 is cordoned"), "{short}");
    assert!(short.help().contains("uncordon one"), "{}", short.help());
}
