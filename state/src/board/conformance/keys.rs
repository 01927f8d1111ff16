//! Stories of keys and transactions.

use super::*;

pub(super) async fn a_key_holds_what_was_put_last(ground: &impl Ground) {
    let (a, b) = (ground.client().await, ground.client().await);
    assert_eq!(get(&a, "x/1").await, None);
    let first = set(&a, "x/1", "one").await;
    let entry = get(&b, "x/1").await.expect("another client sees it");
    assert_eq!(
        (entry.value, entry.revision, entry.lease),
        (value("one"), first, None)
    );
    let second = set(&b, "x/1", "two").await;
    assert!(second > first);
    assert_eq!(get(&a, "x/1").await.map(|entry| entry.revision), Some(second));

    let third = done(a.commit(&Txn::delete_at(key("x/1"), second)).await);
    assert!(third > second);
    assert_eq!(get(&b, "x/1").await, None);
    // To delete what is not there changes nothing.
    let nothing = txn(vec![Guard::Absent(key("x/1"))], vec![Write::Delete(key("x/1"))]);
    assert_eq!(done(b.commit(&nothing).await), third);
    assert_eq!(
        list(&b, "x/").await,
        Listing {
            entries: vec![],
            at: third
        }
    );

    set(&a, "x/empty", "").await;
    assert_eq!(text(&b, "x/empty").await.as_deref(), Some(""));
}

pub(super) async fn a_refusal_says_what_is_there(ground: &impl Ground) {
    let board = ground.client().await;
    let first = set(&board, "x/1", "one").await;
    let there = get(&board, "x/1").await;
    let at = list(&board, "").await.at;

    let wrong = [
        Guard::Absent(key("x/1")),
        Guard::At(key("x/1"), Revision(first.0 + 1)),
        Guard::At(key("x/1"), Revision(first.0 - 1)),
    ];
    for guard in wrong {
        let commit = board.commit(&Txn::put_if(guard, value("two"), None)).await;
        assert_eq!(refused(commit), Refused(vec![(key("x/1"), there.clone())]));
    }
    let commit = board.commit(&Txn::delete_at(key("x/2"), first)).await;
    assert_eq!(refused(commit), Refused(vec![(key("x/2"), None)]));
    assert_eq!(list(&board, "").await.at, at, "a refusal changes nothing");

    // Only the guards that do not hold are named, in their order.
    let guards = vec![
        Guard::At(key("x/9"), first),
        Guard::At(key("x/1"), first),
        Guard::Absent(key("x/5")),
        Guard::At(key("x/3"), first),
    ];
    let commit = board.commit(&txn(guards, vec![put("x/7", "v", None)])).await;
    assert_eq!(
        refused(commit),
        Refused(vec![(key("x/9"), None), (key("x/3"), None)])
    );

    // What was deleted and made again is not what it was.
    let gone = done(board.commit(&Txn::delete_at(key("x/1"), first)).await);
    set(&board, "x/1", "one").await;
    for stale in [first, gone] {
        let guard = Guard::At(key("x/1"), stale);
        refused(board.commit(&Txn::put_if(guard, value("two"), None)).await);
    }
}

pub(super) async fn keys_change_together_or_not_at_all(ground: &impl Ground) {
    let board = ground.client().await;
    let guards = vec![Guard::Absent(key("x/a")), Guard::Absent(key("x/b"))];
    let both = txn(guards, vec![put("x/a", "1", None), put("x/b", "1", None)]);
    let at = done(board.commit(&both).await);
    assert_eq!(get(&board, "x/a").await.map(|entry| entry.revision), Some(at));
    assert_eq!(get(&board, "x/b").await.map(|entry| entry.revision), Some(at));

    let later = set(&board, "x/b", "2").await;
    let guards = vec![Guard::At(key("x/a"), at), Guard::At(key("x/b"), at)];
    let commit = board
        .commit(&txn(
            guards,
            vec![put("x/a", "3", None), Write::Delete(key("x/b"))],
        ))
        .await;
    assert_eq!(refused(commit).0.len(), 1);
    assert_eq!(text(&board, "x/a").await.as_deref(), Some("1"));

    // One key is compared, another is written: as a slot under a verdict.
    let guards = vec![Guard::At(key("x/b"), later)];
    done(
        board
            .commit(&txn(
                guards,
                vec![put("x/a", "4", None), Write::Delete(key("x/c"))],
            ))
            .await,
    );
    assert_eq!(text(&board, "x/a").await.as_deref(), Some("4"));
    assert_eq!(get(&board, "x/b").await.map(|entry| entry.revision), Some(later));
}

