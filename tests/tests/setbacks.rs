//! One node through what goes wrong with its disks: full and read-only ones below templates and below images, and a
//! writable layer that somebody puts back to an earlier day while the guest's memory is stored. Nothing is lost, nothing
//! is half done, every wait says why, and the node goes on by itself once the disk is right again. And two nodes, of which one
//! has no room for the layer of a guest that is to move to it.
//!
//! Needs root: the disks are small file systems in memory.
#![cfg(feature = "guest")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use xeno_tests::demo::manifests::{self, PORT, Step};
use xeno_tests::demo::{report::Report, run, stop};
use xeno_tests::lab::{
    LabError, LabResult, ensure, http, node::Node, repository::Repository, scratch::Scratch, wait_for,
    witness,
};

const DEADLINE: Duration = Duration::from_secs(300);
const FETCH: Duration = Duration::from_secs(5);
/// The port of this test's guest, apart from the demonstration's.
const OURS: u16 = PORT + 60;

/// Starts a process that keeps two files open, or says how it fares.
const HOLD: &str = r#"#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
case $QUERY_STRING in
  start) setsid /usr/lib/cgi-bin/holder >/dev/null 2>&1 </dev/null & echo started ;;
  *)
    last=$(tail -n 1 /var/tmp/held)
    pid=${last##* }
    echo "holder $pid"
    echo "ticks $(wc -l </var/tmp/held)"
    echo "last $last"
    echo "nameless $(head -n 1 "/proc/$pid/fd/4")"
    echo "grown $(wc -l <"/proc/$pid/fd/4")"
    ;;
esac
"#;

/// Writes to a file by the descriptor that it opened once, and to one that has no name any more.
const HOLDER: &str = r#"#!/bin/sh
exec 3>/var/tmp/held 4>/var/tmp/nameless
rm /var/tmp/nameless
n=0
while :; do
  n=$((n + 1))
  echo "tick $n $$" >&3
  echo "kept without a name $n" >&4
  sleep 1
done
"#;

/// Writes so much that a small disk does not hold it, and says what it is.
const FILL: &str = r#"#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
[ "$QUERY_STRING" != start ] || { head -c 25165824 /dev/urandom >/var/tmp/big; sync; }
set -- $(sha256sum /var/tmp/big)
echo "sum $1"
"#;

/// A file system in memory, which can be made small, read-only and well again.
struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> LabResult<Self> {
        std::fs::create_dir_all(&at).map_err(LabError::io(format!("making {}", at.display())))?;
        let disk = Self { at };
        disk.command(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "small"],
        )?;
        Ok(disk)
    }

    fn turn(&self, options: &str) -> LabResult<()> {
        self.command("mount", &["-o", &format!("remount,{options}")])
    }

    fn command(&self, program: &str, arguments: &[&str]) -> LabResult<()> {
        let done = Command::new(program)
            .args(arguments)
            .arg(&self.at)
            .output()
            .map_err(LabError::io(format!("running {program}")))?;
        ensure(done.status.success(), || {
            format!(
                "{program} {} (this test needs root): {}",
                arguments.join(" "),
                String::from_utf8_lossy(&done.stderr)
            )
        })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a guest that a failed check left behind may still hold a file.
        let _unmounted = self.command("umount", &["--lazy"]);
    }
}

fn ask(path: &str, word: &str) -> LabResult<String> {
    ask_at(OURS, FETCH, path, word)
}

/// What the page of a guest says after `word`, once it does; one answer may take `patience`.
fn ask_at(port: u16, patience: Duration, path: &str, word: &str) -> LabResult<String> {
    wait_for(&format!("{path} to say its {word}"), DEADLINE, || {
        let page = http::get(port, path, patience)?;
        let value = page.body.lines().find_map(|line| line.strip_prefix(word));
        value
            .map(|value| value.trim().to_owned())
            .filter(|value| word == "started" || word == "committed" || !value.is_empty())
            .ok_or_else(|| format!("it answers {}: {}", page.status, page.body))
    })
}

fn number(path: &str, word: &str) -> LabResult<u64> {
    let said = ask(path, word)?;
    said.parse()
        .map_err(|_| LabError::Check(format!("{path} says {word} {said:?}")))
}

fn boot_id() -> LabResult<String> {
    ask("/cgi-bin/guest", "boot_id ")
}

/// Waits until `xeno why` names each of these words.
fn says_why(node: &Node, words: &[&str]) -> LabResult<String> {
    wait_for(&format!("`xeno why web/0` to say {words:?}"), DEADLINE, || {
        let why = node.xeno(&["why", "web/0"]).map_err(|error| error.to_string())?;
        // As it was before its lines were broken.
        let why = String::from_utf8_lossy(&why.stdout);
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
        if words.iter().all(|word| why.contains(word)) {
            Ok(why)
        } else {
            Err(why)
        }
    })
}

struct Story {
    repository: Repository,
    node: Node,
}

