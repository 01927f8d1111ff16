use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use rusqlite::Connection;

use super::*;
use crate::board::conformance::{self, Ground};
use crate::board::{Change, Guard, Value, WatchEnd, Write};

/// A clock that is set by hand: a boot and the time since.
#[derive(Clone)]
struct HandClock(Arc<Mutex<BootMoment>>);

impl HandClock {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(BootMoment {
            boot: "first".to_owned(),
            ms: 1_000_000,
        })))
    }

    fn advance(&self, time: Duration) {
        self.0.lock().unwrap().ms += u64::try_from(time.as_millis()).unwrap();
    }

    fn set(&self, boot: &str, ms: u64) {
        *self.0.lock().unwrap() = BootMoment {
            boot: boot.to_owned(),
            ms,
        };
    }

    fn options(&self) -> Options {
        let clock = Arc::clone(&self.0);
        Options {
            poll: Duration::from_millis(2),
            clock: Arc::new(move || clock.lock().unwrap().clone()),
            ..Options::default()
        }
    }
}

/// A file, each of whose clients has a thread and a connection of its own, as other processes do.
struct File {
    dir: tempfile::TempDir,
    clock: HandClock,
}

impl File {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: HandClock::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("board.db")
    }

    fn open(&self) -> SqliteBoard {
        SqliteBoard::open(&self.path(), self.clock.options()).unwrap()
    }
}

impl Ground for File {
    type Board = SqliteBoard;

