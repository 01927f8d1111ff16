//! Moves with real guests, beside what the contract says of all hypervisors: what becomes of connections, of a guest that
//! writes without end, and of what is cut off at any moment.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use xeno_model::desired::Publish;
use xeno_model::id::{Epoch, MigrationId};
use xeno_model::observed::DomainState;
use xeno_reconciler::ports::{Departure, DomainSpec, GuestMount, MoveMemory, Tuning};
use xeno_test_support::free_port;

use crate::lab::{Lab, kill, qmp_answer, until};
use crate::suspend::{boot_id, counted, counting_guest, counts_on};

const MIGRATION: MigrationId = MigrationId([5; 16]);

fn departure() -> Departure {
    Departure {
        migration: MIGRATION,
        epoch: Epoch(3),
        live: true,
        bandwidth: None,
        downtime_ms: None,
    }
}

fn tuning(spec: &DomainSpec) -> Tuning {
    Tuning {
        vcpus: 1,
        memory_mib: spec.memory_mib,
        limits: spec.limits,
        publish: spec.publish.clone(),
    }
}

/// The same guest, as it is started on another node.
fn there(spec: &DomainSpec, lab: &Lab) -> DomainSpec {
    DomainSpec {
        initramfs: lab.spec("web/0").initramfs,
        ..spec.clone()
    }
}

/// Moves the memory; the guest stands still here, and there is a copy there.
async fn send(here: &Lab, there: &Lab, spec: &DomainSpec, departure: &Departure) {
    let (out, from) = UnixStream::pair().unwrap();
    let (departed, arrived) = tokio::join!(
        here.driver.depart(&spec.sliver, departure, out),
        there.driver.arrive(spec, departure.migration, from),
    );
    departed.unwrap();
    arrived.unwrap();
}

/// Everything that the guest has printed, wherever it ran.
fn printed(here: &Lab, there: &Lab, spec: &DomainSpec) -> String {
    here.console(spec) + &there.console(spec)
}

fn echo(stream: &TcpStream, line: &str) -> std::io::Result<String> {
    let mut stream = stream.try_clone()?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Not a number is lost or said twice, and what the guest does for others goes on at the other node. Connections that were
/// open from outside are not: a user-mode network lies in its QEMU. They end when the old QEMU does, and not before.
#[tokio::test]
async fn a_move_loses_no_step_of_the_guest_and_ends_connections_from_outside() {
    let (here, away) = (Lab::new(), Lab::new());
    let mut spec = here.spec("web/0");
    spec.publish = vec![Publish {
        guest: 81,
        host: free_port(),
    }];
    let port = spec.publish[0].host;
    here.boots(&spec).await;
    here.type_line(&spec, "count");
    let id = boot_id(&here, &spec).await;
    let outside = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(echo(&outside, "good day").unwrap(), "good day");

    let watch = Watch::start(&[&here, &away], &spec);
    let start = Instant::now();
    send(&here, &away, &spec, &departure()).await;
    let sent = start.elapsed();
    let downtime = qmp_answer(&here, &spec, "query-migrate");
    // Nobody answers, and nobody says that nobody ever will.
    (&outside).write_all(b"anybody?\n").unwrap();
    outside
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let silence = (&outside).read(&mut [0]).unwrap_err().kind();
    assert!(
        [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&silence),
        "{silence}"
    );
    TcpStream::connect(("127.0.0.1", port)).unwrap_err();

    let start = Instant::now();
    away.driver
        .clear(&spec.sliver, MIGRATION, &tuning(&spec))
        .await
        .unwrap();
    let cleared = start.elapsed();
    until("further numbers", async || {
        counted(&away.console(&spec)).len() > 5
    })
    .await;
    println!(
        "all was sent after {sent:?}, the copy was let go in {cleared:?}, of the pause QEMU says: {downtime}; nothing was \
         printed for {:?}",
        watch.longest_pause()
    );
    // Both consoles together are the guest's: the serial port moves with what it had not yet sent.
    let numbers = counted(&printed(&here, &away, &spec));
    assert_eq!(numbers, (1..).take(numbers.len()).collect::<Vec<u64>>());
    assert_eq!(boot_id(&away, &spec).await, id);

    let fresh = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(echo(&fresh, "good evening").unwrap(), "good evening");
    here.driver.destroy(&spec.sliver).await.unwrap();
    assert!(!matches!(
        echo(&outside, "still there?").as_deref(),
        Ok("still there?")
    ));
    assert_eq!(echo(&fresh, "and now").unwrap(), "and now");
    away.driver.destroy(&spec.sliver).await.unwrap();
}

/// How long a guest printed nothing, seen from outside.
struct Watch(Arc<Mutex<(Instant, Duration)>>);

impl Watch {
    fn start(labs: &[&Lab], spec: &DomainSpec) -> Self {
        let logs: Vec<_> = labs.iter().map(|lab| lab.console_log(spec)).collect();
        let seen = Arc::new(Mutex::new((Instant::now(), Duration::ZERO)));
        let told = Arc::downgrade(&seen);
        std::thread::spawn(move || {
            let len = |log: &std::path::PathBuf| log.metadata().map_or(0, |file| file.len());
            let mut before = 0;
            while let Some(told) = told.upgrade() {
                let now: u64 = logs.iter().map(len).sum();
                if now != before {
                    let mut told = told.lock().unwrap();
                    told.1 = told.1.max(told.0.elapsed());
                    told.0 = Instant::now();
                    before = now;
                }
                drop(told);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self(seen)
    }

    fn longest_pause(&self) -> Duration {
        self.0.lock().unwrap().1
    }
}

/// A file server that takes whatever it is told, and notes when each connection began.
fn listen(path: &Path) -> Arc<Mutex<Vec<Instant>>> {
    let listener = UnixListener::bind(path).unwrap();
    let began = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&began);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            note.lock().unwrap().push(Instant::now());
            std::thread::spawn(move || {
                let mut heard = [0; 100];
                // The greeting of the guest's start is answered, so that it goes on.
                let len = stream.read(&mut heard).unwrap_or(0);
                if heard[..len].starts_with(b"hello") {
                    let _ = stream.write_all(b"good day\n");
                    return;
                }
                while stream.read(&mut heard).is_ok_and(|len| len > 0) {}
            });
        }
    });
    began
}

