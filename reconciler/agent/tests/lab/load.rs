//! A node under load: a hundred slivers, of which some hang or fail, and nobody else waits for them.

use tokio::time::{Duration, Instant};
use xeno_agent::api::Phase;
use xeno_reconciler::ports::PortError;
use xeno_reconciler::scripted::Fault;

use crate::fleet::{commit, id, slice};
use crate::world::World;

const MANY: usize = 100;

/// More at once than the node carries out at a time.
const HANGING: usize = 6;

/// A node that is seldom looked at without a reason: each look at a hundred slivers costs a test its time.
async fn started() -> World {
    let mut world = World::new();
    world.look_every = Duration::from_secs(60);
    world.start().await;
    world
}

/// How long it takes until so many have been started.
async fn until_up(world: &World, many: usize) -> Duration {
    let began = Instant::now();
    let boots = |effects: Vec<String>| effects.iter().filter(|key| key.starts_with("boot:")).count();
    world
        .until_node("so many to be up", |node| boots(node.effects()) >= many)
        .await;
    began.elapsed()
}

/// As good as at once: nothing takes time here but waiting.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_hundred_slivers_settle_and_then_nothing_is_done() {
    let mut world = started().await;
    world.push(commit(1, &[slice("web").replicas(MANY)])).await;
    world.converged().await;
    for n in 0..MANY {
        assert_eq!(world.all_effects()[&format!("boot:web/{n}")], 1);
    }
    let before = world.node.calls();
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(world.node.calls(), before);
}

#[tokio::test(start_paused = true)]
async fn calls_that_hang_delay_nobody_else() {
    for verb in ["open", "boot", "await"] {
        let mut world = started().await;
        for _ in 0..HANGING {
            world.node.script(verb, Fault::Hangs);
        }
        let web = slice("web").replicas(MANY);
        let hang = if verb == "await" {
            // Guests that never say that they are ready: all of `mute`.
            world
                .push(commit(1, &[web, slice("mute").replicas(HANGING).asked()]))
                .await;
            0
        } else {
            world.push(commit(1, &[web])).await;
            HANGING
        };
        let took = until_up(&world, MANY - hang).await;
        // Those that hang may take all places until they are late; they are given up in time, and tried again.
        assert!(took < Duration::from_secs(35), "{verb}: {took:?}");
        if hang > 0 {
            world.converged().await;
        }
        assert_eq!(world.node.violations(), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn slivers_that_fail_delay_nobody_else() {
    for fault in [
        PortError::later("no space left"),
        PortError::never("the kernel is no kernel"),
    ] {
        let mut world = started().await;
        for _ in 0..40 {
            world.node.script("boot", Fault::Fails(fault.clone()));
        }
        world.push(commit(1, &[slice("web").replicas(MANY)])).await;
        let took = until_up(&world, MANY - 40).await;
        assert!(took < Duration::from_secs(5), "{fault}: {took:?}");
        world.converged().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_hangs_delays_only_who_needs_it() {
    let mut world = started().await;
    world.push(commit(1, &[slice("db").template("fedora")])).await;
    world.converged().await;
    world.node.script("fetch", Fault::Hangs);
    let slow = slice("slow").replicas(3);
    world
        .push(commit(
            2,
            &[
                slice("db").template("fedora"),
                slice("web").template("fedora").replicas(MANY),
                slow,
            ],
        ))
        .await;
    let took = until_up(&world, MANY + 1).await;
    assert!(took < AT_ONCE, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_look_that_hangs_delays_no_answer_and_ends() {
    let mut world = started().await;
    world.push(commit(1, &[slice("web").replicas(MANY)])).await;
    world.converged().await;
    // Each facet in its turn; the others are seen all the same.
    for facet in 0..4 {
        for _ in 0..facet {
            world.node.script("observe", Fault::SucceedsUnsaid);
        }
        world.node.script("observe", Fault::Hangs);
        world.node.lose_domain(&id("web/7"));
        let boots = world.all_effects()["boot:web/7"];
        let before = world.node.struck().len();
        world.agent().hint().await;
        world
            .until_node("the look", |node| node.struck().len() > before)
            .await;
        let asked = Instant::now();
        let status = world.status().await;
        assert_ne!(status.phase, Phase::Stopping);
        world.agent().handle().why(id("web/3")).await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        world
            .until("the domain to be back", |_| {
                world.all_effects()["boot:web/7"] > boots
            })
            .await;
        assert!(asked.elapsed() < Duration::from_secs(90), "{:?}", asked.elapsed());
        world.converged().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_that_hangs_stops_nothing_that_is_under_way() {
    let mut world = started().await;
    world.push(commit(1, &[slice("db")])).await;
    world.converged().await;
    world.node.script("open", Fault::Hangs);
    world
        .push(commit(2, &[slice("db"), slice("web").replicas(MANY)]))
        .await;
    world
        .until_node("the run", |node| !node.struck().is_empty())
        .await;
    for _ in 0..8 {
        world.node.script("observe", Fault::Hangs);
    }
    let took = until_up(&world, MANY).await;
    assert!(took < AT_ONCE, "{took:?}");
    world.converged().await;
}
