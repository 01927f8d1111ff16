//! What every hypervisor keeps to that moves guests between nodes, as stories of two nodes of one kind.
//!
//! The names are in [`MOVES`]; [`run`] tells one, `here` being the node where the guest is at first, and `there` the other.
//! As with the other stories both begin and end without domains of ours.

mod turns;

use std::future::Future;
use std::io::Write as _;

use turns::{both, first, read_some};
use xeno_model::desired::Publish;
use xeno_model::id::{Digest, Epoch, MigrationId};
use xeno_model::observed::{Ability, DomainState};

use super::{NOW, World, domain, refused, see};
use crate::ports::{Departure, DomainSpec, Hypervisor as _, MoveMemory, Pipe, PortResult, Tuning};

/// A node that guests can leave, and arrive at. What [`World::spec`] says of one sliver is the same guest on both nodes.
pub trait Moving: World<Driver: MoveMemory> {
    /// What a running guest remembers. The first time it also begins to count.
    fn life(&self, spec: &DomainSpec) -> impl Future<Output = Life>;

    /// Lets a moment pass.
    fn moment(&self) -> impl Future<Output = ()>;
}

/// What a guest remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Which boot of its kernel it is.
    pub boot: String,
    /// How far it has counted; it grows while the guest runs.
    pub count: u64,
}

/// The stories, by name.
pub const MOVES: [&str; 9] = [
    "a_guest_goes_on_where_it_was_on_another_node",
    "a_guest_that_stands_still_first_arrives_too",
    "a_guest_that_is_called_back_was_never_gone",
    "a_guest_whose_copy_dies_goes_on",
    "a_guest_whose_pipe_breaks_goes_on",
    "a_departure_that_nobody_drives_any_more_comes_to_nothing",
    "a_guest_that_is_kept_wakes_and_can_leave_again",
    "what_is_kept_and_what_is_a_copy_is_found_again",
    "what_cannot_leave_or_arrive_is_refused",
];

/// Tells one story.
///
/// # Panics
/// If a promise is broken, or there is no such story.
pub async fn run<W: Moving>(name: &str, here: &mut W, there: &mut W) {
    for world in [&*here, &*there] {
        assert!(see(world).await.able.contains(&Ability::Move), "{name}");
        assert!(see(world).await.ours.is_empty(), "{name}: a node is not empty");
    }
    match name {
        "a_guest_goes_on_where_it_was_on_another_node" => goes_on(here, there, true).await,
        "a_guest_that_stands_still_first_arrives_too" => goes_on(here, there, false).await,
        "a_guest_that_is_called_back_was_never_gone" => called_off(here, there).await,
        "a_guest_whose_copy_dies_goes_on" => copy_dies(here, there).await,
        "a_guest_whose_pipe_breaks_goes_on" => pipe_breaks(here, there).await,
        "a_departure_that_nobody_drives_any_more_comes_to_nothing" => nobody_drives(here).await,
        "a_guest_that_is_kept_wakes_and_can_leave_again" => wakes(here, there).await,
        "what_is_kept_and_what_is_a_copy_is_found_again" => found_again(here, there).await,
        "what_cannot_leave_or_arrive_is_refused" => cannot(here, there).await,
        _ => panic!("there is no story {name}"),
    }
    for world in [&*here, &*there] {
        let domains = see(world).await;
        assert!(
            domains.ours.is_empty(),
            "{name}: it leaves something: {domains:?}"
        );
        let broken = world.broken();
        assert!(
            broken.is_empty(),
            "{name}: rules of the node were broken: {broken:?}"
        );
    }
}

/// Slow enough that there is time to look.
const SLOWLY: u64 = 1 << 20;
const EPOCH: Epoch = Epoch(7);
/// Bytes after which a departure is certainly under way.
const UNDER_WAY: usize = 100_000;

fn departure(attempt: u8) -> Departure {
    Departure {
        migration: MigrationId([attempt; 16]),
        epoch: EPOCH,
        live: true,
        bandwidth: None,
        downtime_ms: None,
    }
}

fn slow_departure(attempt: u8) -> Departure {
    Departure {
        bandwidth: Some(SLOWLY),
        ..departure(attempt)
    }
}

fn kept() -> DomainState {
    DomainState::Kept { epoch: EPOCH }
}

fn copy(attempt: u8) -> DomainState {
    DomainState::Copy {
        migration: MigrationId([attempt; 16]),
    }
}

fn tuning(spec: &DomainSpec) -> Tuning {
    Tuning {
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
        limits: spec.limits,
        publish: spec.publish.clone(),
    }
}

