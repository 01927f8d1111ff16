//! One sliver deployed by a push, with everything that is known of when what was done: the agent's own events, what it logs
//! of `xl`, the times of the hotplug script, and what the guest says on its console.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::report::{Deployment, Kind, Place};
use super::timeline::{Owner, Span, Timeline};
use super::wire::Wire;
use crate::lab::repository::Repository;
use crate::lab::{LabError, LabResult, ensure};
use crate::xen_lab::machine::{Machine, script};
use crate::xen_lab::node::{REPOSITORY, XenNode};

/// Tells what a guest says on its console, each line with the time of day in milliseconds. Arguments: the log of the
/// console, which may come later, and where to write.
const LISTEN: &str = r#"use Time::HiRes qw(time sleep);
my ($log, $marks) = @ARGV;
open my $out, '>', $marks or die; select $out; $| = 1;
sleep 0.05 until open my $in, '<', $log;
for (;;) { printf "%d %s", time * 1000, $_ while <$in>; sleep 0.05; seek $in, 0, 1 }
"#;

/// Times of the hotplug script, in front of which this one stands.
const TIMED: &str = r#"#!/bin/sh
began=$(date +%s%3N)
/etc/xen/scripts/vif-xeno.itself "$@"
ended=$?
echo "$1 $began $(date +%s%3N)" >>/run/evaluation.links
exit $ended
"#;

/// Where slivers are deployed.
pub struct Ground<'a> {
    /// The node.
    pub node: &'a XenNode<'a>,
    /// The machine at the far end of the slow link.
    pub far: &'a Machine,
    /// What people push to.
    pub repository: &'a Repository,
}

/// A slice with one sliver that serves a page.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Its name.
    pub name: String,
    /// URL of its overlay.
    pub overlay: String,
    /// Port of the node.
    pub port: u16,
}

impl Slice {
    fn manifest(&self, state: &str) -> String {
        format!(
            "apiVersion: xenoslice/v1
kind: Slice
metadata: {{ name: {} }}
spec:
  image:
    kernel: base/current
    mounts:
      - path: /
        layers:
          - overlay: {}
          - template: base/current
        writable: local
  resources: {{ vcpus: 1, memory: 128MiB, disk: 256MiB }}
  placement: {{ nodes: [{}] }}
  state: {state}
  publish: [{{ guest: 80, host: {} }}]
  health: {{ http: {{ port: 80, path: /, expect: 200 }}, interval: 500ms, threshold: 1, grace: 580s }}
",
            self.name,
            self.overlay,
            crate::xen_lab::node::NAME,
            self.port
        )
    }
}

/// What has been counted so far.
struct Counts {
    wire: Wire,
    agent_cpu_ms: u64,
    cowfs_cpu_ms: u64,
    last_event: u64,
    log_lines: u64,
    commit: String,
}

