//! `xeno evacuate`: everything away from a node, in steps that all fit.

use clap::Args;
use xeno_model::id::NodeName;
use xeno_model::manifest::{Kind, Step as At};
use xeno_model::placement::{Step, Stuck, evacuate, leaving};

use super::cordon::CORDONED;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{self, BAD, BOLD, Format, Table, count};
use crate::placing::{Edits, named, node, node_of, refuse_stops};
use crate::worktree::{IntentArgs, Worktree};

/// Finds other nodes for all slivers of a node, cordons it, and commits that.
///
/// Only slivers of that node move. Each fits where it goes before any has left, and in whatever order they arrive. Where no
/// place is found for all, nothing is written, and the slivers without one are told with what is missing.
#[derive(Args)]
#[command(after_long_help = "\
Exit codes: 0 committed, or there is nothing on it and it is cordoned; 1 there is no place for all, and nothing is written.

    xeno evacuate cam-01 --dry-run
    xeno evacuate cam-01 && git push")]
pub(crate) struct Evacuate {
    /// The node.
    #[arg(value_parser = node)]
    node: NodeName,
    #[command(flatten)]
    intent: IntentArgs,
}

pub(crate) fn run(args: &Evacuate) -> Outcome {
    let from = &args.node;
    let worktree = Worktree::open(&args.intent)?;
    let fleet = worktree.fleet();
    named(fleet, from)?;
    let ground = worktree.survey()?;
    let steps =
        evacuate(&ground, &leaving(&ground, fleet, from), from).map_err(|stuck| shown(from, &stuck))?;
    let cordoned = fleet.cordoned.contains(from);
    if steps.is_empty() && cordoned {
        output::text(&format!("nothing to do: {from} is empty, and cordoned\n"))?;
        return Ok(Exit::Done);
    }
    let mut edits = Edits::new(&worktree);
    if !cordoned {
        edits.edit(
            Kind::Node,
            from.as_str(),
            |editor| editor.set(&CORDONED as &[At<'_>], "true"),
            "set `cordoned: true` there by hand",
        )?;
    }
    for step in &steps {
        edits.place(&step.sliver, &step.to)?;
    }
    let changes = edits.changes();
    let after = worktree.after(&changes)?;
    if let Some(step) = steps
        .iter()
        .find(|step| node_of(&after, &step.sliver) != Some(&step.to))
    {
        return Err(
            Failure::said(format!("{} would not be on {} after that", step.sliver, step.to))
                .hint("nothing was written; change its placement by hand".to_owned()),
        );
    }
    refuse_stops(fleet, &after)?;
    output::styled(&table(&steps).render(Format::Table, output::terminal_columns()))?;
    let message = format!(
        "Evacuate {from}\n\n{} to other nodes.",
        count(steps.len(), "sliver goes", "slivers go")
    );
    let ended = worktree.commit(&args.intent, &message, &changes)?;
    output::note(&format!(
        "when `xeno get holders` names {from} no more, it is empty"
    ));
    Ok(ended)
}

fn table(steps: &[Step]) -> Table {
    let mut table = Table::new(
        &["STEP", "SLIVER", "TO", "TAKES", "LEFT THERE"],
        5,
        "no sliver is on it",
    );
    for (i, step) in steps.iter().enumerate() {
        table.row(vec![
            (i + 1).to_string(),
            step.sliver.to_string(),
            step.to.to_string(),
            format!("{} MiB", step.memory_mib),
            format!("{} MiB", step.left_mib),
        ]);
    }
    table
}

fn shown(from: &NodeName, stuck: &Stuck) -> Failure {
    for left in &stuck.slivers {
        let reasons: Vec<String> = left
            .refusals
            .iter()
            .map(|(refusal, nodes)| match nodes.as_slice() {
                [node] => format!("{node}: {refusal}"),
                [node, more @ ..] => format!("{node} and {} more: {refusal}", more.len()),
                [] => refusal.to_string(),
            })
            .collect();
        let reasons = match reasons.as_slice() {
            [] => "there is no other node".to_owned(),
            reasons => reasons.join("; "),
        };
        let missing = left.missing_mib().map_or_else(String::new, |(mib, node)| {
            format!(" ({mib} MiB missing on {node})")
        });
        output::note(&output::labelled(
            BAD,
            "error",
            &format!("{} has no place{missing}: {reasons}", left.sliver),
        ));
    }
    output::note(&output::labelled(
        BOLD,
        "help",
        &format!(
            "make room on another node, or move what can go elsewhere with `xeno migrate`: only what is on {from} was moved"
        ),
    ));
    output::note("nothing was written");
    Failure::Shown
}
