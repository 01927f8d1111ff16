//! Requests to steps of the [`Assembly`], and back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use tokio::sync::Semaphore;

use super::api::{
    CheckpointName, Checkpoints, ExportSpec, LeaseSpec, Listing, LookAt, LookedAt, Marks, Problem,
    ReceiveSpec, SendSpec, StackSpec, Stats, Status, WritableSpec,
};
use super::exposition;
use super::journey::{self, ReadWrite};
use crate::assembly::{Assembly, AssemblyError, AssemblyResult};
use crate::service::StackOpener;
use crate::writable::mark::{self, Mark};
use crate::writable::saved;

/// Layers that are looked at at the same time; what lies on a server that is away holds its place until that answers.
static LOOKING: Semaphore = Semaphore::const_new(32);

struct Shared<O: StackOpener> {
    assembly: Arc<Assembly<O>>,
    listeners: Vec<String>,
    lender: Option<PathBuf>,
    started: std::time::Instant,
}

type App<O> = State<Arc<Shared<O>>>;

pub(super) fn router<O: StackOpener>(
    assembly: Arc<Assembly<O>>,
    listeners: Vec<String>,
    lender: Option<PathBuf>,
) -> Router {
    // Names hold slashes, so each takes the rest of the path.
    Router::new()
        .route("/v1/status", get(status::<O>))
        .route("/v1/exports", get(list::<O>))
        .route("/v1/marks", get(marks::<O>))
        .route("/v1/look", post(look))
        .route("/v1/stats", get(stats::<O>))
        .route("/metrics", get(metrics::<O>))
        .route(
            "/v1/writables/{*name}",
            put(put_writable::<O>)
                .delete(delete_writable::<O>)
                .post(compact::<O>),
        )
        .route(
            "/v1/checkpoints/{*name}",
            get(checkpoints::<O>)
                .put(checkpoint::<O>)
                .post(restore::<O>)
                .delete(delete_checkpoint::<O>),
        )
        .route(
            "/v1/stacks/{*name}",
            put(put_stack::<O>).delete(delete_stack::<O>),
        )
        .route(
            "/v1/exports/{*name}",
            put(put_export::<O>)
                .delete(delete_export::<O>)
                .post(on_export::<O>),
        )
        .route("/v1/lease", put(renew_lease::<O>))
        .route("/v1/leases/{*name}", put(enter_lease::<O>))
        .route("/v1/journeys/send", post(send::<O>))
        .route("/v1/journeys/receive", post(receive::<O>))
        .fallback(nothing_here)
        .with_state(Arc::new(Shared {
            assembly,
            listeners,
            lender,
            started: std::time::Instant::now(),
        }))
}

async fn nothing_here() -> Response {
    problem(
        StatusCode::NOT_FOUND,
        "there is nothing at this path".to_owned(),
        false,
    )
}

async fn status<O: StackOpener>(State(app): App<O>) -> Json<Status> {
    Json(Status {
        format_version: 1,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        listeners: app.listeners.clone(),
        exports: app.assembly.server().exports().all().len(),
        user: rustix::process::geteuid().as_raw(),
        sandbox: crate::confine::sandbox().to_string(),
        lease_nanos: app
            .assembly
            .server()
            .lease()
            .left()
            .map(|left| u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)),
        lender: app.lender.as_deref().map(crate::lend::answers),
    })
}

async fn list<O: StackOpener>(State(app): App<O>) -> Json<Listing> {
    Json(app.assembly.list())
}

async fn marks<O: StackOpener>(State(app): App<O>) -> Json<Marks> {
    let taking = tokio::task::spawn_blocking(move || app.assembly.marks());
    // Nothing is cancelled here; where taking them has panicked, nothing is known to be unchanged.
    let marks = taking.await.unwrap_or_default().into_iter();
    Json(Marks {
        format_version: 1,
        writables: marks.map(|(name, mark)| (name, mark.to_string())).collect(),
    })
}

