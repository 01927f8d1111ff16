//! Agents that end, in good order or not, and begin again.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_end_of_the_agent_is_not_the_end_of_its_guests() {
    let mut world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let handle = world.running().handle.clone();
    world.stop().await;
    assert_eq!(handle.status().await.unwrap_err(), HandleError::Stopping);
    handle.watch().unwrap_err();
    assert_eq!(world.calls("shutdown:web/0"), 0);
    let before = world.node.calls();
    world.start();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    assert_eq!(world.node.calls(), before, "a restarted agent adopts what runs");
    assert_eq!(world.status().await.accepted.unwrap().generation, 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_agent_on_the_same_directory_is_refused() {
    let world = World::started();
    let node = NodeName::new("cam-01").unwrap();
    let refused = NodeState::open(&world.state_dir(), &node, Limits::default()).unwrap_err();
    assert!(refused.to_string().contains("another agent"), "{refused}");
}

/// Kills the agent when event number `k` after the commit shows, and lets another finish.
async fn killed_after(k: u64, first: &SourceNews, second: &SourceNews) -> bool {
    let mut world = World::started();
    world.push(first.clone()).await;
    world.converged(1).await;
    let seen = world
        .running()
        .handle
        .events(0, 1000)
        .await
        .unwrap()
        .events
        .last()
        .unwrap()
        .seq;
    let mut watch = world.running().handle.watch().unwrap();
    world.push(second.clone()).await;
    let reached = loop {
        let event = tokio::select! {
            event = watch.recv() => event.unwrap(),
            () = tokio::time::sleep(Duration::from_secs(60)) => break false,
        };
        if event.seq >= seen + k {
            break true;
        }
    };
    world.kill().await;
    world.start();
    world.push(second.clone()).await;
    world.converged(2).await;
    for sliver in ["web/0", "web/1", "db/0"] {
        let boots = world.calls(&format!("boot:{sliver}"));
        assert!(
            boots <= 2,
            "killed after event {k}: {sliver} was started {boots} times\n{:#?}",
            world.node.calls()
        );
    }
    reached
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_moment_it_converges_without_starting_twice() {
    let mut larger = sliver("web/0");
    larger.resources.memory = Bytes(256 << 20);
    let first = commit(1, [sliver("web/0"), sliver("db/0")]);
    let second = commit(2, [larger, sliver("web/1")]);
    let mut k = 1;
    while killed_after(k, &first, &second).await {
        k += 1;
        assert!(k < 100);
    }
    assert!(k > 10, "only {k} moments");
}
