//! `xeno apply`: exactly the plan that somebody has read.

use std::path::PathBuf;

use clap::Args;
use xeno_agent::api::{ApplyAction, ApplyRequest};
use xeno_agent::api_client::ClientError;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link::{AgentArgs, wait};
use crate::output::{self, GOOD, count, paint};
use crate::plan_file;

/// Has the agent carry out a plan that `xeno plan --out FILE` wrote, and nothing else.
///
/// Refused where the agent makes another plan by now (a newer commit, another state of the node), and where the file is
/// not as it was written.
#[derive(Args)]
pub(crate) struct Apply {
    /// The plan.
    file: PathBuf,
    #[command(flatten)]
    agent: AgentArgs,
}

pub(crate) fn run(args: &Apply) -> Outcome {
    let plan = plan_file::read(&args.file)?;
    if plan.basis != "observed" {
        return Err(Failure::said(format!(
            "{} was made without looking at the node",
            args.file.display()
        ))
        .hint("`xeno plan --out FILE` without --rev asks the node's agent".to_owned()));
    }
    let request = ApplyRequest {
        node: plan.node,
        revision: plan.revision,
        generation: plan.generation,
        actions: plan
            .actions
            .into_iter()
            .map(|action| ApplyAction {
                key: action.key,
                after: action.after,
            })
            .collect(),
    };
    let applied = wait(async {
        match args.agent.client().apply(&request).await {
            Ok(applied) => Ok(applied),
            Err(ClientError::Refused { status: 409, why }) => Err(Failure::said(format!(
                "{} is stale, and nothing of it is done: {why}",
                args.file.display()
            ))
            .hint("make the plan again, and read it".to_owned())),
            Err(error) => Err(error.into()),
        }
    })?;
    if applied.actions == 0 {
        output::text(&format!(
            "nothing to carry out: {}\n",
            output::clean(&applied.summary)
        ))?;
        return Ok(Exit::Done);
    }
    let actions = count(applied.actions, "action", "actions");
    output::styled(&format!(
        "{} {actions}: {}\n",
        paint(GOOD, "applying"),
        output::clean(&applied.summary)
    ))?;
    output::note("`xeno events --watch` shows how it goes on");
    Ok(Exit::Done)
}
