//! The demonstration's story, step by step; every step checks what it claims.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::manifests::{self, PORT, Step};
use super::report::{Report, human, quote, say};
use super::{rollouts, stop, transitions};
use crate::lab::node::Node;
use crate::lab::repository::Repository;
use crate::lab::{LabError, LabResult, Parts, ensure, http, template, wait_for};

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `xeno` program.
    pub xeno: PathBuf,
    /// Where `make image` left root, kernel and modules.
    pub images: PathBuf,
    /// Everything the demonstration keeps; emptied first.
    pub dir: PathBuf,
    /// Leave nodes and guests running.
    pub keep: bool,
}

/// A guest under emulation boots in about 20 s; a shared machine may be several times slower.
pub(super) const BOOT_DEADLINE: Duration = Duration::from_secs(300);
/// How long nodes may take to have nothing left to do once the pages are right.
pub(super) const SETTLE_DEADLINE: Duration = Duration::from_secs(120);
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Tells the whole story; the report is written in any case.
///
/// # Errors
/// The first check that did not hold.
pub fn run(options: &Options) -> LabResult<()> {
    if options.dir.exists() {
        stop::end_all(&options.dir)?;
        std::fs::remove_dir_all(&options.dir)
            .map_err(LabError::io(format!("emptying {}", options.dir.display())))?;
    }
    std::fs::create_dir_all(&options.dir)
        .map_err(LabError::io(format!("making {}", options.dir.display())))?;
    let dir = options
        .dir
        .canonicalize()
        .map_err(LabError::io("finding the demonstration's directory"))?;
    let mut report = Report::default();
    let told = tell(&mut report, options, &dir);
    let failure = told.as_ref().err().map(ToString::to_string);
    report.write(&dir.join("report.json"), failure.as_deref())?;
    if told.is_err() || !options.keep {
        stop::end_all(&dir)?;
    }
    told
}

