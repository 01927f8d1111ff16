//! Layers on another machine, whose kernel serves them by NFS: shown in a guest's page, cut off and brought back. The other
//! machine also reaches a guest by a public address.

use std::time::Instant;

use xeno_tests::demo::report::say;
use xeno_tests::lab::repository::Repository;
use xeno_tests::lab::{LabError, LabResult, ensure};
use xeno_tests::xen_lab::machine::Machine;
use xeno_tests::xen_lab::node::{Daemon, NAME, REPOSITORY, XenNode};

use crate::pushes::{data, fleet};

/// The second machine's kernel serves versions 4 and 3: a directory of pages, and a small file system to write to.
const SERVER: &str = "
set -e
mkdir -p /srv/nfs/acme/page/www /srv/small
echo 'a page from afar' >/srv/nfs/acme/page/www/index.html
echo 'read late' >/srv/nfs/acme/page/www/late.html
mount -t tmpfs -o size=4m,mode=1777 tmpfs /srv/small
cat >/etc/exports <<EXPORTS
/srv/nfs 10.99.0.0/24(ro,no_subtree_check,insecure)
/srv/small 10.99.0.0/24(rw,root_squash,no_subtree_check,insecure,fsid=7)
EXPORTS
rpc.nfsd 0
pkill rpc.mountd
rpc.mountd --no-udp
exportfs -ra
rpc.nfsd --host 10.99.0.2 4
";

/// A slice with one sliver, whose root has `layer` nearest to it.
fn slice(name: &str, port: u16, state: &str, layer: &str, more: &str) -> String {
    format!(
        "apiVersion: xenoslice/v1
kind: Slice
metadata: {{ name: {name} }}
spec:
  image:
    kernel: small/current
    mounts:
      - path: /
        layers:
          - {layer}
          - template: small/current
        writable: local
{more}  resources: {{ vcpus: 1, memory: 96MiB, disk: 64MiB }}
  placement: {{ nodes: [{NAME}] }}
  state: {state}
  publish: [{{ guest: 80, host: {port} }}]
"
    )
}

const FAR: u16 = 8082;
const NEAR: u16 = 8083;

fn far(state: &str, page: &str) -> String {
    let logs = "      - path: /var\n        writable: nfs://10.99.0.2/srv/small/{sliver}\n";
    slice(
        "far",
        FAR,
        state,
        &format!("overlay: nfs://10.99.0.2/srv/nfs/acme/{page}"),
        logs,
    )
}

/// Of those that the site gives out.
const PUBLIC: &str = "203.0.113.7";

fn near(state: &str) -> String {
    slice(
        "near",
        NEAR,
        state,
        "files: { /www/index.html: { text: \"a page from here\\n\" } }",
        "",
    ) + &format!("  addresses: [{PUBLIC}]\n")
}

struct Story<'a> {
    repository: Repository,
    node: XenNode<'a>,
    server: &'a Machine,
    began: Instant,
}

impl Story<'_> {
    fn say(&self, what: &str) {
        say(&format!("[{:4} s] {what}", self.began.elapsed().as_secs()));
    }

    fn push(&self, slices: &[(&str, String)], why: &str) -> LabResult<()> {
        for (name, manifest) in slices {
            self.repository.write(&format!("slices/{name}.yaml"), manifest)?;
        }
        let push = self.repository.push(why)?;
        ensure(push.accepted, || push.output.clone())?;
        self.say(&format!("pushed: {why}"));
        Ok(())
    }

    fn page(&self, port: u16, path: &str, expected: &str) -> LabResult<()> {
        self.node
            .await_page(port, path, |said| (said.trim() == expected).then_some(()))
    }

    /// Waits until `xeno why far/0` says this.
    fn why(&self, expected: &str) -> LabResult<()> {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.node.machine.await_output(
            &format!("why to say {expected:?}"),
            "NO_COLOR=1 xeno why far/0 2>&1",
            |said| words(said).contains(expected).then_some(()),
        )
    }

    fn await_unmounted(&self) -> LabResult<()> {
        // Asking keeps the agent looking.
        let table = "grep -c /run/xenoslice/remote/ /proc/mounts; xeno status >/dev/null";
        let gone = |said: &str| (said.trim() == "0").then_some(());
        let machine = self.node.machine;
        machine.await_output("the mounts to go", table, gone)
    }

    fn mounts(&self) -> LabResult<Vec<String>> {
        let table = self
            .node
            .machine
            .run("grep /run/xenoslice/remote/ /proc/mounts || true")?;
        Ok(table.lines().map(ToOwned::to_owned).collect())
    }
}

