//! A board in memory that fails on command: for tests of all that uses one.
//!
//! Every [`ScriptedBoard`] is one client's way to a board that several share ([`ScriptedBoard::client`]). Time moves only by
//! [`ScriptedBoard::advance`]. Faults are queued per client and call ([`ScriptedBoard::script`]), a client can be cut off
//! altogether ([`ScriptedBoard::partition`]), and calls can be held back and let go ([`ScriptedBoard::hold`]). All of it
//! works under any executor, or none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::keyspace::Keyspace;
use super::watch::{self, Feed};
use super::{
    Board, BoardError, BoardResult, Commit, Entry, Key, Lease, LeaseId, Listing, Prefix, Revision, Txn,
    Watch, WatchEnd, check_ttl,
};

/// One client's way to a board in memory.
#[derive(Clone, Debug)]
pub struct ScriptedBoard {
    world: Arc<Mutex<World>>,
    client: Arc<str>,
}

/// The calls of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// [`Board::get`].
    Get,
    /// [`Board::list`].
    List,
    /// [`Board::commit`].
    Commit,
    /// [`Board::watch`].
    Watch,
    /// [`Board::grant`].
    Grant,
    /// [`Board::keep_alive`].
    KeepAlive,
    /// [`Board::revoke`].
    Revoke,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and the caller is told so.
    Unavailable,
    /// Nothing is done, and the caller is told that trying again does not help.
    Never,
    /// The request is lost on its way: nothing is done, and the caller cannot know.
    LostRequest,
    /// It is done and the answer is lost: the caller cannot know.
    LostAnswer,
    /// The caller cannot know, and it is done only at the next [`ScriptedBoard::deliver`]: a request that lay in a queue.
    /// For what writes nothing, as [`Fault::LostRequest`].
    Late,
}

#[derive(Debug, Default)]
struct World {
    keys: Keyspace,
    now_ms: u64,
    watches: Vec<Watching>,
    faults: BTreeMap<(Arc<str>, Call), VecDeque<Fault>>,
    apart: BTreeSet<Arc<str>>,
    late: VecDeque<Late>,
    held: BTreeSet<(Arc<str>, Call)>,
    waiting: Vec<Waker>,
    calls: BTreeMap<(Arc<str>, Call), u64>,
}

#[derive(Debug)]
struct Watching {
    client: Arc<str>,
    prefix: Prefix,
    /// The next revision to tell.
    next: Revision,
    feed: Feed,
}

#[derive(Debug)]
enum Late {
    Commit(Txn),
    Revoke(LeaseId),
}

impl ScriptedBoard {
    /// An empty board, and its first client.
    #[must_use]
    pub fn new(client: &str) -> Self {
        Self {
            world: Arc::default(),
            client: client.into(),
        }
    }

    /// Another client of the same board. One name is one client, however often it is asked for.
    #[must_use]
    pub fn client(&self, client: &str) -> Self {
        Self {
            world: Arc::clone(&self.world),
            client: client.into(),
        }
    }

    /// Queues what happens to this client's next calls of this kind.
    pub fn script(&self, call: Call, faults: impl IntoIterator<Item = Fault>) {
        let key = (Arc::clone(&self.client), call);
        self.lock().faults.entry(key).or_default().extend(faults);
    }

    /// Cuts this client off, or lets it back: its calls are [`BoardError::Unavailable`], or for a commit
    /// [`BoardError::Unknown`], and its watches end.
    pub fn partition(&self, apart: bool) {
        let mut world = self.lock();
        if !apart {
            world.apart.remove(&self.client);
            return;
        }
        world.apart.insert(Arc::clone(&self.client));
        let lost = WatchEnd::Lost("cut off".to_owned());
        world.end_watches(&self.client, &lost);
    }

    /// Holds this client's calls of a kind back before they do anything, or lets them go.
    pub fn hold(&self, call: Call, held: bool) {
        let mut world = self.lock();
        let key = (Arc::clone(&self.client), call);
        if held {
            world.held.insert(key);
        } else {
            world.held.remove(&key);
            world.waiting.drain(..).for_each(Waker::wake);
        }
    }

    /// Does what was asked for late ([`Fault::Late`]), in order, and returns how much that was. What can no longer be
    /// done is dropped, as a server would refuse it to nobody.
    pub fn deliver(&self) -> usize {
        let mut world = self.lock();
        let late = std::mem::take(&mut world.late);
        let count = late.len();
        for late in late {
            match late {
                Late::Commit(txn) => drop(world.keys.commit(&txn)),
                Late::Revoke(lease) => world.keys.revoke(lease),
            }
        }
        world.settle();
        count
    }

    /// Lets time pass, and leases with it.
    pub fn advance(&self, time: Duration) {
        let mut world = self.lock();
        world.now_ms = world.now_ms.saturating_add(ms(time));
        world.settle();
    }

    /// Ends a lease as if its time were over.
    pub fn lose_lease(&self, lease: LeaseId) {
        let mut world = self.lock();
        world.keys.revoke(lease);
        world.settle();
    }

    /// Ends this client's watches.
    pub fn end_watches(&self, end: &WatchEnd) {
        self.lock().end_watches(&self.client, end);
    }

    /// Forgets the changes up to a revision.
    pub fn compact(&self, to: Revision) {
        self.lock().keys.compact(to);
    }

    /// The revision of the board.
    #[must_use]
    pub fn at(&self) -> Revision {
        self.lock().keys.at()
    }

