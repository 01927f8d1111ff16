//! Memory in images: stored, sealed, resumed once, and never over another disk.

use xeno_model::desired::Start;
use xeno_model::observed::ObservedImage;

use super::*;
use crate::action::Action;
use crate::change::ImageMisfit;
use crate::testing::remote_to_write;

/// A settled node on which web/0 is suspended, and wanted to run again.
fn woken() -> World {
    let mut world = settled();
    world.want("web/0").state = SliverState::Suspended;
    let mut world = world.settle();
    world.want("web/0").state = SliverState::Running;
    world
}

fn image(world: &mut World) -> &mut ObservedImage {
    world.domains().images.get_mut(&id("web/0")).unwrap()
}

#[test]
fn memory_is_stored_and_sealed_with_the_closed_disk() {
    let mut world = settled();
    world.want("web/0").state = SliverState::Suspended;
    check(
        &world,
        ChangeClass::Suspend,
        &[
            "state running → suspended",
            "should be suspended; its memory and what it wrote are kept",
        ],
        &["suspend:web/0", "unexport:web/0", "close:web/0", "seal:web/0"],
    );
    world.domains().able.clear();
    assert_eq!(
        story(&world).0,
        ChangeClass::Wait,
        "a driver that cannot is not asked to"
    );
}

#[test]
fn it_goes_on_from_its_image() {
    check(
        &woken(),
        ChangeClass::Resume,
        &["state suspended → running"],
        &["open:web/0", "stack:web/0", "export:web/0", "resume:web/0"],
    );
}

#[test]
fn an_image_over_another_disk_waits_for_a_person() {
    let mut world = woken();
    world.storage("web/0").mark = Some(Digest([9; 32]));
    let plan = world.plan();
    assert!(plan.actions.is_empty());
    let change = &plan.changes[&id("web/0")];
    assert_eq!(
        change.reasons[0],
        Reason::ImageStale {
            what: ImageMisfit::Disk
        }
    );
    // The way on: to give the image up.
    world.want("web/0").state = SliverState::Stopped;
    assert_eq!(story(&world).2, ["discard:web/0"]);
    // A slice that starts as it can says so beforehand.
    world.want("web/0").state = SliverState::Running;
    world.want("web/0").start = Start::Resume;
    let (class, why, steps) = story(&world);
    assert_eq!(class, ChangeClass::Start);
    assert!(why.iter().any(|why| why.contains("cannot be used")), "{why:?}");
    assert!(steps.contains(&"discard:web/0".to_owned()) && steps.contains(&"boot:web/0".to_owned()));
}

#[test]
fn what_cannot_be_told_is_not_resumed() {
    let mut world = woken();
    world.storage("web/0").mark = None;
    assert_eq!(story(&world).0, ChangeClass::Wait);
}

#[test]
fn what_lies_in_a_directory_that_is_not_mounted_is_looked_at_once_it_is() {
    let mut world = World::wanting([remote_to_write("web/0")]).settle();
    world.want("web/0").state = SliverState::Suspended;
    let mut world = world.settle();
    world.want("web/0").state = SliverState::Running;
    // The node was booted again: nothing is mounted, and what lies there nobody knows.
    world.observed.remotes = Seen::Known(BTreeMap::new());
    world.storage("web/0").mark = None;
    let plan = world.plan();
    assert_eq!(plan.changes[&id("web/0")].class, ChangeClass::Resume);
    let keys = keys(&plan);
    assert!(keys.iter().any(|key| key.starts_with("mount:")), "{keys:?}");
    assert_eq!(keys.last().map(String::as_str), Some("resume:web/0"));
    assert_eq!(check::check(&plan, &world.input()), []);
    // Before the guest goes on, the image is compared with what is there.
    let compared = plan
        .actions
        .iter()
        .any(|planned| matches!(&planned.action, Action::Resume { mark: Some(_), .. }));
    assert!(compared);
    // One that was never sealed cannot be.
    image(&mut world).mark = None;
    assert_eq!(world.class("web/0"), ChangeClass::Wait);
    // Neither is one that is mounted and cannot be read.
    let mut world = woken();
    world.storage("web/0").mark = None;
    assert_eq!(world.class("web/0"), ChangeClass::Wait);
}

#[test]
fn an_image_of_another_boot_or_domain_is_not_resumed() {
    let mut world = woken();
    image(&mut world).boot = Digest([9; 32]);
    assert_eq!(story(&world).0, ChangeClass::Wait);
    let mut world = woken();
    image(&mut world).uuid = xeno_model::id::DomainUuid([9; 16]);
    assert_eq!(story(&world).0, ChangeClass::Wait);
}

#[test]
fn an_image_that_is_not_sealed_is_sealed_first() {
    let mut world = woken();
    image(&mut world).mark = None;
    let (class, _, steps) = story(&world);
    assert_eq!(class, ChangeClass::Resume);
    assert!(steps.contains(&"seal:web/0".to_owned()));
}

#[test]
fn a_lost_image_means_a_new_start() {
    let mut world = woken();
    world.domains().images.clear();
    let (class, why, _) = story(&world);
    assert_eq!(class, ChangeClass::Start);
    assert!(
        why.iter().any(|why| why.contains("no image of its memory")),
        "{why:?}"
    );
}

#[test]
fn a_domain_that_stands_still_goes_on() {
    let mut world = settled();
    world.domains().ours.get_mut(&id("web/0")).unwrap().state = DomainState::Paused;
    check(
        &world,
        ChangeClass::InPlace,
        &["its domain stands still, and is let go on"],
        &["unpause:web/0"],
    );
}

#[test]
fn a_slice_that_resumes_is_stopped_with_its_memory() {
    let mut world = settled();
    world.want("web/0").start = Start::Resume;
    let mut world = world.settle();
    world.want("web/0").state = SliverState::Stopped;
    let (class, _, steps) = story(&world);
    assert_eq!(class, ChangeClass::Stop);
    assert_eq!(steps[0], "suspend:web/0");
    world.unwant("web/0");
    world.desired.slivers.insert(id("keep/0"), sliver("keep/0"));
    assert!(keys(&world.plan()).contains(&"suspend:web/0".to_owned()));
}

#[test]
fn memory_is_not_given_up_for_what_another_wrote() {
    let mut world = settled();
    world.want("web/0").state = SliverState::Suspended;
    let mut world = world.settle();
    // Its layers are gone but for what another wrote under the name that it goes by now; it has none to lose.
    let web = world.want("web/0");
    web.state = SliverState::Running;
    web.start = Start::Resume;
    web.mounts[0].writable = WritableKind::ReadOnly;
    web.moved_from = Some(id("old/0"));
    let boot = xeno_model::normal::boot_digest(web);
    *world.storage("web/0") = ObservedStorage::default();
    let image = world.domains().images.get_mut(&id("web/0")).unwrap();
    (image.boot, image.mark) = (boot, None);
    assert_eq!(story(&world).0, ChangeClass::Resume);
    world.storage("old/0").on_disk = true;
    let (class, why, steps) = story(&world);
    assert_eq!((class, steps.len()), (ChangeClass::Wait, 0), "{why:?}");
    assert!(why[0].contains("writable layers have changed"), "{why:?}");
}