/// A connection to the guest's file server ends at its first packet on the other node, which knows nothing of it; the guest
/// hears so at once, connects again, and reaches the server of that node.
#[tokio::test]
async fn a_guest_finds_the_file_server_of_the_other_node() {
    let (here, away) = (Lab::new(), Lab::new());
    let mounts = |lab: &Lab| {
        let mount = |path: &str, socket: &str| GuestMount {
            path: path.into(),
            export: "/web-0.0".into(),
            socket: lab.dir.path().join(socket),
        };
        vec![mount("/", "a.sock"), mount("/var/log", "b.sock")]
    };
    let mut spec = here.spec("web/0");
    spec.cmdline.push("test.port=1".into());
    spec.mounts = mounts(&here);
    let served = [&here, &away].map(|lab| {
        listen(&lab.dir.path().join("b.sock"));
        listen(&lab.dir.path().join("a.sock"))
    });
    here.boots(&spec).await;
    here.type_line(&spec, "talk");
    until("a connection", async || served[0].lock().unwrap().len() > 1).await;

    let other = DomainSpec {
        mounts: mounts(&away),
        ..there(&spec, &away)
    };
    let (out, from) = UnixStream::pair().unwrap();
    let departure = departure();
    let (departed, arrived) = tokio::join!(
        here.driver.depart(&spec.sliver, &departure, out),
        away.driver.arrive(&other, MIGRATION, from),
    );
    departed.unwrap();
    arrived.unwrap();
    assert_eq!(served[1].lock().unwrap().len(), 0, "a copy talks to nobody");
    let start = Instant::now();
    away.driver
        .clear(&spec.sliver, MIGRATION, &tuning(&other))
        .await
        .unwrap();
    until("a connection there", async || {
        !served[1].lock().unwrap().is_empty()
    })
    .await;
    println!(
        "the guest reached the other node's file server {:?} after it was let go",
        served[1].lock().unwrap()[0].duration_since(start)
    );
}

/// A guest that writes its memory as fast as it can is whole wherever it arrives.
#[tokio::test]
async fn a_guest_that_writes_without_end_arrives_whole() {
    let (here, away) = (Lab::new(), Lab::new());
    let spec = here.spec("web/0");
    here.boots(&spec).await;
    here.type_line(&spec, "churn");
    for (round, (from, to)) in [(&here, &away), (&away, &here), (&here, &away)]
        .into_iter()
        .enumerate()
    {
        let start = Instant::now();
        send(from, to, &spec, &departure()).await;
        println!("sent after {:?}", start.elapsed());
        from.driver.destroy(&spec.sliver).await.unwrap();
        to.driver
            .clear(&spec.sliver, MIGRATION, &tuning(&spec))
            .await
            .unwrap();
        let word = format!("round {round}");
        to.type_line(&spec, &word);
        to.console_says(&spec, &format!("TEST typed {word}")).await;
        // What it did it still does.
        let done = || to.console(&spec).matches("TEST churned").count();
        let before = done();
        until("more work", async || done() > before + 2).await;
    }
}

