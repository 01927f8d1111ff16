//! Real programs on a root file system that cowfs serves: a large set of packages is installed, checked and removed, git
//! works and `git fsck` finds nothing, and databases are whole though the file server was killed in their transactions.
//!
//! What the guest does stands in `root.sh`. Its packages are fetched beforehand (`make packages`): it has no network.
#![cfg(feature = "guest")]

use std::path::Path;
use std::time::Duration;

use xeno_tests::demo::report::say;
use xeno_tests::lab::one_guest::{OneGuest, Recipe, write_script};
use xeno_tests::lab::{LabError, LabResult, Parts, built, ensure, scratch::Scratch, template};

/// For the whole of it; an emulated processor takes minutes.
const DEADLINE: Duration = Duration::from_secs(3_000);

/// When the file server is killed: right after these transactions, so in the middle of the next.
const KILLS: [&str; 4] = [
    "root transaction delete 2",
    "root transaction delete 7",
    "root transaction wal 3",
    "root transaction wal 8",
];

/// Steps of `root.sh`.
const STEPS: usize = 12;

const SLICE: &str = "apiVersion: xenoslice/v1
kind: Slice
metadata: { name: root }
spec:
  image:
    kernel: debian/current
    mounts:
      - path: /
        layers: [{ template: debian/current }]
        writable: local
      - path: /packages
        layers: [{ overlay: file://OVERLAY }]
        writable: local
  resources: { vcpus: 1, memory: 384MiB }
  placement: { nodes: [cam-01] }
  health: { console: { marker: root begins }, interval: 1s, threshold: 1, grace: 3600s }
";

#[test]
fn packages_repositories_and_databases_are_whole() -> LabResult<()> {
    // Killing a process takes nothing from the disk's cache, so a disk that waits would only make it slow.
    Scratch::in_memory().tell(|scratch| story(scratch.dir()))
}

fn story(dir: &Path) -> LabResult<()> {
    let overlay = dir.join("overlays/packages");
    std::fs::create_dir_all(&overlay).map_err(LabError::io("making an overlay"))?;
    let fetched = built::images().join("packages");
    let packages = std::fs::read_dir(&fetched).map_err(LabError::io(format!(
        "listing {}: run make packages",
        fetched.display()
    )))?;
    for package in packages {
        let package = package.map_err(LabError::io("listing packages"))?;
        if package
            .path()
            .extension()
            .is_some_and(|extension| extension == "deb")
        {
            std::fs::copy(package.path(), overlay.join(package.file_name()))
                .map_err(LabError::io("copying a package"))?;
        }
    }
    write_script(&overlay, "run.sh", include_str!("root.sh"))?;

    let (xeno, published) = (built::program("xeno"), dir.join("templates"));
    let root = template::import_root(
        &xeno,
        &built::images(),
        &published,
        "debian",
        "sh /packages/run.sh",
    )?;
    let parts = Parts {
        xeno,
        template: root.clone(),
        published,
    };
    let recipe = Recipe {
        name: "root",
        templates: &[("debian", &root)],
        slice: &SLICE.replace("OVERLAY", &overlay.display().to_string()),
    };
    let mut guest = OneGuest::start(dir, &parts, &recipe)?;
    for hint in KILLS {
        guest.await_marker(hint, DEADLINE)?;
        guest.crash_file_server()?;
        say(&format!(
            "the file server was killed after {hint:?} and started again"
        ));
    }
    let said = guest.await_marker("root finished", DEADLINE)?;
    judge(&said)
}

fn judge(said: &str) -> LabResult<()> {
    let lines: Vec<&str> = said
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix("root "))
        .filter(|line| !line.starts_with("transaction"))
        .collect();
    for line in &lines {
        say(line);
    }
    let held = lines.iter().filter(|line| line.starts_with("ok ")).count();
    let wrong = lines.iter().filter(|line| line.starts_with("FAIL ")).count();
    ensure(wrong == 0 && held == STEPS, || {
        format!("{held} of {STEPS} steps held:\n{}", lines.join("\n"))
    })
}
