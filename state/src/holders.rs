//! Holders of the right to run, on the board.
//!
//! [`xeno_reconciler::tenure`] says what a record means and which change is next; here is what it looks like on the board,
//! and how a change becomes a transaction. One entry a sliver: `holder/SLICE/NUMBER`. It is never deleted: an epoch that came
//! again would open a writable layer to a holder of another time.

use serde::{Deserialize, Serialize};
use xeno_model::id::{Epoch, NodeName, SliverId};
use xeno_reconciler::tenure::{Act, BootId, Holder, Memory, MigrationId, Record};

use crate::board::{
    Board, BoardError, BoardResult, Commit, Entry, Guard, Key, Prefix, Revision, Txn, Value, Write,
};

/// The folder of all holders.
pub const HOLDERS: &str = "holder/";

/// The folder of the nodes' signs of life: an entry a node, which goes with the node's lease.
pub const ALIVE: &str = "alive/";

/// Version of the records. Readers refuse a later one: acting on what is half understood could run a sliver twice.
const FORMAT: u32 = 1;

/// A record as it was read: what it says, and what a change of it must find unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What it says; never [`Record::Unknown`].
    pub record: Record,
    entry: Option<Entry>,
}

impl Known {
    /// What an entry of the board says about a sliver.
    ///
    /// # Errors
    /// [`BoardError::Never`] for a record that this version does not understand.
    pub fn of(sliver: &SliverId, entry: Option<Entry>) -> BoardResult<Self> {
        let record = match &entry {
            Some(entry) => Record::Is(decode(sliver, entry.value.as_bytes())?),
            None => Record::Absent,
        };
        Ok(Self { record, entry })
    }

    /// When it was written; `None`: there is none.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.entry.as_ref().map(|entry| entry.revision)
    }
}

/// The sliver whose entry this is.
#[must_use]
pub fn sliver_of(key: &Key) -> Option<SliverId> {
    SliverId::parse(key.as_str().strip_prefix(HOLDERS)?).ok()
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It was made; the record is this now.
    Done(Known),
    /// It was not, and will not be: the record has changed since it was read, or a lease is there that had to be absent.
    Refused,
}

/// The entry of a sliver.
///
/// # Errors
/// [`BoardError::Never`] for a name that is no key, which no sliver of a valid model has.
pub fn key(sliver: &SliverId) -> BoardResult<Key> {
    below(HOLDERS, sliver)
}

/// The entry that is there while a node's lease lasts.
///
/// # Errors
/// As [`key`].
pub fn sign_of_life(node: &NodeName) -> BoardResult<Key> {
    below(ALIVE, node)
}

/// Reads who has the right to run a sliver.
///
/// # Errors
/// Those of [`Board::get`]; [`BoardError::Never`] for a record that this version does not understand.
pub async fn read(board: &impl Board, sliver: &SliverId) -> BoardResult<Known> {
    Known::of(sliver, board.get(&key(sliver)?).await?)
}

/// Changes who has the right to run a sliver, if the record is still as it was read.
///
/// # Errors
/// Those of [`Board::commit`]. After [`BoardError::Unknown`] the record is not known, and reading the old one proves
/// nothing: it counts as [`Record::Unknown`] until it is read, and the next step after that is decided anew. What was sent can
/// still arrive; it finds nothing to change once another change was made.
pub async fn change(
    board: &impl Board,
    sliver: &SliverId,
    known: &Known,
    to: &Holder,
    act: Act,
) -> BoardResult<Changed> {
    let txn = transaction(sliver, known, to, act)?;
    match board.commit(&txn).await? {
        Commit::Done(revision) => Ok(Changed::Done(Known {
            record: Record::Is(to.clone()),
            entry: Some(Entry {
                value: encode(to)?,
                revision,
                lease: None,
            }),
        })),
        Commit::Refused(_) => Ok(Changed::Refused),
    }
}

/// Every sliver that has a record, in order.
///
/// # Errors
/// Those of [`Board::list`]; [`BoardError::Never`] for a record that this version does not understand.
pub async fn all(board: &impl Board) -> BoardResult<Vec<(SliverId, Known)>> {
    let folder = Prefix::new(HOLDERS).map_err(|error| BoardError::never(READ, error.to_string()))?;
    let listed = board.list(&folder).await?.entries;
    let named = listed
        .into_iter()
        .filter_map(|(key, entry)| Some((sliver_of(&key)?, entry)));
    named
        .map(|(sliver, entry)| {
            let known = Known::of(&sliver, Some(entry))?;
            Ok((sliver, known))
        })
        .collect()
}