fn pipe() -> (Pipe, Pipe) {
    Pipe::pair().expect("a pipe")
}

/// A guest that runs here and remembers something, with a published port; as it is here, and as it is there.
async fn guest<W: Moving>(here: &W, there: &W) -> (DomainSpec, DomainSpec, Life) {
    let (mut spec, mut other) = (here.spec("web/0"), there.spec("web/0"));
    let publish = vec![Publish {
        guest: 80,
        host: here.free_port(),
    }];
    (spec.publish, other.publish) = (publish.clone(), publish);
    here.prepare(&spec).await;
    there.prepare(&other).await;
    here.driver().boot(&spec).await.expect("it boots");
    here.settle(&spec).await;
    let life = here.life(&spec).await;
    (spec, other, life)
}

/// The guest runs, and is the one that it was.
async fn lives_on<W: Moving>(world: &W, spec: &DomainSpec, since: &Life) -> Life {
    assert_eq!(domain(world, spec).await.state, DomainState::Running);
    loop {
        let life = world.life(spec).await;
        assert_eq!(life.boot, since.boot, "it was booted anew");
        assert!(
            life.count >= since.count,
            "it has gone back: {since:?} to {life:?}"
        );
        if life.count > since.count {
            return life;
        }
        world.moment().await;
    }
}

async fn send<W: Moving>(here: &W, there: &W, departure: &Departure) -> (PortResult<()>, PortResult<()>) {
    let (out, from) = pipe();
    let (spec, other) = (here.spec("web/0"), there.spec("web/0"));
    both(
        here.driver().depart(&spec.sliver, departure, out),
        there.driver().arrive(&other, departure.migration, from),
    )
    .await
}

async fn sent<W: Moving>(here: &W, there: &W, departure: &Departure) {
    let ended = send(here, there, departure).await;
    // Of two failures one is the other's cause.
    assert!(matches!(ended, (Ok(()), Ok(()))), "{ended:?}");
}

/// A second attempt, after one that came to nothing, has the guest live on at the other node.
async fn the_second_goes_well<W: Moving>(here: &W, there: &W, other: &DomainSpec, life: &Life) {
    let second = departure(2);
    sent(here, there, &second).await;
    here.driver().destroy(&other.sliver).await.expect("it is gone");
    there
        .driver()
        .clear(&other.sliver, second.migration, &tuning(other))
        .await
        .expect("it runs");
    lives_on(there, other, life).await;
    stops(there, other).await;
}

async fn stops<W: Moving>(world: &W, spec: &DomainSpec) {
    world
        .driver()
        .shutdown(&spec.sliver, NOW)
        .await
        .expect("it stops");
}

async fn goes_on<W: Moving>(here: &mut W, there: &mut W, live: bool) {
    let (spec, other, life) = guest(here, there).await;
    let departure = Departure { live, ..departure(1) };
    sent(here, there, &departure).await;
    let (left, came) = (domain(here, &spec).await, domain(there, &other).await);
    assert_eq!(
        (left.state, &left.publish),
        (kept(), &vec![]),
        "it gives its ports up"
    );
    assert_eq!((came.state, &came.publish), (copy(1), &vec![]));
    assert_eq!(
        (came.uuid, came.booted, came.vcpus, came.memory_mib),
        (other.uuid, other.boot, other.vcpus, other.memory_mib)
    );
    let (driver, migration) = (there.driver(), departure.migration);
    for _ in 0..2 {
        driver
            .clear(&other.sliver, migration, &tuning(&other))
            .await
            .expect("it runs");
        let runs = domain(there, &other).await;
        assert_eq!(
            (runs.state, &runs.publish),
            (DomainState::Running, &other.publish)
        );
    }
    let life = lives_on(there, &other, &life).await;
    assert_eq!(
        domain(here, &spec).await.state,
        kept(),
        "it stands still until it is told"
    );
    for _ in 0..2 {
        here.driver().destroy(&spec.sliver).await.expect("it is gone");
    }
    assert!(see(here).await.ours.is_empty());

    // It is an ordinary domain: it can go back at once.
    here.prepare(&spec).await;
    let (out, from) = pipe();
    let back = Departure {
        live,
        ..self::departure(2)
    };
    let (departed, arrived) = both(
        there.driver().depart(&other.sliver, &back, out),
        here.driver().arrive(&spec, back.migration, from),
    )
    .await;
    departed.expect("it leaves");
    arrived.expect("it arrives");
    there.driver().destroy(&other.sliver).await.expect("it is gone");
    here.restart();
    here.driver()
        .clear(&spec.sliver, back.migration, &tuning(&spec))
        .await
        .expect("it runs");
    lives_on(here, &spec, &life).await;
    stops(here, &spec).await;
}

