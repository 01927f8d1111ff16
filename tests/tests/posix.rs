//! What programs expect of a root file system, by a real Linux client on cowfs, and by the same program on ext4.
//!
//! Every case of `posix-suite` runs in a guest: on objects made a moment ago, on objects of a template, of a directory
//! layer, and on objects of a template that were changed before. Needs root for the oracle: its cases change owners.
#![cfg(feature = "guest")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use xeno_tests::demo::report::say;
use xeno_tests::lab::one_guest::{OneGuest, Recipe, open_to_all, write_script};
use xeno_tests::lab::{LabError, LabResult, Parts, built, ensure, scratch::Scratch, template};

/// For all of it: some minutes by itself, many times that on a machine that others use too.
const DEADLINE: Duration = Duration::from_secs(3_000);

/// Cases that cannot hold on NFS version 3, and why; everything else must.
const DEVIATIONS: &[(&str, &str)] = &[
    (
        "times.before_1970",
        "times are unsigned seconds since 1970 on the wire (RFC 1813, nfstime3)",
    ),
    (
        "stamps.after_2106",
        "times are 32 bits of seconds on the wire (RFC 1813, nfstime3)",
    ),
    (
        "unlinked.unlinked_has_no_links",
        "a client keeps an open file under another name until it is closed (.nfs…), since the server knows of no opens",
    ),
    (
        "unlinked.unlinked_does_not_keep_its_directory",
        "that name keeps the directory from being empty",
    ),
    ("ties.link_of_a_file_that_is_open", "that name counts as a link"),
    (
        "handles.unnamed_file",
        "no call makes a file without a name (O_TMPFILE)",
    ),
    ("kernel.reserved", "no call reserves space (fallocate)"),
    ("kernel.punched", "no call makes a hole (fallocate, PUNCH_HOLE)"),
    (
        "moves.not_over_what_is_there",
        "RENAME has no flags (renameat2, RENAME_NOREPLACE)",
    ),
    (
        "moves.exchanged",
        "RENAME has no flags (renameat2, RENAME_EXCHANGE)",
    ),
    (
        "rights.seventeenth_group_counts",
        "a call carries at most sixteen groups (RFC 5531, AUTH_SYS)",
    ),
    (
        "rights.access_of_directories",
        "ACCESS says whether entries can be changed, which takes leave to search as well (RFC 1813 §3.3.4; knfsd alike)",
    ),
];

#[test]
fn every_case_holds_on_ext4() -> LabResult<()> {
    // Below the build's directory, since a temporary directory may lie in memory.
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
    let kind = Command::new("stat")
        .args(["-f", "-c", "%T"])
        .arg(scratch.path())
        .output()
        .map_err(LabError::io("running stat"))?;
    say(&format!(
        "the oracle is {}",
        String::from_utf8_lossy(&kind.stdout).trim()
    ));
    open_to_all(scratch.path())?;
    // Where another user may reach it.
    let suite = scratch.path().join("suite");
    std::fs::copy(built::program("posix-suite"), &suite).map_err(LabError::io("copying the suite"))?;
    for (origin, copied) in [("fresh", false), ("copied", true)] {
        let mut run = Command::new(&suite);
        run.arg("run")
            .args(copied.then_some("--copied"))
            .arg(origin)
            .arg(scratch.path().join(origin));
        let output = run.output().map_err(LabError::io("running the suite"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        say(said.trim_end());
        ensure(output.status.success(), || format!("on the oracle: {said}"))?;
    }
    Ok(())
}

#[test]
fn every_case_holds_in_a_guest_on_cowfs() -> LabResult<()> {
    Scratch::in_memory().tell(|scratch| in_a_guest(scratch.dir()))
}

const RUN: &str = "#!/bin/sh
suite=/posix/suite
$suite run fresh /posix/fresh
$suite run template /posix/template
$suite run directory /posix/directory
$suite run --copied copied /posix/copied
echo posix finished
exec sleep infinity
";

const SLICE: &str = "apiVersion: xenoslice/v1
kind: Slice
metadata: { name: posix }
spec:
  image:
    kernel: debian/current
    mounts:
      - path: /
        layers: [{ template: debian/current }]
        writable: local
      - path: /posix
        layers: [{ overlay: file://OVERLAY }, { template: ground/current }]
        writable: local
  resources: { vcpus: 1, memory: 256MiB }
  placement: { nodes: [cam-01] }
  health: { console: { marker: posix finished }, interval: 1s, threshold: 1, grace: 3600s }
";

fn in_a_guest(dir: &Path) -> LabResult<()> {
    let xeno = built::program("xeno");
    let suite = built::program("posix-suite");
    let published = dir.join("templates");
    let root = template::import_root(&xeno, &built::images(), &published, "debian", "sh /posix/run.sh")?;

    let (lower, overlay) = (dir.join("ground"), dir.join("overlays/posix"));
    for (path, names) in [
        (&lower, &["template", "copied"][..]),
        (&overlay, &["directory"][..]),
    ] {
        for name in names {
            let made = Command::new(&suite).arg("prepare").arg(path.join(name)).output();
            let made = made.map_err(LabError::io("running the suite"))?;
            ensure(made.status.success(), || {
                String::from_utf8_lossy(&made.stderr).into_owned()
            })?;
        }
    }
    let ground = template::import_tree(&xeno, &lower, &published, "ground")?;
    std::fs::copy(&suite, overlay.join("suite")).map_err(LabError::io("copying the suite"))?;
    write_script(&overlay, "run.sh", RUN)?;

    let parts = Parts {
        xeno,
        template: root.clone(),
        published,
    };
    let recipe = Recipe {
        name: "posix",
        templates: &[("debian", &root), ("ground", &ground)],
        slice: &SLICE.replace("OVERLAY", &overlay.display().to_string()),
    };
    let guest = OneGuest::start(dir, &parts, &recipe)?;
    judge(&guest.await_marker("posix finished", DEADLINE)?)
}

/// Holds what the guest printed against the deviations.
fn judge(said: &str) -> LabResult<()> {
    let mut wrong = Vec::new();
    let mut deviated = BTreeSet::new();
    let mut runs = 0;
    for line in said.lines() {
        let Some(line) = line.trim_end().strip_prefix("posix ") else {
            continue;
        };
        if let Some(failure) = line.strip_prefix("FAIL ") {
            let case = failure.split([' ', ':']).nth(1).unwrap_or_default();
            match DEVIATIONS.iter().find(|(name, _)| *name == case) {
                Some((name, _)) => {
                    deviated.insert(*name);
                }
                None => wrong.push(failure.to_owned()),
            }
        } else if line.contains(" held, ") {
            say(line);
            runs += 1;
        }
    }
    for (name, why) in DEVIATIONS {
        say(&format!("deviates: {name}: {why}"));
        ensure(deviated.contains(name), || {
            format!("{name} is listed as a deviation, and holds")
        })?;
    }
    ensure(runs == 4, || {
        format!("{runs} of 4 runs came to their end:\n{said}")
    })?;
    ensure(wrong.is_empty(), || {
        format!("{} cases do not hold:\n{}", wrong.len(), wrong.join("\n"))
    })
}
