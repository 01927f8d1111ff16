//! `xeno plan`: what would be done, and why.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use xeno_model::id::NodeName;
use xeno_reconciler::plan::Plan;
use xeno_reconciler::render::{self, Colour};

use crate::commits::{Commit, History, plans, show};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link::{AgentArgs, wait};
use crate::output::{self, TextFormat};

/// Shows what would be done, and why.
///
/// Asks the agent of this node, which looks at itself. With --repo nobody is asked: the plan leads from one commit to
/// another, and assumes that every node has carried out the first.
#[derive(Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Has the agent read its repository first.
    #[arg(long, conflicts_with = "repo")]
    refresh: bool,
    /// Plans from commit to commit in this repository, without an agent.
    #[arg(long, value_name = "PATH", conflicts_with = "socket")]
    repo: Option<PathBuf>,
    /// With --repo: the commit to go to.
    #[arg(long, default_value = "HEAD", requires = "repo")]
    rev: String,
    /// With --repo: the commit to come from [default: the first parent of --rev].
    #[arg(long, value_name = "REV", requires = "repo")]
    base: Option<String>,
    /// With --repo: directory of the fleet inside the repository.
    #[arg(
        long = "path",
        value_name = "SUB",
        default_value = "",
        hide_default_value = true,
        requires = "repo"
    )]
    subpath: String,
    /// With --repo: only this node.
    #[arg(long, value_name = "NAME", requires = "repo", value_parser = node)]
    node: Option<NodeName>,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
    /// Ends with 0 if there is nothing to do, 2 if there is, 1 on failure.
    #[arg(long)]
    detailed_exitcode: bool,
}

pub(crate) fn run(args: &PlanArgs) -> Outcome {
    let empty = match &args.repo {
        None => ask(args)?,
        Some(path) => offline(args, path)?,
    };
    Ok(if args.detailed_exitcode && !empty {
        Exit::Changes
    } else {
        Exit::Done
    })
}

fn ask(args: &PlanArgs) -> Outcome<bool> {
    let view = wait(async { Ok(args.agent.client().plan(args.refresh).await?) })?;
    match args.output {
        TextFormat::Json => output::json(&view.plan)?,
        TextFormat::Text => output::styled(&coloured(&view.text))?,
    }
    for finding in &view.findings {
        output::note(&format!(
            "{}: {finding}",
            output::paint(output::BAD, "refused by the check")
        ));
    }
    Ok(view.empty && view.findings.is_empty())
}

fn offline(args: &PlanArgs, path: &std::path::Path) -> Outcome<bool> {
    let mut history = History::open(path, &args.subpath)?;
    let revision = history.reader().resolve(&args.rev)?;
    let fleet = history.fleet(&revision)?.map_err(|report| show(&report))?;
    let base = match &args.base {
        Some(base) => Some(history.reader().resolve(base)?),
        None => history.reader().parent(&revision)?,
    };
    let before = base_commit(&mut history, base)?;
    let after = Commit { revision, fleet };
    let plans = plans(before.as_ref(), &after, args.node.as_ref())?;
    match args.output {
        TextFormat::Json => output::json(&value(&plans, args.node.is_some())?)?,
        TextFormat::Text => {
            let texts: Vec<String> = plans
                .iter()
                .map(|plan| render::text(plan, Colour::Ansi))
                .collect();
            output::styled(&texts.join("\n"))?;
        }
    }
    Ok(plans.iter().all(render::is_empty))
}

/// The commit to come from. One that cannot be used counts as none, and that is said.
pub(crate) fn base_commit(
    history: &mut History,
    base: Option<xeno_model::id::Revision>,
) -> Outcome<Option<Commit>> {
    let Some(revision) = base else {
        return Ok(None);
    };
    match history.fleet(&revision) {
        Ok(Ok(fleet)) => Ok(Some(Commit { revision, fleet })),
        // Also a commit from before the fleet's directory was there.
        Ok(Err(_)) | Err(_) => {
            output::note(&format!(
                "commit {} cannot be used as a base: planning as if nothing ran anywhere",
                revision.short()
            ));
            Ok(None)
        }
    }
}

/// One plan as its own document; several in one that holds them.
fn value(plans: &[Plan], single: bool) -> Outcome<Value> {
    let parsed: Result<Vec<Value>, _> = plans
        .iter()
        .map(|plan| serde_json::from_str(&render::json(plan)))
        .collect();
    let mut values = parsed.map_err(|error| Failure::doing("write the plan as JSON", &error))?;
    if single && values.len() == 1 {
        return Ok(values.remove(0));
    }
    Ok(json!({ "formatVersion": render::FORMAT_VERSION, "plans": values }))
}

/// The agent sends text without colours; the marks at the beginning of lines get theirs back.
fn coloured(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let style = match line.get(..2) {
            Some("+ " | "> ") => Some(output::GOOD),
            Some("~ " | "! ") => Some(output::FAIR),
            Some("- ") => Some(output::BAD),
            Some("= ") => Some(output::FAINT),
            Some(_) | None => None,
        };
        match style {
            Some(style) => {
                out.push_str(&output::paint(style, &line[..1]));
                out.push_str(&line[1..]);
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

fn node(text: &str) -> Result<NodeName, String> {
    NodeName::new(text).map_err(|error| error.to_string())
}
