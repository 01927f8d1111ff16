//! The tables, and one function per step that made them what they are.
//!
//! `user_version` counts the steps a database has been through. Steps are never edited once released: a change of a
//! table is a new step. A database from a newer program is refused, since dropping what is not understood loses it.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::error::StateError;

type Step = fn(&Connection) -> rusqlite::Result<()>;

const STEPS: &[Step] = &[first, node_time, history, tenure, footing];

/// The newest schema this program knows.
#[must_use]
pub fn newest() -> u32 {
    u32::try_from(STEPS.len()).expect("there are few steps")
}

/// Brings a database to the newest schema; each step is one transaction with its number.
///
/// # Errors
/// [`StateError::Newer`] if it is past the newest, else what SQLite says.
pub fn run(conn: &mut Connection, path: &Path) -> Result<(), StateError> {
    let found: u32 = conn
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(StateError::sqlite("read the schema version"))?;
    let known = newest();
    if found > known {
        return Err(StateError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    }
    for (number, step) in (1..)
        .zip(STEPS)
        .skip(usize::try_from(found).unwrap_or(usize::MAX))
    {
        let upgrade = |conn: &mut Connection| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            step(&tx)?;
            tx.pragma_update(None, "user_version", number)?;
            tx.commit()
        };
        upgrade(conn).map_err(StateError::sqlite("upgrade the state database"))?;
    }
    Ok(())
}

/// The tables of version 0.1.
fn first(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "
        -- One row: whose state this is, and the desired state it last accepted.
        CREATE TABLE node (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            name TEXT NOT NULL,
            generation INTEGER NOT NULL DEFAULT 0 CHECK (generation >= 0),
            carried INTEGER NOT NULL DEFAULT 0 CHECK (carried >= 0),
            revision TEXT,
            accepted_ms INTEGER
        ) STRICT;

        -- At most one row: the newest commit, where it was not accepted.
        CREATE TABLE rejected (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            revision TEXT NOT NULL,
            why TEXT NOT NULL,
            at_ms INTEGER NOT NULL
        ) STRICT;

        -- Third side of the comparison.
        CREATE TABLE applied (
            sliver TEXT PRIMARY KEY,
            desired TEXT NOT NULL,
            epoch INTEGER NOT NULL CHECK (epoch >= 0),
            complete INTEGER NOT NULL CHECK (complete IN (0, 1)),
            at_ms INTEGER NOT NULL
        ) STRICT;

        -- Highest right to run this node ever had; outlives `applied`, and only grows.
        CREATE TABLE holder (
            sliver TEXT PRIMARY KEY,
            epoch INTEGER NOT NULL CHECK (epoch >= 0)
        ) STRICT;

        CREATE TABLE run (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            generation INTEGER NOT NULL,
            revision TEXT NOT NULL,
            actions INTEGER NOT NULL,
            began_ms INTEGER NOT NULL,
            ended_ms INTEGER,
            outcome TEXT
        ) STRICT;

        -- Intents, and outcomes where there was one.
        CREATE TABLE journal (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
            action TEXT NOT NULL,
            sliver TEXT,
            intent_ms INTEGER NOT NULL,
            outcome_ms INTEGER,
            outcome TEXT,
            why TEXT
        ) STRICT;
        CREATE INDEX journal_run ON journal (run);
        CREATE INDEX journal_open ON journal (seq) WHERE outcome IS NULL;

        -- A ring: the oldest rows go.
        CREATE TABLE event (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            at_ms INTEGER NOT NULL,
            kind TEXT NOT NULL,
            sliver TEXT,
            text TEXT NOT NULL,
            data TEXT
        ) STRICT;

        -- Counts against the delete budget.
        CREATE TABLE removal (
            sliver TEXT NOT NULL,
            at_ms INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX removal_at ON removal (at_ms);

        -- Slivers whose last action failed, and that wait before the next try.
        CREATE TABLE backoff (
            sliver TEXT PRIMARY KEY,
            action TEXT NOT NULL,
            why TEXT NOT NULL,
            attempts INTEGER NOT NULL CHECK (attempts > 0),
            permanent INTEGER NOT NULL CHECK (permanent IN (0, 1)),
            until_ms INTEGER NOT NULL
        ) STRICT;

        -- File sets of the repository, and the template each was made into.
        CREATE TABLE file_layer (
            files TEXT PRIMARY KEY,
            template TEXT NOT NULL
        ) STRICT;
        ",
    )
}

