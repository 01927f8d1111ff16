//! Rollouts step by step, with one hand on everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xeno_model::desired::{Matching, OnFailure, Rollout, Share, Wave, Whereabouts};
use xeno_model::id::{Digest, NodeName, Revision, SiteName, Timestamp};
use xeno_model::units::Millis;

use super::*;

pub(super) fn key(n: u8) -> RolloutKey {
    RolloutKey {
        revision: Digest([n; 32]),
        commit: Revision::new(&format!("{n:02x}").repeat(20)).unwrap(),
    }
}

pub(super) fn node(number: u32) -> NodeName {
    NodeName::new(&format!("n{number}")).unwrap()
}

pub(super) fn signed(by: &str) -> Signed<'_> {
    Signed { at: Timestamp(0), by }
}

/// As many slivers, each on a node of its own, at sites in turn.
pub(super) fn placement(slivers: u32, sites: u32) -> BTreeMap<u32, Placed> {
    let placed = |number| Placed {
        node: node(number),
        at: Arc::new(Whereabouts {
            site: SiteName::new(&format!("s{}", number % sites)).unwrap(),
            region: None,
            labels: [("rack".to_owned(), (number / sites).to_string())].into(),
        }),
    };
    (0..slivers).map(|number| (number, placed(number))).collect()
}

fn policy() -> Rollout {
    Rollout {
        canary: 1,
        waves: vec![Wave::Share(Share::Percent(50)), Wave::Share(Share::Percent(100))],
        max_unavailable: Share::Count(1),
        ..Rollout::default()
    }
}

/// A slice of six slivers in the middle of a rollout, and what is known of it.
struct Story {
    record: RolloutRecord,
    waves: Waves,
    placement: BTreeMap<u32, Placed>,
    snapshot: Snapshot,
}

impl Story {
    fn new(policy: &Rollout) -> Self {
        let first = begin(None, key(1), policy, true, signed("n0"));
        assert_eq!(first.verdict, Verdict::Done, "there is nothing to go back to");
        let record = begin(Some(&first), key(2), policy, false, signed("n0"));
        assert_eq!(record.good, Some(key(1)));
        let placement = placement(6, 3);
        let mut story = Self {
            waves: Waves::new(policy, &placement, Waves::seed(&record.to)),
            placement,
            record,
            snapshot: Snapshot::default(),
        };
        for number in 0..6 {
            story.says(number, 1, Condition::Healthy);
        }
        story
    }

    fn says(&mut self, number: u32, revision: u8, condition: Condition) {
        let summary = SliverSummary {
            revision: key(revision).revision,
            condition,
            since: Timestamp(0),
        };
        self.snapshot.slivers.insert(number, summary);
    }

    fn away(&mut self, numbers: &[u32]) {
        self.snapshot.away = numbers.iter().map(|number| node(*number)).collect();
    }

    fn with_own<T>(&self, number: u32, runs: Runs, then: impl FnOnce(Own<'_>, Outside<'_>) -> T) -> T {
        let tally = Tally::of(&self.record, &self.waves, &self.placement, &self.snapshot);
        let node = node(number);
        let own = Own {
            number,
            node: &node,
            runs,
            wanted: Wanted::This,
        };
        let outside = Outside {
            waves: &self.waves,
            away: tally.away,
            away_nodes: &self.snapshot.away,
        };
        then(own, outside)
    }

    fn turn(&self, number: u32, runs: Runs) -> Turn {
        self.with_own(number, runs, |own, outside| {
            may_change(Some(&self.record), own, outside)
        })
    }

    fn takes(&mut self, number: u32, runs: Runs) {
        let next = self.with_own(number, runs, |own, outside| self.record.take_slot(own, outside));
        self.record = next.unwrap();
    }

    fn decides(&self, healthy_ms: u64) -> Decision {
        let tally = Tally::of(&self.record, &self.waves, &self.placement, &self.snapshot);
        decide(&self.record, &self.waves, &tally, healthy_ms)
    }

    fn goes_on(&mut self, healthy_ms: u64) {
        let Decision::Proceed(proposal) = self.decides(healthy_ms) else {
            panic!("{:?}", self.decides(healthy_ms));
        };
        self.record = self.record.go_on(&proposal, &self.waves, signed("n1")).unwrap();
    }

    fn holds(&self, healthy_ms: u64, expected: &str) {
        match self.decides(healthy_ms) {
            Decision::Hold(hold) => assert_eq!(hold.to_string(), expected),
            other => panic!("{other:?}"),
        }
    }

