//! Every kind of action once on a real guest, with `kill -9` of the agent just after the effect, before anybody has
//! written it down: another agent looks, and finishes. In the end nothing is left to do, each sliver has one QEMU at
//! most, and nothing that was written is lost.
#![cfg(feature = "guest")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use xeno_reconciler::action::ActionKind;
use xeno_tests::demo::manifests::{self, PORT, Step};
use xeno_tests::demo::{report::Report, run, stop};
use xeno_tests::lab::{
    LabError, LabResult, ensure, http, node::Node, repository::Repository, scratch::Scratch, wait_for,
};

const DEADLINE: Duration = Duration::from_secs(240);
const FETCH: Duration = Duration::from_secs(5);
const KILLED: i32 = 9;
/// The port of this test's guest, apart from the demonstration's.
const OURS: u16 = PORT + 40;

/// What only a replacement does.
const REPLACING: [ActionKind; 2] = [ActionKind::Unpublish, ActionKind::Publish];

/// What Debian's Apache is told when it starts, but for where it writes.
const ENVIRONMENT: &str = "unset HOME
export APACHE_RUN_USER=www-data APACHE_RUN_GROUP=www-data APACHE_RUN_DIR=/run/apache2
export APACHE_PID_FILE=/run/apache2/apache2.pid APACHE_LOCK_DIR=/run/lock/apache2 APACHE_LOG_DIR=/run/apache2
export LANG=C
";

/// The slice as one commit has it.
#[derive(Clone)]
struct Slice {
    name: &'static str,
    state: &'static str,
    memory: &'static str,
    disk: &'static str,
    port: u16,
    moved_from: Option<&'static str>,
    /// Whether nothing that it writes is kept.
    forgets: bool,
    /// Whether what it writes goes back with its page.
    goes_back: bool,
}

impl Slice {
    fn text(&self) -> String {
        let step = Step {
            nonce: "crash",
            nodes: &["cam-01"],
            state: self.state,
            memory: self.memory,
        };
        let name = match self.moved_from {
            Some(from) => format!("name: {}, movedFrom: {from}", self.name),
            None => format!("name: {}", self.name),
        };
        let slice = manifests::slice(&step);
        let slice = if self.forgets {
            // Its Apache writes to memory only.
            slice.replace("writable: local", "writable: none").replace(
                "              /etc/apache2/mods-enabled/cgi.load:\n",
                "              /etc/apache2/envvars: { from: overlays/envvars }\n              \
                 /etc/apache2/mods-enabled/cgi.load:\n",
            )
        } else {
            slice
        };
        let slice = if self.goes_back {
            slice.replace("\nspec:\n", "\nspec:\n  rollback: { data: restore }\n")
        } else {
            slice
        };
        slice
            .replace("name: web", &name)
            .replace("disk: 1GiB", &format!("memoryMax: 192MiB, disk: {}", self.disk))
            .replace(&format!("host: {PORT}"), &format!("host: {}", self.port))
    }
}

struct Story {
    node: Node,
    repository: Repository,
    xeno: PathBuf,
    blown: BTreeSet<&'static str>,
    /// Guests of the sliver that there may be at once.
    guests_max: usize,
}

impl Story {
    /// Pushes the slice, or none, while no agent runs.
    fn push(&mut self, slice: Option<&Slice>, why: &str) -> LabResult<()> {
        for name in ["web", "shop"] {
            let path = format!("slices/{name}.yaml");
            match slice.filter(|slice| slice.name == name) {
                Some(slice) => self.repository.write(&path, &slice.text())?,
                None if self.repository.work.join(&path).exists() => self.repository.remove(&path)?,
                None => {}
            }
        }
        let push = self.repository.push(why)?;
        ensure(push.accepted, || push.output.clone())
    }

