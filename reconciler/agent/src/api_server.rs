//! Serves the agent's answers over a unix socket, as HTTP and JSON: `curl --unix-socket agent.sock http://x/v1/status`.
//!
//! Who may open the socket may ask everything: its mode (0600) is the whole of its access control.

use std::fs::Permissions;
use std::future::Future;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use cowfs::openmetrics;
use hyper::body::Frame;
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use xeno_model::id::SliverId;

use crate::api::{EventView, FORMAT_VERSION, Failure, RestoreRequest, RolloutsView, ScopeView, ThawRequest};
use crate::handle::{AgentHandle, EVENTS_PER_ANSWER_MAX, HandleError};

/// Watches at a time; each holds a task and a queue.
const WATCHES_MAX: usize = 64;

/// Lines waiting for a watcher that reads slowly.
const WATCH_QUEUE_LEN: usize = 64;

/// How often a silent watch says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long `plan?refresh=true` waits for the repository to be read.
const REFRESH_MAX: Duration = Duration::from_secs(30);

/// Longest path of a unix socket (unix(7): 108 bytes with the terminating zero).
const SOCKET_PATH_MAX: usize = 107;

/// Why a socket could not be taken. Messages fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers on it.
    #[error("listen on {}: another process answers on that socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket has that name.
    #[error("listen on {}: a file that is not a socket has that name", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The path does not fit into a socket address.
    #[error("listen on {}: the path has more than {SOCKET_PATH_MAX} bytes", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("listen on {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Takes a socket: makes its directory (0700) when missing, replaces a socket on which nobody answers, refuses one on
/// which somebody does. The socket has mode 0600 from the first moment at which it can be found.
///
/// # Errors
/// [`SocketError`].
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let io = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(name);
    if fresh.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(SocketError::TooLong {
            path: path.to_owned(),
        });
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(io)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(SocketError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                return Err(SocketError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            // A socket that may not be opened may be in use.
            Err(error) => return Err(io(error)),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    // Under another name until its mode is right; the name is then taken over in one step.
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).map_err(io)?;
    std::fs::set_permissions(&fresh, Permissions::from_mode(0o600)).map_err(io)?;
    std::fs::rename(&fresh, path).map_err(io)?;
    Ok(listener)
}

/// Answers until `stop` ends; open watches end with the agent.
///
/// # Errors
/// What accepting a connection failed with.
pub async fn serve(
    listener: UnixListener,
    handle: AgentHandle,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(handle))
        .with_graceful_shutdown(stop)
        .await
}

/// All routes.
pub fn router(handle: AgentHandle) -> Router {
    let api = Api {
        handle,
        watches: Arc::new(Semaphore::new(WATCHES_MAX)),
    };
    Router::new()
        .route(
            "/v1/status",
            get(|State(api): State<Api>| async move { answer(api.handle.status().await) }),
        )
        .route("/metrics", get(metrics))
        .route("/v1/plan", get(plan))
        .route(
            "/v1/slivers",
            get(|State(api): State<Api>| async move { answer(api.handle.slivers().await) }),
        )
        .route("/v1/slivers/{slice}/{number}", get(sliver))
        .route("/v1/slivers/{slice}/{number}/why", get(why))
        .route("/v1/slivers/{slice}/{number}/checkpoints", get(checkpoints))
        .route("/v1/slivers/{slice}/{number}/restore", post(restore))
        .route("/v1/events", get(events))
        .route("/v1/events/watch", get(watch))
        .route("/v1/reconcile", post(reconcile))
        .route("/v1/apply", post(apply))
        .route("/v1/freeze", post(freeze))
        .route("/v1/thaw", post(thaw))
        .route(
            "/v1/freezes",
            get(|State(api): State<Api>| async move { answer(api.handle.freezes().await) }),
        )
        .route("/v1/history", get(history))
        .route(
            "/v1/observed",
            get(|State(api): State<Api>| async move { answer(api.handle.observed().await) }),
        )
        .route(
            "/v1/tombstones",
            get(|State(api): State<Api>| async move { answer(api.handle.tombstones().await) }),
        )
        .route(
            "/v1/rollouts",
            get(|State(api): State<Api>| async move { answer(api.handle.rollouts().await) }),
        )
        .route("/v1/rollout", post(roll))
        .route(
            "/v1/doctor",
            get(|State(api): State<Api>| async move { answer(api.handle.doctor().await) }),
        )
        .fallback(|| async {
            failure(
                StatusCode::NOT_FOUND,
                "there is no such question; see docs/manual.md",
            )
        })
        .with_state(api)
}

