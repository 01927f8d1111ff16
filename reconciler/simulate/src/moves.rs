//! Moves between nodes: the two ends of each, and the line between them that can be cut.
//!
//! What the tasks of two agents say to each other is told here in fewer words; when a guest may run where, the rules say
//! (`rights.rs`).

use xeno_model::desired::{DesiredNode, MigrationPolicy};
use xeno_model::id::{Digest, Epoch, MigrationId, NodeName, SliverId};
use xeno_model::normal::boot_digest;
use xeno_reconciler::change::AppliedSliver;
use xeno_reconciler::plan::ingredients;
use xeno_reconciler::ports::{DomainSpec, Grace, Hypervisor, MountSpec, Storage, Tuning};
use xeno_reconciler::rollout::Verdict;
use xeno_reconciler::tenure::{BootId, Facets, Guest, Host, Leaving, Offer, Record, Taking};

use crate::fault::Trouble;
use crate::node::Ending;
use crate::rights::{End, Open, at_once};
use crate::trace::Shade;
use crate::world::{Event, World};

/// How soon a node whose peer is gone reads the record again, where the board does not answer.
const READ_AGAIN_MS: u64 = 2_000;

/// A move that is under way, as nobody sees it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) sliver: SliverId,
    pub(crate) from: usize,
    pub(crate) to: usize,
    migration: MigrationId,
    offer: Offer,
    /// Under which the guest ran.
    epoch: Option<Epoch>,
    /// How the other end takes it.
    taking: Option<Taking>,
    /// Its domain at the one end.
    embodiment: SliverId,
}

/// What happens on a line, or at its ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Passing {
    /// The sliver is offered.
    Offered,
    /// The other end has all that it needs to receive it.
    Prepared,
    /// What could be sent ahead of its layers was.
    Ahead,
    /// Its memory was sent.
    Departed,
    /// Its guest has stopped, and its memory stays behind.
    Stopped,
    /// The other end is told that it has the right.
    Go,
}