async fn called_off<W: Moving>(here: &mut W, there: &mut W) {
    let (spec, other, life) = guest(here, there).await;
    let sliver = &spec.sliver;
    here.driver().call_off(sliver).await.expect("there is none");
    let slow = slow_departure(1);
    let (out, from) = pipe();
    let calling = async {
        while domain_state(there, &other).await != Some(copy(1)) {
            there.moment().await;
        }
        // It may stand still from now on, or may not yet.
        let state = domain(here, &spec).await.state;
        assert!([kept(), DomainState::Running].contains(&state), "{state:?}");
        here.driver().call_off(sliver).await.expect("it is called off");
        assert_eq!(domain(here, &spec).await.state, DomainState::Running);
    };
    let moving = both(
        here.driver().depart(sliver, &slow, out),
        there.driver().arrive(&other, slow.migration, from),
    );
    let ((departed, arrived), ()) = both(moving, calling).await;
    departed.expect_err("it did not leave");
    arrived.expect_err("it did not arrive");
    assert!(see(there).await.ours.is_empty(), "half a copy is none");
    let left = domain(here, &spec).await;
    assert_eq!(left.publish, spec.publish, "its ports were never taken");
    let life = lives_on(here, &spec, &life).await;
    // The next attempt goes well.
    the_second_goes_well(here, there, &other, &life).await;
}

async fn domain_state<W: World>(world: &W, spec: &DomainSpec) -> Option<DomainState> {
    see(world).await.ours.get(&spec.sliver).map(|domain| domain.state)
}

async fn copy_dies<W: Moving>(here: &mut W, there: &mut W) {
    let (spec, other, life) = guest(here, there).await;
    let killing = async {
        while domain_state(there, &other).await != Some(copy(1)) {
            there.moment().await;
        }
        there.kill(&other.sliver).await;
    };
    let ((departed, arrived), ()) = both(send(here, there, &slow_departure(1)), killing).await;
    departed.expect_err("it did not leave");
    arrived.expect_err("it did not arrive");
    assert!(see(there).await.ours.is_empty());
    lives_on(here, &spec, &life).await;
    stops(here, &spec).await;
}

async fn pipe_breaks<W: Moving>(here: &mut W, there: &mut W) {
    let (spec, other, life) = guest(here, there).await;
    let (out, mut carried_from) = pipe();
    let (mut carried_to, from) = pipe();
    let carrying = async {
        let bytes = read_some(here, &mut carried_from, UNDER_WAY).await;
        carried_to.write_all(&bytes).expect("it is read");
        drop((carried_from, carried_to));
    };
    let departure = departure(1);
    let moving = both(
        here.driver().depart(&spec.sliver, &departure, out),
        there.driver().arrive(&other, departure.migration, from),
    );
    let ((departed, arrived), ()) = both(moving, carrying).await;
    departed.expect_err("it did not leave");
    arrived.expect_err("it did not arrive");
    assert!(see(there).await.ours.is_empty(), "half a copy is none");
    let left = domain(here, &spec).await;
    assert_eq!((left.state, &left.publish), (DomainState::Running, &spec.publish));
    lives_on(here, &spec, &life).await;
    stops(here, &spec).await;
}

async fn nobody_drives<W: Moving>(here: &mut W) {
    let spec = {
        let spec = here.spec("web/0");
        here.prepare(&spec).await;
        here.driver().boot(&spec).await.expect("it boots");
        here.settle(&spec).await;
        spec
    };
    let mut life = here.life(&spec).await;
    for (attempt, live) in [(1, true), (2, false)] {
        let (out, mut from) = pipe();
        let departure = Departure {
            live,
            ..departure(attempt)
        };
        {
            let leaving = here.driver().depart(&spec.sliver, &departure, out);
            let reading = read_some(here, &mut from, UNDER_WAY);
            first(leaving, reading).await;
        }
        // The agent that drove it has gone. Its end of the pipe may be open still: a part of it that lived on.
        here.restart();
        let state = domain(here, &spec).await.state;
        if state != DomainState::Running {
            assert_eq!(state, kept());
            here.driver()
                .wake(&spec.sliver, &tuning(&spec))
                .await
                .expect("it goes on");
        }
        drop(from);
        life = lives_on(here, &spec, &life).await;
        here.driver()
            .wake(&spec.sliver, &tuning(&spec))
            .await
            .expect("it runs already");
        here.driver().call_off(&spec.sliver).await.expect("there is none");
    }
    assert_eq!(domain(here, &spec).await.state, DomainState::Running);
    stops(here, &spec).await;
}

