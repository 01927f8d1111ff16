//! Stories from the field: what others were woken at night for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xeno_model::desired::{
    DesiredFleet, OnFailure, Rollout, Share, Slice, Wave, Weekday, Window, WritableKind,
};
use xeno_model::id::{DomainUuid, SliceName, SliverId};
use xeno_model::normal::rollout_revision;
use xeno_model::units::Millis;
use xeno_reconciler::rollout::{Placed, RolloutKey, Verdict, Waves};
use xeno_simulate::{
    BEGIN_MS, Commit, Draw, Fault, Outcome, Push, Shade, Story, Trouble, fleet, pushed, revision,
};

const HOUR: u64 = 3_600_000;

fn policy() -> Rollout {
    Rollout {
        canary: 1,
        waves: [25, 75, 100].map(|all| Wave::Share(Share::Percent(all))).into(),
        max_unavailable: Share::Count(2),
        max_failed: Share::Count(0),
        max_unreachable: Share::Percent(40),
        bake: Millis(30_000),
        on_failure: OnFailure::Rollback,
    }
}

/// So many nodes, and so many slices with slivers on so many nodes each.
fn services(nodes: u32, slices: u32, each: u32, rollout: &Rollout) -> DesiredFleet {
    let mut made = fleet(nodes, 1);
    let checked = |slice: &&Arc<Slice>| slice.slivers.values().all(|(_, sliver)| sliver.health.is_some());
    let like = made
        .slices
        .values()
        .find(checked)
        .unwrap()
        .slivers
        .values()
        .next()
        .unwrap()
        .1
        .clone();
    made.slices = (0..slices)
        .map(|number| {
            let name = SliceName::new(&format!("web-{number:02}")).unwrap();
            let sliver = |(number, node): (u32, _)| {
                let mut sliver = like.clone();
                sliver.id = SliverId::new(name.clone(), number);
                sliver.uuid = DomainUuid::of(&made.name, &sliver.id);
                sliver.rollout = rollout.clone();
                (number, (node, sliver))
            };
            let places = made.nodes.keys().cloned().cycle().skip(number as usize);
            let slivers = (0..each).zip(places).map(sliver);
            let slivers = slivers.collect();
            (name, Arc::new(Slice { slivers }))
        })
        .collect();
    made
}

fn commit(number: u64, fleet: DesiredFleet) -> Commit {
    Commit {
        revision: revision(1, number),
        fleet,
    }
}

/// A patched template below all slices, one after the other.
fn patched(before: DesiredFleet, times: u64) -> Story {
    let mut last = before.clone();
    let mut pushes = Vec::new();
    for number in 1..=times {
        last = pushed(&last, Push::TemplateForAll, number, &mut Draw::new(1));
        pushes.push((60_000 + (number - 1) * 150_000, commit(number, last.clone())));
    }
    Story {
        seed: 1,
        before: commit(0, before),
        pushes,
        faults: Vec::new(),
        approves_ms: 60_000,
        patience_ms: 8 * HOUR,
    }
}

fn tell(story: &Story) -> Outcome {
    story.tell().unwrap_or_else(|broken| panic!("{broken}"))
}

/// The slivers that something was done to.
fn changed(outcome: &Outcome) -> BTreeSet<&SliverId> {
    let steps = outcome
        .trace
        .steps()
        .iter()
        .filter(|step| step.shade == Shade::Changing);
    steps.map(|step| &step.sliver).collect()
}

fn all_done(outcome: &Outcome) {
    for slice in &outcome.slices {
        assert_eq!(slice.verdict, Verdict::Done, "{}: {:?}", slice.slice, slice.waits);
    }
}

/// The slivers of the one slice of a push, in the order in which they change.
fn order(story: &Story, policy: &Rollout) -> Vec<u32> {
    let after = &story.pushes[0].1;
    let slice = after.fleet.slices.values().next().unwrap();
    let whereabouts = after.fleet.whereabouts();
    let placed = slice.slivers.iter().map(|(number, (node, _))| {
        let (node, at) = (node.clone(), whereabouts[node].clone());
        (*number, Placed { node, at })
    });
    let placed: BTreeMap<u32, Placed> = placed.collect();
    let key = RolloutKey {
        revision: rollout_revision(slice.slivers.values().map(|(_, sliver)| sliver)),
        commit: after.revision.clone(),
    };
    Waves::new(policy, &placed, Waves::seed(&key)).order()
}

/// The number by which faults name the node of a sliver of the one slice of a push.
fn node_of(story: &Story, number: u32) -> usize {
    let slice = story.pushes[0].1.fleet.slices.values().next().unwrap();
    let (node, _) = &slice.slivers[&number];
    story.nodes().iter().position(|name| name == node).unwrap()
}

fn reached(outcome: &Outcome, branches: &[&str]) {
    let missed: Vec<_> = branches
        .iter()
        .filter(|branch| outcome.reach.count(branch) == 0)
        .collect();
    assert!(missed.is_empty(), "not reached: {missed:?}");
}

