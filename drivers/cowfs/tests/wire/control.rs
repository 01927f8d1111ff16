//! A whole server, from its configuration file and over its control socket, with trees in memory for stacks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cowfs::config::{self, Config};
use cowfs::control::api::{ExportSpec, LeaseSpec, StackSpec, WritableSpec};
use cowfs::control::client::{Client, ClientError};
use cowfs::export::{State, Weight};
use cowfs::memory::Memory;
use cowfs::nfs::client::Client as NfsClient;
use cowfs::quota::Quota;
use cowfs::server::serve_with;
use cowfs::service::{Caller, FileService, LayerSource, OpenError, StackOpener};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::support::DEADLINE;

/// Makes trees in memory; a writable layer is a directory that is made when missing.
struct InMemory;

fn failed(what: &str, retryable: bool) -> OpenError {
    OpenError {
        what: what.to_owned(),
        retryable,
        source: "because the test says so".into(),
    }
}

impl StackOpener for InMemory {
    type Writable = PathBuf;

    fn open_writable(&self, path: &Path, epoch: u64, _: Quota) -> Result<PathBuf, OpenError> {
        if epoch == 0 {
            return Err(failed("opening under epoch 0", false));
        }
        std::fs::create_dir_all(path).map_err(|_| failed("making the directory", true))?;
        Ok(path.to_owned())
    }

    fn open_stack(
        &self,
        layers: &[LayerSource],
        _writable: Option<PathBuf>,
    ) -> Result<Arc<dyn FileService>, OpenError> {
        if layers.contains(&LayerSource::Template("absent".to_owned())) {
            return Err(failed("opening template `absent`", true));
        }
        Ok(Arc::new(Memory::new()))
    }
}

struct Running {
    dir: tempfile::TempDir,
    client: Client,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

/// Starts a server with this configuration beside a control socket `control.sock`.
async fn start(config: &str) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cowfs.toml");
    std::fs::write(&file, format!("control = \"control.sock\"\n{config}")).unwrap();
    let config: Config = config::load(&file).unwrap();
    let client = Client::new(config.control.clone().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, is_ready) = oneshot::channel();
    let serving = tokio::spawn(async move {
        let ready = |_| ready.send(()).unwrap();
        let stopped = async { drop(stopped.await) };
        serve_with(config, InMemory, ready, stopped).await.unwrap();
    });
    tokio::time::timeout(DEADLINE, is_ready).await.unwrap().unwrap();
    Running {
        dir,
        client,
        stop,
        serving,
    }
}

impl Running {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn stop(self) -> tempfile::TempDir {
        self.stop.send(()).unwrap();
        tokio::time::timeout(DEADLINE, self.serving)
            .await
            .unwrap()
            .unwrap();
        self.dir
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>, status: u16, part: &str) {
    match result {
        Err(ClientError::Refused { status: got, problem }) => {
            assert_eq!(got, status, "{problem:?}");
            assert!(problem.error.contains(part), "{problem:?}");
        }
        other => panic!("expected {status}, got {other:?}"),
    }
}

#[tokio::test]
async fn a_configured_export_is_served_and_gone_after_the_end() {
    let running = start("[[export]]\nname = \"/web\"\nsocket = \"web.sock\"\nwritable = \"w\"\n").await;
    let status = running.client.status().await.unwrap();
    assert_eq!((status.exports, status.pid), (1, std::process::id()));
    let guest = UnixStream::connect(running.path("web.sock")).await.unwrap();
    let guest = NfsClient::new(guest, "guest", &Caller::root());
    let root = guest.mount("/").await.unwrap();
    guest.getattr(&root).await.unwrap();
    let listing = running.client.list().await.unwrap();
    assert_eq!(listing.exports["web"].connections, 1);
    assert_eq!(listing.writables["web"].path, running.path("w"));
    let dir = running.stop().await;
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "only the file and the layer stay: {left:?}");
    assert!(
        tokio::time::timeout(DEADLINE, guest.getattr(&root))
            .await
            .unwrap()
            .is_err()
    );
}

