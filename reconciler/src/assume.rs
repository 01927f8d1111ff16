//! What a node looks like when nobody has looked: as if an earlier commit were fully carried out. The answer to a push
//! compares commit with commit this way.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{DesiredNode, HypervisorKind, Mount, SliverState, Standing};
use xeno_model::id::{Digest, Epoch, NodeName, SliverId, Timestamp};
use xeno_model::normal::{boot_digest_on, stack_digest};
use xeno_model::observed::{
    DomainState, Domains, HealthVerdict, Leasing, ObservedDomain, ObservedImage, ObservedNode,
    ObservedStorage, RemoteState, Seen,
};

use crate::action::Ingredients;
use crate::change::AppliedSliver;
use crate::effective::effective;
use crate::enforce::usual;
use crate::ports::{Tuning, share};

/// What all writable layers are like that nobody looked at.
const UNTOUCHED: Digest = Digest([0; 32]);

/// A node on which nothing was ever done: what a first commit is compared with.
#[must_use]
pub fn empty(node: &NodeName, at: Timestamp) -> ObservedNode {
    ObservedNode {
        node: node.clone(),
        at,
        domains: Seen::Known(Domains::default()),
        storage: Seen::Known(BTreeMap::new()),
        templates: Seen::Known(BTreeSet::new()),
        file_layers: Seen::Known(BTreeSet::new()),
        remotes: Seen::Known(BTreeMap::new()),
        health: BTreeMap::new(),
    }
}

/// A node that has carried out `before` to the letter, at time `at`: what would be seen there, and what was applied.
#[must_use]
pub fn observed_from(
    before: &DesiredNode,
    at: Timestamp,
) -> (ObservedNode, BTreeMap<SliverId, AppliedSliver>) {
    let mut domains = Domains::default();
    let mut storage = BTreeMap::new();
    let mut here = Ingredients::default();
    let mut health = BTreeMap::new();
    let mut applied = BTreeMap::new();
    domains.able = match &before.standing {
        Standing::Named(node) => usual(node.hypervisor),
        Standing::NotNamed => usual(HypervisorKind::Xen),
    };
    for (id, sliver) in &before.slivers {
        let (sliver, _) = effective(before, sliver, at);
        let runs = match sliver.state {
            SliverState::Running => true,
            SliverState::Stopped | SliverState::Suspended => false,
        };
        let tuning = Tuning::of(&sliver);
        let stack = stack_digest(&sliver);
        let boot = boot_digest_on(&sliver, &stack);
        if runs {
            let domain = ObservedDomain {
                uuid: sliver.uuid,
                state: DomainState::Running,
                booted: boot,
                memory_mib: tuning.memory_mib,
                memory_max_mib: sliver.resources.memory_most().mib(),
                vcpus: sliver.resources.vcpus,
                limits: tuning.limits,
                publish: tuning.publish,
            };
            domains.ours.insert(id.clone(), domain);
            health.insert(id.clone(), HealthVerdict::Healthy);
            let Ingredients {
                templates,
                files,
                remotes,
            } = Ingredients::of(&sliver);
            here.templates.extend(templates);
            here.files.extend(files);
            here.remotes.extend(remotes);
        } else if sliver.state == SliverState::Suspended {
            let image = ObservedImage {
                uuid: sliver.uuid,
                boot,
                memory_mib: tuning.memory_mib,
                memory_max_mib: sliver.resources.memory_most().mib(),
                publish: tuning.publish,
                mark: Some(UNTOUCHED),
                bytes: tuning.memory_mib << 20,
                at,
            };
            domains.images.insert(id.clone(), image);
            here.templates.insert(sliver.kernel.digest);
        }
        let writes = |mount: &Mount| mount.writable.is_kept();
        let kept = ObservedStorage {
            on_disk: true,
            open: runs.then_some(Epoch(1)),
            limits: if runs && sliver.mounts.iter().any(writes) {
                BTreeSet::from([sliver.resources.layer_limits()])
            } else {
                BTreeSet::new()
            },
            shares: runs.then(|| share(&sliver)).into_iter().collect(),
            stack: runs.then_some(stack),
            exported: runs,
            parked: false,
            lease: Leasing::Free,
            bytes: 0,
            tombstone: None,
            mark: Some(UNTOUCHED),
            checkpoints: BTreeMap::new(),
        };
        storage.insert(id.clone(), Seen::Known(kept));
        let record = AppliedSliver {
            desired: sliver.into_owned(),
            epoch: Epoch(1),
            complete: true,
            at,
        };
        applied.insert(id.clone(), record);
    }
    let remotes = here
        .remotes
        .into_iter()
        .map(|remote| (remote, RemoteState::Answers));
    let observed = ObservedNode {
        node: before.node.clone(),
        at,
        domains: Seen::Known(domains),
        storage: Seen::Known(storage),
        templates: Seen::Known(here.templates),
        file_layers: Seen::Known(here.files),
        remotes: Seen::Known(remotes.collect()),
        health,
    };
    (observed, applied)
}

#[cfg(test)]
mod tests {
    use xeno_model::desired::SliverState;

    use super::*;
    use crate::testing::{World, health, sliver};

    #[test]
    fn a_node_that_did_as_it_was_told_has_nothing_to_do() {
        let mut stopped = sliver("job/0");
        stopped.state = SliverState::Stopped;
        let mut checked = sliver("web/0");
        checked.health = Some(health());
        let mut world = World::wanting([stopped, checked, sliver("db/0")]);
        let (observed, applied) = observed_from(&world.desired, Timestamp(7));
        (world.observed, world.applied) = (observed, applied);
        assert!(crate::render::is_empty(&world.plan()));
        assert_eq!(world.observed.at, Timestamp(7));
    }
}
