//! A writable layer that its disk has damaged: what is said of it, by whom, and that others go on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cowfs::control::api::WritableSpec;
use cowfs::control::client::{Client, ClientError};
use cowfs::nfs::client::ClientError as NfsError;
use cowfs::service::Status;

use crate::served::{Guest, Running, stack};
use crate::world::{Said, World};

/// Bytes of a segment before its first record, and of a record before its payload, which begins with the payload's length.
const HEADER: usize = 112;
const FRAME: usize = 20;

/// Bytes of one file that the guest writes; no other has so many.
const LARGE: usize = 50_000;

/// A stack that is served by `cowfs.toml`, whose writable layer `w/web` a guest has changed; closed.
fn changed() -> World {
    let world = stack();
    let server = Running::serve(&world, "cowfs.toml");
    let guest = Guest::mount(&world, "web.sock", "/web");
    for name in ["etc/a", "etc/b", "etc/c", "etc/d"] {
        guest.write(name, b"settled\n");
    }
    guest.write("etc/large", &[7; LARGE]);
    // The guest syncs.
    let client = Client::new(world.path("cowfs.sock"));
    runtime().block_on(client.flush("web")).expect("flushed");
    drop(guest);
    server.stop(&world);
    world
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

/// Every file below a directory, with what it holds.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a listing") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = std::fs::read(&path).expect("a file");
            found.insert(path, bytes);
        }
    }
    found
}

/// Flips one bit in the middle of the log of a layer; says how that is told.
fn flip(layer: &Path) -> String {
    let logs: Vec<_> = files(&layer.join("log")).into_iter().collect();
    let [(path, bytes)] = logs.as_slice() else {
        panic!("the log has {} segments", logs.len());
    };
    let mut bytes = bytes.clone();
    let mut at = HEADER;
    let next = |bytes: &[u8], at: usize| {
        let length: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
        at + FRAME + usize::try_from(u32::from_le_bytes(length)).expect("it fits")
    };
    while next(&bytes, at) < bytes.len() / 2 {
        at = next(&bytes, at);
    }
    bytes[at + FRAME] ^= 0x40;
    std::fs::write(path, &bytes).expect("written");
    format!(
        "`{}` is damaged at byte {at}: a record that was on disk does not pass its check",
        path.display()
    )
}

