//! The memory side of moves between nodes in memory.
//!
//! A guest's memory is a line that says what it is, and a lot of nothing, so that a pipe cannot hold all of it: somebody
//! has to read at the other end. Each turn sends a part; whoever never lets others have theirs hangs.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io::{ErrorKind, Read as _, Write as _};
use std::task::Poll;

use xeno_model::id::{Digest, DomainUuid, Epoch, MigrationId, SliverId};
use xeno_model::observed::{DomainState, Limits, ObservedDomain};

use super::{ScriptedNode, State};
use crate::ports::{Departure, DomainSpec, MoveMemory, Pipe, PortError, PortResult, Tuning};

/// Bytes of a guest's memory, whatever it may use.
const MEMORY_LEN: usize = 1 << 20;
/// Bytes that go in one turn, where nobody says.
const TURN_LEN: usize = 64 << 10;
/// Turns that a second has.
const TURNS_A_SECOND: u64 = 1000;

/// What a node in memory knows of moves, and of what is in the memory of its guests.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Departures that have not returned, and whether they were called off.
    leaving: BTreeMap<SliverId, bool>,
    /// Copies that are whole.
    whole: BTreeSet<SliverId>,
    /// What the guests remember.
    lives: BTreeMap<SliverId, Life>,
    boots: u64,
    /// The last epoch that layers were open under.
    pub(super) epochs: BTreeMap<SliverId, Epoch>,
}

/// What a guest in memory remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Which boot it is, of all that its first node has seen.
    pub boot: u64,
    /// How often it was looked at ([`ScriptedNode::look_inside`]) while it ran.
    pub beats: u64,
}

impl Moves {
    /// A guest boots.
    pub(super) fn boot(&mut self, sliver: &SliverId) {
        self.boots += 1;
        let life = Life {
            boot: self.boots,
            beats: 0,
        };
        self.lives.insert(sliver.clone(), life);
    }
}

impl ScriptedNode {
    /// Looks into the memory of a sliver's guest. One that runs remembers that it was looked at.
    pub fn look_inside(&self, sliver: &SliverId) -> Option<Life> {
        let mut state = self.state();
        let runs = state.does(sliver) == Some(DomainState::Running);
        let life = state.moves.lives.get_mut(sliver)?;
        life.beats += u64::from(runs);
        Some(*life)
    }
}

impl MoveMemory for ScriptedNode {
    async fn depart(&self, sliver: &SliverId, departure: &Departure, mut out: Pipe) -> PortResult<()> {
        let kept = DomainState::Kept {
            epoch: departure.epoch,
        };
        let memory = {
            let mut state = self.state();
            match state.does(sliver) {
                Some(DomainState::Running) if !state.moves.leaving.contains_key(sliver) => {}
                Some(state) if state == kept => return Ok(()),
                other => return Err(PortError::later(format!("{sliver} cannot leave: {other:?}"))),
            }
            state.moves.leaving.insert(sliver.clone(), false);
            state.memory_of(sliver).bytes()
        };
        let leaving = Leaving { node: self, sliver };
        let turn = departure.bandwidth.map_or(TURN_LEN, |bytes| {
            usize::try_from(bytes / TURNS_A_SECOND).unwrap_or(TURN_LEN).max(1)
        });
        out.set_nonblocking(true).map_err(broken)?;
        let mut sent = 0;
        while sent < memory.len() {
            leaving.goes_on()?;
            let end = memory.len().min(sent + turn);
            match out.write(&memory[sent..end]) {
                Ok(len) => sent += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(broken(error)),
            }
            next_turn().await;
        }
        drop(out);
        leaving.goes_on()?;
        self.stand_still(sliver, departure.epoch).await
    }

