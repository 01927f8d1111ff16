//! What can be derived from nothing else, kept a second time beside the database: `state.keep.json`.
//!
//! Guests, storage and templates can be looked at, and git says what is desired. What nobody else knows is which
//! commit this node accepted last, that people froze it, and how long it has lived. The file is written after the
//! database, as a whole (temporary file, sync, rename), whenever one of these changes; a database that is damaged is
//! made anew with it. Where both are there the database is right.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::StateError;

const FORMAT_VERSION: u32 = 1;

/// More than this is not a file of ours.
const BYTES_MAX: u64 = 4 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Keep {
    pub(crate) format_version: u32,
    pub(crate) node: String,
    pub(crate) generation: u64,
    pub(crate) revision: Option<String>,
    pub(crate) accepted_ms: Option<u64>,
    pub(crate) node_time_ms: u64,
    pub(crate) freezes: Vec<KeptFreeze>,
}

/// A row of the table of freezes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeptFreeze {
    pub(crate) scope: String,
    pub(crate) reason: String,
    pub(crate) by: String,
    pub(crate) since_ms: u64,
    pub(crate) until_ms: Option<u64>,
}

impl Keep {
    pub(crate) fn new(node: String) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            node,
            generation: 0,
            revision: None,
            accepted_ms: None,
            node_time_ms: 0,
            freezes: Vec::new(),
        }
    }
}

/// What lies beside a database.
#[derive(Debug)]
pub(crate) enum Kept {
    /// Nothing: there never was a database here.
    Nothing,
    /// Something that cannot be read.
    Unreadable,
    Read(Box<Keep>),
}

/// Reads the file. What cannot be read is no reason to refuse a start: then less is known.
pub(crate) fn read(dir: &Path) -> Kept {
    let path = dir.join("state.keep.json");
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::Nothing,
        Err(_) => Kept::Unreadable,
        Ok(_) => match serde_json::from_str::<Keep>(&text) {
            Ok(keep) if keep.format_version == FORMAT_VERSION => Kept::Read(Box::new(keep)),
            Ok(_) | Err(_) => Kept::Unreadable,
        },
    }
}

/// Writes the file as a whole.
pub(crate) fn write(dir: &Path, keep: &Keep) -> Result<(), StateError> {
    let (path, new) = (dir.join("state.keep.json"), dir.join("state.keep.json.new"));
    let text = serde_json::to_string_pretty(keep).expect("names and numbers are written as JSON");
    let put = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        sync_dir(dir)
    };
    put().map_err(|source| StateError::File {
        attempt: "write",
        path,
        source,
    })
}

/// Makes renames in a directory last (fsync(2): the entry needs a sync of its own).
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
