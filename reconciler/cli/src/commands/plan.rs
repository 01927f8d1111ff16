//! `xeno plan`: what would be done, and why.

use std::collections::BTreeMap;
use std::io::Read;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use serde_json::{Value, json};
use xeno_agent::snapshot::{LEN_MAX, Snapshot};
use xeno_model::desired::DesiredFleet;
use xeno_model::id::{NodeName, Revision};
use xeno_reconciler::fleet_plan::{self, Asked, FleetPlan, Found, Said};
use xeno_reconciler::moving;
use xeno_reconciler::plan::Plan;
use xeno_reconciler::render::{self, Colour};

use crate::board::BoardArgs;
use crate::commits::{Commit, History, Range, empty, on_all_cores, plan_from, plans, show};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::graph;
use crate::link::{AgentArgs, wait};
use crate::output::{self, PlanFormat};
use crate::plan_document::PlanDocument;
use crate::plan_file;
use crate::summaries;

/// Shows what would be done, and why.
///
/// Asks the agent of this node, which looks at itself. With --rev nobody is asked: the plan leads from one commit to
/// another, and assumes that every node has carried out the first. With --observed it leads from what a node saw, or, with
/// --fleet, from what all nodes said; with --fleet --board from what they say now.
#[derive(Args)]
#[command(group = ArgGroup::new("offline").args(["repo", "rev", "base", "observed", "fleet"]).multiple(true).conflicts_with_all(["socket", "refresh"]))]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Has the agent read its repository first.
    #[arg(long)]
    refresh: bool,
    /// From commit A to commit B, or to B from its first parent, without an agent [default with --repo: HEAD].
    #[arg(long, value_name = "A..B")]
    rev: Option<String>,
    /// From what a node saw, as in this file, to commit B. `xeno get observed -o json` writes it there. With --fleet from what all
    /// nodes said: `xeno get summaries -o json`; `-` reads it from standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "node")]
    observed: Option<PathBuf>,
    /// The repository of --rev and --observed [default: the one around the current directory].
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// The commit to come from, as A in --rev A..B.
    #[arg(long, value_name = "A")]
    base: Option<String>,
    /// With --rev: directory of the fleet inside the repository.
    #[arg(
        long = "path",
        value_name = "SUB",
        default_value = "",
        hide_default_value = true,
        requires = "offline"
    )]
    subpath: String,
    /// With --rev: only this node.
    #[arg(long, value_name = "NAME", requires = "offline", value_parser = node)]
    node: Option<NodeName>,
    /// All nodes in one view: what happens to each slice, in which wave and at which site.
    #[arg(long, conflicts_with_all = ["node", "out"])]
    fleet: bool,
    /// With --fleet: from what the fleet's board says of all slivers, instead of from commit A.
    #[arg(long, requires = "fleet", conflicts_with = "observed")]
    board: bool,
    #[command(flatten)]
    board_args: BoardArgs,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: PlanFormat,
    /// Also writes the plan to a file, for `xeno apply`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["repo", "rev", "base"])]
    out: Option<PathBuf>,
    /// Ends with 0 if there is nothing to do, 2 if there is, 1 on failure.
    #[arg(long)]
    detailed_exitcode: bool,
}

pub(crate) fn run(args: &PlanArgs) -> Outcome {
    if args.output == PlanFormat::Markdown && !args.fleet {
        return Err(Failure::said(
            "a plan as Markdown is that of a fleet: add --fleet",
        ));
    }
    let offline = args.repo.is_some() || args.rev.is_some() || args.base.is_some() || args.fleet;
    let empty = match &args.observed {
        Some(file) if !args.fleet => observed(args, file)?,
        Some(file) => commits(args, Some(said_in(file)?))?,
        None if args.board => commits(args, Some(said_now(args)?))?,
        None if offline => commits(args, None)?,
        None => ask(args)?,
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
        PlanFormat::Json => output::json(&view.plan)?,
        PlanFormat::Text => output::styled(&coloured(&view.text))?,
        PlanFormat::Dot => output::text(&graph::dot(&[PlanDocument::read(&view.plan)?]))?,
        PlanFormat::Mermaid => output::text(&graph::mermaid(&[PlanDocument::read(&view.plan)?]))?,
        PlanFormat::Markdown => {}
    }
    if let Some(path) = &args.out {
        plan_file::write(path, &view.plan)?;
        output::note(&format!(
            "written to {0}; `xeno apply {0}` carries it out",
            path.display()
        ));
    }
    for finding in &view.findings {
        output::note(&format!(
            "{}: {finding}",
            output::paint(output::BAD, "refused by the check")
        ));
    }
    Ok(view.empty && view.findings.is_empty())
}

