//! A real etcd, started, killed and stopped. `XENO_ETCD` names the program (`make test-board`).

use std::time::Duration;

use etcd_client::{Permission, PermissionType};
use tokio::task::JoinSet;
use xeno_test_support::free_port;

use self::server::{Certificates, Server};
use super::*;
use crate::board::conformance::{self, Ground};
use crate::board::{Board as _, Commit, Guard, Key, Revision, Txn, Value, WatchEnd};

mod server;

/// Stories that are told at a time, each on a server of its own.
const AT_A_TIME: usize = 4;

impl Ground for Server {
    type Board = EtcdBoard;

    async fn client(&self) -> EtcdBoard {
        self.board()
    }

    async fn pass(&self, time: Duration) {
        // etcd has no other clock than the machine's.
        tokio::time::sleep(time).await;
    }

    async fn compact(&self, to: Revision) {
        let mut client = self.raw(None).await;
        client.compact(i64::try_from(to.0).unwrap(), None).await.unwrap();
    }

    async fn stop(&self) -> bool {
        self.kill();
        true
    }

    async fn start(&self) {
        Server::start(self);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_to_what_every_board_keeps_to() {
    let mut running = JoinSet::new();
    for story in conformance::STORIES {
        if running.len() >= AT_A_TIME {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(async move {
            let server = Server::new().await;
            conformance::run(story, &server).await;
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn put(k: &str, v: &str) -> Txn {
    Txn::put(key(k), Value::new(v).unwrap(), None)
}

async fn set(board: &EtcdBoard, k: &str, v: &str) {
    let commit = board.commit(&put(k, v)).await;
    assert!(matches!(commit, Ok(Commit::Done(_))), "{commit:?}");
}

/// Every call fails for good, and says why.
async fn is_refused(board: &EtcdBoard, expected: &str) {
    let read = board.get(&key("x/1")).await.map(drop);
    let written = board.commit(&put("x/1", "v")).await.map(drop);
    let watched = board.watch(&Prefix::all(), Revision(1)).await.map(drop);
    for said in [read, written, watched] {
        match said {
            Err(BoardError::Never { why, .. }) => assert!(why.contains(expected), "{why}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

/// A client whose certificate is not taken hears only that the connection ends, and sometimes why.
async fn is_not_heard(board: &EtcdBoard) {
    let read = board.get(&key("x/1")).await.map(drop).unwrap_err().to_string();
    let written = board
        .commit(&put("x/1", "v"))
        .await
        .map(drop)
        .unwrap_err()
        .to_string();
    let watched = board.watch(&Prefix::all(), Revision(1)).await.map(drop);
    for said in [read, written, watched.unwrap_err().to_string()] {
        assert!(said.contains("certificate") || said.contains("alert"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_show_certificates() {
    let certificates = Certificates::make();
    let server = Server::with_tls(&certificates).await;
    let good = server.config();
    let board = EtcdBoard::new(good.clone()).unwrap();
    set(&board, "x/1", "one").await;
    let mut watch = board.watch(&Prefix::all(), Revision(1)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);

    let nameless = EtcdConfig {
        identity: None,
        ..good.clone()
    };
    is_not_heard(&EtcdBoard::new(nameless).unwrap()).await;
    let others = Certificates::make();
    let stranger = EtcdConfig {
        identity: Some((others.path("leaf.pem"), others.path("leaf.key"))),
        ..good.clone()
    };
    is_not_heard(&EtcdBoard::new(stranger).unwrap()).await;
    let distrustful = EtcdConfig {
        ca: Some(others.path("ca.pem")),
        ..good.clone()
    };
    is_refused(&EtcdBoard::new(distrustful).unwrap(), "invalid peer certificate").await;
    let gone = EtcdConfig {
        ca: Some(others.path("none.pem")),
        ..good.clone()
    };
    is_refused(&EtcdBoard::new(gone).unwrap(), "none.pem").await;

    // A server that no longer speaks as before ends the connection; certificates are read anew for the next.
    server.kill();
    assert!(board.get(&key("x/1")).await.is_err());
    server.start();
    server.answers(&board).await;
    set(&board, "x/1", "two").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_have_passwords_and_prefixes() {
    let server = Server::new().await;
    let mut client = server.raw(None).await;
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("fleet", "pass word", None).await.unwrap();
    client.role_add("fleet").await.unwrap();
    let own = Permission::new(PermissionType::Readwrite, server.config().prefix.as_str()).with_prefix();
    client.role_grant_permission("fleet", own).await.unwrap();
    client.user_grant_role("fleet", "fleet").await.unwrap();
    client.auth_enable().await.unwrap();

    let with = |user: &str, password: &str, prefix: &str| {
        let file = server.dir().join(format!("password-{user}-{}", password.len()));
        std::fs::write(&file, format!("{password}\n")).unwrap();
        let config = EtcdConfig {
            user: Some((user.to_owned(), file)),
            prefix: Prefix::new(prefix).unwrap(),
            ..server.config()
        };
        EtcdBoard::new(config).unwrap()
    };
    let own = server.config().prefix;
    is_refused(&server.board(), "user name is empty").await;
    is_refused(&with("fleet", "wrong", own.as_str()), "authentication failed").await;
    is_refused(&with("nobody", "wrong", own.as_str()), "authentication failed").await;
    is_refused(&with("fleet", "pass word", "other/"), "permission denied").await;

    let board = with("fleet", "pass word", own.as_str());
    set(&board, "x/1", "one").await;
    let lease = board.grant(Duration::from_secs(60)).await.unwrap();
    board
        .commit(&Txn::put(key("x/2"), Value::default(), Some(lease.id)))
        .await
        .unwrap();
    board.keep_alive(lease.id).await.unwrap();
    let mut watch = board.watch(&Prefix::all(), Revision(1)).await.unwrap();
    assert!(watch.next().await.is_ok());

    // A server that was started again knows no token of before: the client gets another by itself.
    server.kill();
    server.start();
    server.answers(&board).await;
    set(&board, "x/1", "two").await;
    board.keep_alive(lease.id).await.unwrap();
    assert_eq!(board.list(&Prefix::all()).await.unwrap().entries.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_is_passed_over() {
    let server = Server::new().await;
    let mut config = server.config();
    let dead = format!("http://127.0.0.1:{}", free_port());
    config.endpoints.insert(0, dead.clone());
    config.endpoints.insert(1, dead);
    let board = EtcdBoard::new(config).unwrap();
    // With the first call already, whatever it is.
    set(&board, "x/1", "one").await;
    for n in 0..20 {
        set(&board, "x/1", &n.to_string()).await;
    }
    server.kill();
    let error = board.commit(&put("x/1", "late")).await.unwrap_err();
    // The connection may have been found broken only when it was used.
    assert!(error.may_pass(), "{error}");
    let error = board.commit(&put("x/1", "late")).await.unwrap_err();
    assert!(matches!(error, BoardError::Unavailable { .. }), "{error}");
}

/// A server that stands still for longer than a call may take, and then does what it was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_not_answered_may_come_later() {
    let server = Server::new().await;
    let config = EtcdConfig {
        timeout: Duration::from_millis(400),
        ..server.config()
    };
    let (board, other) = (EtcdBoard::new(config).unwrap(), server.board());
    set(&board, "holder", "a").await;
    let before = board.get(&key("holder")).await.unwrap();
    let guard = Guard::unchanged(key("holder"), before.as_ref());
    let swap = Txn::put_if(guard, Value::new("b").unwrap(), None);

    server.freeze(true);
    let error = board.commit(&swap).await.unwrap_err();
    assert!(matches!(error, BoardError::Unknown { .. }), "{error}");
    let error = board.get(&key("holder")).await.unwrap_err();
    assert!(matches!(error, BoardError::Unavailable { .. }), "{error}");
    server.freeze(false);

    server.answers(&other).await;
    // Whichever of the two came first, it was done once, and both ways say so.
    server.answers(&board).await;
    match board.commit(&swap).await.unwrap() {
        Commit::Done(_) => {}
        Commit::Refused(refused) => assert!(swap.was_done_before(&refused), "{refused:?}"),
    }
    let listing = other.list(&Prefix::all()).await.unwrap();
    let from = before.unwrap().revision.next();
    assert_eq!(listing.entries[0].1.value.as_bytes(), b"b");
    let mut watch = other.watch(&Prefix::all(), from).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, listing.at);
    assert!(watch.try_next().is_none(), "once");
}

/// Three members, of which the one that is asked is killed again and again: no count is lost, none is made twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_members_and_no_commit() {
    let cluster = Server::cluster(3).await;
    let endpoints: Vec<_> = cluster
        .iter()
        .map(|member| member.config().endpoints[0].clone())
        .collect();
    let config = EtcdConfig {
        endpoints,
        ..cluster[0].config()
    };
    let board = EtcdBoard::new(config.clone()).unwrap();
    cluster[0].answers(&board).await;
    let watcher = EtcdBoard::new(config).unwrap();
    let mut seen = 0;
    let mut watch = watcher.watch(&Prefix::all(), Revision(1)).await.unwrap();
    for count in 1..=40_u32 {
        let now = loop {
            match board.get(&key("count")).await {
                Ok(now) => break now,
                Err(error) => assert!(matches!(error, BoardError::Unavailable { .. }), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        // Named by more than the number, as if there were others who count.
        let value = Value::new(format!("{count} by me")).unwrap();
        let more = Txn::put_if(Guard::unchanged(key("count"), now.as_ref()), value, None);
        if count % 10 == 5 {
            let link = board.link.lock().await.turn;
            let asked = &cluster[link % 3];
            cluster.iter().for_each(Server::start);
            asked.kill();
        }
        loop {
            match board.commit(&more).await {
                Ok(Commit::Done(_)) => break,
                Ok(Commit::Refused(refused)) => {
                    assert!(more.was_done_before(&refused), "{refused:?}");
                    break;
                }
                Err(error) => assert!(error.may_pass(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // Somebody who watches through all of it sees every count once.
    let mut next = Revision(1);
    let all = async {
        while seen < 40 {
            match watch.next().await {
                Ok(changes) => {
                    next = changes.revision.next();
                    seen += 1;
                    let entry = changes.changes[0].entry.clone().unwrap();
                    assert_eq!(entry.value, Value::new(format!("{seen} by me")).unwrap());
                }
                Err(WatchEnd::Lost(_)) => match watcher.watch(&Prefix::all(), next).await {
                    Ok(again) => watch = again,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                },
                Err(end) => panic!("{end}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let good = EtcdConfig {
        endpoints: vec!["http://127.0.0.1:2379".to_owned()],
        prefix: Prefix::new("xenoslice/").unwrap(),
        ca: None,
        identity: None,
        user: None,
        timeout: Duration::from_secs(5),
    };
    let check = |change: &dyn Fn(&mut EtcdConfig), expected: &str| {
        let mut config = good.clone();
        change(&mut config);
        match EtcdBoard::new(config) {
            Err(BoardError::Never { why, .. }) => assert!(why.contains(expected), "{why}"),
            other => panic!("{expected}: {other:?}"),
        }
    };
    assert!(EtcdBoard::new(good.clone()).is_ok());
    check(&|config| config.endpoints.clear(), "`endpoints`: it names");
    check(
        &|config| config.endpoints = vec!["127.0.0.1:2379".into()],
        "is no endpoint",
    );
    check(
        &|config| config.endpoints = vec!["https://a:1".into()],
        "needs `ca`",
    );
    check(
        &|config| config.endpoints.push("https://a:1".into()),
        "some are not",
    );
    check(&|config| config.ca = Some("ca.pem".into()), "is for https");
    check(&|config| config.prefix = Prefix::all(), "`prefix`: all keys");
}
