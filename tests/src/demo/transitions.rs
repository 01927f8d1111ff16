//! The parts of the story in which running guests change: in place, into an image and back, after somebody killed one,
//! and back from a removal.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::json;

use super::manifests::PORT;
use super::report::{Report, human, quote};
use super::run::{
    BOOT_DEADLINE, FETCH_TIMEOUT, SETTLE_DEADLINE, converged, field, guest, pushed, same_boots,
};
use super::stop;
use crate::lab::node::Node;
use crate::lab::process::{end_recorded, start_time};
use crate::lab::repository::Repository;
use crate::lab::watcher::Watcher;
use crate::lab::{LabError, LabResult, Parts, ensure, http, wait_for};

/// Checks what the hypervisor gives each guest, in MiB.
pub(super) fn memory_is(report: &mut Report, nodes: &[Node], mib: u64) -> LabResult<()> {
    for node in nodes {
        wait_for(
            &format!("the guests of {} to have {mib} MiB", node.name),
            SETTLE_DEADLINE,
            || {
                let seen = node
                    .json(&["get", "observed", "-o", "json"])
                    .map_err(|error| error.to_string())?;
                let text = seen.to_string();
                if text.contains(&format!("\"memoryMib\":{mib}")) {
                    Ok(())
                } else {
                    Err(text)
                }
            },
        )?;
    }
    report.held(&format!("each guest has {mib} MiB now"));
    Ok(())
}

/// Has a command move web/2 to a node, and fetches its page all the while.
pub(super) fn moves(
    report: &mut Report,
    repository: &Repository,
    parts: &Parts,
    (command, to, boots): (&str, &Node, &BTreeMap<u16, String>),
) -> LabResult<()> {
    let command: Vec<&str> = command.split(' ').collect();
    quote(&repository.intend(&parts.xeno, &command)?);
    let watcher = Watcher::of(PORT + 2);
    pushed(report, repository, "> move     web/2")?;
    let start = Instant::now();
    let arrived = to.await_event("web/2 has arrived", 1, BOOT_DEADLINE)?;
    serves(2)?;
    let took = start.elapsed().as_secs_f64();
    let gap = watcher.end().as_millis();
    report.held(&format!("{took:.1} s after the push: {arrived}"));
    report.figure("longest_ms_without_a_page", json!(gap));
    report.held(&format!(
        "its page was fetched throughout: the longest time without one was {gap} ms"
    ));
    same_boots(report, boots, "nobody was rebooted")
}

/// Suspends the slice by a commit, sees its guests end, resumes it, and sees them go on where they were.
pub(super) fn suspend_and_resume(
    report: &mut Report,
    repository: &Repository,
    parts: &Parts,
    nodes: &[Node],
    boots: &BTreeMap<u16, String>,
) -> LabResult<()> {
    let before = uptimes(boots)?;
    repository.intend(&parts.xeno, &["suspend", "web", "-m", "Sleep"])?;
    pushed(report, repository, "web/0")?;
    let start = Instant::now();
    for number in boots.keys() {
        gone(*number)?;
    }
    converged(report, nodes)?;
    let held = images(nodes)?;
    report.held(&format!(
        "no guest is left after {:.1} s; {} images hold their memory, {} in all",
        start.elapsed().as_secs_f64(),
        held.len(),
        human(held.iter().sum())
    ));
    ensure(held.len() == boots.len(), || {
        format!("{} images for {} guests", held.len(), boots.len())
    })?;
    report.figure("image_bytes", json!(held));

    repository.intend(&parts.xeno, &["resume", "web", "-m", "Wake up"])?;
    pushed(report, repository, "web/0")?;
    let start = Instant::now();
    for number in boots.keys() {
        serves(*number)?;
    }
    let took = start.elapsed().as_secs_f64();
    report.figure("seconds_to_resume", json!((took * 10.0).round() / 10.0));
    report.held(&format!("every page is served again {took:.1} s after the push"));
    same_boots(report, boots, "nobody booted")?;
    let after = uptimes(boots)?;
    ensure(
        before.iter().zip(&after).all(|(before, after)| after >= before),
        || format!("uptimes went back: {before:?}, {after:?}"),
    )?;
    report.held(&format!(
        "uptimes went on: web/0 was up for {:.0} s before and is for {:.0} s now",
        before.first().copied().unwrap_or_default(),
        after.first().copied().unwrap_or_default()
    ));
    ensure(images(nodes)?.is_empty(), || {
        "an image is left, and could be resumed twice".to_owned()
    })?;
    converged(report, nodes)
}

/// Bytes of each image that the nodes keep.
fn images(nodes: &[Node]) -> LabResult<Vec<u64>> {
    let mut all = Vec::new();
    for node in nodes {
        let seen = node.json(&["get", "images", "-o", "json"])?;
        let of_node = seen["images"].as_array().into_iter().flatten();
        all.extend(of_node.filter_map(|image| image["image"]["bytes"].as_u64()));
    }
    Ok(all)
}