/// The story, with a disk that is full and reads that are to fail as well if `all` is to be told.
fn story(all: bool) -> LabResult<()> {
    let began = Instant::now();
    let scratch = tempfile::tempdir().map_err(LabError::io("making a directory"))?;
    let (data, digest) = data(scratch.path())?;
    let (machine, server) = (Machine::start(1, &data)?, Machine::start(2, &data)?);
    server.run(SERVER)?;
    let node = XenNode::install(&machine)?;
    let repository = Repository::work_on(scratch.path(), &machine.git_url(REPOSITORY))?;
    let story = Story {
        repository,
        node,
        server: &server,
        began,
    };
    story.say("a node, and another machine's NFS server");
    story.repository.write("fleet.yaml", &fleet(&digest))?;

    // One that reads and writes afar, and one that does neither.
    story.push(
        &[("far", far("running", "page")), ("near", near("running"))],
        "Two slivers",
    )?;
    story.node.await_converged()?;
    story.page(FAR, "/", "a page from afar")?;
    story.node.commit(FAR, "one")?;
    let layer = server.run("ls /srv/small")?;
    ensure(layer.split_whitespace().eq(["far-0"]), || {
        format!("the server keeps {layer:?}")
    })?;
    let mounts = story.mounts()?;
    let safe = |mount: &String| {
        ["nosuid", "nodev", "noexec", "nfs4", "hard"]
            .iter()
            .all(|word| mount.contains(word))
    };
    ensure(mounts.len() == 2 && mounts.iter().all(safe), || {
        format!("{mounts:?}")
    })?;
    let first = story.node.guest(FAR)?;
    story.say("its page comes from afar, and what it writes goes there");

    // The site's router sends the address to the node, over an interface that has to be told to forward.
    let described = story.node.xeno(&["describe", "near/0"])?;
    ensure(
        described.contains(&format!("{PUBLIC} is routed to the guest")),
        || described.clone(),
    )?;
    story
        .node
        .machine
        .run("sysctl -q net.ipv4.conf.xenbr0.forwarding=1")?;
    story
        .server
        .run(&format!("ip route add {PUBLIC}/32 via 10.99.0.1"))?;
    story.server.await_output(
        "the page by its public address",
        &format!("curl -sS --max-time 10 http://{PUBLIC}/ 2>&1"),
        |said| (said.trim() == "a page from here").then_some(()),
    )?;
    story.say("the other machine reaches a guest by its public address");

    // The line is cut: it is said, the other goes on, and no change takes the guest down.
    let before = story.node.machine.domain("xeno.far-0")?;
    story.server.run("ip link set eth1 down")?;
    story.why("does not answer")?;
    story.node.commit(NEAR, "beside-a-silent-server")?;
    story.push(
        &[("far", far("running", "other"))],
        "Another page, which nobody can reach",
    )?;
    story.why("mount:nfs://10.99.0.2/srv/nfs/acme/other")?;
    ensure(story.node.machine.domain("xeno.far-0")?.id == before.id, || {
        "a push took a guest down whose server is away".to_owned()
    })?;
    story.push(&[("far", far("running", "page"))], "The first page again")?;
    story.server.run("ip link set eth1 up")?;
    story.page(FAR, "/late.html", "read late")?;
    story.node.await_converged()?;
    let after = story.node.guest(FAR)?;
    ensure(after.boot == first.boot, || {
        format!("booted again: {first:?}, {after:?}")
    })?;
    story.say("the line was cut and is back, and the guest went on by itself");

    if all {
        full(&story)?;
    }

    // Nobody uses it any more.
    story.push(
        &[("far", far("stopped", "page")), ("near", near("stopped"))],
        "Stop both",
    )?;
    story.node.await_converged()?;
    story.await_unmounted()?;
    story.say("nothing is mounted any more");

    if all { fails(&story) } else { Ok(()) }
}

