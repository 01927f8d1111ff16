//! What holds for every node, however strange it looks.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use xeno_model::desired::{
    DesiredSliver, LayerRef, Publish, Remote, RollbackData, SliverState, Standing, Start, WritableKind,
};
use xeno_model::id::{Digest, DomainUuid, Epoch, FleetName, NodeName, SiteName, SliverId, Timestamp};
use xeno_model::normal::{boot_digest, stack_digest};
use xeno_model::observed::{
    DomainState, LayerLimits, Leasing, Limits, ObservedDomain, ObservedImage, ObservedStorage, RemoteState,
    Seen, Stranger,
};
use xeno_model::units::Bytes;

use crate::action::Action;
use crate::change::{AppliedSliver, ChangeClass, Reason};
use crate::check::check;
use crate::checkpoint;
use crate::effective::effective;
use crate::exec::{ActionState, Outcome, RetryPolicy, Run, RunState};
use crate::ports::{PortError, Retry};
use crate::record::{Settlement, settlements};
use crate::render;
use crate::scripted::{Fault, ScriptedNode};
use crate::testing::{World, health, id, remote, remote_to_write, sliver, template};

const NAMES: [&str; 6] = ["api/0", "db/0", "db/1", "web/0", "web/1", "web/10"];

/// The ways in which a sliver of these tests can differ.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    memory_mib: u64,
    content: u8,
    files: u8,
    weight: u32,
    state: SliverState,
    health: bool,
    port: Option<u16>,
    reads_only: bool,
    disk_gib: Option<u64>,
    start: Start,
    most_mib: Option<u64>,
    expires: Option<u64>,
    afar: Afar,
}

/// What of a sliver lies in remote directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Afar {
    Nothing,
    Layer,
    Writes,
}

/// On disk, open, stack, exported, tombstone, limit; its share follows from the limit.
pub(crate) type Kept = (bool, Option<u64>, Option<u8>, bool, Option<u64>, Option<u64>);

#[derive(Clone, Debug)]
pub(crate) struct Sight {
    domain: Option<(DomainState, u8, u64)>,
    storage: Option<Kept>,
    /// Of which boot, and how sealed: not, with the disk that is there, with another.
    image: Option<(u8, u8)>,
    healthy: bool,
}

fn variant() -> impl Strategy<Value = Variant> {
    (
        prop::sample::select(vec![128u64, 256, 512]),
        1u8..3,
        1u8..3,
        prop::sample::select(vec![128u32, 256]),
        prop::sample::select(vec![
            SliverState::Running,
            SliverState::Running,
            SliverState::Running,
            SliverState::Stopped,
            SliverState::Suspended,
        ]),
        any::<bool>(),
        prop::option::of(8080u16..8084),
        prop::bool::weighted(0.4),
        prop::option::of(1u64..3),
        (
            prop::sample::select(vec![Start::Boot, Start::Boot, Start::Resume]),
            prop::option::of(prop::sample::select(vec![256u64, 512])),
            prop::option::weighted(0.1, 9_000_000u64..11_000_000),
            prop::sample::select(vec![Afar::Nothing, Afar::Nothing, Afar::Layer, Afar::Writes]),
        ),
    )
        .prop_map(
            |(
                memory_mib,
                content,
                files,
                weight,
                state,
                health,
                port,
                reads_only,
                disk_gib,
                (start, most_mib, expires, afar),
            )| Variant {
                memory_mib,
                content,
                files,
                weight,
                state,
                health,
                port,
                reads_only,
                disk_gib,
                start,
                most_mib,
                expires,
                afar,
            },
        )
}

fn made(name: &str, variant: &Variant) -> DesiredSliver {
    let mut sliver = sliver(name);
    sliver.kernel = template("debian-web", variant.content);
    sliver.mounts[0].layers = vec![
        LayerRef::Files {
            digest: Digest([0xf0 + variant.files; 32]),
        },
        LayerRef::Template(template("debian-web", variant.content)),
    ];
    let afar = if variant.afar == Afar::Writes {
        remote_to_write(name)
    } else {
        remote(name)
    };
    if variant.afar != Afar::Nothing {
        sliver.mounts[0].layers.push(afar.mounts[0].layers[0].clone());
        sliver.mounts[0].writable = afar.mounts[0].writable.clone();
    }
    sliver.resources.memory = Bytes(variant.memory_mib << 20);
    sliver.resources.cpu_weight = variant.weight;
    if variant.most_mib.is_some() {
        sliver.resources.vcpus = 1 + variant.weight % 2;
        sliver.resources.vcpus_max = Some(2);
    }
    sliver.resources.disk = variant.disk_gib.map(|gib| Bytes(gib << 30));
    sliver.state = variant.state;
    if variant.files == 2 {
        sliver.rollback = RollbackData::Restore;
    }
    sliver.checkpoints = u32::from(variant.content) - 1;
    sliver.start = variant.start;
    sliver.resources.memory_max = variant.most_mib.map(|mib| Bytes(mib << 20));
    sliver.expires = variant.expires.map(Timestamp);
    sliver.health = variant.health.then(health);
    sliver.publish = variant
        .port
        .map(|host| Publish { guest: 80, host })
        .into_iter()
        .collect();
    if variant.reads_only {
        sliver.mounts[0].writable = WritableKind::ReadOnly;
    }
    sliver
}

