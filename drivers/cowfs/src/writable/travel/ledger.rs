//! What both ends remember of a round.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::described::{Described, Hash};
use super::name::Name;
use super::wire::Token;
use crate::layer::LayerId;

/// Rounds remembered: of so many layers that are arriving. One that is forgotten costs a look through its files.
const ROUNDS_MAX: usize = 64;

/// What the receiver holds of a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) files: BTreeMap<Name, Described>,
}

impl Ledger {
    /// One hash over all of it.
    pub(super) fn digest(&self) -> Hash {
        let mut hasher = blake3::Hasher::new();
        for (name, described) in &self.files {
            hasher.update(&described.digest(name));
        }
        *hasher.finalize().as_bytes()
    }
}

/// A round that has arrived.
#[derive(Clone, Debug)]
pub(super) struct Round {
    pub(super) layer: LayerId,
    pub(super) token: Token,
    pub(super) ledger: Ledger,
}

/// What a receiver remembers of layers that are on their way, by the directory they are kept in. It is in memory only: after
/// a restart the directories themselves are looked through.
#[derive(Clone, Debug, Default)]
pub struct Ledgers(Arc<Mutex<BTreeMap<PathBuf, Round>>>);

impl Ledgers {
    /// Takes what is remembered: from now on the directory may change.
    pub(super) fn take(&self, dir: &Path) -> Option<Round> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(dir)
    }

    pub(super) fn put(&self, dir: &Path, round: Round) {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rounds.len() >= ROUNDS_MAX {
            rounds.pop_first();
        }
        rounds.insert(dir.to_owned(), round);
    }
}
