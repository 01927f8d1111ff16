//! Freezes as the API makes, keeps and ends them.

use super::*;

fn freeze(scope: ScopeView, for_ms: Option<u64>) -> FreezeRequest {
    FreezeRequest {
        scope,
        reason: "the auditors are here".to_owned(),
        by: "ada".to_owned(),
        for_ms,
    }
}

#[tokio::test(start_paused = true)]
async fn a_freeze_is_kept_refuses_reconcile_and_ends() {
    let mut world = World::started();
    world.push(commit(1, [sliver("web/0"), sliver("db/0")])).await;
    world.converged(1).await;
    let web = || ScopeView::Sliver("web/0".to_owned());
    let handle = world.running().handle.clone();
    let all = handle.freeze(freeze(web(), Some(3_600_000))).await.unwrap();
    assert_eq!((all.freezes.len(), all.freezes[0].by.as_str()), (1, "ada"));
    let refused = handle.reconcile(web()).await.unwrap_err();
    assert!(matches!(refused, HandleError::Frozen { .. }), "{refused}");
    assert!(refused.to_string().contains("the auditors are here"), "{refused}");
    // The rest of the node is not.
    handle.reconcile(ScopeView::Node).await.unwrap();
    handle
        .reconcile(ScopeView::Sliver("db/0".to_owned()))
        .await
        .unwrap();
    let frozen = world
        .status()
        .await
        .slivers
        .iter()
        .map(|s| s.frozen)
        .collect::<Vec<_>>();
    assert_eq!(frozen, [false, true]);

    // It outlives the agent, and ends in time.
    world.kill().await;
    world.start();
    let handle = world.running().handle.clone();
    assert_eq!(handle.freezes().await.unwrap(), all);
    world.push(commit(1, [sliver("web/0"), sliver("db/0")])).await;
    world.until("the end", |status| status.freezes.is_empty()).await;
    world.until("the event", |_| true).await;
    handle.reconcile(web()).await.unwrap();
    assert_eq!(world.events("frozen").await.len(), 1);

    let nothing = handle.thaw(web()).await.unwrap_err();
    assert_eq!(nothing.to_string(), "web/0 is not frozen");
    handle.freeze(freeze(ScopeView::Node, None)).await.unwrap();
    handle.reconcile(web()).await.unwrap_err();
    assert!(handle.thaw(ScopeView::Node).await.unwrap().freezes.is_empty());
    handle.reconcile(web()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_freeze_without_a_reason_or_of_what_is_no_name_is_refused() {
    let world = World::started();
    let handle = &world.running().handle;
    let silent = FreezeRequest {
        reason: " ".to_owned(),
        ..freeze(ScopeView::Node, None)
    };
    for wrong in [
        silent,
        freeze(ScopeView::Slice("Not A Name".to_owned()), None),
        freeze(ScopeView::Sliver("web".to_owned()), None),
    ] {
        let refused = handle.freeze(wrong).await.unwrap_err();
        assert!(matches!(refused, HandleError::Invalid { .. }), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn guests_that_end_by_themselves_are_counted_until_they_stay_up() {
    let mut world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    for boots in 2..4 {
        world.node.lose_domain(&id("web/0"));
        world
            .until("the restart", |_| world.calls("boot:web/0") == boots)
            .await;
        world.converged(1).await;
    }
    assert_eq!(world.status().await.slivers[0].restarts, 2);
    world.kill().await;
    world.start();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    assert_eq!(world.status().await.slivers[0].restarts, 2);
    assert_eq!(world.events("restarted").await.len(), 2);
    world
        .until("them to be forgotten", |status| status.slivers[0].restarts == 0)
        .await;
}