/// What makes a record be `to`, and what of it must hold for that.
pub(crate) fn put(sliver: &SliverId, known: &Known, to: &Holder) -> BoardResult<(Guard, Write)> {
    let key = key(sliver)?;
    let guard = Guard::unchanged(key.clone(), known.entry.as_ref());
    let put = Write::Put {
        key,
        value: encode(to)?,
        // A right that ended with a lease would be a right that somebody else could take while its holder runs.
        lease: None,
    };
    Ok((guard, put))
}

fn transaction(sliver: &SliverId, known: &Known, to: &Holder, act: Act) -> BoardResult<Txn> {
    let (unchanged, put) = put(sliver, known, to)?;
    let mut guards = vec![unchanged];
    match (act, &known.record) {
        // The holder may have come back since its lease was seen to be gone.
        (
            Act::TakeOver,
            Record::Is(Holder {
                node: Some(rival), ..
            }),
        ) => {
            guards.push(Guard::Absent(sign_of_life(rival)?));
        }
        (
            Act::Claim
            | Act::HandOver
            | Act::TakeBack
            | Act::HandBack
            | Act::Settle
            | Act::Promise
            | Act::TakeOver,
            Record::Unknown | Record::Absent | Record::Is(_),
        ) => {}
    }
    Txn::new(guards, vec![put]).map_err(|error| BoardError::never(CHANGE, error.to_string()))
}

const READ: &str = "read a holder";
const CHANGE: &str = "change a holder";

fn below(folder: &str, name: &impl std::fmt::Display) -> BoardResult<Key> {
    Prefix::new(folder)
        .and_then(|prefix| prefix.key(name))
        .map_err(|error| BoardError::never(READ, error.to_string()))
}

/// The record as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    node: Option<String>,
    boot: String,
    epoch: u64,
    memory: Option<StoredMemory>,
    /// Younger than the format, and left out where it is not so: what does not know it leaves such a record alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    failover: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredMemory {
    migration: String,
    epoch: u64,
    keeper: String,
}

fn encode(holder: &Holder) -> BoardResult<Value> {
    let stored = Stored {
        format: FORMAT,
        node: holder.node.as_ref().map(ToString::to_string),
        boot: MigrationId(holder.boot.0).to_string(),
        epoch: holder.epoch.0,
        memory: holder.memory.as_ref().map(|memory| StoredMemory {
            migration: memory.migration.to_string(),
            epoch: memory.epoch.0,
            keeper: memory.keeper.to_string(),
        }),
        failover: holder.failover,
    };
    let bytes = serde_json::to_vec(&stored).map_err(|error| BoardError::never(CHANGE, error.to_string()))?;
    Value::new(bytes).map_err(|error| BoardError::never(CHANGE, error.to_string()))
}

