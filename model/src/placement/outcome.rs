//! What a placement comes to: places and moves with their reasons, or what does not fit, with the numbers.

use std::collections::BTreeMap;
use std::fmt;

use super::ground::Spread;
use crate::desired::{Matching, SiteRule};
use crate::id::{NodeName, SiteName, SliceName};

/// Where a slice's slivers go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// By number.
    pub slivers: BTreeMap<u32, NodeName>,
    /// What is different from the previous lock, by number.
    pub moves: Vec<Move>,
    /// Whether it would be spread more evenly still if [`super::Ask::moves_max`] allowed more moves.
    pub more: bool,
}

impl Placed {
    /// How many slivers stay where they are.
    #[must_use]
    pub fn staying(&self) -> usize {
        let moved = self.moves.iter().filter(|change| change.to.is_some()).count();
        self.slivers.len() - moved
    }
}

/// One sliver that is to be elsewhere than the previous lock has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Its number.
    pub number: u32,
    /// Where the previous lock has it; `None`: nowhere.
    pub from: Option<NodeName>,
    /// Where it goes; `None`: it is not wanted any more.
    pub to: Option<NodeName>,
    /// Why.
    pub why: Why,
}

/// Why a sliver cannot stay as it is. `Display` is for behind a colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is in no lock yet.
    New,
    /// The slice wants only so many.
    Fewer(u32),
    /// There is no such node any more.
    NodeGone,
    /// It may not be on its node any more.
    Refused(Refusal),
    /// Slivers are spread more evenly so.
    Even {
        /// Over what.
        over: Spread,
        /// How many were together where it leaves.
        there: u32,
        /// How many are together where it goes, with it.
        here: u32,
    },
}

/// Why a node does not take a sliver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It lacks a label that the slice asks for.
    NoMatch,
    /// It takes nothing new.
    Cordoned,
    /// The owner of its site says no.
    Site(SiteName, SiteRule),
    /// A port that the sliver publishes is taken there.
    PortTaken(u16),
    /// There is too little memory left.
    NoRoom {
        /// What the sliver needs, in MiB.
        need_mib: u64,
        /// What is left for it, in MiB.
        free_mib: u64,
    },
}

/// Slivers of a slice that no node takes. `Display` is a sentence without its full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The slice.
    pub slice: SliceName,
    /// How many slivers it wants.
    pub replicas: u32,
    /// Slivers that have no place.
    pub unplaced: Vec<u32>,
    /// Memory that each needs, in MiB: where that differs between nodes, the least.
    pub need_mib: u64,
    /// What the slice asks of nodes.
    pub matching: Matching,
    /// Nodes there are.
    pub nodes: usize,
    /// Why the nodes do not take the first of them: each node under what it says first.
    pub refusals: BTreeMap<Refusal, Vec<NodeName>>,
}

impl Shortage {
    /// The node with the most memory left, of those that lack only memory.
    #[must_use]
    pub fn roomiest(&self) -> Option<(&NodeName, u64)> {
        let rooms = self.refusals.iter().filter_map(|(refusal, nodes)| match refusal {
            Refusal::NoRoom { free_mib, .. } => Some((nodes.first()?, *free_mib)),
            Refusal::NoMatch | Refusal::Cordoned | Refusal::Site(..) | Refusal::PortTaken(_) => None,
        });
        // Of equal ones the first by name.
        rooms.max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0)))
    }

    /// What can be done about it.
    #[must_use]
    pub fn help(&self) -> String {
        let refused = |what: fn(&Refusal) -> bool| self.refusals.keys().any(what);
        let mut ways = vec!["add a node"];
        if self.roomiest().is_some() {
            ways.push("ask for less memory");
        }
        if refused(|refusal| matches!(refusal, Refusal::NoMatch)) {
            ways.push("match more of the nodes");
        }
        if refused(|refusal| matches!(refusal, Refusal::Cordoned)) {
            ways.push("uncordon one");
        }
        if refused(|refusal| matches!(refusal, Refusal::PortTaken(_))) {
            ways.push("publish another port");
        }
        if refused(|refusal| matches!(refusal, Refusal::Site(..))) {
            ways.push("ask the owner of a site for more");
        }
        ways.push("ask for fewer replicas");
        let last = ways.pop().unwrap_or_default();
        format!("{} or {last}", ways.join(", "))
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("new"),
            Self::Fewer(replicas) => write!(f, "only {replicas} wanted"),
            Self::NodeGone => f.write_str("node gone"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Even { over, there, here } => {
                write!(f, "spread by {over}: {there} there, {here} here")
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMatch => f.write_str("node does not match"),
            Self::Cordoned => f.write_str("node is cordoned"),
            Self::Site(site, rule) => write!(f, "site {site} {rule}"),
            Self::PortTaken(port) => write!(f, "port {port} is taken there"),
            Self::NoRoom { need_mib, free_mib } => {
                write!(f, "needs {need_mib} MiB, {free_mib} MiB left there")
            }
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            slice,
            replicas,
            unplaced,
            need_mib,
            nodes,
            ..
        } = self;
        write!(
            f,
            "{} of {replicas} slivers of {slice} {} no place: ",
            unplaced.len(),
            if unplaced.len() == 1 { "has" } else { "have" }
        )?;
        if *nodes == 0 {
            return f.write_str("there is no node");
        }
        let mut reasons = Vec::new();
        let mut no_room = 0;
        // Rules of one site are one reason, however many nodes it has.
        for (refusal, names) in &self.refusals {
            match refusal {
                Refusal::NoMatch => {
                    reasons.push(format!("{} not match {}", do_(names.len()), self.matching));
                }
                Refusal::Cordoned => reasons.push(format!("{} cordoned", are(names.len()))),
                Refusal::NoRoom { .. } => no_room += names.len(),
                Refusal::Site(site, rule) => {
                    reasons.push(format!("{} at {site}, which {rule}", are(names.len())));
                }
                Refusal::PortTaken(port) => reasons.push(format!("{} port {port} taken", have(names.len()))),
            }
        }
        if let Some((name, free)) = self.roomiest() {
            reasons.push(format!(
                "{} too little memory left ({need_mib} MiB each; most on {name}: {free} MiB)",
                have(no_room)
            ));
        }
        write!(
            f,
            "of {nodes} {}, {}",
            if *nodes == 1 { "node" } else { "nodes" },
            reasons.join("; ")
        )
    }
}

fn do_(n: usize) -> String {
    format!("{n} {}", if n == 1 { "does" } else { "do" })
}

fn are(n: usize) -> String {
    format!("{n} {}", if n == 1 { "is" } else { "are" })
}

fn have(n: usize) -> String {
    format!("{n} {}", if n == 1 { "has" } else { "have" })
}
