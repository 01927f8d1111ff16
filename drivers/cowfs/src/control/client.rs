//! The other end of the control socket.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::api::{
    CheckpointName, Checkpoints, ExportSpec, Journey, LeaseSpec, Listing, LookAt, LookedAt, Marks, Outcome,
    Problem, ReceiveSpec, SendSpec, StackSpec, Stats, Status, WritableSpec,
};
use super::journey;

/// Bytes of an answer.
const ANSWER_MAX: usize = 16 << 20;

/// Why a request gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("reaching the file server at {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or carried no HTTP.
    #[error("talking to the file server")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not what it should be.
    #[error("reading the file server's answer")]
    Answer(#[source] serde_json::Error),
    /// The server refused.
    #[error("the file server refuses: {}", problem.error)]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it says.
        problem: Problem,
    },
}

impl ClientError {
    /// Whether the same request can succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Http(_) => true,
            Self::Answer(_) => false,
            Self::Refused { problem, .. } => problem.retryable,
        }
    }
}

/// A client of one server. Each request is a connection of its own, so it survives restarts of the server.
///
/// It waits for an answer as long as it is asked to: how long a log may take to replay, or a directory to walk, only the
/// caller knows. Dropping a request gives up waiting; the server carries out what it has begun, and asking again is safe.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the server that listens on `socket`.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The server's version, process and listeners.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask("/v1/status").await
    }

    /// Everything that is open.
    pub async fn list(&self) -> Result<Listing, ClientError> {
        self.ask("/v1/exports").await
    }

    /// What open writable layers hold, of those that nobody has changed since they were opened.
    pub async fn marks(&self) -> Result<Marks, ClientError> {
        self.ask("/v1/marks").await
    }

    /// How a writable layer looks where it lies, to the user that the server runs as.
    pub async fn look(&self, at: &LookAt) -> Result<LookedAt, ClientError> {
        let body = serde_json::to_vec(at).map_err(ClientError::Answer)?;
        let answer = self.request(Method::POST, "/v1/look", body.into()).await?;
        serde_json::from_slice(&answer).map_err(ClientError::Answer)
    }

    /// What each export was asked.
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        self.ask("/v1/stats").await
    }

    /// Opens a writable layer, making it when it is missing.
    pub async fn put_writable(&self, name: &str, spec: &WritableSpec) -> Result<(), ClientError> {
        self.change(Method::PUT, format!("/v1/writables/{name}"), Some(spec))
            .await
    }

    /// The checkpoints of a writable layer.
    pub async fn checkpoints(&self, name: &str) -> Result<Checkpoints, ClientError> {
        self.ask(&format!("/v1/checkpoints/{name}")).await
    }

    /// Makes a checkpoint of a writable layer, also while it is served; one of that name that is there stays as it is.
    pub async fn checkpoint(&self, name: &str, checkpoint: &str) -> Result<(), ClientError> {
        self.on_checkpoint(Method::PUT, name, checkpoint).await
    }

    /// Has a writable layer, which is part of no stack, go back to a checkpoint.
    pub async fn restore(&self, name: &str, checkpoint: &str) -> Result<(), ClientError> {
        self.on_checkpoint(Method::POST, name, checkpoint).await
    }

    /// Removes a checkpoint of a writable layer, if there is one of that name.
    pub async fn delete_checkpoint(&self, name: &str, checkpoint: &str) -> Result<(), ClientError> {
        self.on_checkpoint(Method::DELETE, name, checkpoint).await
    }

    async fn on_checkpoint(&self, method: Method, name: &str, checkpoint: &str) -> Result<(), ClientError> {
        let checkpoint = CheckpointName {
            checkpoint: checkpoint.to_owned(),
        };
        self.change(method, format!("/v1/checkpoints/{name}"), Some(&checkpoint))
            .await
    }

    /// Makes the log of a writable layer as short as it can be, also while it is served.
    pub async fn compact(&self, name: &str) -> Result<(), ClientError> {
        self.change::<()>(Method::POST, format!("/v1/writables/{name}/compact"), None)
            .await
    }

    /// Assembles a stack.
    pub async fn put_stack(&self, name: &str, spec: &StackSpec) -> Result<(), ClientError> {
        self.change(Method::PUT, format!("/v1/stacks/{name}"), Some(spec))
            .await
    }

    /// Exports a stack, or changes the state of its export.
    pub async fn put_export(&self, name: &str, spec: &ExportSpec) -> Result<(), ClientError> {
        self.change(Method::PUT, format!("/v1/exports/{name}"), Some(spec))
            .await
    }

    /// Stops exporting and closes the export's connections.
    pub async fn delete_export(&self, name: &str) -> Result<(), ClientError> {
        self.change::<()>(Method::DELETE, format!("/v1/exports/{name}"), None)
            .await
    }

    /// Takes a stack apart.
    pub async fn delete_stack(&self, name: &str) -> Result<(), ClientError> {
        self.change::<()>(Method::DELETE, format!("/v1/stacks/{name}"), None)
            .await
    }

    /// Closes a writable layer.
    pub async fn delete_writable(&self, name: &str) -> Result<(), ClientError> {
        self.change::<()>(Method::DELETE, format!("/v1/writables/{name}"), None)
            .await
    }

    /// Makes everything written through an export durable.
    pub async fn flush(&self, name: &str) -> Result<(), ClientError> {
        self.change::<()>(Method::POST, format!("/v1/exports/{name}/flush"), None)
            .await
    }

    /// Holds an export still: calls wait until [`Client::unpark`]. Afterwards none is under way, and all that was answered is
    /// durable. A server that is started anew serves.
    pub async fn park(&self, name: &str) -> Result<(), ClientError> {
        self.change::<()>(Method::POST, format!("/v1/exports/{name}/park"), None)
            .await
    }

    /// Lets an export that was parked answer again.
    pub async fn unpark(&self, name: &str) -> Result<(), ClientError> {
        self.change::<()>(Method::POST, format!("/v1/exports/{name}/unpark"), None)
            .await
    }

    /// Has the server's lease last until this instant. What answered under one that has lapsed answers no more.
    pub async fn renew_lease(&self, lease: LeaseSpec) -> Result<(), ClientError> {
        self.change(Method::PUT, "/v1/lease".to_owned(), Some(&lease))
            .await
    }

    /// Has a leased export answer under the server's lease, which lasts until this instant at least. To be asked by whoever knows
    /// that until then nobody else goes on with what is exported.
    pub async fn enter_lease(&self, name: &str, lease: LeaseSpec) -> Result<(), ClientError> {
        self.change(Method::PUT, format!("/v1/leases/{name}"), Some(&lease))
            .await
    }

    /// Sends what the other end of `pipe` lacks of writable layers, and waits until it has been put in its place there.
    pub async fn send_layers(&self, spec: &SendSpec, pipe: &mut UnixStream) -> Result<Journey, ClientError> {
        self.journey("/v1/journeys/send", spec, pipe).await
    }

    /// Receives writable layers that come over `pipe`, each in a directory aside. Once a last round is whole and has been put
    /// in its place, or at once after any other, the sender is to be told: write
    /// [`in_place`](crate::writable::travel::in_place) to `pipe`.
    pub async fn receive_layers(
        &self,
        spec: &ReceiveSpec,
        pipe: &mut UnixStream,
    ) -> Result<Journey, ClientError> {
        self.journey("/v1/journeys/receive", spec, pipe).await
    }

    async fn journey<T: Serialize>(
        &self,
        path: &str,
        spec: &T,
        pipe: &mut UnixStream,
    ) -> Result<Journey, ClientError> {
        let http = |error: hyper::Error| ClientError::Http(error.into());
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|source| ClientError::Unreachable {
            path: self.socket.clone(),
            source,
        })?;
        let body = serde_json::to_vec(spec).map_err(ClientError::Answer)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("host", "cowfs")
            .header("connection", "upgrade")
            .header("upgrade", journey::PROTOCOL)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ClientError::Http(error.into()))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(http)?;
        let driver = AbortOnDrop(tokio::spawn(connection.with_upgrades()));
        let answer = sender.send_request(request).await.map_err(http)?;
        let status = answer.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(ClientError::Http)?.to_bytes();
            let problem = serde_json::from_slice(&body).map_err(ClientError::Answer)?;
            return Err(ClientError::Refused { status, problem });
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(http)?;
        drop(driver);
        let carried = journey::carry(TokioIo::new(upgraded), pipe).await;
        match carried.map_err(|error| ClientError::Http(error.into()))? {
            Outcome::Done(journey) => Ok(journey),
            Outcome::Failed(problem) => Err(ClientError::Refused { status, problem }),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.request(Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&answer).map_err(ClientError::Answer)
    }

    async fn change<T: Serialize>(
        &self,
        method: Method,
        path: String,
        body: Option<&T>,
    ) -> Result<(), ClientError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(ClientError::Answer)?,
            None => Vec::new(),
        };
        self.request(method, &path, body.into()).await.map(drop)
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let unreachable = |source| ClientError::Unreachable {
            path: self.socket.clone(),
            source,
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "cowfs")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Http(error.into()))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| ClientError::Http(error.into()))?;
        // Drives the connection; ends with it, or with us.
        let driver = AbortOnDrop(tokio::spawn(connection));
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| ClientError::Http(error.into()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(ClientError::Http)?.to_bytes();
        drop(driver);
        if status.is_success() {
            return Ok(body);
        }
        let problem = serde_json::from_slice(&body).map_err(ClientError::Answer)?;
        Err(ClientError::Refused { status, problem })
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
