//! `xeno overlay checkpoints` and `restore`: what a sliver can go back to, and going back.

use clap::Args;
use xeno_agent::api::RestoreRequest;
use xeno_model::id::SliverId;

use crate::exit::Exit;
use crate::failure::Outcome;
use crate::link::{AgentArgs, sliver, wait};
use crate::output::{self, Format, GOOD, Table, TextFormat, moment, paint};

#[derive(Args)]
pub(crate) struct Checkpoints {
    /// The sliver, as in web/0.
    #[arg(value_parser = sliver)]
    sliver: SliverId,
    /// Form of the listing.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
    #[command(flatten)]
    agent: AgentArgs,
}

#[derive(Args)]
pub(crate) struct Restore {
    /// The sliver, as in web/0.
    #[arg(value_parser = sliver)]
    sliver: SliverId,
    /// Name of the checkpoint.
    checkpoint: String,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
    #[command(flatten)]
    agent: AgentArgs,
}

pub(super) fn list(args: &Checkpoints) -> Outcome {
    let client = args.agent.client();
    let found = wait(async { Ok(client.checkpoints(&args.sliver).await?) })?;
    if args.output == TextFormat::Json {
        return output::json(&found).map(|()| Exit::Done);
    }
    let mut table = Table::new(&["CHECKPOINT", "MADE", "BY"], 3, "there are no checkpoints");
    for checkpoint in &found.checkpoints {
        let by = if checkpoint.by_agent { "agent" } else { "a person" };
        table.row(vec![
            checkpoint.name.clone(),
            moment(checkpoint.at_ms),
            by.to_owned(),
        ]);
    }
    output::styled(&table.render(Format::Table, None))?;
    Ok(Exit::Done)
}

pub(super) fn restore(args: &Restore) -> Outcome {
    let client = args.agent.client();
    let request = RestoreRequest {
        checkpoint: args.checkpoint.clone(),
    };
    let restored = wait(async { Ok(client.restore(&args.sliver, &request).await?) })?;
    if args.output == TextFormat::Json {
        return output::json(&restored).map(|()| Exit::Done);
    }
    let done = format!("{} is at {} again", restored.sliver, restored.checkpoint);
    output::styled(&format!(
        "{}\nwhat was undone is kept as {}\n",
        paint(GOOD, &done),
        restored.kept
    ))?;
    Ok(Exit::Done)
}
