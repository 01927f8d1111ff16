//! The whole measurement, in the laboratory's two machines.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::by_hand;
use super::deploy::{Ground, Slice, number};
use super::report::{Deployment, Emulation, Kind, Overlay, Place, Report};
use super::sizes::Size;
use super::wire;
use crate::demo::report::say;
use crate::lab::repository::Repository;
use crate::lab::template::import_bootable;
use crate::lab::{LabError, LabResult, ensure, write};
use crate::xen_lab::machine::Machine;
use crate::xen_lab::node::{NAME, REPOSITORY, XenNode};

/// What is measured with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The program, built for release.
    pub xeno: PathBuf,
    /// The Debian package of it.
    pub package: PathBuf,
    /// Kernel and modules for guests, as `make image` leaves them.
    pub images: PathBuf,
    /// What `tests/xen-lab/make-roots` made.
    pub roots: PathBuf,
}

/// Services whose overlays are weighed. The first is deployed.
const SERVICES: [&str; 3] = ["apache", "openarena", "minetest"];

/// Slices whose overlay is on the node, and their ports.
const NEAR: [(&str, u16); 3] = [("near", 8081), ("near-again", 8083), ("near-once-more", 8084)];

/// The one that took neither longest nor shortest.
fn middle(mut deployments: Vec<Deployment>) -> LabResult<Deployment> {
    deployments.sort_by_key(|deployment| deployment.timeline.total_ms);
    let at = deployments.len() / 2;
    let middle = deployments.into_iter().nth(at);
    middle.ok_or_else(|| LabError::Check("nothing was measured".to_owned()))
}

/// Measures everything.
///
/// # Errors
/// What could not be done, in words.
pub fn measure(parts: &Parts) -> LabResult<Report> {
    let began = Instant::now();
    let tell = |what: &str| say(&format!("[{:4} s] {what}", began.elapsed().as_secs()));
    let base = Size::of(&parts.roots.join("base"))?;
    let overlays = SERVICES
        .iter()
        .map(|name| overlay(&parts.roots, name))
        .collect::<LabResult<Vec<_>>>()?;
    tell("overlays are weighed");

    // Beside the roots, since files are linked and not copied.
    let scratch = tempfile::Builder::new()
        .prefix("evaluation-")
        .tempdir_in(&parts.roots)
        .map_err(LabError::io("making a directory"))?;
    let (near_data, far_data) = (scratch.path().join("near"), scratch.path().join("far"));
    let digest = lay_out(parts, &near_data, &far_data)?;
    tell("template and exports are made");
    let node_machine = Machine::start(1, &near_data)?;
    let far_machine = Machine::start(2, &far_data)?;
    far_machine
        .run("exportfs -o ro,no_root_squash,no_subtree_check,insecure,async,fsid=7 10.99.0.0/24:/srv/data")?;
    let node = XenNode::install(&node_machine)?;
    let repository = Repository::work_on(scratch.path(), &node_machine.git_url(REPOSITORY))?;
    write_fleet(&repository, &digest)?;
    let ground = Ground {
        node: &node,
        far: &far_machine,
        repository: &repository,
    };
    ground.prepare()?;
    tell("a dom0 with the node, and a machine at the far end");

    let slice = |name: &str, overlay: &str, port: u16| Slice {
        name: name.to_owned(),
        overlay: overlay.to_owned(),
        port,
    };
    // The first brings the template here, and the bare kernel.
    let first = slice("first", "file:///srv/data/overlays/apache", 8080);
    ground.bring(&first, "running")?;
    ground.bring(&first, "stopped")?;
    tell("the template is on the node");

    let both = |slice: &Slice, place: Place| -> LabResult<[Deployment; 2]> {
        let booted = ground.measure(slice, Kind::BootNew, place)?;
        tell(&format!("{place:?}: booted"));
        ground.bring(slice, "suspended")?;
        let resumed = ground.measure(slice, Kind::ResumeSuspended, place)?;
        tell(&format!("{place:?}: resumed"));
        ground.bring(slice, "stopped")?;
        Ok([booted, resumed])
    };
    // Others use this machine's processors too: the middle one counts of some.
    let (mut booted, mut resumed) = (Vec::new(), Vec::new());
    for (name, port) in NEAR {
        let near = slice(name, "file:///srv/data/overlays/apache", port);
        let [boot, resume] = both(&near, Place::Near)?;
        booted.push(boot);
        resumed.push(resume);
    }
    let mut deployments = vec![middle(booted)?, middle(resumed)?];
    // Below the root that the file server may read: what is mounted on that itself would be hidden from it (landlock(7)). As the agent
    // mounts what is at nfs://.
    node_machine.run(
        "mkdir -p /srv/overlays/far && mount -t nfs -o ro,vers=3,proto=tcp,nolock,nocto,nodev,nosuid \
         10.99.0.2:/srv/data/overlays /srv/overlays/far",
    )?;
    wire::slow(&[&node_machine, &far_machine])?;
    // Once: what the node's kernel has of it then, it keeps.
    let far = slice("far", "file:///srv/overlays/far/apache", 8082);
    deployments.extend(both(&far, Place::Far)?);
    deployments.extend(by_hand::measure(&node_machine, &far_machine)?);
    tell("the same by hand");

    let xen = node_machine.run("xl info | sed -n 's/^xen_version *: *//p'")?;
    Ok(Report {
        program: said_version(&parts.xeno)?,
        xen: xen.trim().to_owned(),
        base,
        overlays,
        emulation: emulation(parts, &repository, &node_machine)?,
        deployments,
    })
}

