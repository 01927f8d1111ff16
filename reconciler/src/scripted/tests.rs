use super::*;
use xeno_model::id::{Epoch, MigrationId};

use crate::ports::{MoveLayers as _, Pipe, Retry};
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

/// Has two calls take turns until both have returned.
fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        if first.is_none()
            && let Poll::Ready(value) = one.as_mut().poll(&mut context)
        {
            first = Some(value);
        }
        if second.is_none()
            && let Poll::Ready(value) = other.as_mut().poll(&mut context)
        {
            second = Some(value);
        }
        if let (Some(_), Some(_)) = (&first, &second) {
            break;
        }
    }
    (first.expect("it returns"), second.expect("it returns"))
}

#[test]
fn layers_travel_between_nodes_in_memory_as_between_real_ones() {
    let migration = MigrationId([1; 16]);
    let (web, mounts) = (id("a/0"), MountSpec::of(&sliver("a/0")));
    assert!(mounts.iter().any(|mount| mount.writable));
    let (here, there) = (ScriptedNode::new(512), ScriptedNode::new(512));
    now(here.open_writable(&web, Epoch(1), &mounts)).unwrap().unwrap();
    now(Storage::stack(&here, &web, &Digest([7; 32]), &mounts))
        .unwrap()
        .unwrap();
    now(here.export(&web, &mounts)).unwrap().unwrap();
    let round = |from: &ScriptedNode, to: &ScriptedNode, last| {
        let (near, far) = Pipe::pair().unwrap();
        both(
            from.send_layers(&web, last, near),
            to.receive_layers(&web, migration, &mounts, far),
        )
    };
    let see = |node: &ScriptedNode| node.state().storage.get(&web).cloned().unwrap_or_default();

    let (ahead, received) = round(&here, &there, false);
    received.unwrap();
    assert!(!see(&there).on_disk, "it is only on its way");
    assert!(round(&here, &there, true).0.is_err(), "it is being served");
    now(here.park(&web)).unwrap().unwrap();
    assert!(see(&here).parked);
    let (last, received) = round(&here, &there, true);
    received.unwrap();
    assert!(last.unwrap() < ahead.unwrap());
    assert_eq!((see(&there).on_disk, see(&there).mark), (true, see(&here).mark));
    assert_eq!(there.written(&web), here.written(&web));

    // Open there, it is not replaced, and neither is what was opened later than what comes.
    now(there.open_writable(&web, Epoch(2), &mounts))
        .unwrap()
        .unwrap();
    assert_eq!(round(&here, &there, true).1.unwrap_err().retry, Retry::Later);
    now(there.close_writable(&web)).unwrap().unwrap();
    assert_eq!(round(&here, &there, true).1.unwrap_err().retry, Retry::Never);
    now(here.unexport(&web)).unwrap().unwrap();
    assert!(!see(&here).parked);
    now(here.close_writable(&web)).unwrap().unwrap();
    round(&there, &here, true).1.unwrap();

    // It can be done and not said, as everything else.
    there.script("send-last", Fault::SucceedsUnsaid);
    let (sent, received) = round(&there, &here, true);
    assert!(sent.is_err() && received.is_ok());
    here.script("receive-last", Fault::Fails(PortError::later("no room")));
    let (sent, received) = round(&there, &here, true);
    assert!(sent.unwrap_err().what.contains("no room"));
    assert!(received.is_err());
    // Nobody has fetched what it is stacked on.
    let mut violations = here.violations();
    violations.retain(|rule| !rule.starts_with("stack:"));
    assert_eq!(violations, [""; 0]);
}
