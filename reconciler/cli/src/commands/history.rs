//! `xeno history`: what was wanted when, and by whom.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::suspend::{Target, target};
use crate::commits::History;
use crate::directory;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{self, BOLD, FAINT, TextFormat, moment, paint};
use crate::past::{self, Step};

/// Version of the JSON form.
const FORMAT_VERSION: u32 = 1;

/// Shows which commits changed what is asked for of a slice or sliver, and how.
///
/// Commits that leave it as it was are not listed, whatever else they change; one that moves a template's channel is,
/// for each slice that follows it.
#[derive(Args)]
pub(crate) struct HistoryArgs {
    /// The slice, as in web, or one sliver of it, as in web/0.
    #[arg(value_parser = target)]
    what: Target,
    /// From this commit back.
    #[arg(long, default_value = "HEAD")]
    rev: String,
    /// The repository [default: the one around the current directory].
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// Directory of the fleet inside the repository [default: the nearest one upwards with a fleet.yaml].
    #[arg(long = "path", value_name = "SUB")]
    subpath: Option<String>,
    /// At most this many commits.
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

pub(crate) fn run(args: &HistoryArgs) -> Outcome {
    let mut history = open(args.repo.as_deref(), args.subpath.as_deref())?;
    let from = history.reader().resolve(&args.rev)?;
    let (slice, number) = match &args.what {
        Target::Slice(slice) => (slice, None),
        Target::Sliver(sliver) => (&sliver.slice, Some(sliver.number)),
    };
    let steps = past::of_slice(&mut history, &from, slice, number, args.limit)?;
    if steps.is_empty() {
        return Err(Failure::said(format!(
            "no commit before {} asks for {}",
            from.short(),
            args.what
        )));
    }
    match args.output {
        TextFormat::Json => output::json(&json!({
            "formatVersion": FORMAT_VERSION,
            "of": args.what.to_string(),
            "commits": steps.iter().map(value).collect::<Vec<_>>(),
        }))?,
        TextFormat::Text => output::styled(&steps.iter().map(text).collect::<String>())?,
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
