//! What the board of a fleet says of all its slivers: for people, and as a file that a plan can be made from elsewhere.
//!
//! The form is versioned and its own. It holds revisions, conditions and sentences, and no secrets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use xeno_model::id::{Digest, NodeName, Revision, SliceName, SliverId, Timestamp};
use xeno_reconciler::fleet_plan::{NodeSaid, RolloutSaid, Said};
use xeno_reconciler::rollout::{Condition, RolloutKey, SliverSummary, Verdict};
use xeno_state::board::{Board, BoardError};
use xeno_state::{presence, rollouts, summaries};

use crate::failure::{Failure, Outcome};
use crate::output::{self, Table};

/// Version of the form.
const FORMAT_VERSION: u32 = 1;

/// The word by which a document is known.
const KIND: &str = "summaries";

/// Reads what the board says. What cannot be understood counts as not said, and that is noted.
pub(crate) async fn read(board: &impl Board) -> Outcome<Said> {
    let failed = |error: BoardError| Failure::from(&error);
    let mut said = Said::default();
    for (node, slivers) in summaries::all(board).await.map_err(failed)? {
        let slivers =
            slivers.map_err(|error| output::note(&format!("what {node} says is left out: {error}")));
        said.nodes.entry(node).or_default().slivers = slivers.ok();
    }
    for node in presence::alive(board).await.map_err(failed)? {
        said.nodes.entry(node).or_default().alive = true;
    }
    for (slice, known) in rollouts::all(board).await.map_err(failed)? {
        match known {
            Ok(known) => {
                let of = known.record.map(|record| RolloutSaid {
                    to: record.to,
                    good: record.good,
                    verdict: record.verdict,
                });
                said.rollouts.extend(of.map(|of| (slice, of)));
            }
            Err(error) => output::note(&format!("the rollout of {slice} is left out: {error}")),
        }
    }
    Ok(said)
}

/// For people.
pub(crate) fn table(said: &Said) -> Table {
    let head = &["SLIVER", "NODE", "SIGN OF LIFE", "IS", "SINCE", "REVISION", "WHY"];
    let mut table = Table::new(head, 7, "no node has said anything of its slivers yet");
    let now = output::now_ms();
    let of_nodes = said.nodes.iter().flat_map(|(node, words)| {
        let slivers = words.slivers.iter().flatten();
        slivers.map(move |(sliver, summary)| (sliver, node, words.alive, summary))
    });
    let mut all: Vec<_> = of_nodes.collect();
    all.sort_by_key(|(sliver, node, ..)| (*sliver, *node));
    for (sliver, node, alive, summary) in all {
        let (is, why) = words(&summary.condition);
        table.row(vec![
            sliver.to_string(),
            node.to_string(),
            if alive { "yes" } else { "no" }.to_owned(),
            is.to_owned(),
            output::ago(summary.since.0, now),
            summary.revision.short(),
            output::clean(why.unwrap_or_default()),
        ]);
    }
    table
}

