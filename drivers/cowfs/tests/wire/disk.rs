//! The whole server over real layers on disk: what a restart keeps.

use std::net::SocketAddr;
use std::path::Path;

use cowfs::attr::SetAttr;
use cowfs::config;
use cowfs::control::api::{ExportSpec, StackSpec, WritableSpec};
use cowfs::control::client::Client as ControlClient;
use cowfs::export::State;
use cowfs::nfs::client::{Client, WireHandle, encode, encode_place};
use cowfs::nfs::ops::{self, Procedure};
use cowfs::server::serve;
use cowfs::service::{Caller, CreateMode, LayerSource, Stability, Status};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::procedures::refused;
use crate::support::{DEADLINE, mode};

struct Served {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

async fn start(dir: &Path) -> Served {
    let config = config::load(&dir.join("cowfs.toml")).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, is_ready) = oneshot::channel();
    let serving = tokio::spawn(async move {
        let ready = |address: Option<SocketAddr>| ready.send(address.unwrap()).unwrap();
        serve(config, ready, async { drop(stopped.await) }).await.unwrap();
    });
    let address = tokio::time::timeout(DEADLINE, is_ready).await.unwrap().unwrap();
    Served {
        address,
        stop,
        serving,
    }
}

impl Served {
    async fn mounted(&self, path: &str) -> (Client, WireHandle) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let client = Client::new(stream, "guest", &Caller::root());
        let root = client.mount(path).await.unwrap();
        (client, root)
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(DEADLINE, self.serving)
            .await
            .unwrap()
            .unwrap();
    }
}

fn layers() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("L1/etc")).unwrap();
    std::fs::create_dir_all(dir.path().join("L2/etc")).unwrap();
    std::fs::write(dir.path().join("L1/etc/motd"), "below").unwrap();
    std::fs::write(dir.path().join("L1/etc/hosts"), "127.0.0.1 localhost").unwrap();
    std::fs::write(dir.path().join("L2/etc/motd"), "above").unwrap();
    let config = r#"
        listen = "127.0.0.1:0"
        [[export]]
        name = "/web"
        clients = ["127.0.0.1"]
        writable = "w/web"
        layers = [ { dir = "L2" }, { dir = "L1" } ]
        [[export]]
        name = "/fixed"
        clients = ["127.0.0.1"]
        layers = [ { dir = "L2" }, { dir = "L1" } ]
    "#;
    std::fs::write(dir.path().join("cowfs.toml"), config).unwrap();
    dir
}

#[tokio::test]
async fn handles_content_and_outcomes_outlive_a_restart() {
    let dir = layers();
    let first = start(dir.path()).await;
    let (client, root) = first.mounted("/web").await;
    let etc = client.lookup(&root, b"etc").await.unwrap().handle;
    let motd = client.lookup(&etc, b"motd").await.unwrap();
    let hosts = client.lookup(&etc, b"hosts").await.unwrap();
    assert_eq!(&client.read(&motd.handle, 0, 100).await.unwrap().0[..], b"above");
    client
        .write(&hosts.handle, 0, b"::1      ", Stability::FileSync)
        .await
        .unwrap();
    let (_, _, verifier) = client
        .write(&motd.handle, 5, b" all", Stability::Unstable)
        .await
        .unwrap();
    assert_eq!(client.commit(&motd.handle).await.unwrap(), verifier);
    let make = [encode_place(&etc, b"new"), encode(|w| w.u32(1)), [0; 24].to_vec()].concat();
    let send = async |client: &Client| {
        let reply = client
            .call_as(77, ops::PROGRAM, ops::VERSION, Procedure::Create as u32, &make)
            .await;
        u32::from_be_bytes(reply.unwrap()[..4].try_into().unwrap())
    };
    assert_eq!(send(&client).await, 0);
    client.remove(&etc, b"motd").await.unwrap();
    first.stop().await;

    let second = start(dir.path()).await;
    let (client, root_again) = second.mounted("/web").await;
    assert_eq!(root_again, root);
    let hosts_again = client.lookup(&etc, b"hosts").await.unwrap();
    assert_eq!(hosts_again.handle, hosts.handle);
    assert_eq!(hosts_again.attr.unwrap().0, hosts.attr.unwrap().0);
    assert_eq!(
        &client.read(&hosts.handle, 0, 100).await.unwrap().0[..],
        b"::1       localhost"
    );
    refused(client.getattr(&motd.handle).await, Status::Stale);
    refused(client.lookup(&etc, b"motd").await, Status::NoEnt);
    // The reply to this call may have been lost with the first server: it is answered, and not run again.
    assert_eq!(send(&client).await, 0);
    let (_, _, new_verifier) = client
        .write(&hosts.handle, 0, b"x", Stability::Unstable)
        .await
        .unwrap();
    assert_ne!(new_verifier, verifier);
    second.stop().await;
    assert_eq!(
        std::fs::read(dir.path().join("L1/etc/hosts")).unwrap(),
        b"127.0.0.1 localhost"
    );
}

