//! The state of one node: what it accepted, what it applied, what it was about to do, and what happened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior};
use xeno_model::id::{Digest, Epoch, Generation, NodeName, Revision, SliverId, Timestamp};
use xeno_model::normal;
use xeno_reconciler::change::AppliedSliver;
use xeno_reconciler::tenure::Journal;

use crate::error::StateError;
use crate::lock::Lock;
use crate::record::{
    self, Accepted, BackOff, Chapter, ChapterEnd, Event, EventKind, Freeze, JournalEntry, Outcome, Rejection,
    Removals, Stand, Tombstone,
};
use crate::time::{BootMoment, NodeTime};

mod open;
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

/// How far the node time in the file beside the database may lag behind. A database made anew from it gets that much
/// less: what waits by node time waits longer.
const KEEP_EVERY_MS: u64 = 3_600_000;

/// The opened state of one node. Reads are methods; writes go through [`NodeState::write`].
#[derive(Debug)]
pub struct NodeState {
    /// `None` while a damaged one is set aside and there is no new one yet.
    conn: Option<Connection>,
    limits: Limits,
    dir: PathBuf,
    path: PathBuf,
    node: NodeName,
    /// Node time at which the file beside the database was last written; `None` where it is not as the database says.
    kept_at: Option<NodeTime>,
    _lock: Lock,
}

