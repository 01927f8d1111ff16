//! What goes wrong, when, and until when.

use crate::draw::Draw;

/// One thing that goes wrong for a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// From then on, in milliseconds.
    pub from_ms: u64,
    /// Until then.
    pub until_ms: u64,
    /// What.
    pub trouble: Trouble,
}

/// What can go wrong. Nodes and slices are named by their number, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// A node's power fails: its guests are gone, and start again when it is back.
    PowerFails {
        /// Which node.
        node: usize,
    },
    /// A node's agent dies, and what it was at may be done or not. Its guests run on.
    AgentDies {
        /// Which node.
        node: usize,
    },
    /// A node reaches nobody: neither the repository nor the board. Its guests run on.
    Away {
        /// Which node.
        node: usize,
    },
    /// Nobody reaches the board.
    BoardLost,
    /// Of what is asked of the board, so many answers of a thousand are lost, some of them before it was done.
    AnswersLost {
        /// How many of a thousand.
        permille: u64,
    },
    /// The repository answers after minutes.
    GitSlow,
    /// The repository does not answer.
    GitLost,
    /// A node's clock is wrong.
    Clock {
        /// Which node.
        node: usize,
        /// By how much.
        by_ms: i64,
    },
    /// A node's drivers fail, hang, or succeed without saying so.
    Drivers {
        /// Which node.
        node: usize,
        /// How many calls of a thousand.
        permille: u64,
    },
    /// A node sends the memory of guests that go elsewhere, and says that it could not.
    MoveUnsaid {
        /// Which node.
        node: usize,
    },
    /// A guest of a node ends by itself.
    GuestDies {
        /// Which node.
        node: usize,
    },
    /// A node cannot look at its domains.
    Blind {
        /// Which node.
        node: usize,
    },
    /// What the newest commit asks of a slice never becomes healthy.
    Bad {
        /// Which slice.
        slice: usize,
        /// From which of its slivers on ...
        from: u32,
        /// ... up to which, that one not included.
        until: u32,
    },
    /// A person stops the rollout of a slice, and has it go on later.
    Paused {
        /// Which slice.
        slice: usize,
    },
    /// A person has all of a slice's slivers go back.
    Aborted {
        /// Which slice.
        slice: usize,
    },
}

impl Trouble {
    /// Its name, as reports count it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::PowerFails { .. } => "power fails",
            Self::AgentDies { .. } => "agent dies",
            Self::Away { .. } => "node away",
            Self::BoardLost => "board lost",
            Self::AnswersLost { .. } => "answers lost",
            Self::GitSlow => "git slow",
            Self::GitLost => "git lost",
            Self::Clock { .. } => "clock wrong",
            Self::Drivers { .. } => "drivers fail",
            Self::MoveUnsaid { .. } => "moves unsaid",
            Self::GuestDies { .. } => "guest dies",
            Self::Blind { .. } => "node blind",
            Self::Bad { .. } => "bad revision",
            Self::Paused { .. } => "paused by a person",
            Self::Aborted { .. } => "aborted by a person",
        }
    }

    /// Every name.
    pub const WORDS: [&'static str; 15] = [
        "power fails",
        "agent dies",
        "node away",
        "board lost",
        "answers lost",
        "git slow",
        "git lost",
        "clock wrong",
        "drivers fail",
        "moves unsaid",
        "guest dies",
        "node blind",
        "bad revision",
        "paused by a person",
        "aborted by a person",
    ];
}

const MINUTE: u64 = 60_000;

/// What goes wrong with a fleet between its push and `horizon_ms`, from a seed.
#[must_use]
pub fn drawn(draw: &mut Draw, nodes: usize, slices: usize, horizon_ms: u64) -> Vec<Fault> {
    let count = draw.between(0, 8);
    let mut faults: Vec<Fault> = (0..count).map(|_| one(draw, nodes, slices, horizon_ms)).collect();
    faults.sort();
    faults
}

fn one(draw: &mut Draw, nodes: usize, slices: usize, horizon_ms: u64) -> Fault {
    let node = draw.index(nodes);
    let (trouble, longest) = match draw.below(16) {
        0 => (Trouble::PowerFails { node }, 60 * MINUTE),
        1 => (Trouble::AgentDies { node }, MINUTE),
        2 | 3 => (Trouble::Away { node }, 240 * MINUTE),
        4 => (Trouble::BoardLost, 30 * MINUTE),
        5 => {
            let permille = draw.between(20, 400);
            (Trouble::AnswersLost { permille }, 60 * MINUTE)
        }
        6 => (Trouble::GitSlow, 120 * MINUTE),
        7 => (Trouble::GitLost, 120 * MINUTE),
        8 => {
            let hour = 3_600_000;
            let by_ms = if draw.permille(500) { hour } else { -hour };
            (Trouble::Clock { node, by_ms }, 240 * MINUTE)
        }
        9 => {
            let permille = draw.between(50, 500);
            (Trouble::Drivers { node, permille }, 60 * MINUTE)
        }
        10 => (Trouble::GuestDies { node }, MINUTE),
        11 => (Trouble::Blind { node }, 30 * MINUTE),
        14 => (Trouble::MoveUnsaid { node }, 60 * MINUTE),
        12 => {
            let slice = draw.index(slices);
            (Trouble::Paused { slice }, 60 * MINUTE)
        }
        13 => {
            let slice = draw.index(slices);
            (Trouble::Aborted { slice }, MINUTE)
        }
        _ => {
            let from = if draw.permille(600) {
                0
            } else {
                u32::try_from(draw.below(20)).unwrap_or(0)
            };
            let trouble = Trouble::Bad {
                slice: draw.index(slices),
                from,
                until: u32::MAX,
            };
            return Fault {
                from_ms: 0,
                until_ms: 0,
                trouble,
            };
        }
    };
    // Half of it while a rollout is likely to be under way.
    let within = if draw.permille(500) {
        30 * MINUTE
    } else {
        horizon_ms / 2
    };
    let from_ms = draw.below(within);
    let lasts = draw.between(1000, longest);
    Fault {
        from_ms,
        until_ms: (from_ms + lasts).min(horizon_ms),
        trouble,
    }
}
