//! Stories of what serves the board going away.

use super::*;

pub(super) async fn what_was_answered_outlives_the_server(ground: &impl Ground) {
    let board = ground.client().await;
    let first = set(&board, "x/1", "one").await;
    let mut watched = watch(&board, "x/", first).await;
    assert_eq!(brief(&next(&mut watched).await), ["x/1=one"]);
    let second = set(&board, "x/2", "two").await;
    if !ground.stop().await {
        return;
    }

    // Each call ends within its time, and says what is known.
    let error = patient("an answer", board.get(&key("x/1")))
        .await
        .expect_err("no server");
    assert!(matches!(error, BoardError::Unavailable { .. }), "{error}");
    let error = patient("an answer", board.list(&prefix("x/")))
        .await
        .expect_err("no server");
    assert!(matches!(error, BoardError::Unavailable { .. }), "{error}");
    let swap = Txn::put_if(Guard::Absent(key("x/3")), value("mine"), None);
    let error = patient("an answer", board.commit(&swap))
        .await
        .expect_err("no server");
    assert!(error.may_pass(), "{error}");
    let error = patient("an answer", board.grant(Duration::from_secs(60)))
        .await
        .expect_err("no server");
    assert!(matches!(error, BoardError::Unavailable { .. }), "{error}");
    // The watch ends, after what had come before.
    let end = patient("the end", async {
        loop {
            match watched.next().await {
                Ok(changes) => assert_eq!(changes.revision, second),
                Err(end) => break end,
            }
        }
    });
    assert!(matches!(end.await, WatchEnd::Lost(_)));

    ground.start().await;
    let listing = patient("the server", async {
        loop {
            match board.list(&prefix("x/")).await {
                Ok(listing) => break listing,
                Err(error) => assert!(matches!(error, BoardError::Unavailable { .. }), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let listing = listing.await;
    assert!(listing.at >= second);
    let seen = contents(&listing);
    assert_eq!(seen[&key("x/1")].revision, first);
    assert_eq!(seen[&key("x/2")].revision, second);

    // The same again settles what became of the swap.
    match board.commit(&swap).await {
        Ok(Commit::Done(at)) => assert!(at > second),
        Ok(Commit::Refused(refused)) => assert!(swap.was_done_before(&refused)),
        Err(error) => panic!("{error}"),
    }
    assert_eq!(text(&board, "x/3").await.as_deref(), Some("mine"));
    // As does a watch from where the old one had come to.
    let mut again = watch(&board, "x/", second.next()).await;
    assert_eq!(brief(&next(&mut again).await), ["x/3=mine"]);
}

pub(super) async fn leases_outlive_the_server(ground: &impl Ground) {
    let board = ground.client().await;
    let lease = board.grant(Duration::from_secs(10)).await.expect("granted").id;
    done(board.commit(&Txn::put(key("x"), value("1"), Some(lease))).await);
    if !ground.stop().await {
        return;
    }
    let error = patient("an answer", board.keep_alive(lease))
        .await
        .expect_err("no server");
    assert!(matches!(error, BoardError::Unavailable { .. }), "{error}");
    ground.start().await;
    // A server that was away lets nobody's lease run out for that.
    let renewed = patient("the server", async {
        loop {
            match board.keep_alive(lease).await {
                Ok(renewed) => break renewed,
                Err(error) => assert!(matches!(error, BoardError::Unavailable { .. }), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(renewed.await.id, lease);
    assert_eq!(get(&board, "x").await.and_then(|entry| entry.lease), Some(lease));
    board.revoke(lease).await.expect("revoked");
    assert_eq!(get(&board, "x").await, None);
}