fn sight() -> impl Strategy<Value = Sight> {
    let state = prop::sample::select(vec![
        DomainState::Running,
        DomainState::Running,
        DomainState::Paused,
        DomainState::Stopping,
        DomainState::Crashed,
    ]);
    let domain = prop::option::of((state, 0u8..3, prop::sample::select(vec![128u64, 256, 512])));
    let storage = prop::option::of((
        any::<bool>(),
        prop::option::of(1u64..3),
        prop::option::of(0u8..3),
        any::<bool>(),
        prop::option::weighted(0.2, 9_998_000u64..10_000_000),
        prop::option::of(1u64..4),
    ));
    let image = prop::option::weighted(0.3, (0u8..3, 0u8..3));
    (domain, storage, image, any::<bool>()).prop_map(|(domain, storage, image, healthy)| Sight {
        domain,
        storage,
        image,
        healthy,
    })
}

/// Checkpoints of all kinds: of what is desired, of what was carried through, of somebody else's making, and that somebody
/// has gone back. What there is of them follows from the limit, too.
fn checkpoints(
    which: Option<u64>,
    desired: Option<&DesiredSliver>,
    applied: Option<&AppliedSliver>,
) -> BTreeMap<String, Timestamp> {
    let which = which.unwrap_or(0);
    let left = desired.map(|desired| {
        let applied = AppliedSliver {
            desired: desired.clone(),
            epoch: Epoch(1),
            complete: true,
            at: Timestamp(3),
        };
        (checkpoint::left_by(&applied), Timestamp(1))
    });
    let mut all = BTreeMap::from([("before-the-move".to_owned(), Timestamp(4))]);
    all.extend(left.filter(|_| which > 0));
    all.extend(
        applied
            .filter(|_| which > 1)
            .map(|applied| (checkpoint::left_by(applied), Timestamp(2))),
    );
    all.extend(
        applied
            .filter(|_| which == 3)
            .map(|applied| (checkpoint::went_back(applied), Timestamp(3))),
    );
    all
}

/// Desired, applied, and what is seen in both berths.
pub(crate) type Sides = (
    Option<Variant>,
    Option<(Variant, bool, u64)>,
    Sight,
    Option<Sight>,
);

pub(crate) fn sides() -> impl Strategy<Value = Vec<Sides>> {
    let applied = prop::option::of((variant(), any::<bool>(), 1u64..3));
    let second = prop::option::weighted(0.3, sight());
    prop::collection::vec(
        (prop::option::of(variant()), applied, sight(), second),
        NAMES.len(),
    )
}

#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    capacity_mib: u64,
    stranger_mib: u64,
    budget: u32,
    removed: u32,
    named: bool,
    here: u8,
    able: bool,
    /// Whether the site's maintenance window is closed.
    closed: bool,
    frozen: bool,
    /// Whether web/10 was db/1 before.
    moved: bool,
    restarts: u64,
}

pub(crate) fn surroundings() -> impl Strategy<Value = Surroundings> {
    (
        prop::sample::select(vec![256u64, 640, 1024, 4096]),
        prop::sample::select(vec![0u64, 64, 300]),
        0u32..7,
        0u32..3,
        prop::bool::weighted(0.9),
        0u8..64,
        (
            prop::bool::weighted(0.8),
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.1),
            any::<bool>(),
            0u64..4,
        ),
    )
        .prop_map(
            |(
                capacity_mib,
                stranger_mib,
                budget,
                removed,
                named,
                here,
                (able, closed, frozen, moved, restarts),
            )| Surroundings {
                capacity_mib,
                stranger_mib,
                budget,
                removed,
                named,
                here,
                able,
                closed,
                frozen,
                moved,
                restarts,
            },
        )
}

