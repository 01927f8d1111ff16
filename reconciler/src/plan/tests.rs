use xeno_model::id::Digest;

use super::order::in_order;
use super::*;
use crate::check::check;
use crate::testing::{World, health, id, sliver};

#[test]
fn a_new_sliver_is_fetched_stacked_served_and_booted() {
    let mut web = sliver("web/0");
    web.health = Some(health());
    let world = World::wanting([web]);
    assert_eq!(
        world.keys(),
        [
            "fetch:d1d1d1d1d1d1",
            "import:f1f1f1f1f1f1",
            "open:web/0",
            "stack:web/0",
            "export:web/0",
            "boot:web/0",
            "await:web/0",
        ]
    );
    let forecast = world.plan().memory_mib.unwrap();
    assert_eq!((forecast.now, forecast.after, forecast.capacity), (0, 128, 2048));
}

#[test]
fn a_thousand_slivers_are_planned_in_no_time() {
    let slivers = (0..1_000).map(|number| sliver(&format!("web/{number}")));
    let mut world = World::wanting(slivers).with_memory(1 << 20);
    let plan = world.plan();
    assert_eq!(plan.actions.len(), 2 + 4 * 1_000);
    assert_eq!(check(&plan, &world.input()), []);
    world = world.settle();
    for sliver in world.desired.slivers.values_mut() {
        sliver.resources.vcpus = 2;
    }
    let plan = world.plan();
    assert_eq!(plan.actions.len(), 3 * 1_000);
    assert_eq!(check(&plan, &world.input()), []);
}

fn hand_made(action: Action, after: &[&str]) -> (ActionKey, PlannedAction) {
    let cost = Cost {
        bytes: Some(0),
        memory_mib: 0,
    };
    let planned = PlannedAction {
        serves: action.sliver().cloned().into_iter().collect(),
        after: after.iter().map(|key| ActionKey((*key).to_owned())).collect(),
        action: action.clone(),
        cost,
    };
    (action.key(), planned)
}

#[test]
fn a_cycle_names_all_that_is_on_it() {
    let unexport = |name| Action::Unexport { sliver: id(name) };
    let actions = BTreeMap::from([
        hand_made(unexport("a/0"), &["unexport:c/0"]),
        hand_made(unexport("b/0"), &["unexport:a/0"]),
        hand_made(unexport("c/0"), &["unexport:b/0", "unexport:d/0"]),
        hand_made(unexport("d/0"), &[]),
        hand_made(unexport("e/0"), &["unexport:c/0"]),
    ]);
    let error = in_order(actions).unwrap_err();
    assert_eq!(
        error.to_string(),
        "order the plan: unexport:a/0, unexport:b/0, unexport:c/0 wait for each other"
    );
}

#[test]
fn equals_are_ordered_by_rank_then_sliver() {
    let unexport = |name| Action::Unexport { sliver: id(name) };
    let actions = BTreeMap::from([
        hand_made(unexport("a/10"), &[]),
        hand_made(unexport("a/2"), &[]),
        hand_made(Action::AwaitHealthy { sliver: id("a/1") }, &[]),
    ]);
    let order: Vec<_> = in_order(actions)
        .unwrap()
        .into_iter()
        .map(|a| a.action.key().0)
        .collect();
    assert_eq!(order, ["unexport:a/2", "unexport:a/10", "await:a/1"]);
}

#[test]
fn a_need_that_nothing_meets_is_named() {
    let world = World::wanting([sliver("web/0")]);
    let mut actions = Actions::default();
    let cost = Cost {
        bytes: None,
        memory_mib: 0,
    };
    let await_healthy = Action::AwaitHealthy { sliver: id("web/0") };
    actions.add(await_healthy, &id("web/0"), cost).unwrap();
    assert_eq!(
        actions.connect(&world.input()).unwrap_err().to_string(),
        "order the plan: await:web/0 needs web/0 running, which is not so and nothing provides"
    );
}

#[test]
fn a_fetch_is_shared_and_tries_the_sources_of_all() {
    let mut other = sliver("web/1");
    other.kernel.sources = vec!["https://mirror.example/".to_owned()];
    let plan = World::wanting([sliver("web/0"), other]).plan();
    let fetch = &plan.actions[0];
    assert_eq!(fetch.serves.len(), 2);
    assert_eq!(
        fetch.action,
        Action::FetchTemplate {
            digest: Digest([0xd1; 32]),
            sources: vec![
                "file:///templates/debian-web".to_owned(),
                "https://mirror.example/".to_owned()
            ],
        }
    );
}
