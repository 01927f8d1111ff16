//! `xeno evacuate`: everything away from a node, in steps that all fit.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use xeno_model::desired::{Turn, Turns};
use xeno_model::id::{NodeName, SliverId};
use xeno_model::manifest::{Kind, Step as At};
use xeno_model::placement::{How, MOVES_PATH, Step, Stuck, evacuate, moves_text, standing};
use xeno_reconciler::tenure::Record;
use xeno_state::board::BoardError;
use xeno_state::holders;

use super::cordon::CORDONED;
use crate::board::BoardArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link::wait;
use crate::output::{self, BAD, BOLD, Format, Table, count};
use crate::placing::{Edits, named, node, node_of, refuse_stops};
use crate::worktree::{FileChange, IntentArgs, Worktree};

/// Finds other nodes for all slivers of a node, cordons it, and commits that with the order in which they go.
///
/// Every step fits when it is made. Where there is no room for all as things are, others go elsewhere first to make it; one
/// that is in the way of another steps aside, or is stopped meanwhile. Agents keep to the order (placement/moves.yaml), one move
/// at a time from each node. Where no place is found for all, nothing is written, and the slivers without one are told with what
/// is missing.
#[derive(Args)]
#[command(after_long_help = "\
Exit codes: 0 committed, or there is nothing to do; 1 there is no place for all, and nothing is written.

    xeno evacuate cam-01 --dry-run
    xeno evacuate cam-01 && git push
    xeno evacuate cam-01 --call-off && git push")]
pub(crate) struct Evacuate {
    /// The node.
    #[arg(value_parser = node)]
    node: NodeName,
    /// Calls off what has not been done: slivers that have not left yet are placed where they are. Asks the fleet's board.
    #[arg(long)]
    call_off: bool,
    #[command(flatten)]
    board: BoardArgs,
    #[command(flatten)]
    intent: IntentArgs,
}

pub(crate) fn run(args: &Evacuate) -> Outcome {
    let from = &args.node;
    let worktree = Worktree::open(&args.intent)?;
    let fleet = worktree.fleet();
    named(fleet, from)?;
    if args.call_off {
        return call_off(args, &worktree);
    }
    let ground = worktree.survey()?;
    let steps = evacuate(&ground, &standing(&ground, fleet), from).map_err(|stuck| shown(from, &stuck))?;
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
    // Who goes twice ends where it goes last.
    let ends: BTreeMap<&SliverId, &NodeName> = steps
        .iter()
        .filter_map(|step| match &step.how {
            How::Goes(to) => Some((&step.sliver, to)),
            How::Rests => None,
        })
        .collect();
    for (sliver, to) in &ends {
        edits.place(sliver, to)?;
    }
    let mut changes = edits.changes();
    if !steps.is_empty() {
        changes.push(order(from, &with_earlier(&fleet.turns, &steps)));
    }
    let after = worktree.after(&changes)?;
    if let Some((sliver, to)) = ends
        .iter()
        .find(|(sliver, to)| node_of(&after, sliver) != Some(**to))
    {
        return Err(Failure::said(format!("{sliver} would not be on {to} after that"))
            .hint("nothing was written; change its placement by hand".to_owned()));
    }
    refuse_stops(fleet, &after)?;
    output::styled(&table(&steps).render(Format::Table, output::terminal_columns()))?;
    let message = format!(
        "Evacuate {from}\n\n{}.",
        match (count(ends.len(), "sliver goes", "slivers go"), steps.len()) {
            (slivers, steps) if steps == ends.len() => format!("{slivers} to other nodes"),
            (slivers, steps) => format!("{slivers} to other nodes in {steps} steps"),
        }
    );
    let ended = worktree.commit(&args.intent, &message, &changes)?;
    output::note(&format!(
        "when `xeno get holders` names {from} no more, it is empty"
    ));
    Ok(ended)
}

fn order(node: &NodeName, turns: &[Turn]) -> FileChange {
    FileChange {
        path: MOVES_PATH.to_owned(),
        content: moves_text(node, turns).into_bytes(),
        executable: false,
    }
}

