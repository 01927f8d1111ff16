//! What becomes of the world when something happens in it.

use super::world::{Broken, Change, Move, N, World, boot_id, migration, name};
use super::{Disk, Epoch, Guest, Leaving, Record};

impl World {
    /// A change arrives at the board; says whether it was made.
    pub(super) fn change(&mut self, change: &Change, broken: Broken) -> bool {
        let unleased = change.unleased.is_none_or(|n| !self.leases[n]);
        if (change.read != self.version && broken != Broken::CompareAndSwap) || !unleased {
            return false;
        }
        self.record = Some(change.to.clone());
        self.version += 1;
        true
    }

    /// The agent of a node reads the record.
    pub(super) fn read(&mut self, n: N) {
        let record = self.record.clone().map_or(Record::Absent, Record::Is);
        let version = self.version;
        if let Some(agent) = &mut self.nodes[n].agent {
            agent.record = record;
            agent.version = Some(version);
        }
    }

    /// The agent does not know what the record is.
    pub(super) fn forget(&mut self, n: N) {
        if let Some(agent) = &mut self.nodes[n].agent {
            agent.record = Record::Unknown;
            agent.version = None;
        }
    }

    pub(super) fn lapse(&mut self, n: N, broken: Broken) {
        if !self.failover() {
            return;
        }
        let node = &mut self.nodes[n];
        node.leased = false;
        if let (Disk::Serving { epoch }, true) = (node.disk, node.bound && broken != Broken::LeaseCheck) {
            node.disk = Disk::Lapsed { epoch };
        }
        if let Some(agent) = &mut node.agent {
            agent.stale = true;
        }
    }

    pub(super) fn depart(&mut self, from: N, to: N) {
        let there = &self.nodes[to];
        // Whoever is to receive reads the record first, and has nothing of the sliver.
        let holds = self
            .record
            .as_ref()
            .is_some_and(|holder| holder.is(&name(from)) && holder.memory.is_none());
        let ready = there.agent.as_ref().is_some_and(|agent| agent.stopped.is_none());
        if !ready || !holds || there.life.guest != Guest::Absent || self.travel.is_some() {
            return;
        }
        self.read(to);
        let stage = match self.nodes[from].life.guest {
            Guest::Running if self.left.moves > 0 => Leaving::Streaming,
            Guest::Absent => Leaving::Given,
            Guest::Running | Guest::Kept { .. } | Guest::Copy { .. } => return,
        };
        if stage == Leaving::Streaming {
            self.left.moves -= 1;
            self.moves += 1;
        }
        self.travel = Some(Move {
            id: self.moves,
            from,
            to,
            link: true,
            source: Some((stage, false, false)),
            target: Some(false),
            go: None,
        });
    }

    pub(super) fn stage(&mut self, n: N, at: Leaving, then: Leaving) {
        let travel = self.travel.as_mut().filter(|travel| travel.from == n);
        if let Some((stage, ..)) = travel.and_then(|travel| travel.source.as_mut())
            && *stage == at
        {
            *stage = then;
        }
    }

    pub(super) fn cut(&mut self) {
        if let Some(travel) = &mut self.travel {
            travel.link = false;
            travel.go = None;
        }
    }

    /// One end of the migration ends its part.
    pub(super) fn end(&mut self, n: N, wakes: bool) {
        self.lose(n, wakes);
        self.cut();
    }

    /// One end of the migration is gone: what it leaves.
    pub(super) fn lose(&mut self, n: N, wakes: bool) {
        let Some(travel) = &mut self.travel else { return };
        let life = &mut self.nodes[n].life;
        if travel.from == n {
            if let Some((stage, ..)) = travel.source.take() {
                let may = match stage {
                    Leaving::Streaming | Leaving::Held => true,
                    // Called off by its agent, before anything was offered.
                    Leaving::Asked | Leaving::Given | Leaving::Passed => travel.link,
                };
                if wakes && may && matches!(life.guest, Guest::Kept { .. }) {
                    life.guest = Guest::Running;
                }
            }
        } else if travel.target.take().is_some() && wakes && matches!(life.guest, Guest::Copy { .. }) {
            life.guest = Guest::Absent;
        }
        if travel.source.is_none() && travel.target.is_none() {
            self.travel = None;
        }
    }

    pub(super) fn kill_agent(&mut self, n: N, wakes: bool, broken: Broken) {
        let journal = &mut self.nodes[n].journal;
        match broken {
            Broken::Offered => journal.offered = None,
            Broken::Began => journal.began = None,
            _ => {}
        }
        self.nodes[n].agent = None;
        if let Some(travel) = &self.travel
            && (travel.from == n || travel.to == n)
        {
            self.cut();
            self.lose(n, wakes);
        }
    }

    pub(super) fn early_go(&mut self, from: N) {
        let record = self.record.clone();
        let Some(travel) = &mut self.travel else { return };
        if let Some(holder) = record {
            travel.go = Some(super::Holder {
                node: Some(name(travel.to)),
                boot: boot_id(self.nodes[travel.to].boot),
                epoch: Epoch(holder.epoch.0 + 1),
                memory: Some(super::Memory {
                    migration: migration(travel.id),
                    epoch: holder.epoch,
                    keeper: name(from),
                }),
                failover: holder.failover,
            });
        }
    }
}
