//! The board's tables: each function is part of a transaction of its caller.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::super::watch::{Change, Changes};
use super::super::{
    Commit, Entry, Guard, Key, LIST_BYTES_MAX, LIST_ENTRIES_MAX, LeaseId, Listing, Prefix, Refused, Revision,
    Txn, Value, Write,
};
use crate::time::BootMoment;

/// Why a transaction cannot go on.
#[derive(Debug)]
pub(super) enum Trouble {
    Sqlite(rusqlite::Error),
    /// A lease is not there.
    Lease(LeaseId),
    /// The tables hold what this program does not write, or too much.
    Never(String),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

pub(super) type Done<T> = Result<T, Trouble>;

/// Where the board is, and up to where its changes are forgotten.
pub(super) fn at(conn: &Connection) -> Done<(Revision, Revision)> {
    let mut statement = conn.prepare_cached("SELECT revision, compacted FROM board")?;
    Ok(statement.query_row([], |row| Ok((revision(row, 0)?, revision(row, 1)?)))?)
}

pub(super) fn get(conn: &Connection, key: &Key) -> Done<Option<Entry>> {
    let mut statement = conn.prepare_cached("SELECT value, revision, lease FROM entry WHERE key = ?1")?;
    let row = statement
        .query_row([key.as_str()], |row| {
            let value: Vec<u8> = row.get(0)?;
            Ok((value, revision(row, 1)?, row.get::<_, Option<i64>>(2)?))
        })
        .optional()?;
    row.map(|(bytes, revision, lease)| {
        Ok(Entry {
            value: value(bytes)?,
            revision,
            lease: lease.map(LeaseId),
        })
    })
    .transpose()
}

pub(super) fn list(conn: &Connection, prefix: &Prefix) -> Done<Listing> {
    let (at, _) = at(conn)?;
    let sql = "SELECT key, value, revision, lease FROM entry
               WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) ORDER BY key";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params![prefix.as_str(), prefix.end()])?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let value = value(row.get(1)?)?;
        bytes += value.as_bytes().len();
        if entries.len() >= LIST_ENTRIES_MAX || bytes > LIST_BYTES_MAX {
            return Err(Trouble::Never(format!(
                "there is too much below `{prefix}` to be listed"
            )));
        }
        let entry = Entry {
            value,
            revision: revision(row, 2)?,
            lease: row.get::<_, Option<i64>>(3)?.map(LeaseId),
        };
        entries.push((key(row, 0)?, entry));
    }
    Ok(Listing { entries, at })
}

pub(super) fn commit(conn: &Connection, txn: &Txn) -> Done<Commit> {
    for write in txn.writes() {
        if let Write::Put {
            lease: Some(lease), ..
        } = write
            && lease_ttl(conn, *lease)?.is_none()
        {
            return Err(Trouble::Lease(*lease));
        }
    }
    let mut refused = Vec::new();
    for guard in txn.guards() {
        let now = get(conn, guard.key())?;
        if !Guard::holds(guard, now.as_ref()) {
            refused.push((guard.key().clone(), now));
        }
    }
    if !refused.is_empty() {
        return Ok(Commit::Refused(Refused(refused)));
    }
    Ok(Commit::Done(apply(conn, txn.writes())?))
}

/// Makes the writes as one change; the revision after them.
fn apply(conn: &Connection, writes: &[Write]) -> Done<Revision> {
    let (at, _) = at(conn)?;
    let next = at.next();
    let mut changed = false;
    for write in writes {
        let key = write.key().as_str();
        match write {
            Write::Put { value, lease, .. } => {
                let lease = lease.map(|lease| lease.0);
                let row = params![key, value.as_bytes(), signed(next.0), lease];
                let sql = "INSERT INTO entry (key, value, revision, lease) VALUES (?1, ?2, ?3, ?4)
                           ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3, lease = ?4";
                conn.prepare_cached(sql)?.execute(row)?;
                let sql = "INSERT INTO change (key, value, revision, lease) VALUES (?1, ?2, ?3, ?4)";
                conn.prepare_cached(sql)?.execute(row)?;
            }
            Write::Delete(_) => {
                let gone = conn
                    .prepare_cached("DELETE FROM entry WHERE key = ?1")?
                    .execute([key])?;
                if gone == 0 {
                    continue;
                }
                let sql = "INSERT INTO change (key, revision) VALUES (?1, ?2)";
                conn.prepare_cached(sql)?.execute(params![key, signed(next.0)])?;
            }
        }
        changed = true;
    }
    if !changed {
        return Ok(at);
    }
    conn.prepare_cached("UPDATE board SET revision = ?1")?
        .execute([signed(next.0)])?;
    Ok(next)
}

/// Hands out all changes from `from` on, revision by revision.
pub(super) fn changes_from(conn: &Connection, from: Revision, mut each: impl FnMut(&Changes)) -> Done<()> {
    let sql = "SELECT revision, key, value, lease FROM change WHERE revision >= ?1 ORDER BY revision, key";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([signed(from.0)])?;
    let mut together = Changes {
        revision: Revision::START,
        changes: Vec::new(),
    };
    while let Some(row) = rows.next()? {
        let revision = revision(row, 0)?;
        if revision != together.revision {
            if !together.changes.is_empty() {
                each(&together);
            }
            together.revision = revision;
            together.changes.clear();
        }
        let entry = match row.get::<_, Option<Vec<u8>>>(2)? {
            None => None,
            Some(bytes) => Some(Entry {
                value: value(bytes)?,
                revision,
                lease: row.get::<_, Option<i64>>(3)?.map(LeaseId),
            }),
        };
        together.changes.push(Change {
            key: key(row, 1)?,
            entry,
        });
    }
    if !together.changes.is_empty() {
        each(&together);
    }
    Ok(())
}

