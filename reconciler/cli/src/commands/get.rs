//! `xeno get`: listings.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use xeno_agent::api::{FORMAT_VERSION, SliverStatus, SliverSummary};
use xeno_agent::api_client::{ApiClient, ClientError};
use xeno_model::desired::{DesiredSliver, LayerRef, TemplateRef};
use xeno_model::id::SliverId;

use super::{freeze, status};
use crate::board::{BoardArgs, Tenures};
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::link::{AgentArgs, wait};
use crate::output::{self, Format, Table, bytes};
use crate::summaries;

/// Lists what this node has, or who holds the slivers of the fleet.
#[derive(Args)]
pub(crate) struct Get {
    /// What to list.
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    board: BoardArgs,
    /// Form of the listing.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// This node.
    #[value(alias = "node")]
    Nodes,
    /// Slices with slivers on this node.
    #[value(alias = "slice")]
    Slices,
    /// Slivers that are desired, applied or here.
    #[value(alias = "sliver")]
    Slivers,
    /// Templates that slivers of this node are made of.
    #[value(alias = "template")]
    Templates,
    /// What was last seen of each sliver; as JSON, all that `xeno plan --observed` needs.
    Observed,
    /// Writable layers that a removal set aside.
    #[value(alias = "tombstone")]
    Tombstones,
    /// Memory of suspended slivers.
    #[value(alias = "image")]
    Images,
    /// What the agent leaves alone because somebody said so.
    #[value(alias = "freeze")]
    Freezes,
    /// Who has the right to run which sliver of the fleet, and has a sign of life: asks the board, and no agent.
    #[value(alias = "holder")]
    Holders,
    /// How the slivers of the fleet are, as their nodes said last; as JSON, all that `xeno plan --fleet --observed` needs. Asks
    /// the board, and no agent.
    #[value(alias = "summary")]
    Summaries,
}

pub(crate) fn run(args: &Get) -> Outcome {
    let client = args.agent.client();
    let (table, value) = wait(async {
        match args.what {
            What::Nodes => nodes(&client).await,
            What::Slices => slices(&client).await,
            What::Slivers => slivers(&client, args.output).await,
            What::Templates => templates(&client).await,
            What::Observed => observed(&client, args.output).await,
            What::Tombstones => tombstones(&client).await,
            What::Images => images(&client).await,
            What::Freezes => {
                let freezes = client.freezes().await?;
                Ok((freeze::table(&freezes), json!(freezes)))
            }
            What::Holders => {
                let tenures = Tenures::read(&args.board.open()?).await?;
                Ok((tenures.table(), tenures.json()))
            }
            What::Summaries => {
                let said = summaries::read(&args.board.open()?).await?;
                Ok((summaries::table(&said), summaries::json(&said)))
            }
        }
    })?;
    output::listing(args.output, &table, &value)?;
    Ok(Exit::Done)
}

async fn nodes(client: &ApiClient) -> Outcome<(Table, Value)> {
    let status = client.status().await?;
    let node = &status.node;
    let mut table = Table::new(
        &[
            "NODE",
            "FLEET",
            "SITE",
            "HYPERVISOR",
            "MEMORY",
            "SLIVERS",
            "VERSION",
            "PID",
        ],
        6,
        "no node",
    );
    let memory = node.memory.map_or_else(
        || "?".to_owned(),
        |m| format!("{} of {} MiB", m.now_mib, m.capacity_mib),
    );
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    table.row(vec![
        node.name.clone(),
        or_dash(&node.fleet),
        or_dash(&node.site),
        node.hypervisor.clone(),
        memory,
        status.slivers.len().to_string(),
        node.version.clone(),
        node.pid.to_string(),
    ]);
    Ok((table, json!({ "formatVersion": FORMAT_VERSION, "nodes": [node] })))
}