#[tokio::test]
async fn an_export_is_built_up_and_taken_down_step_by_step() {
    let running = start("").await;
    let client = &running.client;
    let writable = WritableSpec {
        path: running.path("w"),
        epoch: 3,
        quota_bytes: None,
        quota_inodes: None,
    };
    let stack = StackSpec {
        layers: vec![LayerSource::Dir("/lower".into())],
        writable: Some("acme/web/0".to_owned()),
        label: None,
    };
    let export = ExportSpec {
        stack: "acme/web/0".to_owned(),
        socket: Some(running.path("s")),
        peer_uid: None,
        clients: Vec::new(),
        link: None,
        weight: Weight::default(),
        leased: false,
        state: State::Standby,
    };
    let name = "acme/web/0";
    refused(
        client.put_stack(name, &stack).await,
        404,
        "no writable layer `acme/web/0`",
    );
    refused(client.put_export(name, &export).await, 404, "no stack");
    for _again in 0..2 {
        client.put_writable(name, &writable).await.unwrap();
        client.put_stack(name, &stack).await.unwrap();
        client.put_export(name, &export).await.unwrap();
    }
    assert_eq!(client.list().await.unwrap().exports[name].spec, export);

    // A guest connects in standby and is answered once the export is active.
    let guest = UnixStream::connect(running.path("s")).await.unwrap();
    let guest = NfsClient::new(guest, "guest", &Caller::root());
    let active = ExportSpec {
        state: State::Active,
        ..export.clone()
    };
    let (mounted, put) = tokio::join!(guest.mount("/"), client.put_export(name, &active));
    put.unwrap();
    let root = mounted.unwrap();
    client.flush(name).await.unwrap();
    refused(client.flush("other").await, 404, "no export `other`");

    // It is parked and goes on, and saying again what it is changes nothing about that.
    for _again in 0..2 {
        client.park(name).await.unwrap();
        client.put_export(name, &active).await.unwrap();
        let view = client.list().await.unwrap().exports[name].clone();
        assert_eq!((view.parked, &view.spec), (true, &active));
        assert!(client.stats().await.unwrap().exports[name].parked);
    }
    for _again in 0..2 {
        client.unpark(name).await.unwrap();
        assert!(!client.list().await.unwrap().exports[name].parked);
    }
    guest.getattr(&root).await.unwrap();
    refused(client.park("other").await, 404, "no export `other`");
    refused(client.unpark("other").await, 404, "no export `other`");

    // Only the quota of a layer can change while it is used.
    let bounded = WritableSpec {
        quota_bytes: Some(1 << 20),
        quota_inodes: Some(3),
        ..writable.clone()
    };
    client.put_writable(name, &bounded).await.unwrap();
    assert_eq!(client.list().await.unwrap().writables[name], bounded);
    client.put_writable(name, &writable).await.unwrap();

    // So can the share of an export.
    let heavy = ExportSpec {
        weight: Weight::new(1000).unwrap(),
        ..active.clone()
    };
    client.put_export(name, &heavy).await.unwrap();
    assert_eq!(client.list().await.unwrap().exports[name].spec, heavy);
    client.put_export(name, &active).await.unwrap();

    // And whether it needs a lease: from then on it has to enter one, and without it waits.
    let leased = ExportSpec {
        leased: true,
        ..active.clone()
    };
    for _again in 0..2 {
        client.put_export(name, &leased).await.unwrap();
        assert!(client.list().await.unwrap().exports[name].lapsed);
    }
    assert_eq!(client.status().await.unwrap().lease_nanos, None);
    let lease = |until_nanos| LeaseSpec { until_nanos };
    let soon = lease(cowfs::lease::now() + 3_600_000_000_000);
    client.renew_lease(soon).await.unwrap();
    assert!(client.status().await.unwrap().lease_nanos.is_some());
    assert!(client.stats().await.unwrap().exports[name].lapsed);
    client.enter_lease(name, soon).await.unwrap();
    client.put_export(name, &leased).await.unwrap();
    assert!(!client.list().await.unwrap().exports[name].lapsed);
    // What was connected before the lease began was not to be answered any more.
    let guest = UnixStream::connect(running.path("s")).await.unwrap();
    let guest = NfsClient::new(guest, "guest", &Caller::root());
    guest.getattr(&root).await.unwrap();
    refused(client.renew_lease(lease(1)).await, 400, "has run out already");
    refused(
        client.enter_lease(name, lease(1)).await,
        400,
        "has run out already",
    );
    refused(client.renew_lease(lease(u64::MAX)).await, 400, "more than a day");
    refused(client.enter_lease("other", soon).await, 404, "no export `other`");
    client.put_export(name, &active).await.unwrap();
    assert!(!client.list().await.unwrap().exports[name].lapsed);

    // Nothing else changes under a name that is taken, and nothing goes while it is used.
    let later = WritableSpec {
        epoch: 4,
        ..writable.clone()
    };
    refused(client.put_writable(name, &later).await, 409, "under epoch 3");
    refused(
        client.put_writable("other", &writable).await,
        409,
        "is open as writable layer",
    );
    refused(
        client.put_stack("other", &stack).await,
        409,
        "part of stack `acme/web/0` already",
    );
    let elsewhere = ExportSpec {
        socket: Some(running.path("s2")),
        ..active.clone()
    };
    refused(
        client.put_export(name, &elsewhere).await,
        409,
        "more than its state",
    );
    refused(client.delete_writable(name).await, 409, "delete that first");
    refused(client.delete_stack(name).await, 409, "delete that first");

    for _again in 0..2 {
        client.delete_export(name).await.unwrap();
        client.delete_stack(name).await.unwrap();
    }
    assert!(!running.path("s").exists());
    assert!(
        tokio::time::timeout(DEADLINE, guest.getattr(&root))
            .await
            .unwrap()
            .is_err()
    );
    // The layer can be stacked again, and then closed.
    client.put_stack(name, &stack).await.unwrap();
    client.delete_stack(name).await.unwrap();
    client.delete_writable(name).await.unwrap();
    client.delete_writable(name).await.unwrap();
    assert_eq!(
        client.list().await.unwrap(),
        cowfs::control::api::Listing::default()
    );
    running.stop().await;
}