#[tokio::test]
async fn a_stack_without_writable_layer_is_read_only_and_keeps_its_handles() {
    let dir = layers();
    let first = start(dir.path()).await;
    let (client, root) = first.mounted("/fixed").await;
    let etc = client.lookup(&root, b"etc").await.unwrap().handle;
    let guarded = CreateMode::Guarded(SetAttr::default());
    refused(client.create(&root, b"f", guarded).await, Status::RoFs);
    refused(client.remove(&etc, b"motd").await, Status::RoFs);
    refused(client.setattr(&etc, &mode(0o700), None).await, Status::RoFs);
    first.stop().await;
    let second = start(dir.path()).await;
    let (client, _) = second.mounted("/fixed").await;
    let mut names: Vec<_> = client.readdir(&etc, 0, 4096).await.unwrap().0;
    names.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<_> = names.iter().map(|entry| entry.name.as_slice()).collect();
    assert_eq!(names, [&b"."[..], b"..", b"hosts", b"motd"]);
    // A handle of the one export is none of the other's.
    let (_, web) = second.mounted("/web").await;
    refused(
        client.rename((&etc, b"motd"), (&web, b"motd")).await,
        Status::XDev,
    );
    second.stop().await;
}

#[tokio::test]
async fn many_changes_at_once_all_arrive() {
    let dir = layers();
    let served = start(dir.path()).await;
    let (client, root) = served.mounted("/web").await;
    let (client, root) = (std::sync::Arc::new(client), std::sync::Arc::new(root));
    let making: Vec<_> = (0..200)
        .map(|n| {
            let (client, root) = (std::sync::Arc::clone(&client), std::sync::Arc::clone(&root));
            tokio::spawn(async move {
                let name = format!("file-{n}").into_bytes();
                let made = client
                    .create(&root, &name, CreateMode::Guarded(mode(0o644)))
                    .await
                    .unwrap()
                    .unwrap();
                client
                    .write(&made.handle, 0, &vec![b'x'; 100_000], Stability::Unstable)
                    .await
                    .unwrap();
                client.commit(&made.handle).await.unwrap();
            })
        })
        .collect();
    for made in making {
        tokio::time::timeout(DEADLINE, made).await.unwrap().unwrap();
    }
    let (entries, eof) = client.readdirplus(&root, 0, 1 << 20, 1 << 20).await.unwrap();
    assert!(eof);
    // `.`, `..`, `etc` and the new ones.
    assert_eq!(entries.len(), 203);
    served.stop().await;
}