/// Forgets the changes up to `to`.
pub(super) fn compact(conn: &Connection, to: Revision) -> Done<()> {
    let to = signed(to.0);
    let sql = "UPDATE board SET compacted = max(compacted, min(?1, revision))";
    conn.prepare_cached(sql)?.execute([to])?;
    let sql = "DELETE FROM change WHERE revision <= (SELECT compacted FROM board)";
    conn.prepare_cached(sql)?.execute([])?;
    Ok(())
}

/// Forgets the changes beyond the last `revisions`, and of those the older half as long as they hold more than `bytes`.
pub(super) fn trim(conn: &Connection, revisions: u64, bytes: u64) -> Done<()> {
    let (now, _) = at(conn)?;
    let mut kept = revisions;
    compact(conn, Revision(now.0.saturating_sub(kept)))?;
    loop {
        let sql = "SELECT coalesce(sum(length(value)), 0) FROM change";
        let held: i64 = conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        if u64::try_from(held).unwrap_or_default() <= bytes || kept <= 1 {
            return Ok(());
        }
        kept /= 2;
        compact(conn, Revision(now.0.saturating_sub(kept)))?;
    }
}

/// Makes a lease.
pub(super) fn grant(conn: &Connection, ttl_ms: u64, now: &BootMoment) -> Done<LeaseId> {
    let sql = "INSERT INTO lease (ttl_ms, boot, deadline_ms) VALUES (?1, ?2, ?3)";
    let row = params![signed(ttl_ms), now.boot, signed(now.ms.saturating_add(ttl_ms))];
    conn.prepare_cached(sql)?.execute(row)?;
    Ok(LeaseId(conn.last_insert_rowid()))
}

/// Renews a lease; its whole time, if it is there.
pub(super) fn keep_alive(conn: &Connection, lease: LeaseId, now: &BootMoment) -> Done<Option<u64>> {
    let Some(ttl_ms) = lease_ttl(conn, lease)? else {
        return Ok(None);
    };
    let sql = "UPDATE lease SET boot = ?2, deadline_ms = ?3 WHERE id = ?1";
    let row = params![lease.0, now.boot, signed(now.ms.saturating_add(ttl_ms))];
    conn.prepare_cached(sql)?.execute(row)?;
    Ok(Some(ttl_ms))
}

fn lease_ttl(conn: &Connection, lease: LeaseId) -> Done<Option<u64>> {
    let mut statement = conn.prepare_cached("SELECT ttl_ms FROM lease WHERE id = ?1")?;
    let ttl = statement.query_row([lease.0], |row| row.get(0)).optional()?;
    Ok(ttl.map(|ttl: i64| u64::try_from(ttl).unwrap_or_default()))
}

/// Ends a lease: its keys go as one change.
pub(super) fn revoke(conn: &Connection, lease: LeaseId) -> Done<()> {
    let keys = {
        let mut statement = conn.prepare_cached("SELECT key FROM entry WHERE lease = ?1")?;
        let mut rows = statement.query([lease.0])?;
        let mut keys = Vec::new();
        while let Some(row) = rows.next()? {
            keys.push(Write::Delete(key(row, 0)?));
        }
        keys
    };
    apply(conn, &keys)?;
    conn.prepare_cached("DELETE FROM lease WHERE id = ?1")?
        .execute([lease.0])?;
    Ok(())
}

/// Another boot's lease, or one that ends later than any of this boot can.
const FOREIGN: &str = "boot <> ?1 OR deadline_ms > ?2 + ttl_ms";

/// Whether any lease has run out, or is from before the machine was started.
pub(super) fn any_over(conn: &Connection, now: &BootMoment) -> Done<bool> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM lease WHERE deadline_ms <= ?2 OR {FOREIGN})");
    let mut statement = conn.prepare_cached(&sql)?;
    Ok(statement.query_row(params![now.boot, signed(now.ms)], |row| row.get(0))?)
}

/// Ends the leases that have run out, and gives those from before the machine was started their whole time again.
pub(super) fn expire(conn: &Connection, now: &BootMoment) -> Done<()> {
    let sql = format!("UPDATE lease SET boot = ?1, deadline_ms = ?2 + ttl_ms WHERE {FOREIGN}");
    conn.prepare_cached(&sql)?
        .execute(params![now.boot, signed(now.ms)])?;
    let over = {
        let mut statement =
            conn.prepare_cached("SELECT id FROM lease WHERE deadline_ms <= ?1 ORDER BY id")?;
        let ids = statement.query_map([signed(now.ms)], |row| row.get(0).map(LeaseId))?;
        ids.collect::<rusqlite::Result<Vec<_>>>()?
    };
    over.into_iter().try_for_each(|lease| revoke(conn, lease))
}

fn revision(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    let number: i64 = row.get(column)?;
    Ok(Revision(u64::try_from(number).unwrap_or_default()))
}

fn key(row: &Row<'_>, column: usize) -> Done<Key> {
    let text: String = row.get(column)?;
    Key::new(text).map_err(|error| Trouble::Never(format!("the board is damaged: {error}")))
}

fn value(bytes: Vec<u8>) -> Done<Value> {
    Value::new(bytes).map_err(|error| Trouble::Never(format!("the board is damaged: {error}")))
}

/// SQLite has signed numbers only.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