fn tell(report: &mut Report, options: &Options, dir: &Path) -> LabResult<()> {
    say(
        "Xenoslice: a fleet of two nodes on this machine, three virtual machines, and nothing but git pushes.",
    );
    let parts = report.step(
        "make a template of a Debian root, its kernel and an initramfs",
        |report| import(report, options, dir),
    )?;
    let (repository, mut nodes) = report.step(
        "start two nodes (an agent and a file server each), their board and a repository",
        |report| {
            let repository = Repository::create(dir, &parts.xeno)?;
            let mut nodes = Vec::new();
            for name in ["cam-01", "nyc-02"] {
                nodes.push(Node::start_in_fleet(dir, name, &repository.bare, &parts)?);
                stop::record(dir, &nodes)?;
            }
            report.held("both agents and both file servers answer on their sockets");
            Ok((repository, nodes))
        },
    )?;
    let first = Step {
        nonce: &nonce(1),
        nodes: &["cam-01", "cam-01", "nyc-02"],
        state: "running",
        memory: "192MiB",
    };
    let boots = report.step("push: a slice of three slivers on two nodes", |report| {
        manifests::write_fleet(&repository, &parts)?;
        push_and_await(
            report,
            &repository,
            &mut nodes,
            &first,
            "Run the web on two nodes",
        )
    })?;
    let costs = bytes(report, &nodes, &parts)?;
    let second = Step {
        nonce: &nonce(2),
        ..first
    };
    let boots = report.step(
        "push: a new page in the overlay, which comes wave by wave",
        |report| {
            let watcher = rollouts::anybody("", second.nodes.len());
            manifests::write_slice(&repository, &second)?;
            accepted(report, &repository, "Say it better", "web/2")?;
            let pushed = Instant::now();
            let seen = &nodes[0];
            rollouts::shown(seen, "the canary to change", rollouts::canary_changes)?;
            rollouts::shown(seen, "a later wave to begin", rollouts::later_wave)?;
            let after = await_pages(report, &mut nodes, &second, pushed)?;
            rollouts::shown(&nodes[0], "all waves to be through", rollouts::done)?;
            ensure(after.len() == boots.len(), || "a sliver went missing".into())?;
            let figure = "longest_ms_without_a_page_while_a_rollout_went_on";
            rollouts::served(report, watcher, figure, "a page was served throughout")?;
            Ok(after)
        },
    )?;
    let boots = report.step(
        "push: a revision that never gets healthy, and goes back by itself",
        |report| rollouts::fails_and_goes_back(report, &repository, &nodes, &second, &boots),
    )?;
    report.step("push: a manifest with mistakes, which is refused", |report| {
        refuse(report, &repository, &second)?;
        same_boots(report, &boots, "every guest went on undisturbed")?;
        converged(report, &nodes)
    })?;
    report.step(
        "kill -9 an agent and a file server while their guests work",
        |report| {
            crash(report, &mut nodes)?;
            stop::record(dir, &nodes)?;
            same_boots(report, &boots, "no guest was rebooted")?;
            converged(report, &nodes)
        },
    )?;
    report.step(
        "xeno evacuate nyc-02, push: its page is fetched throughout",
        |report| {
            let there = "evacuate nyc-02";
            transitions::moves(report, &repository, &parts, (there, &nodes[0], &boots))?;
            converged(report, &nodes)
        },
    )?;
    report.step("xeno uncordon nyc-02, xeno migrate web/2, push", |report| {
        repository.intend(&parts.xeno, &["uncordon", "nyc-02", "-m", "New York is back"])?;
        let back = "migrate web/2 --to nyc-02";
        transitions::moves(report, &repository, &parts, (back, &nodes[1], &boots))?;
        converged(report, &nodes)
    })?;
    let leaner = Step {
        memory: "160MiB",
        ..second.clone()
    };
    report.step("push: less memory, while they run", |report| {
        manifests::write_slice(&repository, &leaner)?;
        accepted(report, &repository, "Give some memory back", "~ in place web/0")?;
        converged(report, &nodes)?;
        transitions::memory_is(report, &nodes, 160)?;
        same_boots(report, &boots, "nothing was rebooted")
    })?;
    report.step("xeno suspend web, push; xeno resume web, push", |report| {
        transitions::suspend_and_resume(report, &repository, &parts, &nodes, &boots)
    })?;
    let boots = report.step("kill -9 a guest, and push nothing", |report| {
        transitions::guest_comes_back(report, &nodes[0], &boots)
    })?;
    let fewer = Step {
        nodes: &["cam-01", "cam-01"],
        ..leaner.clone()
    };
    let note = nonce(3);
    report.step("push: one sliver less", |report| {
        transitions::write_down(2, &note)?;
        manifests::write_slice(&repository, &fewer)?;
        accepted(report, &repository, "Leave New York", "- remove   web/2")?;
        transitions::gone(2)?;
        converged(report, &nodes)?;
        report.held("web/2 is gone");
        let left: BTreeMap<_, _> = boots
            .iter()
            .filter(|(number, _)| **number < 2)
            .map(|(n, b)| (*n, b.clone()))
            .collect();
        same_boots(report, &left, "web/0 and web/1 went on undisturbed")
    })?;
    report.step("xeno undelete web/2, push", |report| {
        transitions::undelete(report, &repository, &parts, &nodes, &note)
    })?;
    for line in costs {
        say(&line);
    }
    report.print_times();
    if options.keep {
        say("\nLeft running:");
        for number in 0..3 {
            say(&format!("  web/{number}  http://127.0.0.1:{}/", PORT + number));
        }
        say(&format!(
            "  try: XENO_SOCKET={} target/release/xeno status",
            nodes[0].socket().display()
        ));
        say(&format!(
            "  push to it: edit {}, commit, git push",
            repository.work.display()
        ));
        say("  end it: make demo-stop");
    } else {
        report.step("push: stop the slice", |report| {
            manifests::write_slice(
                &repository,
                &Step {
                    state: "stopped",
                    ..leaner
                },
            )?;
            accepted(report, &repository, "Good night", "o stop     web/0")?;
            converged(report, &nodes)?;
            for node in &mut nodes {
                node.stop()?;
            }
            report.held("every guest shut down, every daemon ended");
            Ok(())
        })?;
    }
    say(&format!(
        "\nEvery check held: {}. The report is {}.",
        report.checks(),
        dir.join("report.json").display()
    ));
    Ok(())
}

