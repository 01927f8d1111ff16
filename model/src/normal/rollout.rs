//! What of a slice a rollout changes: what its guests are made of, what they get and how their health is asked.
//!
//! Where a sliver is, what it is called, whether it should be running, who owns it and how its slice moves and changes are no
//! part of it: that counts as soon as a node has read it.

use std::collections::BTreeSet;

use super::{labelled, to_json};
use crate::desired::{
    CHECKPOINTS, DesiredSliver, LayerRef, Migration, RollbackData, Rollout, SliverState, Start, TemplateRef,
    WritableKind,
};
use crate::id::{Digest, DomainUuid, SliverId};

/// Digest of all that a rollout changes about one sliver: with the same one it has nothing to do in a rollout.
///
/// Two slivers of a slice have the same one where they differ by nothing but their numbers and their nodes.
#[must_use]
pub fn rollout_digest(sliver: &DesiredSliver) -> Digest {
    labelled("rollout", 1, &to_json(&rolled(sliver)))
}

/// Digest of all that a rollout changes about a slice: which kinds of slivers it has, however many there are of each.
#[must_use]
pub fn rollout_revision<'a>(slivers: impl IntoIterator<Item = &'a DesiredSliver>) -> Digest {
    let kinds: BTreeSet<Digest> = slivers.into_iter().map(rollout_digest).collect();
    let kinds: Vec<String> = kinds.iter().map(Digest::hex).collect();
    labelled("rollout of a slice", 1, &kinds.join("\n"))
}

/// A sliver that a rollout has not come to yet: as `applied` in all that the rollout changes, as `desired` in the rest.
#[must_use]
pub fn held_back(applied: &DesiredSliver, desired: &DesiredSliver) -> DesiredSliver {
    DesiredSliver {
        kernel: applied.kernel.clone(),
        mounts: applied.mounts.clone(),
        resources: applied.resources.clone(),
        health: applied.health.clone(),
        publish: applied.publish.clone(),
        ..desired.clone()
    }
}

/// The sliver without what a rollout does not change.
fn rolled(sliver: &DesiredSliver) -> DesiredSliver {
    let (id, label) = (sliver.id.to_string(), sliver.id.label());
    let mut rolled = DesiredSliver {
        id: SliverId::new(sliver.id.slice.clone(), 0),
        uuid: DomainUuid([0; 16]),
        state: SliverState::Running,
        tenant: None,
        start: Start::Boot,
        expires: None,
        moved_from: None,
        rollout: Rollout::default(),
        migration: Migration::default(),
        failover: false,
        rollback: RollbackData::Keep,
        checkpoints: CHECKPOINTS,
        ..sliver.clone()
    };
    content_alone(&mut rolled.kernel);
    for mount in &mut rolled.mounts {
        for layer in &mut mount.layers {
            match layer {
                LayerRef::Template(template) => content_alone(template),
                LayerRef::Directory { .. } | LayerRef::Files { .. } | LayerRef::Remote { .. } => {}
            }
        }
        if let WritableKind::Remote { url } = &mut mount.writable {
            *url = url.replace(&id, "{sliver}").replace(&label, "{sliver}");
        }
    }
    for publish in &mut rolled.publish {
        // A manifest's port stands for the first sliver, and each has its own.
        let number = u16::try_from(sliver.id.number).unwrap_or(publish.host);
        publish.host = publish.host.saturating_sub(number);
    }
    rolled
}

/// How a template was named or found changes no guest.
fn content_alone(template: &mut TemplateRef) {
    template.channel = None;
    template.sources.clear();
}

#[cfg(test)]
mod tests {
    use super::super::tests::web;
    use super::*;
    use crate::desired::{MigrationPolicy, Publish};
    use crate::id::{ChannelName, SliceName};
    use crate::units::{Bytes, Millis};

    /// The sliver of this number, as a slice makes it.
    fn numbered(number: u32) -> DesiredSliver {
        let id = SliverId::new(SliceName::new("web").unwrap(), number);
        let mut sliver = web();
        sliver.uuid.0[0] = u8::try_from(number).unwrap();
        sliver.publish = vec![Publish {
            guest: 80,
            host: 18080 + u16::try_from(number).unwrap(),
        }];
        sliver.mounts[0].writable = WritableKind::Remote {
            url: format!("nfs://store.example/acme/{}/x", id.label()),
        };
        sliver.id = id;
        sliver
    }

    fn check(change: impl FnOnce(&mut DesiredSliver), is_rolled_out: bool) {
        let (before, mut after) = (numbered(1), numbered(1));
        change(&mut after);
        assert_ne!(before, after);
        assert_eq!(
            rollout_digest(&before) != rollout_digest(&after),
            is_rolled_out,
            "{after:?}"
        );
        let held = held_back(&before, &after);
        assert_eq!(
            rollout_digest(&held),
            rollout_digest(&before),
            "what is held back is as it was"
        );
        if !is_rolled_out {
            let channel = |sliver: &DesiredSliver| sliver.kernel.channel.clone();
            assert!(held == after || channel(&before) != channel(&after), "{held:?}");
        }
    }

    #[test]
    fn what_guests_are_made_of_is_rolled_out() {
        check(|s| s.kernel.digest.0[0] ^= 1, true);
        check(|s| s.resources.memory = Bytes(1 << 30), true);
        check(|s| s.resources.cpu_weight += 1, true);
        check(|s| s.health = None, true);
        check(|s| s.publish.clear(), true);
        check(|s| s.mounts[0].writable = WritableKind::Local, true);
    }

    #[test]
    fn what_is_said_about_them_is_not() {
        check(|s| s.state = SliverState::Suspended, false);
        check(|s| s.rollout.canary += 1, false);
        check(|s| s.rollout.bake = Millis(1), false);
        check(|s| s.migration.policy = MigrationPolicy::Restart, false);
        check(|s| s.checkpoints += 1, false);
        check(|s| s.start = Start::Resume, false);
        // Another channel that points to the same content.
        check(
            |s| s.kernel.channel = Some(ChannelName::new("later").unwrap()),
            false,
        );
    }

    #[test]
    fn a_slice_has_one_revision_however_many_there_are_of_it() {
        let of = |numbers: &[u32]| {
            let slivers: Vec<_> = numbers.iter().map(|number| numbered(*number)).collect();
            rollout_revision(&slivers)
        };
        assert_eq!(of(&[0, 1, 2]), of(&[7]));
        let mut other = numbered(2);
        other.resources.memory = Bytes(1 << 30);
        assert_ne!(
            rollout_revision(&[numbered(1), other]),
            of(&[1, 2]),
            "one kind more"
        );
    }
}
