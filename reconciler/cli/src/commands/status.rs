//! `xeno status`: the node at a glance.

use clap::Args;
use xeno_agent::api::{HealthView, HealthWord, Phase, SliverSummary, Status};

use super::freeze;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::link::{AgentArgs, wait};
use crate::output::{self, BAD, BOLD, FAINT, FAIR, Format, GOOD, Table, ago, paint, span};

/// Shows what this node runs, and what waits.
#[derive(Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &StatusArgs) -> Outcome {
    let status = wait(async { Ok(args.agent.client().status().await?) })?;
    match args.output {
        Format::Json => output::json(&status)?,
        Format::Yaml => output::yaml(&status)?,
        Format::Table | Format::Wide => output::styled(&text(&status, args.output))?,
    }
    Ok(Exit::Done)
}

fn text(status: &Status, format: Format) -> String {
    let node = &status.node;
    let now = node.now_ms;
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:<11}{text}"));
    let place = match (&node.fleet, &node.site) {
        (Some(fleet), Some(site)) => format!(" of fleet {fleet}, site {site}"),
        (Some(fleet), None) => format!(" of fleet {fleet}"),
        (None, _) => String::new(),
    };
    line(
        "node",
        format!("{}{place}", paint(BOLD, &output::clean(&node.name))),
    );
    let up = span(now.saturating_sub(node.started_ms));
    line(
        "agent",
        format!(
            "{} on {}, pid {}, up {up}",
            node.version, node.hypervisor, node.pid
        ),
    );
    let source = &status.source;
    let head = source
        .head
        .as_deref()
        .map_or_else(String::new, |head| format!(" at {}", short(head)));
    let read = source
        .read_ms
        .map_or_else(|| "never read".to_owned(), |at| format!("read {}", ago(at, now)));
    line(
        "source",
        format!(
            "{} {}{head}, {read}",
            output::clean(&source.repository),
            source.branch
        ),
    );
    if let Some(failure) = &source.failure {
        line("", paint(BAD, &output::clean(failure)));
    }
    if let Some(accepted) = &status.accepted {
        let at = ago(accepted.at_ms, now);
        line(
            "accepted",
            format!(
                "{}, generation {}, {at}",
                short(&accepted.revision),
                accepted.generation
            ),
        );
    }
    if let Some(memory) = &node.memory {
        let after = if memory.after_mib == memory.now_mib {
            String::new()
        } else {
            format!(" -> {}", memory.after_mib)
        };
        line(
            "memory",
            format!("{}{after} of {} MiB", memory.now_mib, memory.capacity_mib),
        );
    }
    line(
        "state",
        paint(phase_style(status.phase), &output::clean(&status.summary)),
    );
    if let Some(run) = &status.run {
        let doing: Vec<String> = run
            .in_flight
            .iter()
            .map(|step| format!("{} for {}", step.action, span(now.saturating_sub(step.began_ms))))
            .collect();
        line(
            "run",
            format!(
                "{} of {} steps done; now {}",
                run.ended,
                run.actions,
                doing.join(", ")
            ),
        );
    }
    // What is said of the source above is not said twice.
    let told = |problem: &&String| {
        source
            .failure
            .as_ref()
            .is_some_and(|failure| problem.contains(failure))
    };
    for problem in status.problems.iter().filter(|problem| !told(problem)) {
        line("problem", paint(BAD, &output::clean(problem)));
    }
    for freeze in &status.freezes {
        line("frozen", paint(FAIR, &freeze::line(freeze)));
    }
    if !status.strangers.is_empty() {
        line(
            "strangers",
            format!(
                "{}: shown, and never touched",
                output::clean(&status.strangers.join(", "))
            ),
        );
    }
    let mut out = lines.join("\n");
    out.push_str("\n\n");
    out.push_str(&slivers(&status.slivers).render(format, output::terminal_columns()));
    if let Some(rejected) = &status.rejected {
        let at = ago(rejected.at_ms, now);
        out.push_str(&format!(
            "\n{} commit {} was not accepted, {at}:\n\n{}\n",
            paint(BAD, "rejected:"),
            short(&rejected.revision),
            output::clean(rejected.why.trim_end())
        ));
    }
    out
}

/// Slivers for people. Memory and processors are what is asked for.
pub(crate) fn slivers(slivers: &[SliverSummary]) -> Table {
    let head = [
        "SLIVER", "STATE", "DOMAIN", "HEALTH", "AT", "NOTE", "MEMORY", "VCPUS",
    ];
    let mut table = Table::new(&head, 6, "no slivers");
    for sliver in slivers {
        let ports: Vec<&str> = sliver.ports.iter().map(|port| port.url.as_str()).collect();
        table.row(vec![
            sliver.id.clone(),
            state(sliver),
            domain(sliver),
            health(&sliver.health),
            if ports.is_empty() {
                "-".to_owned()
            } else {
                ports.join(" ")
            },
            sliver.note.clone(),
            format!("{} MiB", sliver.memory_mib),
            sliver.vcpus.to_string(),
        ]);
    }
    table
}

/// A phase, and what else is to be known at a glance.
fn state(sliver: &SliverSummary) -> String {
    let mut text = sliver.phase.as_str().to_owned();
    if sliver.frozen {
        text.push_str(", frozen");
    }
    text
}

/// What a domain does, or has done.
fn domain(sliver: &SliverSummary) -> String {
    let mut text = if sliver.suspended && sliver.domain == "none" {
        "suspended".to_owned()
    } else {
        sliver.domain.clone()
    };
    if sliver.restarts > 0 {
        text.push_str(&format!(
            ", {}",
            output::count(restarts(sliver), "restart", "restarts")
        ));
    }
    text
}

fn restarts(sliver: &SliverSummary) -> usize {
    usize::try_from(sliver.restarts).unwrap_or(usize::MAX)
}

/// A verdict in a few words.
pub(crate) fn health(health: &HealthView) -> String {
    match (health.verdict, &health.why) {
        (HealthWord::NotAsked, _) => "-".to_owned(),
        (HealthWord::Unknown, _) => "unknown".to_owned(),
        (HealthWord::Starting, _) => "starting".to_owned(),
        (HealthWord::Healthy, _) => "healthy".to_owned(),
        (HealthWord::Unhealthy, None) => "unhealthy".to_owned(),
        (HealthWord::Unhealthy, Some(why)) => format!("unhealthy: {why}"),
    }
}

/// The first digits of a commit's id.
pub(crate) fn short(revision: &str) -> String {
    output::clean(&revision.chars().take(8).collect::<String>())
}

fn phase_style(phase: Phase) -> anstyle::Style {
    match phase {
        Phase::Converged => GOOD,
        Phase::NoDesired | Phase::Looking | Phase::Stopping => FAINT,
        Phase::Working | Phase::Waiting => FAIR,
        Phase::Blind | Phase::Refused => BAD,
    }
}
