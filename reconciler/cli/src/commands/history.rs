//! `xeno history`: what was wanted when, and by whom.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use xeno_agent::api_client::ClientError;

use super::status;
use super::suspend::{Target, target};
use crate::commits::History;
use crate::directory;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link::{AgentArgs, wait};
use crate::output::{self, BOLD, FAINT, Format, Table, moment, paint, span};
use crate::past::{self, Step};

/// Version of the JSON form.
const FORMAT_VERSION: u32 = 1;

/// Shows what a slice, a sliver or this node has been through.
///
/// Of a slice: which commits changed what is asked for of it, and how. Commits that leave it as it was are not listed,
/// whatever else they change. Of a sliver, or of the node where none is named: what the agent accepted and carried
/// through, by which commit, and what came of it; of a sliver on another node, from the commits as well.
#[derive(Args)]
pub(crate) struct HistoryArgs {
    /// The slice, as in web, or one sliver of it, as in web/0 [default: this node].
    #[arg(value_parser = target)]
    what: Option<Target>,
    #[command(flatten)]
    agent: AgentArgs,
    /// Asks the commits, from this one back [default: HEAD].
    #[arg(long, value_name = "REV", requires = "what")]
    rev: Option<String>,
    /// Asks the commits of this repository [default: the one around the current directory].
    #[arg(long, value_name = "PATH", requires = "what")]
    repo: Option<PathBuf>,
    /// Directory of the fleet inside the repository [default: the nearest one upwards with a fleet.yaml].
    #[arg(long = "path", value_name = "SUB", requires = "what")]
    subpath: Option<String>,
    /// At most this many entries.
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &HistoryArgs) -> Outcome {
    let commits = args.rev.is_some() || args.repo.is_some();
    match &args.what {
        None => {
            let history = wait(async { Ok(args.agent.client().history(None, args.limit).await?) })?;
            lived(args.output, &history)
        }
        Some(Target::Sliver(sliver)) if !commits => {
            let asked = wait(async { Ok(args.agent.client().history(Some(sliver), args.limit).await) })?;
            match asked {
                Ok(history) => lived(args.output, &history),
                Err(ClientError::NoAgent { .. }) => {
                    output::note("no agent answers here: from the commits");
                    committed(args, &Target::Sliver(sliver.clone()))
                }
                Err(error) => Err(error.into()),
            }
        }
        Some(what) => committed(args, what),
    }
}

/// What the agent has accepted and done.
fn lived(format: Format, history: &xeno_agent::api::History) -> Outcome {
    let head = ["WHEN", "COMMIT", "SLIVER", "WHAT", "TOOK", "RESULT", "GENERATION"];
    let mut table = Table::new(&head, 6, "nothing was done yet");
    for entry in &history.entries {
        let what = entry.class.as_deref().unwrap_or(&entry.kind);
        let took = entry
            .ended_ms
            .map_or_else(|| "-".to_owned(), |end| span(end.saturating_sub(entry.at_ms)));
        table.row(vec![
            moment(entry.at_ms),
            status::short(&entry.revision),
            entry.sliver.clone().unwrap_or_else(|| "-".to_owned()),
            what.to_owned(),
            took,
            entry.text.clone(),
            entry.generation.to_string(),
        ]);
    }
    output::listing(format, &table, &json!(history))?;
    Ok(Exit::Done)
}

/// What commits have asked for.
fn committed(args: &HistoryArgs, what: &Target) -> Outcome {
    let mut history = open(args.repo.as_deref(), args.subpath.as_deref())?;
    let from = history.reader().resolve(args.rev.as_deref().unwrap_or("HEAD"))?;
    let (slice, number) = match what {
        Target::Slice(slice) => (slice, None),
        Target::Sliver(sliver) => (&sliver.slice, Some(sliver.number)),
    };
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let steps = past::of_slice(&mut history, &from, slice, number, limit)?;
    if steps.is_empty() {
        return Err(Failure::said(format!(
            "no commit before {} asks for {what}",
            from.short()
        )));
    }
    let value = || {
        json!({
            "formatVersion": FORMAT_VERSION,
            "of": what.to_string(),
            "commits": steps.iter().map(value).collect::<Vec<_>>(),
        })
    };
    match args.output {
        Format::Json => output::json(&value())?,
        Format::Yaml => output::yaml(&value())?,
        Format::Table | Format::Wide => output::styled(&steps.iter().map(text).collect::<String>())?,
    }
    Ok(Exit::Done)
}

/// The repository at `repo` or around here, and the fleet in it.
pub(crate) fn open(repo: Option<&Path>, subpath: Option<&str>) -> Outcome<History> {
    let start = repo.unwrap_or(Path::new("."));
    let subpath = match subpath {
        Some(subpath) => subpath.to_owned(),
        None => directory::below_repository(&directory::fleet_root(start))?,
    };
    History::open(start, &subpath)
}

fn text(step: &Step) -> String {
    let commit = &step.commit;
    let mut out = format!(
        "{}  {}  {}\n",
        paint(BOLD, commit.revision.short()),
        paint(
            FAINT,
            &format!("{}  {}", moment(commit.at_ms), output::clean(&commit.author))
        ),
        output::clean(&commit.subject)
    );
    for sentence in &step.did {
        out.push_str(&format!("          {}\n", output::clean(sentence)));
    }
    out
}

fn value(step: &Step) -> Value {
    let commit = &step.commit;
    json!({
        "revision": commit.revision.as_str(),
        "atMs": commit.at_ms,
        "author": commit.author,
        "subject": commit.subject,
        "changes": step.did,
    })
}