    fn waits(&self, number: u32, runs: Runs, expected: &str) {
        match self.turn(number, runs) {
            Turn::Wait(wait) => assert_eq!(wait.to_string(), expected),
            other => panic!("{other:?}"),
        }
    }

    /// A sliver changes, and is healthy.
    fn changes(&mut self, number: u32) {
        self.takes(number, Runs::Good);
        assert_eq!(self.turn(number, Runs::Good), Turn::Go(Aim::To));
        self.says(number, 2, Condition::Healthy);
        self.record = self.record.give_back(number, &node(number)).unwrap();
    }

    fn canary(&self) -> u32 {
        self.waves.order()[0]
    }

    fn fails(&mut self, number: u32) {
        let why = "its health check does not pass".to_owned();
        self.says(number, 2, Condition::Failed { why: why.clone() });
        let next = self.record.fail(number, &node(number), &why, 6, signed("n2"));
        self.record = next.unwrap();
    }
}

#[test]
fn wave_by_wave_to_the_end() {
    let mut story = Story::new(&policy());
    let order = story.waves.order();
    story.waits(
        order[1],
        Runs::Good,
        "it changes in wave 2 of 3, and wave 1 is under way",
    );
    let canary = order[0];
    story.holds(
        0,
        &format!("wave 1 of 3: 0 of 1 are healthy, and sliver {canary} is not yet"),
    );
    story.changes(canary);
    story.holds(12_000, "wave 1 of 3 has been healthy for 12 s of 30 s");
    story.goes_on(30_000);
    assert_eq!(story.record.wave, 1);
    story.takes(order[1], Runs::Good);
    let second = order[1];
    story.waits(
        order[2],
        Runs::Good,
        &format!("at most 1 may be down at once, and sliver {second} is being changed"),
    );
    story.says(second, 2, Condition::Healthy);
    story.record = story.record.give_back(second, &node(second)).unwrap();
    story.changes(order[2]);
    story.goes_on(30_000);
    for number in &order[3..] {
        story.changes(*number);
    }
    story.goes_on(30_000);
    assert_eq!(story.record.verdict, Verdict::Done);
    assert_eq!(story.record.proven(), Some(key(2)));
    assert_eq!(story.decides(u64::MAX), Decision::Settled);
}

#[test]
fn a_canary_that_fails_takes_all_back() {
    let mut story = Story::new(&policy());
    let canary = story.canary();
    story.takes(canary, Runs::Good);
    story.fails(canary);
    assert!(matches!(story.record.verdict, Verdict::Failed { .. }));
    assert!(story.record.slots.is_empty());
    assert_eq!(
        story.turn(canary, Runs::To),
        Turn::Go(Aim::Back),
        "straight, and without a canary"
    );
    assert_eq!(story.turn(canary, Runs::Good), Turn::Stay);
    let other = story.waves.order()[1];
    assert_eq!(story.turn(other, Runs::Good), Turn::Stay);
    assert_eq!(
        story.decides(u64::MAX),
        Decision::Settled,
        "the verdict is remembered"
    );
    // A commit that does not touch the slice asks for the same, and nothing is tried again.
    let later = RolloutKey {
        commit: key(3).commit,
        ..key(2)
    };
    assert_eq!(wanted(&story.record, &later, true), Wanted::This);
    // A commit that goes back is nothing but what there is; pushed again after it, it is tried again.
    assert_eq!(wanted(&story.record, &key(1), true), Wanted::Newer);
    let back = begin(Some(&story.record), key(1), &policy(), false, signed("n0"));
    assert_eq!(back.verdict, Verdict::Done);
    let again = begin(Some(&back), later.clone(), &policy(), false, signed("n0"));
    assert_eq!((again.verdict, again.to), (Verdict::Rolling, later));
}

#[test]
fn a_policy_may_hold_what_failed() {
    let mut story = Story::new(&Rollout {
        on_failure: OnFailure::Hold,
        ..policy()
    });
    let canary = story.canary();
    story.takes(canary, Runs::Good);
    story.fails(canary);
    story.holds(0, "held until a person decides: 1 of 6 slivers failed, and 0 may");
    assert_eq!(
        story.turn(canary, Runs::To),
        Turn::Stay,
        "it is repaired as what it is"
    );
    let resumed = story.record.resume(signed("ada")).unwrap();
    assert_eq!((resumed.verdict, resumed.failed.len()), (Verdict::Rolling, 0));
    let aborted = story.record.abort(signed("ada")).unwrap();
    assert_eq!(aborted.aim(), Aim::Back);
}

