//! Words that a node is certainly off, on the board.
//!
//! One entry a node, `fences/NODE`: the last time that somebody made sure of it, a person or another node by the fence command of
//! the site. It is written only while the node has no sign of life. It is about the node as it was then: it counts for a holder's
//! record that was written before it ([`since`]), and for none that the node has written since.

use serde::{Deserialize, Serialize};
use xeno_model::id::NodeName;

use crate::board::{
    Board, BoardError, BoardResult, Commit, Entry, Guard, Key, Prefix, Revision, Txn, TxnError, Value, Write,
};
use crate::holders::{Known, sign_of_life};

/// The folder of all words.
pub const FENCES: &str = "fences/";

/// The longest text in a word, in bytes.
pub const TEXT_LEN_MAX: usize = 1024;

/// Version of the entries.
const FORMAT: u32 = 1;

/// What was made sure of, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Word {
    /// Who made sure: a person, or a node.
    pub by: String,
    /// How, or why it is known.
    pub how: Option<String>,
    /// When, by the clock of the machine where it was said; for people.
    pub at_ms: u64,
}

/// A word as it is stored, and when that was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// What was said.
    pub word: Word,
    /// When, in the sequence of all changes of the board.
    pub revision: Revision,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It stands on the board.
    Done,
    /// The node has a sign of life, so that it is not off.
    Alive,
}

/// Whether a fence was confirmed after a holder's record was written.
#[must_use]
pub fn since(fence: Option<&Fence>, known: &Known) -> bool {
    let (fence, record) = (fence.map(|fence| fence.revision), known.revision());
    record.is_some() && fence > record
}

/// Writes that a node is off. Refused if it has a sign of life.
///
/// # Errors
/// Those of [`Board::commit`]: to write it again does no harm; [`BoardError::Never`] for a word that is too long.
pub async fn confirm(board: &impl Board, node: &NodeName, word: &Word) -> BoardResult<Outcome> {
    let guards = vec![Guard::Absent(sign_of_life(node)?)];
    let put = Write::Put {
        key: key(node)?,
        value: word.encode()?,
        lease: None,
    };
    let too_much = |error: TxnError| BoardError::never(CONFIRM, error.to_string());
    let txn = Txn::new(guards, vec![put]).map_err(too_much)?;
    Ok(match board.commit(&txn).await? {
        Commit::Done(_) => Outcome::Done,
        Commit::Refused(_) => Outcome::Alive,
    })
}

/// The last word about a node.
///
/// # Errors
/// Those of [`Board::get`]; [`BoardError::Never`] for what this version does not understand.
pub async fn fence(board: &impl Board, node: &NodeName) -> BoardResult<Option<Fence>> {
    let entry = board.get(&key(node)?).await?;
    entry.as_ref().map(Fence::decode).transpose()
}

/// All words, by node.
///
/// # Errors
/// Those of [`Board::list`]; [`BoardError::Never`] for what this version does not understand.
pub async fn all(board: &impl Board) -> BoardResult<Vec<(NodeName, Fence)>> {
    let folder = Prefix::new(FENCES).map_err(|error| BoardError::never(READ, error.to_string()))?;
    let listed = board.list(&folder).await?.entries;
    let named = listed.into_iter().filter_map(|(key, entry)| {
        let node = NodeName::new(key.as_str().strip_prefix(FENCES)?).ok()?;
        Some((node, entry))
    });
    named
        .map(|(node, entry)| Ok((node, Fence::decode(&entry)?)))
        .collect()
}

const CONFIRM: &str = "confirm a fence";
const READ: &str = "read a fence";

fn key(node: &NodeName) -> BoardResult<Key> {
    Prefix::new(FENCES)
        .and_then(|prefix| prefix.key(node))
        .map_err(|error| BoardError::never(CONFIRM, error.to_string()))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    word: Word,
}

impl Word {
    fn encode(&self) -> BoardResult<Value> {
        let texts = [Some(&self.by), self.how.as_ref()];
        if texts.into_iter().flatten().any(|text| text.len() > TEXT_LEN_MAX) {
            let what = format!("a reason, and the name of who says it, have at most {TEXT_LEN_MAX} bytes");
            return Err(BoardError::never(CONFIRM, what));
        }
        let stored = Stored {
            format: FORMAT,
            word: self.clone(),
        };
        let bytes = serde_json::to_vec(&stored);
        let bytes = bytes.map_err(|error| BoardError::never(CONFIRM, error.to_string()))?;
        Value::new(bytes).map_err(|error| BoardError::never(CONFIRM, error.to_string()))
    }
}