pub(crate) fn world(sides: &[Sides], around: &Surroundings) -> World {
    let desired = NAMES
        .iter()
        .zip(sides)
        .filter_map(|(name, (desired, ..))| desired.as_ref().map(|variant| made(name, variant)));
    let mut world = World::wanting(desired).with_memory(around.capacity_mib);
    world.desired.delete_budget.slivers = around.budget;
    world.removed_recently = around.removed;
    if !around.named {
        world.desired.standing = Standing::NotNamed;
    }
    world.desired.site.site = Some(SiteName::new("cambridge").unwrap());
    if around.closed {
        world.close_windows();
    }
    if around.frozen {
        world.freeze("web/1");
    }
    if !around.able {
        world.domains().able.clear();
    }
    if around.moved
        && !world.desired.slivers.contains_key(&id("db/1"))
        && let Some(heir) = world.desired.slivers.get_mut(&id("web/10"))
    {
        heir.moved_from = Some(id("db/1"));
    }
    for name in NAMES {
        let restarts = (0..around.restarts).map(|n| Timestamp(world.now - 60_000 * n - 1));
        world.restarts.insert(id(name), restarts.collect());
    }
    let bit = |n: u8| around.here & (1 << n) != 0;
    let contents = (1u8..3).filter(|n| bit(n - 1)).map(|n| Digest([n; 32]));
    let files = (1u8..3).filter(|n| bit(n + 1)).map(|n| Digest([0xf0 + n; 32]));
    world.observed.templates = Seen::Known(contents.collect());
    world.observed.file_layers = Seen::Known(files.collect());
    let afar = Remote::all_of(&remote_to_write("web/0")).into_iter().enumerate();
    let afar = afar.filter_map(|(n, remote)| match (bit(4 + u8::try_from(n).unwrap()), bit(0)) {
        (true, _) => Some((remote, RemoteState::Answers)),
        (false, true) => Some((
            remote,
            RemoteState::Silent {
                since: Timestamp(1),
                why: "it has not answered for 5 s".to_owned(),
            },
        )),
        (false, false) => None,
    });
    world.observed.remotes = Seen::Known(afar.collect());
    if around.stranger_mib > 0 {
        for name in ["laptop-vm", "build-vm"] {
            let stranger = Stranger {
                name: name.to_owned(),
                memory_mib: around.stranger_mib / 2,
            };
            world.domains().strangers.push(stranger);
        }
    }
    for (name, (desired, applied, first, second)) in NAMES.iter().zip(sides) {
        let desired = desired.as_ref().map(|variant| made(name, variant));
        let applied = applied.as_ref().map(|(variant, complete, epoch)| AppliedSliver {
            desired: made(name, variant),
            epoch: Epoch(*epoch),
            complete: *complete,
            at: Timestamp(5),
        });
        let other = Digest([0xee; 32]);
        let pick = |which: u8, digest: fn(&DesiredSliver) -> Digest| match which {
            0 => desired.as_ref().map_or(other, digest),
            1 => applied.as_ref().map_or(other, |applied| digest(&applied.desired)),
            _ => other,
        };
        let berths = [
            (id(name), Some(first), false),
            (id(name).beside(), second.as_ref(), true),
        ];
        for (berth, sight, beside) in berths {
            let Some(sight) = sight else { continue };
            if let Some((state, which, memory_mib)) = sight.domain {
                let publish = match which {
                    0 => desired.as_ref().map(|desired| desired.publish.clone()),
                    1 => applied.as_ref().map(|applied| applied.desired.publish.clone()),
                    _ => None,
                };
                let publish: Vec<_> = publish.unwrap_or_default();
                // No two domains can hold one port.
                let free = |publish: &Publish| {
                    let mut others = world
                        .observed
                        .domains
                        .known()
                        .into_iter()
                        .flat_map(|d| d.ours.values());
                    others.all(|d| d.publish.iter().all(|p| p.host != publish.host))
                };
                let publish = publish.into_iter().filter(free).collect();
                let domain = ObservedDomain {
                    uuid: uuid(&berth),
                    state,
                    booted: pick(which, boot_digest),
                    memory_mib,
                    memory_max_mib: memory_mib.max(256),
                    limits: Limits::default(),
                    vcpus: 1,
                    publish,
                };
                world.domains().ours.insert(berth.clone(), domain);
            }
            if let Some((on_disk, open, stack, exported, tombstone, limit_gib)) = sight.storage {
                *world.storage_of(&berth) = ObservedStorage {
                    on_disk: on_disk && !beside,
                    open: open.map(Epoch),
                    limits: open
                        .iter()
                        .map(|_| LayerLimits {
                            bytes: limit_gib.map(|gib| Bytes(gib << 30)),
                            inodes: None,
                        })
                        .collect(),
                    shares: exported
                        .then_some(if limit_gib == Some(3) { 128 } else { 256 })
                        .into_iter()
                        .collect(),
                    stack: stack.map(|which| pick(which, stack_digest)),
                    exported,
                    parked: false,
                    lease: Leasing::Free,
                    bytes: 0,
                    tombstone: tombstone.filter(|_| !beside).map(Timestamp),
                    mark: Some(Digest([7; 32])),
                    checkpoints: checkpoints(limit_gib, desired.as_ref(), applied.as_ref()),
                };
            }
            if let Some((which, sealed)) = sight.image {
                let there = world.observed.storage_of(&berth).unwrap();
                let disk = ObservedStorage::mark_of(there);
                let image = ObservedImage {
                    uuid: uuid(&berth),
                    boot: pick(which, boot_digest),
                    memory_mib: 128,
                    memory_max_mib: 256,
                    publish: vec![],
                    mark: match sealed {
                        0 => None,
                        1 => disk,
                        _ => Some(other),
                    },
                    bytes: 128 << 20,
                    at: Timestamp(1),
                };
                world.domains().images.insert(berth.clone(), image);
            }
            if sight.healthy {
                let verdict = xeno_model::observed::HealthVerdict::Healthy;
                world.observed.health.insert(berth.clone(), verdict);
            }
        }
        if let Some(applied) = applied {
            world.applied.insert(id(name), applied);
        }
    }
    world
}

