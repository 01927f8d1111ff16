//! What every board keeps to, as stories that run over any of them.
//!
//! The name of each is in [`STORIES`]; [`run`] tells one on a [`Ground`]: an empty board, and what a test does to its
//! surroundings that no client can. A story asserts, so a broken promise is a panic. Stories need a tokio runtime with time,
//! and take their ground for themselves.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use super::{
    Board, BoardError, BoardResult, Changes, Commit, Entry, Guard, Key, LeaseId, Listing, Prefix, Refused,
    Revision, Txn, Value, Watch, WatchEnd, Write,
};

mod keys;
mod leases;
mod servers;
mod watches;

/// How long anything is waited for before the story fails: far beyond what it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A board that stories are told on, empty at first.
pub trait Ground: Send + Sync {
    /// What is held to its promises.
    type Board: Board + 'static;

    /// A client of its own, as another agent would be.
    fn client(&self) -> impl Future<Output = Self::Board> + Send;

    /// Lets time pass for leases.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Has the board forget changes up to a revision.
    fn compact(&self, to: Revision) -> impl Future<Output = ()> + Send;

    /// Ends at once what serves the board, so that no client reaches it; `false` where there is nothing of the kind.
    fn stop(&self) -> impl Future<Output = bool> + Send;

    /// Starts it again.
    fn start(&self) -> impl Future<Output = ()> + Send;
}

macro_rules! stories {
    ($($module:ident::$name:ident,)*) => {
        /// The stories, by name.
        pub const STORIES: &[&str] = &[$(stringify!($name)),*];

        /// Tells one story.
        ///
        /// # Panics
        /// If a promise is broken, or there is no such story.
        pub async fn run<G: Ground>(story: &str, ground: &G) {
            match story {
                $(stringify!($name) => $module::$name(ground).await,)*
                other => panic!("there is no story `{other}`"),
            }
        }
    };
}

stories! {
    keys::a_key_holds_what_was_put_last,
    keys::a_refusal_says_what_is_there,
    keys::keys_change_together_or_not_at_all,
    keys::of_many_who_count_together_none_loses_a_count,
    keys::one_of_many_takes_what_is_free,
    keys::a_listing_is_of_one_moment,
    keys::the_largest_transaction_fits,
    keys::a_board_has_one_name,
    keys::a_transaction_again_tells_what_became_of_it,
    watches::a_watch_goes_on_where_a_listing_ends,
    watches::a_watch_is_of_its_prefix_and_of_whole_changes,
    watches::a_watch_from_the_past_tells_the_past,
    watches::what_is_forgotten_is_said_to_be,
    watches::who_is_too_slow_is_cut_off,
    leases::a_lease_takes_its_keys_along,
    leases::a_lease_lives_as_long_as_it_is_renewed,
    leases::a_lease_that_is_gone_is_gone,
    leases::a_key_can_leave_its_lease,
    leases::a_lease_has_bounds,
    servers::what_was_answered_outlives_the_server,
    servers::leases_outlive_the_server,
}

fn key(text: &str) -> Key {
    Key::new(text).expect("stories name keys well")
}

fn prefix(text: &str) -> Prefix {
    Prefix::new(text).expect("stories name prefixes well")
}

fn value(text: &str) -> Value {
    Value::new(text).expect("stories have short values")
}

fn put(k: &str, v: &str, lease: Option<LeaseId>) -> Write {
    Write::Put {
        key: key(k),
        value: value(v),
        lease,
    }
}

fn txn(guards: Vec<Guard>, writes: Vec<Write>) -> Txn {
    Txn::new(guards, writes).expect("stories make transactions well")
}

/// Writes whatever is there.
async fn set(board: &impl Board, k: &str, v: &str) -> Revision {
    done(board.commit(&Txn::put(key(k), value(v), None)).await)
}

fn done(commit: BoardResult<Commit>) -> Revision {
    match commit {
        Ok(Commit::Done(revision)) => revision,
        other => panic!("not done: {other:?}"),
    }
}

fn refused(commit: BoardResult<Commit>) -> Refused {
    match commit {
        Ok(Commit::Refused(refused)) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

async fn get(board: &impl Board, k: &str) -> Option<Entry> {
    board.get(&key(k)).await.expect("the board can be read")
}

async fn text(board: &impl Board, k: &str) -> Option<String> {
    let entry = get(board, k).await?;
    Some(String::from_utf8(entry.value.as_bytes().to_vec()).expect("stories write text"))
}

async fn list(board: &impl Board, p: &str) -> Listing {
    board.list(&prefix(p)).await.expect("the board can be listed")
}

fn contents(listing: &Listing) -> BTreeMap<Key, Entry> {
    listing.entries.iter().cloned().collect()
}

async fn watch(board: &impl Board, p: &str, from: Revision) -> Watch {
    board
        .watch(&prefix(p), from)
        .await
        .expect("the board can be watched")
}

/// The next changes of a watch that has not ended.
async fn next(watch: &mut Watch) -> Changes {
    let next = patient("the next changes", watch.next()).await;
    next.expect("the watch goes on")
}

/// Changes as `k=v` and `k-`.
fn brief(changes: &Changes) -> Vec<String> {
    let one = |change: &super::Change| match &change.entry {
        Some(entry) => format!(
            "{}={}",
            change.key,
            String::from_utf8_lossy(entry.value.as_bytes())
        ),
        None => format!("{}-", change.key),
    };
    changes.changes.iter().map(one).collect()
}

/// Waits, but not for ever.
async fn patient<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited in vain for {what}"),
    }
}
