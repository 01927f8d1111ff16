//! `xeno freeze` and `xeno thaw`: leave something on a node alone for a while.

use clap::Args;
use xeno_agent::api::{FreezeRequest, FreezeView, Freezes, ScopeView, ThawRequest};
use xeno_agent::api_client::{ApiClient, ClientError};
use xeno_model::units::Millis;

use super::suspend::{Target, target};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link::{AgentArgs, wait};
use crate::output::{self, FAIR, GOOD, Table, ago, moment, paint, span};

/// Has the agent leave this node, a slice or a sliver on it as it is.
///
/// Guests run on and are watched; nothing is started, stopped or changed. The plan shows what waits for it. A freeze
/// survives the agent, and ends when its time is over or somebody thaws it.
#[derive(Args)]
pub(crate) struct Freeze {
    /// This node by its name, a slice as in web, or a sliver as in web/0 [default: this node].
    #[arg(value_name = "NODE|SLICE|SLIVER", value_parser = target)]
    what: Option<Target>,
    /// Why, for whoever wonders.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// For how long, as in 30m or 2h [default: until somebody thaws it].
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    time: Option<Millis>,
    /// Who says so [default: this user].
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    agent: AgentArgs,
}

/// Has the agent go on with what was frozen.
#[derive(Args)]
pub(crate) struct Thaw {
    /// As it was frozen [default: this node].
    #[arg(value_name = "NODE|SLICE|SLIVER", value_parser = target)]
    what: Option<Target>,
    #[command(flatten)]
    agent: AgentArgs,
}

pub(crate) fn freeze(args: &Freeze) -> Outcome {
    if args.reason.trim().is_empty() {
        return Err(Failure::said("a freeze needs a reason").hint("say it with --reason TEXT".to_owned()));
    }
    let client = args.agent.client();
    let (scope, freezes) = wait(async {
        let scope = scope(&client, args.what.as_ref()).await?;
        let request = FreezeRequest {
            scope: scope.clone(),
            reason: args.reason.clone(),
            by: args.by.clone().unwrap_or_else(user),
            for_ms: args.time.map(|time| time.0),
        };
        Ok((scope, client.freeze(&request).await?))
    })?;
    let until = freezes
        .freezes
        .iter()
        .find(|freeze| freeze.scope == scope)
        .and_then(|freeze| freeze.until_ms);
    let until = until.map_or_else(|| "somebody thaws it".to_owned(), moment);
    output::styled(&format!(
        "{} until {until}\n",
        paint(FAIR, &format!("{scope} is frozen"))
    ))?;
    Ok(Exit::Done)
}

pub(crate) fn thaw(args: &Thaw) -> Outcome {
    let client = args.agent.client();
    let (scope, left) = wait(async {
        let scope = scope(&client, args.what.as_ref()).await?;
        match client.thaw(&ThawRequest { scope: scope.clone() }).await {
            Ok(left) => Ok((scope, left)),
            Err(ClientError::Refused { status: 404, .. }) => {
                Err(Failure::said(format!("{scope} is not frozen"))
                    .hint("`xeno get freezes` shows what is".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    })?;
    output::styled(&format!("{}\n", paint(GOOD, &format!("{scope} is thawed"))))?;
    for freeze in &left.freezes {
        output::note(&format!("still frozen: {}", line(freeze)));
    }
    Ok(Exit::Done)
}

/// What is meant on the node whose agent is asked.
async fn scope(client: &ApiClient, what: Option<&Target>) -> Outcome<ScopeView> {
    let name = match what {
        None => return Ok(ScopeView::Node),
        Some(Target::Sliver(sliver)) => return Ok(ScopeView::Sliver(sliver.to_string())),
        Some(Target::Slice(slice)) => slice.to_string(),
    };
    let status = client.status().await?;
    let prefix = format!("{name}/");
    let is_slice = status.slivers.iter().any(|sliver| sliver.id.starts_with(&prefix));
    match (status.node.name == name, is_slice) {
        (true, true) => Err(
            Failure::said(format!("{name} is both this node and a slice on it"))
                .hint("leave it out for the node, or name each sliver".to_owned()),
        ),
        (true, false) => Ok(ScopeView::Node),
        (false, _) => Ok(ScopeView::Slice(name)),
    }
}

/// Freezes for people.
pub(crate) fn table(freezes: &Freezes) -> Table {
    let head = ["FROZEN", "BY", "SINCE", "UNTIL", "REASON"];
    let mut table = Table::new(&head, 5, "nothing is frozen");
    for freeze in &freezes.freezes {
        table.row(vec![
            freeze.scope.to_string(),
            freeze.by.clone(),
            ago(freeze.since_ms, output::now_ms()),
            freeze.until_ms.map_or_else(|| "thawed".to_owned(), moment),
            freeze.reason.clone(),
        ]);
    }
    table
}

/// A freeze in a line: `web by eve, 2 h left: audit`.
pub(crate) fn line(freeze: &FreezeView) -> String {
    let left = freeze.until_ms.map_or_else(
        || "until somebody thaws it".to_owned(),
        |until| format!("{} left", span(until.saturating_sub(output::now_ms()))),
    );
    output::clean(&format!(
        "{} by {}, {left}: {}",
        freeze.scope, freeze.by, freeze.reason
    ))
}

fn time(text: &str) -> Result<Millis, String> {
    Millis::parse(text).map_err(|error| format!("{error} (as in 30m or 2h)"))
}

/// Who this is, as far as the environment says.
pub(super) fn user() -> String {
    let named = |name| std::env::var(name).ok().filter(|user| !user.is_empty());
    named("USER")
        .or_else(|| named("LOGNAME"))
        .unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()))
}