/// What a node saw is in a file; what is asked for, in a commit.
fn observed(args: &PlanArgs, file: &Path) -> Outcome<bool> {
    let failed =
        |error: &dyn std::error::Error| Failure::doing(format_args!("read {}", file.display()), error);
    let length = std::fs::metadata(file).map_err(|error| failed(&error))?.len();
    if length > LEN_MAX as u64 {
        return Err(Failure::said(format!(
            "{} is longer than any observation",
            file.display()
        )));
    }
    let text = std::fs::read_to_string(file).map_err(|error| failed(&error))?;
    let seen = Snapshot::from_json(&text).map_err(|error| {
        Failure::tried(&error).hint(format!(
            "write it on the node: xeno get observed -o json >{}",
            file.display()
        ))
    })?;
    let range = Range::parse(args.rev.as_deref().unwrap_or("HEAD"))?;
    if range.from.is_some() || args.base.is_some() {
        return Err(Failure::said(
            "--observed says already where to come from: leave out A..".to_owned(),
        ));
    }
    let mut history = open(args)?;
    let revision = history.reader().resolve(&range.to)?;
    let fleet = history.fleet(&revision)?.map_err(|report| show(&report))?;
    let plan = plan_from(&seen, &Commit { revision, fleet })?;
    if let Some(path) = &args.out {
        plan_file::write(path, &value(std::slice::from_ref(&plan), true)?)?;
        output::note(&format!(
            "written to {0}; `xeno apply {0}` on the node carries it out",
            path.display()
        ));
    }
    print(&[plan], args.output, true)
}

/// What all nodes said, as it stands in a file.
fn said_in(file: &Path) -> Outcome<Said> {
    let failed = |error: std::io::Error| Failure::doing(format_args!("read {}", file.display()), &error);
    let mut text = String::new();
    let mut bounded: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock().take(LEN_MAX as u64 + 1))
    } else {
        Box::new(
            std::fs::File::open(file)
                .map_err(failed)?
                .take(LEN_MAX as u64 + 1),
        )
    };
    bounded.read_to_string(&mut text).map_err(failed)?;
    if text.len() > LEN_MAX {
        return Err(Failure::said(format!(
            "{} is longer than what any fleet says",
            file.display()
        )));
    }
    summaries::from_json(&text)
}

/// What all nodes say now.
fn said_now(args: &PlanArgs) -> Outcome<Said> {
    let board = args.board_args.open()?;
    wait(async { summaries::read(&board).await })
}

fn open(args: &PlanArgs) -> Outcome<History> {
    History::open(args.repo.as_deref().unwrap_or(Path::new(".")), &args.subpath)
}

fn commits(args: &PlanArgs, said: Option<Said>) -> Outcome<bool> {
    // What was read and planned is not taken apart piece by piece: the program ends next, and of a large fleet that takes
    // longer than printing it.
    let mut history = ManuallyDrop::new(open(args)?);
    let range = Range::parse(args.rev.as_deref().unwrap_or("HEAD"))?;
    if range.from.is_some() && args.base.is_some() {
        return Err(Failure::said(
            "--rev A..B says already where to come from: leave out --base",
        ));
    }
    let revision = history.reader().resolve(&range.to)?;
    let fleet = history.fleet(&revision)?.map_err(|report| show(&report))?;
    let base = match range.from.as_ref().or(args.base.as_ref()) {
        Some(base) => Some(history.reader().resolve(base)?),
        None => history.reader().parent(&revision)?,
    };
    let before = ManuallyDrop::new(base_commit(&mut history, base)?);
    let after = ManuallyDrop::new(Commit { revision, fleet });
    if let Some(said) = said {
        let (now, found) = now(&mut history, &said, (*before).as_ref(), &after);
        let plans = plans(Some(&now), &after, None)?;
        return whole(args.output, (*before).as_ref(), &after, &plans, Some(&found));
    }
    let mut plans = ManuallyDrop::new(plans((*before).as_ref(), &after, args.node.as_ref())?);
    if args.fleet {
        return whole(args.output, (*before).as_ref(), &after, &plans, None);
    }
    if let Some(before) = before.as_ref() {
        moving::tell(&before.fleet, &after.fleet, &mut plans);
    }
    let nothing = print(&plans, args.output, args.node.is_some())?;
    if let (PlanFormat::Text, None, Some(before)) = (args.output, &args.node, before.as_ref()) {
        let order = render::order_of_moves(&before.fleet, &after.fleet);
        if !order.is_empty() {
            output::text(&format!("\n{order}"))?;
        }
    }
    Ok(nothing)
}