#[tokio::test]
async fn a_quota_is_kept_shown_and_moved_while_it_is_in_use() {
    const MIB: usize = 1 << 20;
    let dir = layers();
    let config = r#"
        listen = "127.0.0.1:0"
        control = "control.sock"
        [[export]]
        name = "/web"
        clients = ["127.0.0.1"]
        writable = "w/web"
        quota = "2MiB"
        layers = [ { dir = "L1" } ]
    "#;
    std::fs::write(dir.path().join("cowfs.toml"), config).unwrap();
    let served = start(dir.path()).await;
    let (client, root) = served.mounted("/web").await;
    let made = client.create(&root, b"big", CreateMode::Unchecked(mode(0o600)));
    let big = made.await.unwrap().unwrap().handle;
    let write = async |at: usize| {
        let offset = u64::try_from(at).unwrap();
        let content = vec![7; MIB / 2];
        client.write(&big, offset, &content, Stability::FileSync).await
    };
    let total_and_free = async || {
        let reply = client
            .nfs(Procedure::FsStat, &encode(|w| w.opaque(&root)))
            .await
            .unwrap();
        // RFC 1813 section 3.3.18: the root's attributes (present: 4 + 84 bytes), then total and free bytes.
        let number = |at: usize| u64::from_be_bytes(reply[at..at + 8].try_into().unwrap());
        (number(88), number(96))
    };
    assert_eq!(total_and_free().await.0, 2 << 20);
    for at in 0..4 {
        write(at * MIB / 2).await.unwrap();
    }
    refused(write(2 * MIB).await, Status::DQuot);
    write(0).await.unwrap();
    assert_eq!(total_and_free().await, (2 << 20, 0));

    let control = ControlClient::new(dir.path().join("control.sock"));
    let mut spec = control.list().await.unwrap().writables["web"].clone();
    assert_eq!(spec.quota_bytes, Some(2 << 20));
    spec.quota_bytes = Some(3 << 20);
    control.put_writable("web", &spec).await.unwrap();
    assert_eq!(total_and_free().await.0, 3 << 20);
    write(2 * MIB).await.unwrap();
    spec.quota_bytes = Some(1 << 20);
    control.put_writable("web", &spec).await.unwrap();
    refused(write(3 * MIB).await, Status::DQuot);
    client.remove(&root, b"big").await.unwrap();
    let made = client.create(&root, b"small", CreateMode::Unchecked(mode(0o600)));
    let small = made.await.unwrap().unwrap().handle;
    client
        .write(&small, 0, b"room again", Stability::FileSync)
        .await
        .unwrap();

    // Objects may have a quota of their own: shown, and kept to.
    spec.quota_inodes = Some(4);
    control.put_writable("web", &spec).await.unwrap();
    let reply = client
        .nfs(Procedure::FsStat, &encode(|w| w.opaque(&root)))
        .await
        .unwrap();
    let number = |at: usize| u64::from_be_bytes(reply[at..at + 8].try_into().unwrap());
    let (total, free) = (number(112), number(120));
    assert_eq!(total, 4);
    for at in 0..free {
        let name = format!("f{at}");
        client
            .create(&root, name.as_bytes(), CreateMode::Unchecked(mode(0o600)))
            .await
            .unwrap();
    }
    refused(client.mkdir(&root, b"d", &mode(0o700)).await, Status::DQuot);
    client.remove(&root, b"small").await.unwrap();
    client.mkdir(&root, b"d", &mode(0o700)).await.unwrap();
    served.stop().await;
}

