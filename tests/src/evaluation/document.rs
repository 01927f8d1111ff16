//! What people read of the evaluation: `docs/evaluation.md`.

use std::fmt::Write as _;

use super::picture::{name, seconds};
use super::report::{Deployment, Emulation, Kind, Overlay, Place, Report, ratio};
use super::timeline::Owner;
use super::wire::{DELAY_MS, RATE_MBIT};

/// A goal, and what came of it.
struct Verdict {
    goal: &'static str,
    reached: String,
    holds: Holds,
}

/// Whether a goal is reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// As measured.
    Measured,
    /// Not as measured; yes, if computing took as long here as it does outside the emulation. An estimate, and no more.
    Estimated,
    /// Neither.
    No,
}

impl Holds {
    fn measured(holds: bool) -> Self {
        if holds { Self::Measured } else { Self::No }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Measured => "reached",
            Self::Estimated => "**missed** as measured; reached by the estimate",
            Self::No => "**missed**",
        }
    }
}

/// Writes all of it.
#[must_use]
pub fn write(report: &Report) -> String {
    let mut out = String::new();
    head(&mut out, report);
    goals(&mut out, report);
    sizes(&mut out, report);
    timelines(&mut out, report);
    wire(&mut out, report);
    shares(&mut out, report);
    method(&mut out, report);
    out
}

/// The goals in a few lines, for whoever waits for them.
#[must_use]
pub fn summary(report: &Report) -> String {
    let verdicts = verdicts(report).into_iter().map(|verdict| {
        let mark = if verdict.holds == Holds::Measured {
            '\u{2713}'
        } else {
            '\u{2717}'
        };
        format!("{mark} {}: {}\n", verdict.goal, verdict.reached)
    });
    verdicts.collect()
}

fn head(out: &mut String, report: &Report) {
    let _ = write!(
        out,
        "# What deploying a sliver costs\n\n\
         Written by `make eval-xen`; do not edit. Measured with {} on Xen {} in the laboratory of `tests/xen-lab`: both machines are\n\
         emulated without hardware virtualisation, dom0, hypervisor and guest sharing one emulated CPU. **Bytes, calls and shares of a\n\
         whole mean something; seconds do not**: the same program takes {} as long in dom0 as outside.\n\n",
        report.program,
        report.xen,
        factors(&report.emulation)
    );
}

fn factors(emulation: &[Emulation]) -> String {
    let factors = emulation.iter().map(Emulation::factor);
    let least = factors.clone().fold(f64::INFINITY, f64::min);
    let most = factors.fold(0.0, f64::max);
    format!("{least:.0} to {most:.0} times")
}

fn verdicts(report: &Report) -> Vec<Verdict> {
    let mut all = Vec::new();
    let root = root_bytes(report);
    if let Some(boot) = report.deployment(Kind::BootNew, Place::Far) {
        let bytes = boot.wire.bytes() + boot.commit_bytes;
        let share = 100.0 * ratio(bytes, root);
        all.push(Verdict {
            goal: "bytes to deploy a new sliver whose template is cached ≤ 2 % of its root",
            reached: format!("{} of {}: {share:.2} %", size(bytes), size(root)),
            holds: Holds::measured(share <= 2.0),
        });
    }
    let outside = report
        .emulation
        .iter()
        .map(Emulation::factor)
        .fold(f64::INFINITY, f64::min);
    for (place, limit, goal) in [
        (
            Place::Near,
            1000,
            "our own share of the time ≤ 1 s on a warm node",
        ),
        (
            Place::Far,
            3000,
            "our own share of the time ≤ 3 s with the overlay behind the slow link",
        ),
    ] {
        if let Some(boot) = report.deployment(Kind::BootNew, place) {
            let ours = boot.timeline.ours_ms();
            let waits = link_wait_ms(report, place).min(ours);
            // What waits for the wire does not become faster with the CPU; the rest does, by the least factor measured.
            let computing = ours.saturating_sub(waits);
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "milliseconds"
            )]
            let real = (computing as f64 / outside) as u64 + waits;
            all.push(Verdict {
                goal,
                reached: format!(
                    "{} of {} on the emulated CPU, {:.1} %; at the speed of this machine about {}",
                    seconds(ours),
                    seconds(boot.timeline.total_ms),
                    100.0 * ratio(ours, boot.timeline.total_ms),
                    seconds(real)
                ),
                holds: if ours <= limit {
                    Holds::Measured
                } else if real <= limit {
                    Holds::Estimated
                } else {
                    Holds::No
                },
            });
        }
    }
    for place in [Place::Near, Place::Far] {
        if let (Some(boot), Some(resume)) = (
            report.deployment(Kind::BootNew, place),
            report.deployment(Kind::ResumeSuspended, place),
        ) {
            let times = ratio(boot.timeline.total_ms, resume.timeline.total_ms);
            all.push(Verdict {
                goal: match place {
                    Place::Near | Place::ByHand => "resume ≥ 5 × faster than boot, warm node",
                    Place::Far => "resume ≥ 5 × faster than boot, slow link",
                },
                reached: format!(
                    "{} and {}: {times:.1} ×",
                    seconds(boot.timeline.total_ms),
                    seconds(resume.timeline.total_ms)
                ),
                holds: Holds::measured(times >= 5.0),
            });
        }
    }
    all
}

