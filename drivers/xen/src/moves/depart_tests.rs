//! Departures with an xl that says what the real one was seen to say, and no Xen.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;

use super::*;
use crate::gate::pipe::hand_these_over;
use crate::gate::stream::example;
use crate::list::{Allowed, Flags, Listed};
use crate::record::Phase;
use crate::{GuestKind, XenConfig};
use xeno_model::id::{Digest, DomainUuid, Epoch, MigrationId, Timestamp};
use xeno_reconciler::ports::Retry;

/// A driver whose xl is this script.
struct World {
    dir: tempfile::TempDir,
    driver: XenDriver,
}

impl World {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let xl = crate::xl::tests::written(dir.path(), script);
        let driver = XenDriver::new(XenConfig {
            xl,
            ..XenConfig::new(dir.path().join("state"))
        });
        let world = Self {
            dir,
            driver: driver.unwrap(),
        };
        let lock = world.driver.run_dir(&sliver()).lock().unwrap();
        assert!(lock.is_some());
        world
    }
}

fn sliver() -> SliverId {
    SliverId::parse("web/0").unwrap()
}

fn domain(moving: Option<Moving>, state: RunState) -> Domain {
    let uuid = DomainUuid([1; 16]);
    Domain {
        record: Record {
            owner: "/state".to_owned(),
            sliver: sliver(),
            uuid,
            boot: Digest::of(b"boot"),
            phase: Phase::Whole,
            guest: GuestKind::Pv,
            memory_mib: 64,
            memory_max_mib: 64,
            vcpus: 1,
            publish: Vec::new(),
            net_rate: None,
            started: Timestamp(1),
            moving,
        },
        listed: Listed {
            domid: 7,
            name: "xeno.web-0".to_owned(),
            uuid,
            memory_mib: 64,
            vcpus: 1,
            flags: Flags::default(),
        },
        allowed: Allowed::default(),
        state,
        net_rate: None,
    }
}

fn memory() -> Vec<u8> {
    // More than any buffer on the way holds, and what looks like the last word in the middle of it.
    let page = [GO, &[7; 300_000]].concat();
    example::domain(b"{}", &[&page, &page])
}

async fn outlet(out: Pipe, bandwidth: Option<u64>) -> Outlet {
    let preamble = Preamble::of(&domain(None, RunState::Running));
    Outlet::open(out, &preamble, bandwidth).await.unwrap()
}

/// Reads what arrives to its end: what goes before the memory, and the memory.
fn arrives(mut from: Pipe) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut head = [0; 12];
        from.read_exact(&mut head).unwrap();
        let len = u32::from_be_bytes(head[8..].try_into().unwrap());
        from.read_exact(&mut vec![0; len as usize]).unwrap();
        let mut memory = Vec::new();
        from.read_to_end(&mut memory).unwrap();
        memory
    })
}

/// An xl that ends once its transport has, or its test.
const WAITS: &str = "while [ -e \"$0\" ] && ! [ -e \"${0%/*}/over\" ]; do sleep 0.02; done; \
                     echo resuming at sender >&2; exit 1";

/// What xl does at the other ends of its transport's pipes: it says `bytes` after the first word, and `last` after the second.
/// Whether it heard the second.
fn speaks(world: &World, bytes: Vec<u8>, last: &'static [u8]) -> std::thread::JoinHandle<bool> {
    let socket = world.driver.run_dir(&sliver()).gate_socket();
    let over = world.dir.path().join("over");
    std::thread::spawn(move || {
        let (from_xl, mut out) = std::io::pipe().unwrap();
        let (mut said, to_xl) = std::io::pipe().unwrap();
        let transport = std::thread::spawn(move || {
            hand_these_over(&socket, [from_xl.as_fd(), to_xl.as_fd()]);
        });
        let mut word = [0; BANNER.len()];
        said.read_exact(&mut word).unwrap();
        assert_eq!(word, BANNER);
        let mut word = [0; READY.len()];
        let is_asked = out.write_all(&bytes).is_ok() && {
            if last.is_empty() {
                // It is cut off, or thinks that it has said all.
                drop(out);
                said.read_exact(&mut word).is_ok()
            } else {
                let heard = said.read_exact(&mut word).is_ok() && word == READY;
                heard && out.write_all(last).is_ok()
            }
        };
        transport.join().unwrap();
        std::fs::write(over, "").unwrap();
        is_asked
    })
}

#[tokio::test]
async fn a_running_guest_is_given_away_once_all_of_it_has_passed() {
    let world = World::new(WAITS);
    let (out, from) = Pipe::pair().unwrap();
    let (there, xl) = (arrives(from), speaks(&world, memory(), GO));
    let domain = domain(None, RunState::Running);
    let sent = world.driver.send_running(&domain, outlet(out, None).await).await;
    sent.unwrap();
    assert!(xl.join().unwrap(), "it was told that the copy is whole");
    assert_eq!(there.join().unwrap(), memory(), "and nothing of its last word");
    // xl was not asked whether it has an opinion: it had no part any more.
    assert!(!world.driver.run_dir(&sliver()).gate_socket().exists());
}