#[tokio::test]
async fn a_checkpoint_is_made_while_serving_and_gone_back_to() {
    let dir = layers();
    let config = r#"
        listen = "127.0.0.1:0"
        control = "control.sock"
    "#;
    std::fs::write(dir.path().join("cowfs.toml"), config).unwrap();
    let served = start(dir.path()).await;
    let control = ControlClient::new(dir.path().join("control.sock"));
    let writable = WritableSpec {
        path: dir.path().join("w"),
        epoch: 1,
        quota_bytes: None,
        quota_inodes: None,
    };
    let stack = StackSpec {
        layers: vec![LayerSource::Dir(dir.path().join("L1"))],
        writable: Some("db".to_owned()),
        label: None,
    };
    let export = ExportSpec {
        stack: "db".to_owned(),
        socket: None,
        peer_uid: None,
        clients: vec!["127.0.0.1".to_owned()],
        link: None,
        leased: false,
        state: State::Active,
        weight: Default::default(),
    };
    let up = async || {
        control.put_writable("db", &writable).await.unwrap();
        control.put_stack("db", &stack).await.unwrap();
        control.put_export("db", &export).await.unwrap();
    };
    up().await;
    let (client, root) = served.mounted("/db").await;
    let made = client.create(&root, b"f", CreateMode::Unchecked(mode(0o600)));
    let file = made.await.unwrap().unwrap().handle;
    client
        .write(&file, 0, &[1; 9000], Stability::FileSync)
        .await
        .unwrap();
    client
        .write(&file, 0, &[2; 10], Stability::Unstable)
        .await
        .unwrap();
    control.checkpoint("db", "before").await.unwrap();
    control.checkpoint("db", "before").await.unwrap();
    let list = control.checkpoints("db").await.unwrap().checkpoints;
    assert_eq!(
        (list.len(), list[0].name.as_str(), list[0].epoch),
        (1, "before", 1)
    );
    client
        .write(&file, 0, &[3; 9000], Stability::FileSync)
        .await
        .unwrap();
    let made = client.create(&root, b"later", CreateMode::Unchecked(mode(0o600)));
    let later = made.await.unwrap().unwrap().handle;
    control.compact("db").await.unwrap();
    assert_eq!(&client.read(&file, 0, 4).await.unwrap().0[..], [3; 4]);
    let told = |error: cowfs::control::client::ClientError| error.to_string();
    assert!(
        control
            .restore("db", "before")
            .await
            .map_err(told)
            .unwrap_err()
            .contains("part of a stack")
    );

    control.delete_export("db").await.unwrap();
    control.delete_stack("db").await.unwrap();
    assert!(
        control
            .restore("db", "other")
            .await
            .map_err(told)
            .unwrap_err()
            .contains("no checkpoint `other`")
    );
    assert!(
        control
            .checkpoint("db", "../x")
            .await
            .map_err(told)
            .unwrap_err()
            .contains("no name")
    );
    control.restore("db", "before").await.unwrap();
    up().await;
    let (client, _) = served.mounted("/db").await;
    let content = client.read(&file, 0, 9000).await.unwrap().0;
    assert_eq!((&content[..10], &content[10..12]), (&[2; 10][..], &[1; 2][..]));
    refused(client.getattr(&later).await, Status::Stale);
    // Numbers are not used twice: what is made now is not what the old handle meant.
    let made = client.create(&root, b"later", CreateMode::Unchecked(mode(0o600)));
    assert_ne!(made.await.unwrap().unwrap().handle, later);
    refused(client.getattr(&later).await, Status::Stale);
    control.delete_checkpoint("db", "before").await.unwrap();
    control.delete_checkpoint("db", "before").await.unwrap();
    assert!(control.checkpoints("db").await.unwrap().checkpoints.is_empty());
    client
        .write(&file, 0, &[4; 9000], Stability::FileSync)
        .await
        .unwrap();
    served.stop().await;
    assert_eq!(
        cowfs::fsck::fsck(&dir.path().join("w")).unwrap().problems,
        Vec::new()
    );
}

/// A copy of the layer elsewhere, as on another machine, serves what a client holds already.
#[tokio::test]
async fn a_copy_of_a_layer_elsewhere_serves_the_same_handles() {
    let dir = layers();
    let first = start(dir.path()).await;
    let (client, root) = first.mounted("/web").await;
    let etc = client.lookup(&root, b"etc").await.unwrap().handle;
    let hosts = client.lookup(&etc, b"hosts").await.unwrap();
    client
        .write(&hosts.handle, 0, &[7; 9000], Stability::FileSync)
        .await
        .unwrap();
    let made = client.create(&etc, b"new", CreateMode::Unchecked(mode(0o600)));
    let new = made.await.unwrap().unwrap().handle;
    first.stop().await;

    let elsewhere = tempfile::tempdir().unwrap();
    copy(dir.path(), elsewhere.path());
    drop(dir);
    let second = start(elsewhere.path()).await;
    // The client goes on with the handles that it has.
    let stream = TcpStream::connect(second.address).await.unwrap();
    let client = Client::new(stream, "guest", &Caller::root());
    assert_eq!(
        client.read(&hosts.handle, 0, 9000).await.unwrap().0,
        vec![7; 9000]
    );
    client
        .write(&new, 0, b"on another machine", Stability::FileSync)
        .await
        .unwrap();
    assert_eq!(client.mount("/web").await.unwrap(), root);
    assert_eq!(client.lookup(&root, b"etc").await.unwrap().handle, etc);
    let again = client.lookup(&etc, b"hosts").await.unwrap();
    assert_eq!(
        (again.handle, again.attr.unwrap().0),
        (hosts.handle, hosts.attr.unwrap().0)
    );
    assert_eq!(client.lookup(&etc, b"new").await.unwrap().handle, new);
    second.stop().await;
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            let status = entry.metadata().unwrap();
            std::fs::copy(entry.path(), &target).unwrap();
            // As `cp -a` and `rsync -a` do.
            let file = std::fs::File::options().write(true).open(&target).unwrap();
            file.set_modified(status.modified().unwrap()).unwrap();
        }
    }
}
