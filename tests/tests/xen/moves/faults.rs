//! What is done to a move, one thing after the other. Each begins and ends with one guest that runs where it is to be.
//!
//! While the board stands still a move comes as far as the memory and no further: nobody can be given the right to run. That
//! makes the moment at which something else goes wrong the test's own.

use xeno_tests::demo::report::say;
use xeno_tests::lab::{LabResult, ensure};
use xeno_tests::xen_lab::node::Daemon;

use super::{NAMES, PORT, Story};

type Tell = fn(&mut Story<'_>) -> LabResult<()>;

/// All of it, by name.
pub(super) const ALL: &[(&str, Tell)] = &[
    ("nothing", nothing),
    ("source-agent", source_agent),
    ("target-agent", target_agent),
    ("line-at-go", line_at_go),
    ("board-gone", board_gone),
    ("source-power", source_power),
    ("target-power", target_power),
    ("line-in-memory", line_in_memory),
    ("standing", standing),
    ("by-hand", super::by_hand::by_hand),
];

/// A move as it should be, and what of its gap is whose.
fn nothing(story: &mut Story<'_>) -> LabResult<()> {
    let (from, to) = story.send("live", "To the second")?;
    story.settled("it has moved")?;
    for (node, whose) in [(from, "left"), (to, "came to")] {
        let said = story.nodes[node].machine.run(
            "grep -E 'web/0|took_ms' /var/log/xeno-agent.log | grep -vE 'verb=\"(list|info)\"' | tail -n 25",
        )?;
        say(&format!("what {} says, which it {whose}:\n{said}", NAMES[node]));
    }
    Ok(())
}

fn standing(story: &mut Story<'_>) -> LabResult<()> {
    story.send("suspend", "Back, standing still")?;
    story.settled("it has moved, standing still")
}

fn source_agent(story: &mut Story<'_>) -> LabResult<()> {
    let (from, to) = story.send("live", "Away from an agent that is killed")?;
    story.await_copy(to)?;
    story.nodes[from].crash(Daemon::Agent)?;
    story.settled("the agent of the source was killed while it sent")
}

fn line_in_memory(story: &mut Story<'_>) -> LabResult<()> {
    let (from, to) = story.send("live", "Over a line that is cut")?;
    story.await_copy(to)?;
    story.nodes[to].machine.run("ip link set eth1 down")?;
    story.why(from, "could not be moved to")?;
    story.nodes[from].commit(PORT, "beside-a-cut-line")?;
    story.lines.push("beside-a-cut-line".to_owned());
    story.nodes[to].machine.run("ip link set eth1 up")?;
    story.hurry()?;
    story.settled("the line was cut while its memory was sent")
}

fn target_agent(story: &mut Story<'_>) -> LabResult<()> {
    let (from, to) = story.send("live", "To an agent that is killed")?;
    story.await_copy(to)?;
    story.etcd.0.daemon.freeze(true)?;
    story.await_gone(from)?;
    story.nodes[to].crash(Daemon::Agent)?;
    story.etcd.0.daemon.freeze(false)?;
    story.settled("the agent of the target was killed when the copy had arrived")
}

fn line_at_go(story: &mut Story<'_>) -> LabResult<()> {
    let (from, to) = story.send("live", "Over a line that is cut at the end")?;
    story.await_copy(to)?;
    story.etcd.0.daemon.freeze(true)?;
    story.await_gone(from)?;
    story.nodes[to].machine.run("ip link set eth1 down")?;
    story.etcd.0.daemon.freeze(false)?;
    // It may have had all of it by then, or not: then it comes later.
    let runs = |on: usize| {
        story
            .shown(on)
            .map(|shown| shown == super::Shown::Here { stands: false })
    };
    let somewhere = xeno_tests::lab::wait_for("it to run somewhere", super::DEADLINE, || {
        for on in [to, from] {
            if runs(on).map_err(|error| error.to_string())? {
                return Ok(on);
            }
        }
        Err("it stands".to_owned())
    })?;
    ensure(!(runs(to)? && runs(from)?), || "it runs on both nodes".to_owned())?;
    story.say(&format!("with the line cut it runs on {}", NAMES[somewhere]));
    story.nodes[to].machine.run("ip link set eth1 up")?;
    story.settled("the line was cut when the guest had left")
}

fn board_gone(story: &mut Story<'_>) -> LabResult<()> {
    let (from, to) = story.send("live", "While the board is gone")?;
    story.await_copy(to)?;
    story.etcd.0.daemon.kill()?;
    story.await_gone(from)?;
    story.say("its memory has gone, and nobody can say whose it is");
    story.etcd.0.restart()?;
    story.settled("the board was gone when the guest had left")
}

fn target_power(story: &mut Story<'_>) -> LabResult<()> {
    let (from, to) = story.send("live", "To a machine that loses power")?;
    story.await_copy(to)?;
    story.etcd.0.daemon.freeze(true)?;
    story.await_gone(from)?;
    story.nodes[to].machine.power_off()?;
    story.etcd.0.daemon.freeze(false)?;
    let why = story.nodes[from].machine.run("NO_COLOR=1 xeno why web/0 2>&1")?;
    story.say(&format!(
        "its target is without power; the source says: {}",
        why.trim()
    ));
    story.nodes[to].machine.boot_again()?;
    story.lend_again(to)?;
    story.settled("the target lost power when the copy had arrived")
}

fn source_power(story: &mut Story<'_>) -> LabResult<()> {
    let (from, to) = story.send("live", "From a machine that loses power")?;
    story.await_gone(from)?;
    story.nodes[from]
        .machine
        .await_output("the right to have gone over", "xeno events", |said| {
            let since = said.rsplit_once("is to go to").map(|(_, since)| since);
            since
                .is_some_and(|since| since.contains("has moved to"))
                .then_some(())
        })?;
    story.nodes[from].machine.power_off()?;
    story.await_shown(to, "a guest that runs", |shown| {
        *shown == super::Shown::Here { stands: false }
    })?;
    story.say("its source is without power, and it runs");
    story.nodes[from].machine.boot_again()?;
    story.lend_again(from)?;
    story.settled("the source lost power when the guest had left")
}
