//! `xeno events`: what happened.

use clap::Args;
use xeno_agent::api::EventView;

use crate::exit::Exit;
use crate::failure::Outcome;
use crate::link::{AgentArgs, wait};
use crate::output::{self, FAINT, TextFormat, moment, paint};

/// Shows what happened on this node.
#[derive(Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Only events after this number.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    since: u64,
    /// At most this many of what happened before.
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Goes on with what happens.
    #[arg(short, long)]
    watch: bool,
    /// Form of the result; with --watch, one JSON object on each line.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

pub(crate) fn run(args: &EventsArgs) -> Outcome {
    let client = args.agent.client();
    wait(async {
        if !args.watch {
            let events = client.events(args.since, args.limit).await?;
            match args.output {
                TextFormat::Json => output::json(&events)?,
                TextFormat::Text if events.events.is_empty() => output::text("nothing happened\n")?,
                TextFormat::Text => output::styled(&events.events.iter().map(line).collect::<String>())?,
            }
            return Ok(Exit::Done);
        }
        let mut stream = client.watch(args.since, args.limit).await?;
        while let Some(event) = stream.next().await? {
            match args.output {
                TextFormat::Json => {
                    let json = serde_json::to_string(&event)
                        .map_err(|error| crate::failure::Failure::doing("write JSON", &error))?;
                    output::text(&(json + "\n"))?;
                }
                TextFormat::Text => output::styled(&line(&event))?,
            }
        }
        output::note("the agent has ended");
        Ok(Exit::Done)
    })
}

fn line(event: &EventView) -> String {
    let sliver = event.sliver.as_deref().unwrap_or("-");
    let when = paint(FAINT, &format!("{:>6}  {}", event.seq, moment(event.at_ms)));
    // A second line of one event lies under the first.
    let text = output::clean(event.text.trim_end()).replace('\n', &format!("\n{:55}", ""));
    format!(
        "{when}  {:<14} {:<10} {text}\n",
        output::clean(&event.kind),
        output::clean(sliver)
    )
}
