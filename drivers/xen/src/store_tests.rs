use std::collections::BTreeMap;

use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::*;

/// A daemon with one store, one watch list, and no permissions.
struct Daemon {
    dir: tempfile::TempDir,
    serving: JoinHandle<()>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let serving = tokio::spawn(async move {
            let mut nodes = BTreeMap::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // One client at a time: what comes next finds what the one before left.
                serve(stream, &mut nodes).await;
            }
        });
        Self { dir, serving }
    }

    async fn connect(&self) -> Connection {
        Connection::open(&self.dir.path().join("socket")).await.unwrap()
    }
}

type Nodes = BTreeMap<String, Vec<u8>>;

async fn serve(mut stream: UnixStream, nodes: &mut Nodes) {
    let mut conflicts = 0;
    let mut watches: Vec<(String, String)> = Vec::new();
    let mut open: Option<Nodes> = None;
    loop {
        let mut header = [0; 16];
        if stream.read_exact(&mut header).await.is_err() {
            return;
        }
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        let (kind, id, transaction, len) = (word(0), word(4), word(8), word(12));
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        let text = String::from_utf8_lossy(&payload).into_owned();
        let path = text.split('\0').next().unwrap().to_owned();
        let rest = payload.get(path.len() + 1..).unwrap_or_default().to_vec();
        let mut events = Vec::new();
        let answer: Result<Vec<u8>, &str> = {
            let view = if transaction == 0 {
                &mut *nodes
            } else {
                open.as_mut().unwrap()
            };
            let below = format!("{path}/");
            match kind {
                1 | 22 => {
                    let mut names: Vec<u8> = Vec::new();
                    let mut there = view.contains_key(&path);
                    let mut last = String::new();
                    for name in view.keys().filter_map(|key| key.strip_prefix(&below)) {
                        there = true;
                        let name = name.split('/').next().unwrap();
                        if name != last {
                            last = name.to_owned();
                            names.extend(name.bytes().chain([0]));
                        }
                    }
                    match (there, kind) {
                        (false, _) => Err("ENOENT"),
                        (true, 1) if names.len() > PAYLOAD_MAX => Err("E2BIG"),
                        (true, 1) => Ok(names),
                        (true, _) => {
                            let from: usize = text.split('\0').nth(1).unwrap().parse().unwrap();
                            let most = 100;
                            let rest = &names[from..];
                            let whole = rest.len() <= most;
                            let cut = if whole {
                                rest.len()
                            } else {
                                rest[..most].iter().rposition(|byte| *byte == 0).unwrap() + 1
                            };
                            let mut part = b"7\0".to_vec();
                            part.extend_from_slice(&rest[..cut]);
                            part.extend(whole.then_some(0));
                            Ok(part)
                        }
                    }
                }
                2 => view.get(&path).cloned().ok_or("ENOENT"),
                4 => {
                    let token = text.split('\0').nth(1).unwrap().to_owned();
                    events.push((path.clone(), token.clone()));
                    watches.push((path.clone(), token));
                    Ok(b"OK\0".to_vec())
                }
                6 => {
                    open = Some(nodes.clone());
                    Ok(b"42\0".to_vec())
                }
                7 => {
                    let taken = open.take().unwrap();
                    conflicts += 1;
                    if path == "T" && conflicts == 1 {
                        Err("EAGAIN")
                    } else {
                        if path == "T" {
                            *nodes = taken;
                        }
                        Ok(b"OK\0".to_vec())
                    }
                }
                11 if path.starts_with("/ro") => Err("EACCES"),
                11 | 12 => {
                    view.insert(path.clone(), rest);
                    for (watched, token) in watches.iter().filter(|(watched, _)| path.starts_with(watched)) {
                        let _ = watched;
                        events.push((path.clone(), token.clone()));
                    }
                    Ok(b"OK\0".to_vec())
                }
                13 => {
                    let before = view.len();
                    view.retain(|key, _| *key != path && !key.starts_with(&below));
                    if before == view.len() {
                        Err("ENOENT")
                    } else {
                        Ok(b"OK\0".to_vec())
                    }
                }
                14 => Ok(b"OK\0".to_vec()),
                _ => Err("ENOSYS"),
            }
        };
        // The daemon may say what changed before it answers.
        for (path, token) in events {
            send(&mut stream, 15, 0, format!("{path}\0{token}\0").as_bytes()).await;
        }
        match answer {
            Ok(answer) => send(&mut stream, kind, id, &answer).await,
            Err(code) => send(&mut stream, 16, id, format!("{code}\0").as_bytes()).await,
        }
    }
}

async fn send(stream: &mut UnixStream, kind: u32, id: u32, payload: &[u8]) {
    let mut message = Vec::new();
    for word in [kind, id, 0, u32::try_from(payload.len()).unwrap()] {
        message.extend_from_slice(&word.to_ne_bytes());
    }
    message.extend_from_slice(payload);
    stream.write_all(&message).await.unwrap();
}