fn decode(sliver: &SliverId, bytes: &[u8]) -> BoardResult<Holder> {
    let wrong = |what: String| {
        BoardError::never(
            READ,
            format!("the record of {sliver} cannot be understood, so nothing is done about it: {what}"),
        )
    };
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    if format != FORMAT {
        return Err(wrong(format!(
            "it has format {format}, and this version of xeno knows {FORMAT}: update xeno on this node"
        )));
    }
    let stored: Stored = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    let node = |name: &str| NodeName::new(name).map_err(|error| wrong(error.to_string()));
    let id = |text: &str| unhex(text).ok_or_else(|| wrong(format!("`{text}` is no id")));
    let memory = stored.memory.map(|memory| {
        Ok(Memory {
            migration: MigrationId(id(&memory.migration)?),
            epoch: Epoch(memory.epoch),
            keeper: node(&memory.keeper)?,
        })
    });
    Ok(Holder {
        node: stored.node.as_deref().map(node).transpose()?,
        boot: BootId(id(&stored.boot)?),
        epoch: Epoch(stored.epoch),
        memory: memory.transpose()?,
        failover: stored.failover,
    })
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    MigrationId::parse(text).ok().map(|id| id.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::board::scripted::{Call, Fault, ScriptedBoard};

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn web() -> SliverId {
        SliverId::parse("web/0").unwrap()
    }

    fn held(by: &str, epoch: u64) -> Holder {
        Holder {
            node: Some(node(by)),
            boot: BootId([0xab; 16]),
            epoch: Epoch(epoch),
            memory: None,
            failover: false,
        }
    }

    async fn claimed(board: &ScriptedBoard) -> Known {
        let known = read(board, &web()).await.unwrap();
        assert_eq!(known.record, Record::Absent);
        match change(board, &web(), &known, &held("a", 1), Act::Claim)
            .await
            .unwrap()
        {
            Changed::Done(known) => known,
            Changed::Refused => panic!("nobody else claims it"),
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let board = ScriptedBoard::new("a");
        let known = claimed(&board).await;
        assert_eq!(read(&board, &web()).await.unwrap(), known);
        let moved = Holder {
            memory: Some(Memory {
                migration: MigrationId([7; 16]),
                epoch: Epoch(1),
                keeper: node("a"),
            }),
            ..held("b", 2)
        };
        let changed = change(&board, &web(), &known, &moved, Act::HandOver)
            .await
            .unwrap();
        let known = read(&board, &web()).await.unwrap();
        assert_eq!(known.record, Record::Is(moved));
        assert_eq!(changed, Changed::Done(known.clone()));
        let given_up = Holder {
            node: None,
            failover: true,
            ..held("b", 3)
        };
        change(&board, &web(), &known, &given_up, Act::Settle)
            .await
            .unwrap();
        assert_eq!(read(&board, &web()).await.unwrap().record, Record::Is(given_up));
    }

    #[tokio::test]
    async fn of_two_that_read_the_same_one_changes_it() {
        let board = ScriptedBoard::new("a");
        let known = claimed(&board).await;
        let over = change(&board, &web(), &known, &held("b", 2), Act::HandOver)
            .await
            .unwrap();
        assert!(matches!(over, Changed::Done(_)));
        let back = change(&board, &web(), &known, &held("a", 2), Act::TakeBack)
            .await
            .unwrap();
        assert_eq!(back, Changed::Refused);
    }

    #[tokio::test]
    async fn an_offer_that_arrives_after_it_was_taken_back_changes_nothing() {
        let board = ScriptedBoard::new("a");
        let known = claimed(&board).await;
        board.script(Call::Commit, [Fault::Late]);
        let offered = change(&board, &web(), &known, &held("b", 2), Act::HandOver).await;
        assert!(matches!(offered, Err(BoardError::Unknown { .. })), "{offered:?}");
        let again = read(&board, &web()).await.unwrap();
        assert_eq!(again, known, "which proves nothing");
        let back = change(&board, &web(), &again, &held("a", 2), Act::TakeBack)
            .await
            .unwrap();
        assert!(matches!(back, Changed::Done(_)));
        assert_eq!(board.deliver(), 1);
        assert_eq!(
            read(&board, &web()).await.unwrap().record,
            Record::Is(held("a", 2))
        );
    }

    #[tokio::test]
    async fn nobody_takes_over_from_a_holder_that_has_a_lease() {
        let board = ScriptedBoard::new("b");
        let known = claimed(&board).await;
        let lease = board.grant(Duration::from_secs(10)).await.unwrap();
        let alive = sign_of_life(&node("a")).unwrap();
        let sign = Txn::put(alive, Value::new(b"").unwrap(), Some(lease.id));
        board.commit(&sign).await.unwrap();
        let (web, next) = (web(), held("b", 2));
        let take = || change(&board, &web, &known, &next, Act::TakeOver);
        assert_eq!(take().await.unwrap(), Changed::Refused);
        board.advance(Duration::from_secs(20));
        assert!(matches!(take().await.unwrap(), Changed::Done(_)));
    }

    #[tokio::test]
    async fn a_record_of_another_version_is_left_alone() {
        let board = ScriptedBoard::new("a");
        for (text, says) in [
            (
                r#"{"format":2,"node":"a"}"#,
                "it has format 2, and this version of xeno knows 1",
            ),
            (r#"{"format":1,"node":"a"}"#, "missing field `boot`"),
            ("", "EOF"),
            (
                r#"{"format":1,"node":"A b","boot":"00000000000000000000000000000000","epoch":1,"memory":null}"#,
                "A b",
            ),
            (
                r#"{"format":1,"node":"a","boot":"0","epoch":1,"memory":null}"#,
                "`0` is no id",
            ),
        ] {
            let value = Value::new(text).unwrap();
            board
                .commit(&Txn::put(key(&web()).unwrap(), value, None))
                .await
                .unwrap();
            let error = read(&board, &web()).await.unwrap_err();
            assert!(matches!(error, BoardError::Never { .. }), "{error:?}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