fn uuid(berth: &SliverId) -> DomainUuid {
    DomainUuid::of(&FleetName::new("acme").unwrap(), berth)
}

fn node() -> NodeName {
    NodeName::new("cam-01").unwrap()
}

/// Plans once, carries the plan out as an agent would, and looks again.
fn pass(world: &mut World, node_in_memory: &ScriptedNode, seed: u64) -> RunState {
    let plan = world.plan();
    assert_eq!(
        check(&plan, &world.input()),
        [],
        "{}",
        render::text(&plan, render::Colour::Plain)
    );
    let mut settle = settlements(&world.input(), &plan);
    let mut run = Run::new(plan, RetryPolicy::default(), seed);
    let mut now_ms = 0;
    while !run.is_finished() {
        let ready = run.ready(3, now_ms);
        if ready.is_empty() {
            now_ms = run
                .next_try_ms()
                .expect("a run that is not finished has something to do");
            continue;
        }
        for key in &ready {
            run.started(key).unwrap();
        }
        // Last started, first ended.
        for key in ready.iter().rev() {
            let action = run.action(key).unwrap().action.clone();
            let outcome = node_in_memory
                .perform(&action, &world.desired)
                .unwrap_or_else(|| {
                    let why = "deadline passed".to_owned();
                    Outcome::Failed {
                        why,
                        retry: Retry::Later,
                    }
                });
            run.finished(key, outcome, now_ms).unwrap();
        }
    }
    for sliver in run.settled() {
        match settle.remove(&sliver) {
            Some(Settlement::Record(applied)) => {
                world.applied.insert(sliver, applied);
            }
            Some(Settlement::Forget) => {
                world.applied.remove(&sliver);
            }
            None => {}
        }
    }
    world.observed = node_in_memory.observed(&node());
    run.state()
}

fn fault() -> impl Strategy<Value = (&'static str, Fault)> {
    let verbs = vec![
        "fetch",
        "import",
        "open",
        "limit",
        "checkpoint",
        "restore",
        "suspend",
        "seal",
        "resume",
        "discard",
        "unpause",
        "retune",
        "unpublish",
        "publish",
        "revive",
        "adopt",
        "stack",
        "export",
        "boot",
        "await",
        "shutdown",
        "unexport",
        "close",
        "tombstone",
        "purge",
    ];
    let fault = prop::sample::select(vec![
        Fault::Fails(PortError::later("the disk is slow")),
        Fault::Fails(PortError::never("the disk is broken")),
        Fault::Hangs,
        Fault::HangsAfter,
        Fault::SucceedsUnsaid,
        Fault::Late { looks: 1 },
    ]);
    (prop::sample::select(verbs), fault)
}

