//! Stories of watches.

use super::*;

/// Lists and watches in the middle of everything: list and changes together come to what is there in the end.
pub(super) async fn a_watch_goes_on_where_a_listing_ends(ground: &impl Ground) {
    const WRITES: usize = 60;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..3 {
        let board = ground.client().await;
        writers.spawn(async move {
            for n in 0..WRITES {
                // Each writer its own keys, some of them written often, some deleted.
                let k = format!("x/{writer}/{}", n % 7);
                if n % 5 == 4 {
                    done(board.commit(&txn(vec![], vec![Write::Delete(key(&k))])).await);
                } else {
                    set(&board, &k, &n.to_string()).await;
                }
            }
        });
    }
    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let board = ground.client().await;
        watchers.spawn(async move {
            let listing = list(&board, "x/").await;
            let mut seen = contents(&listing);
            let mut watch = watch(&board, "x/", listing.at.next()).await;
            let mut last = listing.at;
            loop {
                let changes = next(&mut watch).await;
                assert!(changes.revision > last, "each once, in order");
                last = changes.revision;
                for change in changes.changes {
                    match change.entry {
                        Some(entry) => drop(seen.insert(change.key, entry)),
                        None if change.key == key("x/end") => return seen,
                        None => assert!(seen.remove(&change.key).is_some(), "it was known"),
                    }
                }
            }
        });
    }
    while let Some(ended) = patient("the writers", writers.join_next()).await {
        ended.expect("no writer failed");
    }
    let board = ground.client().await;
    set(&board, "x/end", "").await;
    let expected = contents(&list(&board, "x/").await);
    done(
        board
            .commit(&txn(vec![], vec![Write::Delete(key("x/end"))]))
            .await,
    );
    while let Some(ended) = patient("the watchers", watchers.join_next()).await {
        assert_eq!(ended.expect("no watcher failed"), expected);
    }
}

pub(super) async fn a_watch_is_of_its_prefix_and_of_whole_changes(ground: &impl Ground) {
    let (a, b) = (ground.client().await, ground.client().await);
    let from = list(&a, "x/").await.at.next();
    let mut below = watch(&a, "x/", from).await;
    let mut all = watch(&b, "", from).await;
    let writes = vec![put("x/b", "1", None), put("y", "1", None), put("x/a", "1", None)];
    let first = done(b.commit(&txn(vec![], writes)).await);
    set(&b, "xx/a", "beside").await;
    let last = done(b.commit(&txn(vec![], vec![Write::Delete(key("x/b"))])).await);

    let changes = next(&mut below).await;
    assert_eq!(
        (changes.revision, brief(&changes)),
        (first, vec!["x/a=1".into(), "x/b=1".into()])
    );
    let changes = next(&mut below).await;
    assert_eq!((changes.revision, brief(&changes)), (last, vec!["x/b-".into()]));
    let seen = [
        brief(&next(&mut all).await),
        brief(&next(&mut all).await),
        brief(&next(&mut all).await),
    ];
    assert_eq!(seen.concat(), ["x/a=1", "x/b=1", "y=1", "xx/a=beside", "x/b-"]);

    // Changes carry what a listing would have said.
    let lease = a.grant(Duration::from_secs(60)).await.expect("granted").id;
    done(a.commit(&Txn::put(key("x/c"), value("2"), Some(lease))).await);
    let change = next(&mut below).await.changes.remove(0);
    assert_eq!(change.entry, get(&a, "x/c").await);
    assert_eq!(change.entry.and_then(|entry| entry.lease), Some(lease));
}

pub(super) async fn a_watch_from_the_past_tells_the_past(ground: &impl Ground) {
    let board = ground.client().await;
    let first = set(&board, "x", "1").await;
    set(&board, "x", "2").await;
    set(&board, "y", "3").await;
    let mut early = watch(&board, "", first).await;
    for expected in ["x=1", "x=2", "y=3"] {
        assert_eq!(brief(&next(&mut early).await), [expected]);
    }
    // A watch may begin where the board has not come to yet.
    let at = list(&board, "").await.at;
    let mut late = watch(&board, "", Revision(at.0 + 3)).await;
    for n in 4..8 {
        set(&board, "x", &n.to_string()).await;
    }
    assert_eq!(brief(&next(&mut late).await), ["x=6"]);
    for expected in ["x=4", "x=5", "x=6", "x=7"] {
        assert_eq!(brief(&next(&mut early).await), [expected]);
    }
}

pub(super) async fn what_is_forgotten_is_said_to_be(ground: &impl Ground) {
    let board = ground.client().await;
    let first = set(&board, "x", "1").await;
    let mut steady = watch(&board, "", first).await;
    assert_eq!(brief(&next(&mut steady).await), ["x=1"]);
    set(&board, "x", "2").await;
    let third = set(&board, "x", "3").await;
    ground.compact(third).await;

    let mut old = watch(&board, "", first).await;
    let end = patient("the end", old.next())
        .await
        .expect_err("the past is gone");
    assert_eq!(end, WatchEnd::Compacted { oldest: third.next() });
    assert_eq!(patient("the end again", old.next()).await, Err(end));

    // What is there is there, and whoever was up to date goes on.
    assert_eq!(text(&board, "x").await.as_deref(), Some("3"));
    let mut new = watch(&board, "", list(&board, "").await.at.next()).await;
    set(&board, "x", "4").await;
    assert_eq!(brief(&next(&mut new).await), ["x=4"]);
    for expected in ["x=2", "x=3", "x=4"] {
        assert_eq!(brief(&next(&mut steady).await), [expected]);
    }
}

/// Nobody takes what a watch tells while far more is written than it may hold.
pub(super) async fn who_is_too_slow_is_cut_off(ground: &impl Ground) {
    let (slow, writer) = (ground.client().await, ground.client().await);
    let from = list(&slow, "x/").await.at.next();
    let mut left = watch(&slow, "x/", from).await;
    let large = Value::new(vec![7; 60 << 10]).expect("fits");
    let writes = |round: usize| {
        let of = |n: usize| Write::Put {
            key: key(&format!("x/{n}")),
            value: large.clone(),
            lease: None,
        };
        txn(vec![], (0..8).map(|n| of(round + n)).collect())
    };
    let bytes_of_one = 8 * (60 << 10);
    let rounds = 2 * super::super::watch::QUEUE_BYTES_MAX / bytes_of_one;
    for round in 0..rounds {
        done(writer.commit(&writes(round)).await);
    }
    let end = patient("the end", async {
        loop {
            if let Err(end) = left.next().await {
                break end;
            }
        }
    });
    assert_eq!(end.await, WatchEnd::Lagging);
    // And then does what everybody does.
    let listing = list(&slow, "x/").await;
    let mut again = watch(&slow, "x/", listing.at.next()).await;
    set(&writer, "x/0", "small").await;
    assert_eq!(brief(&next(&mut again).await), ["x/0=small"]);
}
