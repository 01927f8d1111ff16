//! What nodes ask people to approve, and what people did: `ask/NODE`, all that a node waits for, and `grant/SLICE/NUMBER`, the
//! last approval for a sliver.
//!
//! [`xeno_reconciler::approval`] says what they mean. Neither goes with a lease: an approval stands until another takes its place.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xeno_model::id::{Digest, NodeName, SliverId, Timestamp};
use xeno_reconciler::approval::{Ask, Grant};
use xeno_reconciler::change::Disruption;

use crate::board::{Board, BoardError, BoardResult, Entry, Key, Prefix, Txn, Value};

/// The folder of what is asked for.
pub const ASKS: &str = "ask/";

/// The folder of what is approved.
pub const GRANTS: &str = "grant/";

/// Version of the entries. Readers refuse a later one: what is half understood is not approved.
const FORMAT: u32 = 1;

/// The longest name of who approves, in bytes.
pub const TEXT_LEN_MAX: usize = 256;

/// An approval, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// What it allows.
    pub grant: Grant,
    /// Who gave it.
    pub by: String,
    /// When, by the clock of the machine where it was given.
    pub at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredAsks {
    format: u32,
    asks: BTreeMap<String, StoredAsk>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredAsk {
    from: String,
    to: Option<String>,
    disruption: Word,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct StoredGrant {
    format: u32,
    from: String,
    to: Option<String>,
    disruption: Word,
    by: String,
    at_ms: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Word {
    None,
    Reconnects,
    Interrupts,
    Ends,
    Destroys,
}

impl From<Disruption> for Word {
    fn from(disruption: Disruption) -> Self {
        match disruption {
            Disruption::None => Self::None,
            Disruption::Reconnects => Self::Reconnects,
            Disruption::Interrupts => Self::Interrupts,
            Disruption::Ends => Self::Ends,
            Disruption::Destroys => Self::Destroys,
        }
    }
}

impl From<Word> for Disruption {
    fn from(word: Word) -> Self {
        match word {
            Word::None => Self::None,
            Word::Reconnects => Self::Reconnects,
            Word::Interrupts => Self::Interrupts,
            Word::Ends => Self::Ends,
            Word::Destroys => Self::Destroys,
        }
    }
}

fn ask(from: &str, to: Option<&str>, disruption: Word) -> Result<Ask, String> {
    let digest = |text: &str| Digest::parse(text).map_err(|error| error.to_string());
    Ok(Ask {
        from: digest(from)?,
        to: to.map(digest).transpose()?,
        disruption: disruption.into(),
    })
}

/// Says what a node waits for; nothing more, where that is nothing.
///
/// # Errors
/// Those of [`Board::commit`]; [`BoardError::Never`] where it is too much for one entry.
pub async fn write_asks(
    board: &impl Board,
    node: &NodeName,
    asks: &BTreeMap<SliverId, Ask>,
) -> BoardResult<()> {
    let stored = StoredAsks {
        format: FORMAT,
        asks: asks
            .iter()
            .map(|(sliver, ask)| {
                let stored = StoredAsk {
                    from: ask.from.to_string(),
                    to: ask.to.map(|to| to.to_string()),
                    disruption: ask.disruption.into(),
                };
                (sliver.to_string(), stored)
            })
            .collect(),
    };
    let key = key(ASKS, node, WRITE)?;
    board.commit(&Txn::put(key, value(&stored)?, None)).await?;
    Ok(())
}

/// What all nodes wait for. What this version does not understand is told as such.
///
/// # Errors
/// Those of [`Board::list`].
pub async fn asks(board: &impl Board) -> BoardResult<Vec<(NodeName, BoardResult<BTreeMap<SliverId, Ask>>)>> {
    let folder = Prefix::new(ASKS).map_err(|error| BoardError::never(READ, error.to_string()))?;
    let listed = board.list(&folder).await?.entries;
    let named = listed.into_iter().filter_map(|(key, entry)| {
        let node = NodeName::new(key.as_str().strip_prefix(ASKS)?).ok()?;
        Some((node, decode_asks(&entry)))
    });
    Ok(named.collect())
}

/// Approves a change of a sliver, in the place of whatever was approved for it before.
///
/// # Errors
/// Those of [`Board::commit`]; after [`BoardError::Unknown`] it can be said again.
pub async fn approve(board: &impl Board, sliver: &SliverId, approval: &Approval) -> BoardResult<()> {
    if approval.by.len() > TEXT_LEN_MAX {
        return Err(BoardError::never(
            WRITE,
            format!("a name has at most {TEXT_LEN_MAX} bytes"),
        ));
    }
    let Grant(granted) = approval.grant;
    let stored = StoredGrant {
        format: FORMAT,
        from: granted.from.to_string(),
        to: granted.to.map(|to| to.to_string()),
        disruption: granted.disruption.into(),
        by: approval.by.clone(),
        at_ms: approval.at.0,
    };
    let key = key(GRANTS, sliver, WRITE)?;
    board.commit(&Txn::put(key, value(&stored)?, None)).await?;
    Ok(())
}

/// What is approved for a sliver.
///
/// # Errors
/// Those of [`Board::get`]; [`BoardError::Never`] for what this version does not understand.
pub async fn approved(board: &impl Board, sliver: &SliverId) -> BoardResult<Option<Approval>> {
    let entry = board.get(&key(GRANTS, sliver, READ)?).await?;
    entry.as_ref().map(decode_grant).transpose()
}

const READ: &str = "read what is approved";
const WRITE: &str = "write what is approved";

fn key(folder: &str, name: impl std::fmt::Display, what: &'static str) -> BoardResult<Key> {
    Prefix::new(folder)
        .and_then(|folder| folder.key(name))
        .map_err(|error| BoardError::never(what, error.to_string()))
}

fn value(stored: &impl Serialize) -> BoardResult<Value> {
    let bytes = serde_json::to_vec(stored).map_err(|error| BoardError::never(WRITE, error.to_string()))?;
    Value::new(bytes).map_err(|error| BoardError::never(WRITE, error.to_string()))
}

fn known(format: u32) -> BoardResult<()> {
    if format == FORMAT {
        return Ok(());
    }
    let why = format!("it has format {format}, and this version knows {FORMAT}");
    Err(BoardError::never(READ, why))
}

fn decode_asks(entry: &Entry) -> BoardResult<BTreeMap<SliverId, Ask>> {
    let wrong = |what: String| BoardError::never(READ, what);
    let stored: StoredAsks =
        serde_json::from_slice(entry.value.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    known(stored.format)?;
    let read = stored.asks.into_iter().map(|(sliver, stored)| {
        let sliver = SliverId::parse(&sliver).map_err(|error| wrong(error.to_string()))?;
        let ask = ask(&stored.from, stored.to.as_deref(), stored.disruption).map_err(wrong)?;
        Ok((sliver, ask))
    });
    read.collect()
}

fn decode_grant(entry: &Entry) -> BoardResult<Approval> {
    let wrong = |what: String| BoardError::never(READ, what);
    let stored: StoredGrant =
        serde_json::from_slice(entry.value.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    known(stored.format)?;
    let granted = ask(&stored.from, stored.to.as_deref(), stored.disruption).map_err(wrong)?;
    Ok(Approval {
        grant: Grant(granted),
        by: stored.by,
        at: Timestamp(stored.at_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::scripted::ScriptedBoard;

    fn sliver() -> SliverId {
        SliverId::parse("web/3").unwrap()
    }

    #[tokio::test]
    async fn what_is_asked_for_and_approved_is_read_again() {
        let board = ScriptedBoard::new("a");
        let node = NodeName::new("cam-01").unwrap();
        assert_eq!(approved(&board, &sliver()).await.unwrap(), None);
        for (to, disruption) in [
            (Some(Digest([2; 32])), Disruption::None),
            (Some(Digest([2; 32])), Disruption::Reconnects),
            (None, Disruption::Interrupts),
            (None, Disruption::Ends),
            (None, Disruption::Destroys),
        ] {
            let from = Digest([1; 32]);
            let ask = Ask { from, to, disruption };
            let all = BTreeMap::from([(sliver(), ask)]);
            write_asks(&board, &node, &all).await.unwrap();
            let (by, said) = asks(&board).await.unwrap().pop().unwrap();
            assert_eq!((by, said.unwrap()), (node.clone(), all));
            let approval = Approval {
                grant: Grant(ask),
                by: "ada".to_owned(),
                at: Timestamp(7),
            };
            approve(&board, &sliver(), &approval).await.unwrap();
            assert_eq!(approved(&board, &sliver()).await.unwrap(), Some(approval));
        }
        write_asks(&board, &node, &BTreeMap::new()).await.unwrap();
        let (_, said) = asks(&board).await.unwrap().pop().unwrap();
        assert!(said.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_is_not_understood_is_not_approved() {
        let board = ScriptedBoard::new("a");
        let from = Digest([1; 32]);
        for text in [
            String::new(),
            "{}".to_owned(),
            format!(r#"{{"format":2,"from":"{from}","to":null,"disruption":"ends","by":"ada","atMs":7}}"#),
            format!(r#"{{"format":1,"from":"{from}","to":null,"disruption":"all","by":"ada","atMs":7}}"#),
        ] {
            let key = key(GRANTS, sliver(), READ).unwrap();
            let put = Txn::put(key, Value::new(text.clone()).unwrap(), None);
            board.commit(&put).await.unwrap();
            let read = approved(&board, &sliver()).await;
            assert!(matches!(read, Err(BoardError::Never { .. })), "{text}: {read:?}");
        }
    }
}
