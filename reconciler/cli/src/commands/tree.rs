//! `xeno tree`: who runs what, where, made of what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use xeno_agent::api::{SliverSummary, Status};
use xeno_agent::source::Manifests;
use xeno_model::desired::{DesiredFleet, DesiredSliver, LayerRef, Mount, WritableKind};
use xeno_model::id::{NodeName, SliverId};

use super::status;
use crate::commits::{History, show};
use crate::directory;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link::{AgentArgs, sliver, wait};
use crate::output::{self, BOLD, FAINT, FAIR, Format, GOOD, count, paint};

/// Shows the fleet as a tree: sites, their nodes, their slivers, and what these are made of.
///
/// What should be is read from the files here, or from a commit; what is, from the agent of this node where one answers.
#[derive(Args)]
pub(crate) struct TreeArgs {
    /// Only this sliver, and every layer of it.
    #[arg(value_parser = sliver)]
    sliver: Option<SliverId>,
    #[command(flatten)]
    agent: AgentArgs,
    /// Only what is on this node.
    #[arg(long, value_name = "NAME", value_parser = super::plan::node)]
    node: Option<NodeName>,
    /// As of this commit instead of the files that lie here.
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    /// The repository [default: the one around the current directory].
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// With --rev: directory of the fleet inside the repository [default: the nearest one upwards with a fleet.yaml].
    #[arg(long = "path", value_name = "SUB", requires = "rev")]
    subpath: Option<String>,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Version of the JSON form.
const FORMAT_VERSION: u32 = 1;

pub(crate) fn run(args: &TreeArgs) -> Outcome {
    let fleet = fleet(args)?;
    let seen = seen(args);
    let here = |node: &NodeName| seen.as_ref().filter(|seen| seen.node.name == node.as_str());
    if let Some(id) = &args.sliver {
        let place = fleet
            .slices
            .get(&id.slice)
            .and_then(|slice| slice.slivers.get(&id.number));
        let (node, sliver) = place.ok_or_else(|| {
            Failure::said(format!("there is no sliver {id}"))
                .hint("`xeno tree` shows those there are".to_owned())
        })?;
        let summary = here(node).and_then(|seen| summary(seen, id));
        match args.output {
            Format::Table | Format::Wide => output::styled(&stack(node, sliver, summary))?,
            Format::Json => output::json(&versioned(sliver_value(node, sliver, summary)))?,
            Format::Yaml => output::yaml(&versioned(sliver_value(node, sliver, summary)))?,
        }
        return Ok(Exit::Done);
    }
    if let Some(node) = &args.node
        && !fleet.nodes.contains_key(node)
    {
        let known = fleet.nodes.keys().map(NodeName::as_str);
        return Err(Failure::said(format!("there is no node {node}")).hint(
            xeno_model::diagnostic::did_you_mean(node.as_str(), known, "nodes"),
        ));
    }
    let only = |node: &NodeName| args.node.as_ref().is_none_or(|only| only == node);
    match args.output {
        Format::Table | Format::Wide => {
            let tree = tree(&fleet, &only, &here);
            output::styled(&tree.render())?;
        }
        Format::Json => output::json(&versioned(value(&fleet, &only, &here)))?,
        Format::Yaml => output::yaml(&versioned(value(&fleet, &only, &here)))?,
    }
    Ok(Exit::Done)
}

fn fleet(args: &TreeArgs) -> Outcome<DesiredFleet> {
    let start = args.repo.as_deref().unwrap_or(Path::new("."));
    let root = directory::fleet_root(start);
    let Some(rev) = &args.rev else {
        return Manifests::default()
            .fleet(&directory::read(&root)?)
            .map_err(|report| show(&report));
    };
    let subpath = match &args.subpath {
        Some(subpath) => subpath.clone(),
        None => directory::below_repository(&root)?,
    };
    let mut history = History::open(start, &subpath)?;
    let revision = history.reader().resolve(rev)?;
    history.fleet(&revision)?.map_err(|report| show(&report))
}

/// What the agent of this node sees, where one answers. That none does is nothing to complain of: the tree is of the
/// repository.
fn seen(args: &TreeArgs) -> Option<Status> {
    let client = args.agent.client();
    wait(async { Ok(client.status().await.ok()) }).ok().flatten()
}

fn summary<'a>(seen: &'a Status, id: &SliverId) -> Option<&'a SliverSummary> {
    let id = id.to_string();
    seen.slivers.iter().find(|sliver| sliver.id == id)
}

