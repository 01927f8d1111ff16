//! What a placement starts from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::desired::{Matching, SitePolicy, Whereabouts};
use crate::id::{NodeName, SiteName, SliceName, TenantName};
use crate::units::Bytes;

/// All that a placement depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ground {
    /// The nodes there are.
    pub nodes: BTreeMap<NodeName, Spot>,
    /// What the owners of sites allow; a site that is not here allows everything.
    pub sites: BTreeMap<SiteName, SitePolicy>,
    /// Slivers whose manifests name their node: they come first.
    pub fixed: Vec<Fixed>,
    /// Slices that are to be placed.
    pub asks: BTreeMap<SliceName, Ask>,
}

/// A node, as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Where it is.
    pub at: Arc<Whereabouts>,
    /// Memory for guests, in MiB. Virtual CPUs are shared, so they bind nothing.
    pub memory_mib: u64,
    /// Whether it takes nothing new; what is there stays.
    pub cordoned: bool,
}

/// A sliver that is where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Its slice.
    pub slice: SliceName,
    /// Whose it is.
    pub tenant: Option<TenantName>,
    /// Its node.
    pub node: NodeName,
    /// Memory that it holds there, in MiB; 0 if it does not run.
    pub memory_mib: u64,
    /// Ports of the node that it takes.
    pub ports: Vec<u16>,
}

/// A slice that is to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whose it is.
    pub tenant: Option<TenantName>,
    /// How many slivers there shall be, numbered from 0.
    pub replicas: u32,
    /// What each takes.
    pub size: Size,
    /// What it takes on nodes where that is something else.
    pub size_on: BTreeMap<NodeName, Size>,
    /// Ports that sliver 0 takes of its node; sliver N takes these plus N.
    pub ports: Vec<u16>,
    /// Nodes that may be taken.
    pub matching: Matching,
    /// What slivers are to be spread over.
    pub spread: Spread,
    /// Most slivers that one commit moves only to spread them more evenly; `None`: any number.
    pub moves_max: Option<u32>,
    /// Where slivers are by the lock that was written last.
    pub previous: BTreeMap<u32, NodeName>,
    /// Whether the slice is not to be touched now: its slivers stay where the lock has them.
    pub held: bool,
}

/// What one sliver takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Memory it starts with, in MiB. It counts whether the sliver runs or not: states change more easily than places.
    pub memory_mib: u64,
    /// Memory it may grow to: what caps of sites look at.
    pub memory_most: Bytes,
    /// Virtual CPUs.
    pub vcpus: u32,
}

/// What slivers of a slice are spread over: as evenly as there is room, and never so strictly that one has no place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spread {
    /// Over sites, and within a site over its nodes.
    #[default]
    Site,
    /// Over nodes, wherever they are.
    Node,
    /// Not at all: chance decides, the same chance everywhere.
    None,
}

impl fmt::Display for Spread {
    /// As manifests write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Site => "site",
            Self::Node => "node",
            Self::None => "none",
        })
    }
}

impl Ask {
    /// What a sliver takes on a node.
    #[must_use]
    pub fn size(&self, node: &NodeName) -> Size {
        self.size_on.get(node).copied().unwrap_or(self.size)
    }

    /// The ports that a sliver takes. Those beyond the last port there is are left out: the manifest is refused for them.
    pub(super) fn ports(&self, number: u32) -> impl Iterator<Item = u16> {
        let port = move |first: &u16| u16::try_from(u32::from(*first).checked_add(number)?).ok();
        self.ports.iter().filter_map(port)
    }
}