#[test]
fn some_may_fail() {
    let mut story = Story::new(&Rollout {
        canary: 0,
        max_failed: Share::Count(1),
        ..policy()
    });
    let order = story.waves.order();
    story.takes(order[0], Runs::Good);
    story.fails(order[0]);
    assert_eq!(story.record.verdict, Verdict::Rolling);
    story.changes(order[1]);
    story.changes(order[2]);
    story.goes_on(30_000);
    let recovered = story.record.recover(order[0], signed("n0")).unwrap();
    assert!(recovered.failed.is_empty());
    story.takes(order[3], Runs::Good);
    story.fails(order[3]);
    assert!(matches!(story.record.verdict, Verdict::Failed { .. }));
    assert_eq!(story.turn(order[3], Runs::To), Turn::Go(Aim::Back));
    // Those that are well go back one by one.
    assert_eq!(story.turn(order[1], Runs::To), Turn::Take(Aim::Back));
    story.takes(order[1], Runs::To);
    assert!(matches!(
        story.turn(order[2], Runs::To),
        Turn::Wait(Wait::Slots { .. })
    ));
    assert_eq!(story.turn(order[1], Runs::To), Turn::Go(Aim::Back));
}

#[test]
fn who_is_away_holds_up_nobody() {
    let mut story = Story::new(&policy());
    let order = story.waves.order();
    // The canary is away: another takes its place.
    story.away(&[order[0], order[3]]);
    story.goes_on(0);
    assert_eq!(story.record.skipped, [order[0]].into());
    assert_eq!(story.turn(order[1], Runs::Good), Turn::Take(Aim::To));
    story.changes(order[1]);
    story.goes_on(30_000);
    story.changes(order[2]);
    // It comes back, and joins where it is now.
    story.away(&[order[3]]);
    assert_eq!(story.turn(order[0], Runs::Good), Turn::Take(Aim::To));
    story.changes(order[0]);
    story.goes_on(30_000);
    for number in &order[4..] {
        story.changes(*number);
    }
    story.goes_on(30_000);
    assert_eq!(story.record.verdict, Verdict::Done);
    // The last one comes when all is over: it needs a slot, and no wave.
    story.away(&[]);
    story.changes(order[3]);
}

#[test]
fn too_many_away_hold_it() {
    let mut story = Story::new(&policy());
    let order = story.waves.order();
    story.away(&order[2..]);
    let why = "4 slivers are out of reach, and at most 3 may be while others change";
    story.waits(order[0], Runs::Good, why);
    story.holds(u64::MAX, why);
}

#[test]
fn a_slot_of_a_node_that_is_away_does_not_count() {
    let mut story = Story::new(&Rollout {
        canary: 0,
        ..policy()
    });
    let order = story.waves.order();
    story.takes(order[0], Runs::Good);
    assert!(matches!(
        story.turn(order[1], Runs::Good),
        Turn::Wait(Wait::Slots { .. })
    ));
    story.away(&order[..1]);
    story.takes(order[1], Runs::Good);
    story.away(&[]);
    assert_eq!(
        story.turn(order[0], Runs::Good),
        Turn::Go(Aim::To),
        "its slot is still its own"
    );
    assert!(matches!(
        story.turn(order[2], Runs::Good),
        Turn::Wait(Wait::Slots { .. })
    ));
}

#[test]
fn a_commit_in_the_middle_replaces_the_rollout() {
    let mut story = Story::new(&policy());
    let canary = story.canary();
    story.takes(canary, Runs::Good);
    assert_eq!(wanted(&story.record, &key(3), false), Wanted::Older);
    assert_eq!(wanted(&story.record, &key(3), true), Wanted::Newer);
    let next = begin(Some(&story.record), key(3), &policy(), false, signed("n0"));
    assert_eq!(next.good, Some(key(1)), "what came between was never good");
    assert_eq!(next.slots.len(), 1, "who is down is down");
    assert_eq!((next.wave, next.verdict), (0, Verdict::Rolling));
}

#[test]
fn who_has_not_read_the_commit_waits() {
    let story = Story::new(&policy());
    let canary = story.canary();
    let turn = |wanted| {
        story.with_own(canary, Runs::Good, |own, outside| {
            may_change(Some(&story.record), Own { wanted, ..own }, outside)
        })
    };
    let Turn::Wait(wait) = turn(Wanted::Older) else {
        panic!()
    };
    assert_eq!(
        wait.to_string(),
        "the rollout is of commit 02020202, which this node has not read yet"
    );
    assert_eq!(turn(Wanted::Newer), Turn::Wait(Wait::NotBegun));
}

