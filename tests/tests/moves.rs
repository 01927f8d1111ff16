//! A real guest that moves between two nodes by pushes alone, and remembers everything.
#![cfg(feature = "guest")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use xeno_tests::demo::manifests::{self, PORT, Step};
use xeno_tests::demo::{report::Report, report::say, run, stop};
use xeno_tests::lab::{LabResult, http, node::Node, repository::Repository, scratch::Scratch, wait_for};

const DEADLINE: Duration = Duration::from_secs(300);
const FETCH: Duration = Duration::from_secs(5);

/// What the guest says of itself, by the first word of the line.
fn guest_says(word: &str) -> LabResult<String> {
    wait_for("the guest's word of itself", DEADLINE, || {
        let page = http::get(PORT, "/cgi-bin/guest", FETCH)?;
        let mut lines = page.body.lines();
        let found = lines.find_map(|line| line.strip_prefix(&format!("{word} ")).map(str::to_owned));
        found.ok_or("it does not say".into())
    })
}

/// Has the guest write a line, and waits until it has synced it.
fn write(line: &str) -> LabResult<()> {
    wait_for("a line that is synced", DEADLINE, || {
        let page = http::get(PORT, &format!("/cgi-bin/ledger?{line}"), FETCH)?;
        if page.body.contains("committed") {
            Ok(())
        } else {
            Err(format!("{} {}", page.status, page.body))
        }
    })
}

fn ledger() -> LabResult<Vec<String>> {
    wait_for("the lines written", DEADLINE, || {
        let page = http::get(PORT, "/cgi-bin/ledger", FETCH)?;
        if page.status == 200 {
            Ok(page.body.lines().map(str::to_owned).collect())
        } else {
            Err(format!("{}", page.status))
        }
    })
}

/// Fetches the page over and over, and remembers the longest time without one.
struct Watcher {
    stop: Arc<AtomicBool>,
    longest: Arc<Mutex<Duration>>,
    thread: std::thread::JoinHandle<()>,
}

impl Watcher {
    fn start() -> Self {
        let (stop, longest) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Mutex::new(Duration::ZERO)),
        );
        let (until, gap) = (Arc::clone(&stop), Arc::clone(&longest));
        let thread = std::thread::spawn(move || {
            let mut last = Instant::now();
            while !until.load(Ordering::SeqCst) {
                if http::get(PORT, "/", Duration::from_millis(500)).is_ok_and(|page| page.status == 200) {
                    let now = Instant::now();
                    let mut longest = gap.lock().expect("nobody panics with it");
                    *longest = (*longest).max(now - last);
                    last = now;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Self {
            stop,
            longest,
            thread,
        }
    }

    fn end(self) -> Duration {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it only fetches pages");
        *self.longest.lock().expect("nobody panics with it")
    }
}

#[test]
fn a_guest_moves_there_and_back_and_remembers_everything() -> LabResult<()> {
    Scratch::on_disk().tell(|scratch| story(&scratch.options()))
}

fn story(options: &run::Options) -> LabResult<()> {
    let dir = &options.dir;
    let parts = run::import(&mut Report::default(), options, dir)?;
    let repository = Repository::create(dir, &parts.xeno)?;
    let mut nodes = Vec::new();
    for name in ["cam-01", "nyc-02"] {
        nodes.push(Node::start_in_fleet(dir, name, &repository.bare, &parts)?);
        stop::record(dir, &nodes)?;
    }
    manifests::write_fleet(&repository, &parts)?;
    let here = Step {
        nonce: "the-only-page",
        nodes: &["cam-01"],
        state: "running",
        memory: "192MiB",
    };
    let there = Step {
        nodes: &["nyc-02"],
        ..here.clone()
    };
    let push = |step: &Step<'_>, message: &str| -> LabResult<()> {
        manifests::write_slice(&repository, step)?;
        let push = repository.push(message)?;
        assert!(push.accepted, "{}", push.output);
        Ok(())
    };
    push(&here, "One sliver")?;
    for node in &nodes {
        node.await_converged(DEADLINE)?;
    }
    let boot = guest_says("boot_id")?;
    write("first")?;

    let places = [
        ("second", &there, (1, 1)),
        ("third", &here, (0, 1)),
        ("fourth", &there, (1, 2)),
    ];
    for (round, step, (target, arrivals)) in places {
        let watcher = Watcher::start();
        push(step, &format!("The {round} place"))?;
        // A node that has not read the push yet has nothing left to do either.
        wait_for("its arrival", DEADLINE, || {
            let events = nodes[target]
                .xeno(&["events"])
                .map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&events.stdout)
                .matches("web/0 has arrived")
                .count();
            if said >= arrivals {
                Ok(())
            } else {
                Err(format!("it has arrived {said} times"))
            }
        })?;
        for node in &nodes {
            node.await_converged(DEADLINE)?;
        }
        write(round)?;
        say(&format!(
            "{round} place: longest time without a page {} ms",
            watcher.end().as_millis()
        ));
        let now = guest_says("boot_id")?;
        if now != boot {
            for node in &nodes {
                let events = node.xeno(&["events"])?;
                say(&format!(
                    "{}:\n{}",
                    node.name,
                    String::from_utf8_lossy(&events.stdout)
                ));
                say(&std::fs::read_to_string(node.dir.join("agent.log")).unwrap_or_default());
            }
        }
        assert_eq!(now, boot, "the guest was rebooted");
    }
    assert_eq!(ledger()?, ["first", "second", "third", "fourth"]);
    for node in &mut nodes {
        node.stop()?;
    }
    Ok(())
}