fn overlay(roots: &Path, name: &str) -> LabResult<Overlay> {
    let list = roots.join(format!("{name}.packages"));
    let packages =
        std::fs::read_to_string(&list).map_err(LabError::io(format!("reading {}", list.display())))?;
    Ok(Overlay {
        name: name.to_owned(),
        packages: packages.lines().map(str::to_owned).collect(),
        size: Size::of(&roots.join(name))?,
    })
}

/// What the two machines find in `/srv/data`; the digest of the template.
fn lay_out(parts: &Parts, near: &Path, far: &Path) -> LabResult<String> {
    let overlay = parts.roots.join("apache");
    for data in [near, far] {
        std::fs::create_dir_all(data.join("overlays")).map_err(LabError::io("making a directory"))?;
        copy(&["-a"], &overlay, &data.join("overlays/apache"))?;
    }
    // The root as it is without layers.
    copy(&["-al"], &parts.roots.join("base"), &far.join("whole"))?;
    copy(
        &["-a", "--remove-destination", "-T"],
        &overlay,
        &far.join("whole"),
    )?;
    let init = far.join("whole/sbin/by-hand");
    write(&init, by_hand::INIT)?;
    std::fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(LabError::io("making a program"))?;
    std::fs::copy(&parts.package, near.join("xenoslice.deb"))
        .map_err(LabError::io(format!("copying {}", parts.package.display())))?;
    import_bootable(
        &parts.xeno,
        &parts.roots.join("base"),
        &parts.images,
        &near.join("templates"),
        "base",
        "apache2ctl -D FOREGROUND",
    )
}

fn copy(how: &[&str], from: &Path, to: &Path) -> LabResult<()> {
    let status = Command::new("cp").args(how).arg(from).arg(to).status();
    let status = status.map_err(LabError::io("running cp"))?;
    ensure(status.success(), || format!("cp {}: {status}", from.display()))
}

fn write_fleet(repository: &Repository, digest: &str) -> LabResult<()> {
    repository.write(
        "fleet.yaml",
        &format!(
            "apiVersion: xenoslice/v1\nkind: Fleet\nmetadata: {{ name: evaluation }}\n---\n\
             apiVersion: xenoslice/v1\nkind: Site\nmetadata: {{ name: here }}\n---\n\
             apiVersion: xenoslice/v1\nkind: Node\nmetadata: {{ name: {NAME} }}\nspec:\n  site: here\n  hypervisor: xen\n  \
             capacity: {{ memory: 1400MiB, vcpus: 4 }}\n  reserved: {{ memory: 640MiB }}\n---\n\
             apiVersion: xenoslice/v1\nkind: Template\nmetadata: {{ name: base }}\nspec:\n  channels: {{ current: \"{digest}\" }}\n  \
             sources: [file:///srv/data/templates]\n"
        ),
    )
}

/// The same work outside and in dom0.
fn emulation(parts: &Parts, repository: &Repository, machine: &Machine) -> LabResult<Vec<Emulation>> {
    machine.run(&format!(
        "rm -rf /tmp/fleet && git clone -q {REPOSITORY} /tmp/fleet && head -c 33554432 /dev/zero >/tmp/zeros"
    ))?;
    let zeros = repository.work.join("../zeros");
    std::fs::write(&zeros, vec![0; 32 << 20]).map_err(LabError::io("writing zeros"))?;
    let program = parts.xeno.display();
    let works = [
        (
            "ten times `xeno validate` of the repository",
            format!(
                "for n in 1 2 3 4 5 6 7 8 9 10; do {program} validate {}; done",
                repository.work.display()
            ),
            "for n in 1 2 3 4 5 6 7 8 9 10; do xeno validate /tmp/fleet; done".to_owned(),
        ),
        (
            "`sha256sum` of 32 MiB",
            format!("sha256sum {}", zeros.display()),
            "sha256sum /tmp/zeros".to_owned(),
        ),
        (
            "fifty times `/bin/true`",
            "n=0; while [ $n -lt 50 ]; do /bin/true; n=$((n + 1)); done".to_owned(),
            "n=0; while [ $n -lt 50 ]; do /bin/true; n=$((n + 1)); done".to_owned(),
        ),
    ];
    let mut all = Vec::new();
    for (what, here, there) in works {
        // What a shell says of its children: "user system", as 0m0.210s (times(1p)).
        let timed = |work: &str| format!("sh -c '{work} >/dev/null 2>&1; times' | tail -n 1");
        let outside = Command::new("sh")
            .args(["-c", &timed(&here)])
            .output()
            .map_err(LabError::io("running a shell"))?;
        all.push(Emulation {
            what: what.to_owned(),
            outside_ms: times(&String::from_utf8_lossy(&outside.stdout))?,
            dom0_ms: times(&machine.run(&timed(&there))?)?,
        });
    }
    Ok(all)
}

/// The sum of `0m0.210s 0m0.030s` in milliseconds.
fn times(said: &str) -> LabResult<u64> {
    said.split_whitespace()
        .map(|word| {
            let wrong = || LabError::Check(format!("{said:?} are no times"));
            let (minutes, rest) = word.split_once('m').ok_or_else(wrong)?;
            let (seconds, part) = rest.trim_end_matches('s').split_once('.').ok_or_else(wrong)?;
            let part: String = part.chars().chain("000".chars()).take(3).collect();
            Ok(number(minutes)? * 60_000 + number(seconds)? * 1000 + number(&part)?)
        })
        .sum()
}

fn said_version(xeno: &Path) -> LabResult<String> {
    let output = Command::new(xeno).arg("--version").output();
    let output = output.map_err(LabError::io(format!("running {}", xeno.display())))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_says_of_times_is_read() {
        let check = |said: &str, ms: Option<u64>| assert_eq!(times(said).ok(), ms, "{said:?}");
        check("0m0.210s 0m0.030s\n", Some(240));
        check("1m2.500000s 0m0.0s", Some(62_500));
        check("nothing", None);
    }
}