impl World<'_> {
    /// Begins to send a sliver to another node.
    pub(crate) fn depart(
        &mut self,
        n: usize,
        sliver: &SliverId,
        to: &NodeName,
        desired: &DesiredNode,
        facets: &Facets,
    ) {
        self.reach.hit("move: depart");
        if facets.image {
            let why = "its memory is stored here and does not move".to_owned();
            return self.pause(n, sliver, why, Some(to.clone()));
        }
        let Some(peer) = self.by_name.get(to).copied() else {
            let why = format!("nobody knows {to}");
            return self.pause(n, sliver, why, Some(to.clone()));
        };
        self.needs_approval_to_leave(n, sliver);
        let policy = self
            .was_made(n, sliver, desired)
            .map(|made| made.migration.policy);
        let node = &mut self.nodes[n];
        let began = node.rights.journals.get(sliver).and_then(|journal| journal.began);
        let runs = facets.guest == Guest::Running;
        let memory = runs
            && facets.embodiment == *sliver
            && facets.movable
            && began.is_some()
            && policy.is_some_and(|policy| policy != MigrationPolicy::Restart);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&node.draw.number().to_le_bytes());
        id[8..].copy_from_slice(&node.draw.number().to_le_bytes());
        let link = Link {
            sliver: sliver.clone(),
            from: n,
            to: peer,
            migration: MigrationId(id),
            offer: Offer {
                memory,
                booted: facets.booted.filter(|_| runs),
            },
            epoch: began,
            taking: None,
            embodiment: facets.embodiment.clone(),
        };
        self.links_made += 1;
        let number = self.links_made;
        let open = Open {
            migration: link.migration,
            link: number,
            peer: to.clone(),
            end: End::Leaving {
                boot: BootId::default(),
                stage: Leaving::Streaming,
                travelled: false,
            },
        };
        self.nodes[n].rights.sessions.insert(sliver.clone(), open);
        self.links.insert(number, link);
        let wait = self.nodes[n].draw.between(2, 50);
        self.passes(number, wait, Passing::Offered);
    }

    fn passes(&mut self, link: u64, wait_ms: u64, what: Passing) {
        self.after(wait_ms, Event::Passing { link, what });
    }

    /// Whether two agents reach each other.
    fn reach_each_other(&self, one: usize, other: usize) -> bool {
        [one, other]
            .iter()
            .all(|n| self.nodes[*n].agent && !self.nodes[*n].away)
    }

    /// Something comes to pass on a line.
    pub(crate) fn passing(&mut self, number: u64, what: Passing) {
        let Some(link) = self.links.get(&number).cloned() else {
            return;
        };
        if !self.reach_each_other(link.from, link.to) {
            return self.cut(number, "the other agent cannot be reached");
        }
        match what {
            Passing::Offered => self.offered(number, &link),
            Passing::Prepared => self.prepared(number, &link),
            Passing::Ahead => self.ahead(number, &link),
            Passing::Departed => self.departed(number, &link),
            Passing::Stopped => self.stopped(number, &link),
            Passing::Go => {
                // The other end reads the record too: that this arrives only makes it sooner.
                self.hears(link.to, &link.sliver);
            }
        }
    }

    /// A node is offered a sliver.
    fn offered(&mut self, number: u64, link: &Link) {
        match self.takes(link) {
            Err(why) => {
                self.reach.hit("move refused");
                self.cut(number, &why);
            }
            Ok(taking) => {
                self.expect(link.to, &link.sliver);
                let open = Open {
                    migration: link.migration,
                    link: number,
                    peer: self.nodes[link.from].name.clone(),
                    end: End::Arriving {
                        whole: false,
                        alone: false,
                    },
                };
                let node = &mut self.nodes[link.to];
                node.rights.sessions.insert(link.sliver.clone(), open);
                let wait = node.draw.between(500, 40_000);
                if let Some(link) = self.links.get_mut(&number) {
                    link.taking = Some(taking);
                }
                self.passes(number, wait, Passing::Prepared);
            }
        }
    }

    fn takes(&mut self, link: &Link) -> Result<Taking, String> {
        let (n, sliver) = (link.to, &link.sliver);
        self.materialise(n);
        let (desired, observed) = (self.wanted(n), self.look(n));
        let node = &self.nodes[n];
        let rights = &node.rights;
        if rights.sessions.contains_key(sliver) || rights.stepping.contains_key(sliver) {
            return Err(format!("{} is busy with {sliver}", node.name));
        }
        let host = Host {
            me: &node.name,
            desired: Some(&desired),
            observed: observed.as_ref(),
        };
        let facets = observed
            .as_ref()
            .and_then(|observed| Facets::of(sliver, observed));
        let coming = |of: &SliverId| match self.movers.contains_key(of) {
            true => rights.sessions.contains_key(of) || node.holds(of),
            false => !node.awaits(of),
        };
        let waits = node.awaits(sliver).then_some("its rollout has yet to come to it");
        let taking = host.takes(sliver, link.offer, facets.as_ref(), coming, waits)?;
        if !self.is_member(n) {
            return Err("the board does not answer".to_owned());
        }
        self.read_record(n, sliver);
        match self.nodes[n].rights.record(sliver) {
            Record::Is(holder) if holder.is(&self.nodes[link.from].name) => Ok(taking),
            Record::Is(_) | Record::Absent | Record::Unknown => Err(format!(
                "{} has not the right to run {sliver}",
                self.nodes[link.from].name
            )),
        }
    }

    /// Writes down what a sliver that comes is made of, before anything of it is here.
    fn expect(&mut self, n: usize, sliver: &SliverId) {
        let desired = self.wanted(n);
        let Some(wanted) = desired.slivers.get(sliver) else {
            return;
        };
        let at = self.wall(n);
        let node = &mut self.nodes[n];
        if !node.applied.contains_key(sliver) {
            let begun = AppliedSliver {
                desired: wanted.clone(),
                epoch: Epoch(1),
                complete: false,
                at,
            };
            node.applied.insert(sliver.clone(), begun);
        }
        node.looks_again(sliver);
        self.trace.shade(self.now, n, sliver, Shade::Changing);
    }

    /// Everything that the sliver is made of is there.
    fn prepared(&mut self, number: u64, link: &Link) {
        let desired = self.wanted(link.to);
        let Some(wanted) = desired.slivers.get(&link.sliver) else {
            return self.cut(number, "it is not wanted here any more");
        };
        let ending = self.some_ending(link.to);
        let Some(machine) = &self.nodes[link.to].machine else {
            return;
        };
        if !matches!(ending, Ending::Well) {
            return self.cut(number, "what it is made of could not be brought");
        }
        for action in ingredients(wanted) {
            let _ = machine.perform(&action, &desired);
        }
        if link.taking.is_some_and(|taking| taking.leftovers) {
            let _ = at_once(machine.purge(&link.sliver));
        }
        let boot_of = self.life(link.to);
        if let Some(open) = self.nodes[link.from].rights.sessions.get_mut(&link.sliver)
            && let End::Leaving { boot, .. } = &mut open.end
        {
            *boot = boot_of;
        }
        let wait = self.nodes[link.from].draw.between(20, 20_000);
        self.passes(number, wait, Passing::Ahead);
    }

    /// The other end has what could be sent ahead; now its guest comes to rest here.
    fn ahead(&mut self, number: u64, link: &Link) {
        if link.offer.booted.is_some()
            && let Err(why) = self.send_layers(link, false)
        {
            return self.cut(number, &why);
        }
        let memory = link.offer.memory && link.taking.is_some_and(|taking| taking.memory);
        let node = &mut self.nodes[link.from];
        if !memory {
            let wait = if link.offer.booted.is_some() {
                node.draw.between(500, 8_000)
            } else {
                1
            };
            return self.passes(number, wait, Passing::Stopped);
        }
        let wait = node.draw.between(500, 20_000);
        let Some(spec) = self.spec(link) else {
            return self.cut(number, "it is not wanted there any more");
        };
        let expected = self.nodes[link.to]
            .machine
            .as_ref()
            .map(|machine| machine.expect_copy(&spec, link.migration));
        match expected {
            Some(Ok(())) => self.passes(number, wait, Passing::Departed),
            Some(Err(error)) => self.cut(number, &error.what),
            None => self.cut(number, "there is no machine"),
        }
    }

    /// What the copy is to be, as the other end has it made.
    fn spec(&self, link: &Link) -> Option<DomainSpec> {
        let desired = self.wanted(link.to);
        let wanted = desired.slivers.get(&link.sliver)?;
        let tuning = Tuning::of(wanted);
        Some(DomainSpec {
            sliver: link.sliver.clone(),
            uuid: wanted.uuid,
            boot: boot_digest(wanted),
            vcpus: wanted.resources.vcpus,
            vcpus_max: wanted.resources.vcpus_most(),
            memory_mib: tuning.memory_mib,
            memory_max_mib: wanted.resources.memory_most().mib(),
            limits: tuning.limits,
            kernel: std::path::PathBuf::new(),
            initramfs: std::path::PathBuf::new(),
            cmdline: Vec::new(),
            mounts: Vec::new(),
            publish: tuning.publish,
            addresses: wanted.addresses.clone(),
        })
    }

    /// One round of the layers.
    fn send_layers(&mut self, link: &Link, last: bool) -> Result<(), String> {
        let desired = self.wanted(link.to);
        let wanted = desired
            .slivers
            .get(&link.sliver)
            .ok_or("it is not wanted there any more")?;
        let travels = MountSpec::of(wanted)
            .iter()
            .any(|mount| mount.writable && mount.place.is_none());
        let machines = (&self.nodes[link.from].machine, &self.nodes[link.to].machine);
        let (Some(from), Some(to)) = machines else {
            return Err("there is no machine".to_owned());
        };
        match at_once(from.round_of_layers(&link.sliver, last))? {
            Some(round) if travels => at_once(to.put_in_place(&link.sliver, &round)),
            Some(_) | None => Ok(()),
        }
    }

    /// Its memory was sent, and it stands still; or not, and somebody says so or says otherwise.
    fn departed(&mut self, number: u64, link: &Link) {
        let (Some(epoch), Some(spec)) = (link.epoch, self.spec(link)) else {
            return self.cut(number, "it is not wanted there any more");
        };
        let node = link.from;
        let ending = if self.suffers(|trouble| *trouble == Trouble::MoveUnsaid { node }) {
            Ending::Unsaid
        } else {
            self.some_ending(node)
        };
        if matches!(ending, Ending::Fails(_) | Ending::Hangs) {
            return self.cut(number, "sending its memory failed");
        }
        let machines = (&self.nodes[link.from].machine, &self.nodes[link.to].machine);
        let (Some(from), Some(to)) = machines else {
            return;
        };
        let memory = from.memory(&link.embodiment);
        let sent = at_once(from.stand_still(&link.embodiment, epoch))
            .and_then(|()| at_once(to.complete(&spec, &memory)));
        self.note_running(link.from, &link.sliver);
        self.note_running(link.to, &link.sliver);
        if let Err(why) = sent {
            return self.cut(number, &why);
        }
        if let Some(open) = self.nodes[link.to].rights.sessions.get_mut(&link.sliver)
            && let End::Arriving { whole, .. } = &mut open.end
        {
            *whole = true;
        }
        if matches!(ending, Ending::Unsaid | Ending::HangsAfter) {
            self.reach.hit("move unsaid");
            return self.cut(number, "sending its memory did not end in time");
        }
        self.given(link);
    }

    /// Its guest has stopped; its memory stays behind.
    fn stopped(&mut self, number: u64, link: &Link) {
        if let Some(booted) = link.offer.booted {
            self.moves_changed(link, booted);
            let ending = self.some_ending(link.from);
            if matches!(ending, Ending::Fails(_) | Ending::Hangs) {
                return self.cut(number, "stopping it failed");
            }
            if let Some(machine) = &self.nodes[link.from].machine {
                let _ = at_once(machine.shutdown(&link.embodiment, Grace { ms: 0 }));
            }
            self.note_running(link.from, &link.sliver);
            if !matches!(ending, Ending::Well) {
                return self.cut(number, "stopping it did not end in time");
            }
        }
        self.given(link);
    }

    /// It does not run here any more, and only an order of this node changes that.
    fn given(&mut self, link: &Link) {
        if let Some(open) = self.nodes[link.from].rights.sessions.get_mut(&link.sliver)
            && let End::Leaving { stage, .. } = &mut open.end
        {
            *stage = Leaving::Given;
        }
        self.advance_one(link.from, &link.sliver);
        self.advance_one(link.to, &link.sliver);
        self.wake(link.from, 0);
    }

    /// Sends the rest of the layers.
    pub(crate) fn travel(&mut self, n: usize, sliver: &SliverId) -> Result<(), String> {
        let ended = "the move has ended";
        let open = self.nodes[n].rights.sessions.get(sliver).ok_or(ended)?;
        let link = self.links.get(&open.link).cloned().ok_or(ended)?;
        if !self.reach_each_other(link.from, link.to) {
            return Err("the other agent cannot be reached".to_owned());
        }
        self.send_layers(&link, true)
    }

    /// Tells the other end that it has the right.
    pub(crate) fn pass_go(&mut self, n: usize, sliver: &SliverId) {
        if let Some(open) = self.nodes[n].rights.sessions.get(sliver) {
            let link = open.link;
            let wait = self.nodes[n].draw.between(1, 20);
            self.passes(link, wait, Passing::Go);
        }
    }

    /// One end closes a line; the other hears of it.
    pub(crate) fn hang_up(&mut self, n: usize, number: u64, why: &str) {
        let Some(link) = self.links.remove(&number) else {
            return;
        };
        let other = if link.from == n { link.to } else { link.from };
        self.end_of(other, number, &link.sliver, why);
        if n == link.to {
            self.drop_copy(n, &link.sliver);
        }
    }

    /// A line is cut: both ends hear of it.
    fn cut(&mut self, number: u64, why: &str) {
        let Some(link) = self.links.remove(&number) else {
            return;
        };
        for n in [link.from, link.to] {
            self.end_of(n, number, &link.sliver, why);
        }
    }

    /// All lines of a node are cut, since its agent ends or it reaches nobody.
    pub(crate) fn cut_all(&mut self, n: usize) {
        let mine: Vec<u64> = self
            .links
            .iter()
            .filter(|(_, link)| link.from == n || link.to == n)
            .map(|(number, _)| *number)
            .collect();
        for number in mine {
            self.reach.hit("move cut off");
            self.cut(number, "the other agent cannot be reached");
        }
    }

    fn drop_copy(&mut self, n: usize, sliver: &SliverId) {
        if let Some(machine) = &self.nodes[n].machine {
            machine.drop_copy(sliver);
        }
    }

    fn end_of(&mut self, n: usize, link: u64, sliver: &SliverId, why: &str) {
        let wait = self.nodes[n].draw.between(1, 500);
        let (sliver, why) = (sliver.clone(), why.to_owned());
        self.after(
            wait,
            Event::HungUp {
                node: n,
                link,
                sliver,
                why,
            },
        );
    }

    /// An end of a move hears that its line is gone.
    pub(crate) fn hung_up(&mut self, n: usize, number: u64, sliver: &SliverId, why: &str) {
        let member = self.is_member(n);
        let node = &mut self.nodes[n];
        let open = node.rights.sessions.get_mut(sliver);
        let Some(open) = open.filter(|open| open.link == number) else {
            // Its agent has died since: a process of its hypervisor ends with it.
            return self.drop_copy(n, sliver);
        };
        let (peer, migration) = (open.peer.clone(), open.migration);
        let leaving = matches!(open.end, End::Leaving { .. });
        if let End::Arriving { whole: true, alone } = &mut open.end {
            // The other end may have given its right away and died: then this copy is all there is of the guest.
            *alone = true;
            if !member {
                let (sliver, why) = (sliver.clone(), why.to_owned());
                return self.after(
                    READ_AGAIN_MS,
                    Event::HungUp {
                        node: n,
                        link: number,
                        sliver,
                        why,
                    },
                );
            }
            self.read_record(n, sliver);
            if self.goes_on_with(n, sliver, migration) {
                self.reach.hit("copy goes on alone");
                return self.advance_one(n, sliver);
            }
        }
        self.nodes[n].rights.sessions.remove(sliver);
        self.drop_copy(n, sliver);
        let gone = matches!(
            self.nodes[n].rights.record(sliver),
            Record::Is(holder) if !holder.is(&self.nodes[n].name)
        );
        if leaving && !gone {
            self.pause(n, sliver, why.to_owned(), Some(peer));
        }
        self.advance_one(n, sliver);
        self.wake(n, 0);
    }

    /// Whether the record as last read has a node go on with what was sent in this migration.
    fn goes_on_with(&self, n: usize, sliver: &SliverId, migration: MigrationId) -> bool {
        let Record::Is(holder) = self.nodes[n].rights.record(sliver) else {
            return false;
        };
        let sent = holder
            .memory
            .as_ref()
            .is_some_and(|memory| memory.migration == migration);
        sent && holder.is(&self.nodes[n].name)
    }

    /// A guest that runs is about to be stopped so that it goes elsewhere: as something else only with a slot, until its rollout is
    /// through with the others. Whoever was out of reach until then is down for its move, as anybody else who moves.
    fn moves_changed(&mut self, link: &Link, booted: Digest) {
        let desired = self.wanted(link.to);
        let becomes = desired.slivers.get(&link.sliver).map(boot_digest);
        if becomes.is_none_or(|becomes| becomes == booted) {
            return;
        }
        self.reach.hit("moved into another revision");
        let record = self
            .slice_of(&link.sliver)
            .and_then(|slice| self.board.records.get(&slice).1);
        if record.is_none_or(|record| record.verdict != Verdict::Done) {
            self.needs_slot(link.to, &link.sliver, "has another revision by moving");
        }
    }
}
