//! The parts of the story in which a new revision comes to one sliver after the other: one that is good, and one that is not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::manifests::{self, PORT, Step};
use super::report::{Report, quote};
use super::run::{BOOT_DEADLINE, accepted, converged, field, guest, same_boots};
use crate::lab::node::Node;
use crate::lab::repository::Repository;
use crate::lab::watcher::Watcher;
use crate::lab::{LabError, LabResult, ensure, http, wait_for};

/// Longest time in which nobody may serve the page while a rollout is under way: some sliver always does.
const GAP_MAX: Duration = Duration::from_secs(5);

/// Watches the page with this word in it, whichever sliver serves it.
pub(super) fn anybody(word: &str, slivers: usize) -> Watcher {
    let ports: Vec<u16> = (0..).take(slivers).map(|number| PORT + number).collect();
    Watcher::of_any(&ports, word)
}

/// Shows how far the rollout is once it is where it should be, as a person would see it.
pub(super) fn shown(node: &Node, what: &str, wanted: impl Fn(&Value) -> bool) -> LabResult<Value> {
    let seen = wait_for(what, BOOT_DEADLINE, || {
        let rollouts = node.json(&["rollout", "status", "web", "-o", "json"]);
        let rollout = rollouts.map_err(|error| error.to_string())?["rollouts"][0].take();
        if wanted(&rollout) {
            Ok(rollout)
        } else {
            Err(rollout.to_string())
        }
    })?;
    let status = node.xeno(&["rollout", "status", "web"])?;
    quote(&format!(
        "$ xeno rollout status web\n{}",
        String::from_utf8_lossy(&status.stdout)
    ));
    Ok(seen)
}

/// Which slivers of a rollout are in this state.
fn those(rollout: &Value, state: &str) -> Vec<u16> {
    let slivers = rollout["slivers"].as_array().into_iter().flatten();
    let those = slivers.filter(|sliver| sliver["state"] == state);
    let numbers = those.filter_map(|sliver| sliver["sliver"].as_str()?.strip_prefix("web/")?.parse().ok());
    numbers.collect()
}

/// Whether the wave of the canaries is under way, and one is being changed.
pub(super) fn canary_changes(rollout: &Value) -> bool {
    rollout["verdict"] == "rolling" && rollout["wave"] == 1 && !those(rollout, "changing").is_empty()
}

/// Whether the canaries are through, and a later wave is being changed.
pub(super) fn later_wave(rollout: &Value) -> bool {
    rollout["wave"].as_u64() > Some(1) && !those(rollout, "changing").is_empty()
}

/// Whether all waves are through.
pub(super) fn done(rollout: &Value) -> bool {
    rollout["verdict"] == "done" && those(rollout, "there").len() == 3
}

/// Checks that somebody served the page all the time.
pub(super) fn served(report: &mut Report, watcher: Watcher, figure: &str, what: &str) -> LabResult<()> {
    let gap = watcher.end();
    report.figure(figure, json!(u64::try_from(gap.as_millis()).unwrap_or(u64::MAX)));
    ensure(gap < GAP_MAX, || {
        format!("for {} ms nobody served the page", gap.as_millis())
    })?;
    report.held(&format!(
        "{what}: the longest time in which no sliver did was {} ms",
        gap.as_millis()
    ));
    Ok(())
}

/// Pushes a revision whose page never comes: the canary takes it, and goes back by itself. Returns the boot ids that hold from
/// now on.
pub(super) fn fails_and_goes_back(
    report: &mut Report,
    repository: &Repository,
    nodes: &[Node],
    step: &Step<'_>,
    boots: &BTreeMap<u16, String>,
) -> LabResult<BTreeMap<u16, String>> {
    let watcher = anybody(step.nonce, step.nodes.len());
    repository.write("slices/web.yaml", &manifests::broken(step))?;
    accepted(report, repository, "Tidy up the web server", "reboot   web/0")?;
    let pushed = Instant::now();
    let rollout = shown(&nodes[0], "the canary to change", canary_changes)?;
    let canary = *those(&rollout, "changing")
        .first()
        .ok_or_else(|| LabError::Check("nobody is the canary".into()))?;
    let failed = |rollout: &Value| rollout["verdict"] == "failed";
    shown(&nodes[0], "the rollout to fail", failed)?;
    report.held(&format!(
        "the verdict is on the board {:.1} s after the push: web/{canary} is not healthy within its grace",
        pushed.elapsed().as_secs_f64()
    ));
    wait_for(
        &format!("web/{canary} to serve the good page again"),
        BOOT_DEADLINE,
        || {
            let page = http::get(PORT + canary, "/", Duration::from_secs(5))?;
            if page.status == 200 && page.body.contains(step.nonce) {
                Ok(())
            } else {
                Err(format!("it answers {}", page.status))
            }
        },
    )?;
    let took = pushed.elapsed().as_secs_f64();
    report.figure("seconds_to_roll_back", json!((took * 10.0).round() / 10.0));
    report.held(&format!(
        "web/{canary} went back by itself and serves the good page, {took:.1} s after the push"
    ));
    let back = |rollout: &Value| those(rollout, "there").len() == step.nodes.len();
    shown(&nodes[0], "all to be back", |rollout| {
        failed(rollout) && back(rollout)
    })?;
    served(
        report,
        watcher,
        "longest_ms_without_a_page_while_a_rollout_failed",
        "the page of the good revision was served throughout",
    )?;
    let mut now = boots.clone();
    now.remove(&canary);
    same_boots(report, &now, "the others never heard of the bad revision")?;
    now.insert(canary, field(&guest(canary)?, "boot_id")?);
    converged(report, nodes)?;
    manifests::write_slice(repository, step)?;
    accepted(report, repository, "Take it back", "web/0")?;
    converged(report, nodes)?;
    same_boots(report, &now, "taking the commit back disturbs nobody")?;
    Ok(now)
}
