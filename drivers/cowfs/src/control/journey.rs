//! Streams over the control socket: a connection that becomes one.
//!
//! The client sends its request with `Upgrade: cowfs-journey`. From then on it sends bytes as they come from the other
//! node, and gets chunks for it, each with its length (four bytes, little-endian) in front; a length of zero ends them, and
//! what follows up to the end of the connection is an [`Outcome`]. So no descriptors are passed, and whoever may use the control
//! socket may use this; it costs one more copy in the client.

use std::io::{self, Read, Write};
use std::time::Duration;

use axum::extract::Request;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::api::{Journey, Outcome, Problem};
use crate::assembly::JourneyError;

/// What the connection becomes.
pub(super) const PROTOCOL: &str = "cowfs-journey";
/// Bytes of a request.
const REQUEST_MAX: usize = 256 << 10;
/// Bytes of an outcome.
const OUTCOME_MAX: u64 = 64 << 10;
/// Bytes of a chunk.
const CHUNK_MAX: usize = 4 << 20;
/// Bytes read at a time.
const BUFFER: usize = 256 << 10;

/// How long the client may take to hang up, once it was told how it ended.
const REST_MAX: Duration = Duration::from_secs(10);
/// What it may still send meanwhile.
const REST_LEN_MAX: usize = 64 << 20;

/// The server's end, for somebody who blocks.
struct Stream<Io> {
    runtime: Handle,
    io: Io,
    buffer: Vec<u8>,
    at: usize,
    /// Whether nothing comes any more, beyond what is in the buffer.
    ended: bool,
}

impl<Io: AsyncRead + Unpin> Stream<Io> {
    fn new(io: Io) -> Self {
        Self {
            runtime: Handle::current(),
            io,
            buffer: Vec::new(),
            at: 0,
            ended: false,
        }
    }

    /// Takes what has come, to know whether that was all: a layer may be large, and who has hung up reads none of it.
    fn look_for_end(&mut self) {
        self.buffer.drain(..self.at);
        self.at = 0;
        while !self.ended && self.buffer.len() < BUFFER {
            let held = self.buffer.len();
            self.buffer.resize(BUFFER, 0);
            let (io, room) = (&mut self.io, &mut self.buffer[held..]);
            let got = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    got = io.read(room) => Some(got),
                    () = std::future::ready(()) => None,
                }
            });
            let more = match got {
                Some(Ok(more @ 1..)) => more,
                Some(Ok(0) | Err(_)) => {
                    self.ended = true;
                    0
                }
                None => 0,
            };
            self.buffer.truncate(held + more);
            if more == 0 {
                return;
            }
        }
    }
}

impl<Io: AsyncRead + Unpin> Read for Stream<Io> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() && !self.ended {
            self.buffer.resize(BUFFER, 0);
            self.at = 0;
            let got = self.runtime.block_on(self.io.read(&mut self.buffer));
            self.buffer.truncate(*got.as_ref().unwrap_or(&0));
            got?;
        }
        let rest = self.buffer.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Write for Stream<Io> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.look_for_end();
        if self.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let chunk = &bytes[..bytes.len().min(CHUNK_MAX)];
        let Some(len) = u32::try_from(chunk.len()).ok().filter(|&len| len > 0) else {
            return Ok(0);
        };
        self.runtime.block_on(async {
            self.io.write_all(&len.to_le_bytes()).await?;
            self.io.write_all(chunk).await
        })?;
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.runtime.block_on(self.io.flush())
    }
}