    /// How many calls of a kind this client has made, failed ones too.
    #[must_use]
    pub fn calls(&self, call: Call) -> u64 {
        let key = (Arc::clone(&self.client), call);
        self.lock().calls.get(&key).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        // A test that fails while holding it should say its own reason, not this one.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while calls of this kind are held back; then the world, and what happens to this one.
    async fn enter(&self, call: Call) -> (MutexGuard<'_, World>, Option<Fault>) {
        let key = (Arc::clone(&self.client), call);
        *self.lock().calls.entry(key.clone()).or_default() += 1;
        poll_fn(|context| {
            let mut world = self.lock();
            if world.held.contains(&key) {
                world.waiting.push(context.waker().clone());
                return Poll::Pending;
            }
            let apart = world.apart.contains(&self.client).then_some(Fault::LostRequest);
            let queued = world.faults.get_mut(&key);
            let fault = apart.or_else(|| queued.and_then(VecDeque::pop_front));
            Poll::Ready((world, fault))
        })
        .await
    }

    /// A call that changes nothing that lasts.
    async fn read<T>(
        &self,
        call: Call,
        attempt: &'static str,
        read: impl FnOnce(&mut World) -> BoardResult<T> + Send,
    ) -> BoardResult<T> {
        let (mut world, fault) = self.enter(call).await;
        let scripted = || BoardError::unavailable(attempt, "scripted");
        match fault {
            None => {
                let answer = read(&mut world);
                world.settle();
                answer
            }
            Some(Fault::LostAnswer) => {
                let _ = read(&mut world);
                world.settle();
                Err(scripted())
            }
            Some(Fault::Unavailable | Fault::LostRequest | Fault::Late) => Err(scripted()),
            Some(Fault::Never) => Err(BoardError::never(attempt, "scripted")),
        }
    }

    /// A call whose outcome can be unknown.
    async fn write<T>(
        &self,
        call: Call,
        attempt: &'static str,
        late: impl FnOnce() -> Late + Send,
        write: impl FnOnce(&mut Keyspace) -> BoardResult<T> + Send,
    ) -> BoardResult<T> {
        let (mut world, fault) = self.enter(call).await;
        let unknown = || BoardError::unknown(attempt, "scripted");
        match fault {
            None => {
                let answer = write(&mut world.keys);
                world.settle();
                answer
            }
            Some(Fault::LostAnswer) => {
                let _ = write(&mut world.keys);
                world.settle();
                Err(unknown())
            }
            Some(Fault::Late) => {
                world.late.push_back(late());
                Err(unknown())
            }
            Some(Fault::LostRequest) => Err(unknown()),
            Some(Fault::Unavailable) => Err(BoardError::unavailable(attempt, "scripted")),
            Some(Fault::Never) => Err(BoardError::never(attempt, "scripted")),
        }
    }
}

impl World {
    /// Ends what is over, and tells the watchers.
    fn settle(&mut self) {
        self.keys.expire(self.now_ms);
        for watching in &mut self.watches {
            watching.tell(&self.keys);
        }
        self.watches.retain(|watching| !watching.feed.is_over());
    }

    fn end_watches(&mut self, client: &str, end: &WatchEnd) {
        let of = |watching: &&Watching| *watching.client == *client;
        self.watches
            .iter()
            .filter(of)
            .for_each(|watching| watching.feed.end(end.clone()));
        self.watches.retain(|watching| !watching.feed.is_over());
    }
}

impl Watching {
    fn tell(&mut self, keys: &Keyspace) {
        match keys.since(self.next, &self.prefix) {
            Ok(changes) => {
                // Whoever is too slow is found to be over by the caller.
                let _ = changes.into_iter().all(|changes| self.feed.push(changes));
                self.next = self.next.max(keys.at().next());
            }
            Err(oldest) => self.feed.end(WatchEnd::Compacted { oldest }),
        }
    }
}

impl Board for ScriptedBoard {
    fn get(&self, key: &Key) -> impl Future<Output = BoardResult<Option<Entry>>> + Send {
        self.read(Call::Get, "read a key", |world| {
            world.keys.expire(world.now_ms);
            Ok(world.keys.get(key).cloned())
        })
    }

    fn list(&self, prefix: &Prefix) -> impl Future<Output = BoardResult<Listing>> + Send {
        self.read(Call::List, "list keys", |world| Ok(world.keys.list(prefix)))
    }

    fn commit(&self, txn: &Txn) -> impl Future<Output = BoardResult<Commit>> + Send {
        let late = || Late::Commit(txn.clone());
        self.write(Call::Commit, "commit", late, |keys| keys.commit(txn))
    }

    fn watch(&self, prefix: &Prefix, from: Revision) -> impl Future<Output = BoardResult<Watch>> + Send {
        self.read(Call::Watch, "watch keys", move |world| {
            let (feed, watch) = watch::channel();
            world.watches.push(Watching {
                client: Arc::clone(&self.client),
                prefix: prefix.clone(),
                next: from.max(Revision::START.next()),
                feed,
            });
            Ok(watch)
        })
    }

    fn grant(&self, ttl: Duration) -> impl Future<Output = BoardResult<Lease>> + Send {
        self.read(Call::Grant, "grant a lease", move |world| {
            check_ttl(ttl)?;
            let id = world.keys.grant(ms(ttl), world.now_ms);
            Ok(Lease { id, ttl })
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = BoardResult<Lease>> + Send {
        self.read(Call::KeepAlive, "renew a lease", move |world| {
            let ttl_ms = world.keys.keep_alive(lease, world.now_ms);
            let ttl = Duration::from_millis(ttl_ms.ok_or(BoardError::LeaseGone(lease))?);
            Ok(Lease { id: lease, ttl })
        })
    }

    fn revoke(&self, lease: LeaseId) -> impl Future<Output = BoardResult<()>> + Send {
        let late = move || Late::Revoke(lease);
        self.write(Call::Revoke, "revoke a lease", late, move |keys| {
            keys.revoke(lease);
            Ok(())
        })
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