fn words(condition: &Condition) -> (&'static str, Option<&str>) {
    match condition {
        Condition::Changing => ("changing", None),
        Condition::Healthy => ("healthy", None),
        Condition::Failed { why } => ("failed", Some(why)),
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    format_version: u32,
    kind: String,
    nodes: Vec<NodeRecord>,
    rollouts: Vec<RolloutRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeRecord {
    node: String,
    sign_of_life: bool,
    /// `null`: it has said nothing.
    slivers: Option<Vec<SliverRecord>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliverRecord {
    sliver: String,
    revision: String,
    condition: ConditionWord,
    why: Option<String>,
    since_ms: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ConditionWord {
    Changing,
    Healthy,
    Failed,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RolloutRecord {
    slice: String,
    to: KeyRecord,
    good: Option<KeyRecord>,
    verdict: VerdictWord,
    /// Who paused or ended it, or what failed.
    says: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyRecord {
    revision: String,
    commit: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum VerdictWord {
    Rolling,
    Paused,
    Held,
    Failed,
    Aborted,
    Done,
}

/// For programs, and for [`from_json`].
pub(crate) fn json(said: &Said) -> Value {
    let key = |key: &RolloutKey| KeyRecord {
        revision: key.revision.to_string(),
        commit: key.commit.to_string(),
    };
    let sliver = |(sliver, summary): (&SliverId, &SliverSummary)| SliverRecord {
        sliver: sliver.to_string(),
        revision: summary.revision.to_string(),
        condition: match summary.condition {
            Condition::Changing => ConditionWord::Changing,
            Condition::Healthy => ConditionWord::Healthy,
            Condition::Failed { .. } => ConditionWord::Failed,
        },
        why: words(&summary.condition).1.map(str::to_owned),
        since_ms: summary.since.0,
    };
    let rollout = |(slice, rollout): (&SliceName, &RolloutSaid)| {
        let (verdict, says) = match rollout.verdict.clone() {
            Verdict::Rolling => (VerdictWord::Rolling, None),
            Verdict::Paused { by } => (VerdictWord::Paused, Some(by)),
            Verdict::Held { why } => (VerdictWord::Held, Some(why)),
            Verdict::Failed { why } => (VerdictWord::Failed, Some(why)),
            Verdict::Aborted { by } => (VerdictWord::Aborted, Some(by)),
            Verdict::Done => (VerdictWord::Done, None),
        };
        RolloutRecord {
            slice: slice.to_string(),
            to: key(&rollout.to),
            good: rollout.good.as_ref().map(key),
            verdict,
            says,
        }
    };
    json!(Document {
        format_version: FORMAT_VERSION,
        kind: KIND.to_owned(),
        nodes: said
            .nodes
            .iter()
            .map(|(node, words)| NodeRecord {
                node: node.to_string(),
                sign_of_life: words.alive,
                slivers: words
                    .slivers
                    .as_ref()
                    .map(|slivers| slivers.iter().map(sliver).collect()),
            })
            .collect(),
        rollouts: said.rollouts.iter().map(rollout).collect(),
    })
}

/// Reads what [`json()`] wrote.
pub(crate) fn from_json(text: &str) -> Outcome<Said> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| Failure::doing("read the summaries", &error))?;
    if value["kind"] != KIND {
        return Err(Failure::said("it holds no summaries of a fleet").hint(
            "they come from the board: xeno get summaries -o json. What one node saw (xeno get observed) is for a plan without \
             --fleet"
                .to_owned(),
        ));
    }
    if value["formatVersion"] != FORMAT_VERSION {
        let found = &value["formatVersion"];
        return Err(Failure::said(format!(
            "its form is version {found}, and this program knows {FORMAT_VERSION}"
        )));
    }
    let document: Document =
        serde_json::from_value(value).map_err(|error| Failure::doing("read the summaries", &error))?;
    understood(document).map_err(|error| Failure::said(format!("read the summaries: {error}")))
}

fn understood(document: Document) -> Result<Said, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let key = |record: KeyRecord| {
        Ok::<_, String>(RolloutKey {
            revision: Digest::parse(&record.revision).map_err(|error| text(&error))?,
            commit: Revision::new(&record.commit).map_err(|error| text(&error))?,
        })
    };
    let mut said = Said::default();
    for NodeRecord {
        node,
        sign_of_life,
        slivers,
    } in document.nodes
    {
        let slivers = slivers.map(|slivers| {
            let read = slivers.into_iter().map(|record| {
                let why = record.why.unwrap_or_default();
                let summary = SliverSummary {
                    revision: Digest::parse(&record.revision).map_err(|error| text(&error))?,
                    condition: match record.condition {
                        ConditionWord::Changing => Condition::Changing,
                        ConditionWord::Healthy => Condition::Healthy,
                        ConditionWord::Failed => Condition::Failed { why },
                    },
                    since: Timestamp(record.since_ms),
                };
                let sliver = SliverId::parse(&record.sliver).map_err(|error| text(&error))?;
                Ok((sliver, summary))
            });
            read.collect::<Result<BTreeMap<_, _>, String>>()
        });
        let words = NodeSaid {
            alive: sign_of_life,
            slivers: slivers.transpose()?,
        };
        said.nodes
            .insert(NodeName::new(&node).map_err(|error| text(&error))?, words);
    }
    for record in document.rollouts {
        let says = record.says.unwrap_or_default();
        let rollout = RolloutSaid {
            to: key(record.to)?,
            good: record.good.map(key).transpose()?,
            verdict: match record.verdict {
                VerdictWord::Rolling => Verdict::Rolling,
                VerdictWord::Paused => Verdict::Paused { by: says },
                VerdictWord::Held => Verdict::Held { why: says },
                VerdictWord::Failed => Verdict::Failed { why: says },
                VerdictWord::Aborted => Verdict::Aborted { by: says },
                VerdictWord::Done => Verdict::Done,
            },
        };
        said.rollouts.insert(
            SliceName::new(&record.slice).map_err(|error| text(&error))?,
            rollout,
        );
    }
    Ok(said)
}