    async fn call_off(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            if let Some(called_off) = state.moves.leaving.get_mut(sliver) {
                *called_off = true;
            }
        };
        self.call("call-off", &sliver.to_string(), effect).await
    }

    async fn arrive(&self, spec: &DomainSpec, migration: MigrationId, mut from: Pipe) -> PortResult<()> {
        let sliver = &spec.sliver;
        self.expect_copy(spec, migration)?;
        let arriving = Arriving { node: self, sliver };
        from.set_nonblocking(true).map_err(broken)?;
        let (mut memory, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            if !self.state().has_domain(sliver) {
                return Err(PortError::later(format!("the copy of {sliver} has ended")));
            }
            match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(len) if memory.len() + len <= MEMORY_LEN => memory.extend_from_slice(&chunk[..len]),
                Ok(_) => return Err(PortError::later("what comes is no guest's memory")),
                Err(error) if error.kind() == ErrorKind::WouldBlock => next_turn().await,
                Err(error) => return Err(broken(error)),
            }
        }
        let memory = GuestMemory::read(&memory)
            .ok_or_else(|| PortError::later(format!("the memory of {sliver} did not come to its end")))?;
        let arrived = self.complete(spec, &memory).await;
        drop(arriving);
        arrived
    }

    async fn clear(&self, sliver: &SliverId, migration: MigrationId, tuning: &Tuning) -> PortResult<()> {
        let effect = |state: &mut State| {
            let copy = DomainState::Copy { migration };
            match state.does(sliver) {
                Some(DomainState::Running) => {}
                Some(is) if is == copy && state.moves.whole.remove(sliver) => {
                    state.set_going("clear", sliver, tuning);
                }
                other => state.refuse(PortError::never(format!(
                    "{sliver} is no whole copy of {migration}: {other:?}"
                ))),
            }
        };
        self.call("clear", &sliver.to_string(), effect).await
    }

    async fn wake(&self, sliver: &SliverId, tuning: &Tuning) -> PortResult<()> {
        let effect = |state: &mut State| match state.does(sliver) {
            Some(DomainState::Running) => {
                state
                    .moves
                    .leaving
                    .entry(sliver.clone())
                    .and_modify(|off| *off = true);
            }
            Some(DomainState::Kept { .. }) => state.set_going("wake", sliver, tuning),
            other => state.refuse(PortError::later(format!("{sliver} is not kept here: {other:?}"))),
        };
        self.call("wake", &sliver.to_string(), effect).await
    }

    async fn destroy(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let gone = state.domains.ours.remove(sliver);
            // Only one that ran has written.
            if gone.is_some_and(|domain| domain.state == DomainState::Running) {
                state.write(sliver);
            }
        };
        self.call("destroy", &sliver.to_string(), effect).await
    }
}

/// A departure that has not returned; what becomes of it, its end is noted.
struct Leaving<'a> {
    node: &'a ScriptedNode,
    sliver: &'a SliverId,
}

impl Leaving<'_> {
    fn goes_on(&self) -> PortResult<()> {
        let state = self.node.state();
        match state.moves.leaving.get(self.sliver) {
            Some(false) if state.does(self.sliver) == Some(DomainState::Running) => Ok(()),
            Some(false) => Err(PortError::later(format!("{} has ended", self.sliver))),
            _ => Err(PortError::later(format!(
                "the move of {} was called off",
                self.sliver
            ))),
        }
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.node.state().moves.leaving.remove(self.sliver);
    }
}

/// An arrival that has not returned: what is not whole at its end is nothing.
struct Arriving<'a> {
    node: &'a ScriptedNode,
    sliver: &'a SliverId,
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.node.drop_copy(self.sliver);
    }
}

/// A guest's memory between two nodes: who it is, and what it remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestMemory {
    life: Life,
    uuid: DomainUuid,
    boot: Digest,
    memory_mib: u64,
    memory_max_mib: u64,
    vcpus: u32,
}

/// The same as the port does, for whoever has many nodes in one thread and hands over at once what goes through a pipe
/// elsewhere.
impl ScriptedNode {
    /// Makes room for a copy that is about to come.
    ///
    /// # Errors
    /// Something of the sliver is here.
    pub fn expect_copy(&self, spec: &DomainSpec, migration: MigrationId) -> PortResult<()> {
        let sliver = &spec.sliver;
        let mut state = self.state();
        if state.has_domain(sliver) || state.domains.images.contains_key(sliver) {
            return Err(PortError::never(format!("{sliver} has something here already")));
        }
        let copy = ObservedDomain {
            uuid: spec.uuid,
            state: DomainState::Copy { migration },
            booted: spec.boot,
            memory_mib: spec.memory_mib,
            memory_max_mib: spec.memory_max_mib,
            vcpus: spec.vcpus,
            limits: Limits::default(),
            publish: Vec::new(),
        };
        state.domains.ours.insert(sliver.clone(), copy);
        Ok(())
    }

    /// Ends a copy that did not become whole.
    pub fn drop_copy(&self, sliver: &SliverId) {
        let mut state = self.state();
        let copy = matches!(state.does(sliver), Some(DomainState::Copy { .. }));
        if copy && !state.moves.whole.contains(sliver) {
            state.domains.ours.remove(sliver);
        }
    }

    /// The memory of a guest, as it is now.
    #[must_use]
    pub fn memory(&self, sliver: &SliverId) -> GuestMemory {
        self.state().memory_of(sliver)
    }

