use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;

use super::*;
use crate::board::conformance::{self, Ground};
use crate::board::{Guard, Value};

/// A scripted board, whose server is stopped by cutting everybody off.
struct Memory {
    board: ScriptedBoard,
    clients: AtomicU64,
}

impl Memory {
    fn everybody(&self, apart: bool) {
        for n in 0..self.clients.load(Ordering::Relaxed) {
            self.board.client(&n.to_string()).partition(apart);
        }
    }
}

impl Ground for Memory {
    type Board = ScriptedBoard;

    async fn client(&self) -> ScriptedBoard {
        let n = self.clients.fetch_add(1, Ordering::Relaxed);
        self.board.client(&n.to_string())
    }

    async fn pass(&self, time: Duration) {
        self.board.advance(time);
    }

    async fn compact(&self, to: Revision) {
        self.board.compact(to);
    }

    async fn stop(&self) -> bool {
        self.everybody(true);
        true
    }

    async fn start(&self) {
        self.everybody(false);
    }
}

#[tokio::test]
async fn it_keeps_to_what_every_board_keeps_to() {
    for story in conformance::STORIES {
        let ground = Memory {
            board: ScriptedBoard::new("ground"),
            clients: AtomicU64::new(0),
        };
        conformance::run(story, &ground).await;
    }
}

fn key() -> Key {
    Key::new("holder").unwrap()
}

/// The answer of a call that waits for nothing.
fn now<T>(call: impl Future<Output = T>) -> T {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it waits"),
    }
}

fn take(who: &str) -> Txn {
    Txn::put_if(Guard::Absent(key()), Value::new(who).unwrap(), None)
}

fn holder(board: &ScriptedBoard) -> Option<String> {
    let entry = now(board.get(&key())).unwrap()?;
    Some(String::from_utf8(entry.value.as_bytes().to_vec()).unwrap())
}

/// What a fault does to a commit, and what the same commit says afterwards.
#[test]
fn each_fault_is_what_it_says() {
    let check = |fault: Fault, error: &str, after: Option<&str>, again: &str| {
        let a = ScriptedBoard::new("a");
        let b = a.client("b");
        a.script(Call::Commit, [fault]);
        let said = now(a.commit(&take("a"))).unwrap_err().to_string();
        assert!(said.contains(error), "{fault:?}: {said}");
        assert_eq!(holder(&b).as_deref(), after, "{fault:?}");
        let said = match now(a.commit(&take("a"))).unwrap() {
            Commit::Done(_) => "done",
            Commit::Refused(refused) if take("a").was_done_before(&refused) => "was done",
            Commit::Refused(_) => "refused",
        };
        assert_eq!(said, again, "{fault:?}");
        assert_eq!((a.calls(Call::Commit), b.calls(Call::Commit)), (2, 0));
    };
    check(Fault::Unavailable, "is unavailable", None, "done");
    check(Fault::Never, "scripted", None, "done");
    check(Fault::LostRequest, "not known", None, "done");
    check(Fault::LostAnswer, "not known", Some("a"), "was done");
    check(Fault::Late, "not known", None, "done");
}

/// Why to read the old value back proves nothing.
#[test]
fn a_late_commit_comes_after_it_was_read_back() {
    let a = ScriptedBoard::new("a");
    a.script(Call::Commit, [Fault::Late]);
    assert!(now(a.commit(&take("a"))).is_err());
    assert_eq!(holder(&a), None);
    assert_eq!(a.deliver(), 1);
    assert_eq!(holder(&a).as_deref(), Some("a"));

    // Unless the same was committed again: then the late one comes to nothing.
    let a = ScriptedBoard::new("a");
    a.script(Call::Commit, [Fault::Late]);
    assert!(now(a.commit(&take("a"))).is_err());
    let Ok(Commit::Done(at)) = now(a.commit(&take("a"))) else {
        panic!("not done")
    };
    now(a.commit(&Txn::delete_at(key(), at))).unwrap();
    // Deleted, the key is as it was at first: one that must not be taken twice is not deleted.
    assert_eq!(a.deliver(), 1);
    assert_eq!(holder(&a).as_deref(), Some("a"));
}

#[test]
fn a_partition_is_of_one_client() {
    let a = ScriptedBoard::new("a");
    let b = a.client("b");
    let mut watch = now(a.watch(&Prefix::all(), Revision(1))).unwrap();
    a.partition(true);
    assert!(matches!(now(a.get(&key())), Err(BoardError::Unavailable { .. })));
    assert!(matches!(
        now(a.commit(&take("a"))),
        Err(BoardError::Unknown { .. })
    ));
    assert!(matches!(watch.try_next(), Some(Err(WatchEnd::Lost(_)))));
    assert!(matches!(now(b.commit(&take("b"))), Ok(Commit::Done(_))));
    a.partition(false);
    assert_eq!(holder(&a).as_deref(), Some("b"));
}

#[test]
fn a_call_can_be_held_until_others_were_faster() {
    let a = ScriptedBoard::new("a");
    let b = a.client("b");
    a.hold(Call::Commit, true);
    let txn = take("a");
    let mut held = Box::pin(a.commit(&txn));
    let mut context = Context::from_waker(Waker::noop());
    assert!(held.as_mut().poll(&mut context).is_pending());
    assert!(matches!(now(b.commit(&take("b"))), Ok(Commit::Done(_))));
    a.hold(Call::Commit, false);
    assert!(matches!(
        held.as_mut().poll(&mut context),
        Poll::Ready(Ok(Commit::Refused(_)))
    ));
}

#[test]
fn leases_end_when_time_is_moved_or_when_they_are_lost() {
    let a = ScriptedBoard::new("a");
    let mut watch = now(a.watch(&Prefix::all(), Revision(1))).unwrap();
    let ttl = Duration::from_secs(10);
    let lease = now(a.grant(ttl)).unwrap();
    now(a.commit(&Txn::put(key(), Value::default(), Some(lease.id)))).unwrap();
    a.advance(ttl - Duration::from_millis(1));
    now(a.keep_alive(lease.id)).unwrap();
    a.advance(ttl - Duration::from_millis(1));
    assert!(holder(&a).is_some());
    a.advance(Duration::from_millis(1));
    assert!(holder(&a).is_none());
    let lease = now(a.grant(ttl)).unwrap();
    now(a.commit(&Txn::put(key(), Value::default(), Some(lease.id)))).unwrap();
    a.lose_lease(lease.id);
    assert_eq!(now(a.keep_alive(lease.id)), Err(BoardError::LeaseGone(lease.id)));
    let seen: Vec<_> = std::iter::from_fn(|| watch.try_next())
        .map(|changes| changes.unwrap().changes[0].entry.is_some())
        .collect();
    assert_eq!(seen, [true, false, true, false]);
}
