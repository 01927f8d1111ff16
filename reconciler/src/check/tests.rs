use super::*;
use crate::testing::{World, id, sliver};

#[test]
fn a_fresh_plan_is_safe() {
    let world = World::wanting([sliver("web/0"), sliver("web/1")]);
    assert_eq!(check(&world.plan(), &world.input()), []);
    let _ = id("web/0");
}