/// The server's disk is full: programs in the guest hear of it, nothing that they were told is durable is lost, and once there is
/// room all goes on by itself.
fn full(story: &Story) -> LabResult<()> {
    let (node, server) = (&story.node, story.server);
    let mut promised = vec!["one".to_owned()];
    server.run("dd if=/dev/zero of=/srv/small/filler bs=4k 2>/dev/null; [ $(df -P /srv/small | awk 'END { print $4 }') = 0 ]")?;
    // What is left of the last pages is still good for some.
    let refused = (0..500).find_map(|number| {
        let line = format!("full-{number}");
        match node.tries_to_commit(FAR, &line) {
            Ok(true) => {
                promised.push(line);
                None
            }
            Ok(false) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    });
    refused.ok_or_else(|| LabError::Check("a full server refuses nothing".to_owned()))??;
    story.say(&format!(
        "a full server: {} lines were taken, then one was refused",
        promised.len() - 1
    ));
    // A file server that dies now finds all of it again.
    node.crash(Daemon::Cowfs)?;
    node.commit(NEAR, "beside-a-full-server")?;
    server.run("rm /srv/small/filler")?;
    node.commit(FAR, "room")?;
    promised.push("room".to_owned());

    // What the guest has in memory proves nothing.
    story.push(
        &[("far", far("stopped", "page"))],
        "Stop the one that writes afar",
    )?;
    node.await_converged()?;
    // What has come meanwhile is there after the next start, although the directory is mounted still.
    let mounts = story.mounts()?;
    ensure(mounts.len() == 2, || format!("{mounts:?}"))?;
    server.run(
        "cd /srv/nfs/acme/page/www && mkdir fresh && echo 'a fresh page' >fresh/page.html && echo 'read anew' >late.html",
    )?;
    story.push(&[("far", far("running", "page"))], "And start it")?;
    node.await_converged()?;
    story.page(FAR, "/fresh/page.html", "a fresh page")?;
    story.page(FAR, "/late.html", "read anew")?;
    let kept = node.ledger(FAR)?;
    let lost: Vec<_> = promised.iter().filter(|line| !kept.contains(line)).collect();
    ensure(lost.is_empty(), || {
        format!("promised and lost: {lost:?}; there are {kept:?}")
    })?;
    story.say("with room again it went on by itself, and nothing that was promised is missing");
    Ok(())
}

/// A node whose reads are to fail: they do, in about the time that was asked for, although writing waits.
fn fails(story: &Story) -> LabResult<()> {
    let node = &story.node;
    node.machine.run(
        "printf '\\n[remotes]\\naway = \"fail\"\\nfail_after = \"6s\"\\n' >>/etc/xenoslice/agent.toml",
    )?;
    node.crash(Daemon::Agent)?;
    story.push(
        &[("far", far("running", "page"))],
        "The one that reads afar again",
    )?;
    node.await_converged()?;
    story.page(FAR, "/", "a page from afar")?;
    story.server.run("ip link set eth1 down")?;
    // Asked once: whoever asks again meanwhile is behind the one before, since the guest reads a page for one at a time.
    let began = Instant::now();
    let ask = format!("curl -sS --max-time 300 http://127.0.0.1:{FAR}/late.html 2>&1 || true");
    let said = node.machine.run(&ask)?;
    // busybox's httpd tells of a file that it cannot open as of one that is not there, and hangs up on one that it cannot read.
    ensure(said.contains("404") || said.contains("transfer closed"), || {
        format!("a read that cannot be answered came to {said:?}")
    })?;
    story.say(&format!(
        "a read fails after {} s: {}",
        began.elapsed().as_secs(),
        said.lines().last().unwrap_or_default()
    ));
    story.server.run("ip link set eth1 up")?;
    story.page(FAR, "/late.html", "read anew")?;
    story.say("and succeeds once the server is back");
    Ok(())
}

#[test]
fn layers_from_another_machine_are_shown_cut_off_and_brought_back() {
    story(false).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn full_and_failing_servers_are_told_of_too() {
    story(true).unwrap_or_else(|error| panic!("{error}"));
}
