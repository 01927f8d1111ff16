//! The file: made, recognised, brought to the newest schema, or refused.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::super::{BoardError, BoardResult};
use crate::error::chain;

/// How long one call waits for other processes.
const BUSY: Duration = Duration::from_secs(5);

/// Marks the file as a board (<https://sqlite.org/pragma.html#pragma_application_id>): `XnBd`.
const APPLICATION: i32 = 0x586e_4264;

/// 4 GiB of pages of 4 KiB: far beyond any board, and an end to what a mistake can fill.
const PAGES_MAX: u32 = 1 << 20;

/// Schema steps; `user_version` counts those a file has been through. Never edited once released.
const STEPS: &[&str] = &["
    -- One row.
    CREATE TABLE board (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        revision INTEGER NOT NULL CHECK (revision >= 0),
        -- Changes up to here are forgotten.
        compacted INTEGER NOT NULL CHECK (compacted BETWEEN 0 AND revision)
    ) STRICT;
    INSERT INTO board VALUES (1, 0, 0);

    CREATE TABLE lease (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        ttl_ms INTEGER NOT NULL CHECK (ttl_ms > 0),
        -- A moment within a boot of the machine.
        boot TEXT NOT NULL,
        deadline_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX lease_deadline ON lease (deadline_ms);

    CREATE TABLE entry (
        key TEXT PRIMARY KEY,
        value BLOB NOT NULL,
        revision INTEGER NOT NULL,
        lease INTEGER REFERENCES lease (id)
    ) STRICT;
    CREATE INDEX entry_lease ON entry (lease) WHERE lease IS NOT NULL;

    -- What changed at each revision since `compacted`; no value: deleted.
    CREATE TABLE change (
        revision INTEGER NOT NULL,
        key TEXT NOT NULL,
        value BLOB,
        lease INTEGER,
        PRIMARY KEY (revision, key)
    ) STRICT;
"];

/// Opens the file, and checks that it is a board that this program can use.
pub(super) fn open(path: &Path) -> BoardResult<Connection> {
    let attempt = "open the board";
    // Who may run what is nobody else's business; SQLite's files beside it get the same rights.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| BoardError::never(attempt, format!("{}: {error}", path.display())))?;
    refuse_network(path, &file)?;
    drop(file);
    // Two that open a new file at the same time get in each other's way while it becomes a WAL database, which no busy
    // handler is asked about.
    let end = Instant::now() + BUSY;
    loop {
        match prepare(path) {
            Ok(conn) => return Ok(conn),
            Err(Refusal::Sqlite(error)) if is_busy(&error) && Instant::now() < end => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(Refusal::Sqlite(error)) => return Err(failed(attempt, &error)),
            Err(Refusal::Not(why)) => {
                return Err(BoardError::never(attempt, format!("{}: {why}", path.display())));
            }
        }
    }
}

enum Refusal {
    Sqlite(rusqlite::Error),
    Not(String),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn prepare(path: &Path) -> Result<Connection, Refusal> {
    let mut conn = Connection::open(path)?;
    conn.busy_timeout(BUSY)?;
    // Before anything is written: it may be somebody else's.
    // One look: between two of them another process may make it a board.
    let look = conn.transaction()?;
    let application: i32 = look.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = look.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    drop(look);
    if application != APPLICATION && (application != 0 || tables > 0) {
        return Err(Refusal::Not("it is a database, but not a board".to_owned()));
    }
    conn.pragma_update(None, "journal_mode", "wal")?;
    conn.pragma_update(None, "synchronous", "full")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "max_page_count", PAGES_MAX)?;
    conn.set_prepared_statement_cache_capacity(64);
    let found: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(Refusal::Not(format!("the board is damaged: {found}")));
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: u32 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > STEPS.len() {
        let known = STEPS.len();
        return Err(Refusal::Not(format!(
            "its schema is version {version}, this program knows up to {known}; use the newer program"
        )));
    }
    for step in &STEPS[version..] {
        tx.execute_batch(step)?;
    }
    if version < STEPS.len() {
        tx.pragma_update(None, "application_id", APPLICATION)?;
        tx.pragma_update(
            None,
            "user_version",
            i64::try_from(STEPS.len()).unwrap_or(i64::MAX),
        )?;
    }
    tx.commit()?;
    Ok(conn)
}

/// WAL needs memory that all processes share, and locks that hold: no file system of another machine has both
/// (<https://sqlite.org/wal.html>).
fn refuse_network(path: &Path, file: &std::fs::File) -> BoardResult<()> {
    // statfs(2) names the types.
    const NETWORKS: [(u32, &str); 8] = [
        (0x6969, "NFS"),
        (0x517b, "SMB"),
        (0xfe53_4d42, "SMB"),
        (0xff53_4d42, "CIFS"),
        (0x5346_414f, "AFS"),
        (0x6b41_4653, "AFS"),
        (0x0102_1997, "9P"),
        (0x00c3_6400, "Ceph"),
    ];
    let Ok(stat) = rustix::fs::fstatfs(file) else {
        return Ok(());
    };
    // The field is wider than the numbers in it, which it may hold with a sign.
    let found = NETWORKS
        .iter()
        .find(|(magic, _)| i64::from(*magic) == stat.f_type & 0xffff_ffff);
    match found {
        None => Ok(()),
        Some((_, name)) => Err(BoardError::never(
            "open the board",
            format!(
                "{}: it lies on {name}; a board in a file belongs on a disk of the machine, and a fleet's in etcd",
                path.display()
            ),
        )),
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// What an error of SQLite says about the board, where nothing was done.
pub(super) fn failed(attempt: &'static str, error: &rusqlite::Error) -> BoardError {
    let why = chain(error);
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::CannotOpen,
        ) => BoardError::never(attempt, why),
        // Our own statements always fit our own tables: what does not fit was not written by this program.
        None => BoardError::never(attempt, why),
        Some(_) => BoardError::unavailable(attempt, why),
    }
}

/// The same where it was the commit itself that failed.
pub(super) fn failed_commit(attempt: &'static str, error: &rusqlite::Error) -> BoardError {
    match error.sqlite_error_code() {
        // Before the frame that makes it valid was written.
        Some(ErrorCode::DatabaseBusy | ErrorCode::DiskFull) => failed(attempt, error),
        // The frame may be there: a crash now would make it valid.
        _ => BoardError::unknown(attempt, chain(error)),
    }
}