    /// Ends one agent after the other, each just after the effect of an action of this kind.
    fn blow(&mut self, kinds: &[ActionKind]) -> LabResult<()> {
        for kind in kinds {
            let at = format!("{}:after-effect", kind.verb());
            let program = self.xeno.to_string_lossy().into_owned();
            let variables = [("XENO_CRASH_AT", at.as_str()), ("XENO_PROGRAM", program.as_str())];
            let agent = Path::new(env!("CARGO_BIN_EXE_xeno-crash-agent"));
            self.node.start_as_agent(agent, &variables)?;
            let ended = match self.node.agent.await_end(DEADLINE) {
                Ok(ended) => ended,
                Err(error) => {
                    let plan = self.node.xeno(&["plan", "--refresh"])?;
                    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
                    self.node.kill_agent()?;
                    return Err(LabError::Check(format!(
                        "{at}: {error}\n{plan}{}",
                        self.log_tail()
                    )));
                }
            };
            ensure(ended == Some(KILLED), || {
                format!("{at}: the agent ended otherwise: {ended:?}\n{}", self.log_tail())
            })?;
            let guests = self.guests()?;
            ensure(guests.len() <= self.guests_max, || {
                format!("{at}: the sliver has several guests: {guests:?}")
            })?;
            self.blown.insert(kind.verb());
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.node.agent.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Lets an agent finish what is left, ends it, and looks at what there is. Returns the processes of guests.
    fn finish(&mut self) -> LabResult<Vec<u32>> {
        self.node.restart_agent()?;
        let converged = self.node.await_converged(DEADLINE);
        self.node.kill_agent()?;
        converged?;
        self.guests()
    }

    /// QEMUs of this node.
    fn guests(&self) -> LabResult<Vec<u32>> {
        let below = format!("{}/", self.node.dir.join("state/qemu").display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").map_err(LabError::io("listing processes"))? {
            let name = entry.map_err(LabError::io("listing processes"))?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            // Its helpers name sockets elsewhere.
            if line.contains("qemu-system") && line.contains(&format!("-pidfile {below}")) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    fn guest(&mut self) -> LabResult<u32> {
        let guests = self.finish()?;
        ensure(guests.len() == 1, || {
            format!("there is not one guest but {guests:?}")
        })?;
        Ok(guests[0])
    }

    fn nobody(&mut self) -> LabResult<()> {
        let guests = self.finish()?;
        ensure(guests.is_empty(), || format!("guests are left: {guests:?}"))
    }
}

fn ask(port: u16, path: &str, word: &str) -> LabResult<String> {
    wait_for(&format!("{path} at port {port}"), DEADLINE, || {
        let page = http::get(port, path, FETCH)?;
        let line = page.body.lines().find(|line| line.starts_with(word));
        line.map(str::to_owned)
            .ok_or_else(|| format!("it answers {}: {}", page.status, page.body))
    })
}

fn boot_id(port: u16) -> LabResult<String> {
    ask(port, "/cgi-bin/guest", "boot_id")
}

/// The guest has the line that it committed, once.
fn ledger(port: u16) -> LabResult<()> {
    ask(port, "/cgi-bin/ledger", "kept")?;
    let page = http::get(port, "/cgi-bin/ledger", FETCH).map_err(LabError::Check)?;
    ensure(page.body.trim_end() == "kept", || {
        format!("what was written is not what is there: {}", page.body)
    })
}

#[test]
fn no_action_minds_a_kill_of_its_agent() -> LabResult<()> {
    told(story)
}

#[test]
fn a_replacement_minds_no_kill_of_its_agent() -> LabResult<()> {
    told(replacement)
}

fn told(story: fn(&run::Options) -> LabResult<()>) -> LabResult<()> {
    Scratch::on_disk().tell(|scratch| story(&scratch.options()))
}

/// A node with nothing to do, whose agent has ended.
fn begin(options: &run::Options) -> LabResult<Story> {
    let dir = &options.dir;
    let parts = run::import(&mut Report::default(), options, dir)?;
    let repository = Repository::create(dir, &parts.xeno)?;
    manifests::write_fleet(&repository, &parts)?;
    repository.write(
        "overlays/web/index.html",
        "<!doctype html><p>It minds no crash</p>\n",
    )?;
    // A node removes nothing on the word of a commit that has nothing for it.
    let spare = Slice {
        name: "spare",
        state: "stopped",
        memory: "64MiB",
        disk: "1GiB",
        port: OURS + 2,
        moved_from: None,
        forgets: false,
        goes_back: false,
    };
    repository.write("slices/spare.yaml", &spare.text())?;
    let push = repository.push("A fleet")?;
    ensure(push.accepted, || push.output.clone())?;
    let mut node = Node::start(dir, "cam-01", &repository.bare, &parts)?;
    stop::record(dir, std::slice::from_ref(&node))?;
    node.kill_agent()?;
    configure(&node, "look = \"1s\"")?;
    Ok(Story {
        node,
        repository,
        xeno: parts.xeno.clone(),
        blown: BTreeSet::new(),
        guests_max: 1,
    })
}

fn story(options: &run::Options) -> LabResult<()> {
    use ActionKind as K;

    let mut story = begin(options)?;

    // From nothing to a guest: it is booted once, whoever died in between.
    let running = Slice {
        name: "web",
        state: "running",
        memory: "192MiB",
        disk: "1GiB",
        port: OURS,
        moved_from: None,
        forgets: false,
        goes_back: false,
    };
    story.push(Some(&running), "run")?;
    // What has no order among itself must not be ended in one: the files are here long before the template is, and the
    // writable layers have their turn further down.
    let building = [K::ImportFiles, K::FetchTemplate, K::Stack, K::Export, K::Boot];
    story.blow(&building)?;
    let first = story.guests()?;
    story.blow(&[K::AwaitHealthy])?;
    let pid = story.guest()?;
    assert_eq!(first, [pid], "it was booted twice");
    let id = boot_id(OURS)?;
    assert_eq!(ask(OURS, "/cgi-bin/ledger?kept", "committed")?, "committed");

    // In place: the disk's limit, then memory and port.
    let roomy = Slice {
        disk: "2GiB",
        ..running.clone()
    };
    story.push(Some(&roomy), "limit")?;
    story.blow(&[K::Limit])?;
    assert_eq!(story.guest()?, pid, "it was rebooted");
    let tuned = Slice {
        memory: "160MiB",
        port: OURS + 1,
        ..roomy
    };
    story.push(Some(&tuned), "tune")?;
    story.blow(&[K::Retune])?;
    assert_eq!(story.guest()?, pid, "it was rebooted");
    assert_eq!(boot_id(OURS + 1)?, id);
    ledger(OURS + 1)?;

    // Asleep and awake: the same guest, over the same disk.
    let asleep = Slice {
        state: "suspended",
        ..tuned.clone()
    };
    story.push(Some(&asleep), "suspend")?;
    story.blow(&[K::Suspend, K::Unexport, K::CloseWritable, K::Seal])?;
    story.nobody()?;
    story.push(Some(&tuned), "resume")?;
    story.blow(&[K::OpenWritable, K::Resume])?;
    let woken = story.guests()?;
    let pid = story.guest()?;
    assert_eq!(woken, [pid], "it was resumed twice");
    assert_eq!(boot_id(OURS + 1)?, id, "it was not the same guest that came back");
    ledger(OURS + 1)?;

    // Somebody stops it where it stands.
    monitor(&story.node, "web-0", "stop")?;
    story.blow(&[K::Unpause])?;
    assert_eq!(story.guest()?, pid);
    assert_eq!(boot_id(OURS + 1)?, id);

    // Another page, and back: what is written meanwhile is undone, and what was written before is there.
    story
        .repository
        .write("overlays/web/index.html", "<!doctype html><p>Another page</p>\n")?;
    story.push(Some(&tuned), "another page")?;
    story.blow(&[K::Checkpoint])?;
    story.guest()?;
    assert_eq!(ask(OURS + 1, "/cgi-bin/ledger?undone", "committed")?, "committed");
    story.repository.write(
        "overlays/web/index.html",
        "<!doctype html><p>It minds no crash</p>\n",
    )?;
    let tuned = Slice {
        goes_back: true,
        ..tuned
    };
    story.push(Some(&tuned), "the first page again")?;
    story.blow(&[K::Restore])?;
    story.guest()?;
    ledger(OURS + 1)?;

    // Asleep, and then not wanted: the image goes, what was written stays.
    story.push(Some(&asleep), "suspend again")?;
    story.nobody()?;
    let stopped = Slice {
        state: "stopped",
        ..tuned.clone()
    };
    story.push(Some(&stopped), "stop")?;
    story.blow(&[K::DiscardImage])?;
    story.nobody()?;

    // Under another name it has what it wrote.
    let shop = Slice {
        name: "shop",
        moved_from: Some("web"),
        ..tuned.clone()
    };
    story.push(Some(&shop), "move")?;
    story.blow(&[K::Adopt])?;
    story.guest()?;
    ledger(OURS + 1)?;

    // Removed, wanted again, removed for good.
    story.push(None, "remove")?;
    story.blow(&[K::Shutdown, K::Tombstone])?;
    story.nobody()?;
    let shop = Slice {
        moved_from: None,
        ..shop
    };
    story.push(Some(&shop), "undelete")?;
    story.blow(&[K::Revive])?;
    story.guest()?;
    ledger(OURS + 1)?;
    story.push(None, "remove again")?;
    configure(&story.node, "tombstone = \"1s\"")?;
    story.blow(&[K::Purge])?;
    story.nobody()?;

    // What only a replacement does has a story of its own. A mount needs a server of another machine and a kernel with an
    // NFS client, which few build machines have: the agent's laboratory kills its agent around one.
    let elsewhere = |kind: &ActionKind| REPLACING.contains(kind) || *kind == K::MountRemote;
    let all = ActionKind::ALL.iter().filter(|kind| !elsewhere(kind));
    let all: BTreeSet<_> = all.map(|kind| kind.verb()).collect();
    assert_eq!(story.blown, all, "a kind of action was left out");
    story.node.cowfs.stop()
}

/// What keeps nothing is replaced beside itself, and comes down to one guest from wherever its agent was killed.
fn replacement(options: &run::Options) -> LabResult<()> {
    use ActionKind as K;

    let mut story = begin(options)?;
    story.repository.write("overlays/envvars", ENVIRONMENT)?;
    let first = Slice {
        name: "web",
        state: "running",
        memory: "192MiB",
        disk: "1GiB",
        port: OURS + 3,
        moved_from: None,
        forgets: true,
        goes_back: false,
    };
    story.push(Some(&first), "run")?;
    let old = story.guest()?;
    let id = boot_id(first.port)?;
    story.guests_max = 2;
    story
        .repository
        .write("overlays/web/index.html", "<!doctype html><p>Another page</p>\n")?;
    story.push(Some(&first), "replace")?;
    story.blow(&[K::Boot])?;
    assert_eq!(
        story.guests()?.len(),
        2,
        "the new one was not started beside the old"
    );
    assert_eq!(boot_id(first.port)?, id, "the old one does not serve any more");
    story.blow(&[K::Unpublish, K::Publish, K::Shutdown])?;
    let new = story.guest()?;
    assert_ne!(new, old, "it was not replaced");
    assert_ne!(boot_id(first.port)?, id);
    let blown: Vec<_> = REPLACING.iter().map(|kind| kind.verb()).collect();
    assert!(blown.iter().all(|verb| story.blown.contains(verb)));
    story.push(None, "remove")?;
    story.nobody()?;
    story.node.cowfs.stop()
}

/// Adds a line to what the node's agent is told when it starts.
fn configure(node: &Node, line: &str) -> LabResult<()> {
    let path = node.dir.join("agent.toml");
    let text = std::fs::read_to_string(&path).map_err(LabError::io("reading agent.toml"))?;
    // At the top, ahead of the tables.
    std::fs::write(&path, format!("{line}\n{text}")).map_err(LabError::io("writing agent.toml"))
}

/// Gives a guest's QEMU one command past its agent.
fn monitor(node: &Node, label: &str, command: &str) -> LabResult<()> {
    use std::io::{BufRead as _, BufReader, Write as _};

    let path = node.dir.join("state/qemu").join(label).join("qmp.sock");
    let failed = || LabError::io("talking to QEMU");
    let stream = std::os::unix::net::UnixStream::connect(path).map_err(failed())?;
    write!(
        &stream,
        "{{\"execute\":\"qmp_capabilities\"}}{{\"execute\":\"{command}\",\"id\":7}}"
    )
    .map_err(failed())?;
    let mut lines = BufReader::new(&stream).lines();
    ensure(
        lines.any(|line| line.is_ok_and(|line| line.contains("\"id\": 7"))),
        || format!("QEMU does not answer to {command}"),
    )
}
