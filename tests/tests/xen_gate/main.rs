//! The gate of a live migration, on two machines with real Xen: held, called off, and cut at each of its words.
//!
//! A guest counts in its memory. Whatever is done to its move, it must count on, on one machine and not on two, without
//! having been booted again. Needs root, what `lab build` and `lab build-hypervisor` make, and the programs `xen-gate` and
//! `xeno-xl-resume` in the directory that `XENO_GATE_PROGRAMS` names; `make test-xen-gate` sees to all of it.
#![cfg(feature = "xen")]

mod pair;

use pair::{Here, Pair, Way};
use xeno_tests::lab::{LabResult, ensure};

/// One thing that is done to a move, and where the guest counts on.
struct Case {
    name: &'static str,
    way: Way,
    play: fn(&mut Pair) -> LabResult<Here>,
}

const CASES: &[Case] = &[
    Case {
        name: "both words are held and passed",
        way: Way::Tcp,
        play: |pair| {
            pair.until_ready()?;
            ensure(pair.state(pair.from(), "")?.contains('s'), || {
                "it is not suspended here".to_owned()
            })?;
            ensure(pair.state(pair.to(), "--incoming")?.contains('p'), || {
                "the copy is not paused".to_owned()
            })?;
            pair.until_go()?;
            // It has been given away, and nobody has it.
            ensure(pair.state(pair.from(), "--migratedaway")?.contains('s'), || {
                "it runs here".to_owned()
            })?;
            ensure(pair.state(pair.to(), "--incoming")?.contains('p'), || {
                "it runs there".to_owned()
            })?;
            pair.order("pass-go")?;
            pair.source_says("Over(GivenAway)")?;
            Ok(Here::To)
        },
    },
    Case {
        name: "called off while READY is held",
        way: Way::Tcp,
        play: |pair| {
            pair.until_ready()?;
            pair.order("abort")?;
            pair.source_says("Over(Resumes)")?;
            pair.source_says("CopyGone")?;
            Ok(Here::From)
        },
    },
    Case {
        name: "called off after GO",
        way: Way::Tcp,
        play: |pair| {
            pair.until_ready()?;
            pair.until_go()?;
            pair.order("abort")?;
            pair.source_says("CopyGone")?;
            pair.source_says("Over(GivenBack)")?;
            Ok(Here::From)
        },
    },
    Case {
        name: "the link is cut in mid-stream",
        way: Way::Ssh,
        play: |pair| {
            pair.target_says("Hello")?;
            pair.cut_link()?;
            pair.source_says("Over(Resumes)")?;
            Ok(Here::From)
        },
    },
    Case {
        name: "the link is cut while READY is held",
        way: Way::Process,
        play: |pair| {
            pair.until_ready()?;
            pair.cut_link()?;
            pair.source_says("LinkLost")?;
            pair.source_says("Over(Resumes)")?;
            Ok(Here::From)
        },
    },
    Case {
        name: "the target's agent dies while GO is held",
        way: Way::Tcp,
        play: |pair| {
            pair.until_ready()?;
            pair.until_go()?;
            pair.kill_target()?;
            pair.source_says("LinkLost")?;
            // Its right to run never left: no copy was ever cleared.
            pair.order("give-back")?;
            pair.source_says("Over(GivenBack)")?;
            Ok(Here::From)
        },
    },
    Case {
        name: "xl is killed at the source while READY is held",
        way: Way::Tcp,
        play: |pair| {
            pair.until_ready()?;
            pair.kill_xl()?;
            pair.source_says("Over(Unclear)")?;
            pair.source_says("CopyGone")?;
            ensure(pair.state(pair.from(), "")?.contains('s'), || {
                "somebody resumed it".to_owned()
            })?;
            pair.resume("")?;
            Ok(Here::From)
        },
    },
    Case {
        name: "the source's agent dies while GO is held",
        way: Way::Tcp,
        play: |pair| {
            pair.until_ready()?;
            pair.until_go()?;
            pair.kill_source()?;
            pair.target_says("CopyGone")?;
            ensure(pair.state(pair.from(), "--migratedaway")?.contains('s'), || {
                "somebody resumed it".to_owned()
            })?;
            pair.resume("--migratedaway")?;
            Ok(Here::From)
        },
    },
    Case {
        name: "GO arrives and the report is lost",
        way: Way::Tcp,
        play: |pair| {
            pair.until_ready()?;
            pair.until_go()?;
            // The receiver stands still until the one who would take its report is gone.
            pair.receiver("STOP")?;
            pair.order("pass-go")?;
            pair.kill_target()?;
            pair.receiver("CONT")?;
            pair.source_says("LinkLost")?;
            pair.runs_there()?;
            pair.order("give-away")?;
            pair.source_says("Over(GivenAway)")?;
            Ok(Here::To)
        },
    },
];

#[test]
fn whatever_is_done_to_its_move_a_guest_counts_on_in_one_place() {
    let story = || -> LabResult<()> {
        let mut pair = Pair::start()?;
        for case in CASES {
            pair.begin(case.name, case.way)?;
            let here = (case.play)(&mut pair)?;
            pair.end(here)?;
        }
        Ok(())
    };
    story().unwrap_or_else(|error| panic!("{error}"));
}