/// How much longer our own operations take because of the link: what stacking over it costs beyond what it costs without.
fn link_wait_ms(report: &Report, place: Place) -> u64 {
    let spent = |place| {
        let boot = report.deployment(Kind::BootNew, place)?;
        let spans = boot.timeline.spans.iter();
        Some(
            spans
                .filter(|span| span.owner == Owner::Ours && ["stack", "mount"].contains(&span.what.as_str()))
                .map(super::timeline::Span::ms)
                .sum::<u64>(),
        )
    };
    match (place, spent(Place::Near), spent(place)) {
        (Place::Far, Some(near), Some(far)) => far.saturating_sub(near),
        _ => 0,
    }
}

/// The root that is deployed: the base and the overlay of Apache.
fn root_bytes(report: &Report) -> u64 {
    report.base.bytes + report.overlays.first().map_or(0, |overlay| overlay.size.bytes)
}

fn goals(out: &mut String, report: &Report) {
    out.push_str("| goal | measured | |\n| --- | --- | --- |\n");
    for verdict in verdicts(report) {
        let word = verdict.holds.word();
        let _ = writeln!(out, "| {} | {} | {word} |", verdict.goal, verdict.reached);
    }
    out.push('\n');
    if let (Some(boot), Some(resume)) = (
        report.deployment(Kind::BootNew, Place::Near),
        report.deployment(Kind::ResumeSuspended, Place::Near),
    ) {
        let share = |one: &Deployment, owner| {
            let mut shares = one.timeline.shares().into_iter();
            shares.find(|share| share.0 == owner).map_or(0, |share| share.1)
        };
        let _ = write!(
            out,
            "A resume saves the guest its boot ({} of {} on a warm node) and nothing else: `xl` is asked and makes a domain all the same\n\
             ({} of {}). Only a guest that takes longer to boot, beside what `xl` takes, gains more.\n\n",
            seconds(share(boot, Owner::Guest)),
            seconds(boot.timeline.total_ms),
            seconds(share(resume, Owner::Asking) + share(resume, Owner::Hypervisor)),
            seconds(resume.timeline.total_ms)
        );
    }
    if let Some(boot) = report.deployment(Kind::BootNew, Place::Far) {
        let stack = boot.timeline.spans.iter().find(|span| span.what == "stack");
        let _ = write!(
            out,
            "Over the link our share is the snapshot of the overlay that *stack* takes before the guest may start: {} for {} entries, each\n\
             at least one question to the far end unless many are asked at once.\n\n",
            seconds(stack.map_or(0, super::timeline::Span::ms)),
            report.overlays.first().map_or(0, |overlay| overlay.size.entries)
        );
    }
}

fn sizes(out: &mut String, report: &Report) {
    let _ = write!(
        out,
        "## Overlays and whole roots\n\n\
         The base has Debian's packages of priority *standard* and above, without manuals and translations: {} in {} files. An overlay\n\
         is all that `apt-get install` of the service changes over it, as the kernel's overlayfs finds it, without apt's own lists and\n\
         caches; nothing else was left out.\n\n\
         | service | packages over the base | overlay | files | ten largest files | whole root | overlay / root |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        size(report.base.bytes),
        report.base.files
    );
    for overlay in &report.overlays {
        let whole = report.base.bytes + overlay.size.bytes;
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {:.0} % | {} | {:.1} % |",
            overlay.name,
            overlay.packages.len(),
            size(overlay.size.bytes),
            overlay.size.files,
            100.0 * ratio(overlay.size.ten_largest, overlay.size.bytes),
            size(whole),
            100.0 * ratio(overlay.size.bytes, whole)
        );
    }
    let _ = write!(
        out,
        "\n`openarena` (openarena-server) is the game server with big files: its data are a few archives. `minetest`\n\
         (minetest-server) is the one with small files. Packages of each: {}.\n\n",
        report
            .overlays
            .iter()
            .map(packages)
            .collect::<Vec<_>>()
            .join("; ")
    );
}

fn packages(overlay: &Overlay) -> String {
    format!("*{}*: {}", overlay.name, overlay.packages.join(", "))
}

fn timelines(out: &mut String, report: &Report) {
    out.push_str(
        "## Operation by operation\n\n![Each operation as a bar, and whose time it was](evaluation.svg)\n\n\
         Times are seconds after the push had moved the branch. What is indented lies within the operation above it.\n\n",
    );
    for deployment in &report.deployments {
        if deployment.place != Place::ByHand {
            timeline(out, deployment);
        }
    }
}

