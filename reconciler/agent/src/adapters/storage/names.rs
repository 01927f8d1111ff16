//! Names of a sliver's parts in the file server and on disk, and the way back.

use std::fmt;

use xeno_model::id::{Digest, SliverId};

/// Name of the parts of mount number `mount`: `web-0.0`. A label has no dot, so the way back is clear.
pub(super) fn mount_name(sliver: &SliverId, mount: usize) -> String {
    format!("{}.{mount}", sliver.label())
}

/// The sliver and mount that a name of ours is for; `None` for names of others.
pub(super) fn read_mount_name(name: &str) -> Option<(SliverId, usize)> {
    let (label, mount) = name.rsplit_once('.')?;
    let number: usize = mount.parse().ok()?;
    let sliver = read_label(label)?;
    (mount_name(&sliver, number) == name).then_some((sliver, number))
}

/// The sliver that a label is for.
pub(super) fn read_label(label: &str) -> Option<SliverId> {
    SliverId::of_label(label)
}

/// Name of the socket of a mount: short, since a path of a socket has at most 107 bytes (unix(7)).
pub(super) fn socket_name(name: &str) -> String {
    let digest = Digest::of(format!("xenoslice export\n{name}").as_bytes());
    format!("{}.sock", &digest.hex()[..16])
}

/// What a stack of ours says of itself in the file server's listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    /// What all stacks of the sliver consist of.
    pub(super) stack: Digest,
    /// How many they are.
    pub(super) mounts: usize,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1 {} {}", self.stack, self.mounts)
    }
}

impl Label {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (stack, mounts) = text.strip_prefix("v1 ")?.split_once(' ')?;
        Some(Self {
            stack: Digest::parse(stack).ok()?,
            mounts: mounts.parse().ok()?,
        })
    }
}