#[tokio::test]
async fn requests_that_cannot_be_carried_out_say_why() {
    let running = start("").await;
    let client = &running.client;
    let writable = |path: &str, epoch| WritableSpec {
        path: path.into(),
        epoch,
        quota_bytes: None,
        quota_inodes: None,
    };
    refused(
        client.put_writable("a", &writable("relative", 1)).await,
        400,
        "absolute",
    );
    refused(
        client.put_writable("a..b/..", &writable("/x", 1)).await,
        400,
        "no part is",
    );
    refused(
        client.put_writable("a", &writable("/x", 0)).await,
        500,
        "because the test says so",
    );
    let stack = |layers: Vec<LayerSource>| StackSpec {
        layers,
        writable: None,
        label: None,
    };
    refused(
        client.put_stack("a", &stack(Vec::new())).await,
        400,
        "at least one layer",
    );
    let absent = client
        .put_stack("a", &stack(vec![LayerSource::Template("absent".to_owned())]))
        .await;
    assert!(absent.as_ref().unwrap_err().is_retryable());
    refused(absent, 500, "`absent`");
    client
        .put_stack("a", &stack(vec![LayerSource::Dir("/x".into())]))
        .await
        .unwrap();
    let export = |socket: Option<PathBuf>, clients: &[&str]| ExportSpec {
        stack: "a".to_owned(),
        socket,
        peer_uid: None,
        clients: clients.iter().map(|&client| client.to_owned()).collect(),
        link: None,
        weight: Weight::default(),
        leased: false,
        state: State::Active,
    };
    refused(
        client.put_export("a", &export(None, &[])).await,
        400,
        "nobody could reach it",
    );
    refused(
        client.put_export("a", &export(None, &["nobody"])).await,
        400,
        "not an IP address",
    );
    let no_directory = Some(running.path("no/such/s"));
    refused(
        client.put_export("a", &export(no_directory, &[])).await,
        500,
        "no/such/s",
    );
    refused(
        client
            .put_export("a", &export(Some(running.path("control.sock")), &[]))
            .await,
        500,
        "another server",
    );
    // What failed left nothing behind.
    client
        .put_export("a", &export(Some(running.path("s")), &[]))
        .await
        .unwrap();
    let gone = Client::new(running.path("nowhere.sock"));
    assert!(matches!(
        gone.status().await,
        Err(ClientError::Unreachable { .. })
    ));
    running.stop().await;
}