/// The steps behind those of an earlier order, which may be under way still.
fn with_earlier(earlier: &Turns, steps: &[Step]) -> Vec<Turn> {
    let mut ways: BTreeMap<&SliverId, BTreeSet<&NodeName>> = BTreeMap::new();
    for sliver in earlier.slivers() {
        ways.entry(sliver).or_default().extend(earlier.way(sliver));
    }
    // A way that comes by a node twice is none: who goes on from where the earlier one ends just goes there, and on.
    let mut again: BTreeSet<&SliverId> = BTreeSet::new();
    for step in steps {
        if let (How::Goes(to), Some(way)) = (&step.how, ways.get_mut(&step.sliver))
            && !way.insert(to)
        {
            again.insert(&step.sliver);
        }
    }
    let turns = earlier.kept(|sliver| !again.contains(sliver));
    let new: Vec<Turn> = steps.iter().map(|step| step.turn(&turns)).collect();
    turns.into_iter().chain(new).collect()
}

/// Places what has not left yet where it is.
fn call_off(args: &Evacuate, worktree: &Worktree) -> Outcome {
    let from = &args.node;
    let fleet = worktree.fleet();
    let nothing = || {
        output::text(&format!(
            "nothing to do: no move from {from} is in the order of moves\n"
        ))?;
        Ok(Exit::Done)
    };
    if fleet.turns.is_empty() || worktree.defining(Kind::Moves, from.as_str()).is_none() {
        return nothing();
    }
    let board = args.board.open()?;
    let known = wait(async {
        let failed = |error: BoardError| Failure::from(&error);
        holders::all(&board).await.map_err(failed)
    })?;
    let holders: BTreeMap<SliverId, NodeName> = known
        .into_iter()
        .filter_map(|(sliver, known)| match known.record {
            Record::Is(holder) => Some((sliver, holder.node?)),
            Record::Absent | Record::Unknown => None,
        })
        .collect();
    let mut edits = Edits::new(worktree);
    let mut stay = Vec::new();
    for sliver in fleet.turns.slivers() {
        let way = fleet.turns.way(sliver);
        // What the board has never heard of has not left.
        let at = holders.get(sliver).or(way.first());
        if let Some(at) = at.filter(|at| way.contains(at) && way.last() != Some(*at)) {
            edits.place(sliver, at)?;
            stay.push((sliver.clone(), at.clone()));
        }
    }
    let mut changes = edits.changes();
    changes.push(order(from, &[]));
    let after = worktree.after(&changes)?;
    refuse_stops(fleet, &after)?;
    for (sliver, at) in &stay {
        output::text(&format!("{sliver} stays on {at}\n"))?;
    }
    let message = format!(
        "Call off the evacuation of {from}\n\n{} where {}.",
        count(stay.len(), "sliver stays", "slivers stay"),
        if stay.len() == 1 { "it is" } else { "they are" },
    );
    let ended = worktree.commit(&args.intent, &message, &changes)?;
    output::note(&format!(
        "what has arrived elsewhere stays there; {from} takes nothing new until `xeno uncordon {from}`"
    ));
    Ok(ended)
}

fn table(steps: &[Step]) -> Table {
    let mut table = Table::new(
        &["STEP", "SLIVER", "FROM", "TO", "TAKES", "LEFT THERE", "AFTER"],
        7,
        "no sliver is on it",
    );
    for (i, step) in steps.iter().enumerate() {
        let after: Vec<String> = step.after.iter().map(|index| (index + 1).to_string()).collect();
        table.row(vec![
            (i + 1).to_string(),
            step.sliver.to_string(),
            step.from.to_string(),
            match &step.how {
                How::Goes(to) => to.to_string(),
                How::Rests => "(stopped meanwhile)".to_owned(),
            },
            format!("{} MiB", step.memory_mib),
            format!("{} MiB", step.left_mib),
            if after.is_empty() {
                "-".to_owned()
            } else {
                after.join(", ")
            },
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
    if stuck.short_mib > 0 {
        output::note(&format!(
            "without {from} the fleet has {} MiB too little memory",
            stuck.short_mib
        ));
    }
    let help = if stuck.certain {
        "there is no way, whatever else moves: add a node, uncordon one, or stop something"
    } else {
        "there may be a way that was not found: make room on another node, or move what can go elsewhere with `xeno migrate`"
    };
    output::note(&output::labelled(BOLD, "help", help));
    output::note("nothing was written");
    Failure::Shown
}
