//! Whether a node takes a sliver that another offers it.

use xeno_model::desired::{DesiredNode, SliverState, Standing};
use xeno_model::id::{Digest, NodeName, SliverId};
use xeno_model::normal::boot_digest;
use xeno_model::observed::ObservedNode;

use super::{Disk, Facets, Guest, Place, place};

/// What another node offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Whether its memory comes along.
    pub memory: bool,
    /// What its guest was started as, where one runs.
    pub booted: Option<Digest>,
}

/// How an offer is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taking {
    /// Whether with its memory.
    pub memory: bool,
    /// Whether layers of another time have to go first.
    pub leftovers: bool,
}

/// A node that is offered a sliver.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// What is wanted here, once a commit was read.
    pub desired: Option<&'a DesiredNode>,
    /// What was seen here last.
    pub observed: Option<&'a ObservedNode>,
}

impl Host<'_> {
    /// Whether it takes the sliver, and how; `Err` is for the person who waits for it. `has`: what is here of it already;
    /// `coming`: whether a sliver that is not here yet is about to run here; `waits`: what its new revision waits for, should
    /// its rollout not have come to it.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn takes(
        &self,
        sliver: &SliverId,
        offer: Offer,
        has: Option<&Facets>,
        coming: impl Fn(&SliverId) -> bool,
        waits: Option<&str>,
    ) -> Result<Taking, String> {
        let me = self.me;
        let desired = self
            .desired
            .filter(|_| place(self.desired, sliver) == Place::Here)
            .ok_or_else(|| format!("{me} has read no commit yet that places {sliver} there"))?;
        let wanted = desired.slivers.get(sliver).ok_or("it is not wanted there")?;
        let fits = offer.booted.is_some_and(|booted| booted == boot_digest(wanted));
        // It would be made something else by moving.
        if let Some(why) = waits.filter(|_| offer.booted.is_some() && !fits) {
            return Err(format!("its new revision has not come to it: {why}"));
        }
        self.has_room(desired, sliver, coming)?;
        let has = has.ok_or_else(|| format!("{me} cannot see what it has of {sliver}"))?;
        if has.guest != Guest::Absent || has.disk != Disk::Closed || has.image {
            return Err(format!("something of {sliver} is still on {me}"));
        }
        Ok(Taking {
            memory: offer.memory && fits && wanted.state == SliverState::Running && has.movable,
            leftovers: has.set_aside,
        })
    }

    /// Whether there is room for a sliver, beside what runs, what is to run, and what is coming.
    fn has_room(
        &self,
        desired: &DesiredNode,
        sliver: &SliverId,
        coming: impl Fn(&SliverId) -> bool,
    ) -> Result<(), String> {
        let me = self.me;
        let unseen = || format!("{me} cannot see what runs there");
        let domains = self
            .observed
            .and_then(|observed| observed.domains.known())
            .ok_or_else(unseen)?;
        let Standing::Named(node) = &desired.standing else {
            return Err(format!("the repository does not name {me}"));
        };
        let runs = |of: &SliverId| {
            let wanted = desired.slivers.get(of)?;
            (wanted.state == SliverState::Running).then(|| wanted.resources.memory.mib())
        };
        let Some(need) = runs(sliver) else { return Ok(()) };
        let ports: Vec<u16> = desired.slivers.get(sliver).map_or_else(Vec::new, |wanted| {
            wanted.publish.iter().map(|publish| publish.host).collect()
        });
        let published = domains.ours.values().flat_map(|domain| &domain.publish);
        if let Some(taken) = published
            .map(|publish| publish.host)
            .find(|host| ports.contains(host))
        {
            return Err(format!("port {taken} is taken on {me} now"));
        }
        let strangers = desired.standing.taken_by_strangers(&domains.strangers);
        let held = domains.ours.values().map(|domain| domain.memory_mib);
        let coming = desired.slivers.keys().filter(|of| {
            let absent = !domains.ours.keys().any(|domain| domain.itself() == **of);
            *of != sliver && absent && coming(of)
        });
        let taken: u64 = held
            .chain(coming.filter_map(runs))
            .fold(strangers, u64::saturating_add);
        let left = node.memory.mib().saturating_sub(taken);
        if need <= left {
            return Ok(());
        }
        Err(format!(
            "{me} has too little memory for it now: it needs {need} MiB, and {left} MiB are left"
        ))
    }
}