/// The fleet as it is, by what its nodes said, as if a commit had asked for just that.
fn now(history: &mut History, said: &Said, before: Option<&Commit>, after: &Commit) -> (Commit, Found) {
    let mut others = BTreeMap::new();
    let known = |commit: &Revision| {
        *commit == after.revision || before.is_some_and(|before| before.revision == *commit)
    };
    for key in fleet_plan::commits(said).filter(|key| !known(&key.commit)) {
        // A commit that is not here, or not understood, leaves unknown what only it could explain.
        if !others.contains_key(&key.commit)
            && let Ok(Ok(fleet)) = history.fleet(&key.commit)
        {
            others.insert(key.commit.clone(), fleet);
        }
    }
    let others: Vec<DesiredFleet> = others.into_values().collect();
    let nothing = empty(&after.fleet);
    let (base, revision) = before.map_or((&nothing, &after.revision), |before| {
        (&before.fleet, &before.revision)
    });
    let found = fleet_plan::find(said, base, &after.fleet, &others);
    let now = Commit {
        revision: revision.clone(),
        fleet: found.fleet.clone(),
    };
    (now, found)
}

/// Prints the plan of the fleet, and says whether there is nothing to do.
fn whole(
    format: PlanFormat,
    before: Option<&Commit>,
    after: &Commit,
    plans: &[Plan],
    found: Option<&Found>,
) -> Outcome<bool> {
    let plan = FleetPlan::of(before.map(asked), asked(after), plans, found);
    match format {
        PlanFormat::Text => output::styled(&fleet_plan::text(&plan, Colour::Ansi))?,
        PlanFormat::Json => output::text(&fleet_plan::json(&plan))?,
        PlanFormat::Markdown => output::text(&fleet_plan::markdown(&plan))?,
        PlanFormat::Dot | PlanFormat::Mermaid => {
            return Err(Failure::said(
                "graphs are of the actions of nodes: leave out --fleet",
            ));
        }
    }
    Ok(plan.is_empty())
}

fn asked(commit: &Commit) -> Asked<'_> {
    Asked {
        revision: &commit.revision,
        fleet: &commit.fleet,
    }
}

/// Prints plans, and says whether there is nothing to do in any.
fn print(plans: &[Plan], format: PlanFormat, single: bool) -> Outcome<bool> {
    match format {
        PlanFormat::Json => output::json(&value(plans, single)?)?,
        PlanFormat::Text => {
            let texts = on_all_cores(plans, |plan| render::marked(plan, Colour::Ansi));
            output::styled(&texts.join("\n"))?;
        }
        PlanFormat::Dot => output::text(&graph::dot(&documents(plans)?))?,
        PlanFormat::Mermaid => output::text(&graph::mermaid(&documents(plans)?))?,
        PlanFormat::Markdown => {}
    }
    Ok(plans.iter().all(render::is_empty))
}

/// The commit to come from. One that cannot be used counts as none, and that is said.
pub(crate) fn base_commit(history: &mut History, base: Option<Revision>) -> Outcome<Option<Commit>> {
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

fn values(plans: &[Plan]) -> Outcome<Vec<Value>> {
    let parsed: Result<Vec<Value>, _> = plans
        .iter()
        .map(|plan| serde_json::from_str(&render::json(plan)))
        .collect();
    parsed.map_err(|error| Failure::doing("write the plan as JSON", &error))
}

fn documents(plans: &[Plan]) -> Outcome<Vec<PlanDocument>> {
    values(plans)?.iter().map(PlanDocument::read).collect()
}

/// One plan as its own document; several in one that holds them.
fn value(plans: &[Plan], single: bool) -> Outcome<Value> {
    let mut values = values(plans)?;
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

/// Reads the name of a node from the command line.
pub(crate) fn node(text: &str) -> Result<NodeName, String> {
    NodeName::new(text).map_err(|error| error.to_string())
}