#[test]
fn people_have_their_say() {
    let mut story = Story::new(&policy());
    let order = story.waves.order();
    let ada = signed("ada");
    story.takes(order[0], Runs::Good);
    story.record = story.record.pause(ada).unwrap();
    assert_eq!(
        story.turn(order[0], Runs::Good),
        Turn::Go(Aim::To),
        "what has begun is finished"
    );
    story.says(order[0], 2, Condition::Healthy);
    story.record = story.record.give_back(order[0], &node(order[0])).unwrap();
    story.holds(u64::MAX, "paused by ada");
    assert_eq!(
        story.record.pause(ada).unwrap_err().to_string(),
        "it is paused already, by ada"
    );
    let promoted = story.record.promote(false, &story.waves, ada).unwrap();
    assert_eq!((promoted.wave, &promoted.verdict), (1, &Verdict::Rolling));
    let all = story.record.promote(true, &story.waves, ada).unwrap();
    assert_eq!(all.wave, 2);
    assert_eq!(
        all.promote(true, &story.waves, ada).unwrap_err().to_string(),
        "its last wave has begun"
    );
    let aborted = story.record.abort(ada).unwrap();
    story.record = aborted;
    assert_eq!(story.turn(order[0], Runs::To), Turn::Take(Aim::Back));
    assert!(story.record.pause(ada).is_err());
    let retried = story.record.resume(ada).unwrap();
    assert_eq!((retried.wave, retried.verdict), (0, Verdict::Rolling));
    let done = RolloutRecord {
        verdict: Verdict::Done,
        ..story.record.clone()
    };
    let undone = done.undo(ada).unwrap();
    assert_eq!(undone.aim(), Aim::Back);
    assert_eq!(undone.proven(), Some(key(1)));
    assert!(done.abort(ada).is_err());
}

#[test]
fn canaries_are_spread_over_sites_and_waves_over_all() {
    let placement = placement(12, 4);
    let policy = Rollout {
        canary: 4,
        waves: [Share::Count(2), Share::Percent(50), Share::Percent(100)]
            .map(Wave::Share)
            .into(),
        ..policy()
    };
    let waves = Waves::new(&policy, &placement, 7);
    assert_eq!(waves.count(), 3, "a wave that brings nobody is none");
    let of = |wave| {
        let all = placement.keys().copied();
        all.filter(|number| waves.of(*number, &BTreeSet::new()) == Some(wave))
            .collect::<Vec<_>>()
    };
    let sites: BTreeSet<_> = of(0).iter().map(|number| number % 4).collect();
    assert_eq!(sites.len(), 4);
    assert_eq!([of(0).len(), of(1).len(), of(2).len()], [4, 2, 6]);
    assert_ne!(waves.order(), Waves::new(&policy, &placement, 8).order());
    // Two that are away: two others are canaries, and those two come later.
    let skipped: BTreeSet<u32> = of(0).into_iter().take(2).collect();
    let canaries: Vec<u32> = placement
        .keys()
        .copied()
        .filter(|number| waves.of(*number, &skipped) == Some(0))
        .collect();
    assert_eq!(canaries.len(), 4);
    assert!(
        skipped
            .iter()
            .all(|number| waves.of(*number, &skipped) == Some(1))
    );
}

