//! How often a node writes to the board, so that all nodes together stay below [`WRITES_PER_S_MAX`].
//!
//! Nobody counts what the others do. Each node knows from the repository how many nodes there are, and what a commit
//! changes; from that, its own name and a seed it knows when its turn is. A fleet of a hundred nodes is as quick as anybody
//! could want, one of ten thousand takes its time. `state/decisions/0003-board.md` has the table, and the simulation in this
//! module's tests has the proof.
//!
//! Nothing here has a clock: times are passed in, in milliseconds since whenever the caller likes, and waits are passed out.
//!
//! What a person asks for by hand is not paced: people are few and slow. Nor is anything within a move: a move that may begin
//! is not held up half way.

use std::time::Duration;

/// What the nodes of a fleet may ask of a board, all together: commits (refused ones too), renewals and grants.
pub const WRITES_PER_S_MAX: u64 = 300;

/// Renewals of leases in a second, by the whole fleet.
const RENEWALS_PER_S: u64 = 70;
/// Nodes in a second that come (back) to the board: each a grant and a commit.
const ARRIVALS_PER_S: u64 = 30;
/// Nodes in a second that write how they are.
const SUMMARIES_PER_S: u64 = 50;
/// Slivers in a second that begin with what a commit asks for: each two commits, a slot taken and given back.
const STARTS_PER_S: u64 = 45;

/// A lease is renewed this often in a small fleet.
const RENEW_MIN: Duration = Duration::from_secs(5);
/// And lives for this many renewals: one that is lost, and the tries after it, end nothing.
const RENEWALS_OF_LEASE: u32 = 3;
/// How a node is, is written this often at most in a small fleet.
const SUMMARY_MIN: Duration = Duration::from_secs(1);
/// Nodes in a second that try again after their first failure. Fewer than would come undisturbed: those that missed their
/// turn in an outage come on top of those whose turn it is.
const RETRIES_PER_S: u64 = 150;
/// The first wait after a call that failed, in a small fleet.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// The first wait after a commit that came second.
const CONTEND_MIN: Duration = Duration::from_millis(200);

/// The turns of one node.
#[derive(Clone, Debug)]
pub struct Pace {
    nodes: u64,
    draw: Draw,
}

impl Pace {
    /// The turns of a node among so many. Equal arguments, equal turns; another seed spreads all nodes anew.
    #[must_use]
    pub fn new(node: &str, nodes: u32, seed: u64) -> Self {
        Self {
            nodes: u64::from(nodes.max(1)),
            draw: Draw::new(node, seed),
        }
    }

    /// Another number of nodes, as after a commit.
    pub fn set_nodes(&mut self, nodes: u32) {
        self.nodes = u64::from(nodes.max(1));
    }

    /// How often a lease is renewed, on average.
    #[must_use]
    pub fn renew_every(&self) -> Duration {
        self.shared(self.nodes, RENEWALS_PER_S).max(RENEW_MIN)
    }

    /// How long a lease of this node lives: what to ask [`Board::grant`](super::Board::grant) for.
    #[must_use]
    pub fn lease_ttl(&self) -> Duration {
        self.renew_every() * RENEWALS_OF_LEASE
    }

    /// How long to wait from one renewal to the next.
    pub fn until_renewal(&mut self) -> Duration {
        let every = self.renew_every();
        // Around it, so that nodes that were started together do not stay together.
        self.draw.around(every, 20)
    }

    /// How long to wait before the first words to a board, at the start of an agent: a site whose power comes back starts
    /// all of its agents at once.
    pub fn until_arrival(&mut self) -> Duration {
        let within = self.arrival_window();
        self.draw.within(within)
    }

    /// How long to wait for the next try, after so many in a row that failed because the board was not there. At the end of
    /// a long outage the nodes come as they would arrive. One wait for all that a node has to say; what must not wait (a
    /// hand-over that has begun) is tried as often as it likes, since few are at that.
    pub fn until_retry(&mut self, failures: u32) -> Duration {
        let first = self.shared(self.nodes, RETRIES_PER_S).max(RETRY_MIN);
        let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let wait = doubled.min(self.arrival_window().max(RETRY_MIN));
        self.draw.around(wait, 33)
    }

    /// How long to wait after so many refusals in a row, because others wrote the same key.
    pub fn until_contention(&mut self, refusals: u32) -> Duration {
        let doubled = CONTEND_MIN.saturating_mul(1 << refusals.saturating_sub(1).min(8));
        self.draw.within(doubled)
    }

    /// How long a sliver waits with what a commit asks for, where that commit changes so many slivers of the fleet
    /// (`touched`), from the moment on at which the node read it. After an outage, with those that are left, from its end
    /// on. Waves and slots come on top.
    pub fn until_start(&mut self, touched: u32) -> Duration {
        let within = self.shared(u64::from(touched), STARTS_PER_S);
        self.draw.within(within)
    }

    /// How often a node may write how it is.
    #[must_use]
    pub fn summary_every(&self) -> Duration {
        self.shared(self.nodes, SUMMARIES_PER_S).max(SUMMARY_MIN)
    }

    fn arrival_window(&self) -> Duration {
        self.shared(self.nodes, ARRIVALS_PER_S)
    }

    /// How long it takes until everybody had a turn.
    fn shared(&self, all: u64, per_s: u64) -> Duration {
        Duration::from_millis(all.saturating_mul(1000) / per_s)
    }
}

/// When a node writes how it is: only after changes, never more often than its turn comes, and all changes until then at
/// once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    written_ms: Option<u64>,
    due_ms: Option<u64>,
}

impl Summary {
    /// Something changed that the board should know.
    pub fn changed(&mut self, now_ms: u64, pace: &mut Pace) {
        if self.due_ms.is_some() {
            return;
        }
        let every = pace.summary_every();
        // What changes one node often changes many in the same moment: a commit, a site's power, a link.
        let turn = now_ms.saturating_add(ms(pace.draw.within(every)));
        let earliest = self
            .written_ms
            .map_or(0, |written| written.saturating_add(ms(every)));
        self.due_ms = Some(turn.max(earliest));
    }

    /// When it should be written, if it should.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        self.due_ms
    }

    /// It was written, with all changes until now.
    pub fn written(&mut self, now_ms: u64) {
        (self.written_ms, self.due_ms) = (Some(now_ms), None);
    }
}

/// Numbers that look random, and are the same for the same name and seed.
#[derive(Clone, Debug)]
struct Draw(u64);

impl Draw {
    fn new(name: &str, seed: u64) -> Self {
        // FNV-1a, whose low bits alone would be poor; the generator's finish mixes them.
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let name = name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, hash);
        Self(name ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From nothing up to `window`.
    fn within(&mut self, window: Duration) -> Duration {
        Duration::from_millis(self.next() % ms(window).saturating_add(1))
    }

    /// Up to so many percent less or more.
    fn around(&mut self, middle: Duration, percent: u32) -> Duration {
        let part = middle / 100 * percent;
        middle - part + self.within(part * 2)
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
