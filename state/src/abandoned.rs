//! A person's word that the holder of a sliver is lost for good, on the board.
//!
//! What the record becomes is [`tenure::abandoned`]. Beside it stands who said so, when and why: `abandoned/SLICE/NUMBER`, the
//! last word about that sliver, written in the same transaction.

use serde::{Deserialize, Serialize};
use xeno_model::id::{Epoch, NodeName, SliverId, Timestamp};
use xeno_reconciler::tenure::{self, Holder, Record};

use crate::board::{
    Board, BoardError, BoardResult, Commit, Entry, Guard, Key, Prefix, Txn, TxnError, Value, Write,
};
use crate::holders::{self, Known};

/// The folder of all words.
pub const ABANDONED: &str = "abandoned/";

/// The longest reason, and the longest name of who says it, in bytes.
pub const TEXT_LEN_MAX: usize = 1024;

/// Version of the entries.
const FORMAT: u32 = 1;

/// What somebody said, and what it was about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Word {
    /// Who said it.
    pub by: String,
    /// Why, if that was said.
    pub reason: Option<String>,
    /// When, by the clock of the machine where it was said.
    pub at_ms: u64,
    /// Whether the holder had a sign of life, and whoever said it knew.
    pub even_if_alive: bool,
}

/// A word as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Who was said to be lost.
    pub holder: NodeName,
    /// The epoch under which it held the sliver.
    pub epoch: Epoch,
    /// What was said.
    pub word: Word,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The record is this now.
    Done(Holder),
    /// The record has changed since it was read, or its holder has a sign of life again.
    Refused,
}

/// What abandoning a sliver would make of its record; `None`: nobody holds it.
#[must_use]
pub fn becomes(known: &Known, travels: bool) -> Option<Holder> {
    match &known.record {
        Record::Is(holder) if holder.node.is_some() => Some(tenure::abandoned(holder, travels)),
        Record::Is(_) | Record::Absent | Record::Unknown => None,
    }
}

/// Takes the right to run a sliver from a holder that is lost. Refused if the record is not as it was read, and, unless
/// [`Word::even_if_alive`], if the holder has a sign of life.
///
/// # Errors
/// Those of [`Board::commit`], but that an outcome that is not known is found out where the board answers again;
/// [`BoardError::Never`] where nobody holds it, and for a word that is too long.
pub async fn abandon(
    board: &impl Board,
    sliver: &SliverId,
    known: &Known,
    travels: bool,
    word: &Word,
) -> BoardResult<Outcome> {
    let (Record::Is(was), Some(to)) = (&known.record, becomes(known, travels)) else {
        return Err(BoardError::never(ABANDON, format!("nobody holds {sliver}")));
    };
    let Some(node) = &was.node else {
        return Err(BoardError::never(ABANDON, format!("nobody holds {sliver}")));
    };
    let said = Said {
        holder: node.clone(),
        epoch: was.epoch,
        word: word.clone(),
    };
    let (guard, put) = holders::put(sliver, known, &to)?;
    let mut guards = vec![guard];
    if !word.even_if_alive {
        guards.push(Guard::Absent(holders::sign_of_life(node)?));
    }
    let word = Write::Put {
        key: key(sliver)?,
        value: said.encode()?,
        lease: None,
    };
    let too_much = |error: TxnError| BoardError::never(ABANDON, error.to_string());
    let txn = Txn::new(guards, vec![put, word]).map_err(too_much)?;
    // Of two of the same only one can be done, so the answer to the second says what became of the first.
    let (commit, again) = match board.commit(&txn).await {
        Err(BoardError::Unknown { .. }) => (board.commit(&txn).await?, true),
        other => (other?, false),
    };
    Ok(match commit {
        Commit::Done(_) => Outcome::Done(to),
        Commit::Refused(refused) if again && txn.was_done_before(&refused) => Outcome::Done(to),
        Commit::Refused(_) => Outcome::Refused,
    })
}

/// All words, by sliver.
///
/// # Errors
/// Those of [`Board::list`]; [`BoardError::Never`] for what this version does not understand.
pub async fn all(board: &impl Board) -> BoardResult<Vec<(SliverId, Said)>> {
    let folder = Prefix::new(ABANDONED).map_err(|error| BoardError::never(READ, error.to_string()))?;
    let listed = board.list(&folder).await?.entries;
    let named = listed.into_iter().filter_map(|(key, entry)| {
        let sliver = SliverId::parse(key.as_str().strip_prefix(ABANDONED)?).ok()?;
        Some((sliver, entry))
    });
    named
        .map(|(sliver, entry)| Ok((sliver, Said::decode(&entry)?)))
        .collect()
}

const ABANDON: &str = "abandon a holder";
const READ: &str = "read who was abandoned";

fn key(sliver: &SliverId) -> BoardResult<Key> {
    Prefix::new(ABANDONED)
        .and_then(|prefix| prefix.key(sliver))
        .map_err(|error| BoardError::never(ABANDON, error.to_string()))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    holder: String,
    epoch: u64,
    word: Word,
}