/// As a person reads it: without line breaks.
fn flat(said: &Said) -> String {
    said.all().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn damage_is_named_and_refused_by_everybody_while_others_are_served() {
    let world = changed();
    let (layer, other, copy) = (world.path("w/web"), world.path("w/other"), world.path("copy"));
    let shown = layer.display().to_string();
    for to in [&other, &copy] {
        let copied = world.sh(".", &format!("cp -a {shown} {}", to.display()));
        assert_eq!(copied.code, Some(0), "{copied:?}");
    }
    let sound = world.xeno(".", &["cowfs", "fsck", &shown]);
    assert_eq!(sound.code, Some(0), "{sound:?}");
    assert!(sound.out.starts_with("ok: "), "{sound:?}");

    let damage = flip(&layer);
    let before = files(&layer);
    let checked = world.xeno(".", &["cowfs", "fsck", &shown]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    let help = "put back a copy of the whole directory: the log is never guessed at";
    assert_eq!(
        checked.out,
        format!(
            "damaged: the layer is not served, and how much it holds is not known\n  {damage}\n  help: {help}\n"
        )
    );
    let json = world.xeno(".", &["cowfs", "fsck", &shown, "--json"]);
    assert_eq!(json.code, Some(1), "{json:?}");
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(
        json["damage"],
        serde_json::json!([{ "kind": "log", "what": damage, "help": help }])
    );
    // What was not read is not nothing.
    assert!(json["sound"] == false && json["objects"].is_null(), "{json}");
    let looked = world.xeno(".", &["overlay", "diff", &shown]);
    assert!(
        looked.code == Some(1) && flat(&looked).contains(&damage),
        "{looked:?}"
    );
    let compacted = world.xeno(".", &["cowfs", "compact", &shown]);
    assert!(
        compacted.code == Some(1) && flat(&compacted).contains(&damage),
        "{compacted:?}"
    );
    let served = world.xeno(".", &["cowfs", "serve", "--config", "cowfs.toml"]);
    assert!(
        served.code == Some(1) && flat(&served).contains(&damage),
        "{served:?}"
    );

    // A server of others is asked for it, as an agent does.
    world.edit("cowfs.toml", "w/web", "w/other");
    let server = Running::serve(&world, "cowfs.toml");
    let guest = Guest::mount(&world, "web.sock", "/web");
    let client = Client::new(world.path("cowfs.sock"));
    let open = || {
        let spec = WritableSpec {
            path: layer.clone(),
            epoch: 2,
            quota_bytes: None,
            quota_inodes: None,
        };
        runtime().block_on(client.put_writable("damaged", &spec))
    };
    let Err(ClientError::Refused { problem, .. }) = open() else {
        panic!("a damaged layer was opened");
    };
    assert!(
        problem.error.contains(&damage) && !problem.retryable,
        "{}",
        problem.error
    );
    guest.write("etc/later", b"served\n");
    assert!(guest.tree().contains_key("/etc/later"));
    assert_eq!(files(&layer), before, "something was changed by asking");

    // One that is open is not checked: it changes meanwhile.
    let busy = world.xeno(".", &["cowfs", "fsck", "w/other"]);
    assert_eq!(busy.code, Some(1), "{busy:?}");
    assert!(
        flat(&busy).contains("`w/other` is open in another process") && busy.out.is_empty(),
        "{busy:?}"
    );

    // What the help says does help, while the server runs on.
    std::fs::remove_dir_all(&layer).expect("removed");
    assert_eq!(world.sh(".", &format!("cp -a copy {shown}")).code, Some(0));
    open().expect("the copy is opened");
    drop(guest);
    server.stop(&world);
    assert_eq!(world.xeno(".", &["cowfs", "fsck", &shown]).code, Some(0));
}

#[test]
fn lost_content_is_named_by_path_and_all_else_is_served() {
    let world = changed();
    let layer = world.path("w/web");
    let fsck = || world.xeno(".", &["cowfs", "fsck", &layer.display().to_string()]);
    let kept = world.xeno(".", &["cowfs", "checkpoint", "w/web", "kept"]);
    assert_eq!(kept.code, Some(0), "{kept:?}");

    let content = files(&layer.join("content"));
    let (path, bytes) = content
        .iter()
        .find(|(_, bytes)| bytes.len() == LARGE)
        .expect("its content");
    std::fs::write(path, &bytes[..1000]).expect("written");
    let checked = fsck();
    assert_eq!(checked.code, Some(1), "{checked:?}");
    let damage = format!(
        "content of `/etc/large`: `{}` has 1000 bytes and should have {LARGE}",
        path.display()
    );
    let told: Vec<&str> = checked.out.lines().skip(1).map(str::trim_start).collect();
    assert_eq!(
        told,
        [
            damage.as_str(),
            &format!("checkpoint `kept`: {damage}"),
            "help: put back its files from a copy; without its .json the layer does not open, because it would overwrite \
             what the checkpoint needs",
            "help: put back the file from a copy of the directory, or go back to a checkpoint; all else can be served",
        ],
        "{}",
        checked.out
    );
    let server = Running::serve(&world, "cowfs.toml");
    let guest = Guest::mount(&world, "web.sock", "/web");
    assert_eq!(guest.read("etc/a").expect("it is whole"), b"settled\n");
    let lost = guest.read("etc/large");
    assert!(matches!(lost, Err(NfsError::Status(Status::Io))), "{lost:?}");
    guest.write("etc/a", b"settled again\n");
    drop(guest);
    server.stop(&world);

    std::fs::remove_file(path).expect("removed");
    let gone = fsck();
    assert!(
        gone.code == Some(1)
            && gone
                .out
                .contains(&format!("`{}` cannot be read: ", path.display())),
        "{gone:?}"
    );
    std::fs::write(path, bytes).expect("put back");
    let whole = fsck();
    assert!(
        whole.code == Some(0) && whole.out.starts_with("ok: "),
        "{whole:?}"
    );

    // The list of what a checkpoint needs.
    world.edit("w/web/checkpoints/kept.json", ":", " :");
    let list = layer.join("checkpoints/kept.json");
    let damage = format!(
        "`{}` is damaged at byte 0: it is not what the checkpoint was made with",
        list.display()
    );
    let checked = fsck();
    assert!(
        checked.code == Some(1) && checked.out.contains(&format!("checkpoint `kept`: {damage}")),
        "{checked:?}"
    );
    let served = world.xeno(".", &["cowfs", "serve", "--config", "cowfs.toml"]);
    assert!(
        served.code == Some(1) && flat(&served).contains(&damage),
        "{served:?}"
    );
}
