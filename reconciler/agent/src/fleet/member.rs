//! This node's membership of the board: its sign of life, and the records of the slivers that concern it.
//!
//! What was read last stays known when the board goes away: only this node changes a record that names it, save for a person
//! (`abandon`). A change whose outcome is not known makes the record unknown until it is read again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::{Duration, Instant, sleep, sleep_until};
use xeno_model::id::{Epoch, MigrationId, NodeName, SliverId};
use xeno_reconciler::ports::BootInstant;
use xeno_reconciler::tenure::{Act, Holder, Record};
use xeno_state::board::pace::Pace;
use xeno_state::board::{
    AnyBoard, Board, BoardError, BoardResult, Change, Lease, LeaseId, Prefix, Revision, Txn, Watch, identity,
};
use xeno_state::fences::{self, Fence, fence};
use xeno_state::holders::{self, Changed, HOLDERS, Known, sign_of_life};
use xeno_state::presence::{Presence, presence};

use crate::clock::Clock;

/// What the board says, as far as this node has read it.
#[derive(Debug, Default)]
struct Inner {
    /// The slivers whose records are followed.
    followed: BTreeSet<SliverId>,
    known: BTreeMap<SliverId, Known>,
    /// Under which lease of this node each of them was read.
    under: BTreeMap<SliverId, u64>,
    /// This node's lease: which it is of those that it had, and until when it certainly lasts.
    lease: Option<(u64, BootInstant)>,
    leases: u64,
    /// The last words that nodes which are not there are off.
    fences: BTreeMap<NodeName, Fence>,
    /// Whether nodes that those records name are there. One that is not in it counts as there.
    alive: BTreeMap<NodeName, bool>,
    /// Why the board is not read at the moment.
    failure: Option<String>,
    /// Which board this is, once it is known.
    identity: Option<String>,
}

/// How the board is, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Its name, once read.
    pub(crate) identity: Option<String>,
    /// Why it is not read at the moment.
    pub(crate) failure: Option<String>,
}

/// Membership of one board.
pub(crate) struct Member {
    board: AnyBoard,
    me: NodeName,
    presence: Presence,
    /// The board that this node joined before.
    joined: Option<String>,
    inner: Mutex<Inner>,
    /// How many nodes the fleet has, as far as is known.
    nodes: AtomicU32,
    /// Something new is to be read.
    asked: Notify,
    /// Counts what became known.
    news: watch::Sender<u64>,
    /// Until when the lease lasts, at each renewal.
    lease: watch::Sender<Option<BootInstant>>,
    /// Whether anything is served here under the lease.
    lends: AtomicBool,
    clock: Clock,
}

/// What became of a wish to change a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Swapped {
    /// It was changed.
    Done,
    /// It had changed before, or had not been read; it has been read again now.
    Refused,
}

impl Member {
    pub(crate) fn new(
        board: AnyBoard,
        me: NodeName,
        presence: Presence,
        joined: Option<String>,
        clock: Clock,
    ) -> Self {
        Self {
            board,
            me,
            presence,
            joined,
            inner: Mutex::default(),
            nodes: AtomicU32::new(1),
            asked: Notify::new(),
            news: watch::channel(0).0,
            lease: watch::channel(None).0,
            lends: AtomicBool::new(false),
            clock,
        }
    }

    /// Counts what became known; whoever watches it looks again.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Says how many nodes share the board, so that each takes its turn.
    pub(crate) fn set_nodes(&self, nodes: u32) {
        self.nodes.store(nodes, Ordering::Relaxed);
    }

    /// How many nodes share the board.
    pub(crate) fn nodes(&self) -> u32 {
        self.nodes.load(Ordering::Relaxed)
    }

    /// The board itself.
    pub(crate) fn board(&self) -> &AnyBoard {
        &self.board
    }

    /// This node's own sign of life.
    pub(crate) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Says which slivers concern this node.
    pub(crate) fn follow(&self, slivers: BTreeSet<SliverId>) {
        let mut inner = self.lock();
        if inner.followed == slivers {
            return;
        }
        let new = slivers.iter().any(|sliver| !inner.followed.contains(sliver));
        inner.known.retain(|sliver, _| slivers.contains(sliver));
        inner.under.retain(|sliver, _| slivers.contains(sliver));
        inner.followed = slivers;
        drop(inner);
        if new {
            self.asked.notify_one();
        }
    }

