//! One node on real Xen, told what to do by pushes alone. What came of each is asserted from inside the guests, by `xl list`,
//! and by a plan with nothing left in it. Then its package is upgraded below a guest that works, purged, and installed again.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use xeno_tests::demo::report::say;
use xeno_tests::lab::repository::Repository;
use xeno_tests::lab::{LabError, LabResult, built, ensure};
use xeno_tests::xen_lab::by_hand::Stranger;
use xeno_tests::xen_lab::machine::Machine;
use xeno_tests::xen_lab::node::{Daemon, Guest, NAME, REPOSITORY, XenNode};
use xeno_tests::xen_lab::small_template;

/// What the version of the package that comes next has more.
const NEXT: &str = "+next";

/// A slice with one sliver.
struct Slice {
    name: &'static str,
    port: u16,
    state: &'static str,
    vcpus: u32,
    weight: u32,
    cap: Option<u32>,
    page: String,
}

impl Slice {
    fn new(name: &'static str, port: u16) -> Self {
        Self {
            name,
            port,
            state: "running",
            vcpus: 1,
            weight: 256,
            cap: None,
            page: format!("the first page of {name}"),
        }
    }

    fn domain(&self) -> String {
        format!("xeno.{}-0", self.name)
    }

    fn manifest(&self) -> String {
        let cap = self.cap.map(|cap| format!(", cap: {cap}")).unwrap_or_default();
        format!(
            "apiVersion: xenoslice/v1
kind: Slice
metadata: {{ name: {} }}
spec:
  image:
    kernel: small/current
    mounts:
      - path: /
        layers:
          - files: {{ /www/index.html: {{ text: \"{}\\n\" }} }}
          - template: small/current
        writable: local
  resources: {{ vcpus: {}, vcpusMax: 2, memory: 96MiB, disk: 64MiB, cpu: {{ weight: {}{cap} }} }}
  placement: {{ nodes: [{NAME}] }}
  state: {}
  publish: [{{ guest: 80, host: {} }}]
  health: {{ http: {{ port: 80, path: /, expect: 200 }}, interval: 2s, threshold: 1, grace: 280s }}
",
            self.name, self.page, self.vcpus, self.weight, self.state, self.port
        )
    }
}

struct Story<'a> {
    repository: Repository,
    node: XenNode<'a>,
    stranger: Stranger,
    began: Instant,
}

impl Story<'_> {
    fn say(&self, what: &str) {
        say(&format!("[{:4} s] {what}", self.began.elapsed().as_secs()));
    }

    /// Writes the slices and pushes them.
    fn push(&self, slices: &[&Slice], why: &str) -> LabResult<()> {
        for slice in slices {
            self.repository
                .write(&format!("slices/{}.yaml", slice.name), &slice.manifest())?;
        }
        let push = self.repository.push(why)?;
        ensure(push.accepted, || push.output.clone())?;
        self.say(&format!("pushed: {why}"));
        Ok(())
    }

    /// Nothing is left to do, and the domains are the stranger and those of these slices.
    fn settled(&mut self, running: &[&Slice]) -> LabResult<()> {
        self.node.await_converged()?;
        self.only_these(running)
    }

    fn only_these(&mut self, running: &[&Slice]) -> LabResult<()> {
        self.stranger.ensure_undisturbed(self.node.machine)?;
        let found: Vec<String> = self
            .node
            .machine
            .domains()?
            .into_iter()
            .map(|domain| domain.name)
            .collect();
        let mut expected: Vec<String> = running.iter().map(|slice| slice.domain()).collect();
        expected.push("stranger".to_owned());
        expected.sort();
        ensure(found == expected, || {
            format!("the domains are {found:?} and should be {expected:?}")
        })
    }

    /// The guest of a slice, which serves the slice's page from a root of the node's own file server.
    fn guest(&self, slice: &Slice) -> LabResult<Guest> {
        self.node
            .await_page(slice.port, "/", |said| (said.trim() == slice.page).then_some(()))?;
        let guest = self.node.guest(slice.port)?;
        let host = format!("{}-0", slice.name);
        ensure(
            guest.hostname == host && guest.root.starts_with("[fe80::1%"),
            || format!("{host} says of itself {guest:?}"),
        )?;
        Ok(guest)
    }

    /// The guest goes on from where it was: the same boot, and it counts.
    fn goes_on(&self, slice: &Slice, before: &Guest) -> LabResult<()> {
        let after = self.guest(slice)?;
        ensure(after.boot == before.boot, || {
            format!("{} was booted again: {before:?}, {after:?}", slice.name)
        })?;
        self.node.await_page(slice.port, "/cgi-bin/guest", |said| {
            let count = said.lines().find_map(|line| line.strip_prefix("count "))?;
            (count.trim().parse::<u64>().ok()? > after.count).then_some(())
        })
    }
}

/// The manifests of a fleet of this one node, with the small template.
pub(crate) fn fleet(digest: &impl std::fmt::Display) -> String {
    format!(
        "apiVersion: xenoslice/v1\nkind: Fleet\nmetadata: {{ name: xen }}\n---\n\
         apiVersion: xenoslice/v1\nkind: Site\nmetadata: {{ name: here }}\nspec: {{ policy: {{ addresses: [203.0.113.0/28] }} }}\n---\n\
         apiVersion: xenoslice/v1\nkind: Node\nmetadata: {{ name: {NAME} }}\nspec:\n  site: here\n  hypervisor: xen\n  \
         capacity: {{ memory: 1400MiB, vcpus: 4 }}\n  reserved: {{ memory: 640MiB }}\n---\n\
         apiVersion: xenoslice/v1\nkind: Template\nmetadata: {{ name: small }}\nspec:\n  channels: {{ current: \"{digest}\" }}\n  \
         sources: [file:///srv/data/templates]\n"
    )
}

/// Everything that a machine gets: the package, and a store of templates to fetch from.
pub(crate) fn data(dir: &std::path::Path) -> LabResult<(PathBuf, String)> {
    let data = dir.join("data");
    std::fs::create_dir_all(&data).map_err(LabError::io("making a directory"))?;
    let wanted = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .ok_or_else(|| LabError::Check(format!("{name} is not set: run make test-xen")))
    };
    let (xeno, package) = (wanted("XENO_PROGRAM")?, wanted("XENO_DEB")?);
    std::fs::copy(&package, data.join("xenoslice.deb"))
        .map_err(LabError::io(format!("copying {}", package.display())))?;
    next_version(&package, dir, &data.join("xenoslice-next.deb"))?;
    let digest = small_template::import(&xeno, &built::images(), dir, &data.join("templates"))?;
    Ok((data, digest))
}

/// Makes the same package with a later version.
fn next_version(package: &std::path::Path, dir: &std::path::Path, to: &std::path::Path) -> LabResult<()> {
    let made = Command::new("sh")
        .arg("-ec")
        .arg(format!(
            "dpkg-deb -R \"$1\" \"$2\" && sed -i 's/^Version: .*/&{NEXT}/' \"$2/DEBIAN/control\" && \
             dpkg-deb --root-owner-group --build -Znone \"$2\" \"$3\" >/dev/null && rm -r \"$2\""
        ))
        .arg("sh")
        .args([package, &dir.join("next"), to])
        .output()
        .map_err(LabError::io("running dpkg-deb"))?;
    ensure(made.status.success(), || {
        String::from_utf8_lossy(&made.stderr).into_owned()
    })
}

fn story() -> LabResult<()> {
    let began = Instant::now();
    let scratch = tempfile::tempdir().map_err(LabError::io("making a directory"))?;
    let (data, digest) = data(scratch.path())?;
    let machine = Machine::start(1, &data)?;
    let stranger = Stranger::create(&machine)?;
    let node = XenNode::install(&machine)?;
    let repository = Repository::work_on(scratch.path(), &machine.git_url(REPOSITORY))?;
    let mut story = Story {
        repository,
        node,
        stranger,
        began,
    };
    story.say("a dom0 with a stranger in it, and the node");
    story.repository.write("fleet.yaml", &fleet(&digest))?;

    // Two slivers, with roots from the node's own file server.
    let (mut red, mut blue) = (Slice::new("red", 8080), Slice::new("blue", 8081));
    story.push(&[&red, &blue], "Two slivers")?;
    story.settled(&[&red, &blue])?;
    let (first_red, first_blue) = (story.guest(&red)?, story.guest(&blue)?);
    story.node.commit(red.port, "one")?;
    story.say("both serve their pages");

    // A limit changes in place.
    red.weight = 512;
    red.cap = Some(60);
    let before = machine.domain(&red.domain())?;
    story.push(&[&red], "More weight and a cap for red")?;
    story.settled(&[&red, &blue])?;
    let limits = machine.run(&format!("xl sched-credit2 -d {}", red.domain()))?;
    let limits: Vec<&str> = limits
        .lines()
        .last()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    ensure(limits.ends_with(&["512", "60"]), || {
        format!("sched-credit2 says {limits:?}")
    })?;
    ensure(machine.domain(&red.domain())?.id == before.id, || {
        "red has another domain".to_owned()
    })?;
    story.goes_on(&red, &first_red)?;
    story.say("its limits changed in place");
    for vcpus in [2, 1] {
        red.vcpus = vcpus;
        story.push(&[&red], &format!("{vcpus} vcpus for red"))?;
        story.settled(&[&red, &blue])?;
        story.node.await_page(red.port, "/cgi-bin/guest", |said| {
            said.contains(&format!("\ncpus {vcpus}\n")).then_some(())
        })?;
    }
    ensure(machine.domain(&red.domain())?.id == before.id, || {
        "red has another domain".to_owned()
    })?;
    story.goes_on(&red, &first_red)?;
    story.say("it took a second processor into use, and gave it up again");

    // One is suspended and resumed.
    blue.state = "suspended";
    story.push(&[&blue], "Suspend blue")?;
    story.settled(&[&red])?;
    blue.state = "running";
    story.push(&[&blue], "Resume blue")?;
    story.settled(&[&red, &blue])?;
    story.goes_on(&blue, &first_blue)?;
    story.say("blue went on from its image");

    // A stored image outlives its domain and the agent that made it.
    red.state = "suspended";
    story.push(&[&red], "Suspend red")?;
    story.settled(&[&blue])?;
    story.node.kill(Daemon::Agent)?;
    red.state = "running";
    story.push(&[&red], "Resume red, though nobody reads it yet")?;
    story.only_these(&[&blue])?;
    story.node.start(Daemon::Agent)?;
    story.settled(&[&red, &blue])?;
    story.goes_on(&red, &first_red)?;
    story.node.ensure_kept(red.port, &["one"])?;
    story.say("red went on from its image by another agent");

    // Both daemons crash while the guests work.
    story.node.crash(Daemon::Agent)?;
    story.node.crash(Daemon::Cowfs)?;
    story.node.commit(red.port, "two")?;
    story.settled(&[&red, &blue])?;
    story.goes_on(&red, &first_red)?;
    story.goes_on(&blue, &first_blue)?;
    story.say("agent and file server were killed, and the guests went on");

    // The machine loses power, and comes back without its repository.
    red.page = "the page before the night".to_owned();
    story.push(&[&red], "Another page, which reboots red")?;
    story.settled(&[&red, &blue])?;
    story.guest(&red)?;
    story.node.ensure_kept(red.port, &["one", "two"])?;
    story.node.hide_repository(true)?;
    machine.power_off()?;
    machine.boot_again()?;
    story.say("the machine is back after a power failure, and its repository is away");
    story.node.await_daemon(Daemon::Agent)?;
    let (second_red, second_blue) = (story.guest(&red)?, story.guest(&blue)?);
    story.node.await_converged_offline()?;
    // Only now: libxl gives a link 40 s, and three at once take an emulated CPU longer than that.
    story.stranger = Stranger::create(&machine)?;
    story.only_these(&[&red, &blue])?;
    ensure(
        second_red.boot != first_red.boot && second_blue.boot != first_blue.boot,
        || "a guest cannot have outlived the power".to_owned(),
    )?;
    story.node.ensure_kept(red.port, &["one", "two"])?;
    story.node.hide_repository(false)?;
    story.settled(&[&red, &blue])?;
    story.say("both came back from the last good state");

    // A package with another version takes the place of this one, below guests that go on.
    let before = version(&machine)?;
    story.node.upgrade()?;
    let after = version(&machine)?;
    ensure(before != after && after.ends_with(NEXT), || {
        format!("{after:?} came after {before:?}")
    })?;
    story.settled(&[&red, &blue])?;
    story.goes_on(&red, &second_red)?;
    story.goes_on(&blue, &second_blue)?;
    story.node.commit(red.port, "three")?;
    story.say("the package was upgraded, and the guests went on");

    // Nobody is left but the stranger.
    red.state = "stopped";
    blue.state = "stopped";
    story.push(&[&red, &blue], "Stop both")?;
    story.settled(&[])?;
    story.say("the stranger is alone");

    // What guests wrote outlives the package.
    story.node.purge()?;
    story.only_these(&[])?;
    story.node.install_again()?;
    red.state = "running";
    story.push(&[&red], "Red again")?;
    story.settled(&[&red])?;
    story.node.ensure_kept(red.port, &["one", "two", "three"])?;
    story.say("the package was purged and installed again, and what red wrote is there");
    Ok(())
}

/// The version of the package that is installed.
fn version(machine: &Machine) -> LabResult<String> {
    let said = machine.run("dpkg-query -W -f '${Version}' xenoslice")?;
    Ok(said.trim().to_owned())
}

#[test]
fn a_node_follows_pushes_through_crashes_and_a_power_failure() {
    story().unwrap_or_else(|error| panic!("{error}"));
}
