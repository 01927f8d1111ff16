//! `xeno fence`: a person's word that a node is off.

use clap::Args;
use serde_json::json;
use xeno_agent::api::FORMAT_VERSION;
use xeno_model::id::{NodeName, SliverId};
use xeno_reconciler::tenure::Record;
use xeno_state::board::BoardError;
use xeno_state::fences::{self, TEXT_LEN_MAX, Word};
use xeno_state::{holders, presence};

use super::freeze::user;
use crate::board::BoardArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link::wait;
use crate::output::{self, GOOD, TextFormat, now_ms, paint};
use crate::person;

/// Says that a node is certainly off, so that others may take over what it holds.
///
/// Only slices with `failover` are taken over, each by the node where the repository places it. Nothing that their guests have synced
/// is lost; their memory is. Make sure first: switch the machine off, or cut it from its storage. What it holds when it is back
/// it has to be fenced for again. Refused as long as the node has a sign of life.
#[derive(Args)]
#[command(after_long_help = "\
Exit codes: 0 it stands on the board; 1 refused, or not confirmed, and nothing is written.

    xeno get holders
    xeno migrate web/0 --to cam-02 && git push
    xeno fence cam-01 --confirm --reason 'pulled the plug'")]
pub(crate) struct Fence {
    /// The node.
    #[arg(value_parser = NodeName::new)]
    node: NodeName,
    #[command(flatten)]
    board: BoardArgs,
    /// It is off: without this, only what would be done is shown.
    #[arg(long)]
    confirm: bool,
    /// How you know, for whoever wonders; it stands on the board.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Asks nothing.
    #[arg(short, long)]
    yes: bool,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

pub(crate) fn run(args: &Fence) -> Outcome {
    let node = &args.node;
    person::check_reason(args.reason.as_deref(), TEXT_LEN_MAX)?;
    let board = args.board.open()?;
    let failed = |error: BoardError| Failure::from(&error);
    let (life, all) = wait(async {
        let life = presence::presence(&board, node).await.map_err(failed)?;
        let all = holders::all(&board).await.map_err(failed)?;
        Ok((life, all))
    })?;
    let alive = || {
        Failure::said(format!("{node} has a sign of life")).hint(format!(
            "a node that is off has none some seconds later; one that answers gives its slivers away by itself:\nxeno evacuate {node}"
        ))
    };
    if life.is_some() {
        return Err(alive());
    }
    let held = all.iter().filter_map(|(sliver, known)| match &known.record {
        Record::Is(holder) if holder.is(node) => Some((sliver, holder.failover)),
        Record::Is(_) | Record::Absent | Record::Unknown => None,
    });
    let (free, bound): (Vec<_>, Vec<_>) = held.partition(|(_, failover)| *failover);
    let names = |slivers: &[(&SliverId, bool)]| {
        let names: Vec<String> = slivers.iter().map(|(sliver, _)| sliver.to_string()).collect();
        names.join(" ")
    };
    output::note(&format!("{node} has no sign of life"));
    if free.is_empty() {
        output::note("it holds nothing that others may take over (`failover`)");
    } else {
        output::note(&format!("others may take over from it: {}", names(&free)));
    }
    if !bound.is_empty() {
        output::note(&format!(
            "what has no `failover` waits for it; if it is lost for good, `xeno abandon`: {}",
            names(&bound)
        ));
    }
    if !args.confirm {
        return Err(
            Failure::said(format!("nobody has said that {node} is off: nothing was written")).hint(format!(
                "switch it off, or cut it from its storage, and then:\nxeno fence {node} --confirm"
            )),
        );
    }
    let question = "If it is not off, two copies of a guest may write at once.";
    if !args.yes && !person::types(question, node.as_str(), "so", "nothing was written")? {
        return Err(Failure::said("nothing was written"));
    }
    let word = Word {
        by: user(),
        how: args.reason.clone(),
        at_ms: now_ms(),
    };
    match wait(async { fences::confirm(&board, node, &word).await.map_err(failed) })? {
        fences::Outcome::Done => {
            told(args, free.iter().map(|(sliver, _)| *sliver))?;
            Ok(Exit::Done)
        }
        fences::Outcome::Alive => Err(alive()),
    }
}

fn told<'a>(args: &Fence, free: impl Iterator<Item = &'a SliverId>) -> Outcome<()> {
    let node = &args.node;
    if args.output == TextFormat::Json {
        let free: Vec<String> = free.map(ToString::to_string).collect();
        return output::json(&json!({
            "formatVersion": FORMAT_VERSION, "node": node.to_string(), "mayBeTakenOver": free,
        }));
    }
    output::styled(&format!(
        "{}: {node} is off, and what it holds may be taken over\n",
        paint(GOOD, "confirmed")
    ))
}