/// Wherever agents die, what is found says the truth, and the guest is there once in the end.
#[tokio::test]
async fn a_cut_off_at_any_moment_leaves_one_guest() {
    let (mut here, mut away) = (Lab::new(), Lab::new());
    let spec = counting_guest(&here, "web/0").await;
    let (sliver, tuning) = (&spec.sliver, tuning(&spec));
    let mut seen = Vec::new();
    for moment in 0..12 {
        let departure = Departure {
            live: moment % 3 != 2,
            ..departure()
        };
        let (out, from) = UnixStream::pair().unwrap();
        let moving = async {
            tokio::join!(
                here.driver.depart(sliver, &departure, out),
                away.driver.arrive(&spec, MIGRATION, from),
            )
        };
        let _ = tokio::time::timeout(Duration::from_millis(30 * moment), moving).await;
        here.restart();
        away.restart();
        // A change that had begun on the disk goes to its end first.
        let (left, came) = (here.state(&spec).await, away.state(&spec).await);
        seen.push((left, came.is_some()));
        let before = counted(&here.console(&spec)).len();
        match left.unwrap() {
            DomainState::Running => {}
            DomainState::Kept { epoch } => {
                assert_eq!(epoch, Epoch(3));
                // It does not run by itself, however long nobody does anything.
                tokio::time::sleep(Duration::from_millis(150)).await;
                assert_eq!(counted(&here.console(&spec)).len(), before);
            }
            other => panic!("{other:?}"),
        }
        let copy = DomainState::Copy { migration: MIGRATION };
        assert!(came.is_none_or(|state| state == copy), "{came:?}");
        until("the end of the copy", async || {
            away.driver.destroy(sliver).await.is_ok()
        })
        .await;
        assert_eq!(away.state(&spec).await, None);
        until("the guest", async || {
            here.driver.wake(sliver, &tuning).await.is_ok()
        })
        .await;
        counts_on(&here, &spec).await;
    }
    println!("{seen:?}");
}

/// Nobody reads: a departure waits, and can be called off however far it has come.
#[tokio::test]
async fn a_pipe_that_nobody_reads_holds_no_guest() {
    let here = Lab::new();
    let spec = counting_guest(&here, "web/0").await;
    for live in [true, false] {
        let (out, mut from) = UnixStream::pair().unwrap();
        let departure = Departure { live, ..departure() };
        let calling = async {
            let kept = DomainState::Kept { epoch: Epoch(3) };
            until("a departure", async || here.state(&spec).await == Some(kept)).await;
            // The start of the guest's memory has come, and nothing of it is taken any more.
            let mut start = [0; 4096];
            from.set_nonblocking(true).unwrap();
            until("memory", async || from.read(&mut start).is_ok()).await;
            let start = Instant::now();
            here.driver.call_off(&spec.sliver).await.unwrap();
            println!("called off in {:?}", start.elapsed());
        };
        let (departed, ()) = tokio::join!(here.driver.depart(&spec.sliver, &departure, out), calling);
        departed.unwrap_err();
        assert_eq!(here.state(&spec).await, Some(DomainState::Running));
        counts_on(&here, &spec).await;
        drop(from);
    }
}

/// A guest that dies on the way is gone on both nodes.
#[tokio::test]
async fn a_guest_that_dies_on_its_way_is_nowhere() {
    let (here, away) = (Lab::new(), Lab::new());
    let spec = counting_guest(&here, "web/0").await;
    let slow = Departure {
        bandwidth: Some(1 << 20),
        ..departure()
    };
    let (out, from) = UnixStream::pair().unwrap();
    let killing = async {
        until("a copy", async || away.state(&spec).await.is_some()).await;
        kill(here.pid(&spec));
    };
    let (departed, arrived, ()) = tokio::join!(
        here.driver.depart(&spec.sliver, &slow, out),
        away.driver.arrive(&spec, MIGRATION, from),
        killing,
    );
    departed.unwrap_err();
    arrived.unwrap_err();
    assert_eq!((here.state(&spec).await, away.state(&spec).await), (None, None));
    here.boots(&spec).await;
}
