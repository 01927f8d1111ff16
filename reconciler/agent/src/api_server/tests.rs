//! Server and client against a scripted agent.

use tokio::sync::broadcast;

use super::*;
use crate::api::{Doctor, Events, WhyView};
use crate::api_client::{ApiClient, ClientError};
use crate::handle::Request;

/// A socket, and an agent behind it that knows one sliver and a few events.
struct World {
    dir: tempfile::TempDir,
    events: broadcast::Sender<EventView>,
}

fn event(seq: u64) -> EventView {
    EventView {
        seq,
        at_ms: 0,
        kind: "done".into(),
        sliver: None,
        text: format!("event {seq}\nsecond line"),
        data: None,
    }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (requests, mut queue) = mpsc::channel(8);
        let (events, _) = broadcast::channel(4);
        let handle = AgentHandle::new(requests, &events);
        let listener = bind(&dir.path().join("run/agent.sock")).expect("a socket");
        tokio::spawn(serve(listener, handle, std::future::pending()));
        tokio::spawn(async move {
            while let Some(request) = queue.recv().await {
                match request {
                    Request::Doctor(reply) => {
                        drop(reply.send(Ok(Doctor {
                            format_version: FORMAT_VERSION,
                            facts: Vec::new(),
                        })));
                    }
                    Request::Why(sliver, reply) if sliver.number == 0 => drop(reply.send(Ok(WhyView {
                        format_version: FORMAT_VERSION,
                        sliver: sliver.to_string(),
                        phase: crate::api::SliverPhase::Settled,
                        settled: true,
                        sentences: Vec::new(),
                        class: None,
                        cause: None,
                        reasons: Vec::new(),
                        besides: Vec::new(),
                    }))),
                    Request::Why(sliver, reply) => {
                        drop(reply.send(Err(HandleError::NoSuchSliver { sliver })))
                    }
                    Request::Events(since, limit, reply) => {
                        let events = (1..=3)
                            .filter(|seq| *seq > since)
                            .take(limit as usize)
                            .map(event)
                            .collect();
                        drop(reply.send(Ok(Events {
                            format_version: FORMAT_VERSION,
                            events,
                        })));
                    }
                    Request::Figures(reply) => {
                        drop(reply.send(Ok(crate::figures::Figures::default())));
                    }
                    Request::Reconcile(_, reply) | Request::Refetch(reply) => drop(reply.send(Ok(()))),
                    other => panic!("nobody asks {other:?} here"),
                }
            }
        });
        Self { dir, events }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/agent.sock")
    }

    fn client(&self) -> ApiClient {
        ApiClient::new(&self.socket())
    }
}

fn id(text: &str) -> SliverId {
    SliverId::parse(text).expect("a sliver")
}

#[tokio::test]
async fn questions_are_answered_and_refusals_keep_their_words() {
    let world = World::new();
    let client = world.client();
    assert!(client.doctor().await.expect("an answer").facts.is_empty());
    client.reconcile().await.expect("an answer");
    assert_eq!(client.why(&id("web/0")).await.expect("an answer").sliver, "web/0");
    match client.why(&id("web/7")).await {
        Err(ClientError::Refused { status: 404, why }) => assert!(why.contains("web/7"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.events(1, 10).await.expect("an answer").events.len(), 2);
}

#[tokio::test]
async fn a_watch_begins_with_the_past_and_misses_nothing() {
    let world = World::new();
    let mut watch = world.client().watch(1, 1000).await.expect("a watch");
    let mut seen = Vec::new();
    for seq in [2, 3] {
        seen.push(watch.next().await.expect("an event").expect("not the end"));
        assert_eq!(seen.last(), Some(&event(seq)));
    }
    for seq in [3, 4, 5] {
        world.events.send(event(seq)).expect("somebody listens");
    }
    for seq in [4, 5] {
        assert_eq!(watch.next().await.expect("an event"), Some(event(seq)));
    }
    drop(world);
    assert_eq!(watch.next().await.expect("an end"), None);
}

#[tokio::test]
async fn a_socket_is_private_replaced_when_dead_and_refused_when_alive() {
    let world = World::new();
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&world.socket()), 0o600);
    assert_eq!(mode(world.socket().parent().expect("a parent")), 0o700);
    assert!(matches!(bind(&world.socket()), Err(SocketError::InUse { .. })));

    let dead = world.dir.path().join("dead.sock");
    drop(bind(&dead).expect("a socket"));
    assert!(dead.exists());
    bind(&dead).expect("taken over");

    let file = world.dir.path().join("file");
    std::fs::write(&file, "precious").expect("a file");
    assert!(matches!(bind(&file), Err(SocketError::NotASocket { .. })));
    assert!(matches!(
        bind(&world.dir.path().join("x".repeat(120))),
        Err(SocketError::TooLong { .. })
    ));
}

#[tokio::test]
async fn without_an_agent_the_way_to_one_is_named() {
    let world = World::new();
    let error = ApiClient::new(&world.dir.path().join("none.sock"))
        .doctor()
        .await
        .expect_err("nobody");
    assert!(error.hint().is_some_and(|hint| hint.contains("xeno agent")));
}

#[tokio::test]
async fn figures_are_told_as_openmetrics() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let world = World::new();
    let mut stream = tokio::net::UnixStream::connect(world.socket()).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    let (head, body) = told.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    assert!(crate::figures::tests::parse(body).contains_key("xeno_agent_state_up"));
}
