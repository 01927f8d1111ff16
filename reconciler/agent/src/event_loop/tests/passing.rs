//! From a commit to running slivers, and what must not wait for what.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_commit_becomes_running_slivers_and_then_there_is_nothing_to_do() {
    let world = World::started();
    assert_eq!(world.status().await.phase, Phase::NoDesired);
    let why = world.running().handle.plan().await.unwrap_err();
    assert_eq!(why, HandleError::NoDesired { why: None });

    world.push(commit(1, [sliver("web/0"), sliver("web/1")])).await;
    world.converged(1).await;
    assert_eq!((world.calls("boot:web/0"), world.calls("boot:web/1")), (1, 1));
    let status = world.status().await;
    assert_eq!(status.slivers.len(), 2);
    assert!(
        status
            .slivers
            .iter()
            .all(|s| s.phase == SliverPhase::Settled && s.domain == "running")
    );
    assert_eq!(status.slivers[0].health.verdict, HealthWord::NotAsked);
    assert_eq!(status.node.fleet.as_deref(), Some("acme"));

    // A commit that changes nothing here is accepted, and does nothing.
    let before = world.node.calls();
    world.push(commit(2, [sliver("web/0"), sliver("web/1")])).await;
    world.converged(2).await;
    assert_eq!(world.node.calls(), before);
    assert_eq!(world.status().await.accepted.unwrap().generation, 2);

    let why = world.running().handle.why(id("web/0")).await.unwrap();
    assert!(why.settled, "{why:?}");
    assert_eq!(why.sentences, ["It is as desired."]);
    let unknown = world.running().handle.describe(id("db/0")).await.unwrap_err();
    assert_eq!(unknown.to_string(), "there is no sliver db/0 on this node");
    let described = world.running().handle.describe(id("web/1")).await.unwrap();
    assert_eq!(described.observed.domain.unwrap().booted_as_desired, Some(true));
    assert!(described.applied.unwrap().complete);
    let doctor = world.running().handle.doctor().await.unwrap();
    assert!(
        doctor.facts.iter().any(|fact| fact.what == "acceleration"),
        "the driver is asked"
    );
    assert!(
        doctor.facts.iter().all(|fact| fact.state == FactState::Good),
        "{doctor:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn limits_change_in_place_where_they_can_and_are_owned_up_to_where_not() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let mut bounded = sliver("web/0");
    bounded.resources.disk = Some(Bytes(1 << 30));
    bounded.resources.cpu_cap_percent = Some(50);
    world.push(commit(2, [bounded])).await;
    world.converged(2).await;
    assert_eq!((world.calls("limit:web/0"), world.calls("boot:web/0")), (1, 1));
    let why = world.running().handle.why(id("web/0")).await.unwrap();
    let honest = "Besides, not enforced by qemu on this node: cpu cap 50%.";
    assert_eq!(why.sentences, ["It is as desired.", honest]);
    let doctor = world.running().handle.doctor().await.unwrap();
    let limits = doctor.facts.iter().find(|fact| fact.what == "limits").unwrap();
    assert_eq!(limits.state, FactState::Fair);
    assert!(limits.text.starts_with("web/0: not enforced"), "{limits:?}");
}

