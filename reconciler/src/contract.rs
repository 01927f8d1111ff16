//! What every hypervisor keeps to, as stories that run over any of them.
//!
//! The name of each is in [`STORIES`]; [`run`] tells one in a [`World`]: a driver, and what a test must do to its surroundings that no
//! driver does. A story asserts, so a broken promise is a panic with the story's name. It begins and ends with a world
//! without domains of ours and without images.
//!
//! The stories say nothing of how long things take, and look only through [`Hypervisor`] and [`World`].

pub mod moves;

use std::collections::BTreeSet;
use std::future::Future;

use xeno_model::desired::Publish;
use xeno_model::id::{Digest, SliverId};
use xeno_model::observed::{Ability, DomainState, Domains, ObservedDomain};
use xeno_model::units::BitRate;

use crate::ports::{DomainSpec, Grace, Hypervisor, PortResult, Retry, Tuning};

/// A node that stories are told on.
pub trait World {
    /// What drives it.
    type Driver: Hypervisor;

    /// The driver.
    fn driver(&self) -> &Self::Driver;

    /// Lets another driver take the place of this one, as after the agent's restart. What the old one kept in memory is
    /// lost.
    fn restart(&mut self);

    /// What a small guest of this name is started from; it can be shut down, suspended, and given half its memory.
    fn spec(&self, sliver: &str) -> DomainSpec;

    /// Ports of the node that nobody uses.
    fn free_port(&self) -> u16;

    /// Makes the guest's surroundings ready: what is mounted by it is served.
    fn prepare(&self, spec: &DomainSpec) -> impl Future<Output = ()>;

    /// Waits until a running guest is so far that it can be asked to stop.
    fn settle(&self, spec: &DomainSpec) -> impl Future<Output = ()>;

    /// Ends the domain behind the driver's back, as a power failure of the guest would.
    fn kill(&self, sliver: &SliverId) -> impl Future<Output = ()>;

    /// Stops the domain's processors behind the driver's back.
    fn freeze(&self, sliver: &SliverId) -> impl Future<Output = ()>;

    /// Starts a domain that is nobody's sliver; its name in the listing of strangers.
    fn make_stranger(&self) -> impl Future<Output = String>;

    /// Whether that domain still runs, by something else than the driver's word.
    fn stranger_runs(&self) -> impl Future<Output = bool>;

    /// Takes the stranger away again.
    fn end_stranger(&self) -> impl Future<Output = ()>;

    /// Makes that the driver cannot look, or can again; `false` where this world has no way to.
    fn blind(&mut self, blind: bool) -> bool;

    /// What the guest's disk is like; it is not served any more, until the next [`World::prepare`].
    fn disk_mark(&self, spec: &DomainSpec) -> Digest;

    /// Whether the driver refuses what breaks a rule of the node. One that carries it out, and notes it in
    /// [`World::broken`], is asked for nothing of the kind.
    fn refuses(&self) -> bool;

    /// Rules of the node that were broken, where it knows.
    fn broken(&self) -> Vec<String>;
}

/// The stories, by name.
pub const STORIES: [&str; 12] = [
    "a_domain_boots_once_and_is_gone_after_its_shutdown",
    "a_domain_is_found_again_by_another_driver",
    "a_boot_as_something_else_is_refused",
    "a_domain_that_died_is_not_there_and_boots_again",
    "what_is_not_there_is_shut_down_and_unpublished_already",
    "a_domain_of_others_is_shown_and_left_alone",
    "a_domain_that_stands_still_is_seen_and_goes_on",
    "a_running_domain_takes_other_limits",
    "a_domain_is_suspended_sealed_and_resumed_once",
    "an_image_outlives_its_driver_and_is_discarded",
    "an_image_that_does_not_fit_is_refused_and_stays",
    "what_could_not_be_seen_is_an_error_and_no_absence",
];

