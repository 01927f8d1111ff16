//! Control over a unix socket: HTTP and JSON, for a node's agent and for `curl --unix-socket`.
//!
//! | request | does |
//! | --- | --- |
//! | `GET /v1/status` | version, process, listeners |
//! | `GET /v1/exports` | every writable layer, stack and export |
//! | `GET /v1/stats` | what each export was asked, how often, and how long it took |
//! | `GET /metrics` | the same as OpenMetrics text |
//! | `GET /v1/marks` | what writable layers hold that nobody has changed since they were opened |
//! | `POST /v1/look` with `{"path": "…"}` | how a writable layer looks where it lies, open or not, for whom may not read it |
//! | `PUT /v1/writables/NAME` | opens a writable layer under an epoch, making it when missing |
//! | `PUT /v1/stacks/NAME` | assembles layers and a writable layer |
//! | `PUT /v1/exports/NAME` | exports a stack, or changes the state of an export |
//! | `POST /v1/exports/NAME/flush` | makes everything written durable |
//! | `POST /v1/exports/NAME/park` | has calls wait; afterwards none runs, and all that was answered is durable |
//! | `POST /v1/exports/NAME/unpark` | has them answered again |
//! | `POST /v1/writables/NAME/compact` | makes a writable layer's log as short as it can be |
//! | `GET /v1/checkpoints/NAME` | checkpoints of a writable layer |
//! | `PUT`, `DELETE` of the same with `{"checkpoint": "…"}` | makes one, also while the layer is served; removes one |
//! | `POST` of the same with `{"checkpoint": "…"}` | has the layer, which is in no stack, go back to it |
//! | `POST /v1/journeys/send`, `POST /v1/journeys/receive` | make the connection a stream on which writable layers go to another machine |
//! | `DELETE` on each of the three | takes it down again: export, then stack, then writable layer |
//!
//! All are idempotent. An error is `{"error": "…", "retryable": true|false}`. The socket has mode 0600, and only root
//! and the server's own user are answered.

pub mod api;
pub mod client;
mod exposition;
mod journey;
mod routes;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};

use crate::assembly::Assembly;
use crate::server::{ListenError, bind_private, peer_is};
use crate::service::StackOpener;

/// A control socket; dropping it stops listening and removes the file.
#[derive(Debug)]
pub struct Control {
    task: tokio::task::JoinHandle<()>,
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        // Gone already is fine.
        let _removed = std::fs::remove_file(&self.path);
    }
}

/// Listens on the socket `path`; the directory must exist. `listeners` and `lender` are told to who asks for the status.
///
/// # Errors
/// [`ListenError`] when the file cannot be made, or another server answers on it.
pub async fn listen<O: StackOpener>(
    path: &Path,
    assembly: Arc<Assembly<O>>,
    listeners: Vec<String>,
    lender: Option<PathBuf>,
) -> Result<Control, ListenError> {
    let listener = Private(bind_private(path).await?);
    let router = routes::router(assembly, listeners, lender);
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the control socket failed");
        }
    });
    Ok(Control {
        task,
        path: path.to_owned(),
    })
}

/// Accepts only root and our own user.
struct Private(UnixListener);

impl axum::serve::Listener for Private {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            match self.0.accept().await {
                Ok((stream, _unnamed)) if peer_is(&stream, None) => return (stream, ()),
                Ok(_) => tracing::warn!("another user tried the control socket"),
                Err(error) => {
                    tracing::warn!(%error, "accepting a control connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<()> {
        Ok(())
    }
}