/// Answers a request by making its connection a stream, on which `work` is done.
pub(super) async fn serve<T: DeserializeOwned + Send + 'static>(
    mut request: Request,
    problem: fn(StatusCode, String, bool) -> Response,
    work: impl FnOnce(T, &mut dyn ReadWrite) -> Result<Journey, JourneyError> + Send + 'static,
) -> Response {
    let wanted = request.headers().get(UPGRADE).map(HeaderValue::as_bytes);
    if wanted != Some(PROTOCOL.as_bytes()) {
        let what = format!("this is a stream: ask with `Upgrade: {PROTOCOL}`");
        return problem(StatusCode::UPGRADE_REQUIRED, what, false);
    }
    let upgrading = hyper::upgrade::on(&mut request);
    let spec = match axum::body::to_bytes(request.into_body(), REQUEST_MAX).await {
        Ok(body) => serde_json::from_slice::<T>(&body).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let spec = match spec {
        Ok(spec) => spec,
        Err(what) => return problem(StatusCode::BAD_REQUEST, what, false),
    };
    tokio::spawn(async move {
        match upgrading.await {
            Ok(upgraded) => run(TokioIo::new(upgraded), spec, work).await,
            Err(error) => tracing::debug!(%error, "a journey did not begin"),
        }
    });
    let switching = [(CONNECTION, "upgrade"), (UPGRADE, PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, switching).into_response()
}

/// Both ways.
pub(super) trait ReadWrite: Read + Write {}

impl<S: Read + Write> ReadWrite for S {}

async fn run<T: Send + 'static, Io: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: Io,
    spec: T,
    work: impl FnOnce(T, &mut dyn ReadWrite) -> Result<Journey, JourneyError> + Send + 'static,
) {
    let mut stream = Stream::new(io);
    let done = tokio::task::spawn_blocking(move || {
        let outcome = work(spec, &mut stream);
        (outcome, stream.io)
    });
    // One that has panicked has dropped the connection, which says enough.
    let Ok((outcome, mut io)) = done.await else { return };
    let outcome = match outcome {
        Ok(journey) => Outcome::Done(journey),
        Err(error) => {
            tracing::info!(error = &error as &dyn std::error::Error, "a journey broke off");
            Outcome::Failed(Problem {
                error: super::routes::with_causes(&error),
                retryable: error.is_retryable(),
            })
        }
    };
    let mut bytes = vec![0; 4];
    bytes.extend(serde_json::to_vec(&outcome).unwrap_or_default());
    let told: io::Result<()> = async {
        io.write_all(&bytes).await?;
        io.shutdown().await
    }
    .await;
    if let Err(error) = told {
        tracing::debug!(%error, "nobody waits for the end of a journey");
    }
    // What is closed with bytes unread ends in an error for whoever reads the outcome (unix(7)).
    let _ = timeout(REST_MAX, discard(&mut io)).await;
}

/// Takes what nobody wants any more, until it ends or is too much.
async fn discard(io: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = vec![0; BUFFER];
    let mut left = REST_LEN_MAX;
    while let Ok(got @ 1..) = io.read(&mut buffer).await {
        let Some(rest) = left.checked_sub(got) else { return };
        left = rest;
    }
}

/// The client's end: carries bytes between the server and `pipe` until the server says how it ended.
pub(super) async fn carry(server: impl AsyncRead + AsyncWrite, pipe: &mut UnixStream) -> io::Result<Outcome> {
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let (mut from_pipe, mut to_pipe) = pipe.split();
    let inward = async {
        // Once the other node is gone the server notices, and says how it ended all the same.
        let mut gone = false;
        let mut chunk = Vec::new();
        loop {
            let len = usize::try_from(from_server.read_u32_le().await?).unwrap_or(usize::MAX);
            if len == 0 {
                break;
            }
            if len > CHUNK_MAX {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            chunk.resize(len, 0);
            from_server.read_exact(&mut chunk).await?;
            gone = gone || to_pipe.write_all(&chunk).await.is_err();
        }
        let mut outcome = Vec::new();
        from_server.take(OUTCOME_MAX).read_to_end(&mut outcome).await?;
        serde_json::from_slice(&outcome).map_err(io::Error::from)
    };
    let outward = async {
        let copied = tokio::io::copy(&mut from_pipe, &mut to_server).await;
        let ended = to_server.shutdown().await;
        if let Err(error) = copied.and(ended) {
            tracing::debug!(%error, "carrying a journey");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = inward => outcome,
        () = outward => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writable::travel::{Refusal, TravelError};

    #[tokio::test]
    async fn how_it_ended_is_heard_although_more_was_sent_than_is_read() {
        let (near, server) = UnixStream::pair().unwrap();
        let refuse = |(): (), stream: &mut dyn ReadWrite| {
            // More has come by now, and nobody reads it.
            stream.read_exact(&mut [0]).map_err(TravelError::Stream)?;
            let text = "there is no room".to_owned();
            let why = Refusal::NoRoom;
            Err(TravelError::Refuses { why, text }.into())
        };
        let serving = tokio::spawn(run(server, (), refuse));
        let (mut pipe, mut other) = UnixStream::pair().unwrap();
        let sending = tokio::spawn(async move {
            let much = vec![7; 1 << 20];
            while other.write_all(&much).await.is_ok() {}
        });
        let outcome = carry(near, &mut pipe).await.unwrap();
        drop(pipe);
        let Outcome::Failed(problem) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(problem.error.contains("there is no room"), "{}", problem.error);
        sending.await.unwrap();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn who_has_hung_up_is_sent_no_more_and_still_heard() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(near);
        far.write_all(b"because").await.unwrap();
        let sending = tokio::task::spawn_blocking(move || {
            stream.write_all(b"what is listened to").unwrap();
            stream
        });
        let mut stream = sending.await.unwrap();
        far.shutdown().await.unwrap();
        let heard = tokio::task::spawn_blocking(move || {
            let untaken = stream.write_all(b"what is not").unwrap_err();
            assert_eq!(untaken.kind(), io::ErrorKind::BrokenPipe);
            let mut heard = String::new();
            stream.read_to_string(&mut heard).unwrap();
            heard
        });
        assert_eq!(heard.await.unwrap(), "because");
        let mut taken = String::new();
        far.read_to_string(&mut taken).await.unwrap();
        assert_eq!(taken, "\x13\0\0\0what is listened to");
    }
}