impl Story {
    fn push(&self, state: &str, why: &str) -> LabResult<()> {
        let step = Step {
            nonce: "setbacks",
            nodes: &["cam-01"],
            state,
            memory: "192MiB",
        };
        manifests::write_slice(&self.repository, &step)?;
        let text = manifests::slice(&step).replace(&format!("host: {PORT}"), &format!("host: {OURS}"));
        self.repository.write("slices/web.yaml", &text)?;
        let push = self.repository.push(why)?;
        ensure(push.accepted, || push.output.clone())
    }

    /// Waits for a stored image and nothing left to do.
    fn asleep(&self) -> LabResult<()> {
        self.node.await_converged(DEADLINE)?;
        let seen = self.node.json(&["get", "images", "-o", "json"])?;
        ensure(
            seen["images"].as_array().is_some_and(|images| images.len() == 1),
            || format!("there is not one image: {seen}"),
        )
    }
}

#[test]
fn disks_that_are_full_or_read_only_or_from_another_day_cost_nothing() -> LabResult<()> {
    Scratch::on_disk().tell(|scratch| story(&scratch.options()))
}

fn story(options: &run::Options) -> LabResult<()> {
    let dir = &options.dir;
    let parts = run::import(&mut Report::default(), options, dir)?;
    let repository = Repository::create(dir, &parts.xeno)?;
    manifests::write_fleet(&repository, &parts)?;
    repository.write_executable("overlays/cgi/hold", HOLD)?;
    repository.write_executable("overlays/cgi/holder", HOLDER)?;
    let home = dir.join("cam-01");
    let templates = SmallDisk::mount(home.join("templates"), "24m")?;
    let images = SmallDisk::mount(home.join("state/images"), "8m")?;
    let node = Node::start(dir, "cam-01", &repository.bare, &parts)?;
    stop::record(dir, std::slice::from_ref(&node))?;
    let story = Story { repository, node };
    let node = &story.node;

    // The template does not fit, then cannot be written at all; with room it arrives by itself.
    story.push("running", "Run it")?;
    says_why(node, &["fetch", "No space left on device"])?;
    templates.turn("ro")?;
    says_why(node, &["fetch", "Read-only file system"])?;
    templates.turn("rw,size=2g")?;
    let id = boot_id()?;
    node.await_converged(DEADLINE)?;

    // Files stay open over the file server: one that has a name, and one that has none any more.
    ask("/cgi-bin/hold?start", "started")?;
    let holder = ask("/cgi-bin/hold", "holder ")?;
    ask("/cgi-bin/ledger?first", "committed")?;

    // The memory cannot be stored: the guest goes on, whatever is tried.
    story.push("suspended", "Sleep")?;
    says_why(node, &["suspend", "goes on running", "8 MiB free"])?;
    assert_eq!(boot_id()?, id, "a failed suspend cost the guest");
    images.turn("ro,size=2g")?;
    says_why(node, &["suspend", "Read-only file system"])?;
    assert_eq!(boot_id()?, id, "a failed suspend cost the guest");
    let ticks = number("/cgi-bin/hold", "ticks ")?;
    images.turn("rw")?;
    story.asleep()?;
    let first_day = backup(&home, "first")?;

    story.push("running", "Wake up")?;
    assert_eq!(boot_id()?, id, "it was booted anew");
    assert_eq!(
        ask("/cgi-bin/hold", "holder ")?,
        holder,
        "the holder is another process"
    );
    wait_for("both files to grow", DEADLINE, || {
        let seen = http::get(OURS, "/cgi-bin/hold", FETCH)?.body;
        let value = |word: &str| -> Option<u64> {
            seen.lines()
                .find_map(|line| line.strip_prefix(word))?
                .trim()
                .parse()
                .ok()
        };
        let grown = value("ticks ") > Some(ticks) && value("grown ") > Some(ticks);
        let kept = seen.contains("nameless kept without a name 1\n");
        if grown && kept { Ok(()) } else { Err(seen) }
    })?;
    ask("/cgi-bin/ledger?second", "committed")?;
    node.await_converged(DEADLINE)?;

    // Somebody puts the disk of the first day back below the memory of the second.
    story.push("suspended", "Sleep again")?;
    story.asleep()?;
    let layer = home.join("state/writable");
    let second_day = backup(&home, "second")?;
    restore(&first_day, &layer)?;
    story.push("running", "Wake up on the wrong day")?;
    says_why(
        node,
        &[
            "cannot be resumed",
            "writable layers have changed",
            "give the image up",
        ],
    )?;
    let plan = node.xeno(&["plan", "--refresh", "--detailed-exitcode"])?;
    assert_eq!(plan.status.code(), Some(2), "a sliver that waits is not done");
    let held = node.json(&["get", "images", "-o", "json"])?;
    assert_eq!(
        held["images"].as_array().map(Vec::len),
        Some(1),
        "the memory was thrown away: {held}"
    );
    assert!(http::get(OURS, "/", FETCH).is_err(), "it runs over another disk");

    // The right disk again: the same guest goes on, with all it wrote.
    restore(&second_day, &layer)?;
    assert_eq!(boot_id()?, id, "it was booted anew");
    assert_eq!(
        ask("/cgi-bin/hold", "holder ")?,
        holder,
        "the holder is another process"
    );
    let ledger = http::get(OURS, "/cgi-bin/ledger", FETCH).map_err(LabError::Check)?;
    assert_eq!(ledger.body.trim_end(), "first\nsecond");
    node.await_converged(DEADLINE)?;

    // And where the right disk is gone for good, asking for `stopped` gives the memory up: it boots over what there is.
    story.push("suspended", "Sleep once more")?;
    story.asleep()?;
    restore(&first_day, &layer)?;
    story.push("stopped", "Give the memory up")?;
    node.await_converged(DEADLINE)?;
    story.push("running", "Begin anew")?;
    assert_ne!(boot_id()?, id, "memory that was given up came back");
    let ledger = http::get(OURS, "/cgi-bin/ledger", FETCH).map_err(LabError::Check)?;
    assert_eq!(ledger.body.trim_end(), "first");
    node.await_converged(DEADLINE)?;

    story.push("stopped", "Enough")?;
    node.await_converged(DEADLINE)?;
    let Story { mut node, .. } = story;
    node.stop()
}

