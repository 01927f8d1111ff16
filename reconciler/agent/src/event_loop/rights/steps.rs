//! Steps, carried out.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, timeout};
use xeno_model::desired::{DesiredSliver, MigrationPolicy};
use xeno_model::id::{Epoch, MigrationId, NodeName, SliverId};
use xeno_model::normal::boot_digest;
use xeno_model::observed::Leasing;
use xeno_reconciler::change::AppliedSliver;
use xeno_reconciler::ports::{Departure, MoveLayers, MoveMemory, PortResult, Tuning};
use xeno_reconciler::tenure::{
    Act, Disk, Guest, Host, Journal, Leaving, Offer, Place, Record, Step, Taking, Warrant, close, place,
    serve,
};
use xeno_state::record::EventKind;

use super::{Agent, End, Open, Rights, Stepped};
use crate::crash;
use crate::fleet::arriving::{Arrive, Stream, arrive};
use crate::fleet::leaving::{Command, Leave, Traffic, leave};
use crate::fleet::member::{SWAP_MAX, Swapped, random_id};
use crate::fleet::wire::{Reply, What, Wire, digest, say};
use crate::fleet::{Call, News, Teller};

/// Orders to the task of a move that may wait; there is one at a time.
const COMMANDS_MAX: usize = 4;

/// What a laboratory calls a step.
fn word(step: &Step) -> &'static str {
    match step {
        Step::Swap { act, .. } => match act {
            Act::Claim => "claim",
            Act::HandOver => "hand-over",
            Act::TakeBack => "take-back",
            Act::HandBack => "hand-back",
            Act::Settle => "settle",
            Act::Promise => "promise",
            Act::TakeOver => "take-over",
        },
        Step::Note(_) => "note",
        Step::Serve { .. } => "serve",
        Step::Park => "park",
        Step::Close => "close",
        Step::Travel => "travel",
        Step::Depart { .. } => "set-out",
        Step::PassReady => "pass-ready",
        Step::PassGo { .. } => "pass-go",
        Step::CallOff => "call-off",
        Step::LetGo => "let-go",
        Step::Wake => "wake",
        Step::Clear => "clear",
        Step::Destroy => "destroy",
    }
}

