use xeno_model::id::Timestamp;
use xeno_model::observed::{ObservedStorage, Stranger};
use xeno_model::units::Bytes;

use super::*;
use crate::testing::{World, golden, health, sliver, template};

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

/// A node on which everything happens at once.
fn busy() -> World {
    let mut checked = sliver("web/0");
    checked.health = Some(health());
    let names = [
        "api/0", "db/0", "db/1", "fat/0", "job/0", "log/0", "old/0", "old/1", "old/2",
    ];
    let mut world = World::wanting(names.map(sliver)).settle();
    world.domains().strangers.push(Stranger {
        name: "laptop-vm".to_owned(),
        memory_mib: 64,
    });
    for new in [checked, sliver("web/1")] {
        let mut new = new;
        new.kernel = template("debian-web", 0xd2);
        world.desired.slivers.insert(new.id.clone(), new);
    }
    world.want("api/0").resources.cpu_weight = 512;
    world.want("db/0").resources.memory = Bytes(256 << 20);
    world.want("fat/0").resources.memory = Bytes(8 << 30);
    world.want("job/0").state = xeno_model::desired::SliverState::Stopped;
    *world.storage("log/0") = ObservedStorage {
        on_disk: true,
        ..ObservedStorage::default()
    };
    for old in ["old/0", "old/1", "old/2"] {
        world.unwant(old);
    }
    world.storage("past/0").on_disk = true;
    world.storage("past/0").tombstone = Some(Timestamp(0));
    world
}

#[test]
fn everything_at_once_reads_well() {
    let plan = busy().plan();
    assert_eq!(crate::check::check(&plan, &busy().input()), []);
    golden(
        "src/render/busy.txt",
        include_str!("busy.txt"),
        &text(&plan, Colour::Plain),
    );
    let colourful = text(&plan, Colour::Ansi);
    assert!(
        colourful.contains("\x1b[32m+ create   web/0\x1b[0m"),
        "{colourful}"
    );
    let mut stripped = colourful;
    for style in [
        Style::Good,
        Style::Careful,
        Style::Bad,
        Style::Heading,
        Style::Faint,
    ] {
        stripped = stripped.replace(style.sequence(), "");
    }
    assert_eq!(stripped.replace("\x1b[0m", ""), text(&plan, Colour::Plain));
}

#[test]
fn every_statement_can_say_what_it_is_based_on() {
    let mut plan = busy().plan();
    plan.basis = Basis::Assumed;
    let marked = marked(&plan, Colour::Plain);
    let changes = plan
        .changes
        .values()
        .filter(|change| change.class != ChangeClass::Keep);
    let mut columns = std::collections::BTreeSet::new();
    for change in changes {
        let line = marked
            .lines()
            .find(|line| line.starts_with(&head(change)))
            .expect("a line");
        let before = line.strip_suffix("assumed").expect("a mark");
        columns.insert(before.chars().count());
    }
    assert_eq!(columns.len(), 1, "the marks stand in one column:\n{marked}");
    // Without them it is the same text.
    let plain = marked.lines().map(|line| line.trim_end_matches("  (assumed)"));
    let plain: Vec<&str> = plain
        .map(|line| line.trim_end_matches("assumed").trim_end())
        .collect();
    let text = text(&plan, Colour::Plain).replace("  (assumed)", "");
    assert_eq!(plain, text.lines().collect::<Vec<_>>());
}

#[test]
fn json_keeps_its_promise() {
    golden(
        "src/render/busy.json",
        include_str!("busy.json"),
        &json(&busy().plan()),
    );
}

#[test]
fn nothing_to_do_is_one_line() {
    let check = |names: &[&str], line: &str| {
        let world = World::wanting(names.iter().map(|name| sliver(name))).settle();
        let mut plan = world.plan();
        plan.applied_generation = plan.generation;
        plan.basis = Basis::Assumed;
        let expected =
            format!("node cam-01  revision 4c1e9a70  generation 13  (assumed)\n\nNothing to do: {line}\n");
        assert_eq!(text(&plan, Colour::Plain), expected);
        assert!(is_empty(&plan));
    };
    check(&[], "the node should run nothing, and runs nothing");
    check(&["web/0"], "web/0 is as desired");
    check(&["web/0", "db/0"], "db/0 and web/0 are as desired");
    check(&["web/0", "db/0", "db/1"], "all 3 slivers are as desired");
}
