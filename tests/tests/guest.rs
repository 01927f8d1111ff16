//! One real guest, end to end: a push boots it, a killed file server does not stop it, a push ends it.
#![cfg(feature = "guest")]

use std::time::Duration;

use xeno_tests::demo::manifests::{self, PORT, Step};
use xeno_tests::demo::{report::Report, run, stop};
use xeno_tests::lab::{LabResult, http, node::Node, repository::Repository, scratch::Scratch, wait_for};

const DEADLINE: Duration = Duration::from_secs(300);
const FETCH: Duration = Duration::from_secs(5);

fn page(number: u16, nonce: &str) -> LabResult<()> {
    wait_for(&format!("the page of web/{number}"), DEADLINE, || {
        let page = http::get(PORT + number, "/", FETCH)?;
        if page.body.contains(nonce) {
            Ok(())
        } else {
            Err(format!("it answers {} without {nonce}", page.status))
        }
    })
}

fn boot_id() -> LabResult<String> {
    wait_for("the guest's boot id", DEADLINE, || {
        let page = http::get(PORT, "/cgi-bin/guest", FETCH)?;
        page.body
            .lines()
            .find_map(|line| line.strip_prefix("boot_id "))
            .map(str::to_owned)
            .ok_or("no boot id".into())
    })
}

#[test]
fn a_push_becomes_a_page_and_outlives_a_killed_file_server() -> LabResult<()> {
    Scratch::on_disk().tell(|scratch| story(&scratch.options()))
}

fn story(options: &run::Options) -> LabResult<()> {
    let dir = &options.dir;
    let parts = run::import(&mut Report::default(), options, dir)?;
    let repository = Repository::create(dir, &parts.xeno)?;
    let mut node = Node::start(dir, "cam-01", &repository.bare, &parts)?;
    stop::record(dir, std::slice::from_ref(&node))?;

    manifests::write_fleet(&repository, &parts)?;
    let step = Step {
        nonce: "first-page",
        nodes: &["cam-01"],
        state: "running",
        memory: "192MiB",
    };
    manifests::write_slice(&repository, &step)?;
    let push = repository.push("One sliver")?;
    assert!(push.accepted, "{}", push.output);
    page(0, "first-page")?;
    node.await_converged(DEADLINE)?;

    let before = boot_id()?;
    node.kill_cowfs()?;
    node.kill_agent()?;
    node.restart_cowfs()?;
    node.restart_agent()?;
    stop::record(dir, std::slice::from_ref(&node))?;
    page(0, "first-page")?;
    assert_eq!(boot_id()?, before, "the guest was rebooted");
    node.await_converged(DEADLINE)?;

    manifests::write_slice(
        &repository,
        &Step {
            state: "stopped",
            ..step
        },
    )?;
    let push = repository.push("Stop it")?;
    assert!(push.accepted, "{}", push.output);
    node.await_converged(DEADLINE)?;
    assert!(
        http::get(PORT, "/", FETCH).is_err(),
        "a stopped sliver still answers"
    );
    node.stop()
}