impl NodeState {
    /// Where the database is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `body` as one transaction: all of it is remembered, on disk, or nothing.
    ///
    /// # Errors
    /// What `body` returns, or why its transaction could not begin or end.
    pub fn write<T>(
        &mut self,
        body: impl FnOnce(&mut Writer<'_>) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let attempt = "begin to write the state";
        let conn = self.conn.as_mut().ok_or(StateError::Gone { attempt })?;
        let (value, keeps, lived_to) = transact(conn, self.limits, attempt, body)?;
        let kept_long_ago = match (self.kept_at, lived_to) {
            (None, _) => true,
            (Some(kept), Some(now)) => now.since(kept) >= KEEP_EVERY_MS,
            (Some(_), None) => false,
        };
        if keeps || kept_long_ago {
            self.keep();
        }
        Ok(value)
    }

    /// The node time that was last written down, and the moment it was, if ever.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub fn lived(&self) -> Result<(NodeTime, Option<BootMoment>), StateError> {
        let attempt = "read the node's time";
        let sql = "SELECT time_ms, boot, boot_ms FROM node";
        let row = self.conn(attempt)?.query_row(sql, [], |row| {
            let (boot, ms): (Option<String>, Option<i64>) = (row.get(1)?, row.get(2)?);
            let then = boot.zip(ms).map(|(boot, ms)| BootMoment {
                boot,
                ms: unsigned(ms),
            });
            Ok((NodeTime(unsigned(row.get(0)?)), then))
        });
        row.map_err(StateError::sqlite(attempt))
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
        let attempt = "read the rejected revision";
        let row = self
            .conn(attempt)?
            .query_row("SELECT revision, why, at_ms FROM rejected", [], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, i64>(2)?,
                ))
            })
            .optional()
            .map_err(StateError::sqlite(attempt))?;
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
            "SELECT sliver, desired, epoch, complete, at_ms FROM applied",
            |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, i64>(2)?,
                    row.get::<_, bool>(3)?,
                    row.get::<_, i64>(4)?,
                ))
            },
        )?;
        let read = |(sliver, desired, epoch, complete, at): (String, String, i64, bool, i64)| {
            let desired = normal::from_json(&desired).map_err(|source| StateError::Sliver {
                sliver: sliver.clone(),
                source,
            })?;
            let applied = AppliedSliver {
                desired,
                epoch: Epoch(unsigned(epoch)),
                complete,
                at: Timestamp(unsigned(at)),
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

    /// What this node has done about the right to run its slivers.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn tenure(&self) -> Result<BTreeMap<SliverId, Journal>, StateError> {
        let attempt = "read what was done about the right to run";
        let rows = self.rows(attempt, "SELECT sliver, began, offered FROM tenure", |row| {
            Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?))
        })?;
        let epoch = |epoch: Option<i64>| epoch.map(|epoch| Epoch(unsigned(epoch)));
        let read = |(sliver, began, offered): (String, Option<i64>, Option<i64>)| {
            let journal = Journal {
                began: epoch(began),
                offered: epoch(offered),
            };
            Ok((sliver_id(&sliver)?, journal))
        };
        rows.into_iter().map(read).collect()
    }

    /// Where slivers stand in the rollouts of their slices.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn stands(&self) -> Result<BTreeMap<SliverId, Stand>, StateError> {
        type Columns = (String, String, String, Option<String>, Option<String>);
        let rows: Vec<Columns> = self.rows(
            "read where slivers stand",
            "SELECT sliver, at, at_desired, good, good_desired FROM footing",
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
        )?;
        let read = |(sliver, at, at_desired, good, good_desired): Columns| {
            let one = |revision: &str, desired: &str| {
                let revision = Digest::parse(revision).map_err(record::name_error("revision of a slice"))?;
                let desired = normal::from_json(desired).map_err(|source| StateError::Sliver {
                    sliver: sliver.clone(),
                    source,
                })?;
                Ok((revision, desired))
            };
            let good = good.as_deref().zip(good_desired.as_deref());
            let stand = Stand {
                at: one(&at, &at_desired)?,
                good: good
                    .map(|(revision, desired)| one(revision, desired))
                    .transpose()?,
            };
            Ok((sliver_id(&sliver)?, stand))
        };
        rows.into_iter().map(read).collect()
    }

    /// The board that this node has joined, if it has joined one.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub fn board(&self) -> Result<Option<String>, StateError> {
        let rows = self.rows(
            "read which board was joined",
            "SELECT identity FROM board",
            |row| row.get(0),
        )?;
        Ok(rows.into_iter().next())
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

    /// When slivers have been removed since `from`, oldest first.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub fn removals_since(&self, from: NodeTime) -> Result<Removals, StateError> {
        let attempt = "read the removals";
        let conn = self.conn(attempt)?;
        let read = || -> rusqlite::Result<Removals> {
            let sql = "SELECT time_ms FROM removal WHERE time_ms >= ?1 ORDER BY time_ms";
            let mut statement = conn.prepare_cached(sql)?;
            let rows = statement.query_map([signed(from.0)], |row| Ok(NodeTime(unsigned(row.get(0)?))))?;
            let known = rows.collect::<rusqlite::Result<_>>()?;
            let sql = "SELECT rebuilt_ms IS NOT NULL AND coalesce(rebuilt_time_ms >= ?1, 1), rebuilt_time_ms
                       FROM node";
            conn.query_row(sql, [signed(from.0)], |row| {
                let at: Option<i64> = row.get(1)?;
                Ok(Removals {
                    known,
                    forgotten: row.get(0)?,
                    rebuilt: at.map(|at| NodeTime(unsigned(at))),
                })
            })
        };
        read().map_err(StateError::sqlite(attempt))
    }

    /// What removals have set aside, as far as this state has seen it.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn tombstones(&self) -> Result<BTreeMap<SliverId, Tombstone>, StateError> {
        let rows = self.rows(
            "read the tombstones",
            "SELECT sliver, since_ms, time_ms FROM tombstone",
            |row| {
                let tombstone = Tombstone {
                    since: Timestamp(unsigned(row.get(1)?)),
                    seen: NodeTime(unsigned(row.get(2)?)),
                };
                Ok((row.get::<_, String>(0)?, tombstone))
            },
        )?;
        let read = |(sliver, tombstone): (String, Tombstone)| Ok((sliver_id(&sliver)?, tombstone));
        rows.into_iter().map(read).collect()
    }

    /// The last `limit` chapters of the history, newest first: of one sliver, or of the node as a whole.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn history(&self, of: Option<&SliverId>, limit: u32) -> Result<Vec<Chapter>, StateError> {
        type Columns = (
            Option<i64>,
            Option<String>,
            i64,
            String,
            String,
            String,
            String,
            i64,
            Option<i64>,
            Option<String>,
        );
        let attempt = "read the history";
        let sql = "SELECT run, sliver, generation, revision, class, cause, text, began_ms, ended_ms, outcome
                   FROM history WHERE ?1 IS NULL OR sliver = ?1 ORDER BY seq DESC LIMIT ?2";
        let conn = self.conn(attempt)?;
        let query = || {
            let mut statement = conn.prepare_cached(sql)?;
            let rows = statement.query_map((of.map(ToString::to_string), limit), |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                    row.get(6)?,
                    row.get(7)?,
                    row.get(8)?,
                    row.get(9)?,
                ))
            })?;
            rows.collect::<rusqlite::Result<Vec<Columns>>>()
        };
        let read = |columns: Columns| {
            let (run, sliver, generation, revision, class, cause, text, began, ended, outcome) = columns;
            let end = outcome.map(|word| {
                ChapterEnd::parse(&word).ok_or_else(|| StateError::Record {
                    what: "history",
                    why: format!("`{word}` is no end"),
                })
            });
            let ended = ended.map(|at| Timestamp(unsigned(at)));
            Ok(Chapter {
                run,
                sliver: sliver.as_deref().map(sliver_id).transpose()?,
                generation: Generation(unsigned(generation)),
                revision: Revision::new(&revision).map_err(record::name_error("revision of the history"))?,
                class,
                cause,
                text,
                began: Timestamp(unsigned(began)),
                ended: end.transpose()?.zip(ended),
            })
        };
        let rows = query().map_err(StateError::sqlite(attempt))?;
        rows.into_iter().map(read).collect()
    }

    /// When slivers were started again because they had ended by themselves, oldest first.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn restarts(&self) -> Result<BTreeMap<SliverId, Vec<NodeTime>>, StateError> {
        let sql = "SELECT sliver, time_ms FROM restart ORDER BY time_ms";
        let rows = self.rows("read the restarts", sql, |row| {
            Ok((row.get::<_, String>(0)?, NodeTime(unsigned(row.get(1)?))))
        })?;
        let mut restarts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (sliver, time) in rows {
            restarts.entry(sliver_id(&sliver)?).or_default().push(time);
        }
        Ok(restarts)
    }

    /// What people froze, by scope.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn freezes(&self) -> Result<Vec<Freeze>, StateError> {
        let sql = "SELECT scope, reason, made_by, since_ms, until_ms FROM freeze ORDER BY scope";
        self.rows("read the freezes", sql, |row| {
            Ok(Freeze {
                scope: row.get(0)?,
                reason: row.get(1)?,
                by: row.get(2)?,
                since: Timestamp(unsigned(row.get(3)?)),
                until: row
                    .get::<_, Option<i64>>(4)?
                    .map(|until| Timestamp(unsigned(until))),
            })
        })
    }

    /// Slivers that wait before a failed action is tried again.
    ///
    /// # Errors
    /// [`StateError`] if any of it cannot be read.
    pub fn backing_off(&self) -> Result<BTreeMap<SliverId, BackOff>, StateError> {
        let sql = "SELECT sliver, action, why, attempts, permanent, until_time_ms FROM backoff";
        let rows = self.rows("read the failures", sql, |row| {
            let back_off = BackOff {
                action: row.get(1)?,
                why: row.get(2)?,
                attempts: row.get(3)?,
                permanent: row.get(4)?,
                until: NodeTime(unsigned(row.get(5)?)),
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

    fn conn(&self, attempt: &'static str) -> Result<&Connection, StateError> {
        self.conn.as_ref().ok_or(StateError::Gone { attempt })
    }

    fn rows<T>(
        &self,
        attempt: &'static str,
        sql: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StateError> {
        let conn = self.conn(attempt)?;
        let query = || {
            let mut statement = conn.prepare_cached(sql)?;
            let rows = statement.query_map([], read)?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        query().map_err(StateError::sqlite(attempt))
    }
}

/// One transaction; also says whether what is kept twice has changed, and which node time was written.
fn transact<T>(
    conn: &mut Connection,
    limits: Limits,
    attempt: &'static str,
    body: impl FnOnce(&mut Writer<'_>) -> Result<T, StateError>,
) -> Result<(T, bool, Option<NodeTime>), StateError> {
    let tx = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(StateError::sqlite(attempt))?;
    let mut writer = Writer {
        tx,
        limits,
        keeps: false,
        lived_to: None,
    };
    let value = body(&mut writer)?;
    let Writer {
        tx, keeps, lived_to, ..
    } = writer;
    tx.commit().map_err(StateError::sqlite("write the state"))?;
    Ok((value, keeps, lived_to))
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
