//! Stories from the field: what others were woken at night for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xeno_model::desired::{DesiredFleet, OnFailure, Rollout, Share, Slice, Wave};
use xeno_model::id::{DomainUuid, SliceName, SliverId};
use xeno_model::normal::rollout_revision;
use xeno_model::units::Millis;
use xeno_reconciler::rollout::{Placed, RolloutKey, Verdict, Waves};
use xeno_simulate::{Commit, Draw, Fault, Outcome, Push, Shade, Story, Trouble, fleet, pushed, revision};

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

#[test]
fn a_bad_revision_that_shows_at_the_77th_of_100() {
    let story = patched(services(100, 1, 100, &policy()), 1);
    let after = &story.pushes[0].1;
    let (name, slice) = after.fleet.slices.first_key_value().unwrap();
    let whereabouts = after.fleet.whereabouts();
    let placed = slice.slivers.iter().map(|(number, (node, _))| {
        let (node, at) = (node.clone(), whereabouts[node].clone());
        (*number, Placed { node, at })
    });
    let key = RolloutKey {
        revision: rollout_revision(slice.slivers.values().map(|(_, sliver)| sliver)),
        commit: after.revision.clone(),
    };
    let placed: BTreeMap<u32, Placed> = placed.collect();
    let bad = Waves::new(&policy(), &placed, Waves::seed(&key)).order()[76];
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
