//! Faults begin and end.

use std::collections::BTreeMap;
use std::sync::Arc;

use xeno_model::id::Timestamp;
use xeno_model::observed::DomainState;
use xeno_reconciler::action::{Action, ActionKind};
use xeno_reconciler::rollout::{Refused, RolloutRecord, Signed, Verdict};

use crate::board::Ask;
use crate::fault::Trouble;
use crate::node::Ending;
use crate::world::{BEGIN_MS, Event, World};

impl World<'_> {
    pub(crate) fn begins(&mut self, fault: usize) {
        match self.story.faults[fault].trouble.clone() {
            Trouble::PowerFails { node } => self.power(node, false),
            Trouble::AgentDies { node } => self.kill_agent(node),
            Trouble::Away { node } => {
                self.nodes[node].cut_off += 1;
                self.nodes[node].away = true;
                self.cut_all(node);
                self.leaves(node);
            }
            Trouble::Clock { node, by_ms } => self.nodes[node].skew_ms = by_ms,
            Trouble::Drivers { node, permille } => self.nodes[node].drivers_permille = permille,
            Trouble::Blind { node } => {
                self.nodes[node].blind = true;
                self.wake(node, 0);
            }
            Trouble::GuestDies { node } => self.lose_guest(node),
            Trouble::BoardLost => {
                self.lasting.insert(fault);
                self.board_is(false);
            }
            Trouble::AnswersLost { .. }
            | Trouble::GitSlow
            | Trouble::GitLost
            | Trouble::MoveUnsaid { .. } => {
                self.lasting.insert(fault);
            }
            Trouble::Bad { .. } => {}
            Trouble::Paused { slice } => self.person(slice, RolloutRecord::pause),
            Trouble::Aborted { slice } => self.person(slice, RolloutRecord::abort),
        }
    }

    pub(crate) fn ends(&mut self, fault: usize) {
        match self.story.faults[fault].trouble {
            Trouble::PowerFails { node } => self.power(node, true),
            Trouble::AgentDies { node } => {
                self.nodes[node].dead -= 1;
                self.start_agent(node);
            }
            Trouble::Away { node } => {
                self.nodes[node].cut_off -= 1;
                self.nodes[node].away = self.nodes[node].cut_off > 0;
                if !self.nodes[node].away && self.nodes[node].agent {
                    self.returns(node);
                    self.after(1_000, Event::Poll(node));
                    self.wake(node, 0);
                }
            }
            Trouble::Clock { node, .. } => {
                self.nodes[node].skew_ms = 0;
                self.wake(node, 0);
            }
            Trouble::Drivers { node, .. } => self.nodes[node].drivers_permille = 0,
            Trouble::Blind { node } => {
                self.nodes[node].blind = false;
                self.wake(node, 0);
            }
            Trouble::BoardLost => {
                self.lasting.remove(&fault);
                self.board_is(true);
            }
            Trouble::AnswersLost { .. }
            | Trouble::GitSlow
            | Trouble::GitLost
            | Trouble::MoveUnsaid { .. } => {
                self.lasting.remove(&fault);
            }
            Trouble::Paused { slice } => self.person(slice, |record, signed| match record.verdict {
                Verdict::Paused { .. } => record.resume(signed),
                _ => Err(Refused::Stale),
            }),
            Trouble::GuestDies { .. } | Trouble::Bad { .. } | Trouble::Aborted { .. } => {}
        }
    }

    /// A person says something about the rollout of a slice, or of the next one of which it makes sense.
    fn person(
        &mut self,
        slice: usize,
        say: impl Fn(&RolloutRecord, Signed<'_>) -> Result<RolloutRecord, Refused>,
    ) {
        let signed = Signed {
            at: Timestamp(BEGIN_MS + self.now),
            by: "ada",
        };
        let many = self.slices.len();
        let heard = (0..many).map(|i| (slice + i) % many).find_map(|slice| {
            let (read, record) = self.board.records.get(&slice);
            let next = say(record?, signed).ok()?;
            Some((slice, read, next))
        });
        if let Some((slice, read, next)) = heard {
            self.reach.hit("a person was heard");
            self.commit(&Ask {
                node: 0,
                slice,
                head: self.head,
                read,
                next: Arc::new(next),
                late: false,
            });
        }
    }

    /// What an agent was at is done, or not, when it dies: nobody waits for it any more.
    fn kill_agent(&mut self, n: usize) {
        self.nodes[n].dead += 1;
        self.stop_agent(n, true);
    }

    fn stop_agent(&mut self, n: usize, goes_on: bool) {
        self.leaves(n);
        self.nodes[n].agent = false;
        self.cut_all(n);
        let stepping = std::mem::take(&mut self.nodes[n].rights.stepping);
        for (sliver, stepping) in stepping {
            if goes_on && self.nodes[n].draw.permille(500) {
                let _ = self.do_step(n, &sliver, &stepping.step);
            }
        }
        let node = &mut self.nodes[n];
        node.patience.clear();
        (node.grants, node.asks) = (None, BTreeMap::new());
        node.rights.forget();
        let Some(running) = node.run.take() else { return };
        for at in running.in_flight.keys() {
            let action: Action = running.run.plan().actions[*at].action.clone();
            let happens = goes_on && self.nodes[n].draw.permille(500);
            if happens && action.kind() != ActionKind::AwaitHealthy {
                let _ = self.carry_out(n, &action, &running.desired, &Ending::Well);
            }
        }
    }

    fn start_agent(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.off > 0 || node.dead > 0 {
            return;
        }
        node.agent = true;
        node.began_ms = self.now;
        if !node.away {
            self.returns(n);
        }
        self.after(1_000, Event::Poll(n));
        self.wake(n, 100);
    }

    fn power(&mut self, n: usize, on: bool) {
        if on {
            self.nodes[n].off -= 1;
            return self.start_agent(n);
        }
        self.nodes[n].off += 1;
        self.nodes[n].life = self.nodes[n].life.wrapping_add(1);
        self.turn_off(n);
    }

    fn turn_off(&mut self, n: usize) {
        self.materialise(n);
        self.stop_agent(n, false);
        let node = &mut self.nodes[n];
        let Some(machine) = &node.machine else { return };
        let observed = machine.observed(&node.name);
        let domains = observed.domains.known();
        for sliver in domains.into_iter().flat_map(|domains| domains.ours.keys()) {
            machine.lose_domain(sliver);
            self.safety.runs(n, &sliver.itself(), false);
        }
        machine.lose_file_server();
    }

    fn lose_guest(&mut self, n: usize) {
        self.materialise(n);
        let node = &mut self.nodes[n];
        let Some(machine) = &node.machine else { return };
        let observed = machine.observed(&node.name);
        let Some(domains) = observed.domains.known() else {
            return;
        };
        let running: Vec<_> = domains
            .ours
            .iter()
            .filter(|(_, domain)| domain.state == DomainState::Running)
            .map(|(sliver, _)| sliver.clone())
            .collect();
        if let Some(sliver) = node.draw.pick(&running) {
            machine.lose_domain(sliver);
            self.safety.runs(n, &sliver.itself(), false);
        }
        let wait = node.draw.between(1_000, 60_000);
        self.wake(n, wait);
    }
}