#[test]
fn a_bad_revision_that_shows_at_the_77th_of_100() {
    let story = patched(services(100, 1, 100, &policy()), 1);
    let bad = order(&story, &policy())[76];
    let name = &SliceName::new("web-00").unwrap();
    let number = story.number_of(name).unwrap();
    let outcome = tell(&story.with_bad(number, bad..bad + 1));
    let [slice] = outcome.slices.as_slice() else {
        panic!("one rollout")
    };
    assert!(
        matches!(slice.verdict, Verdict::Failed { .. }),
        "{:?}",
        slice.verdict
    );
    assert_eq!(slice.failed, 1);
    // The waves before went through; who had not begun never does; all that had changed went back.
    let changed = changed(&outcome).len();
    assert!((76..100).contains(&changed), "{changed} were changed");
    let back = outcome.reach.count("goes back");
    assert_eq!(back, u64::try_from(changed).unwrap(), "each goes back, once");
}

#[test]
fn a_canary_that_never_becomes_healthy() {
    let outcome = tell(&patched(services(20, 1, 20, &policy()), 1).with_bad(0, 0..u32::MAX));
    let [slice] = outcome.slices.as_slice() else {
        panic!("one rollout")
    };
    assert!(
        matches!(slice.verdict, Verdict::Failed { .. }),
        "{:?}",
        slice.verdict
    );
    assert_eq!(changed(&outcome).len(), 1, "nobody but the canary was disturbed");
    assert_eq!(outcome.reach.count("goes back"), 1);
}

#[test]
fn a_commit_in_the_middle_of_a_rollout() {
    let outcome = tell(&patched(services(20, 2, 20, &policy()), 2));
    all_done(&outcome);
    let begun = |milestones: &[(u64, xeno_simulate::Milestone)]| {
        milestones
            .iter()
            .filter(|(_, one)| *one == xeno_simulate::Milestone::Begins)
            .count()
    };
    assert!(
        outcome.slices.iter().all(|slice| begun(&slice.milestones) == 2),
        "the second takes the first's place"
    );
}

#[test]
fn eighty_slices_changed_by_one_push() {
    let mut before = services(8, 80, 2, &policy());
    for node in before.nodes.values_mut() {
        node.memory.0 *= 2;
    }
    let outcome = tell(&patched(before, 1));
    all_done(&outcome);
    assert_eq!((outcome.slices.len(), changed(&outcome).len()), (80, 160));
}

#[test]
fn a_git_server_that_answers_slowly_or_not_at_all() {
    let mut story = patched(services(12, 2, 12, &policy()), 1);
    story.faults = vec![
        Fault {
            from_ms: 0,
            until_ms: 3 * HOUR,
            trouble: Trouble::GitLost,
        },
        Fault {
            from_ms: 3 * HOUR,
            until_ms: 5 * HOUR,
            trouble: Trouble::GitSlow,
        },
    ];
    let outcome = tell(&story);
    all_done(&outcome);
    let first = outcome.trace.steps().first().unwrap().at_ms;
    assert!(first > 3 * HOUR, "nothing happens to anybody until then");
}

#[test]
fn a_template_patch_to_every_slice_at_once() {
    let outcome = tell(&Story::generated(12, Push::TemplateForAll, 3));
    all_done(&outcome);
    assert_eq!(changed(&outcome).len(), outcome.slivers);
    let busiest = outcome.writes.values().max().copied().unwrap();
    assert!(
        busiest / 60 < 300,
        "the board is asked {} times a second",
        busiest / 60
    );
}

#[test]
fn a_clock_an_hour_off_on_ten_nodes() {
    let right = patched(services(20, 2, 20, &policy()), 1);
    let mut wrong = right.clone();
    wrong.faults = (0..10)
        .map(|node| Fault {
            from_ms: 0,
            until_ms: 2 * HOUR,
            trouble: Trouble::Clock {
                node,
                by_ms: if node % 2 == 0 { 3_600_000 } else { -3_600_000 },
            },
        })
        .collect();
    let (right, wrong) = (tell(&right), tell(&wrong));
    all_done(&wrong);
    assert!(
        wrong.ended_ms < right.ended_ms * 2,
        "{} s after {} s",
        wrong.ended_ms / 1000,
        right.ended_ms / 1000
    );
}

#[test]
fn a_person_stops_a_rollout_and_has_it_go_on() {
    let mut story = patched(services(8, 1, 8, &policy()), 1);
    story.faults = vec![Fault {
        from_ms: 80_000,
        until_ms: HOUR,
        trouble: Trouble::Paused { slice: 0 },
    }];
    let outcome = tell(&story);
    all_done(&outcome);
    reached(
        &outcome,
        &["paused by a person", "hold: paused", "wait: paused", "hold: wave"],
    );
}

