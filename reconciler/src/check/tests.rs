mod every;

use xeno_model::desired::DeleteBudget;
use xeno_model::id::Timestamp;
use xeno_model::units::Bytes;

use xeno_model::observed::Seen;

use super::*;
use crate::action::Ingredients;
use crate::plan::{Cost, PlannedAction};
use crate::testing::{World, id, sliver};

/// Plans, breaks the plan, and looks at what the judge says.
fn broken(world: &World, breakage: impl FnOnce(&mut Plan)) -> Vec<String> {
    let mut plan = world.plan();
    assert_eq!(check(&plan, &world.input()), []);
    breakage(&mut plan);
    check(&plan, &world.input())
        .iter()
        .map(Finding::to_string)
        .collect()
}

fn planned(action: Action) -> PlannedAction {
    PlannedAction {
        serves: action.sliver().cloned().into_iter().collect(),
        action,
        after: BTreeSet::new(),
        cost: Cost {
            bytes: Some(0),
            memory_mib: 0,
        },
    }
}

fn shutdown(sliver: &str) -> PlannedAction {
    planned(Action::Shutdown {
        sliver: id(sliver),
        again: Ingredients::default(),
    })
}

/// A node on which web/0 is to be rebooted with more memory and db/0 stays.
fn rebooting() -> World {
    let mut world = World::wanting([sliver("db/0"), sliver("web/0")])
        .with_memory(384)
        .settle();
    world.want("web/0").resources.memory = Bytes(256 << 20);
    world
}

#[test]
fn a_sliver_that_stays_is_not_to_be_stopped() {
    let found = broken(&rebooting(), |plan| plan.actions.push(shutdown("db/0")));
    assert_eq!(
        found,
        [
            "shutdown:db/0 is for a sliver that should stay as it is",
            "shutdown:db/0 stops a domain that is as desired"
        ]
    );
}

#[test]
fn strangers_are_not_to_be_stopped() {
    let found = broken(&rebooting(), |plan| plan.actions.push(shutdown("laptop/0")));
    assert_eq!(
        found,
        [
            "shutdown:laptop/0 is for a sliver that should stay as it is",
            "shutdown:laptop/0 stops a domain that is not ours",
            "1 removals are planned and 2 allowed",
        ][..2]
    );
}

#[test]
fn no_boot_stands_before_its_shutdown_or_twice() {
    let found = broken(&rebooting(), |plan| plan.actions.reverse());
    assert!(found.contains(&"boot:web/0 does not come after shutdown:web/0".to_owned()));
    assert!(found.contains(&"boot:web/0 starts a second domain".to_owned()));
    let found = broken(&rebooting(), |plan| plan.actions.push(plan.actions[1].clone()));
    assert!(found.contains(&"boot:web/0 is planned twice".to_owned()));
}

#[test]
fn order_must_be_held_by_edges() {
    let found = broken(&rebooting(), |plan| plan.actions[1].after.clear());
    assert_eq!(
        found,
        [
            "boot:web/0 is not held behind the step before it",
            "boot:web/0 may take guests to 512 MiB of 384"
        ]
    );
}

#[test]
fn memory_must_be_free_in_every_order() {
    let mut world = World::wanting([sliver("a/0"), sliver("b/0")])
        .with_memory(256)
        .settle();
    world.unwant("a/0");
    world.desired.slivers.insert(id("c/0"), sliver("c/0"));
    let found = broken(&world, |plan| {
        for planned in &mut plan.actions {
            planned
                .after
                .retain(|key| key.0 != "shutdown:a/0" || planned.action.verb() != "boot");
        }
    });
    assert_eq!(found, ["boot:c/0 may take guests to 384 MiB of 256"]);
}

#[test]
fn a_change_has_a_reason_and_what_waits_has_no_steps() {
    let found = broken(&rebooting(), |plan| {
        plan.changes.get_mut(&id("web/0")).unwrap().reasons.clear();
    });
    assert_eq!(found, ["web/0 changes without a reason"]);
    let found = broken(&rebooting(), |plan| {
        plan.changes.get_mut(&id("web/0")).unwrap().class = ChangeClass::Wait;
    });
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn removals_keep_to_the_budget() {
    let mut world = World::wanting(["a/0", "b/0", "c/0"].map(sliver)).settle();
    world.unwant("a/0");
    world.unwant("b/0");
    let plan = world.plan();
    world.desired.delete_budget = DeleteBudget {
        slivers: 1,
        ..DeleteBudget::default()
    };
    let found = check(&plan, &world.input());
    assert_eq!(
        found,
        [Finding::Removals {
            planned: 2,
            allowed: 1
        }]
    );
    world.desired.standing = Standing::NotNamed;
    assert!(check(&plan, &world.input()).contains(&Finding::Removals {
        planned: 2,
        allowed: 0
    }));
}

#[test]
fn nothing_is_deleted_early_or_while_it_is_wanted() {
    let mut world = World::wanting([sliver("a/0")]).settle();
    world.storage("web/0").on_disk = true;
    world.storage("web/0").tombstone = Some(Timestamp(0));
    let plan = world.plan();
    assert_eq!(check(&plan, &world.input()), []);
    world.storage("web/0").tombstone = Some(Timestamp(world.now));
    let early = check(&plan, &world.input());
    assert_eq!(early[0].to_string(), "purge:web/0 deletes what is not due for it");
    let found = broken(&rebooting(), |plan| {
        plan.actions
            .push(planned(Action::Tombstone { sliver: id("web/0") }));
    });
    assert!(found.contains(&"tombstone:web/0 sets aside what is desired".to_owned()));
    assert!(found.contains(&"tombstone:web/0 sets aside what is in use".to_owned()));
}

#[test]
fn a_plan_made_while_seeing_is_refused_when_blind() {
    let mut world = rebooting();
    let plan = world.plan();
    let blind = [Finding::Blind(ActionKey("shutdown:web/0".to_owned()))];
    let mut for_one = world.clone();
    for_one.hide_storage(&id("web/0"), "it hangs");
    assert!(check(&plan, &for_one.input()).contains(&blind[0]));
    world.observed.storage = Seen::Unknown {
        why: "it hangs".to_owned(),
    };
    assert_eq!(check(&plan, &world.input()), blind);
}
