//! The board's side of rollouts: what nodes ask of it and what it answers, and the witnesses that decide how a rollout goes on.

use std::collections::BTreeSet;
use std::sync::Arc;

use xeno_reconciler::rollout::{Decision, Hold, RolloutRecord, Signed, Tally, Verdict, decide};

use crate::board::Ask;
use crate::fault::Trouble;
use crate::outcome::Milestone;
use crate::world::{Event, World};

/// In a fleet of more nodes than this not everybody looks at everything that changes: those who could do something about it
/// do, and two witnesses for each slice.
const ALL_LOOK_MAX: usize = 200;
/// Witnesses of a slice in a large fleet.
const WITNESSES: usize = 2;
/// How often somebody looks at a rollout that nothing seems to happen to.
const LOOK_AGAIN_MS: u64 = 30_000;

impl World<'_> {
    /// Has the record of a slice be something else, if it is still as it was read.
    pub(crate) fn ask(&mut self, n: usize, slice: usize, read: u64, next: RolloutRecord) {
        let node = &mut self.nodes[n];
        if !node.asking.insert(slice) {
            return;
        }
        let wait = node.draw.between(5, 60);
        let ask = Ask {
            node: n,
            slice,
            head: node.head,
            read,
            next: Arc::new(next),
            late: false,
        };
        self.after(wait, Event::Asked(Box::new(ask)));
    }

    /// How many of a thousand answers of the board are lost now, if any.
    pub(crate) fn loses_answers(&self) -> Option<u64> {
        let mut lasting = self.lasting.iter();
        lasting.find_map(|fault| match self.story.faults[*fault].trouble {
            Trouble::AnswersLost { permille } => Some(permille),
            _ => None,
        })
    }

    /// What was asked arrives at the board, or does not.
    pub(crate) fn asked_board(&mut self, ask: &Ask) {
        let n = ask.node;
        if ask.late {
            // Nobody waits for it any more.
            self.commit(ask);
            return;
        }
        if !self.is_member(n) {
            self.nodes[n].asking.remove(&ask.slice);
            return;
        }
        let lost = self.loses_answers();
        let latency = self.draw.between(5, 60);
        if lost.is_some_and(|permille| self.draw.permille(permille)) {
            match self.draw.below(3) {
                0 => self.reach.hit("request lost"),
                1 => {
                    self.reach.hit("answer lost");
                    self.commit(ask);
                }
                _ => {
                    self.reach.hit("request late");
                    let late = Ask {
                        late: true,
                        ..ask.clone()
                    };
                    let wait = self.draw.between(1_000, 60_000);
                    self.after(wait, Event::Asked(Box::new(late)));
                }
            }
            let wait = self.draw.between(2_000, 10_000);
            return self.after(
                wait,
                Event::Answered {
                    node: n,
                    slice: ask.slice,
                    done: false,
                },
            );
        }
        let done = self.commit(ask);
        self.after(
            latency,
            Event::Answered {
                node: n,
                slice: ask.slice,
                done,
            },
        );
    }

    /// A node has its answer, or has given up waiting for it.
    pub(crate) fn answered(&mut self, n: usize, slice: usize, done: bool) {
        let node = &mut self.nodes[n];
        node.asking.remove(&slice);
        if done {
            node.refusals = 0;
            return self.consider_soon(n, 0);
        }
        node.refusals = node.refusals.saturating_add(1).min(8);
        let wait = node.pace.until_contention(node.refusals);
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.consider_soon(n, wait);
        self.witness_soon(slice, wait);
    }

    /// The board makes a change, if what was read has not changed since.
    pub(crate) fn commit(&mut self, ask: &Ask) -> bool {
        self.board.wrote(self.now, 1);
        let before = self.board.records.get(&ask.slice).1.cloned();
        let next = Arc::clone(&ask.next);
        if !self
            .board
            .records
            .put_if(ask.read, ask.slice, Arc::clone(&next), &mut self.board.at)
        {
            self.reach.hit("swap refused");
            return false;
        }
        self.watch_over(ask, before.as_deref());
        self.tell(ask.slice, before.as_deref(), &next);
        true
    }

    /// Those whom a change of a record concerns hear of it.
    fn tell(&mut self, slice: usize, before: Option<&RolloutRecord>, now: &RolloutRecord) {
        let goes_on = before.is_none_or(|before| {
            before.verdict != now.verdict
                || before.wave != now.wave
                || before.to != now.to
                || before.skipped != now.skipped
        });
        if goes_on {
            let again = before.is_none_or(|before| before.to != now.to);
            let milestone = match &now.verdict {
                Verdict::Rolling if again || now.wave == 0 => Milestone::Begins,
                Verdict::Rolling => Milestone::Wave(now.wave + 1),
                Verdict::Done => Milestone::Done,
                Verdict::Failed { .. } => Milestone::Failed,
                Verdict::Held { .. } => Milestone::Held,
                Verdict::Paused { .. } | Verdict::Aborted { .. } => Milestone::Stopped,
            };
            let milestones = &mut self.board.slices[slice].milestones;
            if again || milestones.last().is_none_or(|(_, last)| *last != milestone) {
                milestones.push((self.now, milestone));
            }
        }
        let freed =
            before.is_some_and(|before| before.slots.keys().any(|number| !now.slots.contains_key(number)));
        let shared = &mut self.board.slices[slice];
        let hear: BTreeSet<usize> = if goes_on || self.nodes.len() <= ALL_LOOK_MAX {
            shared.waiting.clear();
            shared.active.values().copied().collect()
        } else if freed {
            // As many as there is room for, and one more should one of them have gone.
            let many = now.slots_max(u32::try_from(shared.active.len()).unwrap_or(u32::MAX));
            let room = usize::try_from(many).unwrap_or(0).saturating_sub(now.slots.len()) + 1;
            let some: Vec<usize> = shared.waiting.iter().copied().take(room).collect();
            for n in &some {
                shared.waiting.remove(n);
            }
            some.into_iter().collect()
        } else {
            BTreeSet::new()
        };
        for n in hear {
            let wait = self.nodes[n].draw.between(10, 200);
            self.consider_soon(n, wait);
        }
        self.witness_soon(slice, 200);
    }

    /// Has the witnesses of a slice look.
    pub(crate) fn witness_soon(&mut self, slice: usize, wait_ms: u64) {
        let at = self.now.saturating_add(wait_ms);
        let shared = &mut self.board.slices[slice];
        if shared
            .look_at
            .is_some_and(|pending| pending <= at && pending >= self.now)
        {
            return;
        }
        shared.look_at = Some(at);
        self.queue.at(at, Event::Witness(slice));
    }

    /// The witnesses of a slice look at its rollout.
    pub(crate) fn witness(&mut self, slice: usize) {
        if self.board.slices[slice].look_at != Some(self.now) {
            return;
        }
        self.board.slices[slice].look_at = None;
        let (read, Some(record)) = self.board.records.get(&slice) else {
            return;
        };
        let record = Arc::clone(record);
        match record.verdict {
            Verdict::Rolling => {}
            // Whoever resumes it has the witnesses look again.
            Verdict::Paused { .. } => return self.reach.hit("hold: paused"),
            Verdict::Held { .. } => return self.reach.hit("hold: held"),
            Verdict::Failed { .. } | Verdict::Aborted { .. } | Verdict::Done => return,
        }
        let head = self.number_of(&record);
        let mut newest = head;
        let nodes = &self.views[head].on[slice];
        let about_this = |n: &usize| {
            let key = self.key(slice, self.nodes[*n].head);
            self.is_member(*n) && key.is_some_and(|key| key.revision == record.to.revision)
        };
        let many = if self.nodes.len() <= ALL_LOOK_MAX {
            usize::MAX
        } else {
            WITNESSES
        };
        let witnesses: Vec<usize> = nodes.iter().copied().filter(about_this).take(many).collect();
        self.board.slices[slice]
            .witnesses
            .retain(|n, _| witnesses.contains(n));
        if let Some(first) = witnesses.first() {
            newest = self.nodes[*first].head;
        }
        let (waves, placement) = self.waves(slice, &record, newest);
        let shared = &mut self.board.slices[slice];
        let known = shared
            .tally
            .take()
            .filter(|(of, head, _)| (*of, *head) == (read, newest));
        let tally = known.map_or_else(
            || Tally::of(&record, &waves, &placement, &shared.snapshot),
            |(_, _, tally)| tally,
        );
        let mut again = LOOK_AGAIN_MS;
        for n in witnesses {
            let witness = self.board.slices[slice].witnesses.entry(n).or_default();
            let healthy_ms = witness.look(&record, &waves, &tally, self.now);
            let decision = decide(&record, &waves, &tally, healthy_ms);
            let (at, name) = (self.wall(n), self.nodes[n].name.clone());
            let signed = Signed {
                at,
                by: name.as_str(),
            };
            match decision {
                Decision::Proceed(proposal) => match record.go_on(&proposal, &waves, signed) {
                    Ok(next) => self.ask(n, slice, read, next),
                    Err(refused) => self.safety.broken(format!("a proposal that is none: {refused}")),
                },
                Decision::RollBack(why) => match record.roll_back(&why, &waves, signed) {
                    Ok(next) => self.ask(n, slice, read, next),
                    Err(refused) => self.safety.broken(format!("a verdict that is none: {refused}")),
                },
                Decision::Hold(hold) => {
                    self.reach.hit(word_of_hold(&hold));
                    if let Hold::Baking {
                        healthy_ms, bake_ms, ..
                    } = hold
                    {
                        again = again.min(bake_ms.saturating_sub(healthy_ms).max(1));
                    }
                }
                Decision::Settled => {}
            }
        }
        // In a large fleet, those who wait are asked again now and then: whoever was told last may have gone.
        if self.nodes.len() > ALL_LOOK_MAX && tally.pending > 0 {
            let few: Vec<usize> = self.board.slices[slice].waiting.iter().copied().take(2).collect();
            for n in few {
                self.board.slices[slice].waiting.remove(&n);
                self.consider_soon(n, 100);
            }
        }
        // The next look finds the same, unless somebody says something, goes or comes meanwhile.
        self.board.slices[slice].tally = Some((read, newest, tally));
        self.witness_soon(slice, again);
    }

    /// Which commit a record is about.
    pub(crate) fn number_of(&self, record: &RolloutRecord) -> usize {
        self.views
            .iter()
            .rposition(|view| *view.revision == record.to.commit)
            .unwrap_or(0)
    }
}

fn word_of_hold(hold: &Hold) -> &'static str {
    match hold {
        Hold::Paused { .. } => "hold: paused",
        Hold::Held { .. } => "hold: held",
        Hold::Away { .. } => "hold: too many away",
        Hold::Wave { .. } => "hold: wave",
        Hold::NoCanary => "hold: no canary",
        Hold::Baking { .. } => "hold: baking",
    }
}
