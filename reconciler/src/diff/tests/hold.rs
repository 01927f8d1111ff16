//! What must not happen now: windows, freezes, vetoes, ends, crash loops, and names that change.

use xeno_model::desired::SiteRule;
use xeno_model::id::SiteName;

use super::*;

#[test]
fn a_closed_window_holds_changes_and_never_repairs() {
    let mut world = settled();
    world.close_windows();
    world.want("web/0").resources.vcpus = 2;
    let (class, why, steps) = story(&world);
    assert_eq!((class, steps.len()), (ChangeClass::Wait, 0));
    assert!(
        why[0].contains("maintenance window of site cambridge opens on"),
        "{why:?}"
    );
    assert!(world.plan().next.is_some());
    world.domains().ours.remove(&id("web/0"));
    assert_eq!(
        story(&world).0,
        ChangeClass::Start,
        "what is down anyway starts as it should be"
    );
}

#[test]
fn what_is_frozen_is_left_alone() {
    let mut world = settled();
    world.freeze("web/0");
    assert_eq!(story(&world).0, ChangeClass::Keep);
    world.domains().ours.remove(&id("web/0"));
    let (class, why, steps) = story(&world);
    assert_eq!((class, steps.len()), (ChangeClass::Wait, 0));
    assert_eq!(why[0], "frozen by eve (audit) until somebody thaws it");
}

#[test]
fn what_the_site_forbids_is_stopped_and_kept() {
    let mut world = settled();
    world.desired.site.site = Some(SiteName::new("cambridge").unwrap());
    let rule = SiteRule::VetoedSlice(id("web/0").slice);
    world.desired.ruled_out.insert(id("web/0"), rule);
    let (class, why, steps) = story(&world);
    assert_eq!(class, ChangeClass::Stop);
    assert_eq!(steps, ["shutdown:web/0", "unexport:web/0", "close:web/0"]);
    assert!(
        why.iter().any(|why| why.contains("does not run the slice web")),
        "{why:?}"
    );
    let settled = world.settle();
    let (class, why, _) = story(&settled);
    assert_eq!(
        (class, why.len()),
        (ChangeClass::Keep, 1),
        "it stays, and says why"
    );
}

#[test]
fn what_is_over_is_stopped_and_kept() {
    let mut world = settled();
    world.want("web/0").expires = Some(Timestamp(world.now + 1));
    assert_eq!(world.plan().next, Some(Timestamp(world.now + 1)));
    world.now += 1;
    let (class, _, steps) = story(&world);
    assert_eq!(class, ChangeClass::Stop);
    assert!(!steps.contains(&"tombstone:web/0".to_owned()));
}

#[test]
fn a_crash_loop_slows_down_and_a_clock_set_back_does_not_wedge_it() {
    let mut world = settled();
    world.domains().ours.remove(&id("web/0"));
    let now = world.now;
    let mut after = |ago: &[u64]| {
        let times = ago.iter().map(|ago| Timestamp(now - ago)).collect();
        world.restarts.insert(id("web/0"), times);
        story(&world).0
    };
    assert_eq!(after(&[]), ChangeClass::Start);
    assert_eq!(after(&[9_999]), ChangeClass::Wait);
    assert_eq!(after(&[10_000]), ChangeClass::Start);
    assert_eq!(after(&[60_000, 30_000, 19_000]), ChangeClass::Wait);
    assert_eq!(after(&[60_000, 50_000, 40_000]), ChangeClass::Start);
    let ahead = BTreeMap::from([(id("web/0"), vec![Timestamp(now + 1_000_000)])]);
    world.restarts = ahead;
    assert_eq!(story(&world).0, ChangeClass::Start);
}

#[test]
fn another_name_takes_over_and_removes_nothing() {
    let mut world = settled();
    world.desired.delete_budget.slivers = 0;
    let mut heir = sliver("site/0");
    heir.moved_from = Some(id("web/0"));
    world.unwant("web/0");
    world.desired.slivers.insert(heir.id.clone(), heir);
    let plan = world.plan();
    assert_eq!(check::check(&plan, &world.input()), []);
    let keys = keys(&plan);
    let at = |key: &str| {
        keys.iter()
            .position(|found| found == key)
            .unwrap_or_else(|| panic!("{keys:?}"))
    };
    assert!(at("close:web/0") < at("adopt:site/0") && at("adopt:site/0") < at("open:site/0"));
    assert!(!keys.contains(&"tombstone:web/0".to_owned()));
    assert_eq!(plan.changes[&id("web/0")].class, ChangeClass::HandOver);
    // Together or not at all.
    world.freeze("web/0");
    assert!(world.plan().actions.is_empty());
}

#[test]
fn a_disk_that_is_not_safe_is_mended_outside_the_window() {
    let mut world = settled();
    world.close_windows();
    world.want("web/0").resources.memory_max = Some(Bytes(1 << 30));
    let up = world.clone();
    assert_eq!(story(&up).0, ChangeClass::InPlace);
    // What was set aside is deleted once it has been long enough.
    world.storage("web/0").tombstone = Some(Timestamp(1));
    let (class, why, steps) = story(&world);
    assert_eq!(class, ChangeClass::Reboot, "{why:?}");
    assert!(steps.contains(&"revive:web/0".to_owned()), "{steps:?}");
    // What is open under an older right to run may have been opened elsewhere since.
    let mut world = up;
    world.applied.get_mut(&id("web/0")).unwrap().epoch = Epoch(2);
    let (class, why, steps) = story(&world);
    assert_eq!(class, ChangeClass::Reboot, "{why:?}");
    assert!(steps.contains(&"open:web/0".to_owned()), "{steps:?}");
}
