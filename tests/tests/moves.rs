//! A real guest that moves between two nodes by pushes alone, and remembers everything.
#![cfg(feature = "guest")]

use std::time::{Duration, Instant};

use xeno_reconciler::render::amount;
use xeno_tests::demo::manifests::{self, PORT, Step};
use xeno_tests::demo::{report::Report, report::say, run, stop};
use xeno_tests::lab::{
    LabError, LabResult, node::Node, repository::Repository, scratch::Scratch, watcher::Watcher, witness,
};

const DEADLINE: Duration = Duration::from_secs(300);

#[test]
fn a_guest_moves_there_and_back_and_remembers_everything() -> LabResult<()> {
    Scratch::on_disk().tell(|scratch| story(&scratch.options()))
}

fn story(options: &run::Options) -> LabResult<()> {
    let dir = &options.dir;
    let parts = run::import(&mut Report::default(), options, dir)?;
    let repository = Repository::create(dir, &parts.xeno)?;
    let mut nodes = Vec::new();
    for name in ["cam-01", "nyc-02"] {
        nodes.push(Node::start_in_fleet(dir, name, &repository.bare, &parts)?);
        stop::record(dir, &nodes)?;
    }
    manifests::write_fleet(&repository, &parts)?;
    let here = Step {
        nonce: "the-only-page",
        nodes: &["cam-01"],
        state: "running",
        memory: "192MiB",
    };
    let there = Step {
        nodes: &["nyc-02"],
        ..here.clone()
    };
    let push = |step: &Step<'_>, message: &str| -> LabResult<()> {
        manifests::write_slice(&repository, step)?;
        let push = repository.push(message)?;
        assert!(push.accepted, "{}", push.output);
        Ok(())
    };
    push(&here, "One sliver")?;
    for node in &nodes {
        node.await_converged(DEADLINE)?;
    }
    let root = std::fs::metadata(options.images.join("root.tar")).map_err(LabError::io("the image"))?;
    let root = root.len();
    let boot = witness::says(PORT, "boot_id", DEADLINE)?;
    witness::write(PORT, "first", DEADLINE)?;

    let places = [
        ("second", &there, (1, 1)),
        ("third", &here, (0, 1)),
        ("fourth", &there, (1, 2)),
    ];
    for (round, step, (target, arrivals)) in places {
        let source = 1 - target;
        let left = nodes[source].times_said("web/0 has moved")?;
        let watcher = Watcher::of(PORT);
        push(step, &format!("The {round} place"))?;
        // A node that has not read the push yet has nothing left to do either.
        let arrived = nodes[target].await_event("web/0 has arrived", arrivals, DEADLINE)?;
        for node in &nodes {
            node.await_converged(DEADLINE)?;
        }
        let asked = Instant::now();
        witness::write(PORT, round, DEADLINE)?;
        say(&format!(
            "{round} place: longest time without a page {} ms; a line synced in {} ms; {arrived}",
            watcher.end().as_millis(),
            asked.elapsed().as_millis()
        ));
        let moved = nodes[source].await_event("web/0 has moved", left + 1, DEADLINE)?;
        say(&format!("{moved}; its root has {}", amount(root)));
        let now = witness::says(PORT, "boot_id", DEADLINE)?;
        if now != boot {
            for node in &nodes {
                let events = node.xeno(&["events"])?;
                say(&format!(
                    "{}:\n{}",
                    node.name,
                    String::from_utf8_lossy(&events.stdout)
                ));
                say(&std::fs::read_to_string(node.dir.join("agent.log")).unwrap_or_default());
            }
        }
        assert_eq!(now, boot, "the guest was rebooted");
    }
    assert_eq!(
        witness::ledger(PORT, DEADLINE)?,
        ["first", "second", "third", "fourth"]
    );
    for node in &mut nodes {
        node.stop()?;
    }
    Ok(())
}