/// Tells one story.
///
/// # Panics
/// If a promise is broken, or there is no such story.
pub async fn run<W: World>(name: &str, world: &mut W) {
    let domains = see(world).await;
    assert!(
        domains.ours.is_empty() && domains.images.is_empty(),
        "{name}: the node is not empty: {domains:?}"
    );
    match name {
        "a_domain_boots_once_and_is_gone_after_its_shutdown" => boots_once(world).await,
        "a_domain_is_found_again_by_another_driver" => is_found_again(world).await,
        "a_boot_as_something_else_is_refused" => another_boot(world).await,
        "a_domain_that_died_is_not_there_and_boots_again" => died(world).await,
        "what_is_not_there_is_shut_down_and_unpublished_already" => nothing_there(world).await,
        "a_domain_of_others_is_shown_and_left_alone" => stranger(world).await,
        "a_domain_that_stands_still_is_seen_and_goes_on" => stands_still(world).await,
        "a_running_domain_takes_other_limits" => limits(world).await,
        "a_domain_is_suspended_sealed_and_resumed_once" => suspended(world).await,
        "an_image_outlives_its_driver_and_is_discarded" => discarded(world).await,
        "an_image_that_does_not_fit_is_refused_and_stays" => unfit(world).await,
        "what_could_not_be_seen_is_an_error_and_no_absence" => unseen(world).await,
        _ => panic!("there is no story {name}"),
    }
    let domains = see(world).await;
    assert!(
        domains.ours.is_empty() && domains.images.is_empty(),
        "{name}: it leaves something: {domains:?}"
    );
    assert_eq!(
        world.broken(),
        Vec::<String>::new(),
        "{name}: rules of the node were broken"
    );
}

const NOW: Grace = Grace { ms: 0 };

async fn see<W: World>(world: &W) -> Domains {
    world.driver().observe().await.expect("the node can be seen")
}

async fn domain<W: World>(world: &W, spec: &DomainSpec) -> ObservedDomain {
    let mut domains = see(world).await;
    let found = domains.ours.remove(&spec.sliver);
    found.unwrap_or_else(|| panic!("{} has no domain: {domains:?}", spec.sliver))
}

async fn booted<W: World>(world: &W, sliver: &str) -> DomainSpec {
    let spec = world.spec(sliver);
    world.prepare(&spec).await;
    world.driver().boot(&spec).await.expect("it boots");
    spec
}

/// Refused, and trying again does not help.
fn refused(answer: PortResult<()>) {
    let error = answer.expect_err("it must be refused");
    assert_eq!(error.retry, Retry::Never, "{error}");
}

fn as_started(domain: &ObservedDomain, spec: &DomainSpec) {
    let is = (
        domain.uuid,
        domain.booted,
        domain.vcpus,
        domain.state,
        &domain.publish,
    );
    let should = (
        spec.uuid,
        spec.boot,
        spec.vcpus,
        DomainState::Running,
        &spec.publish,
    );
    assert_eq!(is, should);
    assert_eq!(domain.memory_mib, spec.memory_mib, "memory");
    assert!(domain.memory_max_mib >= spec.memory_mib);
}

async fn boots_once<W: World>(world: &mut W) {
    let spec = booted(world, "web/0").await;
    let first = domain(world, &spec).await;
    as_started(&first, &spec);
    world
        .driver()
        .boot(&spec)
        .await
        .expect("what runs already is success");
    assert_eq!(domain(world, &spec).await, first, "nothing has changed");
    world.settle(&spec).await;
    let grace = Grace { ms: 2_000 };
    world
        .driver()
        .shutdown(&spec.sliver, grace)
        .await
        .expect("it stops");
    assert!(
        see(world).await.ours.is_empty(),
        "it is gone when the shutdown is over"
    );
    // And another one can have its place at once.
    world.driver().boot(&spec).await.expect("it boots again");
    world
        .driver()
        .shutdown(&spec.sliver, NOW)
        .await
        .expect("it stops");
}

async fn is_found_again<W: World>(world: &mut W) {
    let spec = booted(world, "web/0").await;
    let before = domain(world, &spec).await;
    world.restart();
    assert_eq!(domain(world, &spec).await, before);
    world
        .driver()
        .boot(&spec)
        .await
        .expect("what runs already is success");
    world
        .driver()
        .shutdown(&spec.sliver, NOW)
        .await
        .expect("it stops");
}

async fn another_boot<W: World>(world: &mut W) {
    let spec = booted(world, "web/0").await;
    let other = DomainSpec {
        boot: Digest::of(b"something else"),
        ..spec.clone()
    };
    if world.refuses() {
        refused(world.driver().boot(&other).await);
    }
    assert_eq!(
        domain(world, &spec).await.booted,
        spec.boot,
        "the old one runs on"
    );
    world
        .driver()
        .shutdown(&spec.sliver, NOW)
        .await
        .expect("it stops");
}

async fn died<W: World>(world: &mut W) {
    let spec = booted(world, "web/0").await;
    world.kill(&spec.sliver).await;
    assert!(see(world).await.ours.is_empty(), "what is gone is not shown");
    world
        .driver()
        .boot(&spec)
        .await
        .expect("what it left is in nobody's way");
    as_started(&domain(world, &spec).await, &spec);
    world
        .driver()
        .shutdown(&spec.sliver, NOW)
        .await
        .expect("it stops");
}

