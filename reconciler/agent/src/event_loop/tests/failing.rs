//! Actions that fail, hang or do not last, and nodes that cannot be seen.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_as_desired_is_not_called_failing_for_what_it_failed_at_before() {
    let world = World::started();
    for _ in 0..5 {
        let taken = PortError::later("port 80 is in use");
        world.node.script("boot", Fault::Fails(taken));
    }
    world.push(commit(1, [sliver("web/0")])).await;
    let status = world
        .until("the failure", |status| status.phase == Phase::Waiting)
        .await;
    assert_eq!(status.slivers[0].phase, SliverPhase::Failing);
    let status = world
        .until("convergence", |status| status.phase == Phase::Converged)
        .await;
    assert_eq!(status.slivers[0].phase, SliverPhase::Settled);
    let why = world.running().handle.why(id("web/0")).await.unwrap();
    assert_eq!(why.sentences, ["It is as desired."]);
}

#[tokio::test(start_paused = true)]
async fn one_failing_sliver_delays_no_other() {
    let world = World::started();
    for _ in 0..4 {
        let full = PortError::later("no space left");
        world.node.script("open", Fault::Fails(full));
    }
    // The first try of each; web/0 comes first in order, and takes all the faults of its retries or shares them.
    world
        .push(commit(1, [sliver("a/0"), sliver("b/0"), sliver("c/0")]))
        .await;
    world
        .until("somebody to be up", |status| {
            status.slivers.iter().any(|s| s.phase == SliverPhase::Settled)
        })
        .await;
    world.converged(1).await;
    assert!(!world.events("failed").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_waits_says_why_and_is_forgotten_with_the_next_commit() {
    let world = World::started();
    world
        .node
        .script("boot", Fault::Fails(PortError::never("the kernel is no kernel")));
    world.push(commit(1, [sliver("web/0")])).await;
    let status = world
        .until("the failure", |status| status.phase == Phase::Waiting)
        .await;
    assert_eq!(status.slivers[0].phase, SliverPhase::Failing);
    let why = world.running().handle.why(id("web/0")).await.unwrap();
    assert!(
        why.sentences[0].starts_with("boot:web/0 failed once: the kernel is no kernel. That does not pass"),
        "{why:?}"
    );
    assert!(status.slivers[0].note.ends_with("(does not pass by itself)"));
    assert_eq!(world.calls("boot:web/0"), 1);

    let mut larger = sliver("web/0");
    larger.resources.memory = Bytes(256 << 20);
    world.push(commit(2, [larger])).await;
    world.converged(2).await;
    assert_eq!(world.calls("boot:web/0"), 2);
}

#[tokio::test(start_paused = true)]
async fn reconcile_tries_again_at_once() {
    let world = World::started();
    world.node.script(
        "boot",
        Fault::Fails(PortError::never("somebody has to do something")),
    );
    world.push(commit(1, [sliver("web/0")])).await;
    world
        .until("the failure", |status| status.phase == Phase::Waiting)
        .await;
    let before = world.status().await.node.now_ms;
    world.running().handle.reconcile(ScopeView::Node).await.unwrap();
    world.converged(1).await;
    assert!(world.status().await.node.now_ms - before < 2_000);
}

#[tokio::test(start_paused = true)]
async fn an_action_that_hangs_is_given_up_and_looked_at() {
    let world = World::started();
    world.node.script("boot", Fault::Hangs);
    world.node.script("boot", Fault::SucceedsUnsaid);
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let failed = world.events("failed").await;
    assert!(failed[0].contains("did not end within 60 s"), "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ends_right_after_its_start_is_not_started_in_a_tight_loop() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let mut watch = world.running().handle.watch().unwrap();
    let node = Arc::clone(&world.node);
    // Whenever it is said to be up, it goes.
    let killer = tokio::spawn(async move {
        while let Ok(event) = watch.recv().await {
            if event.kind == "done" && event.text == "boot:web/0" {
                node.lose_domain(&id("web/0"));
            }
        }
    });
    world.node.lose_domain(&id("web/0"));
    tokio::time::sleep(Duration::from_secs(600)).await;
    let boots = world.calls("boot:web/0");
    assert!((3..=70).contains(&boots), "{boots} starts in ten minutes");
    killer.abort();
    world.converged(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_blind_node_leaves_everything_alone() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let before = world.node.calls();
    for _ in 0..8 {
        world
            .node
            .script("observe", Fault::Fails(PortError::later("nobody answers")));
    }
    world.push(commit(2, [sliver("db/0")])).await;
    world
        .until("blindness", |status| status.phase == Phase::Blind)
        .await;
    assert_eq!(world.node.calls(), before);
    assert!(!world.events("blind").await.is_empty());
    world.converged(2).await;
    assert!(!world.events("seen").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn storage_of_one_that_cannot_be_seen_holds_up_nobody_else() {
    let world = World::started();
    world
        .push(commit(1, ["web/0", "db/0", "old/0"].map(sliver)))
        .await;
    world.converged(1).await;
    let before = world.node.calls().len();
    let why = "/remote/web-0: permission denied";
    for hidden in ["web/0", "old/0"] {
        world.node.hide_storage(&id(hidden), Some(why));
    }
    let bigger = |name: &str| {
        let mut sliver = sliver(name);
        sliver.resources.memory = Bytes(256 << 20);
        sliver
    };
    // The one is to change and the other to go, and neither does; everybody else goes on.
    world
        .push(commit(2, [bigger("web/0"), bigger("db/0"), sliver("new/0")]))
        .await;
    world
        .until("the others", |status| {
            let up = |sliver: &str| {
                let of = status.slivers.iter().find(|one| one.id == sliver);
                of.is_some_and(|one| one.phase == SliverPhase::Settled)
            };
            world.calls("boot:db/0") == 2 && up("new/0") && up("db/0")
        })
        .await;
    let since = world.node.calls().split_off(before);
    let touched = |call: &String| call.ends_with(":web/0") || call.ends_with(":old/0");
    assert!(!since.iter().any(touched), "{since:?}");
    let said = world.running().handle.why(id("web/0")).await.unwrap();
    assert!(said.sentences.iter().any(|said| said.contains(why)), "{said:?}");
    assert!(!world.events("waiting").await.is_empty());
    assert_ne!(world.status().await.phase, Phase::Blind);

    for hidden in ["web/0", "old/0"] {
        world.node.hide_storage(&id(hidden), None);
    }
    world
        .until("all", |_| {
            world.calls("boot:web/0") == 2 && world.calls("tombstone:old/0") == 1
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_delays_no_other() {
    let world = World::started();
    let names = ["a/0", "b/0", "c/0", "d/0", "e/0", "f/0"];
    world.push(commit(1, names.map(sliver))).await;
    world.converged(1).await;
    // As many as may be in flight at a time, and they hang for good.
    for _ in 0..4 {
        world.node.script("boot", Fault::Hangs);
    }
    for name in &names[..4] {
        world.node.lose_domain(&id(name));
    }
    world
        .until("the hanging", |_| {
            world
                .node
                .calls()
                .iter()
                .filter(|c| c.starts_with("boot:"))
                .count()
                == 10
        })
        .await;
    let began = world.status().await.node.now_ms;
    world.node.lose_domain(&id("e/0"));
    world.running().hint.send(()).await.unwrap();
    world
        .until("e/0 to be back", |_| world.calls("boot:e/0") == 2)
        .await;
    let took = world.status().await.node.now_ms - began;
    assert!(took < 12_000, "{took} ms");
    // Neither does a commit wait, and what hangs is not called again before it has ended.
    world
        .push(commit(2, names.map(sliver).into_iter().chain([sliver("g/0")])))
        .await;
    world
        .until("g/0 to be up", |_| world.calls("boot:g/0") == 1)
        .await;
    let took = world.status().await.node.now_ms - began;
    assert!(took < 15_000, "{took} ms");
    assert_eq!(world.calls("boot:a/0"), 2);
    let why = world.running().handle.why(id("a/0")).await.unwrap();
    assert!(why.sentences[0].contains("boot:a/0 is under way"), "{why:?}");
    world.converged(2).await;
    assert_eq!(world.calls("boot:a/0"), 3);
    assert_eq!(world.events("failed").await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn many_who_ask_for_a_plan_share_a_look() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let handle = &world.running().handle;
    let asked: Vec<_> = (0..40)
        .map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.plan().await })
        })
        .collect();
    for one in asked {
        assert!(one.await.unwrap().unwrap().empty);
    }
}
