//! What there is: two nodes, a board, storage and a link, as small as can be.

use super::{
    BootId, Disk, Epoch, Guest, Holder, Journal, Leaving, MigrationId, NodeName, Place, Record, Rival,
    Session, Step, View,
};

/// A node, by number.
pub(super) type N = usize;

/// Where the writable layers lie, and what is allowed to happen to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Storage {
    /// On the node's own disk: they travel.
    Local,
    /// On storage that both nodes reach.
    Shared,
    /// The same, and one node may replace the other.
    Failover,
}

/// How often things may go wrong, or change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    /// Agents, file servers, machines, guests and links that die.
    pub(super) faults: u8,
    /// Agents that stop between deciding and doing.
    pub(super) pauses: u8,
    /// Changes of the record whose answer is lost and that arrive at any later time, or never.
    pub(super) late: u8,
    /// Times that intent changes the sliver's place.
    pub(super) places: u8,
    /// Attempts to move it.
    pub(super) moves: u8,
    /// Writes of the guest.
    pub(super) writes: u8,
    /// Leases that run out.
    pub(super) leases: u8,
    /// Moves that a person calls off.
    pub(super) calls: u8,
    /// Times that a node reads a commit that changes whether others may take over.
    pub(super) flips: u8,
    /// Times that a person declares the right abandoned, rightly (local: the node's disk is gone) or wrongly (shared).
    pub(super) abandons: u8,
}

/// Rules that can be broken, to see that it is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Broken {
    #[default]
    Nothing,
    /// The file server does not ask whether a later epoch has been opened, neither before it appends nor before it answers.
    EpochCheck,
    /// The board changes a record whatever it was.
    CompareAndSwap,
    /// What an earlier epoch appends after a later one was opened counts.
    Seal,
    /// The file server answers whether its lease lasts or not.
    LeaseCheck,
    /// GO is relayed as soon as the hypervisor has said it, before the record has changed.
    EarlyGo,
    /// The file server says that it has parked, and goes on.
    Park,
    /// That something was offered is forgotten when the agent dies.
    Offered,
    /// That something began is forgotten when the agent dies.
    Began,
    /// A lease that ran out does not stop a file server that gets another one.
    Relapse,
}

/// What is left of a guest, and how much of the disk it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Life {
    pub(super) guest: Guest,
    pub(super) seen: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Agent {
    pub(super) record: Record,
    /// Which version of the record it has read; `None` where it was told of it.
    pub(super) version: Option<u8>,
    /// What it has decided and not done.
    pub(super) stopped: Option<Step>,
    /// Whether what it decided rests on a lease that has ended.
    pub(super) stale: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) up: bool,
    pub(super) boot: u8,
    pub(super) agent: Option<Agent>,
    pub(super) journal: Journal,
    pub(super) life: Life,
    pub(super) disk: Disk,
    /// Whether its file server answers only under the lease.
    pub(super) bound: bool,
    /// Whether others are to be able to take over, as the commit says that it has read.
    pub(super) wants: bool,
    /// A call of the guest that has passed all checks and is not carried out.
    pub(super) appending: Option<Epoch>,
    pub(super) leased: bool,
}

/// The log of a writable layer: how many writes count, and the newest epoch it was opened under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Layer {
    pub(super) version: u8,
    pub(super) top: Epoch,
}

/// A migration under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Move {
    pub(super) id: u8,
    pub(super) from: N,
    pub(super) to: N,
    pub(super) link: bool,
    /// How far the source is, whether the layers have travelled, and whether it was called off.
    pub(super) source: Option<(Leaving, bool, bool)>,
    /// Whether the copy is whole.
    pub(super) target: Option<bool>,
    /// GO under way. It may arrive any number of times.
    pub(super) go: Option<Holder>,
}

/// A change of the record that was sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Change {
    pub(super) read: u8,
    pub(super) to: Holder,
    /// The node whose lease must be absent.
    pub(super) unleased: Option<N>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) storage: Storage,
    pub(super) nodes: [Node; 2],
    pub(super) place: N,
    pub(super) record: Option<Holder>,
    pub(super) version: u8,
    /// Changes that are under way to the board.
    pub(super) late: Vec<Change>,
    /// Whether each node's lease is on the board.
    pub(super) leases: [bool; 2],
    /// At which version of the record a fence of each node was confirmed.
    pub(super) fences: [Option<u8>; 2],
    /// One where shared, else each node's own.
    pub(super) layers: [Layer; 2],
    /// Writes that were acknowledged.
    pub(super) truth: u8,
    /// A person has given up what was acknowledged, for what the next holder finds.
    pub(super) forgiven: bool,
    pub(super) travel: Option<Move>,
    pub(super) moves: u8,
    pub(super) left: Budget,
}

pub(super) fn name(n: N) -> NodeName {
    NodeName::new(["a", "b"][n]).expect("a name")
}

pub(super) fn number(name: &NodeName) -> N {
    usize::from(name.as_str() == "b")
}

pub(super) fn boot_id(boot: u8) -> BootId {
    BootId([boot; 16])
}

pub(super) fn migration(id: u8) -> MigrationId {
    MigrationId([id; 16])
}