async fn slices(client: &ApiClient) -> Outcome<(Table, Value)> {
    let mut by_slice: BTreeMap<String, Vec<SliverSummary>> = BTreeMap::new();
    for sliver in client.slivers().await?.slivers {
        let slice = sliver
            .id
            .rsplit_once('/')
            .map_or(sliver.id.as_str(), |(slice, _)| slice)
            .to_owned();
        by_slice.entry(slice).or_default().push(sliver);
    }
    let mut table = Table::new(&["SLICE", "HERE", "RUNNING", "SETTLED", "MEMORY"], 5, "no slices");
    let mut values = Vec::new();
    for (slice, slivers) in &by_slice {
        let running = slivers.iter().filter(|s| s.domain == "running").count();
        let settled = slivers
            .iter()
            .filter(|s| s.phase == xeno_agent::api::SliverPhase::Settled)
            .count();
        let memory: u64 = slivers.iter().map(|s| s.memory_mib).sum();
        table.row(vec![
            slice.clone(),
            slivers.len().to_string(),
            running.to_string(),
            settled.to_string(),
            format!("{memory} MiB"),
        ]);
        let names: Vec<&str> = slivers.iter().map(|s| s.id.as_str()).collect();
        values.push(json!({
            "slice": slice, "slivers": names, "running": running, "settled": settled, "memoryMib": memory,
        }));
    }
    Ok((
        table,
        json!({ "formatVersion": FORMAT_VERSION, "slices": values }),
    ))
}

async fn slivers(client: &ApiClient, format: Format) -> Outcome<(Table, Value)> {
    let slivers = client.slivers().await?.slivers;
    let table = status::slivers(&slivers);
    if matches!(format, Format::Table | Format::Wide) {
        return Ok((table, Value::Null));
    }
    let mut values = Vec::new();
    for status in details(client, &slivers).await? {
        let mut value = json!(status.summary);
        if let Some(object) = value.as_object_mut() {
            object.remove("id");
            object.insert("sliver".to_owned(), json!(status.summary.id));
            object.insert(
                "writableBytes".to_owned(),
                json!(status.observed.storage.as_ref().map(|s| s.bytes)),
            );
        }
        values.push(value);
    }
    Ok((
        table,
        json!({ "formatVersion": FORMAT_VERSION, "slivers": values }),
    ))
}

async fn templates(client: &ApiClient) -> Outcome<(Table, Value)> {
    let slivers = client.slivers().await?.slivers;
    let mut used: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for status in details(client, &slivers).await? {
        let Some(desired) = status.desired.as_ref().and_then(desired) else {
            continue;
        };
        for template in templates_of(&desired) {
            let by = used
                .entry((template.to_string(), template.digest.to_string()))
                .or_default();
            if !by.contains(&status.summary.id) {
                by.push(status.summary.id.clone());
            }
        }
    }
    let mut table = Table::new(
        &["TEMPLATE", "USED BY", "DIGEST"],
        2,
        "no slivers, so no templates",
    );
    let mut values = Vec::new();
    for ((name, digest), by) in &used {
        table.row(vec![name.clone(), by.join(" "), digest.clone()]);
        values.push(json!({ "template": name, "digest": digest, "usedBy": by }));
    }
    Ok((
        table,
        json!({ "formatVersion": FORMAT_VERSION, "templates": values }),
    ))
}

async fn tombstones(client: &ApiClient) -> Outcome<(Table, Value)> {
    let tombstones = client.tombstones().await?;
    let now = output::now_ms();
    let head = ["SLIVER", "SET ASIDE", "PURGED IN", "WRITTEN", "PURGED ON"];
    let mut table = Table::new(&head, 4, "nothing is set aside");
    for tombstone in &tombstones.tombstones {
        table.row(vec![
            tombstone.sliver.clone(),
            output::ago(tombstone.since_ms, now),
            output::span(tombstone.purge_ms.saturating_sub(now)),
            bytes(tombstone.bytes),
            output::moment(tombstone.purge_ms),
        ]);
    }
    Ok((table, json!(tombstones)))
}

