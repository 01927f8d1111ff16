//! `xeno reconcile`: look now.

use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use xeno_agent::api::{Phase, SliverPhase};
use xeno_agent::api_client::{ApiClient, ClientError};
use xeno_model::id::SliverId;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link::{AgentArgs, wait};
use crate::output::{self, GOOD, paint, span};

/// How often the agent is asked while waiting.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Has the agent read its repository and look at the node now, without waiting for what failed before.
#[derive(Args)]
pub(crate) struct Reconcile {
    #[command(flatten)]
    agent: AgentArgs,
    /// Waits until everything is as desired.
    #[arg(short, long)]
    wait: bool,
    /// With --wait: seconds until that counts as a failure.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "wait")]
    timeout: u64,
}

pub(crate) fn run(args: &Reconcile) -> Outcome {
    let client = args.agent.client();
    wait(async {
        if !args.wait {
            reconcile(&client).await?;
            output::text(
                "the agent is looking; `xeno status` and `xeno events --watch` show what comes of it\n",
            )?;
            return Ok(Exit::Done);
        }
        let began = Instant::now();
        let deadline = began + Duration::from_secs(args.timeout);
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        // Asking for a plan with a fresh repository first: what was converged before a push must not count.
        reconcile(&client).await?;
        let mut empty = client.plan(true).await?.empty;
        loop {
            let status = client.status().await?;
            // What it converged to would be an older commit than the one that was just pushed.
            let kept = || format!("meanwhile, {}", status.summary);
            if let Some(why) = &status.source.failure {
                bar.finish_and_clear();
                return Err(Failure::said(why.clone()).hint(kept()));
            }
            if let Some(rejected) = &status.rejected {
                bar.finish_and_clear();
                let short = &rejected.revision[..rejected.revision.len().min(8)];
                return Err(
                    Failure::said(format!("commit {short} was not accepted: see `xeno status`")).hint(kept()),
                );
            }
            if empty && status.phase == Phase::Converged {
                bar.finish_and_clear();
                let took = span(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
                output::styled(&format!(
                    "{} after {took}: {}\n",
                    paint(GOOD, "converged"),
                    output::clean(&status.summary)
                ))?;
                return Ok(Exit::Done);
            }
            let left = || {
                status
                    .slivers
                    .iter()
                    .filter(|sliver| !matches!(sliver.phase, SliverPhase::Settled | SliverPhase::Leftover))
            };
            // Waiting longer would change nothing.
            let for_a_person =
                status.run.is_none() && left().next().is_some() && left().all(|sliver| sliver.needs_person);
            if for_a_person || Instant::now() >= deadline {
                bar.finish_and_clear();
                let first = left().next().and_then(|sliver| SliverId::parse(&sliver.id).ok());
                let hint = match first {
                    Some(sliver) => {
                        let why = client.why(&sliver).await?;
                        Some(format!("{sliver}: {}", why.sentences.join(" ")))
                    }
                    None => None,
                };
                let what = if for_a_person {
                    format!("it does not go on by itself: {}", status.summary)
                } else {
                    format!("not converged within {} s: {}", args.timeout, status.summary)
                };
                return Err(Failure::said(what).hint(hint));
            }
            bar.set_message(output::clean(&status.summary));
            tokio::time::sleep(ASK_EVERY).await;
            empty = client.plan(false).await?.empty;
        }
    })
}

/// Says what is frozen, where that is why nothing is done.
async fn reconcile(client: &ApiClient) -> Outcome<()> {
    match client.reconcile().await {
        Ok(()) => Ok(()),
        Err(ClientError::Refused { status: 409, why }) => Err(Failure::said(why)
            .hint("`xeno get freezes` shows what is frozen, `xeno thaw` ends it".to_owned())),
        Err(error) => Err(error.into()),
    }
}