/// A word that cannot be in any page by chance.
fn nonce(step: u32) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("nonce-{step}-{:x}-{:x}", now.as_nanos(), std::process::id())
}

/// Imports what `make image` made into a template store that both nodes fetch from.
///
/// # Errors
/// What `xeno template import` said.
pub fn import(report: &mut Report, options: &Options, dir: &Path) -> LabResult<Parts> {
    let published = dir.join("templates");
    let template = template::import_root(
        &options.xeno,
        &options.images,
        &published,
        "debian-web",
        "apache2ctl -D FOREGROUND",
    )?;
    report.held(&format!("debian-web is {}\u{2026}", &template[..19]));
    let xeno = options
        .xeno
        .canonicalize()
        .map_err(LabError::io("finding xeno"))?;
    Ok(Parts {
        xeno,
        template,
        published,
    })
}

pub(super) fn accepted(
    report: &mut Report,
    repository: &Repository,
    message: &str,
    planned: &str,
) -> LabResult<()> {
    repository.commit(message)?;
    pushed(report, repository, planned)
}

/// Pushes what has been committed; the answer must be a plan with `planned` in it.
pub(super) fn pushed(report: &mut Report, repository: &Repository, planned: &str) -> LabResult<()> {
    let start = Instant::now();
    let push = repository.push_commits()?;
    quote(&push.output);
    ensure(push.accepted, || {
        format!("the push was refused:\n{}", push.output)
    })?;
    ensure(push.output.contains(planned), || {
        format!("the push was answered without a plan that says {planned:?}")
    })?;
    report.held(&format!(
        "the push was answered with a plan, in {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Pushes a step and waits until every sliver's page is the commit's; returns the boot id of each guest.
fn push_and_await(
    report: &mut Report,
    repository: &Repository,
    nodes: &mut [Node],
    step: &Step<'_>,
    message: &str,
) -> LabResult<BTreeMap<u16, String>> {
    manifests::write_slice(repository, step)?;
    accepted(report, repository, message, "web/2")?;
    await_pages(report, nodes, step, Instant::now())
}

/// Waits until every sliver's page is that of the step; returns the boot id of each guest.
fn await_pages(
    report: &mut Report,
    nodes: &mut [Node],
    step: &Step<'_>,
    pushed: Instant,
) -> LabResult<BTreeMap<u16, String>> {
    let mut boots = BTreeMap::new();
    for (number, node) in (0u16..).zip(step.nodes) {
        let page = wait_for(
            &format!("the page of web/{number} on {node}"),
            BOOT_DEADLINE,
            || {
                for node in nodes.iter_mut() {
                    if node.agent.ended() || node.cowfs.ended() {
                        return Err(format!("a daemon of {} ended", node.name));
                    }
                }
                let page = http::get(PORT + number, "/", FETCH_TIMEOUT)?;
                if page.body.contains(step.nonce) {
                    Ok(page)
                } else {
                    Err(format!("it answers {} without the nonce", page.status))
                }
            },
        )?;
        let server = page.header("Server").unwrap_or_default().to_owned();
        ensure(server.contains("Apache") && server.contains("Debian"), || {
            format!("the server is {server:?}")
        })?;
        let seen = guest(number)?;
        let root = seen
            .lines()
            .find(|line| line.split(' ').nth(1) == Some("/") && line.split(' ').nth(2) == Some("nfs"));
        let root =
            root.ok_or_else(|| LabError::Check(format!("the root of web/{number} is not NFS:\n{seen}")))?;
        report.held(&format!(
            "web/{number} on {node}: the page has this commit's nonce after {:.1} s ({server})",
            pushed.elapsed().as_secs_f64()
        ));
        if number == 0 {
            report.held(&format!(
                "its own /proc/mounts says: {}",
                root.split(',').take(2).collect::<Vec<_>>().join(",")
            ));
        }
        boots.insert(number, field(&seen, "boot_id")?);
    }
    converged(report, nodes)?;
    Ok(boots)
}

/// What a guest says of itself.
pub(super) fn guest(number: u16) -> LabResult<String> {
    wait_for(
        &format!("web/{number} to speak of itself"),
        SETTLE_DEADLINE,
        || {
            let page = http::get(PORT + number, "/cgi-bin/guest", FETCH_TIMEOUT)?;
            if page.status == 200 {
                Ok(page.body)
            } else {
                Err(format!("it answers {}", page.status))
            }
        },
    )
}

pub(super) fn field(seen: &str, name: &str) -> LabResult<String> {
    seen.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))
        .ok_or_else(|| LabError::Check(format!("the guest did not say its {name}")))
}

pub(super) fn same_boots(report: &mut Report, boots: &BTreeMap<u16, String>, what: &str) -> LabResult<()> {
    for (number, before) in boots {
        let after = field(&guest(*number)?, "boot_id")?;
        ensure(after == *before, || {
            format!("web/{number} was rebooted: boot id {before} became {after}")
        })?;
    }
    report.held(&format!("{what}: each boot id is the same"));
    Ok(())
}

pub(super) fn converged(report: &mut Report, nodes: &[Node]) -> LabResult<()> {
    for node in nodes {
        node.await_converged(SETTLE_DEADLINE)?;
    }
    report.held("xeno plan --detailed-exitcode says 0 on every node");
    Ok(())
}

fn refuse(report: &mut Report, repository: &Repository, step: &Step<'_>) -> LabResult<()> {
    let broken = manifests::slice(step)
        .replace("memory: 192MiB", "memroy: 192MB")
        .replace("debian-web/current", "debian-wob/current");
    repository.write("slices/web.yaml", &broken)?;
    let push = repository.push("Break it")?;
    quote(&push.output);
    ensure(!push.accepted, || "a broken manifest was accepted".into())?;
    for word in ["slices/web.yaml:", "memroy", "memory", "debian-wob", "debian-web"] {
        ensure(push.output.contains(word), || {
            format!("the refusal does not say {word:?}")
        })?;
    }
    repository.take_back()?;
    report.held("the push was refused, with file, line, column and what was meant");
    Ok(())
}

/// Kills the agent and the file server of the first node while a client keeps committing lines on its guests.
fn crash(report: &mut Report, nodes: &mut [Node]) -> LabResult<()> {
    let going = AtomicBool::new(true);
    let (acknowledged, outcome) = std::thread::scope(|scope| {
        let writers: Vec<_> = [0u16, 1]
            .map(|number| {
                let going = &going;
                scope.spawn(move || {
                    let mut acknowledged = Vec::new();
                    let mut attempt = 0u32;
                    // Bounded: a few hundred lines are plenty whatever happens to the flag.
                    while going.load(Ordering::Relaxed) && attempt < 2_000 {
                        let line = format!("line-{number}-{attempt}");
                        attempt += 1;
                        let answer = http::get(
                            PORT + number,
                            &format!("/cgi-bin/ledger?{line}"),
                            Duration::from_secs(60),
                        );
                        if answer.is_ok_and(|page| page.body.contains("committed")) {
                            acknowledged.push(line);
                        }
                    }
                    (number, acknowledged)
                })
            })
            .into_iter()
            .collect();
        let outcome = kill_and_restart(report, nodes);
        going.store(false, Ordering::Relaxed);
        let acknowledged: Vec<_> = writers
            .into_iter()
            .filter_map(|writer| writer.join().ok())
            .collect();
        (acknowledged, outcome)
    });
    outcome?;
    for (number, lines) in acknowledged {
        let ledger =
            http::get(PORT + number, "/cgi-bin/ledger", Duration::from_secs(60)).map_err(LabError::Check)?;
        let kept: std::collections::BTreeSet<&str> = ledger.body.lines().collect();
        let lost: Vec<&String> = lines
            .iter()
            .filter(|line| !kept.contains(line.as_str()))
            .collect();
        ensure(!lines.is_empty(), || format!("web/{number} committed nothing"))?;
        ensure(lost.is_empty(), || {
            format!(
                "web/{number} lost {} committed lines, first {:?}",
                lost.len(),
                lost.first()
            )
        })?;
        report.held(&format!(
            "web/{number}: all {} lines that were committed around the kills are there",
            lines.len()
        ));
    }
    Ok(())
}

fn kill_and_restart(report: &mut Report, nodes: &mut [Node]) -> LabResult<()> {
    let [node, ..] = nodes else {
        return Err(LabError::Check("no nodes".into()));
    };
    // Let the writers commit something first.
    wait_for("the first committed line", SETTLE_DEADLINE, || {
        let page = http::get(PORT, "/cgi-bin/ledger", FETCH_TIMEOUT)?;
        if page.body.contains("line-0-2") {
            Ok(())
        } else {
            Err("not yet".into())
        }
    })?;
    node.kill_cowfs()?;
    node.kill_agent()?;
    report.held(&format!(
        "the agent and the file server of {} were killed with SIGKILL",
        node.name
    ));
    let start = Instant::now();
    node.restart_cowfs()?;
    node.restart_agent()?;
    for number in [0, 1] {
        wait_for(&format!("web/{number} to serve again"), BOOT_DEADLINE, || {
            let page = http::get(PORT + number, "/cgi-bin/ledger", FETCH_TIMEOUT)?;
            if page.status == 200 {
                Ok(())
            } else {
                Err(format!("it answers {}", page.status))
            }
        })?;
    }
    let took = start.elapsed().as_secs_f64();
    report.figure("seconds_to_serve_after_kill", json!((took * 10.0).round() / 10.0));
    report.held(&format!(
        "started again, the guests adopted and served again after {took:.1} s"
    ));
    Ok(())
}

/// What each new sliver cost on disk against a copy of its root, as a table.
fn bytes(report: &mut Report, nodes: &[Node], parts: &Parts) -> LabResult<Vec<String>> {
    let output = Command::new(&parts.xeno)
        .args(["template", "show", &parts.template, "-o", "json", "--store"])
        .arg(&parts.published)
        .output()
        .map_err(LabError::io("running xeno template show"))?;
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| LabError::Check(format!("xeno template show printed no JSON: {e}")))?;
    let root = shown["bytes"]
        .as_u64()
        .ok_or_else(|| LabError::Check(format!("xeno template show says no bytes: {shown}")))?;
    let mut lines = vec![
        "\n  what a new sliver needs on disk      bytes         of a copied root".to_owned(),
        format!("  {:<30}{:>12}", "a copy of the whole root", human(root)),
    ];
    for node in nodes {
        let slivers = node.json(&["get", "slivers", "-o", "json"])?;
        for sliver in slivers["slivers"].as_array().into_iter().flatten() {
            let (Some(id), Some(own)) = (sliver["sliver"].as_str(), sliver["writableBytes"].as_u64()) else {
                continue;
            };
            lines.push(format!(
                "  {id:<30}{:>12}{:>15.3} %",
                human(own),
                percent(own, root)
            ));
            report.figure(&format!("writable_bytes {id}"), json!(own));
        }
    }
    report.figure("root_bytes", json!(root));
    Ok(lines)
}

#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}