async fn images(client: &ApiClient) -> Outcome<(Table, Value)> {
    let slivers = client.slivers().await?.slivers;
    let head = ["SLIVER", "STORED", "SIZE", "MEMORY", "RESUMES", "ON"];
    let mut table = Table::new(&head, 5, "no memory is stored");
    let mut values = Vec::new();
    for status in details(client, &slivers).await? {
        let Some(image) = &status.observed.image else {
            continue;
        };
        let resumes = match (image.sealed, image.fits) {
            (false, _) => "no: not sealed yet",
            (true, Some(true)) => "yes",
            (true, Some(false)) => "no: its disk has changed",
            (true, None) => "not known",
        };
        table.row(vec![
            status.summary.id.clone(),
            output::ago(image.at_ms, output::now_ms()),
            bytes(image.bytes),
            format!("{} MiB", image.memory_mib),
            resumes.to_owned(),
            output::moment(image.at_ms),
        ]);
        values.push(json!({ "sliver": status.summary.id, "image": image }));
    }
    Ok((
        table,
        json!({ "formatVersion": FORMAT_VERSION, "images": values }),
    ))
}

async fn observed(client: &ApiClient, format: Format) -> Outcome<(Table, Value)> {
    if matches!(format, Format::Json | Format::Yaml) {
        return Ok((Table::new(&[], 0, ""), client.observed().await?));
    }
    let slivers = client.slivers().await?.slivers;
    let head = [
        "SLIVER",
        "DOMAIN",
        "MEMORY",
        "STORAGE",
        "WRITTEN",
        "BLIND",
        "BOOTED AS",
        "STACK",
    ];
    let mut table = Table::new(&head, 6, "nothing of any sliver is here");
    for status in details(client, &slivers).await? {
        let seen = &status.observed;
        let dash = || "-".to_owned();
        let storage = seen.storage.as_ref().map_or_else(dash, |storage| {
            match (storage.tombstone_ms, storage.open_epoch, storage.exported) {
                (Some(_), _, _) => "set aside".to_owned(),
                (None, Some(epoch), true) => format!("served, epoch {epoch}"),
                (None, Some(epoch), false) => format!("open, epoch {epoch}"),
                (None, None, _) if storage.on_disk => "on disk".to_owned(),
                (None, None, _) => dash(),
            }
        });
        table.row(vec![
            status.summary.id.clone(),
            seen.domain
                .as_ref()
                .map_or_else(dash, |domain| domain.state.clone()),
            seen.domain
                .as_ref()
                .map_or_else(dash, |domain| format!("{} MiB", domain.memory_mib)),
            storage,
            seen.storage
                .as_ref()
                .map_or_else(dash, |storage| bytes(storage.bytes)),
            if seen.blind.is_empty() {
                dash()
            } else {
                seen.blind.join("; ")
            },
            seen.domain
                .as_ref()
                .map_or_else(dash, |domain| domain.booted.clone()),
            seen.storage
                .as_ref()
                .and_then(|storage| storage.stack.clone())
                .unwrap_or_else(dash),
        ]);
    }
    Ok((table, Value::Null))
}

/// Everything about each sliver; one that went away meanwhile is left out.
async fn details(client: &ApiClient, slivers: &[SliverSummary]) -> Outcome<Vec<SliverStatus>> {
    let mut all = Vec::new();
    for id in slivers
        .iter()
        .filter_map(|sliver| SliverId::parse(&sliver.id).ok())
    {
        match client.describe(&id).await {
            Ok(status) => all.push(status),
            Err(ClientError::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

/// The desired sliver that an answer carries in canonical form.
pub(crate) fn desired(value: &Value) -> Option<DesiredSliver> {
    xeno_model::normal::from_json(&value.to_string()).ok()
}

fn templates_of(sliver: &DesiredSliver) -> Vec<&TemplateRef> {
    let layers = sliver
        .mounts
        .iter()
        .flat_map(|mount| &mount.layers)
        .filter_map(|layer| match layer {
            LayerRef::Template(template) => Some(template),
            LayerRef::Directory { .. } | LayerRef::Files { .. } | LayerRef::Remote { .. } => None,
        });
    std::iter::once(&sliver.kernel).chain(layers).collect()
}
