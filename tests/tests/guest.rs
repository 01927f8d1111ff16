//! One real guest, end to end: a push boots it, a killed file server does not stop it, a push ends it. What it changed is
//! looked at while it runs, gone back on while it does not, and then is a layer of another slice.
#![cfg(feature = "guest")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use xeno_tests::demo::manifests::{self, PORT, Step};
use xeno_tests::demo::{report::Report, run, stop};
use xeno_tests::lab::{
    LabError, LabResult, Parts, ensure, http, node::Node, repository::Repository, scratch::Scratch, wait_for,
};

const DEADLINE: Duration = Duration::from_secs(300);
const FETCH: Duration = Duration::from_secs(5);
/// Port of the slice that has another one's changes as a layer.
const HEIR: u16 = PORT + 20;

/// Waits until what a guest shows at `path` holds `word`; gives all of it.
fn page(port: u16, path: &str, word: &str) -> LabResult<String> {
    wait_for(&format!("{word:?} at {path} of port {port}"), DEADLINE, || {
        let page = http::get(port, path, FETCH)?;
        if page.body.contains(word) {
            Ok(page.body)
        } else {
            Err(format!("it answers {}: {}", page.status, page.body))
        }
    })
}

/// Has the guest write a line, and waits until it has synced it.
fn write(line: &str) -> LabResult<()> {
    page(PORT, &format!("/cgi-bin/ledger?{line}"), "committed").map(drop)
}

/// What `xeno overlay …` of the node says.
fn overlay(node: &Node, words: &[&str]) -> LabResult<String> {
    let dir = |name: &str| node.dir.join(name).display().to_string();
    let (control, state, store) = (dir("cowfs.sock"), dir("state"), dir("templates"));
    let places = ["--control", &control, "--state", &state, "--store", &store];
    let layers = !matches!(words.first(), Some(&("checkpoints" | "restore")));
    let words = [
        &["overlay"],
        words,
        &places[..if layers { places.len() } else { 0 }],
    ]
    .concat();
    said(&words.join(" "), &node.xeno(&words)?)
}

fn said(what: &str, output: &std::process::Output) -> LabResult<String> {
    ensure(output.status.success(), || {
        format!("{what}: {}", String::from_utf8_lossy(&output.stderr))
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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
    page(PORT, "/", "first-page")?;
    node.await_converged(DEADLINE)?;

    let before = boot_id()?;
    node.kill_cowfs()?;
    node.kill_agent()?;
    node.restart_cowfs()?;
    node.restart_agent()?;
    stop::record(dir, std::slice::from_ref(&node))?;
    page(PORT, "/", "first-page")?;
    assert_eq!(boot_id()?, before, "the guest was rebooted");
    node.await_converged(DEADLINE)?;

    write("first")?;
    let before = checkpoint(&node)?;
    write("second")?;
    let layer = dir.join("layer.tar");
    what_changed_is_seen(&node, &layer)?;

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
    it_goes_back(&node, &before)?;
    another_slice_has_it(&repository, &parts, &layer)?;
    node.await_converged(DEADLINE)?;
    node.stop()
}

/// Makes a checkpoint of what the guest writes to, while it runs; gives its name.
fn checkpoint(node: &Node) -> LabResult<String> {
    let (name, control) = ("before-the-second", node.dir.join("cowfs.sock"));
    let control = control.display().to_string();
    let words = ["cowfs", "checkpoint", "web-0.0", name, "--control", &control];
    said(&words.join(" "), &node.xeno(&words)?)?;
    let listed = overlay(node, &["checkpoints", "web/0"])?;
    assert!(listed.contains(name) && listed.contains("a person"), "{listed}");
    Ok(name.to_owned())
}

/// While the guest runs, by the name of its sliver alone.
fn what_changed_is_seen(node: &Node, layer: &Path) -> LabResult<()> {
    let listed = overlay(node, &["ls", "web/0", "/var/tmp"])?;
    assert!(
        listed.starts_with("A  ") && listed.trim_end().ends_with("ledger"),
        "{listed}"
    );
    assert_eq!(
        overlay(node, &["cat", "web/0", "/var/tmp/ledger"])?,
        "first\nsecond\n"
    );
    assert!(overlay(node, &["cat", "web/0", "/var/www/html/index.html"])?.contains("first-page"));
    let changed = overlay(node, &["diff", "web/0"])?;
    assert!(changed.contains("/var/tmp/ledger"), "{changed}");
    assert!(!changed.contains("index.html"), "a layer is no change: {changed}");
    let usage = overlay(node, &["du", "web/0"])?;
    assert!(
        usage.contains("/var") && usage.contains("written, and a log of"),
        "{usage}"
    );

    let file = layer.display().to_string();
    let digest = overlay(node, &["publish", "web/0", "--file", &file])?;
    let summed = Command::new("sha256sum").arg(layer).output();
    let summed = said("sha256sum", &summed.map_err(LabError::io("running sha256sum"))?)?;
    assert!(
        summed.starts_with(digest.trim().trim_start_matches("sha256:")),
        "{digest} {summed}"
    );
    let read = Command::new("tar")
        .arg("-xOf")
        .arg(layer)
        .arg("var/tmp/ledger")
        .output();
    let read = said("tar", &read.map_err(LabError::io("running tar"))?)?;
    assert_eq!(read, "first\nsecond\n");
    Ok(())
}

/// While it does not run.
fn it_goes_back(node: &Node, name: &str) -> LabResult<()> {
    let ledger = || overlay(node, &["cat", "web/0", "/var/tmp/ledger"]);
    assert_eq!(ledger()?, "first\nsecond\n");
    let restored = overlay(node, &["restore", "web/0", name, "-o", "json"])?;
    let restored: serde_json::Value = serde_json::from_str(&restored).expect("JSON");
    assert_eq!(ledger()?, "first\n");
    let kept = restored["kept"].as_str().expect("what was undone is kept");
    overlay(node, &["restore", "web/0", kept])?;
    assert_eq!(ledger()?, "first\nsecond\n");
    Ok(())
}

/// What was published is the nearest layer of a slice of its own.
fn another_slice_has_it(repository: &Repository, parts: &Parts, layer: &Path) -> LabResult<()> {
    let mut import = Command::new(&parts.xeno);
    import.args(["template", "import"]).arg(layer);
    import
        .args(["--name", "changes", "--store"])
        .arg(&parts.published);
    let imported = import
        .output()
        .map_err(LabError::io("running xeno template import"))?;
    let digest = said("xeno template import", &imported)?;
    repository.write(
        "templates/changes.yaml",
        &format!(
            "apiVersion: xenoslice/v1\nkind: Template\nmetadata: {{ name: changes }}\nspec:\n  channels:\n    \
             current: {}\n  sources:\n    - file://{}\n",
            digest.trim(),
            parts.published.display()
        ),
    )?;
    let heir = manifests::slice(&Step {
        nonce: "",
        nodes: &["cam-01"],
        state: "running",
        memory: "192MiB",
    });
    let heir = heir
        .replace("metadata: { name: web }", "metadata: { name: heir }")
        .replace(
            "        layers: ",
            "        layers:\n          - template: changes/current\n          #",
        )
        .replace(&format!("host: {PORT}"), &format!("host: {HEIR}"));
    repository.write("slices/heir.yaml", &heir)?;
    let push = repository.push("A slice over what the other guest did")?;
    assert!(push.accepted, "{}", push.output);
    assert_eq!(page(HEIR, "/cgi-bin/ledger", "second")?, "first\nsecond\n");
    Ok(())
}
