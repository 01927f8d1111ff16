//! Asks an agent over its socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use xeno_model::id::SliverId;

use crate::api::{
    Applied, ApplyRequest, CheckpointsView, Doctor, EventView, Events, Failure, FreezeRequest, Freezes,
    History, PlanView, RestoreRequest, Restored, RolloutRequest, RolloutsView, SliverStatus, Slivers, Status,
    ThawRequest, Tombstones, WhyView,
};

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Longest line of a watch.
const LINE_BYTES_MAX: usize = 1 << 20;

/// How long an answer may take; making a plan after reading the repository takes longest.
const ANSWER_MAX: Duration = Duration::from_secs(90);

/// Why there was no answer. Messages fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("reach the agent at {}", path.display())]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The agent said no, and why.
    #[error("get an answer: {why}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// In its words.
        why: String,
    },
    /// What came back was not an answer.
    #[error("understand the agent at {}: {what}", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        what: String,
    },
    /// It took too long.
    #[error("get an answer within {} s", after.as_secs())]
    TimedOut {
        /// How long it was waited for.
        after: Duration,
    },
}

impl ClientError {
    /// What a person can do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoAgent { source, .. } => Some(match source.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "the socket belongs to the user that the agent runs as; become that user".to_owned()
                }
                _ => "start it with `xeno agent --config FILE`, or name its socket with --socket or XENO_SOCKET; \
                      `xeno plan --repo PATH` needs no agent"
                    .to_owned(),
            }),
            Self::Protocol { .. } => Some("is that socket the agent's, and is it of the same version?".to_owned()),
            Self::TimedOut { .. } => Some("its log says what it is about".to_owned()),
            Self::Refused { .. } => None,
        }
    }
}

/// Asks the agent behind one socket; each question opens a connection of its own.
#[derive(Clone, Debug)]
pub struct ApiClient {
    socket: PathBuf,
}

