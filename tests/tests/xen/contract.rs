//! The stories that every hypervisor keeps to (`reconciler/src/contract.rs`), on real Xen: the driver's own test program,
//! run in a dom0 with nothing of Xenoslice beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use xeno_tests::demo::report::say;
use xeno_tests::lab::{LabError, LabResult, ensure};
use xeno_tests::xen_lab::machine::Machine;

/// The program, what the driver needs beside xl, and the hotplug script.
fn data(dir: &Path) -> LabResult<PathBuf> {
    let wanted = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .ok_or_else(|| LabError::Check(format!("{name} is not set: run make test-xen")))
    };
    let (program, xeno) = (wanted("XENO_CONTRACT")?, wanted("XENO_PROGRAM")?);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../drivers/xen/scripts/vif-xeno");
    fs::copy(&script, dir.join("vif-xeno")).map_err(LabError::io(format!("copying {}", script.display())))?;
    let beside = |name: &str| (name.to_owned(), xeno.with_file_name(name));
    for (name, from) in [
        ("contract".to_owned(), program),
        beside("xeno-xl-gate"),
        beside("xeno-xl-resume"),
    ] {
        let stripped = Command::new("strip")
            .arg("-o")
            .arg(dir.join(name))
            .arg(&from)
            .status()
            .map_err(LabError::io("running strip"))?;
        ensure(stripped.success(), || {
            format!("strip {}: {stripped}", from.display())
        })?;
    }
    Ok(dir.to_owned())
}

const READY: &str = "install -m 755 /srv/data/vif-xeno /etc/xen/scripts/vif-xeno && mkdir -p /run/xenoslice/vif /run/xenoslice/links";

/// Has one test of the program run, and says how long its stories took.
fn run(machine: &Machine, settings: &str, test: &str) -> LabResult<()> {
    let told = machine.output(&format!(
        "{READY} && {settings} /srv/data/contract --nocapture --exact {test}"
    ))?;
    let said = String::from_utf8_lossy(&told.stdout);
    for line in said
        .lines()
        .filter(|line| line.ends_with(" s") || *line == "crashes")
    {
        say(line);
    }
    ensure(
        told.status.success() && said.contains("test result: ok. 1 passed"),
        || format!("{said}{}", String::from_utf8_lossy(&told.stderr)),
    )
}

fn story() -> LabResult<()> {
    let scratch = tempfile::tempdir().map_err(LabError::io("making a directory"))?;
    let machine = Machine::start(1, &data(scratch.path())?)?;
    run(&machine, "", "xen_keeps_the_contract")
}

/// The program in the second dom0 answers for its driver.
fn story_of_two() -> LabResult<()> {
    let scratch = tempfile::tempdir().map_err(LabError::io("making a directory"))?;
    let data = data(scratch.path())?;
    let (machine, other) = (Machine::start(1, &data)?, Machine::start(2, &data)?);
    other.run(&format!(
        "{READY} && (XENO_LAB_SERVE=10.99.0.2:7001 setsid /srv/data/contract --exact far::the_other_node_answers >/var/log/far.log 2>&1 </dev/null &)"
    ))?;
    let told = run(
        &machine,
        "XENO_LAB_PEER=10.99.0.2:7001",
        "moves::xen_keeps_the_contract_of_moves",
    );
    if told.is_err() {
        say(&other.run("cat /var/log/far.log")?);
    }
    told
}

#[test]
fn the_driver_keeps_what_every_hypervisor_keeps() {
    story().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_driver_moves_guests_as_every_hypervisor_does() {
    story_of_two().unwrap_or_else(|error| panic!("{error}"));
}
