//! What programs expect of a root file system, by a real Linux client on cowfs, and by the same program on ext4.
//!
//! Every case of `posix-suite` runs in a guest: on objects made a moment ago, on objects of a template, of a directory
//! layer, and on objects of a template that were changed before. Needs root for the oracle: its cases change owners.
#![cfg(feature = "guest")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use xeno_tests::demo::{report::say, stop};
use xeno_tests::lab::{
    LabError, LabResult, Parts, built, ensure, node::Node, repository::Repository, template, wait_for,
};

const DEADLINE: Duration = Duration::from_secs(1_200);

/// Cases that cannot hold on NFS version 3, and why; everything else must.
const DEVIATIONS: &[(&str, &str)] = &[(
    "times.before_1970",
    "times are unsigned seconds since 1970 on the wire (RFC 1813, nfstime3)",
)];

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

fn open_to_all(path: &Path) -> LabResult<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .map_err(LabError::io("opening a directory"))
}

#[test]
fn every_case_holds_in_a_guest_on_cowfs() -> LabResult<()> {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let dir = scratch.path().canonicalize().expect("it exists");
    let outcome = in_a_guest(&dir);
    stop::end_all(&dir)?;
    outcome
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
    xeno_tests::lab::write(&overlay.join("run.sh"), RUN)?;
    open_to_all(&overlay)?;

    let repository = Repository::create(dir, &xeno)?;
    let parts = Parts {
        xeno,
        template: root.clone(),
        published: published.clone(),
    };
    let node = Node::start(dir, "cam-01", &repository.bare, &parts)?;
    stop::record(dir, std::slice::from_ref(&node))?;
    repository.write(
        "fleet.yaml",
        "apiVersion: xenoslice/v1\nkind: Fleet\nmetadata: { name: posix }\n---\n\
         apiVersion: xenoslice/v1\nkind: Site\nmetadata: { name: here }\n---\n\
         apiVersion: xenoslice/v1\nkind: Node\nmetadata: { name: cam-01 }\nspec:\n  site: here\n  hypervisor: qemu\n  \
         capacity: { memory: 1GiB, vcpus: 2 }\n",
    )?;
    for (name, digest) in [("debian", &root), ("ground", &ground)] {
        repository.write(
            &format!("templates/{name}.yaml"),
            &format!(
                "apiVersion: xenoslice/v1\nkind: Template\nmetadata: {{ name: {name} }}\nspec:\n  channels: {{ current: \"{digest}\" }}\n  sources: [file://{}]\n",
                published.display()
            ),
        )?;
    }
    repository.write(
        "posix.yaml",
        &SLICE.replace("OVERLAY", &overlay.display().to_string()),
    )?;
    let push = repository.push("Run the cases")?;
    ensure(push.accepted, || push.output.clone())?;

    let log = node.dir.join("state/qemu/posix-0/console.log");
    let said = wait_for("the guest to finish its cases", DEADLINE, || {
        let said = std::fs::read(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let said = String::from_utf8_lossy(&said).into_owned();
        if said.contains("posix finished") {
            Ok(said)
        } else {
            Err(said.lines().last().unwrap_or("nothing yet").to_owned())
        }
    })?;
    judge(&said)
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