#[derive(Clone)]
struct Api {
    handle: AgentHandle,
    watches: Arc<Semaphore>,
}

#[derive(Deserialize)]
struct PlanQuery {
    #[serde(default)]
    refresh: bool,
}

#[derive(Deserialize)]
struct EventsQuery {
    #[serde(default)]
    since: u64,
    limit: Option<u32>,
}

#[derive(Deserialize)]
struct ReconcileQuery {
    sliver: Option<String>,
    slice: Option<String>,
}

#[derive(Deserialize)]
struct HistoryQuery {
    sliver: Option<String>,
    limit: Option<u32>,
}

/// Everything in figures, as OpenMetrics text.
async fn metrics(State(api): State<Api>) -> Response {
    match api.handle.figures().await {
        Ok(figures) => {
            let kind = HeaderValue::from_static(openmetrics::CONTENT_TYPE);
            ([(header::CONTENT_TYPE, kind)], figures.text()).into_response()
        }
        Err(error) => answer::<()>(Err(error)),
    }
}

async fn plan(State(api): State<Api>, Query(query): Query<PlanQuery>) -> Response {
    if query.refresh
        && let Err(error) = refresh(&api.handle).await
    {
        return answer::<()>(Err(error));
    }
    answer(api.handle.plan().await)
}

/// Has the repository read, and waits until it was. Who wants the newest is not given something older instead.
async fn refresh(handle: &AgentHandle) -> Result<(), HandleError> {
    let read = tokio::time::timeout(REFRESH_MAX, handle.refetch()).await;
    read.unwrap_or_else(|_| {
        Err(HandleError::Source {
            why: format!("it did not answer within {} s", REFRESH_MAX.as_secs()),
        })
    })
}

async fn sliver(State(api): State<Api>, UrlPath(path): UrlPath<(String, String)>) -> Response {
    match sliver_id(&path) {
        Ok(sliver) => answer(api.handle.describe(sliver).await),
        Err(response) => *response,
    }
}

async fn why(State(api): State<Api>, UrlPath(path): UrlPath<(String, String)>) -> Response {
    match sliver_id(&path) {
        Ok(sliver) => answer(api.handle.why(sliver).await),
        Err(response) => *response,
    }
}

/// All of the node without a query; one sliver or slice with it.
async fn reconcile(State(api): State<Api>, Query(query): Query<ReconcileQuery>) -> Response {
    let what = match (query.sliver, query.slice) {
        (Some(sliver), None) => ScopeView::Sliver(sliver),
        (None, Some(slice)) => ScopeView::Slice(slice),
        (None, None) => ScopeView::Node,
        (Some(_), Some(_)) => {
            return failure(StatusCode::BAD_REQUEST, "either a sliver or a slice, not both");
        }
    };
    answer(api.handle.reconcile(what).await)
}

async fn checkpoints(State(api): State<Api>, UrlPath(path): UrlPath<(String, String)>) -> Response {
    match sliver_id(&path) {
        Ok(sliver) => answer(api.handle.checkpoints(sliver).await),
        Err(response) => *response,
    }
}

async fn restore(State(api): State<Api>, UrlPath(path): UrlPath<(String, String)>, body: Bytes) -> Response {
    let asked = sliver_id(&path).and_then(|sliver| Ok((sliver, read::<RestoreRequest>(&body)?)));
    match asked {
        Ok((sliver, request)) => answer(api.handle.restore(sliver, request.checkpoint).await),
        Err(response) => *response,
    }
}

async fn apply(State(api): State<Api>, body: Bytes) -> Response {
    match read(&body) {
        Ok(plan) => answer(api.handle.apply(plan).await),
        Err(response) => *response,
    }
}

async fn freeze(State(api): State<Api>, body: Bytes) -> Response {
    match read(&body) {
        Ok(freeze) => answer(api.handle.freeze(freeze).await),
        Err(response) => *response,
    }
}

async fn roll(State(api): State<Api>, body: Bytes) -> Response {
    match read(&body) {
        Ok(request) => match api.handle.roll(request).await {
            Ok(()) => answer(api.handle.rollouts().await),
            Err(error) => answer::<RolloutsView>(Err(error)),
        },
        Err(response) => *response,
    }
}

async fn thaw(State(api): State<Api>, body: Bytes) -> Response {
    match read::<ThawRequest>(&body) {
        Ok(thaw) => answer(api.handle.thaw(thaw.scope).await),
        Err(response) => *response,
    }
}

