//! A guest works on a stack that a real file server serves; `xeno overlay` and `xeno cowfs stat` say what it did.

use std::process::{Command, Stdio};

use cowfs::attr::{SetAttr, SetTime, Time};

use crate::served::{Guest, Running, config, stack, until_there};
use crate::world::World;

fn afternoon(guest: &Guest) {
    guest.write("etc/motd", b"one\nTWO\nthree\n");
    guest.write("etc/new.conf", b"new\n");
    guest.remove("etc/issue");
    let owner = SetAttr {
        mode: Some(0o4755),
        uid: Some(7),
        gid: Some(8),
        ..SetAttr::default()
    };
    guest.set("bin/tool", &owner);
    guest.rename("srv/old", "srv/new");
    guest.symlink("etc/link", "motd");
    let mtime = SetTime::Client(Time {
        seconds: 1_000_000_000,
        nanos: 0,
    });
    for path in ["etc/motd", "etc/new.conf"] {
        guest.set(
            path,
            &SetAttr {
                mtime,
                ..SetAttr::default()
            },
        );
    }
}

const CHANGED: &str = "\
changed   /bin/tool      mode 0644 → 4755; owner 0:0 → 7:8
removed   /etc/issue
added     /etc/link      symbolic link
changed   /etc/motd      content
added     /etc/new.conf  4 B
renamed   /srv/new       from /srv/old

6 changes: 2 added, 2 changed, 1 renamed, 1 removed
";

#[test]
fn what_a_guest_changed_is_seen_while_it_runs_and_when_it_does_not() {
    let world = stack();
    let server = Running::serve(&world, "cowfs.toml");
    let guest = Guest::mount(&world, "web.sock", "/web");
    afternoon(&guest);

    let live = |words: &[&str]| {
        let said = world.xeno(
            ".",
            &[words, &["--control", "cowfs.sock", "--store", "templates"]].concat(),
        );
        assert_eq!(said.code, Some(0), "{words:?}: {}", said.all());
        said.out
    };
    assert_eq!(live(&["overlay", "diff", "web"]), CHANGED);
    assert_eq!(
        live(&["overlay", "diff", "web", "/etc/motd"]),
        "--- /etc/motd\n+++ /etc/motd\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n"
    );
    assert_eq!(live(&["overlay", "cat", "web", "/etc/motd"]), "one\nTWO\nthree\n");
    assert_eq!(
        live(&["overlay", "cat", "web", "etc/hosts"]),
        "127.0.0.1 localhost\n"
    );
    let listed = live(&["overlay", "ls", "web", "/etc"]);
    let columns: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let ends: Vec<(&str, &str)> = columns
        .iter()
        .map(|line| (line[0], line[line.len() - 1]))
        .collect();
    assert_eq!(
        ends,
        [("D", "issue"), ("A", "motd"), ("M", "motd"), ("A", "new.conf")],
        "{listed}"
    );
    assert!(
        listed.contains("A  lrwxrwxrwx  0:0") && listed.contains("  link -> motd"),
        "{listed}"
    );
    let root = live(&["overlay", "ls", "web"]);
    assert!(root.lines().all(|line| line.starts_with(". ")), "{root}");
    assert!(live(&["overlay", "ls", "web", "/etc", "--all"]).contains("hosts"));
    let usage = live(&["overlay", "du", "web"]);
    assert!(usage.starts_with("WRITTEN  FILES  PATH\n"), "{usage}");
    assert!(usage.contains("8.0 KiB written, and a log of "), "{usage}");
    let json: serde_json::Value =
        serde_json::from_str(&live(&["overlay", "diff", "web", "-o", "json"])).expect("JSON");
    assert_eq!(json["compared"], true);
    assert_eq!(json["changes"][0]["mode"]["after"], "4755");
    assert_eq!(json["changes"][5]["from"], "/srv/old");

    // What it was asked on the way.
    let stat = live_stat(&world, &["web"]);
    assert!(stat.starts_with("/web  1 connection, "), "{stat}");
    let rows: Vec<Vec<&str>> = stat
        .lines()
        .skip(2)
        .map(|line| line.split_whitespace().collect())
        .collect();
    let calls = |name: &str| rows.iter().find(|row| row[0] == name).map(|row| row[1]);
    assert_eq!(
        (calls("CREATE"), calls("RENAME"), calls("SYMLINK")),
        (Some("2"), Some("1"), Some("1")),
        "{stat}"
    );
    let watched = live_stat(&world, &["--watch", "0.1", "-n", "2", "-o", "json"]);
    let lines: Vec<serde_json::Value> = watched
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[1]["nanos"].as_u64() >= Some(100_000_000), "{watched}");
    let nothing = world.xeno(".", &["cowfs", "stat", "other", "--control", "cowfs.sock"]);
    assert!(
        nothing.code == Some(1) && nothing.err.contains("there are: web"),
        "{}",
        nothing.err
    );
    let refused = world.xeno(
        ".",
        &["cowfs", "restore", "web", "one", "--control", "cowfs.sock"],
    );
    assert!(
        refused.code == Some(1)
            && refused
                .err
                .starts_with("error: writable layer `web` is part of a stack"),
        "{}",
        refused.err
    );
    let away = world.xeno(".", &["cowfs", "stat", "--control", "none.sock"]);
    assert!(
        away.code == Some(1)
            && away
                .err
                .starts_with("error: failed to ask the file server: reaching the file server at none.sock: "),
        "{}",
        away.err
    );

    // The server is gone: the same, from the directory alone.
    drop(guest);
    server.stop(&world);
    let at = [
        "--store",
        "templates",
        "--below",
        "site",
        "--control",
        "cowfs.sock",
    ];
    let closed = world.xeno(".", &[&["overlay", "diff", "w/web"], &at[..]].concat());
    assert_eq!(
        (closed.code, closed.out.as_str()),
        (Some(0), CHANGED),
        "{}",
        closed.err
    );
    let alone = world.xeno(
        ".",
        &[
            "overlay",
            "diff",
            "w/web",
            "--control",
            "cowfs.sock",
            "--state",
            "nowhere",
        ],
    );
    assert_eq!(alone.code, Some(0), "{}", alone.err);
    assert!(
        alone.err.contains("the layers below it are not at hand"),
        "{}",
        alone.err
    );
    assert!(
        alone.out.contains("renamed   /srv/new") && alone.out.contains("removed   /etc/issue"),
        "{}",
        alone.out
    );
    let nobody = world.xeno(
        ".",
        &[
            "overlay",
            "diff",
            "web/7",
            "--control",
            "cowfs.sock",
            "--state",
            "nowhere",
        ],
    );
    assert_eq!(nobody.code, Some(1));
    assert!(
        nobody.err.contains("there is no writable layer of `web/7`"),
        "{}",
        nobody.err
    );
    let missing = world.xeno(
        ".",
        &[&["overlay", "cat", "w/web", "/etc/issue"], &at[..]].concat(),
    );
    assert_eq!(missing.code, Some(1));
    assert!(
        missing.err.contains("there is no `/etc/issue`"),
        "{}",
        missing.err
    );
}