impl World {
    pub(super) fn new(storage: Storage, budget: Budget) -> Self {
        let epoch = Epoch(1);
        let holder = Holder {
            node: Some(name(0)),
            boot: boot_id(1),
            epoch,
            memory: None,
            failover: storage == Storage::Failover,
        };
        let node = |n: N| Node {
            up: true,
            boot: 1,
            agent: Some(Agent {
                record: Record::Is(holder.clone()),
                version: Some(1),
                stopped: None,
                stale: false,
            }),
            journal: Journal {
                began: (n == 0).then_some(epoch),
                offered: None,
            },
            life: Life {
                guest: if n == 0 { Guest::Running } else { Guest::Absent },
                seen: 0,
            },
            disk: if n == 0 {
                Disk::Serving { epoch }
            } else {
                Disk::Closed
            },
            bound: n == 0 && storage == Storage::Failover,
            wants: storage == Storage::Failover,
            appending: None,
            leased: true,
        };
        Self {
            storage,
            nodes: [node(0), node(1)],
            place: 0,
            record: Some(holder.clone()),
            version: 1,
            late: Vec::new(),
            leases: [true, true],
            fences: [None, None],
            layers: [
                Layer {
                    version: 0,
                    top: epoch,
                },
                Layer {
                    version: 0,
                    top: Epoch(0),
                },
            ],
            truth: 0,
            forgiven: false,
            travel: None,
            moves: 0,
            left: budget,
        }
    }

    pub(super) fn layer(&mut self, n: N) -> &mut Layer {
        match self.storage {
            Storage::Local => &mut self.layers[n],
            Storage::Shared | Storage::Failover => &mut self.layers[0],
        }
    }

    pub(super) fn layer_of(&self, n: N) -> Layer {
        match self.storage {
            Storage::Local => self.layers[n],
            Storage::Shared | Storage::Failover => self.layers[0],
        }
    }

    /// How many writes the disk of a node has, or will have once the call is carried out that is under way.
    pub(super) fn now(&self, n: N) -> u8 {
        self.layer_of(n).version + u8::from(self.nodes[n].appending.is_some())
    }

    pub(super) fn failover(&self) -> bool {
        self.storage == Storage::Failover
    }

    /// What the agent of a node sees.
    pub(super) fn session(&self, n: N) -> Option<Session> {
        let travel = self.travel.as_ref()?;
        if travel.from == n {
            let (stage, travelled, called_off) = travel.source?;
            return Some(Session::Leaving {
                to: name(travel.to),
                boot: boot_id(self.nodes[travel.to].boot),
                migration: migration(travel.id),
                stage,
                travelled: travelled || self.storage != Storage::Local,
                called_off,
            });
        }
        Some(Session::Arriving {
            migration: migration(travel.id),
            whole: travel.target?,
        })
    }

    /// Whether the agent of a node has the sliver's calls answered only under the lease.
    pub(super) fn binds(&self, n: N) -> bool {
        let node = &self.nodes[n];
        let record = node.agent.as_ref().map(|agent| &agent.record);
        let promised = match record {
            Some(Record::Is(holder)) => holder.failover,
            Some(Record::Absent) => false,
            // As it was made.
            Some(Record::Unknown) | None => node.bound,
        };
        node.wants || promised
    }

    /// Asks the agent of a node for its next step.
    pub(super) fn look(&self, n: N) -> Option<super::Next> {
        let node = &self.nodes[n];
        let agent = node.agent.as_ref()?;
        let me = name(n);
        let other = 1 - n;
        let rival = Rival {
            alive: self.leases[other] && (self.failover() || self.nodes[other].up),
            fenced: self.fences[other].is_some_and(|at| agent.version.is_some_and(|version| at >= version)),
        };
        let disk = match node.disk {
            // What was answered without a lease has to be taken into service anew.
            Disk::Serving { epoch } if self.binds(n) && !node.bound => Disk::Lapsed { epoch },
            disk => disk,
        };
        Some(super::next(&View {
            me: &me,
            boot: boot_id(node.boot),
            failover: self.binds(n),
            promise: node.wants,
            leased: node.leased,
            place: if self.place == n {
                Place::Here
            } else {
                Place::At(name(self.place))
            },
            record: agent.record.clone(),
            journal: node.journal,
            guest: node.life.guest,
            disk,
            session: self.session(n),
            rival,
        }))
    }

    /// Whether the guest on a node runs, and its next call is answered as if it had the right to one.
    pub(super) fn works(&self, n: N, broken: Broken) -> bool {
        let node = &self.nodes[n];
        let Disk::Serving { epoch } = node.disk else {
            return false;
        };
        node.life.guest == Guest::Running
            && (!node.bound || node.leased || broken == Broken::LeaseCheck)
            // Without leases the server learns of a later epoch when it is about to write; what it reads until then from memory
            // is what the guest had.
            && (node.bound || epoch == self.layer_of(n).top || broken == Broken::EpochCheck)
    }

    /// What must be so in every state.
    pub(super) fn wrong(&self, broken: Broken) -> Option<&'static str> {
        if self.works(0, broken) && self.works(1, broken) {
            return Some("two guests work");
        }
        if self.version > 12 {
            return Some("the right to run goes round and round");
        }
        for n in 0..2 {
            if self.works(n, broken) && !self.forgiven && self.layer_of(n).version != self.truth {
                return Some("a guest works without what was acknowledged");
            }
            if self.works(n, broken) && self.nodes[n].life.seen != self.now(n) {
                return Some("a guest works that remembers another disk");
            }
        }
        None
    }

    /// Whether one guest works and everybody agrees.
    pub(super) fn good(&self) -> bool {
        let agreed = |n: N| {
            let holder = self.record.as_ref();
            holder.is_some_and(|holder| holder.is(&name(n)) && holder.memory.is_none())
        };
        (0..2).any(|n| {
            self.works(n, Broken::Nothing) && agreed(n) && self.nodes[1 - n].life.guest == Guest::Absent
        })
    }
}