impl Ground<'_> {
    /// Makes dom0 ready for measuring.
    ///
    /// # Errors
    /// What the shell there said.
    pub fn prepare(&self) -> LabResult<()> {
        let machine = self.node.machine;
        machine.write("/usr/local/lib/evaluation/listen.pl", LISTEN)?;
        machine.write("/usr/local/lib/evaluation/vif-xeno", TIMED)?;
        machine
            .run(
                "cd /etc/xen/scripts && mv vif-xeno vif-xeno.itself && cp /usr/local/lib/evaluation/vif-xeno . && \
                 chmod 755 vif-xeno && : >/run/evaluation.links",
            )
            .map(drop)
    }

    /// Asks for a state that is not measured, and waits until it is so.
    ///
    /// # Errors
    /// If it does not come about.
    pub fn bring(&self, slice: &Slice, state: &str) -> LabResult<()> {
        self.push(slice, state)?;
        self.node.await_converged()
    }

    fn push(&self, slice: &Slice, state: &str) -> LabResult<()> {
        let path = format!("slices/{}.yaml", slice.name);
        self.repository.write(&path, &slice.manifest(state))?;
        let push = self
            .repository
            .push(&format!("{} is to be {state}", slice.name))?;
        ensure(push.accepted, || push.output.clone())
    }

    /// Pushes that a slice is to run, and measures until it answers.
    ///
    /// # Errors
    /// If it does not come about.
    pub fn measure(&self, slice: &Slice, kind: Kind, place: Place) -> LabResult<Deployment> {
        let machine = self.node.machine;
        let marks = format!("/run/evaluation.{}.marks", slice.name);
        if kind == Kind::BootNew {
            machine.run(&format!(
                "setsid perl /usr/local/lib/evaluation/listen.pl /var/log/xen/console/guest-xeno.{}-0.log {marks} \
                 </dev/null >/dev/null 2>&1 & echo $! >/run/evaluation.listen",
                slice.name
            ))?;
        }
        let before = self.counts()?;
        let mut watching = Watching::begin(machine, before.last_event)?;
        self.push(slice, "running")?;
        let ended_at = watching.until_done(&format!("await:{}/0", slice.name))?;
        let after = self.counts()?;
        watching.end(machine)?;
        let said = if kind == Kind::BootNew {
            machine.run(&format!(
                "kill $(cat /run/evaluation.listen); grep -a ' xeno: ' {marks} || true"
            ))?
        } else {
            String::new()
        };
        let commit_bytes = machine.run(&format!(
            "git -C {REPOSITORY} rev-list --objects --disk-usage {}..main",
            before.commit
        ))?;
        let deployment = Deployment {
            kind,
            place,
            timeline: self.timeline(slice, &before, ended_at, &said)?,
            wire: after.wire.since(&before.wire),
            commit_bytes: number(commit_bytes.trim())?,
            agent_cpu_ms: after.agent_cpu_ms.saturating_sub(before.agent_cpu_ms),
            cowfs_cpu_ms: after.cowfs_cpu_ms.saturating_sub(before.cowfs_cpu_ms),
        };
        self.node.await_converged()?;
        Ok(deployment)
    }

    fn counts(&self) -> LabResult<Counts> {
        let machine = self.node.machine;
        let events: Value = json(&self.node.xeno(&["events", "--limit", "1", "-o", "json"])?)?;
        let cpu = |daemon: &str| -> LabResult<u64> {
            // In hundredths of a second (proc(5), getconf CLK_TCK).
            let said = machine.run(&format!("cut -d' ' -f14,15 /proc/$(cat /run/{daemon}.pid)/stat"))?;
            let ticks = said.split_whitespace().map(number).sum::<LabResult<u64>>()?;
            Ok(ticks * 10)
        };
        Ok(Counts {
            agent_cpu_ms: cpu("xeno-agent")?,
            cowfs_cpu_ms: cpu("xeno-cowfs")?,
            last_event: events["events"]
                .as_array()
                .and_then(|all| all.last()?.get("seq")?.as_u64())
                .unwrap_or(0),
            log_lines: number(machine.run("wc -l </var/log/xeno-agent.log")?.trim())?,
            commit: machine
                .run(&format!("git -C {REPOSITORY} rev-parse main"))?
                .trim()
                .to_owned(),
            wire: Wire::counted(machine, self.far)?,
        })
    }

    fn timeline(&self, slice: &Slice, before: &Counts, ended_at: u64, said: &str) -> LabResult<Timeline> {
        let machine = self.node.machine;
        let pushed = machine.run(&format!(
            "stat -c %.3Y {REPOSITORY}/refs/heads/main | tr -d .; cat /run/evaluation.links; echo; \
             tail -n +{} /var/log/xeno-agent.log | sed -n 's/^\\([^ ]*\\) .*xl has ended verb=\"\\([^\"]*\\)\" took_ms=\\([0-9]*\\).*/\\1 \\2 \\3/p' | \
             while read -r at verb took; do echo \"$(date -d \"$at\" +%s%3N) $verb $took\"; done",
            before.log_lines + 1
        ))?;
        let (head, calls) = pushed
            .split_once("\n\n")
            .ok_or_else(|| LabError::Check(format!("no times in {pushed:?}")))?;
        let mut head = head.lines();
        let began = number(head.next().unwrap_or_default())?;
        let after = |at: u64| at.saturating_sub(began);
        let mut spans = Vec::new();
        for line in head {
            if let [verb, from, until] = line.split(' ').collect::<Vec<_>>()[..] {
                let (from, until) = (number(from)?, number(until)?);
                if verb == "online" && from >= began {
                    spans.push(Span::new(
                        "vif-xeno online",
                        Owner::Link,
                        after(from),
                        after(until),
                    ));
                }
            }
        }
        for line in calls.lines() {
            if let [at, verb, took] = line.split(' ').collect::<Vec<_>>()[..] {
                let (at, took) = (number(at)?, number(took)?);
                let owner = match verb {
                    "create" | "restore" | "unpause" | "save" | "destroy" => Owner::Hypervisor,
                    _ => Owner::Asking,
                };
                if at >= began && at <= ended_at {
                    spans.push(Span::new(
                        format!("xl {verb}"),
                        owner,
                        after(at.saturating_sub(took)),
                        after(at),
                    ));
                }
            }
        }
        spans.extend(self.actions(slice, before.last_event, began)?);
        let marks = said.lines().filter_map(|line| {
            let (at, text) = line.split_once(' ')?;
            Some((after(at.parse().ok()?), text.trim().to_owned()))
        });
        Ok(Timeline::new(spans, marks.collect(), after(ended_at)))
    }

    /// What the agent's own events say.
    fn actions(&self, slice: &Slice, since: u64, began: u64) -> LabResult<Vec<Span>> {
        let said = self.node.xeno(&[
            "events",
            "--since",
            &since.to_string(),
            "--limit",
            "500",
            "-o",
            "json",
        ])?;
        let events: Value = json(&said)?;
        let after = |at: u64| at.saturating_sub(began);
        let mut spans = Vec::new();
        let mut last = 0;
        for event in events["events"].as_array().into_iter().flatten() {
            let at = after(event["atMs"].as_u64().unwrap_or(0));
            let text = event["text"].as_str().unwrap_or_default();
            match event["kind"].as_str() {
                Some("accepted") => {
                    spans.push(Span::new("notice, read, check the commit", Owner::Ours, 0, at));
                    last = at;
                }
                Some("planned") if last > 0 => {
                    spans.push(Span::new("look at the node, plan", Owner::Ours, last, at));
                    last = 0;
                }
                Some("done") => {
                    let from = event["data"]["beganMs"].as_u64().map_or(at, after);
                    let (verb, of) = text.split_once(':').unwrap_or((text, ""));
                    let owner = if verb == "await" {
                        Owner::Guest
                    } else {
                        Owner::Ours
                    };
                    if of.starts_with(&format!("{}/", slice.name))
                        || of.starts_with("sha256")
                        || verb == "mount"
                    {
                        spans.push(Span::new(verb, owner, from, at));
                    }
                }
                _ => {}
            }
        }
        Ok(spans)
    }
}