    /// Has a running guest stand still, all of its memory sent.
    ///
    /// # Errors
    /// It does not run, or it is scripted so.
    pub async fn stand_still(&self, sliver: &SliverId, epoch: Epoch) -> PortResult<()> {
        let effect = |state: &mut State| match state.domains.ours.get_mut(sliver) {
            Some(domain) if domain.state == DomainState::Running => {
                domain.state = DomainState::Kept { epoch };
                domain.publish.clear();
            }
            _ => state.refuse(PortError::later(format!("{sliver} has ended"))),
        };
        self.call("depart", &sliver.to_string(), effect).await
    }

    /// Has the copy that is expected be whole.
    ///
    /// # Errors
    /// None is expected, or it is of another guest, or it is scripted so.
    pub async fn complete(&self, spec: &DomainSpec, memory: &GuestMemory) -> PortResult<()> {
        let sliver = &spec.sliver;
        if memory.uuid != spec.uuid || memory.boot != spec.boot || memory.vcpus > spec.vcpus_max {
            return Err(PortError::never(format!(
                "what comes for {sliver} is another guest"
            )));
        }
        let effect = |state: &mut State| {
            let Some(copy) = state.domains.ours.get_mut(sliver) else {
                return state.refuse(PortError::later(format!("the copy of {sliver} has ended")));
            };
            (copy.memory_mib, copy.memory_max_mib) = (memory.memory_mib, memory.memory_max_mib);
            state.moves.whole.insert(sliver.clone());
            state.moves.lives.insert(sliver.clone(), memory.life);
        };
        let arrived = self.call("arrive", &sliver.to_string(), effect).await;
        if arrived.is_err() {
            self.state().moves.whole.remove(sliver);
        }
        arrived
    }
}

impl GuestMemory {
    fn bytes(&self) -> Vec<u8> {
        let Self {
            life: Life { boot: boots, beats },
            uuid,
            boot,
            memory_mib,
            memory_max_mib,
            vcpus,
        } = self;
        let mut memory = format!("{boots} {beats} {uuid} {boot} {memory_mib} {memory_max_mib} {vcpus}\n");
        memory.extend(std::iter::repeat_n('.', MEMORY_LEN - memory.len()));
        memory.into_bytes()
    }

    fn read(memory: &[u8]) -> Option<Self> {
        let end = memory.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&memory[..end]).ok()?;
        let mut words = line.split(' ');
        let life = Life {
            boot: words.next()?.parse().ok()?,
            beats: words.next()?.parse().ok()?,
        };
        let came = Self {
            life,
            uuid: DomainUuid::parse(words.next()?).ok()?,
            boot: Digest::parse(words.next()?).ok()?,
            memory_mib: words.next()?.parse().ok()?,
            memory_max_mib: words.next()?.parse().ok()?,
            vcpus: words.next()?.parse().ok()?,
        };
        (memory.len() == MEMORY_LEN).then_some(came)
    }
}

impl State {
    pub(super) fn does(&self, sliver: &SliverId) -> Option<DomainState> {
        self.domains.ours.get(sliver).map(|domain| domain.state)
    }

    pub(super) fn refuse(&mut self, error: PortError) {
        self.refused.get_or_insert(error);
    }

    fn memory_of(&self, sliver: &SliverId) -> GuestMemory {
        let life = self.moves.lives.get(sliver).copied();
        let domain = self.domains.ours.get(sliver);
        GuestMemory {
            life: life.unwrap_or(Life { boot: 0, beats: 0 }),
            uuid: domain.map_or(DomainUuid([0; 16]), |domain| domain.uuid),
            boot: domain.map_or(Digest([0; 32]), |domain| domain.booted),
            memory_mib: domain.map_or(0, |domain| domain.memory_mib),
            memory_max_mib: domain.map_or(0, |domain| domain.memory_max_mib),
            vcpus: domain.map_or(0, |domain| domain.vcpus),
        }
    }

    fn set_going(&mut self, verb: &'static str, sliver: &SliverId, tuning: &Tuning) {
        let served = self.storage(sliver).exported;
        self.rule(served, || format!("{verb}:{sliver} without its export"));
        if let Some(domain) = self.domains.ours.get_mut(sliver) {
            domain.state = DomainState::Running;
        }
        self.retune(verb, sliver, tuning);
        self.write(sliver);
    }
}

/// Lets others have their turn.
pub(super) async fn next_turn() {
    let mut mine = false;
    poll_fn(|context| {
        if std::mem::replace(&mut mine, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "where errors are turned into others"
)]
pub(super) fn broken(error: std::io::Error) -> PortError {
    PortError::later(format!("the pipe to the other node failed: {error}"))
}
