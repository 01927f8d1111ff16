//! The state of one node: what it accepted, what it applied, what it was about to do, and what happened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior};
use xeno_model::id::{Digest, Epoch, Generation, NodeName, Revision, SliverId, Timestamp};
use xeno_model::normal;
use xeno_reconciler::change::AppliedSliver;

use crate::error::StateError;
use crate::lock::{self, Lock};
use crate::record::{self, Accepted, BackOff, Event, EventKind, JournalEntry, Outcome, Rejection};
use crate::upgrade;

mod write;

pub use write::Writer;

/// How much a node may remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events kept; the oldest go.
    pub events_max: u32,
    /// Runs kept with their journal; the oldest go.
    pub runs_max: u32,
    /// Pages of 4096 bytes the database may take; writing more fails as a full disk does.
    pub pages_max: u32,
}

impl Default for Limits {
    /// 10,000 events, 1,000 runs, 1 GiB.
    fn default() -> Self {
        Self {
            events_max: 10_000,
            runs_max: 1_000,
            pages_max: 1 << 18,
        }
    }
}

/// The opened state of one node. Reads are methods; writes go through [`NodeState::write`].
#[derive(Debug)]
pub struct NodeState {
    conn: Connection,
    limits: Limits,
    path: PathBuf,
    _lock: Lock,
}

impl NodeState {
    /// Opens the state in `dir`, making it when missing, and keeps other agents out until it is dropped.
    ///
    /// # Errors
    /// [`StateError::Locked`] if another agent has it, [`StateError::OtherNode`] if it is not `node`'s,
    /// [`StateError::Newer`] if a newer program wrote it, [`StateError::Corrupt`] if it is damaged.
    pub fn open(dir: &Path, node: &NodeName, limits: Limits) -> Result<Self, StateError> {
        lock::make_dir(dir)?;
        let lock = Lock::take(dir)?;
        let path = dir.join("state.db");
        let mut conn = Connection::open(&path).map_err(StateError::sqlite("open the state database"))?;
        configure(&conn, limits).map_err(StateError::sqlite("open the state database"))?;
        upgrade::run(&mut conn, &path)?;
        let state = Self {
            conn,
            limits,
            path,
            _lock: lock,
        };
        state.claim(dir, node)?;
        Ok(state)
    }