    /// The record of a sliver, as far as it is known.
    pub(crate) fn record(&self, sliver: &SliverId) -> Record {
        let inner = self.lock();
        let known = inner.known.get(sliver);
        known.map_or(Record::Unknown, |known| known.record.clone())
    }

    /// Whether a node is there. Unknown counts as there.
    pub(crate) fn alive(&self, node: &NodeName) -> bool {
        self.lock().alive.get(node).copied().unwrap_or(true)
    }

    /// Whether somebody has made sure that a node is off since the record of a sliver was written.
    pub(crate) fn fenced(&self, node: &NodeName, sliver: &SliverId) -> bool {
        let inner = self.lock();
        let known = inner.known.get(sliver);
        known.is_some_and(|known| fences::since(inner.fences.get(node), known))
    }

    /// Until when this node's lease lasts, if the record of a sliver was read since it began: until then it is as it was read, but
    /// for what this node and the people do.
    pub(crate) fn leased(&self, sliver: &SliverId) -> Option<BootInstant> {
        let inner = self.lock();
        let (number, until) = inner.lease?;
        let fresh = inner.under.get(sliver) == Some(&number);
        (fresh && self.clock.boot_now() < until).then_some(until)
    }

    /// The same, if this node has the right to run it, and under which epoch.
    pub(crate) fn warrant(&self, sliver: &SliverId) -> Option<(Epoch, BootInstant)> {
        let until = self.leased(sliver)?;
        self.lend();
        match self.record(sliver) {
            Record::Is(holder) if holder.is(&self.me) => Some((holder.epoch, until)),
            Record::Is(_) | Record::Absent | Record::Unknown => None,
        }
    }

    /// How long the lease still lasts; `None`: there is none that does.
    pub(crate) fn lease_left(&self) -> Option<Duration> {
        let (_, until) = self.lock().lease?;
        let nanos = until.0.checked_sub(self.clock.boot_now().0)?;
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// Until when the lease lasts, at each renewal.
    pub(crate) fn lease(&self) -> watch::Receiver<Option<BootInstant>> {
        self.lease.subscribe()
    }

    /// Something is served here under the lease, or is about to be: from now on the file server is told of renewals, and at once.
    pub(crate) fn lend(&self) {
        if !self.lends.swap(true, Ordering::Relaxed) {
            self.lease.send_modify(|_| {});
        }
    }

    /// Whether anything is.
    pub(crate) fn lends(&self) -> bool {
        self.lends.load(Ordering::Relaxed)
    }

    /// Has the records and the nodes that they name be looked at soon.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    pub(crate) fn standing(&self) -> Standing {
        let inner = self.lock();
        Standing {
            identity: inner.identity.clone(),
            failure: inner.failure.clone(),
        }
    }

    /// What another node says of itself.
    pub(crate) async fn presence_of(&self, node: &NodeName) -> BoardResult<Option<Presence>> {
        presence(&self.board, node).await
    }

    /// Reads a record now.
    pub(crate) async fn read(&self, sliver: &SliverId) -> BoardResult<Record> {
        let under = self.lease_number();
        let known = holders::read(&self.board, sliver).await?;
        let record = known.record.clone();
        self.learn(sliver, known, under);
        Ok(record)
    }

    /// Changes a record from what was read last.
    pub(crate) async fn swap(&self, sliver: &SliverId, to: &Holder, act: Act) -> BoardResult<Swapped> {
        let known = self.lock().known.get(sliver).cloned();
        let Some(known) = known else {
            self.read(sliver).await?;
            return Ok(Swapped::Refused);
        };
        let under = self.lease_number();
        let before = self.lock().under.get(sliver).copied().unwrap_or_default();
        // Until it is answered nobody knows what it says; dropping this future is not knowing either.
        self.forget(sliver);
        match holders::change(&self.board, sliver, &known, to, act).await {
            Ok(Changed::Done(known)) => {
                self.learn(sliver, known, under);
                Ok(Swapped::Done)
            }
            Ok(Changed::Refused) => {
                self.read(sliver).await?;
                Ok(Swapped::Refused)
            }
            Err(error) => {
                if matches!(error, BoardError::Unavailable { .. } | BoardError::LeaseGone(_)) {
                    // Nothing was done.
                    self.learn(sliver, known, before);
                } else {
                    self.asked.notify_one();
                }
                Err(error)
            }
        }
    }

