use std::collections::BTreeMap;
use std::sync::Arc;

use xeno_model::desired::{
    DeleteBudget, DesiredFleet, HypervisorKind, Node, Publish, Slice, SliverState, Turn, Turns,
};
use xeno_model::id::{FleetName, NodeName, SiteName, SliceName};
use xeno_model::units::Bytes;

use super::*;
use crate::testing::{id, sliver};

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// Nodes with 1 GiB each, and slivers: name, node, MiB, port.
fn fleet(nodes: &[&str], slivers: &[(&str, &str, u64, u16)]) -> DesiredFleet {
    let made = Node {
        site: SiteName::new("home").unwrap(),
        address: None,
        labels: BTreeMap::new(),
        hypervisor: HypervisorKind::Qemu,
        memory: Bytes(1 << 30),
        vcpus: 4,
    };
    let mut slices: BTreeMap<SliceName, BTreeMap<u32, (NodeName, DesiredSliver)>> = BTreeMap::new();
    for (name, at, mib, port) in slivers {
        let mut one = sliver(name);
        one.resources.memory = Bytes(mib << 20);
        one.publish = vec![Publish {
            guest: 80,
            host: *port,
        }];
        let slice = slices.entry(one.id.slice.clone()).or_default();
        slice.insert(one.id.number, (node(at), one));
    }
    let slices = slices
        .into_iter()
        .map(|(name, slivers)| (name, Arc::new(Slice { slivers })));
    DesiredFleet {
        name: FleetName::new("acme").unwrap(),
        delete_budget: DeleteBudget::default(),
        approval: None,
        sites: BTreeMap::new(),
        nodes: nodes.iter().map(|name| (node(name), made.clone())).collect(),
        cordoned: BTreeSet::new(),
        tenants: BTreeMap::new(),
        templates: BTreeMap::new(),
        slices: slices.collect(),
        files: BTreeMap::new(),
        turns: Arc::default(),
        transit: BTreeMap::new(),
    }
}

/// Steps as words, each with those before it.
fn words(course: &Course) -> Vec<String> {
    let said = |step: &Step| {
        let to = step.to.as_ref().map_or("rests", NodeName::as_str);
        let after: Vec<String> = step.after.iter().map(ToString::to_string).collect();
        format!("{} {to} {} [{}]", step.sliver, step.left_mib, after.join(" "))
    };
    course.steps.iter().map(said).collect()
}

#[test]
fn what_fits_at_once_needs_no_order() {
    let before = fleet(&["a", "b"], &[("web/0", "a", 256, 1), ("db/0", "a", 256, 2)]);
    let after = fleet(&["a", "b"], &[("web/0", "b", 256, 1), ("db/0", "b", 256, 2)]);
    let course = course(&before, &after);
    assert!(course.is_plain());
    assert_eq!(words(&course), ["db/0 b 768 []", "web/0 b 512 []"]);
    assert_eq!(super::course(&after, &after), Course::default());
}

#[test]
fn one_that_makes_room_goes_before_the_one_that_needs_it() {
    let nodes = ["a", "b", "c"];
    let before = fleet(&nodes, &[("api/0", "a", 768, 1), ("web/0", "b", 512, 2)]);
    let after = fleet(&nodes, &[("api/0", "b", 768, 1), ("web/0", "c", 512, 2)]);
    let course = course(&before, &after);
    assert!(!course.is_plain() && course.stuck.is_empty());
    assert_eq!(words(&course), ["web/0 c 512 []", "api/0 b 256 [0]"]);
}

#[test]
fn two_that_change_places_are_stuck_and_one_that_stops_lets_both_pass() {
    let before = fleet(&["a", "b"], &[("big/0", "a", 768, 1), ("web/0", "b", 512, 2)]);
    let after = fleet(&["a", "b"], &[("big/0", "b", 768, 1), ("web/0", "a", 512, 2)]);
    let stuck = course(&before, &after);
    let lacks = |sliver: &str, from: &str, to: &str, need_mib, free_mib| Stuck {
        sliver: id(sliver),
        from: node(from),
        to: node(to),
        lack: Lack::Memory { need_mib, free_mib },
    };
    assert_eq!(
        stuck.stuck,
        [
            lacks("big/0", "a", "b", 768, 512),
            lacks("web/0", "b", "a", 512, 256)
        ]
    );
    assert!(stuck.steps.is_empty());
    let way = way_out(&before, &after, &stuck).unwrap();
    assert_eq!(
        words(&way),
        ["web/0 rests 1024 []", "big/0 b 256 [0]", "web/0 a 512 [1]"]
    );

    // What is told as a way out is one that agents keep to: it plays through as turns of the commit.
    let ordered = DesiredFleet {
        turns: Arc::new(Turns::new(way.turns(), |sliver| {
            place(&after, sliver).map(|(node, _)| node)
        })),
        ..after.clone()
    };
    assert!(!ordered.turns.way(&id("web/0")).is_empty());
    let told = course(&before, &ordered);
    assert!(told.stuck.is_empty(), "{told:?}");
    assert_eq!(told.steps, way.steps);
    assert_eq!(way_out(&before, &ordered, &told), None);
}

#[test]
fn where_nothing_helps_it_is_told_what_is_missing() {
    let before = fleet(&["a", "b"], &[("web/0", "a", 512, 1), ("db/0", "b", 768, 2)]);
    let after = fleet(&["a", "b"], &[("web/0", "b", 512, 1), ("db/0", "b", 768, 2)]);
    let stuck = course(&before, &after);
    let [one] = stuck.stuck.as_slice() else {
        panic!("{stuck:?}")
    };
    let lack = Lack::Memory {
        need_mib: 512,
        free_mib: 256,
    };
    assert_eq!((&one.sliver, &one.lack), (&id("web/0"), &lack));
    assert_eq!(way_out(&before, &after, &stuck), None);
    // A port is had by one only, and one that does not run has none and takes no memory.
    let before = fleet(&["a", "b"], &[("web/0", "a", 64, 7), ("db/0", "b", 64, 7)]);
    let mut after = fleet(&["a", "b"], &[("web/0", "b", 64, 7), ("db/0", "b", 64, 7)]);
    let port = course(&before, &after);
    assert_eq!(port.stuck[0].lack, Lack::Port(7));
    let db = Arc::make_mut(after.slices.get_mut(&id("db/0").slice).unwrap());
    db.slivers.get_mut(&0).unwrap().1.state = SliverState::Stopped;
    assert!(course(&before, &after).is_plain());
}

#[test]
fn turns_of_the_commit_are_kept_to() {
    let nodes = ["a", "b", "c"];
    let before = fleet(&nodes, &[("api/0", "a", 256, 1), ("web/0", "b", 256, 2)]);
    let mut after = fleet(&nodes, &[("api/0", "b", 256, 1), ("web/0", "c", 256, 2)]);
    let turn = |sliver: &str, from: &str, to: &str, after: &[usize]| Turn {
        sliver: id(sliver),
        from: node(from),
        to: Some(node(to)),
        after: after.to_vec(),
    };
    let turns = vec![turn("web/0", "b", "c", &[]), turn("api/0", "a", "b", &[0])];
    let placed = after.clone();
    after.turns = Arc::new(Turns::new(turns, |sliver| {
        place(&placed, sliver).map(|(node, _)| node)
    }));
    let course = course(&before, &after);
    assert_eq!(words(&course), ["web/0 c 768 []", "api/0 b 768 [0]"]);
}
