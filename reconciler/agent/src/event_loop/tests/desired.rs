//! What the repository says, or fails to say.

use super::*;

#[tokio::test(start_paused = true)]
async fn before_the_last_commit_is_read_again_nothing_is_called_left_over() {
    let mut world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    world.stop().await;
    world.start();
    let status = world.status().await;
    let short = revision(1).short().to_owned();
    let why = format!("{short} was accepted, and has not been read again since the agent started");
    assert_eq!(
        status.summary,
        format!("cam-01 leaves everything as it is: {why}")
    );
    assert_eq!(status.slivers[0].phase, SliverPhase::Pending);
    let told = world.running().handle.why(id("web/0")).await.unwrap();
    assert_eq!(told.sentences, [format!("Nothing is done: {why}.")]);
    let plan = world.running().handle.plan().await.unwrap_err();
    assert_eq!(plan.to_string(), format!("no commit is in force yet: {why}"));
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    assert_eq!(world.calls("boot:web/0"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_commit_keeps_the_last_good_one() {
    let mut world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let before = world.node.calls();
    for _ in 0..2 {
        world
            .push(SourceNews::Rejected {
                revision: revision(2),
                why: "error[E0107]: no such template".to_owned(),
            })
            .await;
    }
    let status = world
        .until("the rejection", |status| status.rejected.is_some())
        .await;
    assert_eq!(status.accepted.unwrap().revision, revision(1).as_str());
    assert_eq!(status.phase, Phase::Converged);
    assert_eq!(world.events("rejected").await.len(), 1);
    world.stop().await;

    // It is still known after a restart, and gone with the next good commit.
    world.start();
    let SourceNews::Desired(good) = commit(1, [sliver("web/0")]) else {
        unreachable!("a commit asks for something")
    };
    world.push(SourceNews::Restored(good)).await;
    let status = world
        .until("the last good commit", |status| status.phase == Phase::Converged)
        .await;
    assert!(status.rejected.unwrap().why.contains("E0107"));
    assert_eq!(status.source.read_ms, None);
    world.push(commit(3, [sliver("web/0")])).await;
    world.converged(3).await;
    assert_eq!(world.status().await.rejected, None);
    assert_eq!(world.node.calls(), before);
}

#[tokio::test(start_paused = true)]
async fn an_empty_commit_removes_nothing() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let before = world.node.calls();
    world.push(desired(2, [], BTreeSet::new())).await;
    let empty = revision(2);
    world
        .until("the empty commit", |status| {
            status.phase == Phase::Waiting && status.accepted.as_ref().unwrap().revision == empty.as_str()
        })
        .await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.node.calls(), before);
    assert_eq!(world.events("waiting").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn removals_keep_to_the_budget_and_come_back_when_wanted_again() {
    let world = World::started();
    world
        .push(commit(1, ["a/0", "b/0", "c/0", "d/0"].map(sliver)))
        .await;
    world.converged(1).await;
    world.push(commit(2, [sliver("d/0")])).await;
    world
        .until("two removals", |_| {
            world.calls("tombstone:a/0") + world.calls("tombstone:b/0") == 2
        })
        .await;
    world
        .until("the third to wait", |status| status.phase == Phase::Waiting)
        .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.calls("shutdown:c/0"), 0);
    // An hour later the budget's window has passed.
    world
        .until("the third removal", |_| world.calls("tombstone:c/0") == 1)
        .await;
    world.push(commit(3, ["a/0", "d/0"].map(sliver))).await;
    world.converged(3).await;
    assert_eq!(world.calls("purge:a/0"), 0);
    // What is not wanted again is purged in time.
    world
        .until("the purge", |_| {
            world.calls("purge:b/0") == 1 && world.calls("purge:c/0") == 1
        })
        .await;
    assert_eq!(world.calls("purge:a/0"), 0);
    assert_eq!(world.node.violations(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_the_repository_is_told_once_and_changes_nothing() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    for n in 0..3 {
        world
            .push(SourceNews::Failed {
                why: format!("no route to host ({n})"),
            })
            .await;
    }
    let status = world
        .until("the loss", |status| status.source.failure.is_some())
        .await;
    assert_eq!(status.phase, Phase::Converged);
    world.push(commit(1, [sliver("web/0")])).await;
    world
        .until("the return", |status| status.source.failure.is_none())
        .await;
    assert_eq!(world.events("source-failed").await.len(), 1);
    // Who wants it read now is told at once.
    let handle = world.running().handle.clone();
    let read = tokio::spawn(async move { handle.refetch().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let why = "no route to host".to_owned();
    world.push(SourceNews::Failed { why: why.clone() }).await;
    assert_eq!(read.await.unwrap(), Err(HandleError::Source { why }));
    world.push(commit(1, [sliver("web/0")])).await;
    world
        .until("the second return", |status| status.source.failure.is_none())
        .await;
    assert_eq!(world.events("source-back").await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_history_says_what_each_generation_did_to_a_sliver() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    world.node.lose_domain(&id("web/0"));
    world
        .until("the restart", |_| world.calls("boot:web/0") == 2)
        .await;
    world.converged(1).await;
    world.push(commit(2, [])).await;
    world
        .until("the removal", |_| world.calls("tombstone:web/0") == 1)
        .await;
    world
        .until("its record", |status| status.phase == Phase::Converged)
        .await;
    let handle = &world.running().handle;
    let history = handle.history(Some(id("web/0")), 10).await.unwrap();
    let told: Vec<_> = history
        .entries
        .iter()
        .map(|entry| {
            (
                entry.generation,
                entry.class.as_deref().unwrap(),
                entry.cause.as_deref().unwrap(),
                entry.kind.as_str(),
            )
        })
        .collect();
    let expected = [
        (2, "remove", "change", "done"),
        (1, "start", "drift", "done"),
        (1, "create", "change", "done"),
    ];
    assert_eq!(told, expected, "{history:#?}");
    assert_eq!(history.entries[0].revision, revision(2).to_string());
    let all = handle.history(None, 10).await.unwrap();
    assert_eq!(all.entries.len(), 5);
    assert_eq!(all.entries[4].kind, "accepted");

    // What was removed is kept, and it is said until when.
    let kept = handle.tombstones().await.unwrap().tombstones;
    assert_eq!((kept.len(), kept[0].sliver.as_str()), (1, "web/0"));
    let hours = (kept[0].purge_ms - kept[0].since_ms) / 3_600_000;
    assert_eq!(hours, 3, "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_node_plans_from_reads_back() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let told = world.running().handle.observed().await.unwrap();
    let snapshot = crate::snapshot::Snapshot::from_json(&told.to_string()).unwrap();
    assert_eq!(snapshot.revision, Some(revision(1)));
    assert!(
        snapshot
            .observed
            .domains
            .known()
            .unwrap()
            .ours
            .contains_key(&id("web/0"))
    );
    assert!(snapshot.applied[&id("web/0")].complete);
}

/// The plan that a node shows, as somebody would send it back.
async fn shown(world: &World) -> ApplyRequest {
    let plan = world.running().handle.plan().await.unwrap();
    let texts = |value: &serde_json::Value| {
        let list = value.as_array().unwrap().iter();
        list.map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let actions = plan.plan["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| ApplyAction {
            key: action["key"].as_str().unwrap().to_owned(),
            after: texts(&action["after"]),
        });
    ApplyRequest {
        node: plan.node,
        revision: plan.revision,
        generation: plan.generation,
        actions: actions.collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_saved_plan_is_carried_out_as_it_was_read_or_not_at_all() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let handle = &world.running().handle;
    let nothing = shown(&world).await;
    assert_eq!(handle.apply(nothing.clone()).await.unwrap().actions, 0);

    // A guest dies: the plan of before is not the plan of now.
    let refused = |result: Result<_, HandleError>, why: &str| {
        let error = result.map(|_: crate::api::Applied| ()).unwrap_err();
        assert!(matches!(error, HandleError::Stale { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    };
    let mut other = nothing.clone();
    other.actions.push(ApplyAction {
        key: "boot:web/0".to_owned(),
        after: vec![],
    });
    refused(handle.apply(other).await, "boot:web/0 was planned");
    let mut other = nothing.clone();
    other.revision = revision(7).to_string();
    refused(handle.apply(other).await, "another commit");
    let mut other = nothing.clone();
    other.node = "nyc-02".to_owned();
    refused(handle.apply(other).await, "node nyc-02");
    world.node.lose_domain(&id("web/0"));
    refused(handle.apply(nothing).await, "boot:web/0 is to be done");

    let asked = ApplyRequest {
        node: "cam-01".to_owned(),
        revision: revision(1).to_string(),
        generation: 1,
        actions: vec![ApplyAction {
            key: "boot:web/0".to_owned(),
            after: vec![],
        }],
    };
    let applied = handle.apply(asked).await.unwrap();
    assert_eq!(applied.actions, 1);
    world.converged(1).await;
    assert_eq!(world.calls("boot:web/0"), 2);
}