#[test]
fn what_fails_waits_for_a_person_where_its_policy_says_so() {
    let policy = Rollout {
        on_failure: OnFailure::Hold,
        ..policy()
    };
    let outcome = tell(&patched(services(8, 1, 8, &policy), 1).with_bad(0, 0..u32::MAX));
    assert!(matches!(outcome.slices[0].verdict, Verdict::Held { .. }));
    assert_eq!(outcome.slices[0].failed, 1);
    reached(&outcome, &["verdict: held", "hold: held", "wait: held"]);
    assert_eq!(outcome.reach.count("goes back"), 0);
}

#[test]
fn nothing_new_begins_while_too_many_are_away() {
    let policy = Rollout {
        max_unreachable: Share::Count(1),
        ..policy()
    };
    let mut story = patched(services(10, 1, 10, &policy), 1);
    let away = |node| Fault {
        from_ms: 0,
        until_ms: 2 * HOUR,
        trouble: Trouble::Away { node },
    };
    story.faults = (0..3).map(away).collect();
    let outcome = tell(&story);
    all_done(&outcome);
    reached(&outcome, &["hold: too many away", "wait: too many away"]);
    let first = outcome.trace.steps().first().unwrap().at_ms;
    assert!(first > 2 * HOUR, "somebody changes after {} s", first / 1000);
}

/// Canaries that are away are replaced, but not more of them than a record has room for.
#[test]
fn more_canaries_are_away_than_can_be_replaced() {
    let policy = Rollout {
        canary: 280,
        max_unavailable: Share::Percent(100),
        max_unreachable: Share::Percent(100),
        ..policy()
    };
    let mut story = patched(services(300, 1, 300, &policy), 1);
    let canaries: Vec<u32> = order(&story, &policy).into_iter().take(280).collect();
    let away = canaries.into_iter().map(|number| Fault {
        from_ms: 0,
        until_ms: HOUR,
        trouble: Trouble::Away {
            node: node_of(&story, number),
        },
    });
    story.faults = away.collect();
    let outcome = tell(&story);
    all_done(&outcome);
    reached(&outcome, &["hold: no canary"]);
}

#[test]
fn a_site_that_is_changed_in_its_window_alone() {
    let mut before = services(6, 1, 6, &policy());
    for site in before.sites.values_mut() {
        site.policy.windows.weekly = vec![Window {
            days: Weekday::ALL.into(),
            from_min: 20 * 60,
            until_min: 22 * 60,
        }];
    }
    let mut story = patched(before, 1);
    story.patience_ms = 48 * HOUR;
    let outcome = tell(&story);
    all_done(&outcome);
    reached(&outcome, &["wait: window"]);
    let clock = |at_ms: u64| (BEGIN_MS + at_ms) / 60_000 % (24 * 60);
    let begun = outcome.trace.steps().iter();
    let mut begun = begun.filter(|step| step.shade == Shade::Changing);
    assert!(begun.all(|step| (20 * 60..23 * 60).contains(&clock(step.at_ms))));
}

#[test]
fn a_node_with_no_room_for_another_domain_beside_its_own() {
    let mut before = services(4, 1, 4, &policy());
    for slice in before.slices.values_mut() {
        for (_, sliver) in Arc::make_mut(slice).slivers.values_mut() {
            sliver.mounts[0].writable = WritableKind::ReadOnly;
        }
    }
    let memory = before.slices.values().next().unwrap().slivers[&0]
        .1
        .resources
        .memory;
    for node in before.nodes.values_mut() {
        node.memory.0 = memory.0 + memory.0 / 2;
    }
    let outcome = tell(&patched(before, 1));
    all_done(&outcome);
    reached(&outcome, &["no room beside"]);
}

/// A canary whose node cannot look at its domains keeps its slot, and does nothing with it.
#[test]
fn a_sliver_that_is_on_its_way_for_too_long_has_failed() {
    let mut story = patched(services(6, 1, 6, &policy()), 1);
    let canary = order(&story, &policy())[0];
    story.faults = vec![Fault {
        from_ms: 60_500,
        until_ms: HOUR,
        trouble: Trouble::Blind {
            node: node_of(&story, canary),
        },
    }];
    let outcome = tell(&story);
    reached(&outcome, &["on its way for too long", "blind"]);
    assert!(matches!(outcome.slices[0].verdict, Verdict::Failed { .. }));
}

#[test]
fn more_is_removed_than_a_node_may_remove_at_once() {
    let before = services(2, 8, 2, &policy());
    let after = pushed(&before, Push::Remove(5), 1, &mut Draw::new(1));
    let story = Story {
        seed: 1,
        before: commit(0, before),
        pushes: vec![(60_000, commit(1, after))],
        faults: Vec::new(),
        approves_ms: 60_000,
        patience_ms: 8 * HOUR,
    };
    let outcome = tell(&story);
    reached(&outcome, &["delete budget"]);
    let gone = outcome.trace.steps().iter();
    let gone: Vec<u64> = gone
        .filter(|step| step.shade == Shade::Gone)
        .map(|step| step.at_ms)
        .collect();
    assert_eq!(gone.len(), 10);
    assert!(
        gone[9] > gone[0] + HOUR,
        "two of each node in half an hour: {gone:?}"
    );
}