/// Waiting and keeping are measured in node time; people freeze; a damaged database is made anew.
fn node_time(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "
        -- How long the node has lived, and the moment within a boot at which that was.
        ALTER TABLE node ADD COLUMN time_ms INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE node ADD COLUMN boot TEXT;
        ALTER TABLE node ADD COLUMN boot_ms INTEGER;
        -- Not null: the database before this one was damaged.
        ALTER TABLE node ADD COLUMN rebuilt_ms INTEGER;
        ALTER TABLE node ADD COLUMN rebuilt_time_ms INTEGER;
        ALTER TABLE node ADD COLUMN rebuilt_why TEXT;
        ALTER TABLE node ADD COLUMN rebuilt_aside TEXT;

        -- Removals from before count from now on: longer than they should, which is the safe side.
        ALTER TABLE removal ADD COLUMN time_ms INTEGER NOT NULL DEFAULT 0;
        DROP INDEX removal_at;
        CREATE INDEX removal_time ON removal (time_ms);

        -- What failed before is tried at once.
        DELETE FROM backoff;
        ALTER TABLE backoff RENAME COLUMN until_ms TO until_time_ms;

        -- When what removals set aside was first seen.
        CREATE TABLE tombstone (
            sliver TEXT PRIMARY KEY,
            since_ms INTEGER NOT NULL,
            time_ms INTEGER NOT NULL
        ) STRICT;

        -- What people forbade to be changed: `node`, `slice:web` or `sliver:web/0`.
        CREATE TABLE freeze (
            scope TEXT PRIMARY KEY,
            reason TEXT NOT NULL,
            made_by TEXT NOT NULL,
            since_ms INTEGER NOT NULL,
            until_ms INTEGER
        ) STRICT;
        ",
    )
}

/// What became of each sliver in which generation, and guests that ended by themselves.
fn history(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "
        -- One row for each sliver that a run changes, or for an accepted commit (without run and sliver). The oldest go.
        CREATE TABLE history (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            run INTEGER,
            sliver TEXT,
            generation INTEGER NOT NULL,
            revision TEXT NOT NULL,
            class TEXT NOT NULL,
            cause TEXT NOT NULL,
            text TEXT NOT NULL,
            began_ms INTEGER NOT NULL,
            ended_ms INTEGER,
            outcome TEXT
        ) STRICT;
        CREATE INDEX history_sliver ON history (sliver, seq);
        CREATE INDEX history_open ON history (run, sliver) WHERE outcome IS NULL;

        -- When slivers were started again because they had ended by themselves.
        CREATE TABLE restart (
            sliver TEXT NOT NULL,
            time_ms INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX restart_sliver ON restart (sliver);
        ",
    )
}

/// What this node has done about the right to run its slivers, and which board that was said on.
fn tenure(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "
        -- Written before it is done; the epochs only grow.
        CREATE TABLE tenure (
            sliver TEXT PRIMARY KEY,
            began INTEGER CHECK (began >= 0),
            offered INTEGER CHECK (offered >= 0)
        ) STRICT;

        -- At most one row: the board that this node has joined.
        CREATE TABLE board (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            identity TEXT NOT NULL
        ) STRICT;
        ",
    )
}

/// Where each sliver stands in the rollouts of its slice.
fn footing(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "
        -- Written before a sliver is made something else: what it is made, and what it goes back to if that fails.
        CREATE TABLE footing (
            sliver TEXT PRIMARY KEY,
            at TEXT NOT NULL,
            at_desired TEXT NOT NULL,
            good TEXT,
            good_desired TEXT
        ) STRICT;
        ",
    )
}