/// A line with lines below it.
struct Branch {
    line: String,
    below: Vec<Branch>,
}

impl Branch {
    fn new(line: String) -> Self {
        Self {
            line,
            below: Vec::new(),
        }
    }

    fn render(&self) -> String {
        let mut out = format!("{}\n", self.line);
        self.render_below("", &mut out);
        out
    }

    fn render_below(&self, indent: &str, out: &mut String) {
        for (i, branch) in self.below.iter().enumerate() {
            let last = i + 1 == self.below.len();
            let (arm, gap) = if last {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            out.push_str(&format!(
                "{}{}\n",
                paint(FAINT, &format!("{indent}{arm}")),
                branch.line
            ));
            branch.render_below(&format!("{indent}{gap}"), out);
        }
    }
}

fn tree<'a>(
    fleet: &DesiredFleet,
    only: &dyn Fn(&NodeName) -> bool,
    here: &dyn Fn(&NodeName) -> Option<&'a Status>,
) -> Branch {
    let placed = placed(fleet);
    let mut root = Branch::new(format!("fleet {}", paint(BOLD, fleet.name.as_str())));
    for (name, site) in &fleet.sites {
        let region = site
            .region
            .as_ref()
            .map_or_else(String::new, |region| format!("  {}", output::clean(region)));
        let mut branch = Branch::new(format!(
            "site {}{}",
            paint(BOLD, name.as_str()),
            paint(FAINT, &region)
        ));
        for (node_name, node) in fleet
            .nodes
            .iter()
            .filter(|(node_name, node)| node.site == *name && only(node_name))
        {
            let slivers = placed.get(node_name).map(Vec::as_slice).unwrap_or_default();
            let facts = format!(
                "  {}, {} MiB for guests, {}",
                node.hypervisor,
                node.memory.mib(),
                count(slivers.len(), "sliver", "slivers")
            );
            let title = format!("node {}{}", paint(BOLD, node_name.as_str()), paint(FAINT, &facts));
            let mut below = Branch::new(title);
            let ids: Vec<String> = slivers.iter().map(|sliver| sliver.id.to_string()).collect();
            let width = ids.iter().map(String::len).max().unwrap_or(0);
            let seen = here(node_name);
            for (sliver, id) in slivers.iter().zip(&ids) {
                let summary = seen.and_then(|seen| summary(seen, &sliver.id));
                let state = state(sliver, summary);
                let mut leaf = Branch::new(format!("{id:<width$}  {state}"));
                leaf.below = sliver
                    .mounts
                    .iter()
                    .map(|mount| Branch::new(layer_line(mount)))
                    .collect();
                below.below.push(leaf);
            }
            branch.below.push(below);
        }
        if !branch.below.is_empty() || fleet.nodes.values().all(|node| node.site != *name) {
            root.below.push(branch);
        }
    }
    root
}

/// Slivers by node.
fn placed(fleet: &DesiredFleet) -> BTreeMap<&NodeName, Vec<&DesiredSliver>> {
    let mut placed: BTreeMap<&NodeName, Vec<&DesiredSliver>> = BTreeMap::new();
    for (node, sliver) in fleet.slices.values().flat_map(|slice| slice.slivers.values()) {
        placed.entry(node).or_default().push(sliver);
    }
    placed
}

/// What a sliver should be, and what it is where somebody looked.
fn state(sliver: &DesiredSliver, summary: Option<&SliverSummary>) -> String {
    let desired = sliver.state.to_string();
    let Some(summary) = summary else {
        return paint(FAINT, &desired);
    };
    let settled = summary.phase == xeno_agent::api::SliverPhase::Settled;
    let mut text = match summary.domain.as_str() {
        "none" if summary.suspended => "suspended".to_owned(),
        "none" => desired.clone(),
        domain => domain.to_owned(),
    };
    if !matches!(summary.health.verdict, xeno_agent::api::HealthWord::NotAsked) {
        text.push_str(&format!(", {}", status::health(&summary.health)));
    }
    if settled {
        return paint(GOOD, &output::clean(&text));
    }
    let note = if summary.note.is_empty() {
        String::new()
    } else {
        format!(": {}", summary.note)
    };
    paint(
        FAIR,
        &output::clean(&format!("{text}, {}{note}", summary.phase.as_str())),
    )
}

