use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;
use xeno_model::desired::{
    DesiredSliver, Migration, Mount, Resources, RollbackData, Rollout, SliverState, Start, TemplateRef,
    WritableKind,
};
use xeno_model::id::{DomainUuid, FleetName, TemplateName};
use xeno_model::units::Bytes;

mod damage;

use super::*;
use crate::error::chain;
use crate::record::NewEvent;
use crate::upgrade;

fn node() -> NodeName {
    NodeName::new("cam-01").unwrap()
}

fn open(dir: &TempDir) -> Result<NodeState, StateError> {
    NodeState::open(dir.path(), &node(), Limits::default())
}

fn conn(state: &NodeState) -> &Connection {
    state.conn.as_ref().unwrap()
}

fn revision(digit: char) -> Revision {
    Revision::new(&digit.to_string().repeat(40)).unwrap()
}

fn sliver(text: &str) -> DesiredSliver {
    let id = SliverId::parse(text).unwrap();
    let template = TemplateRef {
        name: TemplateName::new("debian").unwrap(),
        channel: None,
        digest: Digest::of(b"debian"),
        sources: Vec::new(),
    };
    DesiredSliver {
        uuid: DomainUuid::of(&FleetName::new("fleet").unwrap(), &id),
        id,
        kernel: template.clone(),
        mounts: vec![Mount {
            path: "/".to_owned(),
            layers: vec![xeno_model::desired::LayerRef::Template(template)],
            writable: WritableKind::Local,
        }],
        resources: Resources {
            vcpus: 1,
            vcpus_max: None,
            memory: Bytes(128 << 20),
            memory_max: None,
            cpu_weight: 256,
            cpu_cap_percent: None,
            disk: None,
            inodes: None,
            net_rate: None,
        },
        state: SliverState::Running,
        health: None,
        publish: Vec::new(),
        addresses: vec![],
        tenant: None,
        start: Start::Boot,
        expires: None,
        failover: false,
        moved_from: None,
        rollout: Rollout::default(),
        migration: Migration::default(),
        rollback: RollbackData::Keep,
        checkpoints: 3,
    }
}

fn event(at: u64, text: &str) -> NewEvent {
    NewEvent {
        at: Timestamp(at),
        kind: EventKind::Done,
        sliver: None,
        text: text.to_owned(),
        data: Some(serde_json::json!({ "n": at })),
    }
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let web = sliver("web/0");
    let applied = AppliedSliver {
        desired: web.clone(),
        epoch: Epoch(3),
        complete: false,
        at: Timestamp(7),
    };
    let back_off = BackOff {
        action: "boot:web/0".to_owned(),
        why: "no memory".to_owned(),
        attempts: 2,
        permanent: false,
        until: NodeTime(99),
    };
    let files = (Digest::of(b"files"), Digest::of(b"template"));
    {
        let mut state = open(&dir).unwrap();
        assert_eq!(state.accepted().unwrap(), None);
        let written = state.write(|w| {
            assert_eq!(w.accept(&revision('a'), Timestamp(5))?, Generation(1));
            assert_eq!(w.accept(&revision('b'), Timestamp(7))?, Generation(2));
            w.carried(Generation(1))?;
            w.apply(&applied)?;
            w.back_off(&web.id, &back_off)?;
            w.removal(&web.id, Timestamp(10), NodeTime(10), NodeTime(0))?;
            w.removal(&web.id, Timestamp(5), NodeTime(20), NodeTime(0))?;
            w.file_layer(&files.0, &files.1)?;
            w.reject(Some(&Rejection {
                revision: revision('c'),
                why: "error[E0107]".to_owned(),
                at: Timestamp(8),
            }))
        });
        written.unwrap();
    }
    let mut state = open(&dir).unwrap();
    let accepted = state.accepted().unwrap().unwrap();
    assert_eq!(
        (accepted.generation, &accepted.revision),
        (Generation(2), &revision('b'))
    );
    assert_eq!(accepted.carried, Generation(1));
    assert_eq!(state.rejected().unwrap().unwrap().why, "error[E0107]");
    assert_eq!(
        state.applied().unwrap(),
        BTreeMap::from([(web.id.clone(), applied)])
    );
    assert_eq!(
        state.backing_off().unwrap(),
        BTreeMap::from([(web.id.clone(), back_off)])
    );
    let removals = state.removals_since(NodeTime(15)).unwrap();
    assert_eq!((removals.known, removals.forgotten), (vec![NodeTime(20)], false));
    assert_eq!(state.removals_since(NodeTime(0)).unwrap().known.len(), 2);
    assert_eq!(state.file_layers().unwrap(), BTreeMap::from([files]));

    // The right to run outlives the sliver and never falls.
    state.write(|w| w.forget(&web.id)).unwrap();
    state.write(|w| w.hold(&web.id, Epoch(1))).unwrap();
    assert!(state.applied().unwrap().is_empty());
    assert_eq!(state.epochs().unwrap(), BTreeMap::from([(web.id, Epoch(3))]));
    state.write(|w| w.accept(&revision('c'), Timestamp(9))).unwrap();
    assert_eq!(state.rejected().unwrap(), None);
}

