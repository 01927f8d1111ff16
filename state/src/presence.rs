//! Signs of life: what a node says of itself on the board while its lease lasts.
//!
//! One entry a node, `alive/NODE`. Whoever can write to the board can change who runs what; so what stands here is believed as
//! far as the board is, and two agents know each other by it: each shows a certificate that it made when it started, and is
//! taken for the node whose sign of life names that certificate.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use xeno_model::id::{Digest, MigrationId, NodeName};
use xeno_reconciler::tenure::BootId;

use crate::board::{Board, BoardError, BoardResult, Entry, Key, Prefix, Value};
use crate::holders::{ALIVE, sign_of_life};

/// Version of the entries.
const FORMAT: u32 = 1;

/// The longest address: a host name (RFC 1035 §2.3.4) and a port.
const ADDRESS_LEN_MAX: usize = 255 + 6;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Which life of its machine this is.
    pub boot: BootId,
    /// Where its agent listens for other agents, as `HOST:PORT`; `None`: it does not.
    pub address: Option<String>,
    /// SHA-256 of the certificate that its agent shows there.
    pub certificate: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    boot: String,
    address: Option<String>,
    certificate: String,
}

impl Presence {
    /// As it is stored.
    ///
    /// # Errors
    /// [`BoardError::Never`] if it is too long.
    pub fn encode(&self) -> BoardResult<Value> {
        let stored = Stored {
            format: FORMAT,
            boot: MigrationId(self.boot.0).to_string(),
            address: self.address.clone(),
            certificate: self.certificate.to_string(),
        };
        let bytes =
            serde_json::to_vec(&stored).map_err(|error| BoardError::never(WRITE, error.to_string()))?;
        Value::new(bytes).map_err(|error| BoardError::never(WRITE, error.to_string()))
    }

    /// Reads what is stored.
    ///
    /// # Errors
    /// [`BoardError::Never`] for what this version does not understand.
    pub fn decode(entry: &Entry) -> BoardResult<Self> {
        let wrong = |what: String| BoardError::never(READ, what);
        let stored: Stored =
            serde_json::from_slice(entry.value.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        if stored.format != FORMAT {
            return Err(wrong(format!(
                "it has format {}, and this version knows {FORMAT}",
                stored.format
            )));
        }
        if stored
            .address
            .as_ref()
            .is_some_and(|address| address.len() > ADDRESS_LEN_MAX)
        {
            return Err(wrong("its address is too long".to_owned()));
        }
        let boot = MigrationId::parse(&stored.boot).map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            boot: BootId(boot.0),
            address: stored.address,
            certificate: Digest::parse(&stored.certificate).map_err(|error| wrong(error.to_string()))?,
        })
    }
}

/// What a node says of itself, if it is there.
///
/// # Errors
/// Those of [`Board::get`]; [`BoardError::Never`] for what this version does not understand.
pub async fn presence(board: &impl Board, node: &NodeName) -> BoardResult<Option<Presence>> {
    let entry = board.get(&sign_of_life(node)?).await?;
    entry.as_ref().map(Presence::decode).transpose()
}

/// The nodes that have a sign of life, in order, whatever they say there.
///
/// # Errors
/// Those of [`Board::list`].
pub async fn alive(board: &impl Board) -> BoardResult<BTreeSet<NodeName>> {
    let folder = Prefix::new(ALIVE).map_err(|error| BoardError::never(READ, error.to_string()))?;
    let listed = board.list(&folder).await?.entries;
    let node = |key: &Key| NodeName::new(key.as_str().strip_prefix(ALIVE)?).ok();
    Ok(listed.iter().filter_map(|(key, _)| node(key)).collect())
}

const READ: &str = "read a sign of life";
const WRITE: &str = "write a sign of life";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Txn;
    use crate::board::scripted::ScriptedBoard;

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let board = ScriptedBoard::new("a");
        let node = NodeName::new("a").unwrap();
        assert_eq!(presence(&board, &node).await.unwrap(), None);
        for address in [None, Some("cam-01.example:7046".to_owned())] {
            let said = Presence {
                boot: BootId([3; 16]),
                address,
                certificate: Digest::of(b"certificate"),
            };
            let txn = Txn::put(sign_of_life(&node).unwrap(), said.encode().unwrap(), None);
            board.commit(&txn).await.unwrap();
            assert_eq!(presence(&board, &node).await.unwrap(), Some(said));
            assert_eq!(alive(&board).await.unwrap(), [node.clone()].into());
        }
    }

    #[tokio::test]
    async fn what_is_not_understood_is_an_error() {
        let board = ScriptedBoard::new("a");
        let node = NodeName::new("a").unwrap();
        for text in [
            "",
            "{}",
            r#"{"format":2,"boot":"","address":null,"certificate":""}"#,
        ] {
            let txn = Txn::put(sign_of_life(&node).unwrap(), Value::new(text).unwrap(), None);
            board.commit(&txn).await.unwrap();
            let error = presence(&board, &node).await.unwrap_err();
            assert!(matches!(error, BoardError::Never { .. }), "{text}: {error:?}");
        }
    }
}
