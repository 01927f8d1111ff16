use crate::check::check;
use crate::testing::{World, health, sliver};

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
    assert_eq!(plan.actions.len(), 2 * 1_000);
    assert_eq!(check(&plan, &world.input()), []);
}