#[test]
fn waves_take_sites_and_labels_and_the_rest_comes_last() {
    // Racks 0 to 2, each with a sliver at each of four sites.
    let placement = placement(12, 4);
    let matching = |key: &str, value: &str| Wave::Match(Matching([(key.into(), value.into())].into()));
    let policy = Rollout {
        waves: vec![
            matching("site", "s1"),
            matching("site", "nowhere"),
            matching("rack", "0"),
            Wave::Share(Share::Percent(75)),
        ],
        ..policy()
    };
    let waves = Waves::new(&policy, &placement, 7);
    let of = |waves: &Waves| {
        let all = 0..waves.count();
        all.map(|wave| {
            let numbers = placement.keys().copied();
            numbers
                .filter(|number| waves.of(*number, &BTreeSet::new()) == Some(wave))
                .collect()
        })
        .collect::<Vec<Vec<u32>>>()
    };
    let found = of(&waves);
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 3, 3, 3]);
    let s1 = [&found[0][..], &found[1]].concat();
    assert!(
        s1.iter().all(|number| number % 4 == 1),
        "the canary is of the first wave"
    );
    // The one at that site has had its turn.
    assert_eq!(found[2], [0, 2, 3]);
    let rest = |number: &u32| number % 4 != 1 && number / 4 > 0;
    assert!(found[3].iter().chain(&found[4]).all(rest), "{found:?}");
    let says = (0..waves.count()).map(|wave| waves.matching(wave).map(ToString::to_string));
    let site = Some("{ site: s1 }".to_owned());
    assert_eq!(
        says.collect::<Vec<_>>(),
        [None, site.clone(), Some("{ rack: 0 }".into()), None, None]
    );
    // A first wave with too few for all canaries: others go with them, and nobody of it is left for later.
    let many = Rollout { canary: 5, ..policy };
    let waves = Waves::new(&many, &placement, 7);
    let found = of(&waves);
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [5, 1, 3, 3]);
    assert!([1, 5, 9].iter().all(|number| found[0].contains(number)));
    assert_eq!(
        waves.matching(1).map(ToString::to_string),
        Some("{ rack: 0 }".into())
    );
    // All in one wave by its name: nobody is left for another.
    let one = Rollout {
        canary: 0,
        waves: vec![Wave::Match(Matching::default())],
        ..many
    };
    assert_eq!(Waves::new(&one, &placement, 7).count(), 1);
}

#[test]
fn a_witness_counts_only_what_it_sees_without_a_break() {
    let mut story = Story::new(&policy());
    let mut witness = Witness::default();
    let canary = story.canary();
    let mut looks = |story: &Story, now| {
        let tally = Tally::of(&story.record, &story.waves, &story.placement, &story.snapshot);
        witness.look(&story.record, &story.waves, &tally, now)
    };
    assert_eq!(looks(&story, 0), 0);
    story.changes(canary);
    assert_eq!(looks(&story, 1_000), 0);
    assert_eq!(looks(&story, 31_000), 30_000);
    story.says(canary, 2, Condition::Changing);
    assert_eq!(looks(&story, 32_000), 0);
    story.says(canary, 2, Condition::Healthy);
    assert_eq!(looks(&story, 33_000), 0);
    assert_eq!(looks(&story, 34_000), 1_000);
}

#[test]
fn records_stay_small() {
    let mut record = begin(None, key(1), &policy(), true, signed("n0"));
    for number in 0..3 * HISTORY_MAX {
        let why = "€".repeat(number);
        record = begin(Some(&record), key(2), &policy(), false, signed(&why));
    }
    assert_eq!(record.history.len(), HISTORY_MAX);
    assert!(record.history.iter().all(|line| line.by.len() <= TEXT_LEN_MAX));
    let huge = Rollout {
        max_unavailable: Share::Percent(100),
        ..policy()
    };
    let record = begin(None, key(1), &huge, true, signed("n0"));
    assert_eq!(record.slots_max(100_000), SLOTS_MAX);
    let none = Rollout {
        max_unavailable: Share::Percent(0),
        max_unreachable: Share::Count(0),
        bake: Millis(0),
        ..policy()
    };
    assert_eq!(begin(None, key(1), &none, true, signed("n0")).slots_max(6), 1);
}

#[test]
fn a_slot_goes_with_its_sliver_to_the_node_that_a_commit_places_it_on() {
    let mut story = Story::new(&policy());
    let canary = story.waves.order()[0];
    story.takes(canary, Runs::Good);
    // The next commit places it elsewhere, in the middle of its change.
    let (from, to) = (node(canary), node(40));
    let here = |story: &Story, runs| {
        story.with_own(canary, runs, |own, outside| {
            may_change(Some(&story.record), Own { node: &to, ..own }, outside)
        })
    };
    assert_eq!(here(&story, Runs::Nothing), Turn::Take(Aim::To));
    // Whoever has made something of it before waits until the slot is given back.
    assert!(matches!(here(&story, Runs::Good), Turn::Wait(Wait::Slots { .. })));
    let next = story.with_own(canary, Runs::Nothing, |own, outside| {
        story.record.take_slot(Own { node: &to, ..own }, outside)
    });
    story.record = next.unwrap();
    assert_eq!(story.record.slots, BTreeMap::from([(canary, to.clone())]));
    assert_eq!(here(&story, Runs::Nothing), Turn::Go(Aim::To));
    // The one that had it does not take it back.
    assert!(
        matches!(story.turn(canary, Runs::Good), Turn::Wait(Wait::Slots { .. })),
        "{from}"
    );
}
