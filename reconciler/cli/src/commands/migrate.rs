//! `xeno migrate`: another node for a sliver, where its place is written.

use clap::Args;
use xeno_model::desired::{MigrationPolicy, SliverState};
use xeno_model::id::{NodeName, SliverId};

use super::suspend::{Target, found};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::placing::{Edits, named, node, node_of, refuse_stops};
use crate::worktree::{IntentArgs, Worktree};

/// Places a sliver on another node, and commits that.
///
/// Changes the one entry that says where the sliver is: in `placement.nodes` of its slice, or in its lock. Once pushed, the
/// agents of the two nodes move it in the way that its slice asks for (`migration.policy`). Nothing is written where the
/// node has no room for it, where a port is taken there, or where the site's owner does not run it.
#[derive(Args)]
#[command(after_long_help = "\
Exit codes: 0 committed, or it is there already; 1 refused, and nothing is written.

    xeno migrate web/0 --to cam-02 && git push")]
pub(crate) struct Migrate {
    /// The sliver, as in web/0.
    #[arg(value_parser = crate::link::sliver)]
    sliver: SliverId,
    /// The node it goes to.
    #[arg(long, value_name = "NODE", value_parser = node)]
    to: NodeName,
    #[command(flatten)]
    intent: IntentArgs,
}

pub(crate) fn run(args: &Migrate) -> Outcome {
    let Migrate { sliver, to, intent } = args;
    let worktree = Worktree::open(intent)?;
    let fleet = worktree.fleet();
    let slice = found(&worktree, &Target::Sliver(sliver.clone()))?;
    named(fleet, to)?;
    let Some((from, wanted)) = slice.slivers.get(&sliver.number) else {
        return Err(Failure::said(format!("there is no sliver {sliver}")));
    };
    if from == to {
        output::text(&format!("nothing to do: {sliver} is on {to} already\n"))?;
        return Ok(Exit::Done);
    }
    if fleet.cordoned.contains(to) {
        return Err(
            Failure::said(format!("the node {to} is cordoned: it takes nothing new"))
                .hint(format!("name another, or let it again:\nxeno uncordon {to}")),
        );
    }
    let mut edits = Edits::new(&worktree);
    edits.place(sliver, to)?;
    let changes = edits.changes();
    let after = worktree.after(&changes)?;
    if node_of(&after, sliver) != Some(to) {
        return Err(Failure::said(format!("{sliver} would not be on {to} after that"))
            .hint("nothing was written; change its placement by hand".to_owned()));
    }
    refuse_stops(fleet, &after)?;
    let ended = worktree.commit(intent, &format!("Move {sliver} from {from} to {to}"), &changes)?;
    if wanted.state == SliverState::Running {
        output::note(match wanted.migration.policy {
            MigrationPolicy::Live => "then its agents move it while it runs (migration.policy: live)",
            MigrationPolicy::Suspend => {
                "then it stands still while its memory goes over (migration.policy: suspend)"
            }
            MigrationPolicy::Restart => "then it shuts down here and boots there (migration.policy: restart)",
        });
    }
    Ok(ended)
}
