//! What a guest on real Xen can do with its link: reach its own root, and nothing else that is not published. What is tried is
//! in `tests/xen-lab/hostile`, a script for dom0; frames are made by hand by `tests/xen-lab/guest/frame.c`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use xeno_tests::demo::report::say;
use xeno_tests::lab::{LabError, LabResult, built, ensure, write};
use xeno_tests::xen_lab::machine::Machine;
use xeno_tests::xen_lab::small_template::import_tree;

/// Does what is typed on the console, one line at a time, and says how each ended.
const SHELL: &str = r#"#!/bin/sh
echo SHELL-READY
n=0
while IFS= read -r line; do
  n=$((n + 1))
  sh -c "$line"
  echo "DONE $n $?"
done </dev/console
"#;

/// Programs of busybox that are called by their own names, by the script and the shell.
const APPLETS: [&str; 13] = [
    "sh", "cat", "echo", "mkdir", "mount", "umount", "ip", "ping", "ping6", "nc", "arping", "udhcpc",
    "timeout",
];

/// The files that the script needs.
fn data(dir: &Path) -> LabResult<PathBuf> {
    let (data, tree) = (dir.join("data"), dir.join("tree"));
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("xen-lab");
    let xeno = std::env::var_os("XENO_PROGRAM")
        .map(PathBuf::from)
        .ok_or_else(|| LabError::Check("XENO_PROGRAM is not set: run make test-xen".to_owned()))?;
    let shell = tree.join("bin/shell");
    write(&shell, SHELL)?;
    fs::set_permissions(&shell, fs::Permissions::from_mode(0o755))
        .map_err(LabError::io("opening the shell"))?;
    let compiled = Command::new("cc")
        .args(["-O2", "-static", "-Wall", "-o"])
        .arg(tree.join("bin/frame"))
        .arg(lab.join("guest/frame.c"))
        .output()
        .map_err(LabError::io("running cc"))?;
    ensure(compiled.status.success(), || {
        String::from_utf8_lossy(&compiled.stderr).into_owned()
    })?;
    import_tree(
        &xeno,
        &built::images(),
        &tree,
        &APPLETS,
        "/bin/shell",
        &data.join("store"),
    )?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../drivers/xen/scripts/vif-xeno");
    for (from, to) in [
        (xeno.as_path(), "xeno"),
        (script.as_path(), "vif-xeno"),
        (lab.join("hostile").as_path(), "hostile"),
    ] {
        fs::copy(from, data.join(to)).map_err(LabError::io(format!("copying {}", from.display())))?;
    }
    Ok(data)
}

fn story() -> LabResult<()> {
    let scratch = tempfile::tempdir().map_err(LabError::io("making a directory"))?;
    let machine = Machine::start(1, &data(scratch.path())?)?;
    let tried = machine.output("sh /srv/data/hostile /srv/data")?;
    let said = String::from_utf8_lossy(&tried.stdout);
    for line in said.lines() {
        say(line);
    }
    ensure(
        tried.status.success() && said.contains(" PASS ") && !said.contains(" FAIL "),
        || format!("{said}{}", String::from_utf8_lossy(&tried.stderr)),
    )
}

#[test]
fn a_hostile_guest_reaches_its_own_root_and_nothing_else() {
    story().unwrap_or_else(|error| panic!("{error}"));
}