impl Said {
    fn encode(&self) -> BoardResult<Value> {
        let Self { holder, epoch, word } = self;
        let texts = [Some(&word.by), word.reason.as_ref()];
        if texts.into_iter().flatten().any(|text| text.len() > TEXT_LEN_MAX) {
            let what = format!("a reason, and the name of who says it, have at most {TEXT_LEN_MAX} bytes");
            return Err(BoardError::never(ABANDON, what));
        }
        let stored = Stored {
            format: FORMAT,
            holder: holder.to_string(),
            epoch: epoch.0,
            word: word.clone(),
        };
        let wrong = |error: &dyn std::fmt::Display| BoardError::never(ABANDON, error.to_string());
        let bytes = serde_json::to_vec(&stored).map_err(|error| wrong(&error))?;
        Value::new(bytes).map_err(|error| wrong(&error))
    }

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
            holder: NodeName::new(&stored.holder).map_err(|error| wrong(error.to_string()))?,
            epoch: Epoch(stored.epoch),
            word: stored.word,
        })
    }
}

impl Word {
    /// When it was said.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        Timestamp(self.at_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::board::scripted::{Call, Fault, ScriptedBoard};
    use xeno_reconciler::tenure::{Act, BootId};

    fn web() -> SliverId {
        SliverId::parse("web/0").unwrap()
    }

    fn word(even_if_alive: bool) -> Word {
        Word {
            by: "eve".to_owned(),
            reason: Some("it burnt".to_owned()),
            at_ms: 7,
            even_if_alive,
        }
    }

    async fn held(board: &ScriptedBoard) -> Known {
        let holder = Holder {
            node: Some(NodeName::new("a").unwrap()),
            boot: BootId([1; 16]),
            epoch: Epoch(3),
            memory: None,
            failover: false,
        };
        let none = holders::read(board, &web()).await.unwrap();
        holders::change(board, &web(), &none, &holder, Act::Claim)
            .await
            .unwrap();
        holders::read(board, &web()).await.unwrap()
    }

    #[tokio::test]
    async fn the_right_goes_to_nobody_and_the_word_stays() {
        let board = ScriptedBoard::new("a");
        let known = held(&board).await;
        let done = abandon(&board, &web(), &known, true, &word(false)).await.unwrap();
        let Outcome::Done(now) = done else {
            panic!("{done:?}")
        };
        assert_eq!((now.node.as_ref(), now.epoch), (None, Epoch(4)));
        let read = holders::read(&board, &web()).await.unwrap();
        assert_eq!(read.record, Record::Is(now));
        assert_eq!(becomes(&read, true), None);
        let said = Said {
            holder: NodeName::new("a").unwrap(),
            epoch: Epoch(3),
            word: word(false),
        };
        assert_eq!(all(&board).await.unwrap(), [(web(), said)]);
        // What was read before is not so any more.
        let again = abandon(&board, &web(), &known, true, &word(true)).await.unwrap();
        assert_eq!(again, Outcome::Refused);
        let nobody = abandon(&board, &web(), &read, true, &word(true)).await;
        assert!(matches!(nobody, Err(BoardError::Never { .. })), "{nobody:?}");
    }

    #[tokio::test]
    async fn a_sign_of_life_is_in_the_way_unless_it_is_known() {
        let board = ScriptedBoard::new("a");
        let known = held(&board).await;
        let lease = board.grant(Duration::from_secs(10)).await.unwrap();
        let alive = holders::sign_of_life(&NodeName::new("a").unwrap()).unwrap();
        let sign = Txn::put(alive, Value::new(b"").unwrap(), Some(lease.id));
        board.commit(&sign).await.unwrap();
        let refused = abandon(&board, &web(), &known, true, &word(false)).await.unwrap();
        assert_eq!(refused, Outcome::Refused);
        assert_eq!(all(&board).await.unwrap(), []);
        let done = abandon(&board, &web(), &known, true, &word(true)).await.unwrap();
        assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    }

    #[tokio::test]
    async fn an_answer_that_was_lost_is_found_out() {
        for fault in [Fault::LostAnswer, Fault::LostRequest] {
            let board = ScriptedBoard::new("a");
            let known = held(&board).await;
            board.script(Call::Commit, [fault]);
            let done = abandon(&board, &web(), &known, true, &word(false)).await.unwrap();
            let Outcome::Done(now) = done else {
                panic!("{done:?}")
            };
            assert_eq!(now.epoch, Epoch(4));
        }
    }

    #[tokio::test]
    async fn words_have_a_bound() {
        let board = ScriptedBoard::new("a");
        let known = held(&board).await;
        let long = Word {
            reason: Some("x".repeat(TEXT_LEN_MAX + 1)),
            ..word(false)
        };
        let error = abandon(&board, &web(), &known, true, &long).await;
        assert!(matches!(error, Err(BoardError::Never { .. })), "{error:?}");
    }
}
