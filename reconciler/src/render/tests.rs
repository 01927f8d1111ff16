use super::*;
use crate::testing::{World, health, id, sliver};

#[test]
fn amounts_are_short() {
    for (bytes, text) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (4096, "4 KiB"),
        (1536, "1.5 KiB"),
        (3 << 29, "1.5 GiB"),
        (u64::MAX, "16383 PiB"),
    ] {
        assert_eq!(amount(bytes), text);
    }
}

#[test]
fn probe() {
    let mut web = sliver("web/0");
    web.health = Some(health());
    let world = World::wanting([web, sliver("web/1")]);
    let _ = id("web/0");
    println!("{}", text(&world.plan(), Colour::Plain));
    println!("{}", json(&world.plan()));
}
