//! Calls that are carried out away from the task that reads them.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, mpsc, watch};

use super::flight::{self, Units};
use super::outgoing::{self, Outgoing};
use super::{Server, answer};
use crate::export::{Admission, Export, State};
use crate::layer::Lent;
use crate::lease::Pass;
use crate::nfs::ops::Procedure;
use crate::nfs::replay;
use crate::nfs::rpc::{self, Call, Unaccepted};
use crate::service::Status;

/// A call that waits for its turn.
pub(super) struct Pending {
    pub(super) server: Arc<Server>,
    pub(super) replies: mpsc::Sender<Outgoing>,
    /// Closes the connection.
    pub(super) closer: Arc<Notify>,
    /// Closed once nothing more comes from the connection.
    pub(super) sender: watch::Receiver<()>,
    pub(super) export: Arc<Export>,
    /// What it weighs, and the right to that.
    pub(super) units: u32,
    pub(super) held: Units,
    /// Until the reply goes out, the same call is not begun again. Not a moment longer: whoever has the reply may use the number
    /// for another call, and that one must not be taken for this.
    pub(super) once: flight::Running,
    pub(super) begun: Instant,
}

impl Pending {
    /// Carries it out and sends the reply.
    pub(super) async fn run(self, procedure: Procedure, call: Call) {
        let key = procedure
            .must_not_run_twice()
            .then(|| replay::call_key(&self.export.id().0, &call));
        // A retransmission waits for the first run, without holding anything that one might need.
        let alone = match key {
            Some(key) => Some(self.export.recent().enter(key).await),
            None => None,
        };
        let running = match self.export.admit(self.units, self.sender).await {
            Admission::Run(running) => running,
            Admission::Closed => return self.closer.notify_one(),
            Admission::Abandoned => return,
            Admission::Later => {
                drop(self.once);
                let reply = answer::refusal(&call, procedure, Status::Jukebox);
                return outgoing::send(&self.replies, reply, Pass::default(), self.held).await;
            }
        };
        let pass = self.export.pass();
        let (id, weight) = (self.export.id(), self.export.weight());
        let turn = self.server.share.turn(id, weight, self.units).await;
        let place = self.server.pool.place().await;
        let reply = Reply {
            xid: call.xid,
            replies: self.replies,
            pass,
            held: Some(self.held),
            once: Some(self.once),
        };
        let (export, begun) = (self.export, self.begun);
        self.server.pool.run(place, move || {
            let _running = running;
            let (bytes, lent) = answer::answer(&export, procedure, &call, key);
            let (took, len) = (
                begun.elapsed(),
                bytes.len() + lent.as_ref().map_or(0, |lent| lent.bytes.len()),
            );
            export
                .metrics()
                .note(procedure, answer::outcome(procedure, &call, &bytes, len, took));
            reply.send(bytes, lent);
            drop((alone, turn));
            // Whoever changes the export's state waits for that too, so it ends early then; the client does not.
            export.service().tend(&|| export.state() == State::Active);
        });
    }
}

/// The reply that a call on the pool owes; dropped without one, the call has panicked.
struct Reply {
    xid: u32,
    replies: mpsc::Sender<Outgoing>,
    pass: Pass,
    held: Option<Units>,
    once: Option<flight::Running>,
}

impl Reply {
    fn send(mut self, bytes: Vec<u8>, lent: Option<Lent>) {
        self.put(bytes, lent);
    }

    fn put(&mut self, bytes: Vec<u8>, lent: Option<Lent>) {
        if let Some(units) = self.held.take() {
            drop(self.once.take());
            // Never full: every reply in it holds a unit. A connection that is gone wants no reply.
            let pass = self.pass.clone();
            let _sent = self.replies.try_send(Outgoing::lending(bytes, lent, pass, units));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.held.is_some() {
            self.put(rpc::unaccepted(self.xid, Unaccepted::SystemError), None);
        }
    }
}