/// A stream of the agent's events, by one process in dom0: asking again and again would cost what is measured.
struct Watching {
    child: std::process::Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Watching {
    fn begin(machine: &Machine, since: u64) -> LabResult<Self> {
        let failed = || LabError::io("watching the agent's events");
        let mut child = Command::new(script())
            .args(["ssh", &machine.id().to_string()])
            .arg(format!(
                "echo $$ >/run/evaluation.watch; exec timeout 900 xeno events --watch -o json --since {since} --limit 500"
            ))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed())?;
        let out = child
            .stdout
            .take()
            .ok_or_else(|| LabError::Check("no output".to_owned()))?;
        Ok(Self {
            child,
            lines: BufReader::new(out).lines(),
        })
    }

    /// Waits until an action is done; when that was.
    fn until_done(&mut self, action: &str) -> LabResult<u64> {
        for line in &mut self.lines {
            let line = line.map_err(LabError::io("reading the agent's events"))?;
            let event: Value = json(&line)?;
            if event["kind"] == "done" && event["text"] == action {
                return event["atMs"]
                    .as_u64()
                    .ok_or_else(|| LabError::Check(format!("no time in {line}")));
            }
            ensure(
                event["kind"] != "failed"
                    || event["text"]
                        .as_str()
                        .is_some_and(|text| text.contains("trying again")),
                || format!("the deployment failed: {line}"),
            )?;
        }
        Err(LabError::Check(format!("the events ended before {action}")))
    }

    fn end(&mut self, machine: &Machine) -> LabResult<()> {
        machine.run("kill $(cat /run/evaluation.watch)")?;
        self.child
            .wait()
            .map_err(LabError::io("ending the watch"))
            .map(drop)
    }
}

pub(super) fn number(word: &str) -> LabResult<u64> {
    word.parse()
        .map_err(|_| LabError::Check(format!("{word:?} is no number")))
}

fn json(text: &str) -> LabResult<Value> {
    serde_json::from_str(text).map_err(|error| LabError::Check(format!("{error} in {text:?}")))
}