    fn forget(&self, sliver: &SliverId) {
        let mut inner = self.lock();
        inner.known.remove(sliver);
        inner.under.remove(sliver);
    }

    /// Which lease of this node it is at the moment, whether it lasts or not.
    fn lease_number(&self) -> u64 {
        self.lock().lease.map_or(0, |(number, _)| number)
    }

    /// Takes note of a record that was asked for under a lease; one that is older than what is known says nothing.
    fn learn(&self, sliver: &SliverId, known: Known, under: u64) {
        let mut inner = self.lock();
        let has = inner.known.get(sliver).map(Known::revision);
        let newer = has.is_none_or(|has| has < known.revision());
        let before = inner.under.get(sliver).copied();
        let later = has.is_none_or(|has| has <= known.revision()) && before < Some(under);
        if newer {
            inner.known.insert(sliver.clone(), known);
        }
        if later {
            inner.under.insert(sliver.clone(), under);
        }
        if newer || later {
            drop(inner);
            self.tell();
        }
    }

    /// Has everybody look again.
    pub(crate) fn tell(&self) {
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_failure(&self, failure: Option<String>) {
        let mut inner = self.lock();
        if inner.failure != failure {
            if let Some(why) = &failure {
                tracing::warn!("the board cannot be used: {why}");
            }
            inner.failure = failure;
            drop(inner);
            self.tell();
        }
    }

    /// Stays a member for ever: joins, says that it lives, follows the records; after a failure, from the beginning.
    /// `remember` is told the board's name once it is joined for the first time.
    pub(crate) async fn run(&self, mut pace: Pace, remember: impl Fn(String) + Send) {
        sleep(pace.until_arrival()).await;
        let mut failures = 0;
        loop {
            match self.visit(&mut pace, &remember, &mut failures).await {
                Ok(never) => match never {},
                Err(why) => {
                    self.set_failure(Some(why));
                    failures += 1;
                    sleep(pace.until_retry(failures)).await;
                }
            }
        }
    }

    async fn visit(
        &self,
        pace: &mut Pace,
        remember: &(impl Fn(String) + Send),
        failures: &mut u32,
    ) -> Result<std::convert::Infallible, String> {
        pace.set_nodes(self.nodes.load(Ordering::Relaxed));
        self.recognise(remember).await?;
        let holders = Prefix::new(HOLDERS).map_err(|error| error.to_string())?;
        let mut lease = self.appear(pace).await?;
        let mut watch = self.watch(&holders).await?;
        // What changed until now was not heard of.
        self.read_all(true).await?;
        self.set_failure(None);
        *failures = 0;
        let mut renewal = Instant::now() + pace.until_renewal();
        loop {
            tokio::select! {
                changes = watch.next() => match changes {
                    Ok(changes) => self.hear(&changes.changes),
                    Err(_ended) => {
                        watch = self.watch(&holders).await?;
                        self.read_all(true).await?;
                    }
                },
                () = self.asked.notified() => self.read_all(false).await?,
                () = sleep_until(renewal) => {
                    pace.set_nodes(self.nodes.load(Ordering::Relaxed));
                    let before = self.lease_number();
                    lease = self.renew(lease, pace).await?;
                    if self.lease_number() == before {
                        self.look_for_others().await?;
                    } else {
                        // Somebody may have taken over in between.
                        self.read_all(true).await?;
                    }
                    renewal = Instant::now() + pace.until_renewal();
                }
            }
        }
    }

    /// Refuses a board that is not the one this node has joined: an empty one at the same address knows of no holder.
    async fn recognise(&self, remember: &(impl Fn(String) + Send)) -> Result<(), String> {
        let proposal = random_id().map(|id| MigrationId(id).to_string())?;
        let found = identity(&self.board, &proposal).await.map_err(text)?;
        match &self.joined {
            Some(joined) if *joined != found => {
                return Err(format!(
                    "this is another board ({found}) than the one that this node has joined ({joined}); see \
                     docs/operations.md before you have it join this one"
                ));
            }
            Some(_) => {}
            None => remember(found.clone()),
        }
        self.lock().identity = Some(found);
        Ok(())
    }

    /// Says that this node is there.
    async fn appear(&self, pace: &Pace) -> Result<LeaseId, String> {
        let asked = self.clock.boot_now();
        let lease = self.board.grant(pace.lease_ttl()).await.map_err(text)?;
        let key = sign_of_life(&self.me).map_err(text)?;
        let value = self.presence.encode().map_err(text)?;
        let txn = Txn::put(key, value, Some(lease.id));
        self.board.commit(&txn).await.map_err(text)?;
        self.count(asked, lease, true);
        Ok(lease.id)
    }

    async fn renew(&self, lease: LeaseId, pace: &Pace) -> Result<LeaseId, String> {
        let asked = self.clock.boot_now();
        match self.board.keep_alive(lease).await {
            Ok(renewed) => {
                self.count(asked, renewed, false);
                Ok(lease)
            }
            Err(BoardError::LeaseGone(_)) => self.appear(pace).await,
            Err(error) => Err(text(error)),
        }
    }

    /// Takes note of the lease: it lasts from the moment at which it was asked for, and somewhat less than was said, since clocks do
    /// not go equally fast. One that is another, or had run out by this clock, is one under which nothing has been read.
    fn count(&self, asked: BootInstant, lease: Lease, another: bool) {
        let lasts = lease.ttl.saturating_sub((lease.ttl / 10).max(MARGIN_MIN));
        let nanos = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
        let until = BootInstant(asked.0.saturating_add(nanos));
        let mut inner = self.lock();
        let goes_on = inner
            .lease
            .filter(|(_, before)| !another && self.clock.boot_now() < *before);
        let number = match goes_on {
            Some((number, _)) => number,
            None => {
                inner.leases += 1;
                inner.leases
            }
        };
        inner.lease = Some((number, until));
        drop(inner);
        self.lease.send_replace(Some(until));
    }

    /// Watches from now on.
    async fn watch(&self, holders: &Prefix) -> Result<Watch, String> {
        // A folder that nobody uses: what is asked for is the revision.
        let nothing = Prefix::new("watch/").map_err(|error| error.to_string())?;
        let at: Revision = self.board.list(&nothing).await.map_err(text)?.at;
        self.board.watch(holders, at.next()).await.map_err(text)
    }

    fn hear(&self, changes: &[Change]) {
        for change in changes {
            let Some(sliver) = holders::sliver_of(&change.key) else {
                continue;
            };
            if !self.lock().followed.contains(&sliver) {
                continue;
            }
            match Known::of(&sliver, change.entry.clone()) {
                Ok(known) => {
                    // It is later than what was read before, and so no older than that.
                    let under = self.lock().under.get(&sliver).copied().unwrap_or_default();
                    self.learn(&sliver, known, under);
                    if under < self.lease_number() {
                        self.asked.notify_one();
                    }
                }
                Err(error) => {
                    // What is not understood is not known.
                    tracing::error!("{error}");
                    self.forget(&sliver);
                    self.tell();
                }
            }
        }
    }

    /// Reads the records that are not known, or all.
    async fn read_all(&self, all: bool) -> Result<(), String> {
        let missing: Vec<_> = {
            let inner = self.lock();
            let known = &inner.known;
            let missing = inner.followed.iter();
            let number = inner.lease.map_or(0, |(number, _)| number);
            let fresh = |sliver: &SliverId| inner.under.get(sliver) == Some(&number);
            let missing = missing.filter(|sliver| all || !known.contains_key(*sliver) || !fresh(sliver));
            missing.cloned().collect()
        };
        for sliver in missing {
            match self.read(&sliver).await {
                Ok(_) => {}
                Err(error @ BoardError::Never { .. }) => tracing::error!("{error}"),
                Err(error) => return Err(text(error)),
            }
        }
        self.look_for_others().await
    }

    /// Looks whether the nodes are there that the followed records name.
    async fn look_for_others(&self) -> Result<(), String> {
        let others: BTreeSet<NodeName> = {
            let inner = self.lock();
            let holders = inner.known.values().filter_map(|known| match &known.record {
                Record::Is(holder) => Some(holder),
                Record::Absent | Record::Unknown => None,
            });
            let named = holders.flat_map(|holder| {
                let keeper = holder.memory.as_ref().map(|memory| memory.keeper.clone());
                holder.node.clone().into_iter().chain(keeper)
            });
            named.filter(|node| *node != self.me).collect()
        };
        let (mut alive, mut said) = (BTreeMap::new(), BTreeMap::new());
        for node in others {
            let there = match presence(&self.board, &node).await {
                Ok(presence) => presence.is_some(),
                // It says something that this version does not understand: it is there.
                Err(BoardError::Never { .. }) => true,
                Err(error) => return Err(text(error)),
            };
            if !there {
                match fence(&self.board, &node).await {
                    Ok(Some(fence)) => drop(said.insert(node.clone(), fence)),
                    Ok(None) => {}
                    // What is not understood confirms nothing.
                    Err(error @ BoardError::Never { .. }) => tracing::error!("{error}"),
                    Err(error) => return Err(text(error)),
                }
            }
            alive.insert(node, there);
        }
        let mut inner = self.lock();
        if (&inner.alive, &inner.fences) != (&alive, &said) {
            inner.alive = alive;
            inner.fences = said;
            drop(inner);
            self.tell();
        }
        Ok(())
    }
}

/// A number that nobody has thought of before (random(4)).
pub(crate) fn random_id() -> Result<[u8; 16], String> {
    let mut id = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut id));
    read.map(|()| id)
        .map_err(|error| format!("read /dev/urandom: {error}"))
}