proptest! {
    // The same cases each time; `make properties-long` draws others.
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(2004),
        ..ProptestConfig::default()
    })]

    /// However strange the node: there is a plan, the judge accepts it, carrying it out breaks no rule of the node, and
    /// once faults stop, it ends where there is nothing more to do.
    #[test]
    fn applying_converges(
        sides in sides(),
        around in surroundings(),
        faults in prop::collection::vec(fault(), 0..6),
        seed in any::<u64>(),
    ) {
        let mut world = world(&sides, &around);
        let strangers = world.domains().strangers.clone();
        let model = ScriptedNode::like(&world.observed, around.capacity_mib);
        model.set_now(Timestamp(world.now));
        for (verb, fault) in faults {
            model.script(verb, fault);
        }
        // A fault delays by a pass at most; the passes after the last one are without any.
        for _ in 0..12 {
            pass(&mut world, &model, seed);
        }
        let plan = world.plan();
        prop_assert_eq!(model.violations(), Vec::<String>::new());
        prop_assert!(plan.actions.is_empty(), "{}", render::text(&plan, render::Colour::Plain));
        for (sliver, change) in &plan.changes {
            prop_assert!(matches!(change.class, ChangeClass::Keep | ChangeClass::Wait), "{:?}", change);
            if change.class == ChangeClass::Keep {
                let wanted = &world.desired.slivers[sliver];
                let running = effective(&world.desired, wanted, Timestamp(world.now)).0.state == SliverState::Running;
                let ours = &world.observed.domains.known().unwrap().ours;
                let domains: Vec<_> =
                    [sliver.clone(), sliver.beside()].iter().filter_map(|berth| ours.get(berth)).collect();
                prop_assert_eq!(domains.len(), usize::from(running));
                prop_assert!(domains.iter().all(|domain| domain.booted == boot_digest(wanted)));
            }
        }
        prop_assert_eq!(&world.domains().strangers, &strangers);
    }

    /// The order in which things were listed leaves no trace.
    #[test]
    fn equal_input_gives_equal_bytes(sides in sides(), around in surroundings()) {
        let first = world(&sides, &around);
        let mut second = first.clone();
        second.domains().strangers.reverse();
        second.desired.slivers = first.desired.slivers.clone().into_iter().rev().collect();
        second.applied = first.applied.clone().into_iter().rev().collect::<BTreeMap<_, _>>();
        let (first, second) = (first.plan(), second.plan());
        prop_assert_eq!(render::json(&first), render::json(&second));
        prop_assert_eq!(
            render::text(&first, render::Colour::Ansi),
            render::text(&second, render::Colour::Ansi)
        );
        prop_assert_eq!(first, second);
    }

    /// A facet that could not be seen never leads to anything being taken away.
    #[test]
    fn blindness_never_destroys(sides in sides(), around in surroundings(), blind in 1u8..32) {
        let mut world = world(&sides, &around);
        let why = || "nobody answers".to_owned();
        if blind & 1 != 0 { world.observed.domains = Seen::Unknown { why: why() }; }
        if blind & 2 != 0 { world.observed.storage = Seen::Unknown { why: why() }; }
        if blind & 4 != 0 { world.observed.templates = Seen::Unknown { why: why() }; }
        if blind & 8 != 0 { world.observed.file_layers = Seen::Unknown { why: why() }; }
        if blind & 16 != 0 { world.observed.remotes = Seen::Unknown { why: why() }; }
        let plan = world.plan();
        prop_assert_eq!(check(&plan, &world.input()), []);
        if blind & 3 != 0 {
            prop_assert!(plan.actions.is_empty());
        }
        for planned in &plan.actions {
            if let Action::Shutdown { again, .. } = &planned.action {
                prop_assert!(blind & 4 == 0 || again.templates.is_empty());
                prop_assert!(blind & 8 == 0 || again.files.is_empty());
                prop_assert!(blind & 16 == 0 || again.remotes.is_empty());
            }
        }
    }

    /// Storage of slivers that could not be looked at makes these wait and nobody else: everybody else gets the plan they
    /// would get where those are gone from the order, and nothing that those hold is given to them.
    #[test]
    fn blindness_for_some_is_blindness_for_them_alone(
        sides in sides(), around in surroundings(), hidden in prop::collection::vec(any::<bool>(), NAMES.len()),
    ) {
        let mut world = world(&sides, &around);
        let hidden: BTreeSet<SliverId> =
            NAMES.iter().zip(hidden).filter(|(_, hidden)| *hidden).map(|(name, _)| id(name)).collect();
        for (i, sliver) in hidden.iter().enumerate() {
            // Either berth will do.
            let berth = if i % 2 == 0 { sliver.clone() } else { sliver.beside() };
            world.hide_storage(&berth, "permission denied");
        }
        let plan = world.plan();
        prop_assert_eq!(check(&plan, &world.input()), []);
        for (sliver, change) in &plan.changes {
            if hidden.contains(sliver) {
                prop_assert_eq!(change.class, ChangeClass::Wait);
                let blind = change.reasons.iter().any(|reason| matches!(reason, Reason::Blind { .. }));
                prop_assert!(blind, "{:?}", change);
            } else {
                let moved = world.desired.slivers.get(sliver).and_then(|desired| desired.moved_from.as_ref());
                let blind = change.reasons.iter().any(|reason| matches!(reason, Reason::Blind { .. }));
                prop_assert!(!blind || moved.is_some_and(|from| hidden.contains(from)), "{:?}", change);
            }
        }
        let model = ScriptedNode::like(&world.observed, around.capacity_mib);
        for planned in &plan.actions {
            let of = planned.action.sliver().map(SliverId::itself);
            prop_assert!(of.is_none_or(|of| !hidden.contains(&of)), "{}", planned.action.key());
            let outcome = model.perform(&planned.action, &world.desired);
            prop_assert_eq!(outcome, Some(Outcome::Done));
        }
        // More memory than there is, or a port of somebody who waits, would be among these.
        prop_assert_eq!(model.violations(), Vec::<String>::new());
    }

    /// The judge notices when any action but the last look at health is left out, or any two dependent ones are swapped.
    #[test]
    fn the_judge_finds_what_is_missing(sides in sides(), around in surroundings()) {
        let world = world(&sides, &around);
        let plan = world.plan();
        for (i, planned) in plan.actions.iter().enumerate() {
            let mut broken = plan.clone();
            broken.actions.remove(i);
            if !matches!(planned.action, Action::AwaitHealthy { .. }) {
                let change = planned.action.sliver().and_then(|sliver| plan.changes.get(&sliver.itself()));
                prop_assert_ne!(check(&broken, &world.input()), [], "without {} of {:?}", planned.action.key(), change);
            }
            for before in &planned.after {
                let mut broken = plan.clone();
                let j = plan.actions.iter().position(|a| a.action.key() == *before).unwrap();
                broken.actions.swap(i, j);
                prop_assert_ne!(check(&broken, &world.input()), []);
            }
        }
    }

    /// A run that is superseded anywhere leaves no sliver between its shutdown and its boot, unless something failed.
    #[test]
    fn superseding_never_leaves_a_service_half_way(
        sides in sides(), around in surroundings(), steps in 0usize..20,
    ) {
        let world = world(&sides, &around);
        let model = ScriptedNode::like(&world.observed, around.capacity_mib);
        let plan = world.plan();
        let mut run = Run::new(plan, RetryPolicy::default(), 7);
        let mut done = 0;
        while !run.is_finished() {
            if done == steps {
                run.supersede();
            }
            for key in run.ready(2, 0) {
                run.started(&key).unwrap();
                let action = run.action(&key).unwrap().action.clone();
                let outcome = model.perform(&action, &world.desired).unwrap();
                prop_assert_eq!(run.finished(&key, outcome, 0).unwrap(), &ActionState::Done);
            }
            done += 1;
        }
        prop_assert_eq!(model.violations(), Vec::<String>::new());
        let of = |verb: &str, sliver: &str| {
            let key = format!("{verb}:{sliver}");
            run.actions().find(|(a, _)| a.action.key().0 == key).map(|(_, state)| state.clone())
        };
        for name in NAMES {
            if of("shutdown", name) == Some(ActionState::Done) {
                // A boot that waits for another's port is the one thing that may be cut off.
                let boot = of("boot", name);
                let waits_for_port = run.actions().any(|(a, _)| {
                    a.action.key().0 == format!("boot:{name}")
                        && a.after.iter().any(|k| {
                            k.0.split_once(':').is_some_and(|(verb, of)| {
                                ["shutdown", "suspend", "retune"].contains(&verb) && of != name
                            })
                        })
                });
                prop_assert!(waits_for_port || matches!(boot, None | Some(ActionState::Done)), "{name}: {boot:?}");
            }
        }
    }
}