async fn look(body: Result<Json<LookAt>, JsonRejection>) -> Response {
    let at = match body {
        Ok(Json(at)) if at.path.is_absolute() => at,
        Ok(Json(at)) => {
            let why = format!("{} is not an absolute path", at.path.display());
            return problem(StatusCode::BAD_REQUEST, why, false);
        }
        Err(why) => return rejected(&why),
    };
    // Where it lies may not answer: whoever waits for this gives up, and the thread ends when that does.
    let Ok(place) = LOOKING.try_acquire() else {
        let why = "as many layers as can be are being looked at, and none of them answers".to_owned();
        return problem(StatusCode::SERVICE_UNAVAILABLE, why, true);
    };
    let looked = tokio::task::spawn_blocking(move || {
        let looked = look_at(&at);
        drop(place);
        looked
    });
    match looked.await {
        Ok(Ok(looked)) => Json(looked).into_response(),
        Ok(Err(why)) => problem(StatusCode::INTERNAL_SERVER_ERROR, why, true),
        Err(panicked) => problem(StatusCode::INTERNAL_SERVER_ERROR, panicked.to_string(), false),
    }
}

/// Blocks.
fn look_at(at: &LookAt) -> Result<LookedAt, String> {
    let checkpoints = saved::glance(&at.path).map_err(|error| format!("{}: {error}", at.path.display()))?;
    let made = |made: SystemTime| {
        let since = made.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    };
    let mut looked = LookedAt {
        format_version: 1,
        checkpoints: checkpoints
            .into_iter()
            .map(|(name, at)| (name, made(at)))
            .collect(),
        ..LookedAt::default()
    };
    if !at.mark {
        return Ok(looked);
    }
    // Without these a layer is merely not known to be as it was.
    let fingerprint = mark::fingerprint(&at.path)
        .ok()
        .map(|print| Mark(print).to_string());
    if fingerprint.is_some() && fingerprint != at.fingerprint {
        let mark = Mark::of(&at.path).inspect_err(|error| {
            let path = at.path.display();
            tracing::warn!(%path, error = with_causes(error), "what a writable layer holds cannot be told");
        });
        looked.mark = mark.ok().map(|mark| mark.to_string());
    }
    looked.fingerprint = fingerprint;
    Ok(looked)
}

async fn stats<O: StackOpener>(State(app): App<O>) -> Json<Stats> {
    Json(app.stats())
}

async fn metrics<O: StackOpener>(State(app): App<O>) -> Response {
    let text = exposition::text(&app.stats());
    ([(CONTENT_TYPE, crate::openmetrics::CONTENT_TYPE)], text).into_response()
}

impl<O: StackOpener> Shared<O> {
    fn stats(&self) -> Stats {
        Stats {
            format_version: 1,
            uptime_nanos: u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            exports: self.assembly.stats(),
        }
    }
}

async fn put_writable<O: StackOpener>(
    State(app): App<O>,
    Path(name): Path<String>,
    body: Result<Json<WritableSpec>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(spec)) => step(async move { app.assembly.put_writable(&name, spec).await }).await,
        Err(why) => rejected(&why),
    }
}

async fn compact<O: StackOpener>(State(app): App<O>, Path(path): Path<String>) -> Response {
    match path.strip_suffix("/compact") {
        Some(name) => {
            let name = name.to_owned();
            step(async move { app.assembly.compact(&name).await }).await
        }
        None => nothing_here().await,
    }
}

async fn checkpoints<O: StackOpener>(State(app): App<O>, Path(name): Path<String>) -> Response {
    match app.assembly.checkpoints(&name).await {
        Ok(checkpoints) => Json(Checkpoints {
            format_version: 1,
            checkpoints,
        })
        .into_response(),
        Err(error) => refused(&error),
    }
}

async fn checkpoint<O: StackOpener>(
    State(app): App<O>,
    Path(name): Path<String>,
    body: Result<Json<CheckpointName>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(of)) => step(async move { app.assembly.checkpoint(&name, &of.checkpoint).await }).await,
        Err(why) => rejected(&why),
    }
}

async fn restore<O: StackOpener>(
    State(app): App<O>,
    Path(name): Path<String>,
    body: Result<Json<CheckpointName>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(of)) => step(async move { app.assembly.restore(&name, &of.checkpoint).await }).await,
        Err(why) => rejected(&why),
    }
}

async fn delete_checkpoint<O: StackOpener>(
    State(app): App<O>,
    Path(name): Path<String>,
    body: Result<Json<CheckpointName>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(of)) => {
            step(async move { app.assembly.delete_checkpoint(&name, &of.checkpoint).await }).await
        }
        Err(why) => rejected(&why),
    }
}