async fn wakes<W: Moving>(here: &mut W, there: &mut W) {
    let (spec, other, life) = guest(here, there).await;
    let sliver = &spec.sliver;
    sent(here, there, &departure(1)).await;
    // What has returned is not called off, and what is kept for this attempt has left.
    here.driver().call_off(sliver).await.expect("there is none");
    let (out, _from) = pipe();
    here.driver()
        .depart(sliver, &departure(1), out)
        .await
        .expect("it has left");
    assert_eq!(domain(here, &spec).await.state, kept());
    there.driver().destroy(sliver).await.expect("the copy is gone");
    assert!(see(there).await.ours.is_empty());
    for _ in 0..2 {
        here.driver()
            .wake(sliver, &tuning(&spec))
            .await
            .expect("it goes on");
    }
    let woken = domain(here, &spec).await;
    assert_eq!(
        (woken.state, &woken.publish),
        (DomainState::Running, &spec.publish)
    );
    let life = lives_on(here, &spec, &life).await;

    the_second_goes_well(here, there, &other, &life).await;
}

async fn found_again<W: Moving>(here: &mut W, there: &mut W) {
    let (spec, other, life) = guest(here, there).await;
    let sliver = spec.sliver.clone();
    sent(here, there, &departure(1)).await;
    for _ in 0..2 {
        here.restart();
        there.restart();
        assert_eq!(domain(here, &spec).await.state, kept());
        assert_eq!(domain(there, &other).await.state, copy(1));
    }
    if here.refuses() {
        // Nothing else lets them run.
        here.driver()
            .unpause(&sliver)
            .await
            .expect_err("it has no right to");
        there
            .driver()
            .unpause(&sliver)
            .await
            .expect_err("it has no right to");
        refused(
            there
                .driver()
                .clear(&sliver, MigrationId([9; 16]), &tuning(&other))
                .await,
        );
        refused(there.driver().wake(&sliver, &tuning(&other)).await);
    }
    there
        .driver()
        .clear(&sliver, MigrationId([1; 16]), &tuning(&other))
        .await
        .expect("it runs");
    there.restart();
    let life = lives_on(there, &other, &life).await;
    assert_eq!(domain(here, &spec).await.state, kept());
    here.driver().destroy(&sliver).await.expect("it is gone");
    lives_on(there, &other, &life).await;
    there
        .driver()
        .destroy(&sliver)
        .await
        .expect("what runs is ended too");
}

async fn cannot<W: Moving>(here: &mut W, there: &mut W) {
    let sliver = here.spec("web/0").sliver;
    for world in [&*here, &*there] {
        world.driver().destroy(&sliver).await.expect("there is nothing");
        world.driver().call_off(&sliver).await.expect("there is nothing");
    }
    let (out, _from) = pipe();
    here.driver()
        .depart(&sliver, &departure(1), out)
        .await
        .expect_err("there is nothing that could leave");
    let (spec, other, life) = guest(here, there).await;

    // Something else is expected there.
    let expected = DomainSpec {
        boot: Digest::of(b"something else"),
        ..other.clone()
    };
    let (out, from) = pipe();
    let (departed, arrived) = both(
        here.driver().depart(&sliver, &departure(2), out),
        there.driver().arrive(&expected, MigrationId([2; 16]), from),
    )
    .await;
    refused(arrived);
    assert!(see(there).await.ours.is_empty());
    if departed.is_ok() {
        here.driver()
            .wake(&sliver, &tuning(&spec))
            .await
            .expect("it goes on");
    }
    let life = lives_on(here, &spec, &life).await;

    // What is there already is in the way.
    let (out, from) = pipe();
    drop(out);
    refused(here.driver().arrive(&spec, MigrationId([3; 16]), from).await);
    lives_on(here, &spec, &life).await;

    // Nothing comes, or nonsense.
    for bytes in [&b""[..], &[b'x'; 5000]] {
        let (mut out, from) = pipe();
        out.write_all(bytes).expect("it is held");
        drop(out);
        there
            .driver()
            .arrive(&other, MigrationId([4; 16]), from)
            .await
            .expect_err("that is no guest");
        assert!(see(there).await.ours.is_empty());
    }
    stops(here, &spec).await;
}