#[tokio::test]
async fn what_an_export_was_asked_is_counted_and_told_to_programs_and_to_prometheus() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let running = start(
        "[[export]]\nname = \"/web\"\nsocket = \"web.sock\"\nwritable = \"w\"\n\
         [[export]]\nname = \"/idle\"\nsocket = \"idle.sock\"\nwritable = \"i\"\n",
    )
    .await;
    let stream = UnixStream::connect(running.path("web.sock")).await.unwrap();
    let guest = NfsClient::new(stream, "guest", &Caller::root());
    let root = guest.mount("/web").await.unwrap();
    for _ in 0..9 {
        guest.getattr(&root).await.unwrap();
    }
    guest.lookup(&root, b"absent").await.unwrap_err();
    let mode = cowfs::attr::SetAttr::default();
    let mode = cowfs::service::CreateMode::Guarded(mode);
    let made = guest.create(&root, b"file", mode).await.unwrap().unwrap().handle;
    let unstable = cowfs::service::Stability::Unstable;
    guest.write(&made, 0, &[1; 10_000], unstable).await.unwrap();
    guest.read(&made, 0, 20_000).await.unwrap();

    let stats = running.client.stats().await.unwrap();
    let web = &stats.exports["web"];
    assert_eq!(web.connections, 1);
    let told = |name: &str| {
        let counts = &web.procedures[name];
        assert_eq!(
            counts.steps.iter().map(|(_, count)| count).sum::<u64>(),
            counts.calls,
            "{name}"
        );
        assert!(counts.percentile(500) <= counts.percentile(1000), "{name}");
        (counts.calls, counts.errors)
    };
    assert_eq!(told("GETATTR"), (9, 0));
    assert_eq!(told("LOOKUP"), (1, 1));
    assert_eq!(told("CREATE"), (1, 0));
    for name in ["READ", "WRITE"] {
        assert_eq!(told(name), (1, 0));
        assert!((10_000..10_500).contains(&web.procedures[name].bytes), "{name}");
    }
    assert!(stats.exports["idle"].procedures.is_empty());

    let mut stream = UnixStream::connect(running.path("control.sock")).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    for line in [
        "# TYPE cowfs_calls counter",
        "cowfs_calls_total{export=\"web\",procedure=\"GETATTR\"} 9",
        "cowfs_errors_total{export=\"web\",procedure=\"LOOKUP\"} 1",
        "# UNIT cowfs_call_seconds seconds",
        "cowfs_call_seconds_bucket{export=\"web\",procedure=\"GETATTR\",le=\"+Inf\"} 9",
        "cowfs_call_seconds_count{export=\"web\",procedure=\"READ\"} 1",
        "cowfs_connections{export=\"idle\"} 0",
    ] {
        assert!(
            body.lines().any(|there| there == line),
            "{line} is not in\n{body}"
        );
    }
    assert!(body.ends_with("# EOF\n"), "{body}");
    // Each family is described once and its samples stand together, as the format wants it.
    let mut described = std::collections::BTreeSet::new();
    let mut family = "";
    for line in body.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            assert!(described.insert(family), "{family} twice");
        }
        let name = line
            .trim_start_matches("# UNIT ")
            .trim_start_matches("# HELP ")
            .trim_start_matches("# TYPE ");
        assert!(name.starts_with(family), "{line}");
    }
    drop(guest);
    running.stop().await;
}