async fn put_stack<O: StackOpener>(
    State(app): App<O>,
    Path(name): Path<String>,
    body: Result<Json<StackSpec>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(spec)) => step(async move { app.assembly.put_stack(&name, spec).await }).await,
        Err(why) => rejected(&why),
    }
}

async fn put_export<O: StackOpener>(
    State(app): App<O>,
    Path(name): Path<String>,
    body: Result<Json<ExportSpec>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(spec)) => step(async move { app.assembly.put_export(&name, spec).await }).await,
        Err(why) => rejected(&why),
    }
}

async fn delete_writable<O: StackOpener>(State(app): App<O>, Path(name): Path<String>) -> Response {
    step(async move { app.assembly.delete_writable(&name).await }).await
}

async fn delete_stack<O: StackOpener>(State(app): App<O>, Path(name): Path<String>) -> Response {
    step(async move { app.assembly.delete_stack(&name).await }).await
}

async fn delete_export<O: StackOpener>(State(app): App<O>, Path(name): Path<String>) -> Response {
    step(async move { app.assembly.delete_export(&name).await }).await
}

async fn on_export<O: StackOpener>(State(app): App<O>, Path(path): Path<String>) -> Response {
    let Some((name, verb)) = path.rsplit_once('/') else {
        return nothing_here().await;
    };
    let name = name.to_owned();
    match verb {
        "flush" => step(async move { app.assembly.flush(&name).await }).await,
        "park" => step(async move { app.assembly.park(&name).await }).await,
        "unpark" => step(async move { app.assembly.unpark(&name) }).await,
        _ => nothing_here().await,
    }
}

async fn renew_lease<O: StackOpener>(
    State(app): App<O>,
    body: Result<Json<LeaseSpec>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(lease)) => step(async move { app.assembly.renew_lease(lease.until_nanos) }).await,
        Err(why) => rejected(&why),
    }
}

async fn enter_lease<O: StackOpener>(
    State(app): App<O>,
    Path(name): Path<String>,
    body: Result<Json<LeaseSpec>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(lease)) => step(async move { app.assembly.enter_lease(&name, lease.until_nanos) }).await,
        Err(why) => rejected(&why),
    }
}

async fn send<O: StackOpener>(State(app): App<O>, request: Request) -> Response {
    let work = move |spec: SendSpec, stream: &mut dyn ReadWrite| app.assembly.send_layers(&spec, stream);
    journey::serve(request, problem, work).await
}

async fn receive<O: StackOpener>(State(app): App<O>, request: Request) -> Response {
    let work =
        move |spec: ReceiveSpec, stream: &mut dyn ReadWrite| app.assembly.receive_layers(&spec, stream);
    journey::serve(request, problem, work).await
}

/// Carries out a step to its end, also when the client hangs up meanwhile: half a step helps nobody.
async fn step(work: impl Future<Output = AssemblyResult<()>> + Send + 'static) -> Response {
    match tokio::spawn(work).await {
        Ok(Ok(())) => Json(serde_json::json!({})).into_response(),
        Ok(Err(error)) => refused(&error),
        Err(panicked) => problem(StatusCode::INTERNAL_SERVER_ERROR, panicked.to_string(), false),
    }
}

fn refused(error: &AssemblyError) -> Response {
    let (status, retryable) = match error {
        AssemblyError::Invalid(_) => (StatusCode::BAD_REQUEST, false),
        AssemblyError::Conflict(_) => (StatusCode::CONFLICT, false),
        AssemblyError::Missing { .. } => (StatusCode::NOT_FOUND, false),
        AssemblyError::Busy { .. } => (StatusCode::CONFLICT, true),
        AssemblyError::Failed { retryable, .. } => (StatusCode::INTERNAL_SERVER_ERROR, *retryable),
    };
    problem(status, with_causes(error), retryable)
}

/// The error and everything that led to it, in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn rejected(why: &JsonRejection) -> Response {
    problem(why.status(), why.body_text(), false)
}

fn problem(status: StatusCode, error: String, retryable: bool) -> Response {
    (status, Json(Problem { error, retryable })).into_response()
}