fn live_stat(world: &World, words: &[&str]) -> String {
    let said = world.xeno(
        ".",
        &[&["cowfs", "stat", "--control", "cowfs.sock"], words].concat(),
    );
    assert_eq!(said.code, Some(0), "{}", said.all());
    said.out
}

#[test]
fn what_is_published_is_the_same_tree_over_the_same_layers() {
    let world = stack();
    let server = Running::serve(&world, "cowfs.toml");
    let guest = Guest::mount(&world, "web.sock", "/web");
    afternoon(&guest);
    let expected = guest.tree();
    let live = ["--control", "cowfs.sock", "--store", "templates"];
    let publish = |form: &str, to: &str| {
        world.xeno(
            ".",
            &[&["overlay", "publish", "web", form, to], &live[..]].concat(),
        )
    };
    let first = publish("--file", "layer.tar");
    assert_eq!(first.code, Some(0), "{}", first.err);
    assert!(first.err.contains("2 hide something"), "{}", first.err);
    let again = publish("-f", "again.tar");
    assert_eq!(again.out, first.out, "the same each time");
    let digest = world.sh(".", "sha256sum layer.tar | cut -d' ' -f1");
    assert_eq!(first.out.trim(), format!("sha256:{}", digest.out.trim()));
    let layout = publish("--oci", "layout");
    assert_eq!(layout.out, first.out, "{}", layout.err);
    assert!(world.path("layout/index.json").exists());
    assert_eq!(
        publish("--oci", "layout").code,
        Some(1),
        "a layout is not written over"
    );

    // tar(1) reads it.
    let listed = world.sh(".", "tar -tf layer.tar");
    assert_eq!(
        listed.out,
        "./\nbin/\nbin/tool\netc/\netc/.wh.issue\netc/link\netc/motd\netc/new.conf\nsrv/\nsrv/new/\nsrv/new/page\n\
         srv/.wh.old\n",
        "{}",
        listed.err
    );
    drop(guest);
    server.stop(&world);

    // Another guest has it as a layer.
    let imported = world.xeno(
        ".",
        &[
            "template",
            "import",
            "layer.tar",
            "--store",
            "templates",
            "--name",
            "changes",
        ],
    );
    assert_eq!(imported.code, Some(0), "{}", imported.err);
    let base = world.xeno(
        ".",
        &["template", "show", "base", "--store", "templates", "-o", "json"],
    );
    let base: serde_json::Value = serde_json::from_str(&base.out).expect("JSON");
    let layers = format!(
        "{{ template = \"{}\" }}, {{ dir = \"site\" }}, {{ template = \"{}\" }}",
        imported.out.trim(),
        base["digest"].as_str().expect("a digest")
    );
    config(&world, "other.toml", &layers, false);
    let server = Running::serve(&world, "other.toml");
    let other = Guest::mount(&world, "web.sock", "/web");
    assert_eq!(other.tree(), expected);
    drop(other);
    server.stop(&world);
}

#[test]
fn an_overlay_is_made_by_hand() {
    let world = stack();
    let mut child = Command::new(env!("CARGO_BIN_EXE_xeno"))
        .args([
            "overlay",
            "edit",
            "./site",
            "base",
            "--store",
            "templates",
            "--no-mount",
            "--socket",
            "edit.sock",
        ])
        .args(["--into", "made"])
        .current_dir(world.path("."))
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let input = child.stdin.take();
    until_there(&world, "edit.sock");
    let guest = Guest::mount(&world, "edit.sock", "/edit");
    guest.write("etc/motd", b"by hand\n");
    guest.remove("etc/site.conf");
    drop(guest);
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("changed   /etc/motd") && said.contains("removed   /etc/site.conf"),
        "{said}"
    );
    assert!(output.stdout.starts_with(b"sha256:"));
    let made = std::fs::read_to_string(world.path("made/etc/motd"));
    assert_eq!(made.expect("a file"), "by hand\n");
    assert!(world.path("made/etc/.wh.site.conf").exists());
    let again = world.xeno(
        ".",
        &["overlay", "edit", "./site", "--no-mount", "--into", "made"],
    );
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("made is there already"), "{}", again.err);
}
