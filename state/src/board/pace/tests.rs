use super::*;

mod simulation;

#[test]
fn a_small_fleet_is_quick_and_a_large_one_patient() {
    let check = |nodes: u32, renew: u64, ttl: u64, summary: u64, back_within: u64| {
        let mut pace = Pace::new("cam-01", nodes, 1);
        assert_eq!(pace.renew_every(), Duration::from_secs(renew));
        assert_eq!(pace.lease_ttl(), Duration::from_secs(ttl));
        assert_eq!(pace.summary_every(), Duration::from_secs(summary));
        let longest = (0..1000).map(|_| pace.until_arrival()).max().unwrap();
        assert!(
            longest <= Duration::from_secs(back_within),
            "{nodes}: {longest:?}"
        );
    };
    check(0, 5, 15, 1, 1);
    check(1, 5, 15, 1, 1);
    check(350, 5, 15, 7, 12);
    check(700, 10, 30, 14, 24);
    check(7000, 100, 300, 140, 234);
}

#[test]
fn a_lease_outlives_lost_renewals() {
    let mut pace = Pace::new("cam-01", 10_000, 1);
    let (ttl, every) = (pace.lease_ttl(), pace.renew_every());
    for _ in 0..1000 {
        let (first, second) = (pace.until_renewal(), pace.until_renewal());
        assert!(
            first >= every * 8 / 10 && first + second < ttl,
            "{first:?} {second:?}"
        );
    }
    assert!(ttl <= super::super::TTL_MAX && Pace::new("a", 1, 1).lease_ttl() >= super::super::TTL_MIN);
}

#[test]
fn turns_follow_from_name_and_seed() {
    let turns = |node: &str, seed| {
        let mut pace = Pace::new(node, 1000, seed);
        [pace.until_arrival(), pace.until_renewal(), pace.until_retry(4)]
    };
    assert_eq!(turns("a", 1), turns("a", 1));
    assert_ne!(turns("a", 1), turns("b", 1));
    assert_ne!(turns("a", 1), turns("a", 2));
}

#[test]
fn tries_become_rare_and_never_stop() {
    let check = |nodes: u32, failures: u32, low_ms: u64, high_ms: u64| {
        let mut pace = Pace::new("cam-01", nodes, 1);
        let waits = (0..200).map(|_| ms(pace.until_retry(failures)));
        let all = waits.collect::<Vec<_>>();
        assert!(
            all.iter().all(|wait| (low_ms..=high_ms).contains(wait)),
            "{failures}: {all:?}"
        );
    };
    check(100, 0, 670, 1330);
    check(100, 1, 670, 1330);
    check(100, 2, 1340, 2660);
    check(100, u32::MAX, 2200, 4450);
    check(10_000, 1, 44_000, 89_000);
    check(10_000, 2, 89_000, 178_000);
    check(10_000, u32::MAX, 220_000, 445_000);
}

#[test]
fn many_changes_are_written_once() {
    let mut pace = Pace::new("cam-01", 500, 1);
    let every = ms(pace.summary_every());
    let mut summary = Summary::default();
    assert_eq!(summary.due_ms(), None);
    summary.changed(1000, &mut pace);
    let due = summary.due_ms().unwrap();
    assert!((1000..=1000 + every).contains(&due));
    summary.changed(1001, &mut pace);
    assert_eq!(summary.due_ms(), Some(due), "the first change decides");
    summary.written(due);
    assert_eq!(summary.due_ms(), None);
    summary.changed(due + 1, &mut pace);
    assert!(summary.due_ms().unwrap() >= due + every, "its next turn");
}

#[test]
fn a_small_commit_starts_at_once() {
    let mut pace = Pace::new("cam-01", 10_000, 1);
    assert!((0..100).all(|_| pace.until_start(6) <= Duration::from_millis(134)));
    let all: Vec<_> = (0..1000).map(|_| pace.until_start(100_000)).collect();
    assert!(all.iter().max().unwrap() > &Duration::from_secs(2100));
    assert!(all.iter().max().unwrap() <= &Duration::from_secs(2223));
}