/// Reads, adds one, writes if nobody else did meanwhile.
pub(super) async fn of_many_who_count_together_none_loses_a_count(ground: &impl Ground) {
    const CLIENTS: u64 = 6;
    const COUNTS: u64 = 15;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let board = ground.client().await;
        tasks.spawn(async move {
            for _ in 0..COUNTS {
                loop {
                    let now = get(&board, "count").await;
                    let count = now.as_ref().map_or(0, number);
                    let guard = Guard::unchanged(key("count"), now.as_ref());
                    let more = value(&(count + 1).to_string());
                    match board.commit(&Txn::put_if(guard, more, None)).await {
                        Ok(Commit::Done(_)) => break,
                        Ok(Commit::Refused(refused)) => assert_eq!(refused.0.len(), 1),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
    }
    while let Some(ended) = patient("everybody's counts", tasks.join_next()).await {
        ended.expect("no count failed");
    }
    let board = ground.client().await;
    assert_eq!(
        get(&board, "count").await.as_ref().map(number),
        Some(CLIENTS * COUNTS)
    );
}

fn number(entry: &Entry) -> u64 {
    let text = String::from_utf8_lossy(entry.value.as_bytes());
    text.parse().expect("a number was written")
}

pub(super) async fn one_of_many_takes_what_is_free(ground: &impl Ground) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let board = ground.client().await;
        tasks.spawn(async move {
            let mut won = 0;
            for slot in 0..10 {
                // Two keys, so that a half of one and a half of another would show.
                let (slot, of) = (format!("slot/{slot}"), format!("of/{slot}"));
                let guards = vec![Guard::Absent(key(&slot))];
                let mine = n.to_string();
                let writes = vec![put(&slot, &mine, None), put(&of, &mine, None)];
                won += usize::from(matches!(
                    board.commit(&txn(guards, writes)).await,
                    Ok(Commit::Done(_))
                ));
            }
            won
        });
    }
    let mut won = 0;
    while let Some(ended) = patient("everybody's tries", tasks.join_next()).await {
        won += ended.expect("no try failed");
    }
    assert_eq!(won, 10, "each slot was taken once");
    let board = ground.client().await;
    let (slots, of) = (list(&board, "slot/").await, list(&board, "of/").await);
    for ((_, slot), (_, of)) in slots.entries.iter().zip(&of.entries) {
        assert_eq!((&slot.value, slot.revision), (&of.value, of.revision));
    }
}

/// A token goes from key to key while others list: each listing has it exactly once, however many pages it takes.
pub(super) async fn a_listing_is_of_one_moment(ground: &impl Ground) {
    const KEYS: usize = 700;
    let board = ground.client().await;
    for chunk in (0..KEYS).collect::<Vec<_>>().chunks(8) {
        let writes = chunk.iter().map(|n| put(&format!("x/{n:04}"), "", None));
        done(board.commit(&txn(vec![], writes.collect())).await);
    }
    set(&board, "w/beside", "").await;
    set(&board, "x0", "after").await;
    set(&board, "x/0000", "token").await;
    let mover = ground.client().await;
    let moves = async {
        let mut at = 0;
        for step in 0..40 {
            let to = (at + 311 + step) % KEYS;
            let writes = vec![
                put(&format!("x/{at:04}"), "", None),
                put(&format!("x/{to:04}"), "token", None),
            ];
            if to != at {
                done(mover.commit(&txn(vec![], writes)).await);
            }
            at = to;
        }
    };
    let listings = async {
        let mut last = Revision::START;
        for _ in 0..12 {
            let listing = list(&board, "x/").await;
            assert_eq!(listing.entries.len(), KEYS);
            assert!(listing.entries.is_sorted_by(|(a, _), (b, _)| a < b));
            assert!(
                listing
                    .entries
                    .iter()
                    .all(|(_, entry)| entry.revision <= listing.at)
            );
            let tokens = listing
                .entries
                .iter()
                .filter(|(_, entry)| entry.value == value("token"));
            assert_eq!(tokens.count(), 1, "at {:?}", listing.at);
            assert!(listing.at >= last);
            last = listing.at;
        }
    };
    tokio::join!(moves, listings);
}

pub(super) async fn the_largest_transaction_fits(ground: &impl Ground) {
    let board = ground.client().await;
    let long = "k".repeat(super::super::KEY_LEN_MAX - 2);
    let large = Value::new(vec![0xa5; super::super::VALUE_LEN_MAX]).expect("just fits");
    let keys: Vec<_> = (0..super::super::TXN_KEYS_MAX)
        .map(|n| key(&format!("{n}{long}")))
        .collect();
    let guards = keys.iter().cloned().map(Guard::Absent).collect();
    let of = |key: &Key| Write::Put {
        key: key.clone(),
        value: large.clone(),
        lease: None,
    };
    let all = txn(guards, keys.iter().map(of).collect());
    done(board.commit(&all).await);
    let listing = list(&board, "").await;
    assert_eq!(listing.entries.len(), keys.len());
    assert!(listing.entries.iter().all(|(_, entry)| entry.value == large));
    // And so does its refusal, which tells all of it.
    assert_eq!(refused(board.commit(&all).await).0.len(), keys.len());
}

pub(super) async fn a_board_has_one_name(ground: &impl Ground) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..6 {
        let board = ground.client().await;
        tasks.spawn(async move { super::super::identity(&board, &format!("name-{n}")).await });
    }
    let mut names = std::collections::BTreeSet::new();
    while let Some(ended) = patient("everybody's name", tasks.join_next()).await {
        names.insert(ended.expect("nobody failed").expect("the board has a name"));
    }
    assert_eq!(names.len(), 1, "{names:?}");
    let later = super::super::identity(&ground.client().await, "later").await;
    assert_eq!(later.ok(), names.pop_first());
}

pub(super) async fn a_transaction_again_tells_what_became_of_it(ground: &impl Ground) {
    let (a, b) = (ground.client().await, ground.client().await);
    let before = set(&a, "holder", "a 1").await;
    let swap = Txn::put_if(Guard::At(key("holder"), before), value("b 2"), None);
    done(a.commit(&swap).await);
    // As if that answer had been lost.
    let again = refused(a.commit(&swap).await);
    assert!(swap.was_done_before(&again));
    let other = Txn::put_if(Guard::At(key("holder"), before), value("c 2"), None);
    assert!(!other.was_done_before(&refused(b.commit(&other).await)));
}
