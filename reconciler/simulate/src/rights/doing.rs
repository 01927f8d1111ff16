//! Steps about the right to run, carried out.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use xeno_model::desired::{DesiredNode, WritableKind};
use xeno_model::id::SliverId;
use xeno_model::observed::DomainState;
use xeno_reconciler::ports::{MoveLayers, MoveMemory, PortResult, Storage, Tuning};
use xeno_reconciler::tenure::{Act, Disk, Facets, Guest, Leaving, Place, Record, Step, close, serve};

use super::{End, Stepping};
use crate::node::Ending;
use crate::trace::Shade;
use crate::world::{Event, World};

impl World<'_> {
    /// Takes a step. Whether the next one can be decided at once.
    pub(super) fn take_step(
        &mut self,
        n: usize,
        sliver: &SliverId,
        step: Step,
        desired: &DesiredNode,
        facets: &Facets,
    ) -> bool {
        match step {
            Step::Note(journal) => {
                self.nodes[n].rights.journals.insert(sliver.clone(), journal);
                true
            }
            Step::Depart { to } => {
                self.depart(n, sliver, &to, desired, facets);
                false
            }
            Step::LetGo => {
                if let Some(open) = self.nodes[n].rights.sessions.remove(sliver) {
                    self.hang_up(n, open.link, "it was let go");
                }
                true
            }
            step => {
                self.begin_step(n, sliver, step);
                false
            }
        }
    }

    fn begin_step(&mut self, n: usize, sliver: &SliverId, step: Step) {
        self.reach.hit(word(&step));
        if matches!(step, Step::CallOff)
            && let Some(open) = self.nodes[n].rights.sessions.get(sliver)
        {
            let link = open.link;
            self.hang_up(n, link, "it was called off");
        }
        if let Step::PassGo { .. } = &step
            && let Some(open) = self.nodes[n].rights.sessions.get_mut(sliver)
            && let End::Leaving { stage, .. } = &mut open.end
        {
            *stage = Leaving::Passed;
        }
        let ending = match &step {
            Step::Swap { .. } | Step::PassGo { .. } | Step::PassReady => Ending::Well,
            _ => self.some_ending(n),
        };
        let node = &mut self.nodes[n];
        node.rights.steps += 1;
        let number = node.rights.steps;
        let stepping = Stepping {
            number,
            step: step.clone(),
            ending: ending.clone(),
        };
        node.rights.stepping.insert(sliver.clone(), stepping);
        if let Step::Swap { to, .. } = step {
            return self.swap(n, sliver, number, to);
        }
        let takes = match (&ending, &step) {
            (Ending::Hangs | Ending::HangsAfter, _) => 120_000,
            (_, Step::Travel) => node.draw.between(20, 2_000),
            (_, Step::Serve { .. } | Step::Park | Step::Close) => node.draw.between(10, 300),
            (_, Step::Wake | Step::Clear | Step::Destroy) => node.draw.between(20, 800),
            _ => node.draw.between(1, 20),
        };
        let sliver = sliver.clone();
        self.after(
            takes,
            Event::Stepped {
                node: n,
                sliver,
                number,
            },
        );
    }

    /// A step has ended that is no change of a record.
    pub(crate) fn stepped(&mut self, n: usize, sliver: &SliverId, number: u32) {
        let node = &self.nodes[n];
        let stepping = node.rights.stepping.get(sliver);
        let Some(stepping) = stepping.filter(|stepping| stepping.number == number).cloned() else {
            return;
        };
        let result = match &stepping.ending {
            Ending::Fails(_) => Err("the driver failed".to_owned()),
            Ending::Hangs => Err("it did not end in time".to_owned()),
            Ending::Well => self.do_step(n, sliver, &stepping.step),
            Ending::Unsaid | Ending::HangsAfter => {
                let _ = self.do_step(n, sliver, &stepping.step);
                Err("no answer".to_owned())
            }
        };
        self.end_step(n, sliver, result);
    }

    /// Whatever it was, the next look says what became of it.
    pub(crate) fn end_step(&mut self, n: usize, sliver: &SliverId, result: Result<(), String>) {
        let Some(Stepping { step, .. }) = self.nodes[n].rights.stepping.remove(sliver) else {
            return;
        };
        let rights = &mut self.nodes[n].rights;
        match result {
            Err(why) if step == Step::Travel => {
                if let Some(open) = rights.sessions.remove(sliver) {
                    self.hang_up(n, open.link, &why);
                    self.pause(n, sliver, why, Some(open.peer));
                }
            }
            Err(why) => self.pause(n, sliver, why, None),
            Ok(()) => {
                rights.pauses.remove(sliver);
                if step == Step::Travel
                    && let Some(open) = rights.sessions.get_mut(sliver)
                    && let End::Leaving { travelled, .. } = &mut open.end
                {
                    *travelled = true;
                }
            }
        }
        if step == Step::CallOff {
            self.nodes[n].rights.sessions.remove(sliver);
        }
        self.advance_one(n, sliver);
        self.wake(n, 0);
    }

    /// Carries a step out on the machine.
    pub(crate) fn do_step(&mut self, n: usize, sliver: &SliverId, step: &Step) -> Result<(), String> {
        let desired = self.wanted(n);
        let (made, was_made) = (self.made(n, sliver, &desired), self.was_made(n, sliver, &desired));
        let unknown = || "nobody knows any more what it was made of".to_owned();
        let observed = self.look_at_all(n).ok_or("there is no machine")?;
        let facets = Facets::of(sliver, &observed).ok_or("it cannot be seen")?;
        if *step == Step::Travel {
            return self.travel(n, sliver);
        }
        if let Step::PassGo { .. } = step {
            self.pass_go(n, sliver);
            return Ok(());
        }
        let migration = self.nodes[n].rights.sessions.get(sliver);
        let migration = migration.map(|open| open.migration).unwrap_or_default();
        let node = &self.nodes[n];
        let machine = node.machine.as_ref().ok_or("there is no machine")?;
        let done = match step {
            Step::Serve { epoch } => {
                let made = made.ok_or_else(unknown)?;
                self.safety.opens(n, sliver, *epoch);
                at_once(serve(machine, &made, *epoch, facets.disk, None))
            }
            Step::Park => at_once(machine.park(sliver)),
            Step::Close => at_once(close(machine, sliver)),
            Step::Wake => {
                let tuning = Tuning::of(&was_made.ok_or_else(unknown)?);
                at_once(machine.wake(&facets.embodiment, &tuning))
            }
            Step::Clear => {
                let tuning = Tuning::of(&made.ok_or_else(unknown)?);
                at_once(machine.clear(sliver, migration, &tuning))
            }
            Step::Destroy => at_once(machine.destroy(&facets.embodiment)),
            Step::CallOff => match facets.guest {
                Guest::Copy { .. } => at_once(machine.destroy(sliver)),
                Guest::Running | Guest::Kept { .. } => at_once(machine.call_off(&facets.embodiment)),
                Guest::Absent => Ok(()),
            },
            Step::Swap { .. }
            | Step::Note(_)
            | Step::Depart { .. }
            | Step::Travel
            | Step::PassReady
            | Step::PassGo { .. }
            | Step::LetGo => Ok(()),
        };
        self.note_running(n, sliver);
        if matches!(step, Step::Wake | Step::Clear) {
            self.trace.shade(self.now, n, sliver, Shade::New);
        }
        done
    }

    /// Notes whether a sliver runs on a node, and what its machine has to say of how it was treated.
    pub(crate) fn note_running(&mut self, n: usize, sliver: &SliverId) {
        let node = &self.nodes[n];
        let Some(machine) = &node.machine else { return };
        if let Some(violation) = machine.violations().into_iter().next() {
            self.safety.broken(format!("{}: {violation}", node.name));
        }
        let itself = sliver.itself();
        let runs = self.runs_here(n, &itself);
        self.safety.runs(n, &itself, runs);
    }

    /// Whether a sliver runs on a node, in either berth.
    pub(crate) fn runs_here(&self, n: usize, sliver: &SliverId) -> bool {
        let machine = self.nodes[n].machine.as_ref();
        let berths = [sliver.clone(), sliver.beside()];
        machine.is_some_and(|machine| {
            let mut states = berths.iter().map(|berth| machine.domain_state(berth));
            states.any(|state| state == Some(DomainState::Running))
        })
    }

    /// Whether layers of a sliver are left that another node goes on with.
    pub(super) fn is_left_over(&self, n: usize, sliver: &SliverId, place: &Place, facets: &Facets) -> bool {
        let node = &self.nodes[n];
        let settled = match node.rights.record(sliver) {
            Record::Is(holder) => holder.memory.is_none(),
            Record::Absent | Record::Unknown => false,
        };
        let known = node.applied.contains_key(sliver);
        let gone = *place != Place::Here && facets.guest == Guest::Absent && facets.disk == Disk::Closed;
        gone && settled && known
    }

    /// Forgets a sliver that goes on elsewhere, and deletes its layers on this node's own disk.
    pub(super) fn clear_away(&mut self, n: usize, sliver: &SliverId, facets: &Facets) {
        let node = &mut self.nodes[n];
        let shared = node.applied.get(sliver).is_none_or(|applied| {
            let mut mounts = applied.desired.mounts.iter();
            mounts.any(|mount| matches!(mount.writable, WritableKind::Remote { .. }))
        });
        if let Some(machine) = &node.machine
            && (facets.on_disk || facets.set_aside)
            && !shared
        {
            let _ = at_once(machine.tombstone(sliver));
            let _ = at_once(machine.purge(sliver));
        }
        node.applied.remove(sliver);
        node.looks_again(sliver);
        node.follows.remove(sliver);
        node.goods.remove(sliver);
        self.trace.shade(self.now, n, sliver, Shade::Gone);
        self.note_running(n, sliver);
        self.wake(n, 0);
        // A slot that it was changed with here is over.
        self.consider_soon(n, 0);
    }
}

/// What never has to wait.
pub(crate) fn at_once<T>(future: impl Future<Output = PortResult<T>>) -> Result<T, String> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(result) => result.map_err(|error| error.what),
        Poll::Pending => Err("no answer".to_owned()),
    }
}

/// What the report calls a step.
fn word(step: &Step) -> &'static str {
    match step {
        Step::Swap { act, .. } => match act {
            Act::Claim => "right: claim",
            Act::HandOver => "right: hand over",
            Act::TakeBack => "right: take back",
            Act::HandBack => "right: hand back",
            Act::Settle => "right: settle",
            Act::Promise => "right: promise",
            Act::TakeOver => "right: take over",
        },
        Step::Note(_) => "move: note",
        Step::Serve { .. } => "move: serve",
        Step::Park => "move: park",
        Step::Close => "move: close",
        Step::Travel => "move: travel",
        Step::Depart { .. } => "move: depart",
        Step::PassReady => "move: pass ready",
        Step::PassGo { .. } => "move: pass go",
        Step::CallOff => "move: call off",
        Step::LetGo => "move: let go",
        Step::Wake => "move: wake",
        Step::Clear => "move: clear",
        Step::Destroy => "move: destroy",
    }
}
