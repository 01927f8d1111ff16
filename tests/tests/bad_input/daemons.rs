//! Daemons that are set up wrongly, or find what they do not expect: clear errors, and nobody else is disturbed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::world::{World, says, xeno};

#[test]
fn two_agents_do_not_share_a_state_directory_or_a_socket() {
    let world = World::new();
    let node = world.node();
    let dir = node.0.dir.clone();
    xeno(&dir, &["agent", "--config", "agent.toml"])
        .refused(&["another agent", "one directory belongs to one agent"]);
    let text = std::fs::read_to_string(dir.join("agent.toml")).expect("a file");
    std::fs::write(dir.join("other.toml"), text.replace("\"state\"", "\"other\"")).expect("written");
    xeno(&dir, &["agent", "--config", "other.toml"])
        .refused(&["agent.sock", "another process answers on that socket"]);
    xeno(&dir, &["cowfs", "serve", "--config", "cowfs.toml"]).refused(&["cowfs.sock"]);
    node.is_still_at(&world.good);
}

#[test]
fn mistakes_in_a_configuration_have_a_line_and_a_column() {
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    std::fs::write(
        dir.join("agent.toml"),
        "node = \"a\"\nrepository = \"r\"\npol = \"1s\"\n",
    )
    .expect("written");
    xeno(dir, &["agent", "--config", "agent.toml"]).refused(&[
        "agent.toml:3:1",
        "unknown field `pol`",
        "poll",
    ]);
    std::fs::write(
        dir.join("cowfs.toml"),
        "listen = \"127.0.0.1:0\"\n\n[[export]]\nnme = \"/web\"\n",
    )
    .expect("written");
    xeno(dir, &["cowfs", "serve", "--config", "cowfs.toml"])
        .refused(&["cowfs.toml:4:1", "unknown field `nme`"]);
}

#[test]
fn a_state_that_cannot_be_understood_is_kept() {
    let world = World::new();
    let mut node = world.node();
    node.0.stop().expect("it ends");
    let dir = node.0.dir.clone();
    let path = dir.join("state/state.db");
    for file in ["state.db-wal", "state.db-shm"] {
        // Nothing is left in the log of a database that was closed.
        let _ = std::fs::remove_file(dir.join("state").join(file));
    }
    let good = std::fs::read(&path).expect("the database");
    // The user version of a database is a big-endian number at offset 60 (<https://sqlite.org/fileformat2.html>).
    let mut newer = good.clone();
    newer[60..64].copy_from_slice(&99_u32.to_be_bytes());
    std::fs::write(&path, &newer).expect("written");
    xeno(&dir, &["agent", "--config", "agent.toml"])
        .refused(&["its schema is version 99", "use the newer program"]);
    assert!(
        std::fs::read(&path).expect("the database") == newer,
        "it was changed"
    );

    // A damaged one is set aside as it is, and made anew from what is observed and asked for.
    let mut damaged = good;
    damaged[..200].fill(b'x');
    std::fs::write(&path, &damaged).expect("written");
    node.0.restart_cowfs().expect("it starts");
    node.0.restart_agent().expect("it starts");
    node.0
        .await_converged(crate::world::DEADLINE)
        .expect("it converges");
    node.is_still_at(&world.good);
    let aside = std::fs::read_dir(dir.join("state"))
        .expect("the state directory")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().contains("state.db.broken-"))
        .expect("the damaged file was set aside");
    assert!(
        std::fs::read(aside).expect("the damaged file") == damaged,
        "it was changed"
    );
}

#[test]
fn an_agent_outlives_whoever_talks_nonsense_on_its_socket() {
    let world = World::new();
    let node = world.node();
    let large = "a".repeat(8 << 20);
    for request in [
        "\u{0}\u{ff}garbage\r\n\r\n".to_owned(),
        format!("GET /v1/{large} HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("GET /v1/status HTTP/1.1\r\nhost: x\r\nx: {large}\r\n\r\n"),
        format!(
            "POST /v1/reconcile HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{large}",
            large.len()
        ),
        "GET /v1/slivers/..%2f..%2fetc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
    ] {
        let mut stream = UnixStream::connect(node.0.socket()).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a timeout");
        stream
            .set_write_timeout(Some(Duration::from_secs(30)))
            .expect("a timeout");
        // It may answer and close before all of it is written.
        let _written = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
    }
    assert!(node.agent_peak_kib() < 200_000, "{} KiB", node.agent_peak_kib());
    node.is_still_at(&world.good);
}

#[test]
fn logs_of_what_has_no_console_or_no_name_are_refused_calmly() {
    let world = World::new();
    let node = world.node();
    let sliver = node.xeno(&["logs", "web/0"]);
    assert_ne!(sliver.code, None, "{sliver:?}");
    says(&sliver.err, &[]);
    let unknown = node.xeno(&["logs", "../../etc/passwd"]);
    assert_ne!(unknown.code, Some(0), "{unknown:?}");
    node.is_still_at(&world.good);
}