#[tokio::test]
async fn nodes_are_written_read_listed_and_removed() {
    let daemon = Daemon::start();
    let mut store = daemon.connect().await;
    assert_eq!(store.read("/a/b").await.unwrap(), None);
    assert_eq!(store.directory("/a").await.unwrap(), None);
    store.write("/a/b", b"\0any\xff").await.unwrap();
    store.write("/a/c/d", b"").await.unwrap();
    store.mkdir("/a/e").await.unwrap();
    store.set_perms("/a", &["n0"]).await.unwrap();
    assert_eq!(
        store.read("/a/b").await.unwrap().as_deref(),
        Some(b"\0any\xff".as_slice())
    );
    assert_eq!(store.read_text("/a/b").await.unwrap(), None);
    assert_eq!(store.read_text("/a/c/d").await.unwrap().as_deref(), Some(""));
    assert_eq!(store.directory("/a").await.unwrap().unwrap(), ["b", "c", "e"]);
    store.remove("/a/c").await.unwrap();
    store.remove("/a/c").await.unwrap();
    assert_eq!(store.directory("/a").await.unwrap().unwrap(), ["b", "e"]);
}

#[tokio::test]
async fn a_directory_longer_than_a_message_is_read_in_parts() {
    let daemon = Daemon::start();
    let mut store = daemon.connect().await;
    let names: Vec<_> = (100..700).map(|number| format!("domain-{number}")).collect();
    for name in &names {
        store.write(&format!("/all/{name}"), b"").await.unwrap();
    }
    assert_eq!(store.directory("/all").await.unwrap().unwrap(), names);
}

#[tokio::test]
async fn all_of_a_transaction_happens_or_nothing() {
    let daemon = Daemon::start();
    let mut store = daemon.connect().await;
    store.write("/old", b"1").await.unwrap();
    let write = |path: &str| Change::Write {
        path: path.to_owned(),
        value: b"2".to_vec(),
    };
    // The first attempt is overtaken.
    store
        .transact(&[write("/new"), Change::Remove { path: "/old".into() }])
        .await
        .unwrap();
    assert_eq!(store.read("/old").await.unwrap(), None);
    assert_eq!(store.read("/new").await.unwrap().unwrap(), b"2");
    let refused = store
        .transact(&[write("/newer"), write("/ro/x")])
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, StoreError::Refused { code, .. } if code == "EACCES"),
        "{refused}"
    );
    assert_eq!(store.read("/newer").await.unwrap(), None);
}

#[tokio::test]
async fn what_watches_tell_between_answers_is_kept() {
    let daemon = Daemon::start();
    let mut store = daemon.connect().await;
    store.watch("@releaseDomain", "gone").await.unwrap();
    store.watch("/w", "changed").await.unwrap();
    store.write("/w/x", b"1").await.unwrap();
    let event = |path: &str, token: &str| WatchEvent {
        path: path.to_owned(),
        token: token.to_owned(),
    };
    assert_eq!(store.event().await.unwrap(), event("@releaseDomain", "gone"));
    assert_eq!(store.event().await.unwrap(), event("/w", "changed"));
    assert_eq!(store.event().await.unwrap(), event("/w/x", "changed"));
}

#[tokio::test]
async fn what_has_no_form_on_the_wire_is_refused_and_a_missing_daemon_named() {
    let daemon = Daemon::start();
    let mut store = daemon.connect().await;
    for path in ["", "/with space", "/zero\0", "/\u{e4}", &"/".repeat(PATH_MAX + 1)] {
        let error = store.read(path).await.unwrap_err();
        assert!(matches!(error, StoreError::Form(_)), "{path:?}: {error}");
    }
    let error = store.write("/a", &[0; PAYLOAD_MAX]).await.unwrap_err();
    assert!(matches!(error, StoreError::Form(_)), "{error}");
    let error = Connection::open(Path::new("/nonexistent/socket"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/nonexistent/socket"), "{error}");
}

/// What the daemon says is bounded and checked, whatever it is.
#[tokio::test]
async fn garbage_is_an_error_and_not_an_answer() {
    let check = async |answer: Vec<u32>, words: &str| {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 16];
            stream.read_exact(&mut asked).await.unwrap();
            let bytes: Vec<u8> = answer.iter().flat_map(|word| word.to_ne_bytes()).collect();
            stream.write_all(&bytes).await.unwrap();
            stream
        });
        let mut store = Connection::open(&socket).await.unwrap();
        let error = store.read("/x").await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        drop(serving.await);
    };
    check(vec![2, 1, 0, 1 << 30], "a message of 1073741824 bytes").await;
    check(vec![2, 7, 0, 0], "an answer to 7, not to 1").await;
    check(vec![11, 1, 0, 0], "kind 11 to Read").await;
    check(vec![15, 0, 0, 4, 0x6161_6161], "a name without an end").await;
}