async fn history(State(api): State<Api>, Query(query): Query<HistoryQuery>) -> Response {
    let of = match query.sliver.map(|sliver| SliverId::parse(&sliver)).transpose() {
        Ok(of) => of,
        Err(error) => return failure(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    answer(api.handle.history(of, query.limit.unwrap_or(100)).await)
}

/// The body of a question; axum bounds it (2 MiB).
fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Box<Response>> {
    serde_json::from_slice(body).map_err(|error| {
        Box::new(failure(
            StatusCode::BAD_REQUEST,
            &format!("the question: {error}"),
        ))
    })
}

async fn events(State(api): State<Api>, Query(query): Query<EventsQuery>) -> Response {
    answer(
        api.handle
            .events(query.since, query.limit.unwrap_or(EVENTS_PER_ANSWER_MAX))
            .await,
    )
}

/// Events as they happen, as server-sent events whose data is [`EventView`]; those after `since` first.
async fn watch(State(api): State<Api>, Query(query): Query<EventsQuery>) -> Response {
    let Ok(permit) = Arc::clone(&api.watches).try_acquire_owned() else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "too many are watching already");
    };
    let live = match api.handle.watch() {
        Ok(live) => live,
        Err(error) => return answer::<()>(Err(error)),
    };
    let (lines, queue) = mpsc::channel(WATCH_QUEUE_LEN);
    tokio::spawn(feed(api.handle, live, query, lines, permit));
    let kind = HeaderValue::from_static("text/event-stream");
    ([(header::CONTENT_TYPE, kind)], Body::new(Lines(queue))).into_response()
}

/// Feeds one watcher until it goes or the agent ends. What it was too slow for is read again by number.
async fn feed(
    handle: AgentHandle,
    mut live: tokio::sync::broadcast::Receiver<EventView>,
    query: EventsQuery,
    lines: mpsc::Sender<Bytes>,
    _permit: OwnedSemaphorePermit,
) {
    let mut seen = query.since;
    let mut behind = true;
    loop {
        if behind {
            let Ok(past) = handle
                .events(seen, query.limit.unwrap_or(EVENTS_PER_ANSWER_MAX))
                .await
            else {
                return;
            };
            for event in past.events {
                seen = seen.max(event.seq);
                if lines.send(as_line(&event)).await.is_err() {
                    return;
                }
            }
        }
        behind = false;
        match tokio::time::timeout(KEEP_ALIVE, live.recv()).await {
            Ok(Ok(event)) if event.seq <= seen => {}
            Ok(Ok(event)) => {
                seen = event.seq;
                if lines.send(as_line(&event)).await.is_err() {
                    return;
                }
            }
            Ok(Err(RecvError::Lagged(_))) => behind = true,
            Ok(Err(RecvError::Closed)) => return,
            Err(_) => {
                if lines.send(Bytes::from_static(b":\n\n")).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// One event in the form of the HTML standard, "Server-sent events". JSON has no line breaks of its own.
fn as_line(event: &EventView) -> Bytes {
    let data = serde_json::to_string(event).unwrap_or_default();
    Bytes::from(format!("id: {}\ndata: {data}\n\n", event.seq))
}

struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

fn sliver_id((slice, number): &(String, String)) -> Result<SliverId, Box<Response>> {
    SliverId::parse(&format!("{slice}/{number}"))
        .map_err(|error| Box::new(failure(StatusCode::BAD_REQUEST, &error.to_string())))
}

fn answer<T: serde::Serialize>(result: Result<T, HandleError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let status = match &error {
                HandleError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
                HandleError::NoSuchSliver { .. }
                | HandleError::NoSuchCheckpoint { .. }
                | HandleError::NotFrozen { .. } => StatusCode::NOT_FOUND,
                HandleError::NoDesired { .. }
                | HandleError::Frozen { .. }
                | HandleError::InUse { .. }
                | HandleError::Stale { .. } => StatusCode::CONFLICT,
                HandleError::Invalid { .. } => StatusCode::BAD_REQUEST,
                HandleError::Source { .. } => StatusCode::BAD_GATEWAY,
                HandleError::Plan { .. } | HandleError::State { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            };
            failure(status, &error.to_string())
        }
    }
}

fn failure(status: StatusCode, error: &str) -> Response {
    let body = Failure {
        format_version: FORMAT_VERSION,
        error: error.to_owned(),
    };
    (status, Json(body)).into_response()
}

#[cfg(test)]
mod tests;
