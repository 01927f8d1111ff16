//! `xeno approve`: what waits for a person's word, and that word.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};
use xeno_agent::api::FORMAT_VERSION;
use xeno_model::id::{Digest, NodeName, SliceName, SliverId, Timestamp};
use xeno_reconciler::approval::{Ask, Grant};
use xeno_reconciler::change::Disruption;
use xeno_state::approvals::{self, Approval, TEXT_LEN_MAX};
use xeno_state::board::{Board, BoardError};

use super::freeze::user;
use crate::board::BoardArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link::wait;
use crate::output::{self, Format, Table, now_ms};

/// Shows what waits until somebody approves it, or approves it.
///
/// Where the Fleet says `approval`, nodes disturb no service by what a commit asks for until somebody lets them. What is
/// approved is that a sliver goes from what it is to what it is asked to be now, and disturbs its service no more than is
/// shown: a later push that asks for something else waits again. Mending what came apart, and going back from a rollout that
/// failed, waits for nobody.
#[derive(Args)]
#[command(after_long_help = "\
Exit codes: 0 what was named is approved, or nothing waits; 1 nothing was approved.

    xeno approve                    # what waits, and the name of that plan
    xeno approve web --plan 3fa9c1  # just that, if it is still what waits
    xeno approve --all")]
pub(crate) struct Approve {
    /// Slices or slivers whose changes are approved, as in web or web/0; without any, all that waits is shown.
    #[arg(value_name = "SLICE|SLIVER", value_parser = named)]
    what: Vec<Named>,
    /// All that waits.
    #[arg(long, conflicts_with = "what")]
    all: bool,
    /// Only if what waits is still the plan of this name, as it was shown.
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
    /// Who approves [default: this user].
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    board: BoardArgs,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Whose changes are meant.
#[derive(Clone, Debug)]
enum Named {
    Slice(SliceName),
    Sliver(SliverId),
}

fn named(text: &str) -> Result<Named, String> {
    let named = if text.contains('/') {
        SliverId::parse(text).map(Named::Sliver)
    } else {
        SliceName::new(text).map(Named::Slice)
    };
    named.map_err(|error| error.to_string())
}

/// What waits, by sliver and node.
type Waiting = BTreeMap<(SliverId, NodeName), Ask>;

pub(crate) fn run(args: &Approve) -> Outcome {
    let by = args.by.clone().unwrap_or_else(user);
    if by.len() > TEXT_LEN_MAX {
        return Err(Failure::said(format!("a name has at most {TEXT_LEN_MAX} bytes")));
    }
    let board = args.board.open()?;
    let mut waiting = wait(read(&board))?;
    // Named before any of it is left out: it is what was shown.
    let plan = name(&waiting);
    waiting.retain(|(sliver, _), _| is_meant(args, sliver));
    let approves = args.all || !args.what.is_empty();
    if let Some(asked) = &args.plan
        && !plan.starts_with(asked.as_str())
    {
        return Err(Failure::said("what waits is not that plan any more")
            .hint("see what it is now: `xeno approve`".to_owned()));
    }
    if approves {
        if waiting.is_empty() && !args.all {
            return Err(Failure::said("none of that waits for approval")
                .hint("see what does: `xeno approve`; a node asks once it has read the commit".to_owned()));
        }
        wait(grant(&board, &waiting, &by))?;
    }
    output::listing(
        args.output,
        &table(&waiting),
        &value(&waiting, &plan, approves.then_some(&by)),
    )?;
    if matches!(args.output, Format::Table | Format::Wide) && !waiting.is_empty() {
        output::note(&if approves {
            format!("approved by {by}: plan {plan}")
        } else {
            format!("plan {plan}; `xeno approve --all --plan {plan}` lets just that happen")
        });
    }
    Ok(Exit::Done)
}

fn is_meant(args: &Approve, sliver: &SliverId) -> bool {
    let names = |named: &Named| match named {
        Named::Slice(slice) => sliver.slice == *slice,
        Named::Sliver(only) => sliver == only,
    };
    args.what.is_empty() || args.what.iter().any(names)
}

/// What nodes wait for. What cannot be understood is told, and cannot be approved.
async fn read(board: &impl Board) -> Outcome<Waiting> {
    let failed = |error: BoardError| Failure::from(&error);
    let mut waiting = Waiting::new();
    for (node, asks) in approvals::asks(board).await.map_err(failed)? {
        match asks {
            Ok(asks) => waiting.extend(
                asks.into_iter()
                    .map(|(sliver, ask)| ((sliver, node.clone()), ask)),
            ),
            Err(error) => output::note(&format!("what {node} waits for is left out: {error}")),
        }
    }
    Ok(waiting)
}

async fn grant(board: &impl Board, waiting: &Waiting, by: &str) -> Outcome<()> {
    for ((sliver, _), ask) in waiting {
        let approval = Approval {
            grant: Grant(*ask),
            by: by.to_owned(),
            at: Timestamp(now_ms()),
        };
        approvals::approve(board, sliver, &approval)
            .await
            .map_err(|error| Failure::from(&error))?;
    }
    Ok(())
}

/// The name of a plan: another one where anything of it is otherwise.
fn name(waiting: &Waiting) -> String {
    let lines = waiting.iter().map(|((sliver, node), ask)| {
        let to = ask.to.map_or_else(|| "gone".to_owned(), |to| to.to_string());
        format!("{sliver} {node} {} {to} {}\n", ask.from, word(ask.disruption))
    });
    let text: String = lines.collect();
    Digest::of(text.as_bytes()).short()
}

fn word(disruption: Disruption) -> &'static str {
    match disruption {
        Disruption::None => "disturbs nothing",
        Disruption::Reconnects => "ends connections",
        Disruption::Interrupts => "interrupts",
        Disruption::Ends => "ends",
        Disruption::Destroys => "destroys",
    }
}

fn table(waiting: &Waiting) -> Table {
    let head = &["SLIVER", "NODE", "SERVICE", "FROM", "TO"];
    let mut table = Table::new(head, 5, "nothing waits for approval");
    for ((sliver, node), ask) in waiting {
        table.row(vec![
            sliver.to_string(),
            node.to_string(),
            word(ask.disruption).to_owned(),
            ask.from.short(),
            ask.to.map_or_else(|| "-".to_owned(), |to| to.short()),
        ]);
    }
    table
}

fn value(waiting: &Waiting, plan: &str, by: Option<&String>) -> Value {
    let changes = waiting.iter().map(|((sliver, node), ask)| {
        json!({
            "sliver": sliver.to_string(), "node": node.to_string(), "service": word(ask.disruption),
            "from": ask.from.to_string(), "to": ask.to.map(|to| to.to_string()),
        })
    });
    let changes: Vec<Value> = changes.collect();
    json!({ "formatVersion": FORMAT_VERSION, "plan": plan, "approvedBy": by, "changes": changes })
}