#[tokio::test(start_paused = true)]
async fn what_falls_over_is_put_up_again() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    world.node.lose_domain(&id("web/0"));
    world
        .until("drift to be seen", |_| world.calls("boot:web/0") == 2)
        .await;
    world.converged(1).await;
    world.node.lose_file_server();
    world
        .until("the file server's loss to be seen", |_| {
            world.calls("export:web/0") == 2
        })
        .await;
    world.converged(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_followed_at_once_also_while_a_guest_becomes_healthy() {
    let world = World::started();
    let mut asked = sliver("web/0");
    asked.health = Some(Health {
        probe: Probe::Console {
            marker: "never".to_owned(),
        },
        interval: Millis(1_000),
        threshold: 1,
        grace: Millis(180_000),
    });
    world.push(commit(1, [asked, sliver("web/1")])).await;
    for exports in 2..5 {
        let up = |status: &Status| status.slivers.iter().all(|sliver| sliver.domain == "running");
        world.until("both to be up", up).await;
        let before = world.status().await.node.now_ms;
        world.node.lose_file_server();
        world.running().hint.send(()).await.unwrap();
        world
            .until("the export to be back", |_| {
                world.calls("export:web/1") == exports
            })
            .await;
        assert!(world.status().await.node.now_ms - before < 1_000);
    }
}

#[tokio::test(start_paused = true)]
async fn questions_keep_nothing_from_being_repaired_and_end_no_wait() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0"), sliver("web/1")])).await;
    world.converged(1).await;
    let permanent = PortError::never("the kernel is no kernel");
    world.node.script("boot", Fault::Fails(permanent));
    world.node.lose_domain(&id("web/0"));
    world
        .until("the failure", |status| status.phase == Phase::Waiting)
        .await;
    let handle = world.running().handle.clone();
    for _ in 0..60 {
        assert!(!handle.plan().await.unwrap().empty);
        let read = tokio::spawn({
            let handle = handle.clone();
            async move { handle.refetch().await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let head = revision(1);
        world.push(SourceNews::Unchanged { head }).await;
        read.await.unwrap().unwrap();
    }
    assert_eq!(world.calls("boot:web/0"), 2, "a question ended the wait");

    world.node.lose_domain(&id("web/1"));
    for _ in 0..3 {
        let _any = handle.plan().await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    assert_eq!(world.calls("boot:web/1"), 2, "questions put off the repair");
}

/// A sliver that runs and never becomes healthy; its health is awaited for an hour.
fn never_healthy(id: &str) -> DesiredSliver {
    let mut sliver = sliver(id);
    sliver.health = Some(Health {
        probe: Probe::Console {
            marker: "never printed".to_owned(),
        },
        interval: Millis(1_000),
        threshold: 1,
        grace: Millis(3_600_000),
    });
    sliver
}

#[tokio::test(start_paused = true)]
async fn a_newer_commit_supersedes_a_run_that_waits() {
    let world = World::started();
    world.push(commit(1, [never_healthy("web/0")])).await;
    let waiting = |status: &Status| {
        let run = status.run.as_ref();
        run.is_some_and(|run| run.in_flight.iter().any(|one| one.action == "await:web/0"))
    };
    world.until("the wait for health", waiting).await;
    let before = world.status().await.node.now_ms;
    world.push(commit(2, [sliver("web/0"), sliver("web/1")])).await;
    world.converged(2).await;
    assert!(world.status().await.node.now_ms - before < 60_000);
    assert_eq!(world.calls("boot:web/0"), 1);
}

#[tokio::test(start_paused = true)]
async fn drift_elsewhere_does_not_wait_for_a_guest_to_become_healthy() {
    let world = World::started();
    world.push(commit(1, [sliver("db/0")])).await;
    world.converged(1).await;
    world
        .push(commit(2, [sliver("db/0"), never_healthy("web/0")]))
        .await;
    world
        .until("web/0 to be started", |_| world.calls("boot:web/0") == 1)
        .await;
    let before = world.status().await.node.now_ms;
    world.node.lose_domain(&id("db/0"));
    world
        .until("db/0 to be started again", |_| world.calls("boot:db/0") == 2)
        .await;
    assert!(world.status().await.node.now_ms - before < 60_000);
    assert_eq!(world.calls("boot:web/0"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_file_server_that_comes_back_serves_a_guest_that_is_not_healthy_yet() {
    let world = World::started();
    world.push(commit(1, [never_healthy("web/0")])).await;
    world
        .until("web/0 to be started", |_| world.calls("boot:web/0") == 1)
        .await;
    let before = world.status().await.node.now_ms;
    world.node.lose_file_server();
    world
        .until("web/0 to be served again", |_| world.calls("export:web/0") == 2)
        .await;
    assert!(world.status().await.node.now_ms - before < 60_000);
    assert_eq!(world.calls("boot:web/0"), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_else_waits_for_a_fetch_that_hangs() {
    let world = World::started();
    world.push(commit(1, [sliver("db/0")])).await;
    world.converged(1).await;
    let mut larger = sliver("web/0");
    larger.kernel.digest = Digest([0xd2; 32]);
    for _ in 0..20 {
        world.node.script("fetch", Fault::Hangs);
    }
    world.push(commit(2, [sliver("db/0"), larger.clone()])).await;
    let fetching = |status: &Status| {
        let run = status.run.as_ref();
        run.is_some_and(|run| {
            run.in_flight
                .iter()
                .any(|one| one.action.starts_with("fetch:d2d2"))
        })
    };
    world.until("the fetch", fetching).await;
    let began = world.status().await.node.now_ms;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let fetches = |world: &World| world.calls(&format!("fetch:{}", Digest([0xd2; 32]).short()));
    assert_eq!(fetches(&world), 1, "nothing to do but wait");

    // Somebody else's domain dies: it is started again, and the fetch is waited for again.
    world.node.lose_domain(&id("db/0"));
    world
        .until("db/0 to be started again", |_| world.calls("boot:db/0") == 2)
        .await;
    world.until("the fetch", fetching).await;
    // A newer commit does not wait either.
    world
        .push(commit(3, [sliver("db/0"), sliver("db/1"), larger]))
        .await;
    world
        .until("db/1 to be up", |_| world.calls("boot:db/1") == 1)
        .await;
    assert!(world.status().await.node.now_ms - began < 180_000);
    assert!(world.events("failed").await.is_empty(), "giving up is no failure");
    world.push(commit(4, [sliver("db/0"), sliver("db/1")])).await;
    world
        .until("the plan without it", |status| {
            status.phase == Phase::Converged || status.run.is_none()
        })
        .await;
    assert_eq!(world.calls("boot:web/0"), 0);
    assert_eq!(world.node.violations(), [""; 0]);
}