fn text(error: BoardError) -> String {
    error.to_string()
}

/// How much shorter than it is a lease is taken to be, at least.
const MARGIN_MIN: Duration = Duration::from_secs(1);

/// How long a change of a record may take before it counts as not answered.
pub(crate) const SWAP_MAX: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use xeno_model::id::{Digest, Epoch};
    use xeno_reconciler::tenure::BootId;
    use xeno_state::board::scripted::ScriptedBoard;

    use super::*;

    fn member(board: &ScriptedBoard, name: &str) -> Arc<Member> {
        let presence = Presence {
            boot: BootId::default(),
            address: None,
            certificate: Digest::of(name.as_bytes()),
        };
        let board = AnyBoard::Scripted(board.client(name));
        let clock = Clock::from_ms(0);
        Arc::new(Member::new(
            board,
            NodeName::new(name).unwrap(),
            presence,
            None,
            clock,
        ))
    }

    fn held(by: &str, epoch: u64) -> Holder {
        Holder {
            node: Some(NodeName::new(by).unwrap()),
            boot: BootId::default(),
            epoch: Epoch(epoch),
            memory: None,
            failover: false,
        }
    }

    async fn until(member: &Member, sliver: &SliverId, record: &Record) {
        for _ in 0..10_000 {
            if member.record(sliver) == *record {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "{record:?} is not seen: {:?}, {:?}",
            member.record(sliver),
            member.standing()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_changes_another_sees() {
        let board = ScriptedBoard::new("a");
        let web = SliverId::parse("web/0").unwrap();
        let members = [member(&board, "a"), member(&board, "b")];
        for member in &members {
            let member = Arc::clone(member);
            tokio::spawn(async move { member.run(Pace::new("n", 2, 1), |_| {}).await });
        }
        let [a, b] = &members;
        a.follow([web.clone()].into());
        b.follow([web.clone()].into());
        until(a, &web, &Record::Absent).await;
        until(b, &web, &Record::Absent).await;
        for (epoch, (from, to)) in (1..).zip([(a, "a"), (a, "b"), (b, "a"), (a, "b")]) {
            let swapped = from.swap(&web, &held(to, epoch), Act::HandOver).await;
            assert_eq!(swapped, Ok(Swapped::Done));
            for member in &members {
                until(member, &web, &Record::Is(held(to, epoch))).await;
            }
        }
        // One that was cut off reads what has changed meanwhile.
        let client = board.client("b");
        client.partition(true);
        let taken = a.swap(&web, &held("a", 9), Act::TakeBack).await;
        assert_eq!(taken, Ok(Swapped::Done));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(b.record(&web), Record::Is(held("b", 4)), "what was read last");
        assert!(b.standing().failure.is_some());
        client.partition(false);
        until(b, &web, &Record::Is(held("a", 9))).await;
        assert_eq!(b.standing().failure, None);
    }
}