    /// Where the database is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn claim(&self, dir: &Path, node: &NodeName) -> Result<(), StateError> {
        let fail = || StateError::sqlite("read whose state this is");
        self.conn
            .execute(
                "INSERT INTO node (id, name) VALUES (1, ?1) ON CONFLICT DO NOTHING",
                [node.as_str()],
            )
            .map_err(fail())?;
        let found: String = self
            .conn
            .query_row("SELECT name FROM node", [], |row| row.get(0))
            .map_err(fail())?;
        if found == node.as_str() {
            return Ok(());
        }
        Err(StateError::OtherNode {
            dir: dir.to_owned(),
            found,
            node: node.to_string(),
        })
    }

    /// Runs `body` as one transaction: all of it is remembered, on disk, or nothing.
    ///
    /// # Errors
    /// What `body` returns, or why its transaction could not begin or end.
    pub fn write<T>(
        &mut self,
        body: impl FnOnce(&mut Writer<'_>) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let tx = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(StateError::sqlite("begin to write the state"))?;
        let mut writer = Writer {
            tx,
            limits: self.limits,
        };
        let value = body(&mut writer)?;
        writer
            .tx
            .commit()
            .map_err(StateError::sqlite("write the state"))?;
        Ok(value)
    }

    /// The desired state last accepted.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub fn accepted(&self) -> Result<Option<Accepted>, StateError> {
        let sql = "SELECT generation, carried, revision, accepted_ms FROM node WHERE revision IS NOT NULL";
        let rows: Vec<(i64, i64, String, Option<i64>)> =
            self.rows("read the accepted revision", sql, |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
        let Some((generation, carried, revision, at)) = rows.into_iter().next() else {
            return Ok(None);
        };
        Ok(Some(Accepted {
            generation: Generation(unsigned(generation)),
            carried: Generation(unsigned(carried)),
            revision: Revision::new(&revision).map_err(record::name_error("accepted revision"))?,
            at: Timestamp(unsigned(at.unwrap_or(0))),
        }))
    }

    /// The newest commit, where it was not accepted.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub fn rejected(&self) -> Result<Option<Rejection>, StateError> {
        let row = self
            .conn
            .query_row("SELECT revision, why, at_ms FROM rejected", [], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, i64>(2)?,
                ))
            })
            .optional()
            .map_err(StateError::sqlite("read the rejected revision"))?;
        let Some((revision, why, at)) = row else {
            return Ok(None);
        };
        Ok(Some(Rejection {
            revision: Revision::new(&revision).map_err(record::name_error("rejected revision"))?,
            why,
            at: Timestamp(unsigned(at)),
        }))
    }

    /// What was last carried through, or begun, by sliver.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn applied(&self) -> Result<BTreeMap<SliverId, AppliedSliver>, StateError> {
        let rows = self.rows(
            "read what was applied",
            "SELECT sliver, desired, epoch, complete FROM applied",
            |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, i64>(2)?,
                    row.get::<_, bool>(3)?,
                ))
            },
        )?;
        let read = |(sliver, desired, epoch, complete): (String, String, i64, bool)| {
            let desired = normal::from_json(&desired).map_err(|source| StateError::Sliver {
                sliver: sliver.clone(),
                source,
            })?;
            let applied = AppliedSliver {
                desired,
                epoch: Epoch(unsigned(epoch)),
                complete,
            };
            Ok((sliver_id(&sliver)?, applied))
        };
        rows.into_iter().map(read).collect()
    }

    /// The highest right to run this node ever had, by sliver.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn epochs(&self) -> Result<BTreeMap<SliverId, Epoch>, StateError> {
        let rows = self.rows("read the holders", "SELECT sliver, epoch FROM holder", |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        })?;
        let read = |(sliver, epoch): (String, i64)| Ok((sliver_id(&sliver)?, Epoch(unsigned(epoch))));
        rows.into_iter().map(read).collect()
    }

    /// Intents without an outcome: what was under way when the agent ended.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn unfinished(&self) -> Result<Vec<JournalEntry>, StateError> {
        self.journal_where("WHERE outcome IS NULL ORDER BY seq")
    }

    /// The last `limit` entries of the journal, oldest first.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn journal(&self, limit: u32) -> Result<Vec<JournalEntry>, StateError> {
        let mut entries = self.journal_where(&format!("ORDER BY seq DESC LIMIT {limit}"))?;
        entries.reverse();
        Ok(entries)
    }

    fn journal_where(&self, tail: &str) -> Result<Vec<JournalEntry>, StateError> {
        type Columns = (
            i64,
            i64,
            String,
            Option<String>,
            i64,
            Option<i64>,
            Option<String>,
            Option<String>,
        );
        let sql = format!(
            "SELECT seq, run, action, sliver, intent_ms, outcome_ms, outcome, why FROM journal {tail}"
        );
        let rows: Vec<Columns> = self.rows("read the journal", &sql, |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get(5)?,
                row.get(6)?,
                row.get(7)?,
            ))
        })?;
        let read = |(seq, run, action, sliver, intent, at, outcome, why): Columns| {
            let outcome = match outcome {
                Some(word) => Some((Outcome::read(&word, why)?, Timestamp(unsigned(at.unwrap_or(0))))),
                None => None,
            };
            Ok(JournalEntry {
                seq,
                run,
                action,
                sliver: sliver.as_deref().map(sliver_id).transpose()?,
                intent: Timestamp(unsigned(intent)),
                outcome,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// Events after number `since`, oldest first, at most `limit`; the newest of them if there are more.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn events(&self, since: u64, limit: u32) -> Result<Vec<Event>, StateError> {
        type Columns = (i64, i64, String, Option<String>, String, Option<String>);
        let sql = format!(
            "SELECT seq, at_ms, kind, sliver, text, data FROM event WHERE seq > {} ORDER BY seq DESC LIMIT {limit}",
            signed(since)
        );
        let mut rows: Vec<Columns> = self.rows("read the events", &sql, |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get(5)?,
            ))
        })?;
        rows.reverse();
        let read = |(seq, at, kind, sliver, text, data): Columns| {
            Ok(Event {
                seq: unsigned(seq),
                at: Timestamp(unsigned(at)),
                kind: EventKind::parse(&kind).ok_or_else(|| StateError::Record {
                    what: "event",
                    why: format!("`{kind}` is no kind of event"),
                })?,
                sliver: sliver.as_deref().map(sliver_id).transpose()?,
                text,
                data: match data {
                    Some(text) => record::read_data(&text)?,
                    None => None,
                },
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// How many slivers have been removed since `from`.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub fn removals_since(&self, from: Timestamp) -> Result<u32, StateError> {
        self.conn
            .query_row(
                "SELECT count(*) FROM removal WHERE at_ms >= ?1",
                [signed(from.0)],
                |row| row.get(0),
            )
            .map_err(StateError::sqlite("count the removals"))
    }

    /// Slivers that wait before a failed action is tried again.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn backing_off(&self) -> Result<BTreeMap<SliverId, BackOff>, StateError> {
        let sql = "SELECT sliver, action, why, attempts, permanent, until_ms FROM backoff";
        let rows = self.rows("read the failures", sql, |row| {
            let back_off = BackOff {
                action: row.get(1)?,
                why: row.get(2)?,
                attempts: row.get(3)?,
                permanent: row.get(4)?,
                until: Timestamp(unsigned(row.get(5)?)),
            };
            Ok((row.get::<_, String>(0)?, back_off))
        })?;
        let read = |(sliver, back_off): (String, BackOff)| Ok((sliver_id(&sliver)?, back_off));
        rows.into_iter().map(read).collect()
    }

    /// File sets of the repository that were made into templates, and which.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn file_layers(&self) -> Result<BTreeMap<Digest, Digest>, StateError> {
        let rows = self.rows(
            "read the file layers",
            "SELECT files, template FROM file_layer",
            |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)),
        )?;
        let digest = |text: &str| Digest::parse(text).map_err(record::name_error("digest of a file layer"));
        let read = |(files, template): (String, String)| Ok((digest(&files)?, digest(&template)?));
        rows.into_iter().map(read).collect()
    }

    fn rows<T>(
        &self,
        attempt: &'static str,
        sql: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StateError> {
        let query = || {
            let mut statement = self.conn.prepare_cached(sql)?;
            let rows = statement.query_map([], read)?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        query().map_err(StateError::sqlite(attempt))
    }
}

fn configure(conn: &Connection, limits: Limits) -> rusqlite::Result<()> {
    // The lock file keeps other agents out; this is for people with the sqlite3 program.
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.pragma_update(None, "journal_mode", "wal")?;
    // An intent must be on the disk before its effect: WAL alone would allow NORMAL to lose the last commits.
    conn.pragma_update(None, "synchronous", "full")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "max_page_count", limits.pages_max)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn sliver_id(text: &str) -> Result<SliverId, StateError> {
    SliverId::parse(text).map_err(record::name_error("sliver"))
}

/// SQLite's integers are signed; times and counters beyond 2^63 do not occur and are held at the end of the range.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests;
