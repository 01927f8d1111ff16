use super::*;
use crate::testing::{World, id, keys, sliver};

#[test]
fn what_is_taken_by_something_late_is_refused_and_no_fault_of_the_plan() {
    let world = World::wanting([sliver("a/0"), sliver("b/0")]).with_memory(128);
    let node = ScriptedNode::like(&world.observed, 128);
    let ingredients = |of: &str| {
        let mut world = world.clone();
        world.desired.slivers.retain(|sliver, _| sliver.to_string() == of);
        world.plan().actions
    };
    let carry_out = |of: &str| {
        let done = ingredients(of).into_iter();
        done.map(|planned| node.perform(&planned.action, &world.desired).unwrap())
            .last()
            .unwrap()
    };
    assert_eq!(
        keys(&world.plan())
            .iter()
            .filter(|key| key.starts_with("boot"))
            .count(),
        1
    );
    node.script("boot", Fault::Late { looks: 1 });
    assert!(matches!(carry_out("a/0"), Outcome::Failed { .. }));
    let looked = node.observed(&world.desired.node);
    assert!(!looked.domains.known().unwrap().ours.contains_key(&id("a/0")));
    assert!(
        matches!(carry_out("b/0"), Outcome::Failed { .. }),
        "a/0 has come since, and took the memory"
    );
    assert_eq!(node.violations(), [""; 0]);
    // From the next look on whoever asks should know.
    let _ = node.observed(&world.desired.node);
    assert_eq!(carry_out("b/0"), Outcome::Done);
    assert_eq!(node.violations(), ["boot:b/0 takes the node to 256 MiB"]);
}