async fn nothing_there<W: World>(world: &mut W) {
    let sliver = world.spec("web/0").sliver;
    for _ in 0..2 {
        world
            .driver()
            .shutdown(&sliver, Grace { ms: 60_000 })
            .await
            .expect("nothing is to be done");
        world
            .driver()
            .unpublish(&sliver)
            .await
            .expect("nothing is to be done");
        world
            .driver()
            .discard_image(&sliver)
            .await
            .expect("nothing is to be done");
    }
}

async fn stranger<W: World>(world: &mut W) {
    let name = world.make_stranger().await;
    let strangers = see(world).await.strangers;
    let shown = strangers.iter().find(|stranger| stranger.name == name);
    assert!(
        shown.is_some_and(|stranger| stranger.memory_mib > 0),
        "{name} is not among {strangers:?}"
    );
    let spec = booted(world, "web/0").await;
    world
        .driver()
        .shutdown(&spec.sliver, NOW)
        .await
        .expect("ours stops");
    assert!(world.stranger_runs().await, "the stranger was touched");
    assert!(
        see(world)
            .await
            .strangers
            .iter()
            .any(|stranger| stranger.name == name)
    );
    world.end_stranger().await;
}

async fn stands_still<W: World>(world: &mut W) {
    let spec = booted(world, "web/0").await;
    world.freeze(&spec.sliver).await;
    assert_eq!(domain(world, &spec).await.state, DomainState::Paused);
    world.driver().unpause(&spec.sliver).await.expect("it goes on");
    assert_eq!(domain(world, &spec).await.state, DomainState::Running);
    world
        .driver()
        .unpause(&spec.sliver)
        .await
        .expect("what runs already is success");
    world.freeze(&spec.sliver).await;
    world
        .driver()
        .shutdown(&spec.sliver, Grace { ms: 500 })
        .await
        .expect("one that cannot hear is destroyed");
}

async fn limits<W: World>(world: &mut W) {
    let spec = booted(world, "web/0").await;
    world.settle(&spec).await;
    let able = see(world).await.able;
    let mut tuning = Tuning {
        vcpus: spec.vcpus_max,
        memory_mib: spec.memory_mib - 16,
        limits: spec.limits,
        publish: spec.publish.clone(),
    };
    if able.contains(&Ability::CpuWeight) {
        tuning.limits.cpu_weight = 512;
    }
    if able.contains(&Ability::CpuCap) {
        tuning.limits.cpu_cap_percent = Some(50);
    }
    if able.contains(&Ability::NetRate) {
        tuning.limits.net_rate = Some(BitRate(10_000_003));
    }
    if able.contains(&Ability::Ports) {
        tuning.publish = vec![Publish {
            guest: 80,
            host: world.free_port(),
        }];
    }
    // The second time nothing is left to be done.
    for _ in 0..2 {
        world
            .driver()
            .retune(&spec.sliver, &tuning)
            .await
            .expect("it takes them");
        told(&domain(world, &spec).await, &tuning, &able);
    }
    world.restart();
    told(&domain(world, &spec).await, &tuning, &able);
    // All of it can be taken back.
    let plain = Tuning {
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
        limits: spec.limits,
        publish: Vec::new(),
    };
    world
        .driver()
        .retune(&spec.sliver, &plain)
        .await
        .expect("it takes them");
    told(&domain(world, &spec).await, &plain, &able);
    world
        .driver()
        .publish(&spec.sliver, &tuning)
        .await
        .expect("a takeover gives the same");
    told(&domain(world, &spec).await, &tuning, &able);
    world
        .driver()
        .unpublish(&spec.sliver)
        .await
        .expect("they are taken");
    assert_eq!(domain(world, &spec).await.publish, []);
    world
        .driver()
        .shutdown(&spec.sliver, NOW)
        .await
        .expect("it stops");
}

fn told(domain: &ObservedDomain, tuning: &Tuning, able: &BTreeSet<Ability>) {
    if able.contains(&Ability::Vcpus) {
        assert_eq!(domain.vcpus, tuning.vcpus);
    }
    if able.contains(&Ability::Memory) {
        assert_eq!(domain.memory_mib, tuning.memory_mib);
    }
    let (is, should) = (domain.limits, tuning.limits);
    if able.contains(&Ability::CpuWeight) {
        assert_eq!(is.cpu_weight, should.cpu_weight);
    }
    if able.contains(&Ability::CpuCap) {
        assert_eq!(is.cpu_cap_percent, should.cpu_cap_percent);
    }
    if able.contains(&Ability::NetRate) {
        assert_eq!(is.net_rate, should.net_rate);
    }
    if able.contains(&Ability::Ports) {
        assert_eq!(domain.publish, tuning.publish);
    }
}