/// How long a step may take. What takes longer is given up, and what became of it is looked at.
fn deadline(step: &Step) -> Duration {
    Duration::from_secs(match step {
        // Each of them opens, writes or sends what a guest may have written.
        Step::Serve { .. } | Step::Park | Step::Travel | Step::Close => 600,
        Step::Swap { .. } => SWAP_MAX.as_secs(),
        Step::Wake | Step::Clear | Step::Destroy | Step::CallOff => 120,
        Step::Note(_) | Step::Depart { .. } | Step::PassReady | Step::PassGo { .. } | Step::LetGo => 30,
    })
}

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// Takes a step. Whether the next one can be decided at once.
    pub(super) async fn take_step(&mut self, sliver: &SliverId, step: Step) -> bool {
        match step {
            Step::Note(journal) => self.write_down(sliver, journal).await,
            Step::Depart { to } => {
                self.depart(sliver, to).await;
                false
            }
            Step::LetGo => {
                if let Some(rights) = &mut self.rights {
                    rights.drop_session(sliver);
                    rights.fresh_from.insert(sliver.clone(), self.looks_begun + 1);
                }
                true
            }
            step => {
                self.begin_step(sliver, step);
                false
            }
        }
    }

    /// Says how long guests stood still that go on elsewhere by now, and has the next of a slice wait if that was too long.
    pub(super) async fn measure(&mut self) {
        let Some(rights) = &self.rights else { return };
        let still: Vec<_> = rights
            .still
            .iter()
            .map(|(sliver, since)| (sliver.clone(), *since))
            .collect();
        for (sliver, since) in still {
            let wanted = self.downtime_wanted(&sliver);
            let Some(rights) = &mut self.rights else { return };
            let Record::Is(holder) = rights.fleet.member.record(&sliver) else {
                continue;
            };
            let here = holder.is(&self.settings.node);
            if holder.memory.is_some() || (here && rights.is_on_its_way(&sliver)) {
                continue;
            }
            rights.still.remove(&sliver);
            if let Some(wanted_ms) = wanted.filter(|_| !here) {
                let text = rights.staged.measured(&sliver.slice, since.elapsed(), wanted_ms);
                let event = self.event(
                    EventKind::Moved,
                    Some(sliver.clone()),
                    format!("{sliver} goes on elsewhere: {text}"),
                );
                self.remember(vec![event], |_| Ok(())).await;
            }
        }
    }

    async fn write_down(&mut self, sliver: &SliverId, journal: Journal) -> bool {
        let of = sliver.clone();
        let written = self.remember(Vec::new(), move |w| w.tenure(&of, journal)).await;
        if written.is_some() {
            self.memory.tenure.insert(sliver.clone(), journal);
        } else if let Some(rights) = &mut self.rights {
            rights.pause(
                sliver,
                "the state of this node cannot be written".to_owned(),
                None,
            );
        }
        written.is_some()
    }

    /// What the sliver should be here: as it is wanted, or as it was made.
    fn made(&self, sliver: &SliverId) -> Option<DesiredSliver> {
        let desired = self
            .desired
            .as_ref()
            .and_then(|desired| desired.slivers.get(sliver));
        desired
            .or_else(|| self.memory.applied.get(sliver).map(|applied| &applied.desired))
            .cloned()
    }

    /// What the sliver was made here, where that is known; else what it should be.
    pub(super) fn was_made(&self, sliver: &SliverId) -> Option<DesiredSliver> {
        let applied = self
            .memory
            .applied
            .get(sliver)
            .map(|applied| applied.desired.clone());
        applied.or_else(|| self.made(sliver))
    }

    fn begin_step(&mut self, sliver: &SliverId, mut step: Step) {
        let (wanted, made) = (self.made(sliver), self.was_made(sliver));
        if let Step::Swap { to, act: Act::Claim } = &mut step {
            to.epoch = to.epoch.max(self.epoch_alone(sliver));
        }
        let failover = self.failover_of(sliver);
        let Some(rights) = &mut self.rights else { return };
        let Some(facets) = rights.facets.get(sliver).cloned() else {
            return;
        };
        let mut command = None;
        let mut migration = MigrationId::default();
        if let Some(open) = rights.sessions.get(sliver) {
            migration = open.migration;
            if let End::Leaving { commands, .. } = &open.end {
                command = Some(commands.clone());
            }
        }
        if matches!(step, Step::CallOff)
            && let Some(open) = rights.sessions.remove(sliver)
        {
            open.task.abort();
        }
        if let Step::PassGo { .. } = &step
            && let Some(open) = rights.sessions.get_mut(sliver)
            && let End::Leaving { stage, .. } = &mut open.end
        {
            *stage = Leaving::Passed;
        }
        let ports = Arc::clone(&self.ports);
        let member = Arc::clone(&rights.fleet.member);
        let of = sliver.clone();
        let taken = step.clone();
        rights.stepping.insert(sliver.clone(), step.clone());
        let deadline = deadline(&step);
        rights.steps.spawn(async move {
            let unknown = || Err("nobody knows any more what it was made of".to_owned());
            let (hypervisor, storage) = (&*ports.hypervisor, &*ports.storage);
            let doing = async {
                match &taken {
                    Step::Swap { to, act } => match member.swap(&of, to, *act).await {
                        Ok(Swapped::Done | Swapped::Refused) => Ok(()),
                        Err(error) => Err(error.to_string()),
                    },
                    Step::Serve { epoch } => match wanted {
                        Some(sliver) => {
                            let warrant = || member.warrant(&sliver.id);
                            let lent = failover.bound.then_some(&warrant as Warrant<'_>);
                            let disk = failover.disk(&facets);
                            plain(serve(storage, &sliver, *epoch, disk, lent).await)
                        }
                        None => unknown(),
                    },
                    Step::Park => plain(storage.park(&of).await),
                    Step::Close => plain(close(storage, &of).await),
                    Step::Travel => travel(command).await,
                    Step::PassGo { .. } => {
                        if let Some(command) = command {
                            // The other end finds out by itself otherwise.
                            let _ = command.send(Command::Go).await;
                        }
                        Ok(())
                    }
                    Step::CallOff => match facets.guest {
                        Guest::Copy { .. } => plain(hypervisor.destroy(&of).await),
                        Guest::Running | Guest::Kept { .. } => {
                            plain(hypervisor.call_off(&facets.embodiment).await)
                        }
                        Guest::Absent => Ok(()),
                    },
                    Step::Wake => match made {
                        Some(made) => {
                            let woken = hypervisor.wake(&facets.embodiment, &Tuning::of(&made)).await;
                            let console = hypervisor.console_log(&facets.embodiment);
                            ports.probers.ask(&made, boot_digest(&made), console);
                            plain(woken)
                        }
                        None => unknown(),
                    },
                    Step::Clear => match wanted {
                        Some(wanted) => {
                            let cleared = hypervisor.clear(&of, migration, &Tuning::of(&wanted)).await;
                            ports
                                .probers
                                .ask(&wanted, boot_digest(&wanted), hypervisor.console_log(&of));
                            plain(cleared)
                        }
                        None => unknown(),
                    },
                    Step::Destroy => plain(hypervisor.destroy(&facets.embodiment).await),
                    // Its hypervisor says that the copy is whole by itself.
                    Step::PassReady | Step::Note(_) | Step::Depart { .. } | Step::LetGo => Ok(()),
                }
            };
            let result: Result<(), String> = match timeout(deadline, doing).await {
                Ok(result) => result,
                Err(_) => Err(format!("it did not end within {} s", deadline.as_secs())),
            };
            let ended = Instant::now();
            if result.is_ok() {
                crash::after_move(word(&taken));
            }
            Stepped {
                sliver: of,
                step: taken,
                result,
                ended,
            }
        });
    }

    /// The epoch of a sliver that no board has heard of yet: what ran before there was one has an epoch of its own, which
    /// nothing may fall below. Zero for all others.
    fn epoch_alone(&self, sliver: &SliverId) -> Epoch {
        let record = self
            .rights
            .as_ref()
            .map(|rights| rights.fleet.member.record(sliver));
        if record != Some(Record::Absent) {
            return Epoch::default();
        }
        let applied = self.memory.applied.get(sliver).map(|applied| applied.epoch);
        let seen = self
            .observed
            .as_ref()
            .and_then(|seen| seen.storage_of(sliver).ok().flatten());
        let open = seen.and_then(|storage| storage.open);
        applied.max(open).unwrap_or_default()
    }

    /// A step has ended: what it made of the sliver is known.
    pub(super) async fn stepped(&mut self, stepped: Stepped) {
        let Stepped {
            sliver,
            step,
            result,
            ended,
        } = stepped;
        let me = self.settings.node.clone();
        let failover = self.failover_of(&sliver);
        let Some(rights) = &mut self.rights else { return };
        rights.stepping.remove(&sliver);
        rights.fresh_from.insert(sliver.clone(), self.looks_begun + 1);
        if let Err(why) = result {
            let text = format!("{sliver}: {} failed: {why}", step);
            tracing::warn!("{text}");
            if matches!(step, Step::Travel) {
                let open = rights.sessions.remove(&sliver);
                let said = rights.pauses.get(&sliver).is_some_and(|pause| pause.to.is_some());
                if let Some(open) = open {
                    // Its task ends, and says why.
                    open.task.abort();
                    rights.pause(&sliver, why, Some(open.peer));
                } else if !said {
                    rights.pause(&sliver, why, None);
                }
            } else {
                rights.pause(&sliver, why, None);
            }
            return;
        }
        rights.pauses.remove(&sliver);
        let facets = rights.facets.get_mut(&sliver);
        if let Some(facets) = facets {
            match &step {
                Step::Serve { epoch } => {
                    facets.disk = Disk::Serving { epoch: *epoch };
                    facets.lease = if failover.bound {
                        Leasing::Holds
                    } else {
                        Leasing::Free
                    };
                }
                Step::Park => {
                    if let Disk::Serving { epoch } | Disk::Lapsed { epoch } = facets.disk {
                        facets.disk = Disk::Parked { epoch };
                    }
                }
                Step::Close => facets.disk = Disk::Closed,
                Step::Wake | Step::Clear => facets.guest = Guest::Running,
                Step::Destroy => facets.guest = Guest::Absent,
                Step::CallOff => {
                    // Only looking tells what became of a guest whose move was called off.
                    rights.facets.remove(&sliver);
                }
                Step::Travel => {
                    if let Some(open) = rights.sessions.get_mut(&sliver)
                        && let End::Leaving { travelled, .. } = &mut open.end
                    {
                        *travelled = true;
                    }
                }
                Step::Swap { .. }
                | Step::Note(_)
                | Step::Depart { .. }
                | Step::PassReady
                | Step::PassGo { .. }
                | Step::LetGo => {}
            }
        }
        let told = match &step {
            Step::Swap {
                act: Act::HandOver,
                to,
            } => to.node.as_ref().map(|node| {
                let traffic = match rights.sessions.get(&sliver).map(|open| &open.end) {
                    Some(End::Leaving { traffic, .. }) => format!("; {traffic}"),
                    Some(End::Arriving { .. }) | None => String::new(),
                };
                format!("{sliver} has moved to {node}: the right to run it is there now{traffic}")
            }),
            Step::Wake => Some(format!("{sliver} goes on here")),
            Step::Clear => {
                let whole = match rights.sessions.get(&sliver).map(|open| &open.end) {
                    Some(End::Arriving { whole, .. }) => *whole,
                    Some(End::Leaving { .. }) | None => None,
                };
                // What the hypervisor needs to bring it here is over by then: the rest is ours.
                let ours = whole.map(|whole| {
                    let took = ended.saturating_duration_since(whole);
                    format!(", {} ms after its memory was whole", took.as_millis())
                });
                Some(format!(
                    "{sliver} has arrived, and goes on here{}",
                    ours.unwrap_or_default()
                ))
            }
            Step::Destroy => Some(format!("what was left of {sliver} on {me} has ended")),
            _ => None,
        };
        if let Some(text) = told {
            let event = self.event(EventKind::Moved, Some(sliver), text);
            self.remember(vec![event], |_| Ok(())).await;
        }
    }

    /// Begins to send a sliver to another node.
    async fn depart(&mut self, sliver: &SliverId, to: NodeName) {
        let frozen = self
            .freezes()
            .iter()
            .any(|freeze| freeze.holds(sliver, self.clock.now()));
        let made = self.was_made(sliver);
        let Some(rights) = &mut self.rights else { return };
        let Some(facets) = rights.facets.get(sliver).cloned() else {
            return;
        };
        let began = self.memory.tenure.get(sliver).and_then(|journal| journal.began);
        let why_not = if frozen {
            Some("reconciling it is frozen".to_owned())
        } else if facets.image {
            Some(
                "its memory is stored here and does not move; let it run, or stop it, and it goes".to_owned(),
            )
        } else {
            None
        };
        let migration = match why_not.map_or_else(random_id, Err) {
            Ok(id) => MigrationId(id),
            Err(why) => return rights.pause(sliver, why, Some(to)),
        };
        let policy = made.as_ref().map(|made| made.migration);
        let runs = facets.guest == Guest::Running;
        let at_home = facets.embodiment == *sliver;
        let departure = policy.zip(began).filter(|_| runs && at_home && facets.movable);
        let departure = departure.filter(|(policy, _)| policy.policy != MigrationPolicy::Restart);
        let departure = departure.map(|(policy, epoch)| Departure {
            migration,
            epoch,
            live: policy.policy == MigrationPolicy::Live,
            bandwidth: policy.bandwidth.map(|rate| rate.0),
            downtime_ms: Some(policy.downtime.0),
        });
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let teller = Teller {
            sliver: sliver.clone(),
            migration,
            to: rights.tell.clone(),
        };
        let traffic = Arc::<Traffic>::default();
        let going = Leave {
            sliver: sliver.clone(),
            embodiment: facets.embodiment.clone(),
            migration,
            to: to.clone(),
            departure,
            set_aside: facets.set_aside && !facets.on_disk,
            booted: facets.booted.filter(|_| runs),
            traffic: Arc::clone(&traffic),
        };
        let (ports, fleet) = (Arc::clone(&self.ports), Arc::clone(&rights.fleet));
        let task = tokio::spawn(async move {
            let why = leave(ports, fleet, going, teller.clone(), orders).await;
            teller.say(News::Ended { why });
        });
        let open = Open {
            migration,
            peer: to.clone(),
            task: task.abort_handle(),
            end: End::Leaving {
                boot: xeno_reconciler::tenure::BootId::default(),
                stage: Leaving::Streaming,
                travelled: false,
                commands,
                traffic,
            },
        };
        rights.sessions.insert(sliver.clone(), open);
        let text = format!("{sliver} is to go to {to}");
        let event = self.event(EventKind::Moved, Some(sliver.clone()), text);
        self.remember(vec![event], |_| Ok(())).await;
    }

    /// Another agent calls.
    pub(super) async fn called(&mut self, call: Call) {
        match call.what {
            What::Offer { memory, booted } => {
                self.offered(
                    call.from,
                    call.sliver,
                    call.migration,
                    (memory, booted),
                    call.wire,
                )
                .await;
            }
            What::Memory => self.stream(
                &call.from,
                &call.sliver,
                call.migration,
                Stream::Memory(call.wire),
            ),
            What::Layers => self.stream(
                &call.from,
                &call.sliver,
                call.migration,
                Stream::Layers(call.wire),
            ),
        }
    }

    fn stream(&mut self, from: &NodeName, sliver: &SliverId, migration: MigrationId, stream: Stream) {
        let Some(rights) = &mut self.rights else { return };
        let open = rights.sessions.get_mut(sliver);
        let open = open.filter(|open| open.migration == migration && open.peer == *from);
        if let Some(End::Arriving { comes, streams, .. }) = open.map(|open| &mut open.end) {
            *comes |= matches!(stream, Stream::Memory(_));
            // One that nobody takes is closed, which says as much.
            let _ = streams.try_send(stream);
        }
    }

    async fn offered(
        &mut self,
        from: NodeName,
        sliver: SliverId,
        migration: MigrationId,
        (memory, booted): (bool, Option<String>),
        mut wire: Wire,
    ) {
        let taken = self.takes(&from, &sliver, (memory, booted.as_deref())).await;
        let taking = match taken {
            Ok(taken) => taken,
            Err(why) => {
                tokio::spawn(async move { say(&mut wire, &Reply::Refused { why }).await });
                return;
            }
        };
        if !self.expect(&sliver).await {
            let why = "the state of this node cannot be written".to_owned();
            tokio::spawn(async move { say(&mut wire, &Reply::Refused { why }).await });
            return;
        }
        let (Some(rights), Some(desired)) = (&mut self.rights, &self.desired) else {
            return;
        };
        let (streams, incoming) = mpsc::channel(COMMANDS_MAX);
        let teller = Teller {
            sliver: sliver.clone(),
            migration,
            to: rights.tell.clone(),
        };
        let coming = Arrive {
            sliver: sliver.clone(),
            migration,
            memory: taking.memory,
            boot: rights.boot,
            desired: Arc::clone(desired),
            leftovers: taking.leftovers,
        };
        let ports = Arc::clone(&self.ports);
        let task = tokio::spawn(async move {
            let why = arrive(ports, coming, wire, teller.clone(), incoming).await;
            teller.say(News::Ended { why });
        });
        let open = Open {
            migration,
            peer: from.clone(),
            task: task.abort_handle(),
            end: End::Arriving {
                comes: false,
                whole: None,
                alone: false,
                streams,
            },
        };
        rights.sessions.insert(sliver.clone(), open);
        let text = format!("{sliver} is about to come from {from}");
        let event = self.event(EventKind::Moved, Some(sliver), text);
        self.remember(vec![event], |_| Ok(())).await;
    }

    /// Writes down what a sliver that comes is made of, before anything of it is here: if it goes on to a third node before it was
    /// seen whole here, or never arrives, what is left of it can be told. Whether it is written.
    async fn expect(&mut self, sliver: &SliverId) -> bool {
        let wanted = self
            .desired
            .as_ref()
            .and_then(|desired| desired.slivers.get(sliver));
        let Some(wanted) = wanted.filter(|_| !self.memory.applied.contains_key(sliver)) else {
            return true;
        };
        let begun = AppliedSliver {
            desired: wanted.clone(),
            epoch: Epoch(1),
            complete: false,
            at: self.clock.now(),
        };
        let known = begun.clone();
        let written = self
            .remember(Vec::new(), move |w| w.apply(&begun))
            .await
            .is_some();
        if written {
            self.memory.applied.insert(sliver.clone(), known);
        }
        written
    }

    /// Whether a sliver that is offered can be taken: with its memory or not, and whether old layers have to go first.
    async fn takes(
        &mut self,
        from: &NodeName,
        sliver: &SliverId,
        (memory, booted): (bool, Option<&str>),
    ) -> Result<Taking, String> {
        let me = &self.settings.node;
        let rights = self.rights.as_ref().ok_or("it is no member of a fleet")?;
        if rights.is_on_its_way(sliver) || rights.stepping.contains_key(sliver) {
            return Err(format!("{me} is busy with {sliver}"));
        }
        let host = Host {
            me,
            desired: self.desired.as_deref(),
            observed: self.observed.as_ref(),
        };
        let offer = Offer {
            memory,
            booted: booted.map(digest).transpose()?,
        };
        let coming = |of: &SliverId| rights.is_on_its_way(of) || rights.fleet.member.record(of).is_with(me);
        let waits = self.waits_for_rollout(sliver);
        let taking = host.takes(sliver, offer, rights.facets.get(sliver), coming, waits.as_deref())?;
        // Whoever receives a sliver reads the record before it agrees to: it would judge its copy by another time's else.
        let member = Arc::clone(&rights.fleet.member);
        let read = timeout(SWAP_MAX, member.read(sliver)).await;
        let record = read.map_err(|_| "the board does not answer".to_owned())?;
        match record.map_err(|error| error.to_string())? {
            Record::Is(holder) if holder.is(from) => Ok(taking),
            Record::Is(_) | Record::Absent | Record::Unknown => {
                Err(format!("{from} has not the right to run {sliver}"))
            }
        }
    }

    /// Whether layers of a sliver are left that another node goes on with.
    pub(super) fn is_left_over(&self, rights: &Rights, sliver: &SliverId) -> bool {
        let gone = place(self.desired.as_deref(), sliver) != Place::Here;
        let Some(facets) = rights.facets.get(sliver) else {
            return false;
        };
        let settled = match rights.fleet.member.record(sliver) {
            Record::Is(holder) => holder.memory.is_none(),
            Record::Absent | Record::Unknown => false,
        };
        let known = self.memory.applied.contains_key(sliver);
        gone && settled && known && facets.guest == Guest::Absent && facets.disk == Disk::Closed
    }

    /// Forgets a sliver that goes on elsewhere, and deletes its layers on this node's own disk. Of those that lie elsewhere only
    /// the links here go: whoever has the right goes on with what they lead to.
    pub(super) async fn clear_away(&mut self, sliver: &SliverId) {
        let on_disk = self
            .rights
            .as_ref()
            .and_then(|rights| rights.facets.get(sliver))
            .is_some_and(|facets| facets.on_disk || facets.set_aside);
        if on_disk {
            let storage = Arc::clone(&self.ports.storage);
            let of = sliver.clone();
            let Some(rights) = &mut self.rights else { return };
            rights.stepping.insert(sliver.clone(), Step::Close);
            rights.steps.spawn(async move {
                let cleared = async {
                    storage.tombstone(&of).await?;
                    storage.purge(&of).await
                };
                let result = match timeout(deadline(&Step::Close), cleared).await {
                    Ok(cleared) => plain(cleared),
                    Err(_) => Err("its layers were not deleted in time".to_owned()),
                };
                Stepped {
                    sliver: of,
                    step: Step::Close,
                    result,
                    ended: Instant::now(),
                }
            });
            if let Some(facets) = rights.facets.get_mut(sliver) {
                facets.on_disk = false;
                facets.set_aside = false;
            }
            return;
        }
        let of = sliver.clone();
        let text = format!("{sliver} is forgotten here: it goes on elsewhere");
        let event = self.event(EventKind::Moved, Some(sliver.clone()), text);
        let forgotten = self.remember(vec![event], move |w| {
            w.forget(&of)?;
            w.leave_rollouts(&of)
        });
        if forgotten.await.is_some() {
            self.memory.applied.remove(sliver);
            self.memory.stands.remove(sliver);
        }
    }
}

fn plain(result: PortResult<()>) -> Result<(), String> {
    result.map_err(|error| error.what)
}

/// Sends the rest of the layers by the move's own task.
async fn travel(command: Option<mpsc::Sender<Command>>) -> Result<(), String> {
    let ended = || "the move has ended".to_owned();
    let (reply, sent) = oneshot::channel();
    let command = command.ok_or_else(ended)?;
    command.send(Command::Travel(reply)).await.map_err(|_| ended())?;
    sent.await.map_err(|_| ended())?.map(|_| ())
}