impl ApiClient {
    /// A client of the agent at `socket`. Nothing is opened yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// The node at a glance.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask(Method::GET, "/v1/status").await
    }

    /// What would be done now; `refresh` has the repository read first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn plan(&self, refresh: bool) -> Result<PlanView, ClientError> {
        self.ask(Method::GET, &format!("/v1/plan?refresh={refresh}"))
            .await
    }

    /// All slivers.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn slivers(&self) -> Result<Slivers, ClientError> {
        self.ask(Method::GET, "/v1/slivers").await
    }

    /// Everything about one sliver.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn describe(&self, sliver: &SliverId) -> Result<SliverStatus, ClientError> {
        self.ask(Method::GET, &format!("/v1/slivers/{sliver}")).await
    }

    /// Why a sliver is not as desired.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn why(&self, sliver: &SliverId) -> Result<WhyView, ClientError> {
        self.ask(Method::GET, &format!("/v1/slivers/{sliver}/why")).await
    }

    /// Events after number `since`, oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(&self, since: u64, limit: u32) -> Result<Events, ClientError> {
        self.ask(Method::GET, &format!("/v1/events?since={since}&limit={limit}"))
            .await
    }

    /// Has the repository read and the node looked at. Returns at once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn reconcile(&self) -> Result<(), ClientError> {
        self.ask(Method::POST, "/v1/reconcile").await
    }

    /// Has something left alone, and says all that is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn freeze(&self, freeze: &FreezeRequest) -> Result<Freezes, ClientError> {
        self.tell("/v1/freeze", freeze).await
    }

    /// Has the agent go on with something that was frozen, and says all that still is.
    ///
    /// # Errors
    /// [`ClientError`]; refused with 404 where it was not frozen.
    pub async fn thaw(&self, thaw: &ThawRequest) -> Result<Freezes, ClientError> {
        self.tell("/v1/thaw", thaw).await
    }

    /// All freezes in force.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn freezes(&self) -> Result<Freezes, ClientError> {
        self.ask(Method::GET, "/v1/freezes").await
    }

    /// How far the rollouts of the slices here are.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rollouts(&self) -> Result<RolloutsView, ClientError> {
        self.ask(Method::GET, "/v1/rollouts").await
    }

    /// Does something to the rollout of a slice, and says how far all of them are then.
    ///
    /// # Errors
    /// [`ClientError`]; refused with 409 where it cannot be done to the rollout as it is.
    pub async fn roll(&self, request: &RolloutRequest) -> Result<RolloutsView, ClientError> {
        self.tell("/v1/rollout", request).await
    }

    /// Has exactly this plan carried out.
    ///
    /// # Errors
    /// [`ClientError`]; refused with 409 where the agent makes another plan by now.
    pub async fn apply(&self, plan: &ApplyRequest) -> Result<Applied, ClientError> {
        self.tell("/v1/apply", plan).await
    }

    /// What checkpoints a sliver's writable layers have.
    ///
    /// # Errors
    /// [`ClientError`]; refused with 404 where it has no writable layers.
    pub async fn checkpoints(&self, sliver: &SliverId) -> Result<CheckpointsView, ClientError> {
        let path = format!("/v1/slivers/{sliver}/checkpoints");
        self.ask(Method::GET, &path).await
    }

    /// Has a sliver that does not run go back to a checkpoint.
    ///
    /// # Errors
    /// [`ClientError`]; refused with 409 where it runs or something is being done for it.
    pub async fn restore(
        &self,
        sliver: &SliverId,
        request: &RestoreRequest,
    ) -> Result<Restored, ClientError> {
        self.tell(&format!("/v1/slivers/{sliver}/restore"), request).await
    }

    /// What was accepted and carried through, of the node or of one sliver.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn history(&self, sliver: Option<&SliverId>, limit: u32) -> Result<History, ClientError> {
        let of = sliver.map_or_else(String::new, |sliver| format!("sliver={sliver}&"));
        self.ask(Method::GET, &format!("/v1/history?{of}limit={limit}"))
            .await
    }

    /// What removals have set aside.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tombstones(&self) -> Result<Tombstones, ClientError> {
        self.ask(Method::GET, "/v1/tombstones").await
    }

    /// All that the agent sees and has recorded: what `xeno plan --observed` makes a plan from elsewhere.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn observed(&self) -> Result<serde_json::Value, ClientError> {
        self.ask(Method::GET, "/v1/observed").await
    }

    /// What the agent knows about its own soundness.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn doctor(&self) -> Result<Doctor, ClientError> {
        self.ask(Method::GET, "/v1/doctor").await
    }

    /// Events after number `since` (at most `limit` of them), and then those that happen.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn watch(&self, since: u64, limit: u32) -> Result<EventStream, ClientError> {
        let target = format!("/v1/events/watch?since={since}&limit={limit}");
        let response = within(self.send(Method::GET, &target, Bytes::new())).await?;
        let response = self.refused(response).await?;
        Ok(EventStream {
            body: response.into_body(),
            left: Vec::new(),
            socket: self.socket.clone(),
        })
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, target: &str) -> Result<T, ClientError> {
        self.exchange(method, target, Bytes::new()).await
    }

    async fn tell<T: DeserializeOwned>(&self, target: &str, what: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(what).map_err(|error| self.protocol(error))?;
        self.exchange(Method::POST, target, Bytes::from(body)).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        within(async {
            let response = self.send(method, target, body).await?;
            let response = self.refused(response).await?;
            let body = self.collect(response.into_body()).await?;
            serde_json::from_slice(&body).map_err(|error| self.protocol(error))
        })
        .await
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let no_agent = |source| ClientError::NoAgent {
            path: self.socket.clone(),
            source,
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(no_agent)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.protocol(error))?;
        // Ends with the response, and has no error of its own that the response would not show.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(hyper::header::HOST, "agent");
        if !body.is_empty() {
            request = request.header(hyper::header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| self.protocol(error))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| self.protocol(error))
    }

    /// Turns a refusal into an error.
    async fn refused(&self, response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.collect(response.into_body()).await?;
        let why = serde_json::from_slice::<Failure>(&body)
            .map_or_else(|_| status.to_string(), |failure| failure.error);
        Err(ClientError::Refused {
            status: status.as_u16(),
            why,
        })
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|error| self.protocol(error))
    }

    fn protocol(&self, error: impl std::fmt::Display) -> ClientError {
        ClientError::Protocol {
            path: self.socket.clone(),
            what: error.to_string(),
        }
    }
}

/// Events as they happen.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    left: Vec<u8>,
    socket: PathBuf,
}

impl EventStream {
    /// The next event; `None` once the agent has ended.
    ///
    /// # Errors
    /// [`ClientError::Protocol`].
    pub async fn next(&mut self) -> Result<Option<EventView>, ClientError> {
        let protocol = |what: String| ClientError::Protocol {
            path: self.socket.clone(),
            what,
        };
        loop {
            while let Some(end) = self.left.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.left.drain(..=end).collect();
                if let Some(data) = line.strip_prefix(b"data:") {
                    return serde_json::from_slice(data)
                        .map(Some)
                        .map_err(|error| protocol(error.to_string()));
                }
            }
            match self.body.frame().await {
                None => return Ok(None),
                // An agent that is killed does not say goodbye.
                Some(Err(error)) if error.is_incomplete_message() => return Ok(None),
                Some(Err(error)) => return Err(protocol(error.to_string())),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.left.extend_from_slice(data);
                    }
                    if self.left.len() > LINE_BYTES_MAX {
                        return Err(protocol("a line without an end".to_owned()));
                    }
                }
            }
        }
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    tokio::time::timeout(ANSWER_MAX, answer)
        .await
        .unwrap_or(Err(ClientError::TimedOut { after: ANSWER_MAX }))
}