#[test]
fn a_guest_that_does_not_fit_where_it_is_to_go_stays_until_it_does() -> LabResult<()> {
    Scratch::on_disk().tell(|scratch| to_a_full_disk(&scratch.options()))
}

fn to_a_full_disk(options: &run::Options) -> LabResult<()> {
    /// Apart from the other guest.
    const PORT_HERE: u16 = PORT + 70;
    let dir = &options.dir;
    let parts = run::import(&mut Report::default(), options, dir)?;
    let repository = Repository::create(dir, &parts.xeno)?;
    manifests::write_fleet(&repository, &parts)?;
    repository.write_executable("overlays/cgi/fill", FILL)?;
    let disk = SmallDisk::mount(dir.join("nyc-02/state/writable"), "16m")?;
    let mut nodes = Vec::new();
    for name in ["cam-01", "nyc-02"] {
        nodes.push(Node::start_in_fleet(dir, name, &repository.bare, &parts)?);
        stop::record(dir, &nodes)?;
    }
    let push = |place: &str, why: &str| -> LabResult<()> {
        let step = Step {
            nonce: "a-large-guest",
            nodes: &[place],
            state: "running",
            memory: "192MiB",
        };
        manifests::write_page(&repository, &step)?;
        let text = manifests::slice(&step).replace(&format!("host: {PORT}"), &format!("host: {PORT_HERE}"));
        repository.write("slices/web.yaml", &text)?;
        let push = repository.push(why)?;
        ensure(push.accepted, || push.output.clone())
    };
    push("cam-01", "One guest")?;
    nodes[0].await_converged(DEADLINE)?;
    let boot = witness::says(PORT_HERE, "boot_id", DEADLINE)?;
    let sum = ask_at(PORT_HERE, DEADLINE, "/cgi-bin/fill?start", "sum ")?;

    push("nyc-02", "Elsewhere, where there is no room")?;
    says_why(&nodes[0], &["nyc-02", "no space left on device"])?;
    // It goes on where it is, and can write there.
    witness::write(PORT_HERE, "stayed", DEADLINE)?;
    assert_eq!(
        witness::says(PORT_HERE, "boot_id", DEADLINE)?,
        boot,
        "the guest was rebooted"
    );

    disk.turn("size=1g")?;
    nodes[1].await_event("web/0 has arrived", 1, DEADLINE)?;
    for node in &nodes {
        node.await_converged(DEADLINE)?;
    }
    assert_eq!(
        witness::says(PORT_HERE, "boot_id", DEADLINE)?,
        boot,
        "the guest was rebooted"
    );
    assert_eq!(ask_at(PORT_HERE, DEADLINE, "/cgi-bin/fill", "sum ")?, sum);
    assert_eq!(witness::ledger(PORT_HERE, DEADLINE)?, ["stayed"]);
    for node in &mut nodes {
        node.stop()?;
    }
    Ok(())
}

/// A copy of all writable layers of a node, as they are now; times stay what they are.
fn backup(home: &Path, day: &str) -> LabResult<PathBuf> {
    let copy = home.join("backups").join(day);
    replace(&home.join("state/writable"), &copy)?;
    Ok(copy)
}

fn restore(copy: &Path, layer: &Path) -> LabResult<()> {
    replace(copy, layer)
}

fn replace(from: &Path, to: &Path) -> LabResult<()> {
    if to.exists() {
        std::fs::remove_dir_all(to).map_err(LabError::io(format!("emptying {}", to.display())))?;
    }
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(LabError::io(format!("making {}", parent.display())))?;
    }
    let copied = Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status()
        .map_err(LabError::io("running cp"))?;
    ensure(copied.success(), || format!("cp -a {} failed", from.display()))
}
