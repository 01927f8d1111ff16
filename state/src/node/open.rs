//! Opening the database, and making it anew where it is damaged.
//!
//! A damaged database is never repaired: it is set aside under a name that says when, for people to look at, and a new
//! one is made from what is kept beside it ([`crate::keep`]). The rest is found out by looking: guests, storage and
//! tombstones by observation, what is desired from git, what was applied from both being equal. What was removed lately
//! nobody can tell, so until a whole window of the delete budget has passed it counts as used up.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use xeno_model::id::{NodeName, Timestamp};
use xeno_reconciler::report;

use super::{Limits, NodeState, signed, unsigned};
use crate::error::{StateError, chain};
use crate::keep::{self, Keep, Kept, KeptFreeze};
use crate::lock::{self, Lock};
use crate::record::Rebuilt;
use crate::time::NodeTime;
use crate::upgrade;

/// Damaged databases kept for people to look at; a disk that damages one after the other must not fill up with them.
const ASIDE_MAX: usize = 5;

const NAME: &str = "state.db";

/// What a database leaves beside itself (<https://sqlite.org/tempfiles.html>).
const COMPANIONS: [&str; 3] = ["", "-wal", "-shm"];

impl NodeState {
    /// Opens the state in `dir`, making it when missing, and keeps other agents out until it is dropped. A database that
    /// is damaged is set aside and made anew: [`NodeState::rebuilt`] tells.
    ///
    /// # Errors
    /// [`StateError::Locked`] if another agent has it, [`StateError::OtherNode`] if it is not `node`'s,
    /// [`StateError::Newer`] if a newer program wrote it.
    pub fn open(dir: &Path, node: &NodeName, limits: Limits) -> Result<Self, StateError> {
        lock::make_dir(dir)?;
        let lock = Lock::take(dir)?;
        let mut state = Self {
            conn: None,
            limits,
            dir: dir.to_owned(),
            path: dir.join(NAME),
            node: node.clone(),
            kept_at: None,
            _lock: lock,
        };
        match connect(&state.path, limits) {
            Ok(conn) => {
                state.conn = Some(conn);
                state.claim(None)?;
            }
            Err(error) if error.is_damage() => {
                state.rebuild(&chain(&error))?;
            }
            Err(error) => return Err(error),
        }
        if state.kept_at.is_none() {
            state.keep();
        }
        Ok(state)
    }

    /// Sets the database aside, whatever is in it, and makes a new one. Fails as a whole: until a later call succeeds
    /// nothing can be read or written.
    ///
    /// # Errors
    /// [`StateError`] if the file cannot be renamed or the new one not be made.
    pub fn rebuild(&mut self, why: &str) -> Result<(), StateError> {
        // An open connection would take the files of the new database for its own when it closes.
        self.conn = None;
        self.kept_at = None;
        let aside = set_aside(&self.dir)?;
        self.conn = Some(connect(&self.path, self.limits)?);
        let claimed = self.claim(Some((why, aside)));
        if claimed.is_err() {
            self.conn = None;
        }
        claimed?;
        self.keep();
        Ok(())
    }