impl Fence {
    fn decode(entry: &Entry) -> BoardResult<Self> {
        let wrong = |what: String| BoardError::never(READ, what);
        let stored: Stored =
            serde_json::from_slice(entry.value.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        if stored.format != FORMAT {
            return Err(wrong(format!(
                "it has format {}, and this version knows {FORMAT}",
                stored.format
            )));
        }
        Ok(Self {
            word: stored.word,
            revision: entry.revision,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use xeno_model::id::{Epoch, SliverId};
    use xeno_reconciler::tenure::{Act, BootId, Holder};

    use super::*;
    use crate::board::scripted::ScriptedBoard;
    use crate::holders::{self, Changed};

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn word() -> Word {
        Word {
            by: "eve".to_owned(),
            how: Some("pulled the plug".to_owned()),
            at_ms: 7,
        }
    }

    async fn held(board: &ScriptedBoard, known: &Known, epoch: u64) -> Known {
        let holder = Holder {
            node: Some(node("a")),
            boot: BootId::default(),
            epoch: Epoch(epoch),
            memory: None,
            failover: true,
        };
        let web = SliverId::parse("web/0").unwrap();
        match holders::change(board, &web, known, &holder, Act::Claim)
            .await
            .unwrap()
        {
            Changed::Done(known) => known,
            Changed::Refused => panic!("nobody else changes it"),
        }
    }

    #[tokio::test]
    async fn a_fence_counts_for_what_was_held_before_it() {
        let board = ScriptedBoard::new("b");
        let absent = Known::of(&SliverId::parse("web/0").unwrap(), None).unwrap();
        let first = held(&board, &absent, 1).await;
        assert!(!since(fence(&board, &node("a")).await.unwrap().as_ref(), &first));
        assert_eq!(confirm(&board, &node("a"), &word()).await, Ok(Outcome::Done));
        let said = fence(&board, &node("a")).await.unwrap();
        assert_eq!(said.as_ref().map(|fence| &fence.word), Some(&word()));
        assert!(since(said.as_ref(), &first));
        assert!(!since(said.as_ref(), &absent), "nobody holds it");
        assert_eq!(all(&board).await.unwrap(), [(node("a"), said.clone().unwrap())]);
        // The node is back, and has taken the right again.
        let second = held(&board, &first, 2).await;
        assert!(!since(said.as_ref(), &second));
        assert_eq!(confirm(&board, &node("a"), &word()).await, Ok(Outcome::Done));
        let again = fence(&board, &node("a")).await.unwrap();
        assert!(since(again.as_ref(), &second), "the same word, said anew");
    }

    #[tokio::test]
    async fn nobody_confirms_that_a_node_is_off_that_lives() {
        let board = ScriptedBoard::new("b");
        let lease = board.grant(Duration::from_secs(10)).await.unwrap();
        let sign = Txn::put(
            sign_of_life(&node("a")).unwrap(),
            Value::new(b"").unwrap(),
            Some(lease.id),
        );
        board.commit(&sign).await.unwrap();
        assert_eq!(confirm(&board, &node("a"), &word()).await, Ok(Outcome::Alive));
        assert_eq!(fence(&board, &node("a")).await, Ok(None));
        board.advance(Duration::from_secs(20));
        assert_eq!(confirm(&board, &node("a"), &word()).await, Ok(Outcome::Done));
    }

    #[tokio::test]
    async fn words_have_an_end_and_are_understood() {
        let board = ScriptedBoard::new("b");
        let long = Word {
            how: Some("x".repeat(TEXT_LEN_MAX + 1)),
            ..word()
        };
        let refused = confirm(&board, &node("a"), &long).await;
        assert!(matches!(refused, Err(BoardError::Never { .. })), "{refused:?}");
        for text in ["", "{}", r#"{"format":2,"word":{"by":"","how":null,"atMs":0}}"#] {
            let txn = Txn::put(key(&node("a")).unwrap(), Value::new(text).unwrap(), None);
            board.commit(&txn).await.unwrap();
            let error = fence(&board, &node("a")).await.unwrap_err();
            assert!(matches!(error, BoardError::Never { .. }), "{text}: {error:?}");
        }
    }
}