#[test]
fn an_intent_without_outcome_is_found_again() {
    let dir = TempDir::new().unwrap();
    let web = SliverId::parse("web/0").unwrap();
    {
        let mut state = open(&dir).unwrap();
        let written = state.write(|w| {
            let run = w.begin_run(Generation(1), &revision('a'), 2, Timestamp(1))?;
            let done = w.intent(run, "stack:web/0", Some(&web), Timestamp(2))?;
            w.intent(run, "boot:web/0", Some(&web), Timestamp(3))?;
            w.outcome(done, &Outcome::Done, Timestamp(4))
        });
        written.unwrap();
    }
    let mut state = open(&dir).unwrap();
    let open = state.unfinished().unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!(
        (open[0].action.as_str(), &open[0].sliver),
        ("boot:web/0", &Some(web))
    );
    state
        .write(|w| w.outcome(open[0].seq, &Outcome::Lost, Timestamp(9)))
        .unwrap();
    assert!(state.unfinished().unwrap().is_empty());
    let journal = state.journal(10).unwrap();
    assert_eq!(journal[0].outcome, Some((Outcome::Done, Timestamp(4))));
    assert_eq!(journal[1].outcome, Some((Outcome::Lost, Timestamp(9))));
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let mut state = open(&dir).unwrap();
    let failed: Result<(), _> = state.write(|w| {
        w.event(event(1, "one"))?;
        Err(StateError::Record {
            what: "test",
            why: "stop here".to_owned(),
        })
    });
    failed.unwrap_err();
    assert!(state.events(0, 10).unwrap().is_empty());
}

#[test]
fn events_are_a_ring_with_growing_numbers() {
    let dir = TempDir::new().unwrap();
    let limits = Limits {
        events_max: 3,
        runs_max: 2,
        ..Limits::default()
    };
    let mut state = NodeState::open(dir.path(), &node(), limits).unwrap();
    for n in 1..=5 {
        state.write(|w| w.event(event(n, &format!("event {n}")))).unwrap();
        state
            .write(|w| w.begin_run(Generation(1), &revision('a'), 0, Timestamp(n)))
            .unwrap();
    }
    let seqs = |since, limit| -> Vec<u64> {
        let events = state.events(since, limit).unwrap();
        events.iter().map(|event| event.seq).collect()
    };
    assert_eq!(seqs(0, 10), [3, 4, 5]);
    assert_eq!(seqs(4, 10), [5]);
    assert_eq!(seqs(0, 2), [4, 5]);
    assert_eq!(seqs(u64::MAX, 2), [0_u64; 0]);
    let runs: u32 = conn(&state)
        .query_row("SELECT count(*) FROM run", [], |row| row.get(0))
        .unwrap();
    assert_eq!(runs, 2);
    let last = state.events(4, 1).unwrap().remove(0);
    assert_eq!(
        (last.text.as_str(), last.data),
        ("event 5", Some(serde_json::json!({ "n": 5 })))
    );

    let long = "ü".repeat(record::TEXT_LEN_MAX);
    let cut = state.write(|w| w.event(event(6, &long))).unwrap();
    assert_eq!(cut.text.len(), record::TEXT_LEN_MAX);
}