async fn suspended<W: World>(world: &mut W) {
    let spec = booted(world, "web/0").await;
    world.settle(&spec).await;
    world.driver().suspend(&spec.sliver).await.expect("it is stored");
    let domains = see(world).await;
    let image = &domains.images[&spec.sliver];
    assert!(domains.ours.is_empty(), "the domain is gone");
    assert_eq!((image.uuid, image.boot, image.mark), (spec.uuid, spec.boot, None));
    assert!(image.bytes > 0);
    world
        .driver()
        .suspend(&spec.sliver)
        .await
        .expect("what is stored already is success");
    let mark = world.disk_mark(&spec);
    world
        .driver()
        .seal_image(&spec.sliver, &mark)
        .await
        .expect("it is sealed");
    world
        .driver()
        .seal_image(&spec.sliver, &mark)
        .await
        .expect("it is sealed already");
    assert_eq!(see(world).await.images[&spec.sliver].mark, Some(mark));

    world.prepare(&spec).await;
    world.driver().resume(&spec).await.expect("it goes on");
    let domains = see(world).await;
    assert!(domains.images.is_empty(), "an image is resumed once");
    as_started(&domains.ours[&spec.sliver], &spec);
    world
        .driver()
        .resume(&spec)
        .await
        .expect("what runs already is success");

    // It lives, so it can be stored again.
    world
        .driver()
        .suspend(&spec.sliver)
        .await
        .expect("it is stored again");
    world
        .driver()
        .discard_image(&spec.sliver)
        .await
        .expect("the image is deleted");
}

async fn discarded<W: World>(world: &mut W) {
    let spec = booted(world, "web/0").await;
    world.settle(&spec).await;
    world.driver().suspend(&spec.sliver).await.expect("it is stored");
    world.restart();
    let image = see(world)
        .await
        .images
        .remove(&spec.sliver)
        .expect("the image is still there");
    assert_eq!((image.uuid, image.boot), (spec.uuid, spec.boot));
    world
        .driver()
        .discard_image(&spec.sliver)
        .await
        .expect("it is deleted");
    assert!(see(world).await.images.is_empty());
    world
        .driver()
        .boot(&spec)
        .await
        .expect("nothing is in the way of a boot");
    world
        .driver()
        .shutdown(&spec.sliver, NOW)
        .await
        .expect("it stops");
}

async fn unfit<W: World>(world: &mut W) {
    let spec = booted(world, "web/0").await;
    world.settle(&spec).await;
    world.driver().suspend(&spec.sliver).await.expect("it is stored");
    if !world.refuses() {
        world
            .driver()
            .discard_image(&spec.sliver)
            .await
            .expect("it is deleted");
        return;
    }
    // Nobody said to which disk it belongs.
    refused(world.driver().resume(&spec).await);
    // After a boot the disk would be another.
    refused(world.driver().boot(&spec).await);
    let mark = Digest::of(b"a disk");
    world
        .driver()
        .seal_image(&spec.sliver, &mark)
        .await
        .expect("it is sealed");
    refused(
        world
            .driver()
            .seal_image(&spec.sliver, &Digest::of(b"another disk"))
            .await,
    );
    let other = DomainSpec {
        boot: Digest::of(b"something else"),
        ..spec.clone()
    };
    refused(world.driver().resume(&other).await);
    let domains = see(world).await;
    assert_eq!(
        domains.images[&spec.sliver].mark,
        Some(mark),
        "the image is as it was"
    );
    assert!(domains.ours.is_empty());
    world
        .driver()
        .resume(&spec)
        .await
        .expect("one that fits is resumed");
    world
        .driver()
        .shutdown(&spec.sliver, NOW)
        .await
        .expect("it stops");
    refused(world.driver().resume(&spec).await);
}

async fn unseen<W: World>(world: &mut W) {
    let spec = booted(world, "web/0").await;
    if world.blind(true) {
        world.driver().observe().await.expect_err("nothing was seen");
        world.blind(false);
    }
    assert_eq!(domain(world, &spec).await.state, DomainState::Running);
    world
        .driver()
        .shutdown(&spec.sliver, NOW)
        .await
        .expect("it stops");
}

#[cfg(test)]
mod tests;
