//! `xeno cordon` and `xeno uncordon`: whether a node gets anything new, said in its manifest.

use clap::Args;
use xeno_model::id::NodeName;
use xeno_model::manifest::{Kind, Step};

use crate::exit::Exit;
use crate::failure::Outcome;
use crate::output;
use crate::placing::{Edits, named, node};
use crate::worktree::{IntentArgs, Worktree};

/// Has a node take nothing new, and commits that: `cordoned: true` in its manifest.
///
/// What is on the node stays there and runs. `xeno place` finds other nodes for what is new or has to move, and `xeno migrate`
/// refuses to put anything there.
#[derive(Args)]
pub(crate) struct Cordon {
    /// The node.
    #[arg(value_parser = node)]
    node: NodeName,
    #[command(flatten)]
    intent: IntentArgs,
}

/// Lets a node take slivers again, and commits that.
#[derive(Args)]
pub(crate) struct Uncordon {
    /// The node.
    #[arg(value_parser = node)]
    node: NodeName,
    #[command(flatten)]
    intent: IntentArgs,
}

pub(crate) fn cordon(args: &Cordon) -> Outcome {
    set(&args.intent, &args.node, true)
}

pub(crate) fn uncordon(args: &Uncordon) -> Outcome {
    set(&args.intent, &args.node, false)
}

/// Where a node's manifest says it.
pub(super) const CORDONED: [Step<'static>; 2] = [Step::Key("spec"), Step::Key("cordoned")];

fn set(args: &IntentArgs, node: &NodeName, cordoned: bool) -> Outcome {
    let worktree = Worktree::open(args)?;
    named(worktree.fleet(), node)?;
    if worktree.fleet().cordoned.contains(node) == cordoned {
        let now = if cordoned {
            "is cordoned already"
        } else {
            "is not cordoned"
        };
        output::text(&format!("nothing to do: {node} {now}\n"))?;
        return Ok(Exit::Done);
    }
    let mut edits = Edits::new(&worktree);
    edits.edit(
        Kind::Node,
        node.as_str(),
        |editor| editor.set(&CORDONED, if cordoned { "true" } else { "false" }),
        &format!("set `cordoned: {cordoned}` there by hand"),
    )?;
    let verb = if cordoned { "Cordon" } else { "Uncordon" };
    let ended = worktree.commit(args, &format!("{verb} {node}"), &edits.changes())?;
    if cordoned {
        let there = worktree
            .fleet()
            .slices
            .values()
            .flat_map(|slice| slice.slivers.values());
        let there = there.filter(|(at, _)| at == node).count();
        output::note(&format!(
            "{} on it {} there",
            output::count(there, "sliver", "slivers"),
            if there == 1 { "stays" } else { "stay" }
        ));
    }
    Ok(ended)
}
