//! That the laboratory itself does what the stories lean on: guests made with `xl` alone are saved, restored and lost with
//! the power; what was written to dom0's disk is not.

use xeno_tests::lab::{LabResult, ensure};
use xeno_tests::xen_lab::by_hand::{STRANGER, Stranger};
use xeno_tests::xen_lab::machine::Machine;

fn story() -> LabResult<()> {
    let data = tempfile::tempdir().expect("a scratch directory");
    std::fs::write(data.path().join("greeting"), "from outside").expect("it can be written");
    let machine = Machine::start(1, data.path())?;
    let greeting = machine.run("cat /srv/data/greeting")?;
    ensure(greeting == "from outside", || {
        format!("/srv/data/greeting says {greeting:?}")
    })?;

    let mut stranger = Stranger::create(&machine)?;
    stranger.ensure_undisturbed(&machine)?;
    let before = machine.domain(STRANGER)?;
    machine.run("xl save stranger /root/stranger.image >/dev/null 2>&1")?;
    let left = machine.domains()?;
    ensure(left.is_empty(), || format!("after xl save: {left:?}"))?;
    machine.run("xl restore /root/stranger.image >/dev/null 2>&1")?;
    let after = machine.domain(STRANGER)?;
    ensure(
        after.id != before.id && after.memory_mib == before.memory_mib,
        || format!("{before:?} came back as {after:?}"),
    )?;

    machine.write("/root/kept", "it's kept\n")?;
    machine.run("sync")?;
    machine.power_off()?;
    machine.boot_again()?;
    let kept = machine.run("cat /root/kept")?;
    ensure(kept == "it's kept\n", || format!("/root/kept says {kept:?}"))?;
    let greeting = machine.run("cat /srv/data/greeting")?;
    ensure(greeting == "from outside", || {
        format!("/srv/data/greeting says {greeting:?}")
    })?;
    let left = machine.domains()?;
    ensure(left.is_empty(), || format!("after a power failure: {left:?}"))
}

#[test]
fn guests_made_by_hand_come_and_go_and_the_disk_stays() {
    story().unwrap_or_else(|error| panic!("{error}"));
}