#[test]
fn a_second_agent_is_refused_and_told_who_has_it() {
    let dir = TempDir::new().unwrap();
    let first = open(&dir).unwrap();
    let refused = open(&dir).unwrap_err().to_string();
    assert!(refused.contains("another agent"), "{refused}");
    assert!(
        refused.contains(&format!("process {}", std::process::id())),
        "{refused}"
    );
    drop(first);
    open(&dir).unwrap();
}

#[test]
fn another_node_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir).unwrap());
    let other = NodeName::new("nyc-02").unwrap();
    let refused = NodeState::open(dir.path(), &other, Limits::default()).unwrap_err();
    assert!(
        refused.to_string().contains("node `cam-01`, not of `nyc-02`"),
        "{refused}"
    );
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let state = open(&dir).unwrap();
    conn(&state)
        .pragma_update(None, "user_version", upgrade::newest() + 1)
        .unwrap();
    drop(state);
    let refused = open(&dir).unwrap_err();
    assert!(matches!(refused, StateError::Newer { .. }), "{refused}");
}

#[test]
fn a_damaged_record_is_an_error_not_a_guess() {
    let dir = TempDir::new().unwrap();
    let state = open(&dir).unwrap();
    let sql = "INSERT INTO applied VALUES ('web/0', '{}', 1, 1, 0)";
    conn(&state).execute(sql, []).unwrap();
    let refused = state.applied().unwrap_err();
    assert!(chain(&refused).contains("web/0"), "{}", chain(&refused));
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost() {
    let dir = TempDir::new().unwrap();
    let limits = Limits {
        pages_max: 40,
        ..Limits::default()
    };
    let mut state = NodeState::open(dir.path(), &node(), limits).unwrap();
    state.write(|w| w.accept(&revision('a'), Timestamp(1))).unwrap();
    let long = "x".repeat(record::TEXT_LEN_MAX);
    let full = (0..1000)
        .find_map(|n| state.write(|w| w.event(event(n, &long))).err())
        .unwrap();
    assert!(matches!(full, StateError::Full { .. }), "{}", chain(&full));
    assert_eq!(state.accepted().unwrap().unwrap().revision, revision('a'));
    drop(state);
    let mut state = open(&dir).unwrap();
    state.write(|w| w.event(event(1, &long))).unwrap();
}

#[test]
fn a_place_that_cannot_be_written_is_said() {
    // Root may write anywhere: a file in place of the directory stops everyone.
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = NodeState::open(&file, &node(), Limits::default()).unwrap_err();
    assert!(matches!(refused, StateError::File { .. }), "{}", chain(&refused));

    let mut state = open(&dir).unwrap();
    conn(&state).pragma_update(None, "query_only", true).unwrap();
    let refused = state
        .write(|w| w.accept(&revision('a'), Timestamp(1)))
        .unwrap_err();
    assert!(
        matches!(refused, StateError::ReadOnly { .. }),
        "{}",
        chain(&refused)
    );
}

#[test]
fn the_state_is_for_its_owner_alone() {
    let dir = TempDir::new().unwrap();
    let below = dir.path().join("a/b");
    drop(NodeState::open(&below, &node(), Limits::default()).unwrap());
    assert_eq!(fs::metadata(&below).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn every_kind_of_event_reads_back() {
    for kind in EventKind::ALL {
        assert_eq!(EventKind::parse(kind.as_str()), Some(*kind));
    }
}

#[test]
fn the_history_tells_what_became_of_each_sliver() {
    let dir = TempDir::new().unwrap();
    let mut state = open(&dir).unwrap();
    let web = SliverId::parse("web/0").unwrap();
    let chapter = |run, sliver: Option<&SliverId>, class: &str| Chapter {
        run,
        sliver: sliver.cloned(),
        generation: Generation(3),
        revision: revision('a'),
        class: class.to_owned(),
        cause: "change".to_owned(),
        text: "memory 128MiB -> 256MiB".to_owned(),
        began: Timestamp(1),
        ended: None,
    };
    let written = state.write(|w| {
        w.begin_chapter(&chapter(None, None, "accepted"))?;
        w.begin_chapter(&chapter(Some(1), Some(&web), "reboot"))?;
        w.end_chapters(
            Some(1),
            Some(&web),
            ChapterEnd::Failed,
            Some("no memory"),
            Timestamp(2),
        )?;
        w.begin_chapter(&chapter(Some(2), Some(&web), "reboot"))?;
        // What has ended stays as it ended.
        w.end_chapters(Some(1), None, ChapterEnd::Unfinished, None, Timestamp(3))
    });
    written.unwrap();
    let of_web = state.history(Some(&web), 10).unwrap();
    assert_eq!(of_web.len(), 2);
    assert_eq!(of_web[0].ended, None);
    assert_eq!(of_web[1].ended, Some((ChapterEnd::Failed, Timestamp(2))));
    assert!(of_web[1].text.ends_with(": no memory"), "{of_web:?}");
    state
        .write(|w| w.end_chapters(None, None, ChapterEnd::Lost, None, Timestamp(4)))
        .unwrap();
    let all = state.history(None, 2).unwrap();
    assert_eq!(
        (all.len(), all[0].ended),
        (2, Some((ChapterEnd::Lost, Timestamp(4))))
    );
}

#[test]
fn restarts_are_counted_up_to_a_bound_and_forgotten() {
    let dir = TempDir::new().unwrap();
    let mut state = open(&dir).unwrap();
    let web = SliverId::parse("web/0").unwrap();
    let count = u64::from(record::RESTARTS_MAX) + 5;
    state
        .write(|w| (0..count).try_for_each(|n| w.restart(&web, NodeTime(n))))
        .unwrap();
    let restarts = state.restarts().unwrap();
    assert_eq!(restarts[&web].first(), Some(&NodeTime(5)));
    assert_eq!(restarts[&web].last(), Some(&NodeTime(count - 1)));
    state.write(|w| w.forget_restarts(&web)).unwrap();
    assert!(state.restarts().unwrap().is_empty());
}

#[test]
fn what_was_done_about_the_right_to_run_only_grows() {
    let dir = tempfile::tempdir().unwrap();
    let web = SliverId::parse("web/0").unwrap();
    let epochs = |began: Option<u64>, offered: Option<u64>| Journal {
        began: began.map(Epoch),
        offered: offered.map(Epoch),
    };
    let mut state = open(&dir).unwrap();
    assert_eq!(state.board().unwrap(), None);
    for (said, then) in [
        (epochs(None, None), epochs(None, None)),
        (epochs(Some(2), None), epochs(Some(2), None)),
        (epochs(Some(1), Some(2)), epochs(Some(2), Some(2))),
        (epochs(None, Some(1)), epochs(Some(2), Some(2))),
        (epochs(Some(4), None), epochs(Some(4), Some(2))),
    ] {
        state.write(|w| w.tenure(&web, said)).unwrap();
        assert_eq!(state.tenure().unwrap()[&web], then, "after {said:?}");
    }
    state.write(|w| w.joined("one")).unwrap();
    state.write(|w| w.joined("two")).unwrap();
    drop(state);
    let state = open(&dir).unwrap();
    assert_eq!(state.tenure().unwrap()[&web], epochs(Some(4), Some(2)));
    assert_eq!(state.board().unwrap().as_deref(), Some("two"));
}

#[test]
fn where_a_sliver_stands_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let stand = Stand {
        at: (Digest([2; 32]), sliver("web/0")),
        good: None,
    };
    let again = Stand {
        good: Some((Digest([1; 32]), sliver("web/0"))),
        ..stand.clone()
    };
    let mut state = open(&dir).unwrap();
    for stand in [stand, again] {
        state.write(|w| w.stand(&stand)).unwrap();
        drop(state);
        state = open(&dir).unwrap();
        assert_eq!(
            state.stands().unwrap(),
            [(sliver("web/0").id, stand.clone())].into()
        );
    }
    state.write(|w| w.leave_rollouts(&sliver("web/0").id)).unwrap();
    assert!(state.stands().unwrap().is_empty());
}
