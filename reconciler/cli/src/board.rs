//! The board of a fleet, as agent.toml names it, and what stands there about slivers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use xeno_agent::AgentConfig;
use xeno_agent::api::FORMAT_VERSION;
use xeno_model::id::{MigrationId, NodeName, SliverId};
use xeno_reconciler::tenure::{Holder, Record};
use xeno_state::abandoned::{self, Said};
use xeno_state::board::{AnyBoard, Board, BoardConfig, BoardError};
use xeno_state::fences::{self, Fence};
use xeno_state::holders::{self, Known};
use xeno_state::presence;

use crate::failure::{Failure, Outcome};
use crate::output::{Table, moment};

/// Where agents are configured unless they are told otherwise.
const DEFAULT_CONFIG: &str = "/etc/xenoslice/agent.toml";

/// Which board is meant.
#[derive(Args)]
pub(crate) struct BoardArgs {
    /// The agent's configuration, which says where the fleet's board is [default: /etc/xenoslice/agent.toml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl BoardArgs {
    /// Opens it. A file that is not there is not made.
    pub(crate) fn open(&self) -> Outcome<AnyBoard> {
        let path = self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
        let config = AgentConfig::read(path)
            .map_err(|error| Failure::doing(format_args!("read {}", path.display()), &error))?;
        let Some(board) = config.board else {
            return Err(Failure::said(format!(
                "{} has no [board]: this node is on its own",
                path.display()
            ))
            .hint("name the configuration of a node of the fleet with --config".to_owned()));
        };
        if let BoardConfig::Sqlite { path } = &board
            && !path.exists()
        {
            return Err(Failure::said(format!("there is no board at {}", path.display()))
                .hint("the first agent makes it: is one running?".to_owned()));
        }
        board.open().map_err(|error| Failure::from(&error))
    }
}

impl From<&BoardError> for Failure {
    fn from(error: &BoardError) -> Self {
        Self::said(crate::failure::chain(error))
    }
}

/// What a board says of all slivers.
pub(crate) struct Tenures {
    holders: Vec<(SliverId, Known)>,
    alive: BTreeSet<NodeName>,
    said: BTreeMap<SliverId, Said>,
    fences: BTreeMap<NodeName, Fence>,
}

impl Tenures {
    /// Reads it.
    pub(crate) async fn read(board: &impl Board) -> Outcome<Self> {
        let failed = |error: BoardError| Failure::from(&error);
        Ok(Self {
            holders: holders::all(board).await.map_err(failed)?,
            alive: presence::alive(board).await.map_err(failed)?,
            said: abandoned::all(board).await.map_err(failed)?.into_iter().collect(),
            fences: fences::all(board).await.map_err(failed)?.into_iter().collect(),
        })
    }

    /// For people.
    pub(crate) fn table(&self) -> Table {
        let head = &["SLIVER", "HOLDER", "SIGN OF LIFE", "EPOCH", "REMARKS"];
        let mut table = Table::new(head, 5, "no sliver has a holder yet");
        for (sliver, known) in &self.holders {
            let Record::Is(holder) = &known.record else {
                continue;
            };
            let life = holder.node.as_ref().map(|node| self.alive.contains(node));
            let life = match life {
                None => "-",
                Some(true) => "yes",
                Some(false) => "no",
            };
            let mut remarks = Vec::new();
            if let Some(memory) = &holder.memory {
                remarks.push(format!("goes on with its memory from {}", memory.keeper));
            }
            if holder.failover {
                remarks.push(match self.fence(known, holder) {
                    Some(fence) => fenced(fence),
                    None if life == "no" => "others may take over once its node is fenced".to_owned(),
                    None => "others may take over".to_owned(),
                });
            }
            if let Some(said) = self.said.get(sliver) {
                remarks.push(word(said));
            }
            table.row(vec![
                sliver.to_string(),
                name(holder),
                life.to_owned(),
                holder.epoch.0.to_string(),
                remarks.join("; "),
            ]);
        }
        table
    }

    /// The word that its holder is off, where it counts.
    fn fence(&self, known: &Known, holder: &Holder) -> Option<&Fence> {
        let fence = self.fences.get(holder.node.as_ref()?);
        fence.filter(|fence| fences::since(Some(fence), known))
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let holders = self.holders.iter().filter_map(|(sliver, known)| {
            let Record::Is(holder) = &known.record else {
                return None;
            };
            let said = self.said.get(sliver).map(|said| {
                json!({
                    "holder": said.holder.to_string(), "epoch": said.epoch.0, "by": said.word.by,
                    "reason": said.word.reason, "atMs": said.word.at_ms, "evenIfAlive": said.word.even_if_alive,
                })
            });
            let fence = self.fence(known, holder).map(|fence| {
                json!({ "by": fence.word.by, "how": fence.word.how, "atMs": fence.word.at_ms })
            });
            let mut value = record(holder);
            let own = value.as_object_mut()?;
            let alive = holder.node.as_ref().map(|node| self.alive.contains(node));
            own.insert("sliver".to_owned(), json!(sliver.to_string()));
            own.insert("signOfLife".to_owned(), json!(alive));
            own.insert("abandoned".to_owned(), json!(said));
            own.insert("fence".to_owned(), json!(fence));
            Some(value)
        });
        let holders: Vec<Value> = holders.collect();
        let alive: Vec<&str> = self.alive.iter().map(NodeName::as_str).collect();
        json!({ "formatVersion": FORMAT_VERSION, "holders": holders, "alive": alive })
    }
}

/// Who holds a sliver, for people.
pub(crate) fn name(holder: &Holder) -> String {
    holder
        .node
        .as_ref()
        .map_or_else(|| "nobody".to_owned(), ToString::to_string)
}

/// A record, for programs.
pub(crate) fn record(holder: &Holder) -> Value {
    let memory = holder.memory.as_ref().map(|memory| {
        json!({
            "migration": memory.migration.to_string(), "epoch": memory.epoch.0, "keeper": memory.keeper.to_string(),
        })
    });
    json!({
        "node": holder.node.as_ref().map(ToString::to_string), "epoch": holder.epoch.0,
        "boot": MigrationId(holder.boot.0).to_string(), "memory": memory,
        "failover": holder.failover,
    })
}

fn fenced(fence: &Fence) -> String {
    let how = fence
        .word
        .how
        .as_deref()
        .map_or_else(String::new, |how| format!(": {how}"));
    format!(
        "its node is off, says {} on {}{how}",
        fence.word.by,
        moment(fence.word.at_ms)
    )
}

fn word(said: &Said) -> String {
    let Said { holder, word, .. } = said;
    let reason = word
        .reason
        .as_deref()
        .map_or_else(String::new, |reason| format!(": {reason}"));
    format!(
        "{holder} abandoned by {} on {}{reason}",
        word.by,
        moment(word.at_ms)
    )
}
