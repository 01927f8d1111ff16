//! `xeno diff`: what two commits ask for, line by line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use xeno_agent::source::{Manifests, RepositorySnapshot};
use xeno_model::desired::DesiredFleet;
use xeno_model::id::{NodeName, SliverId};

use crate::commits::{History, Range, show};
use crate::desired_text::{self, Object, ObjectName, objects};
use crate::directory;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::output::{self, TextFormat};
use crate::unified::unified;

/// Slivers that differ alike and are named before the rest is counted.
const NAMED_MAX: usize = 6;

/// Shows what two commits ask for differently, as the nodes would read it.
///
/// Defaults are filled in and names followed, so layout, comments and order do not show, and a template's channel that
/// moves shows in every sliver that follows it. Without A..B: from HEAD to the files that lie here; with A alone, from A
/// to these. Ends with 0 if both ask for the same, 1 if they differ, and 2 on failure.
#[derive(Args)]
pub(crate) struct DiffArgs {
    /// From commit A to commit B, or from A to the files that lie here [default: HEAD].
    #[arg(value_name = "A..B")]
    range: Option<String>,
    /// Only what concerns this node.
    #[arg(long, value_name = "NAME", value_parser = super::plan::node)]
    node: Option<NodeName>,
    /// The repository [default: the one around the current directory].
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// Directory of the fleet inside the repository [default: the nearest one upwards with a fleet.yaml].
    #[arg(long = "path", value_name = "SUB")]
    subpath: Option<String>,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

/// One side of the comparison.
struct Side {
    title: String,
    objects: BTreeMap<ObjectName, Object>,
}

/// What differs, for each of the slivers or documents that differ in the same way.
struct Difference {
    names: Vec<ObjectName>,
    node: Option<NodeName>,
    before: Option<String>,
    after: Option<String>,
}

pub(crate) fn run(args: &DiffArgs) -> Outcome {
    let start = args.repo.as_deref().unwrap_or(Path::new("."));
    let root = directory::fleet_root(start);
    let subpath = match &args.subpath {
        Some(subpath) => subpath.clone(),
        None => directory::below_repository(&root)?,
    };
    let mut history = History::open(start, &subpath)?;
    let (from, to) = match &args.range {
        None => ("HEAD".to_owned(), None),
        Some(text) => match Range::parse(text)? {
            Range { from: Some(from), to } => (from, Some(to)),
            Range { from: None, to } => (to, None),
        },
    };
    let before = at_commit(&mut history, &from, args.node.as_ref())?;
    let after = match &to {
        Some(to) => at_commit(&mut history, to, args.node.as_ref())?,
        None => {
            let snapshot = directory::read(&root)?;
            let fleet = Manifests::default()
                .fleet(&snapshot)
                .map_err(|report| show(&report))?;
            side("files here".to_owned(), &snapshot, &fleet, args.node.as_ref())?
        }
    };
    let differences = differences(&before, &after);
    match args.output {
        TextFormat::Json => output::json(&json!({
            "formatVersion": FORMAT_VERSION,
            "from": before.title,
            "to": after.title,
            "differences": differences.iter().map(value).collect::<Vec<_>>(),
        }))?,
        TextFormat::Text => {
            let texts: Vec<String> = differences
                .iter()
                .map(|difference| text(difference, &before.title, &after.title))
                .collect();
            output::styled(&texts.join("\n"))?;
        }
    }
    Ok(if differences.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Version of the JSON form.
const FORMAT_VERSION: u32 = 1;

fn at_commit(history: &mut History, name: &str, only: Option<&NodeName>) -> Outcome<Side> {
    let revision = history.reader().resolve(name)?;
    let (snapshot, fleet) = history.read(&revision)?;
    let fleet = fleet.map_err(|report| show(&report))?;
    side(revision.short().to_string(), &snapshot, &fleet, only)
}

fn side(
    title: String,
    snapshot: &RepositorySnapshot,
    fleet: &DesiredFleet,
    only: Option<&NodeName>,
) -> Outcome<Side> {
    let objects = objects(snapshot, fleet, only)?;
    Ok(Side { title, objects })
}

fn differences(before: &Side, after: &Side) -> Vec<Difference> {
    let names: std::collections::BTreeSet<&ObjectName> =
        before.objects.keys().chain(after.objects.keys()).collect();
    let mut all: Vec<Difference> = Vec::new();
    // Where slivers of one slice differ in the same way, the first is shown for all.
    let mut alike: BTreeMap<(String, Option<String>, Option<String>), usize> = BTreeMap::new();
    for name in names {
        let (was, is) = (before.objects.get(name), after.objects.get(name));
        if was == is {
            continue;
        }
        if let ObjectName::Sliver(id) = name {
            let masked =
                |object: Option<&Object>| object.map(|object| desired_text::masked(&object.text, id));
            let key = (id.slice.to_string(), masked(was), masked(is));
            if let Some(first) = alike.get(&key) {
                all[*first].names.push(name.clone());
                continue;
            }
            alike.insert(key, all.len());
        }
        all.push(Difference {
            names: vec![name.clone()],
            node: is.or(was).and_then(|object| object.node.clone()),
            before: was.map(|object| with_node(name, object)),
            after: is.map(|object| with_node(name, object)),
        });
    }
    all
}

/// Where a sliver is placed is part of what is asked for, and not of the sliver.
fn with_node(name: &ObjectName, object: &Object) -> String {
    match (name, &object.node) {
        (ObjectName::Sliver(_), Some(node)) => format!("node: {node}\n{}", object.text),
        (ObjectName::Sliver(_) | ObjectName::Document { .. }, _) => object.text.clone(),
    }
}

fn text(difference: &Difference, from: &str, to: &str) -> String {
    let name = |name: &ObjectName| match name {
        ObjectName::Document { kind, name } => format!("{kind} {name}"),
        ObjectName::Sliver(id) => id.to_string(),
    };
    let mut names: Vec<String> = difference.names.iter().take(NAMED_MAX).map(name).collect();
    let more = difference.names.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        names.push(format!("and {more} more alike"));
    }
    let names = names.join(" ");
    let title = |at: &str, text: &Option<String>| match text {
        Some(_) => format!("{names}  {at}"),
        None => "/dev/null".to_owned(),
    };
    unified(
        difference.before.as_deref().unwrap_or_default(),
        difference.after.as_deref().unwrap_or_default(),
        &title(from, &difference.before),
        &title(to, &difference.after),
    )
}

fn value(difference: &Difference) -> Value {
    let documents: Vec<Value> = difference
        .names
        .iter()
        .filter_map(|name| match name {
            ObjectName::Document { kind, name } => Some(json!({ "kind": kind, "name": name })),
            ObjectName::Sliver(_) => None,
        })
        .collect();
    let slivers: Vec<&SliverId> = difference
        .names
        .iter()
        .filter_map(|name| match name {
            ObjectName::Sliver(id) => Some(id),
            ObjectName::Document { .. } => None,
        })
        .collect();
    json!({
        "documents": documents,
        "slivers": slivers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "node": difference.node.as_ref().map(ToString::to_string),
        "before": difference.before,
        "after": difference.after,
    })
}