    /// That the database was damaged and made anew, if it was.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub fn rebuilt(&self) -> Result<Option<Rebuilt>, StateError> {
        let attempt = "read whether the state was rebuilt";
        let sql = "SELECT rebuilt_ms, rebuilt_time_ms, rebuilt_why, rebuilt_aside FROM node";
        let row = self.conn(attempt)?.query_row(sql, [], |row| {
            let at: Option<i64> = row.get(0)?;
            let time: Option<i64> = row.get(1)?;
            let (why, aside) = (row.get::<_, Option<String>>(2)?, row.get(3)?);
            Ok(at.map(|at| Rebuilt {
                at: Timestamp(unsigned(at)),
                time: time.map(|time| NodeTime(unsigned(time))),
                why: why.unwrap_or_default(),
                aside,
            }))
        });
        row.map_err(StateError::sqlite(attempt))
    }

    /// Makes the database this node's, or refuses it. One without an owner is new; where there was another before, what
    /// was kept of that goes into it.
    fn claim(&mut self, damage: Option<(&str, Option<PathBuf>)>) -> Result<(), StateError> {
        let attempt = "read whose state this is";
        let fail = || StateError::sqlite(attempt);
        let node = self.node.as_str();
        let other = |found: String| StateError::OtherNode {
            dir: self.dir.clone(),
            found,
            node: node.to_owned(),
        };
        let found: Option<String> = self
            .conn(attempt)?
            .query_row("SELECT name FROM node", [], |row| row.get(0))
            .optional()
            .map_err(fail())?;
        match found {
            Some(found) if found == node => return Ok(()),
            Some(found) => return Err(other(found)),
            None => {}
        }
        let kept = keep::read(&self.dir);
        let there_was_one = !matches!(kept, Kept::Nothing) || !asides(&self.dir).is_empty();
        let lost = damage.or_else(|| there_was_one.then_some(("it was missing or empty", None)));
        let keep = match kept {
            Kept::Read(keep) if keep.node != node => return Err(other(keep.node)),
            Kept::Read(keep) => *keep,
            Kept::Nothing | Kept::Unreadable => Keep::new(node.to_owned()),
        };
        let aside = lost.as_ref().and_then(|(_, aside)| aside.clone());
        let conn = self.conn.as_mut().ok_or(StateError::Gone { attempt })?;
        let write = || -> rusqlite::Result<()> {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            tx.execute(
                "INSERT INTO node (id, name, generation, revision, accepted_ms, time_ms,
                                   rebuilt_ms, rebuilt_why, rebuilt_aside)
                 VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    node,
                    signed(keep.generation),
                    keep.revision,
                    keep.accepted_ms.map(signed),
                    signed(keep.node_time_ms),
                    lost.as_ref().map(|_| signed(wall_now().0)),
                    lost.as_ref().map(|(why, _)| *why),
                    aside.map(|aside| aside.display().to_string()),
                ],
            )?;
            for freeze in &keep.freezes {
                tx.execute(
                    "INSERT OR REPLACE INTO freeze (scope, reason, made_by, since_ms, until_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        freeze.scope,
                        freeze.reason,
                        freeze.by,
                        signed(freeze.since_ms),
                        freeze.until_ms.map(signed)
                    ],
                )?;
            }
            tx.commit()
        };
        write().map_err(StateError::sqlite("make the state this node's"))
    }

    /// Writes the file that lies beside the database. Where that fails the database says the same, and the next write
    /// tries again.
    pub(super) fn keep(&mut self) {
        let written = self.to_keep().and_then(|keep| {
            keep::write(&self.dir, &keep)?;
            Ok(NodeTime(keep.node_time_ms))
        });
        self.kept_at = written.ok();
    }

    fn to_keep(&self) -> Result<Keep, StateError> {
        let attempt = "read what is kept twice";
        let conn = self.conn(attempt)?;
        let read = || -> rusqlite::Result<Keep> {
            let sql = "SELECT generation, revision, accepted_ms, time_ms FROM node";
            let mut keep = conn.query_row(sql, [], |row| {
                Ok(Keep {
                    generation: unsigned(row.get(0)?),
                    revision: row.get(1)?,
                    accepted_ms: row.get::<_, Option<i64>>(2)?.map(unsigned),
                    node_time_ms: unsigned(row.get(3)?),
                    ..Keep::new(self.node.to_string())
                })
            })?;
            let sql = "SELECT scope, reason, made_by, since_ms, until_ms FROM freeze ORDER BY scope";
            let mut statement = conn.prepare_cached(sql)?;
            let rows = statement.query_map([], |row| {
                Ok(KeptFreeze {
                    scope: row.get(0)?,
                    reason: row.get(1)?,
                    by: row.get(2)?,
                    since_ms: unsigned(row.get(3)?),
                    until_ms: row.get::<_, Option<i64>>(4)?.map(unsigned),
                })
            })?;
            keep.freezes = rows.collect::<rusqlite::Result<_>>()?;
            Ok(keep)
        };
        read().map_err(StateError::sqlite(attempt))
    }
}

fn connect(path: &Path, limits: Limits) -> Result<Connection, StateError> {
    let attempt = "open the state database";
    let mut conn = Connection::open(path).map_err(StateError::sqlite(attempt))?;
    configure(&conn, limits).map_err(StateError::sqlite(attempt))?;
    // Structure only, and the checks of the tables: seconds for the largest database there may be, not minutes.
    let check = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    let found = check.map_err(StateError::sqlite("check the state database"))?;
    if found != "ok" {
        return Err(StateError::Unsound { found });
    }
    upgrade::run(&mut conn, path)?;
    Ok(conn)
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

/// Renames the database and what belongs to it; `None` where there is none.
fn set_aside(dir: &Path) -> Result<Option<PathBuf>, StateError> {
    let stamp: String = report::utc(wall_now())
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('T'),
            digit if digit.is_ascii_digit() => Some(digit),
            _ => None,
        })
        .collect();
    // `20261122T084501T`, from the space before `UTC`.
    let stamp = format!("{}Z", stamp.trim_end_matches('T'));
    let free = |name: &String| {
        COMPANIONS
            .iter()
            .all(|c| !dir.join(format!("{name}{c}")).exists())
    };
    let mut names = (1..).map(|n| match n {
        1 => format!("{NAME}.broken-{stamp}"),
        n => format!("{NAME}.broken-{stamp}.{n}"),
    });
    let name = names.find(free).unwrap_or_default();
    let mut moved = None;
    for companion in COMPANIONS {
        let (from, to) = (
            dir.join(format!("{NAME}{companion}")),
            dir.join(format!("{name}{companion}")),
        );
        match fs::rename(&from, &to) {
            Ok(()) if companion.is_empty() => moved = Some(to),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(StateError::File {
                    attempt: "set aside",
                    path: from,
                    source,
                });
            }
        }
    }
    let synced = keep::sync_dir(dir);
    synced.map_err(|source| StateError::File {
        attempt: "sync",
        path: dir.to_owned(),
        source,
    })?;
    for old in asides(dir).into_iter().rev().skip(ASIDE_MAX) {
        for companion in COMPANIONS {
            // What cannot be deleted lies there for longer.
            let _ = fs::remove_file(dir.join(format!("{old}{companion}")));
        }
    }
    Ok(moved)
}

/// Names of the databases that were set aside, oldest first.
fn asides(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let prefix = format!("{NAME}.broken-");
    let whole = |name: &String| {
        name.starts_with(&prefix) && !COMPANIONS[1..].iter().any(|companion| name.ends_with(companion))
    };
    let mut names: Vec<_> = names.filter(whole).collect();
    names.sort();
    names
}

/// The wall clock: for people, who read when something happened.
fn wall_now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let ms = since.unwrap_or_default().as_millis();
    Timestamp(u64::try_from(ms).unwrap_or(u64::MAX))
}