    async fn client(&self) -> SqliteBoard {
        self.open()
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    async fn compact(&self, to: Revision) {
        self.open().compact(to).await.unwrap();
    }

    async fn stop(&self) -> bool {
        false
    }

    async fn start(&self) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_to_what_every_board_keeps_to() {
    for story in conformance::STORIES {
        conformance::run(story, &File::new()).await;
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn put(k: &str, v: impl AsRef<[u8]>) -> Txn {
    Txn::put(key(k), Value::new(v).unwrap(), None)
}

#[tokio::test]
async fn the_file_is_its_owners_and_lasts() {
    use std::os::unix::fs::PermissionsExt as _;
    let file = File::new();
    let board = file.open();
    let Ok(Commit::Done(at)) = board.commit(&put("x", "1")).await else {
        panic!("not done")
    };
    drop(board);
    let board = file.open();
    let entry = board.get(&key("x")).await.unwrap().unwrap();
    assert_eq!((entry.value.as_bytes(), entry.revision), (&b"1"[..], at));
    for found in fs::read_dir(file.dir.path()).unwrap() {
        let found = found.unwrap();
        let mode = found.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", found.path().display());
    }
}

#[tokio::test]
async fn a_machine_that_was_off_ends_no_lease() {
    let file = File::new();
    let board = file.open();
    let ttl = Duration::from_secs(10);
    let lease = board.grant(ttl).await.unwrap().id;
    let with = Txn::put(key("x"), Value::default(), Some(lease));
    board.commit(&with).await.unwrap();
    let is_there = async || board.get(&key("x")).await.unwrap().is_some();

    // Up again: whatever its clock says, the lease has its whole time once more.
    file.clock.set("second", 5_000_000);
    assert!(is_there().await);
    file.clock.advance(ttl - Duration::from_millis(1));
    assert!(is_there().await);
    file.clock.advance(Duration::from_millis(1));
    assert!(!is_there().await, "and then it ends");

    // Without a name for the boot, a clock that went back shows it.
    file.clock.set("", 1_000_000);
    let lease = board.grant(ttl).await.unwrap().id;
    board
        .commit(&Txn::put(key("x"), Value::default(), Some(lease)))
        .await
        .unwrap();
    file.clock.set("", 10);
    assert!(is_there().await);
    file.clock.advance(ttl);
    assert!(!is_there().await, "it does not live for ever");
}

#[tokio::test]
async fn only_so_much_of_the_past_is_kept() {
    let check = async |history: u64, history_bytes: u64, len: usize, writes: u64, kept: u64| {
        let file = File::new();
        let options = Options {
            history,
            history_bytes,
            ..file.clock.options()
        };
        let board = SqliteBoard::open(&file.path(), options).unwrap();
        for _ in 0..writes {
            board.commit(&put("x", vec![0; len])).await.unwrap();
        }
        let mut watch = board.watch(&Prefix::all(), Revision(1)).await.unwrap();
        let oldest = Revision(writes - kept + 1);
        assert_eq!(watch.next().await, Err(WatchEnd::Compacted { oldest }));
        let mut watch = board.watch(&Prefix::all(), oldest).await.unwrap();
        assert_eq!(watch.next().await.unwrap().revision, oldest);
    };
    check(10, 1 << 20, 0, 128, 10).await;
    check(100, 20_000, 1000, 128, 12).await;
}

/// What the test program does when it is started to be killed: moves a number in two keys on, for ever.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Ok(path) = std::env::var("XENO_BOARD_CHILD") else {
        return;
    };
    let board = SqliteBoard::open(Path::new(&path), Options::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        loop {
            let (a, b) = (key("pair/a"), key("pair/b"));
            let (at_a, at_b) = (board.get(&a).await.unwrap(), board.get(&b).await.unwrap());
            let text = at_a.as_ref().map(|entry| entry.value.as_bytes().to_vec());
            let number: u64 = text.map_or(0, |text| String::from_utf8(text).unwrap().parse().unwrap());
            let next = number + 1;
            // Large enough for a commit to take a while.
            let filler = Value::new(vec![b'.'; 8_000]).unwrap();
            let write = |key: &Key, value: Value| Write::Put {
                key: key.clone(),
                value,
                lease: None,
            };
            let text = Value::new(next.to_string()).unwrap();
            let txn = Txn::new(
                vec![
                    Guard::unchanged(a.clone(), at_a.as_ref()),
                    Guard::unchanged(b.clone(), at_b.as_ref()),
                ],
                vec![
                    write(&a, text.clone()),
                    write(&key("pair/filler"), filler),
                    write(&b, text),
                ],
            );
            match board.commit(&txn.unwrap()).await.unwrap() {
                Commit::Done(_) => print_line(&format!("did {next}")),
                Commit::Refused(refused) => panic!("{refused:?}"),
            }
        }
    });
}

/// Past the test program's capture of what is printed.
fn print_line(text: &str) {
    use std::io::Write as _;
    let line = format!("{text}\n");
    let mut out = fs::OpenOptions::new()
        .append(true)
        .open("/proc/self/fd/1")
        .unwrap();
    out.write_all(line.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_in_mid_commit_leaves_all_or_nothing() {
    let file = File::new();
    let board = SqliteBoard::open(&file.path(), Options::default()).unwrap();
    let mut watch = board
        .watch(&Prefix::new("pair/").unwrap(), Revision(1))
        .await
        .unwrap();
    let (mut answered, mut seen) = (0, Vec::new());
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "board::sqlite::tests::child_that_commits_until_it_is_killed",
            ])
            .args(["--nocapture", "--test-threads=1"])
            .env("XENO_BOARD_CHILD", file.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut did = || lines.find_map(|line| line.ok()?.strip_prefix("did ")?.parse::<u64>().ok());
        for _ in 0..=round % 4 {
            answered = did().expect("the child commits");
        }
        // Somewhere within the next.
        for _ in 0..round * 3_000 {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(number) = did() {
            answered = number;
        }
        let listing = board.list(&Prefix::new("pair/").unwrap()).await.unwrap();
        let [(_, a), (_, b), (_, filler)] = &listing.entries[..] else {
            panic!("{listing:?}")
        };
        assert_eq!((&a.value, a.revision), (&b.value, b.revision));
        assert_eq!(filler.revision, a.revision);
        let there: u64 = str::from_utf8(a.value.as_bytes()).unwrap().parse().unwrap();
        assert!(
            there == answered || there == answered + 1,
            "{there} after an answer of {answered}"
        );
        answered = there;
        // Taken as it comes: a child that had much time must not find the watch full.
        seen.extend(std::iter::from_fn(|| watch.try_next()));
    }
    // And the watch of this process saw each of the other's commits once, whole.
    let mut seen = seen.into_iter();
    for expected in 1..=answered {
        let changes = match seen.next() {
            Some(changes) => changes,
            None => tokio::time::timeout(Duration::from_secs(60), watch.next())
                .await
                .expect("they come"),
        };
        let changes = changes.unwrap();
        assert_eq!(changes.revision, Revision(expected));
        let values: BTreeMap<_, _> = changes.changes.iter().map(texts).collect();
        assert_eq!(values["pair/a"], expected.to_string());
        assert_eq!(values["pair/b"], expected.to_string());
        assert_eq!(values.len(), 3);
    }
}

fn texts(change: &Change) -> (String, String) {
    let entry = change.entry.as_ref().unwrap();
    let text = String::from_utf8(entry.value.as_bytes().to_vec()).unwrap();
    (change.key.to_string(), text)
}

#[test]
fn many_may_make_it_at_once() {
    let file = File::new();
    let open = || {
        let (path, options) = (file.path(), file.clock.options());
        thread::spawn(move || SqliteBoard::open(&path, options).map(drop))
    };
    let all: Vec<_> = (0..8).map(|_| open()).collect();
    for one in all {
        one.join().unwrap().unwrap();
    }
}

#[test]
fn what_is_no_board_is_refused_and_left_alone() {
    let check = |make: &dyn Fn(&Path), expected: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("board.db");
        make(&path);
        let before = fs::read(&path).ok();
        match SqliteBoard::open(&path, Options::default()) {
            Err(BoardError::Never { why, .. }) => assert!(why.contains(expected), "{why}"),
            other => panic!("{expected}: {other:?}"),
        }
        assert_eq!(fs::read(&path).ok(), before, "{expected}");
    };
    let sql =
        |sql: &'static str| move |path: &Path| Connection::open(path).unwrap().execute_batch(sql).unwrap();
    check(
        &|path| fs::write(path, "a text of some length".repeat(100)).unwrap(),
        "not a database",
    );
    check(&|path| fs::create_dir(path).unwrap(), "s a directory");
    check(&sql("CREATE TABLE t (x)"), "not a board");
    check(&sql("PRAGMA application_id = 7"), "not a board");
    let newer = |path: &Path| {
        drop(SqliteBoard::open(path, Options::default()).unwrap());
        let conn = Connection::open(path).unwrap();
        conn.execute_batch("PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)")
            .unwrap();
    };
    check(&newer, "version 99");
}
