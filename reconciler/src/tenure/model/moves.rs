//! What can happen: each way from one state to the next.

use super::world::{Agent, Broken, Change, Life, N, Storage, World, migration, name, number};
use super::{Act, Disk, Epoch, Guest, Leaving, Next, Record, Step, Why};

/// One thing that happened.
pub(super) struct Happened {
    /// In a word or two, and where.
    pub(super) what: String,
    /// What is then.
    pub(super) then: World,
    /// Whether it needs no bad luck and nobody's will: such things happen in the end.
    pub(super) fair: bool,
}

/// All that can happen in a state.
pub(super) fn all(world: &World, broken: Broken) -> Vec<Happened> {
    let mut list = List {
        world,
        broken,
        list: Vec::new(),
    };
    for n in 0..2 {
        list.agent(n);
        list.guest(n);
        list.lease(n);
        list.deaths(n);
    }
    list.board();
    list.travel();
    list.people();
    list.list
}

struct List<'a> {
    world: &'a World,
    broken: Broken,
    list: Vec<Happened>,
}

impl List<'_> {
    fn fair(&mut self, what: impl Into<String>, change: impl FnOnce(&mut World)) {
        self.push(what.into(), true, change);
    }

    fn unfair(&mut self, what: impl Into<String>, change: impl FnOnce(&mut World)) {
        self.push(what.into(), false, change);
    }

    fn push(&mut self, what: String, fair: bool, change: impl FnOnce(&mut World)) {
        let mut then = self.world.clone();
        change(&mut then);
        if then != *self.world {
            self.list.push(Happened { what, then, fair });
        }
    }

    /// The agent of a node reads the record, decides and does, or goes on with what it had decided.
    fn agent(&mut self, n: N) {
        let Some(agent) = &self.world.nodes[n].agent else {
            if self.world.nodes[n].up {
                self.fair(format!("{}: agent starts", name(n)), |world| {
                    world.nodes[n].agent = Some(Agent {
                        record: Record::Unknown,
                        version: None,
                        stopped: None,
                        stale: false,
                    });
                });
            } else {
                self.fair(format!("{}: power is back", name(n)), |world| {
                    world.nodes[n].up = true
                });
            }
            return;
        };
        if let Some(step) = agent.stopped.clone() {
            self.step(n, &step, "goes on: ", true);
            return;
        }
        self.fair(format!("{}: reads the record", name(n)), |world| {
            world.read(n);
        });
        match self.world.look(n) {
            Some(Next::Do(step)) => {
                if self.world.left.pauses > 0 {
                    self.unfair(format!("{}: decides {step:?} and stops", name(n)), |world| {
                        world.left.pauses -= 1;
                        if let Some(agent) = &mut world.nodes[n].agent {
                            agent.stopped = Some(step.clone());
                            agent.stale = false;
                        }
                    });
                }
                self.step(n, &step, "", false);
            }
            Some(Next::Run { .. }) => self.fair(format!("{}: boots", name(n)), |world| {
                let seen = world.now(n);
                world.nodes[n].life = Life {
                    guest: Guest::Running,
                    seen,
                };
            }),
            // The planner's: what nobody may take over any more is answered without a lease.
            Some(Next::Wait(Why::Settled)) if self.world.nodes[n].bound && !self.world.binds(n) => {
                self.fair(format!("{}: needs no lease any more", name(n)), |world| {
                    let node = &mut world.nodes[n];
                    node.bound = false;
                    if let Disk::Lapsed { epoch } = node.disk {
                        node.disk = Disk::Serving { epoch };
                    }
                });
            }
            Some(Next::Wait(_)) | None => {}
        }
    }

    /// A step is carried out; `again` where it was decided earlier.
    #[expect(clippy::too_many_lines, reason = "one arm for each step")]
    fn step(&mut self, n: N, step: &Step, how: &str, again: bool) {
        let what = format!("{}: {how}{step:?}", name(n));
        let done = |world: &mut World| {
            if let Some(agent) = &mut world.nodes[n].agent {
                agent.stopped = None;
            }
        };
        let stale = again
            && self.world.nodes[n]
                .agent
                .as_ref()
                .is_some_and(|agent| agent.stale);
        let broken = self.broken;
        match step {
            Step::Swap { to, act } => {
                let Some(version) = self.world.nodes[n].agent.as_ref().and_then(|agent| agent.version) else {
                    // It has to read first.
                    return self.fair(what, done);
                };
                let change = Change {
                    read: version,
                    to: to.clone(),
                    unleased: (*act == Act::TakeOver).then_some(1 - n),
                };
                if self.world.left.late > 0 {
                    let change = change.clone();
                    self.unfair(format!("{what}, and no answer"), |world| {
                        done(world);
                        world.left.late -= 1;
                        world.late.push(change);
                        world.late.sort();
                        world.forget(n);
                    });
                }
                self.fair(what, |world| {
                    done(world);
                    let took = world.change(&change, broken);
                    let version = world.version;
                    if let Some(agent) = &mut world.nodes[n].agent {
                        agent.record = if took {
                            Record::Is(change.to)
                        } else {
                            Record::Unknown
                        };
                        agent.version = took.then_some(version);
                    }
                });
            }
            Step::Note(journal) => self.fair(what, |world| {
                done(world);
                world.nodes[n].journal = *journal;
            }),
            Step::Serve { epoch } => self.fair(what, |world| {
                done(world);
                if world.nodes[n].appending.is_some() {
                    return;
                }
                let layer = world.layer(n);
                if *epoch < layer.top && broken != Broken::EpochCheck {
                    return;
                }
                layer.top = layer.top.max(*epoch);
                let found = layer.version;
                if std::mem::take(&mut world.forgiven) {
                    world.truth = found;
                }
                world.nodes[n].bound = world.binds(n);
                world.nodes[n].disk = if stale {
                    Disk::Lapsed { epoch: *epoch }
                } else {
                    Disk::Serving { epoch: *epoch }
                };
            }),
            Step::Park => self.fair(what, |world| {
                done(world);
                if let (Disk::Serving { epoch } | Disk::Lapsed { epoch }, true) = (
                    world.nodes[n].disk,
                    world.nodes[n].appending.is_none() || broken == Broken::Park,
                ) {
                    world.nodes[n].disk = Disk::Parked { epoch };
                }
            }),
            Step::Close => self.fair(what, |world| {
                done(world);
                if world.nodes[n].appending.is_none() {
                    world.nodes[n].disk = Disk::Closed;
                }
            }),
            Step::Travel => self.fair(what, |world| {
                done(world);
                let layer = world.layers[n];
                let there = 1 - n;
                let up = world.nodes[there].up;
                if let Some(travel) = world
                    .travel
                    .as_mut()
                    .filter(|travel| travel.from == n && travel.link && up)
                    && let Some((_, travelled, _)) = &mut travel.source
                {
                    *travelled = true;
                    world.layers[there] = layer;
                }
            }),
            Step::Depart { to } => self.fair(what, |world| {
                done(world);
                world.depart(n, number(to));
            }),
            Step::PassReady => self.fair(what, |world| {
                done(world);
                world.stage(n, Leaving::Held, Leaving::Asked);
            }),
            Step::PassGo { holder } => self.fair(what, |world| {
                done(world);
                if let Some(travel) = world
                    .travel
                    .as_mut()
                    .filter(|travel| travel.from == n && travel.source.is_some())
                {
                    travel.go = Some(holder.clone());
                }
                world.stage(n, Leaving::Given, Leaving::Passed);
            }),
            Step::CallOff => {
                self.fair(format!("{what}, and it wakes"), |world| {
                    done(world);
                    world.end(n, true);
                });
                self.fair(what, |world| {
                    done(world);
                    world.end(n, false);
                });
            }
            Step::LetGo => self.fair(what, |world| {
                done(world);
                world.end(n, false);
            }),
            Step::Wake => self.fair(what, |world| {
                done(world);
                let node = &mut world.nodes[n];
                if matches!(node.life.guest, Guest::Kept { .. }) {
                    node.life.guest = Guest::Running;
                }
                if world.travel.as_ref().is_some_and(|travel| travel.from == n) {
                    world.end(n, false);
                }
            }),
            Step::Clear => {
                let live = self
                    .world
                    .travel
                    .as_ref()
                    .is_some_and(|travel| travel.to == n && travel.target == Some(true));
                if self.world.left.faults > 0 && live {
                    self.unfair(format!("{what}, and the copy does not run"), |world| {
                        done(world);
                        world.left.faults -= 1;
                        world.nodes[n].life.guest = Guest::Absent;
                        world.end(n, false);
                    });
                }
                self.fair(what, |world| {
                    done(world);
                    if live && matches!(world.nodes[n].life.guest, Guest::Copy { .. }) {
                        world.nodes[n].life.guest = Guest::Running;
                    }
                });
            }
            Step::Destroy => self.fair(what, |world| {
                done(world);
                world.nodes[n].life.guest = Guest::Absent;
            }),
        }
    }

    /// The guest writes.
    fn guest(&mut self, n: N) {
        let broken = self.broken;
        let node = &self.world.nodes[n];
        let Some(epoch) = node.appending else {
            if self.world.left.writes > 0
                && self.world.works(n, broken)
                && let Disk::Serving { epoch } = node.disk
            {
                self.unfair(format!("{}: the guest writes", name(n)), |world| {
                    world.left.writes -= 1;
                    world.nodes[n].appending = Some(epoch);
                    // Its memory knows of the call, answered or not.
                    world.nodes[n].life.seen += 1;
                });
            }
            return;
        };
        self.fair(format!("{}: its write is appended", name(n)), |world| {
            world.nodes[n].appending = None;
            let newest = world.layer(n).top == epoch;
            if newest || broken == Broken::Seal {
                world.layer(n).version += 1;
            }
            // It looks once more before it answers. A call that was being carried out when calls were to wait is answered: parking
            // waits for it.
            if newest || broken == Broken::EpochCheck {
                world.truth += 1;
            } else {
                world.nodes[n].disk = Disk::Closed;
            }
        });
    }

    /// Leases of holders that may be replaced.
    fn lease(&mut self, n: N) {
        if !self.world.failover() {
            return;
        }
        let broken = self.broken;
        let node = &self.world.nodes[n];
        if node.leased && self.world.left.leases > 0 {
            self.unfair(format!("{}: its lease runs out", name(n)), |world| {
                world.left.leases -= 1;
                world.lapse(n, broken);
            });
        }
        if !node.leased && self.world.leases[n] {
            self.fair(
                format!("{}: its lease is gone from the board", name(n)),
                |world| world.leases[n] = false,
            );
        }
        if !node.leased && node.agent.is_some() {
            self.fair(format!("{}: gets a lease", name(n)), |world| {
                world.nodes[n].leased = true;
                world.leases[n] = true;
                match world.nodes[n].disk {
                    Disk::Lapsed { epoch } if broken == Broken::Relapse => {
                        world.nodes[n].disk = Disk::Serving { epoch };
                    }
                    _ => world.forget(n),
                }
            });
        }
    }

    /// What dies.
    fn deaths(&mut self, n: N) {
        let (node, broken) = (&self.world.nodes[n], self.broken);
        if self.world.left.faults == 0 {
            return;
        }
        if node.agent.is_some() {
            for wakes in [true, false] {
                self.unfair(
                    format!(
                        "{}: agent dies{}",
                        name(n),
                        if wakes { ", a guest wakes" } else { "" }
                    ),
                    |world| {
                        world.left.faults -= 1;
                        world.kill_agent(n, wakes, broken);
                    },
                );
            }
        }
        if node.up {
            self.unfair(format!("{}: power fails", name(n)), |world| {
                world.left.faults -= 1;
                world.kill_agent(n, false, broken);
                world.lapse(n, broken);
                let node = &mut world.nodes[n];
                node.up = false;
                node.boot += 1;
                node.life.guest = Guest::Absent;
                node.disk = Disk::Closed;
                node.appending = None;
            });
        }
        if node.life.guest == Guest::Running {
            self.unfair(format!("{}: the guest dies", name(n)), |world| {
                world.left.faults -= 1;
                world.nodes[n].life.guest = Guest::Absent;
            });
        }
        if node.disk != Disk::Closed && node.appending.is_none() {
            self.unfair(format!("{}: the file server dies", name(n)), |world| {
                world.left.faults -= 1;
                world.nodes[n].disk = Disk::Closed;
            });
        }
    }

    /// Changes that are under way arrive, or do not.
    fn board(&mut self) {
        for (at, change) in self.world.late.iter().enumerate() {
            let broken = self.broken;
            self.fair(format!("a late change arrives: {:?}", change.to), |world| {
                let change = world.late.remove(at);
                world.change(&change, broken);
            });
            self.fair("a late change is lost", |world| {
                world.late.remove(at);
            });
        }
    }

    /// What the hypervisors and the link do about a migration.
    fn travel(&mut self) {
        let Some(travel) = &self.world.travel else { return };
        let (from, to, id, broken) = (travel.from, travel.to, travel.id, self.broken);
        if !travel.link {
            // Each end notices by itself, in its own time.
            if travel.source.is_some() {
                for wakes in [true, false] {
                    self.fair(format!("{}: the link is lost", name(from)), |world| {
                        world.lose(from, wakes)
                    });
                }
            }
            if travel.target.is_some() {
                self.fair(
                    format!("{}: the link is lost, its copy goes", name(to)),
                    |world| world.lose(to, true),
                );
                self.fair(
                    format!("{}: the link is lost, its copy stays", name(to)),
                    |world| world.lose(to, false),
                );
            }
            if travel.source.is_none() && travel.target.is_none() {
                self.fair("the migration is over", |world| world.travel = None);
            }
            return;
        }
        if self.world.left.faults > 0 {
            self.unfair("the link is cut", |world| {
                world.left.faults -= 1;
                world.cut();
            });
        }
        match travel.source {
            Some((Leaving::Streaming, ..)) if self.world.nodes[from].life.guest == Guest::Running => {
                self.fair(
                    format!("{}: the copy is whole, and the guest stands still", name(to)),
                    |world| {
                        let epoch = world.nodes[from].journal.began.unwrap_or_default();
                        let life = &mut world.nodes[from].life;
                        life.guest = Guest::Kept { epoch };
                        let seen = life.seen;
                        world.nodes[to].life = Life {
                            guest: Guest::Copy {
                                migration: migration(id),
                            },
                            seen,
                        };
                        world.stage(from, Leaving::Streaming, Leaving::Held);
                        if let Some(travel) = &mut world.travel {
                            travel.target = Some(true);
                        }
                    },
                );
            }
            // Whatever it was, it is not there to be sent any more.
            Some((Leaving::Streaming | Leaving::Held, ..))
                if matches!(self.world.nodes[from].life.guest, Guest::Absent) =>
            {
                self.fair(format!("{}: nothing to send", name(from)), World::cut);
            }
            Some((Leaving::Asked, ..)) => {
                self.fair(format!("{}: the hypervisor says GO", name(from)), |world| {
                    world.stage(from, Leaving::Asked, Leaving::Given);
                    if broken == Broken::EarlyGo {
                        world.early_go(from);
                    }
                })
            }
            Some((Leaving::Passed, ..)) if self.world.nodes[to].life.guest == Guest::Running => {
                self.fair(format!("{}: hears that the copy runs", name(from)), |world| {
                    if matches!(world.nodes[from].life.guest, Guest::Kept { .. }) {
                        world.nodes[from].life.guest = Guest::Absent;
                    }
                    world.cut();
                });
            }
            _ => {}
        }
        if let Some(holder) = &travel.go {
            self.fair(format!("{}: GO arrives", name(to)), |world| {
                if let Some(agent) = &mut world.nodes[to].agent {
                    let newer = match &agent.record {
                        Record::Is(known) => known.epoch < holder.epoch,
                        Record::Unknown | Record::Absent => true,
                    };
                    if newer {
                        agent.record = Record::Is(holder.clone());
                        agent.version = None;
                    }
                }
            });
        }
    }

    /// Intent, patience, and words of honour.
    fn people(&mut self) {
        if self.world.left.places > 0 {
            self.unfair("intent: the other node", |world| {
                world.left.places -= 1;
                world.place = 1 - world.place;
            });
        }
        for n in 0..2 {
            if self.world.left.flips > 0 {
                self.unfair(format!("{}: reads another commit", name(n)), |world| {
                    world.left.flips -= 1;
                    world.nodes[n].wants = !world.nodes[n].wants;
                });
            }
        }
        if self.world.left.calls > 0
            && self
                .world
                .travel
                .as_ref()
                .is_some_and(|travel| travel.source.is_some())
        {
            self.unfair("a person calls it off", |world| {
                world.left.calls -= 1;
                if let Some((_, _, called_off)) =
                    world.travel.as_mut().and_then(|travel| travel.source.as_mut())
                {
                    *called_off = true;
                }
            });
        }
        let Some(holder) = &self.world.record else { return };
        let Some(n) = holder.node.as_ref().map(number) else {
            return;
        };
        // The fence is confirmed and has cut nothing that this model knows of: the lease alone must do.
        if self.world.failover()
            && !self.world.leases[n]
            && self.world.fences[n].is_none_or(|at| at < self.world.version)
        {
            self.fair(format!("a fence of {} is confirmed", name(n)), |world| {
                world.fences[n] = Some(world.version)
            });
        }
        if self.world.left.abandons > 0 {
            let local = self.world.storage == Storage::Local;
            if !local || !self.world.nodes[n].up {
                self.unfair(format!("a person declares {} lost", name(n)), |world| {
                    world.left.abandons -= 1;
                    if local {
                        // Rightly so: its disk comes never back, and what was on it is lost with the person's consent.
                        world.nodes[n].journal = super::Journal::default();
                        world.layers[n] = super::world::Layer {
                            version: 0,
                            top: Epoch(0),
                        };
                        world.forgiven = true;
                    }
                    world.record = world
                        .record
                        .as_ref()
                        .map(|holder| super::abandoned(holder, local));
                    world.version += 1;
                });
            }
        }
    }
}
