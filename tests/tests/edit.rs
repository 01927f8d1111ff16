//! An overlay made by hand where people make them: the kernel of a Linux machine mounts the tree, a command changes it, and
//! what it changed is kept.
//!
//! The machine is a guest, so that nothing is mounted on the one that runs the tests; what it does stands in `edit.sh`.
#![cfg(feature = "guest")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use xeno_tests::demo::report::say;
use xeno_tests::lab::one_guest::{OneGuest, Recipe, write_script};
use xeno_tests::lab::{LabError, LabResult, Parts, built, ensure, scratch::Scratch, template};

/// Machines are shared, and the guest's processor is emulated.
const DEADLINE: Duration = Duration::from_secs(1_200);

/// Steps of `edit.sh`.
const STEPS: usize = 6;

const SLICE: &str = "apiVersion: xenoslice/v1
kind: Slice
metadata: { name: edit }
spec:
  image:
    kernel: debian/current
    mounts:
      - path: /
        layers: [{ template: debian/current }]
        writable: local
      - path: /tools
        layers: [{ overlay: file://OVERLAY }]
        writable: local
  resources: { vcpus: 1, memory: 384MiB }
  placement: { nodes: [cam-01] }
  health: { console: { marker: edit begins }, interval: 1s, threshold: 1, grace: 3600s }
";

#[test]
fn a_kernel_mounts_what_is_edited_and_the_changes_are_kept() -> LabResult<()> {
    Scratch::in_memory().tell(|scratch| story(scratch.dir()))
}

fn story(dir: &Path) -> LabResult<()> {
    let xeno = built::program("xeno");
    let (overlay, published) = (dir.join("overlays/tools"), dir.join("templates"));
    write_script(&overlay, "run.sh", include_str!("edit.sh"))?;
    // Without what only a debugger reads: an emulated processor has to fetch it.
    let stripped = Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .arg(overlay.join("xeno"))
        .arg(&xeno)
        .output()
        .map_err(LabError::io("running strip"))?;
    ensure(stripped.status.success(), || {
        String::from_utf8_lossy(&stripped.stderr).into_owned()
    })?;
    let root = template::import_root(&xeno, &built::images(), &published, "debian", "sh /tools/run.sh")?;
    let parts = Parts {
        xeno,
        template: root.clone(),
        published,
    };
    let recipe = Recipe {
        name: "edit",
        templates: &[("debian", &root)],
        slice: &SLICE.replace("OVERLAY", &overlay.display().to_string()),
    };
    let guest = OneGuest::start(dir, &parts, &recipe)?;
    let said = guest.await_marker("edit finished", DEADLINE)?;
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim_end)
        .skip_while(|line| *line != "edit begins")
        .collect();
    for line in &lines {
        say(line);
    }
    let held = lines.iter().filter(|line| line.starts_with("edit ok ")).count();
    let wrong = lines.iter().any(|line| line.starts_with("edit FAIL "));
    ensure(!wrong && held == STEPS, || {
        format!("{held} of {STEPS} steps held:\n{}", lines.join("\n"))
    })
}
