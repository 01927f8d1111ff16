//! What nodes say of their slivers, for the witnesses of rollouts: one entry a node, `summary/NODE`.
//!
//! It holds a revision, a condition and a sentence for each sliver, and no secrets. A node writes it after changes, in its
//! turn ([`Summary`](crate::board::pace::Summary)). It outlives the node's lease: whether the node is there, its sign of life says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xeno_model::id::{Digest, NodeName, SliverId, Timestamp};
use xeno_reconciler::rollout::{Condition, SliverSummary};

use crate::board::{Board, BoardError, BoardResult, Entry, Key, Prefix, Txn, VALUE_LEN_MAX, Value};

/// What a node says of its slivers.
pub type Said = BTreeMap<SliverId, SliverSummary>;

/// The folder of all summaries.
pub const SUMMARIES: &str = "summary/";

/// Version of the entries.
const FORMAT: u32 = 1;

/// Most bytes of a sentence that says what went wrong.
const WHY_LEN_MAX: usize = 120;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    slivers: BTreeMap<String, StoredSliver>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct StoredSliver {
    revision: String,
    condition: StoredCondition,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    since_ms: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StoredCondition {
    Changing,
    Healthy,
    Failed,
}

/// The entry of a node.
///
/// # Errors
/// [`BoardError::Never`] for a name that is no key, which no node of a valid model has.
pub fn key(node: &NodeName) -> BoardResult<Key> {
    Prefix::new(SUMMARIES)
        .and_then(|folder| folder.key(node))
        .map_err(|error| BoardError::never(WRITE, error.to_string()))
}

/// Says how the slivers of a node are.
///
/// # Errors
/// Those of [`Board::commit`]; [`BoardError::Never`] where they are too many for one entry.
pub async fn write(board: &impl Board, node: &NodeName, slivers: &Said) -> BoardResult<()> {
    board
        .commit(&Txn::put(key(node)?, encode(slivers)?, None))
        .await?;
    Ok(())
}

/// What a node said last of its slivers; nothing where it never has.
///
/// # Errors
/// Those of [`Board::get`]; [`BoardError::Never`] for what this version does not understand.
pub async fn read(board: &impl Board, node: &NodeName) -> BoardResult<Said> {
    let entry = board.get(&key(node)?).await?;
    entry.as_ref().map_or_else(|| Ok(BTreeMap::new()), decode)
}

/// What every node that ever said something said last. What this version does not understand is told as such.
///
/// # Errors
/// Those of [`Board::list`].
pub async fn all(board: &impl Board) -> BoardResult<Vec<(NodeName, BoardResult<Said>)>> {
    let folder = Prefix::new(SUMMARIES).map_err(|error| BoardError::never(READ, error.to_string()))?;
    let listed = board.list(&folder).await?.entries;
    let named = listed.into_iter().filter_map(|(key, entry)| {
        let node = NodeName::new(key.as_str().strip_prefix(SUMMARIES)?).ok()?;
        Some((node, decode(&entry)))
    });
    Ok(named.collect())
}

const READ: &str = "read how slivers are";
const WRITE: &str = "write how slivers are";

fn encode(slivers: &Said) -> BoardResult<Value> {
    let with_reasons = bytes(slivers, true)?;
    // A node with very many slivers that failed says of each only that.
    let bytes = if with_reasons.len() > VALUE_LEN_MAX {
        bytes(slivers, false)?
    } else {
        with_reasons
    };
    Value::new(bytes).map_err(|error| BoardError::never(WRITE, error.to_string()))
}

fn bytes(slivers: &Said, reasons: bool) -> BoardResult<Vec<u8>> {
    let stored = slivers.iter().map(|(sliver, summary)| {
        let (condition, why) = match &summary.condition {
            Condition::Changing => (StoredCondition::Changing, None),
            Condition::Healthy => (StoredCondition::Healthy, None),
            Condition::Failed { why } => (StoredCondition::Failed, Some(why).filter(|_| reasons)),
        };
        let stored = StoredSliver {
            revision: summary.revision.hex(),
            condition,
            why: why.map(|why| why.chars().take(WHY_LEN_MAX / 4).collect::<String>()),
            since_ms: summary.since.0,
        };
        (sliver.to_string(), stored)
    });
    let stored = Stored {
        format: FORMAT,
        slivers: stored.collect(),
    };
    serde_json::to_vec(&stored).map_err(|error| BoardError::never(WRITE, error.to_string()))
}

fn decode(entry: &Entry) -> BoardResult<Said> {
    let wrong = |what: String| BoardError::never(READ, what);
    let stored: Stored =
        serde_json::from_slice(entry.value.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    if stored.format != FORMAT {
        let found = stored.format;
        return Err(wrong(format!(
            "it has format {found}, and this version knows {FORMAT}"
        )));
    }
    let read = |(sliver, stored): (String, StoredSliver)| {
        let sliver = SliverId::parse(&sliver).map_err(|error| wrong(error.to_string()))?;
        let revision = Digest::parse(&format!("sha256:{}", stored.revision));
        let why = stored.why.unwrap_or_else(|| "it failed".to_owned());
        let summary = SliverSummary {
            revision: revision.map_err(|error| wrong(error.to_string()))?,
            condition: match stored.condition {
                StoredCondition::Changing => Condition::Changing,
                StoredCondition::Healthy => Condition::Healthy,
                StoredCondition::Failed => Condition::Failed {
                    why: why.chars().take(WHY_LEN_MAX).collect(),
                },
            },
            since: Timestamp(stored.since_ms),
        };
        Ok((sliver, summary))
    };
    stored.slivers.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use xeno_model::id::SliceName;

    use super::*;
    use crate::board::scripted::ScriptedBoard;

    fn many(count: u32, condition: &Condition) -> Said {
        let summary = SliverSummary {
            revision: Digest([7; 32]),
            condition: condition.clone(),
            since: Timestamp(1_700_000_000_000),
        };
        let slice = SliceName::new("web").unwrap();
        let sliver = |number| (SliverId::new(slice.clone(), number), summary.clone());
        (0..count).map(sliver).collect()
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let board = ScriptedBoard::new("a");
        let node = NodeName::new("cam-01").unwrap();
        assert!(read(&board, &node).await.unwrap().is_empty());
        let why = "it is never healthy".to_owned();
        for condition in [Condition::Changing, Condition::Healthy, Condition::Failed { why }] {
            let said = many(3, &condition);
            write(&board, &node, &said).await.unwrap();
            assert_eq!(read(&board, &node).await.unwrap(), said);
            let mut all = all(&board).await.unwrap();
            let (by, listed) = all.pop().unwrap();
            assert_eq!((by, listed.unwrap(), all.len()), (node.clone(), said, 0));
        }
    }

    #[test]
    fn a_node_full_of_slivers_that_failed_fits() {
        let why = "€".repeat(1000);
        let said = encode(&many(350, &Condition::Failed { why })).unwrap();
        let entry = Entry {
            value: said,
            revision: crate::board::Revision(1),
            lease: None,
        };
        assert_eq!(decode(&entry).unwrap().len(), 350);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in [
            "",
            "{}",
            r#"{"format":2,"slivers":{}}"#,
            r#"{"format":1,"slivers":{"x":{}}}"#,
        ] {
            let entry = Entry {
                value: Value::new(text).unwrap(),
                revision: crate::board::Revision(1),
                lease: None,
            };
            assert!(matches!(decode(&entry), Err(BoardError::Never { .. })), "{text}");
        }
    }
}
