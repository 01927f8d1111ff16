use super::*;
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
