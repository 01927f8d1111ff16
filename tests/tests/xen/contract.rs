//! The stories that every hypervisor keeps to (`reconciler/src/contract.rs`), on real Xen: the driver's own test program,
//! run in a dom0 with nothing of Xenoslice beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use xeno_tests::demo::report::say;
use xeno_tests::lab::{LabError, LabResult, ensure};
use xeno_tests::xen_lab::machine::Machine;

/// The program and the hotplug script.
fn data(dir: &Path) -> LabResult<PathBuf> {
    let program = std::env::var_os("XENO_CONTRACT")
        .map(PathBuf::from)
        .ok_or_else(|| LabError::Check("XENO_CONTRACT is not set: run make test-xen".to_owned()))?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../drivers/xen/scripts/vif-xeno");
    fs::copy(&script, dir.join("vif-xeno")).map_err(LabError::io(format!("copying {}", script.display())))?;
    let stripped = Command::new("strip")
        .arg("-o")
        .arg(dir.join("contract"))
        .arg(&program)
        .status()
        .map_err(LabError::io("running strip"))?;
    ensure(stripped.success(), || {
        format!("strip {}: {stripped}", program.display())
    })?;
    Ok(dir.to_owned())
}

fn story() -> LabResult<()> {
    let scratch = tempfile::tempdir().map_err(LabError::io("making a directory"))?;
    let machine = Machine::start(1, &data(scratch.path())?)?;
    let told = machine.output(
        "install -m 755 /srv/data/vif-xeno /etc/xen/scripts/vif-xeno && mkdir -p /run/xenoslice/vif /run/xenoslice/links && \
         /srv/data/contract --nocapture --test-threads=1",
    )?;
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

#[test]
fn the_driver_keeps_what_every_hypervisor_keeps() {
    story().unwrap_or_else(|error| panic!("{error}"));
}