/// `/  local over files f5499a245d1a over debian-web/current`
fn layer_line(mount: &Mount) -> String {
    let own = match mount.writable {
        WritableKind::ReadOnly => None,
        WritableKind::Local | WritableKind::Memory | WritableKind::Remote { .. } => {
            Some(mount.writable.to_string())
        }
    };
    let layers = mount.layers.iter().map(ToString::to_string);
    let all: Vec<String> = own.into_iter().chain(layers).collect();
    let text = if all.is_empty() {
        "empty".to_owned()
    } else {
        all.join(" over ")
    };
    format!("{}  {}", mount.path, paint(FAINT, &output::clean(&text)))
}

/// Every layer of one sliver, nearest the guest first.
fn stack(node: &NodeName, sliver: &DesiredSliver, summary: Option<&SliverSummary>) -> String {
    let mut root = Branch::new(format!(
        "{}  {} on node {node}",
        paint(BOLD, &sliver.id.to_string()),
        state(sliver, summary)
    ));
    root.below.push(Branch::new(format!(
        "kernel  {}  {}",
        sliver.kernel,
        paint(FAINT, &format!("sha256:{}…", sliver.kernel.digest.short()))
    )));
    for mount in &sliver.mounts {
        let mut branch = Branch::new(paint(BOLD, &mount.path));
        let own = match mount.writable {
            WritableKind::ReadOnly => paint(FAINT, "read-only"),
            WritableKind::Local | WritableKind::Memory | WritableKind::Remote { .. } => {
                let note = paint(FAINT, "what the guest writes");
                format!("{} {note}", output::clean(&mount.writable.to_string()))
            }
        };
        branch.below.push(Branch::new(own));
        for layer in &mount.layers {
            let line = match layer {
                LayerRef::Template(template) => {
                    format!(
                        "{layer}  {}",
                        paint(FAINT, &format!("sha256:{}…", template.digest.short()))
                    )
                }
                LayerRef::Directory { .. } | LayerRef::Remote { .. } | LayerRef::Files { .. } => {
                    output::clean(&layer.to_string())
                }
            };
            branch.below.push(Branch::new(line));
        }
        root.below.push(branch);
    }
    root.render()
}

fn versioned(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.insert("formatVersion".to_owned(), json!(FORMAT_VERSION));
    }
    value
}

fn value<'a>(
    fleet: &DesiredFleet,
    only: &dyn Fn(&NodeName) -> bool,
    here: &dyn Fn(&NodeName) -> Option<&'a Status>,
) -> Value {
    let placed = placed(fleet);
    let node_value = |name: &NodeName| {
        let seen = here(name);
        let slivers = placed.get(name).map(Vec::as_slice).unwrap_or_default();
        let slivers: Vec<Value> = slivers
            .iter()
            .map(|sliver| sliver_value(name, sliver, seen.and_then(|seen| summary(seen, &sliver.id))))
            .collect();
        json!({ "node": name.as_str(), "slivers": slivers })
    };
    let sites: Vec<Value> = fleet
        .sites
        .iter()
        .map(|(name, site)| {
            let nodes: Vec<Value> = fleet
                .nodes
                .iter()
                .filter(|(node_name, node)| node.site == *name && only(node_name))
                .map(|(node_name, _)| node_value(node_name))
                .collect();
            json!({ "site": name.as_str(), "region": site.region, "nodes": nodes })
        })
        .collect();
    json!({ "fleet": fleet.name.as_str(), "sites": sites })
}

fn sliver_value(node: &NodeName, sliver: &DesiredSliver, summary: Option<&SliverSummary>) -> Value {
    let mounts: Vec<Value> = sliver
        .mounts
        .iter()
        .map(|mount| {
            let layers: Vec<String> = mount.layers.iter().map(ToString::to_string).collect();
            json!({ "path": mount.path, "writable": mount.writable.to_string(), "layers": layers })
        })
        .collect();
    json!({
        "sliver": sliver.id.to_string(),
        "node": node.as_str(),
        "state": sliver.state.to_string(),
        "kernel": sliver.kernel.to_string(),
        "mounts": mounts,
        "seen": summary,
    })
}