#[tokio::test]
async fn a_running_guest_of_which_a_part_comes_is_never_given_away() {
    let check = async |bytes: Vec<u8>, last: &'static [u8], is_asked: bool, why: &str| {
        let world = World::new(WAITS);
        let (out, from) = Pipe::pair().unwrap();
        let (there, xl) = (arrives(from), speaks(&world, bytes, last));
        let domain = domain(None, RunState::Running);
        let sent = world.driver.send_running(&domain, outlet(out, None).await).await;
        let error = sent.unwrap_err();
        assert!(error.what.contains(why), "{error}");
        assert_eq!(error.retry, Retry::Later);
        assert_eq!(xl.join().unwrap(), is_asked, "{why}");
        there.join().unwrap();
    };
    let half = memory()[..400_000].to_vec();
    // What xl says of its end is better than what is seen of it.
    check(half, b"", false, "resuming at sender").await;
    check(
        b"something else altogether, which is no memory".to_vec(),
        b"",
        false,
        "sender",
    )
    .await;
    let longer = [memory(), GO.to_vec()].concat();
    check(longer, b"", false, "sender").await;
    check(
        memory(),
        b"domain is yours, you are cleared to unpausf\0",
        true,
        "as it should",
    )
    .await;
}

#[tokio::test]
async fn a_guest_that_nobody_takes_goes_on_here() {
    let world = World::new(WAITS);
    let (out, mut from) = Pipe::pair().unwrap();
    let xl = speaks(&world, memory(), GO);
    let taking = std::thread::spawn(move || from.read_exact(&mut [0; 100_000]).unwrap());
    let domain = domain(None, RunState::Running);
    let sent = world.driver.send_running(&domain, outlet(out, None).await).await;
    let error = sent.unwrap_err();
    assert!(
        error.what.contains("web/0") && error.retry == Retry::Later,
        "{error}"
    );
    assert!(!xl.join().unwrap());
    taking.join().unwrap();
}

#[tokio::test]
async fn a_guest_that_stands_is_sent_by_an_xl_that_stores_it() {
    let stored =
        "[ \"$1 $2 $3 $4\" = 'save -p 7 /proc/self/fd/0' ] || exit 9; cat \"${0%/*}/memory\" >\"$4\"";
    let check = async |script: &str, bytes: Vec<u8>, why: Option<&str>| {
        let world = World::new(script);
        std::fs::write(world.dir.path().join("memory"), &bytes).unwrap();
        let (out, from) = Pipe::pair().unwrap();
        let there = arrives(from);
        let domain = domain(None, RunState::Running);
        let sent = world.driver.send_standing(&domain, outlet(out, None).await).await;
        assert_eq!(there.join().unwrap(), bytes);
        match (sent, why) {
            (Ok(()), None) => {}
            (sent, why) => {
                let error = sent.unwrap_err().what;
                assert!(why.is_some_and(|why| error.contains(why)), "{error}");
            }
        }
    };
    check(stored, memory(), None).await;
    check(&format!("{stored}; echo no >&2; exit 1"), memory(), Some("no")).await;
    let half = memory()[..1000].to_vec();
    check(stored, half.clone(), Some("only a part")).await;
    check(&format!("{stored}; echo no >&2; exit 1"), half, Some("no")).await;
}

#[tokio::test]
async fn no_more_goes_out_in_a_second_than_is_said() {
    let (out, from) = Pipe::pair().unwrap();
    let there = arrives(from);
    let mut outlet = outlet(out, Some(4 * memory().len() as u64)).await;
    let began = Instant::now();
    outlet.carry(&sliver(), &mut memory().as_slice()).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(240));
    outlet.end().await;
    assert_eq!(there.join().unwrap(), memory());
}

#[test]
fn who_can_leave_is_known_before_anything_is_done() {
    let (migration, epoch) = (MigrationId([1; 16]), Epoch(2));
    let departure = Departure {
        migration,
        epoch,
        live: true,
        bandwidth: None,
        downtime_ms: None,
    };
    let check = |moving: Option<Moving>, state: RunState, expected: Result<bool, &str>| {
        let ready = ready_to_leave(&domain(moving, state), &departure);
        match (ready, expected) {
            (Ok(ready), Ok(expected)) => assert_eq!(ready, expected, "{moving:?} {state:?}"),
            (Err(error), Err(why)) => assert!(error.what.contains(why), "{error}"),
            (ready, _) => panic!("{moving:?} {state:?}: {ready:?}"),
        }
    };
    let gone = Moving::Gone { migration, epoch };
    let other = Moving::Gone {
        migration: MigrationId([2; 16]),
        epoch,
    };
    let leaving = Moving::Leaving { migration, epoch };
    check(None, RunState::Running, Ok(false));
    check(Some(leaving), RunState::Running, Ok(false));
    check(Some(gone), RunState::Running, Ok(false));
    check(Some(gone), RunState::Suspended, Ok(true));
    check(Some(gone), RunState::Paused, Ok(true));
    check(Some(other), RunState::Suspended, Err("another attempt"));
    check(Some(leaving), RunState::Paused, Err("another attempt"));
    check(None, RunState::Paused, Err("it is paused"));
    check(None, RunState::Leaving, Err("just ending"));
    check(None, RunState::Stopped, Err("it has stopped"));
    check(
        Some(Moving::Arriving { migration }),
        RunState::Paused,
        Err("it is a copy"),
    );
}

#[test]
fn paths_are_given_to_the_shell_as_they_are() {
    assert_eq!(for_shell(Path::new("/a/$b;c")).unwrap(), "'/a/$b;c'");
    for_shell(Path::new("/it's")).unwrap_err();
}
