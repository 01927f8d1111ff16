//! Stories of leases.

use super::*;

/// Short, since one ground lets time pass by waiting.
const TTL: Duration = super::super::TTL_MIN;

pub(super) async fn a_lease_takes_its_keys_along(ground: &impl Ground) {
    let (a, b) = (ground.client().await, ground.client().await);
    let lease = a.grant(Duration::from_secs(60)).await.expect("granted");
    let other = a.grant(Duration::from_secs(60)).await.expect("granted");
    assert_ne!(lease.id, other.id);
    done(
        a.commit(&txn(
            vec![],
            vec![put("x/a", "1", Some(lease.id)), put("x/b", "1", None)],
        ))
        .await,
    );
    done(a.commit(&Txn::put(key("x/c"), value("1"), Some(lease.id))).await);
    done(a.commit(&Txn::put(key("x/d"), value("1"), Some(other.id))).await);
    assert_eq!(get(&b, "x/a").await.and_then(|entry| entry.lease), Some(lease.id));

    let mut seen = watch(&b, "x/", list(&b, "x/").await.at.next()).await;
    b.revoke(lease.id).await.expect("anybody may");
    assert_eq!(brief(&next(&mut seen).await), ["x/a-", "x/c-"]);
    let left: Vec<_> = contents(&list(&a, "x/").await).into_keys().collect();
    assert_eq!(left, [key("x/b"), key("x/d")]);
    b.revoke(lease.id).await.expect("it is gone, as wanted");
}

pub(super) async fn a_lease_lives_as_long_as_it_is_renewed(ground: &impl Ground) {
    let (a, b) = (ground.client().await, ground.client().await);
    let kept = a.grant(TTL).await.expect("granted");
    let left = a.grant(TTL).await.expect("granted");
    assert!(kept.ttl >= TTL && kept.ttl < 10 * TTL);
    done(
        a.commit(&txn(
            vec![],
            vec![
                put("x/kept", "1", Some(kept.id)),
                put("x/left", "1", Some(left.id)),
            ],
        ))
        .await,
    );
    let mut seen = watch(&b, "x/", list(&b, "x/").await.at.next()).await;

    let gone = async {
        loop {
            ground.pass(TTL / 4).await;
            let renewed = a.keep_alive(kept.id).await.expect("it is there");
            assert_eq!(renewed.id, kept.id);
            assert!(renewed.ttl >= TTL);
            if let Some(changes) = seen.try_next() {
                break changes.expect("the watch goes on");
            }
            // For those whose time does not pass by itself.
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(brief(&patient("the end of a lease", gone).await), ["x/left-"]);
    assert!(get(&b, "x/kept").await.is_some() && get(&b, "x/left").await.is_none());

    let gone = async {
        while get(&b, "x/kept").await.is_some() {
            ground.pass(TTL / 4).await;
        }
    };
    patient("the end of the other", gone).await;
    assert_eq!(brief(&next(&mut seen).await), ["x/kept-"]);
    assert_eq!(a.keep_alive(kept.id).await, Err(BoardError::LeaseGone(kept.id)));
}

pub(super) async fn a_lease_that_is_gone_is_gone(ground: &impl Ground) {
    let board = ground.client().await;
    let lease = board.grant(Duration::from_secs(60)).await.expect("granted").id;
    done(board.commit(&Txn::put(key("x"), value("1"), Some(lease))).await);
    board.revoke(lease).await.expect("revoked");
    assert_eq!(get(&board, "x").await, None);
    assert_eq!(board.keep_alive(lease).await, Err(BoardError::LeaseGone(lease)));

    // A commit with it does nothing, also with what needs no lease.
    let at = list(&board, "").await.at;
    let late = txn(vec![], vec![put("y", "1", None), put("z", "1", Some(lease))]);
    assert_eq!(board.commit(&late).await, Err(BoardError::LeaseGone(lease)));
    assert_eq!(list(&board, "").await, Listing { entries: vec![], at });
    let never = LeaseId(i64::MAX - 7);
    assert_eq!(board.keep_alive(never).await, Err(BoardError::LeaseGone(never)));
}

pub(super) async fn a_key_can_leave_its_lease(ground: &impl Ground) {
    let board = ground.client().await;
    let first = board.grant(Duration::from_secs(60)).await.expect("granted").id;
    let second = board.grant(Duration::from_secs(60)).await.expect("granted").id;
    for name in ["x/stays", "x/moves", "x/goes", "x/again"] {
        done(board.commit(&Txn::put(key(name), value("1"), Some(first))).await);
    }
    set(&board, "x/stays", "2").await;
    done(
        board
            .commit(&Txn::put(key("x/moves"), value("2"), Some(second)))
            .await,
    );
    // Deleted and made again, it is another key.
    done(
        board
            .commit(&txn(vec![], vec![Write::Delete(key("x/again"))]))
            .await,
    );
    set(&board, "x/again", "2").await;

    board.revoke(first).await.expect("revoked");
    let left: Vec<_> = contents(&list(&board, "x/").await).into_keys().collect();
    assert_eq!(left, [key("x/again"), key("x/moves"), key("x/stays")]);
    board.revoke(second).await.expect("revoked");
    assert_eq!(get(&board, "x/moves").await, None);
    assert_eq!(get(&board, "x/stays").await.and_then(|entry| entry.lease), None);
}

pub(super) async fn a_lease_has_bounds(ground: &impl Ground) {
    let board = ground.client().await;
    for wrong in [
        Duration::ZERO,
        TTL - Duration::from_millis(1),
        super::super::TTL_MAX + TTL,
    ] {
        let error = board.grant(wrong).await.expect_err("no such lease");
        assert!(matches!(error, BoardError::Never { .. }), "{error}");
    }
    let longest = board.grant(super::super::TTL_MAX).await.expect("granted");
    assert!(longest.ttl >= super::super::TTL_MAX);
    // Never shorter than asked for: its owner counts on it.
    let odd = board.grant(Duration::from_millis(2001)).await.expect("granted");
    assert!(odd.ttl >= Duration::from_millis(2001));
}