fn uptimes(boots: &BTreeMap<u16, String>) -> LabResult<Vec<f64>> {
    boots
        .keys()
        .map(|number| {
            let uptime = field(&guest(*number)?, "uptime")?;
            uptime
                .parse()
                .map_err(|_| LabError::Check(format!("web/{number} says its uptime is {uptime:?}")))
        })
        .collect()
}

/// Waits until a guest answers no more.
pub(super) fn gone(number: u16) -> LabResult<()> {
    wait_for(
        &format!("web/{number} to be gone"),
        SETTLE_DEADLINE,
        || match http::get(PORT + number, "/", FETCH_TIMEOUT) {
            Ok(page) => Err(format!("it still answers: {}", page.status)),
            Err(_) => Ok(()),
        },
    )
}

fn serves(number: u16) -> LabResult<()> {
    wait_for(&format!("web/{number} to serve"), BOOT_DEADLINE, || {
        let page = http::get(PORT + number, "/", FETCH_TIMEOUT)?;
        if page.status == 200 {
            Ok(())
        } else {
            Err(format!("it answers {}", page.status))
        }
    })
}

/// Kills the last guest of a node behind the agent's back, and sees it come back with what it wrote. Returns the boot
/// ids that hold from now on.
pub(super) fn guest_comes_back(
    report: &mut Report,
    node: &Node,
    boots: &BTreeMap<u16, String>,
) -> LabResult<BTreeMap<u16, String>> {
    let number = 1;
    let line = format!("before-the-kill-{}", std::process::id());
    write_down(number, &line)?;
    let run_dir = node.dir.join(format!("state/qemu/web-{number}"));
    let killed = stop::guests(&run_dir);
    ensure(killed.len() == 1, || format!("web/{number} runs as {killed:?}"))?;
    for pid in killed {
        let started = start_time(pid).ok_or_else(|| LabError::Check(format!("process {pid} is gone")))?;
        end_recorded(pid, started)?;
    }
    let start = Instant::now();
    let boot = wait_for(&format!("web/{number} to boot anew"), BOOT_DEADLINE, || {
        let seen = http::get(PORT + number, "/cgi-bin/guest", FETCH_TIMEOUT)?;
        let boot = field(&seen.body, "boot_id").map_err(|error| error.to_string())?;
        if boots.get(&number) == Some(&boot) {
            Err("it still runs as before".into())
        } else {
            Ok(boot)
        }
    })?;
    let took = start.elapsed().as_secs_f64();
    report.figure("seconds_to_repair", json!((took * 10.0).round() / 10.0));
    report.held(&format!(
        "web/{number} was killed, booted again by itself and serves after {took:.1} s"
    ));
    wrote(number, &line)?;
    report.held("what it had committed is there");
    node.await_converged(SETTLE_DEADLINE)?;
    let mut now = boots.clone();
    now.insert(number, boot);
    same_boots(report, &now, "the others went on undisturbed")?;
    Ok(now)
}

/// Has a guest commit a line to its disk.
pub(super) fn write_down(number: u16, line: &str) -> LabResult<()> {
    let path = format!("/cgi-bin/ledger?{line}");
    wait_for(&format!("web/{number} to commit a line"), SETTLE_DEADLINE, || {
        let page = http::get(PORT + number, &path, FETCH_TIMEOUT)?;
        if page.body.contains("committed") {
            Ok(())
        } else {
            Err(format!("it answers {}", page.status))
        }
    })
}

/// Checks that a guest's disk holds a line.
fn wrote(number: u16, line: &str) -> LabResult<()> {
    wait_for(
        &format!("web/{number} to show its ledger"),
        SETTLE_DEADLINE,
        || {
            let page = http::get(PORT + number, "/cgi-bin/ledger", FETCH_TIMEOUT)?;
            if page.body.lines().any(|kept| kept == line) {
                Ok(())
            } else {
                Err(format!("{} lines without it", page.body.lines().count()))
            }
        },
    )
}

/// Takes a removal back by a commit, and sees the sliver come back with what it wrote.
pub(super) fn undelete(
    report: &mut Report,
    repository: &Repository,
    parts: &Parts,
    nodes: &[Node],
    line: &str,
) -> LabResult<()> {
    let said = repository.intend(&parts.xeno, &["undelete", "web/2", "-m", "Back to New York"])?;
    quote(&said);
    pushed(report, repository, "web/2")?;
    let start = Instant::now();
    serves(2)?;
    wrote(2, line)?;
    report.held(&format!(
        "web/2 serves after {:.1} s, and its disk holds what it wrote before it was removed",
        start.elapsed().as_secs_f64()
    ));
    converged(report, nodes)
}