fn timeline(out: &mut String, deployment: &Deployment) {
    let _ = write!(
        out,
        "### {}: {}\n\n| operation | whose | began | took |\n| --- | --- | --- | --- |\n",
        name(deployment),
        seconds(deployment.timeline.total_ms)
    );
    for span in &deployment.timeline.spans {
        let within = matches!(span.owner, Owner::Hypervisor | Owner::Link);
        let indent = if within { "\u{2003}" } else { "" };
        if span.owner != Owner::Asking {
            let _ = writeln!(
                out,
                "| {indent}{} | {} | {} | {} |",
                span.what,
                span.owner.words(),
                seconds(span.began_ms),
                seconds(span.ms())
            );
        }
    }
    out.push('\n');
    if !deployment.timeline.marks.is_empty() {
        out.push_str("What the guest said: ");
        let marks = deployment.timeline.marks.iter();
        let marks: Vec<String> = marks
            .map(|(at, said)| format!("{} *{said}*", seconds(*at)))
            .collect();
        let _ = write!(out, "{}.\n\n", marks.join(", "));
    }
}

fn wire(out: &mut String, report: &Report) {
    let _ = write!(
        out,
        "## Bytes and messages on the wire\n\n\
         The slow link: {DELAY_MS} ms one way in each direction and {RATE_MBIT} Mbit/s (`tc netem` at both ends). Counted on the interface,\n\
         Ethernet and TCP included, from the push until the page is served. Calls are those that the far NFS server answered. *By hand* is\n\
         the same root, whole, exported by the kernel's NFS server at the far end and mounted by a guest that `xl create` made: no agent,\n\
         no plan, nobody who keeps it running, and every guest fetches everything over again. *Commit* is what git packs of the push.\n\n\
         | | bytes to the node | from it | frames | NFS calls | commit | of the root |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    );
    let root = root_bytes(report);
    for one in &report.deployments {
        let wire = &one.wire;
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {:.2} % |",
            name(one),
            size(wire.bytes_in),
            size(wire.bytes_out),
            wire.frames,
            wire.calls,
            if one.place == Place::ByHand {
                "–".to_owned()
            } else {
                size(one.commit_bytes)
            },
            100.0 * ratio(wire.bytes() + one.commit_bytes, root)
        );
    }
    if let (Some(ours), Some(hand)) = (
        report.deployment(Kind::BootNew, Place::Far),
        report.deployment(Kind::BootNew, Place::ByHand),
    ) {
        let _ = write!(
            out,
            "\nBooting by hand over the link moves {:.1} times the bytes in {:.1} times the calls, and takes {:.1} times as long.\n",
            ratio(hand.wire.bytes(), ours.wire.bytes()),
            ratio(hand.wire.calls, ours.wire.calls),
            ratio(hand.timeline.total_ms, ours.timeline.total_ms)
        );
    }
    out.push('\n');
}

fn shares(out: &mut String, report: &Report) {
    out.push_str("## Whose time it was\n\nEach moment counts once. What no other names is ours.\n\n| |");
    for owner in Owner::ALL {
        let _ = write!(out, " {} |", owner.words());
    }
    out.push_str(" all | CPU of the agent | of the file server |\n| --- |");
    out.push_str(&" --- |".repeat(Owner::ALL.len() + 3));
    out.push('\n');
    for one in &report.deployments {
        let _ = write!(out, "| {} |", name(one));
        for (_, ms) in one.timeline.shares() {
            let percent = 100.0 * ratio(ms, one.timeline.total_ms);
            let _ = write!(out, " {} ({percent:.0} %) |", seconds(ms));
        }
        let cpu = |ms| {
            if one.place == Place::ByHand {
                "–".to_owned()
            } else {
                seconds(ms)
            }
        };
        let _ = writeln!(
            out,
            " {} | {} | {} |",
            seconds(one.timeline.total_ms),
            cpu(one.agent_cpu_ms),
            cpu(one.cowfs_cpu_ms)
        );
    }
    out.push('\n');
}

fn method(out: &mut String, report: &Report) {
    out.push_str(
        "## How it was measured\n\n\
         - The sliver: Apache's overlay over the base template, one virtual CPU, 128 MiB, `local` writable layer, Debian's cloud kernel.\n\
         \x20 The template is on the node; nothing else of the sliver is. *Warm node*: the overlay is on the node's disk;\n\
         \x20 of three slivers the one that took neither longest nor shortest, boot and resume each.\n\
         - Operations are the agent's own events (`xeno events -o json`: each names when it began and ended); calls of `xl` are from the\n\
         \x20 agent's log; the hotplug script is timed by one that stands in front of it; the guest's lines are those of its console.\n\
         - A sliver is up once the agent's health check, every 500 ms, has got its page. By hand, once `curl` has.\n\
         - The guest's time holds what the file server does for it; its processor time is given beside.\n\
         - *At the speed of this machine* divides our computing by the least of these factors, and leaves the waiting for the link as it is:\n\n\
         | the same work | here | in dom0 | factor |\n| --- | --- | --- | --- |\n",
    );
    for one in &report.emulation {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {:.1} |",
            one.what,
            seconds(one.outside_ms),
            seconds(one.dom0_ms),
            one.factor()
        );
    }
}

/// Bytes in words.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", ratio(bytes, 1000)),
        _ => format!("{:.1} MB", ratio(bytes, 1_000_000)),
    }
}
