//! `xeno validate`: every mistake at once, each with its line.

use std::path::{Path, PathBuf};

use clap::Args;
use xeno_agent::source::Manifests;
use xeno_model::desired::DesiredFleet;
use xeno_model::diagnostic::Report;

use crate::commits::{History, show};
use crate::directory;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::output::{self, TextFormat, count};

/// Checks the manifests of a directory, or of a commit.
#[derive(Args)]
pub(crate) struct Validate {
    /// Directory of the fleet [default: the nearest one upwards with a fleet.yaml]; with --rev, the repository.
    path: Option<PathBuf>,
    /// Checks this commit, branch or tag instead of the files that lie there.
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    /// With --rev: directory of the fleet inside the repository.
    #[arg(
        long = "path",
        value_name = "SUB",
        default_value = "",
        hide_default_value = true,
        requires = "rev"
    )]
    subpath: String,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

pub(crate) fn run(args: &Validate) -> Outcome {
    let here = Path::new(".");
    let result = match &args.rev {
        Some(rev) => {
            let mut history = History::open(args.path.as_deref().unwrap_or(here), &args.subpath)?;
            let revision = history.reader().resolve(rev)?;
            history.fleet(&revision)?
        }
        None => {
            let root = args.path.clone().unwrap_or_else(|| directory::fleet_root(here));
            Manifests::default().fleet(&directory::read(&root)?)
        }
    };
    match (result, args.output) {
        (Ok(fleet), TextFormat::Text) => {
            output::styled(&format!(
                "{}: {}\n",
                output::paint(output::GOOD, "ok"),
                describe(&fleet)
            ))?;
            Ok(Exit::Done)
        }
        (Ok(_), TextFormat::Json) => {
            output::text(&(Report::default().to_json() + "\n"))?;
            Ok(Exit::Done)
        }
        (Err(report), TextFormat::Text) => Err(show(&report)),
        (Err(report), TextFormat::Json) => {
            output::text(&(report.to_json() + "\n"))?;
            Ok(Exit::Failed)
        }
    }
}

/// `fleet demo: 1 site, 2 nodes, 1 template, 1 slice with 3 slivers`
pub(crate) fn describe(fleet: &DesiredFleet) -> String {
    let slivers: usize = fleet.slices.values().map(|slice| slice.slivers.len()).sum();
    format!(
        "fleet {}: {}, {}, {}, {} with {}",
        fleet.name,
        count(fleet.sites.len(), "site", "sites"),
        count(fleet.nodes.len(), "node", "nodes"),
        count(fleet.templates.len(), "template", "templates"),
        count(fleet.slices.len(), "slice", "slices"),
        count(slivers, "sliver", "slivers"),
    )
}
