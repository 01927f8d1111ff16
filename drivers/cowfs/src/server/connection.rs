//! One connection: calls in, replies out.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

use super::flight::{ClientFlight, Flight, Units};
use super::listen::Reset;
use super::{Server, UNIT, UNITS_PER_CONNECTION};
use crate::export::{Admission, Export, ExportId, Peer, State};
use crate::metrics::Outcome;
use crate::nfs::ops::{self, Context, Procedure};
use crate::nfs::rpc::{self, Call, Incoming, NotRpc, Records, Unaccepted};
use crate::nfs::xdr::Reader;
use crate::nfs::{mount, replay};
use crate::service::Status;

/// Replies that one write takes at most.
const REPLIES_PER_WRITE: usize = 64;

/// Bytes of replies answered in place that are sent on without waiting for more.
const BATCH_FULL: usize = UNIT;

/// The longest record that is read without asking what else is in flight.
const SHORT: usize = 16 << 10;

/// What a reply takes beside the content it carries.
const REPLY_HEAD: usize = 512;

/// Bytes of the reply to a READ that is answered in place if what it reads is in memory: larger ones are worth the way to
/// the pool, where copying them holds up nothing.
const READ_IN_PLACE: usize = 64 << 10;

/// Replies on their way out, and the units they hold until they have been written.
struct Outgoing {
    bytes: Vec<u8>,
    _units: Units,
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("reading")]
    Io(#[source] io::Error),
    #[error("the client does not speak RPC")]
    NotRpc(#[source] NotRpc),
    #[error("replies cannot be sent")]
    NoWriter,
}

/// How a connection can be ended from outside.
#[derive(Default)]
pub(super) struct Ending {
    /// Closes it.
    pub(super) closer: Arc<Notify>,
    /// What is done to it then.
    pub(super) reset: Reset,
}

impl Ending {
    /// With nobody who closes it but its exports.
    pub(super) fn with_reset(reset: Reset) -> Self {
        Self {
            closer: Arc::default(),
            reset,
        }
    }
}

/// Serves one connection until the client leaves, misbehaves, or its export is sealed, and then waits for what it still
/// has running: a client that sends, leaves and comes again must not have more in flight than its connections may.
pub(super) async fn serve<R, W>(
    server: Arc<Server>,
    peer: Peer,
    client: ClientFlight,
    streams: (R, W),
    ending: Ending,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let flight = Flight::new(client);
    serve_until_left(server, peer, streams, flight.clone(), ending).await;
    flight.landed().await;
}

async fn serve_until_left<R, W>(
    server: Arc<Server>,
    peer: Peer,
    (reader, writer): (R, W),
    flight: Flight,
    Ending { closer, reset }: Ending,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    // Every reply holds at least one unit, so this never fills up and nobody waits to send.
    let (replies, queue) = mpsc::channel(UNITS_PER_CONNECTION + 1);
    let mut connection = Connection {
        server,
        peer,
        flight,
        reading: None,
        replies,
        closer: Arc::clone(&closer),
        used: BTreeSet::new(),
        batch: Vec::new(),
        batch_units: None,
        clock: Instant::now(),
    };
    if let Peer::Socket(export) = &connection.peer {
        export.on_close(&closer);
        connection.used.insert(export.id());
    }
    let mut writing = tokio::spawn(write_replies(writer, queue));
    let ended = tokio::select! {
        ended = connection.read(reader) => ended,
        () = closer.notified() => {
            reset.now();
            writing.abort();
            return;
        }
        _written = &mut writing => return,
    };
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "connection closed");
        writing.abort();
        return;
    }
    // The client will send no more but may still read: what runs is answered.
    drop(connection);
    tokio::select! {
        () = closer.notified() => {
            reset.now();
            writing.abort();
        }
        _written = &mut writing => {}
    }
}

/// Sends replies, all that are ready in one write. Ends when the last sender is gone, or the client is.
async fn write_replies<W: AsyncWrite + Unpin>(mut writer: W, mut queue: mpsc::Receiver<Outgoing>) {
    let mut ready = Vec::with_capacity(REPLIES_PER_WRITE);
    while queue.recv_many(&mut ready, REPLIES_PER_WRITE).await > 0 {
        if let Err(error) = write_all(&mut writer, &ready).await {
            tracing::debug!(%error, "writing replies");
            return;
        }
        ready.clear();
    }
    // The client may be gone; then there is nobody to tell.
    let _closed = writer.shutdown().await;
}

async fn write_all<W: AsyncWrite + Unpin>(writer: &mut W, replies: &[Outgoing]) -> io::Result<()> {
    if let [reply] = replies {
        return writer.write_all(&reply.bytes).await;
    }
    let mut slices: Vec<IoSlice<'_>> = replies.iter().map(|reply| IoSlice::new(&reply.bytes)).collect();
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        let written = writer.write_vectored(left).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

struct Connection {
    server: Arc<Server>,
    peer: Peer,
    flight: Flight,
    /// For the record that is being read, if it is a long one; the call then has them.
    reading: Option<(u32, Units)>,
    replies: mpsc::Sender<Outgoing>,
    closer: Arc<Notify>,
    /// Exports it has used: they close it when they are sealed.
    used: BTreeSet<ExportId>,
    /// Replies made in place, not sent yet, and the unit that all of them together hold.
    batch: Vec<u8>,
    batch_units: Option<Units>,
    /// When the last answer was made in place, or what is being decoded was read.
    clock: Instant,
}

impl Connection {
    async fn read<R: AsyncRead + Unpin>(&mut self, mut reader: R) -> Result<(), Ended> {
        let mut records = Records::default();
        loop {
            while let Some(record) = records.next_record().map_err(Ended::NotRpc)? {
                self.take(rpc::read_call(record).map_err(Ended::NotRpc)?).await?;
                self.reading = None;
            }
            self.flush().await?;
            // A long record costs its sender before it is read: half of one that never ends is memory too.
            let announced = records.announced();
            if announced > SHORT && self.reading.is_none() {
                let units = units_of(announced + REPLY_HEAD);
                self.reading = Some((units, self.acquire(units).await?));
            }
            if reader.read_buf(records.room()).await.map_err(Ended::Io)? == 0 {
                return Ok(());
            }
            self.clock = Instant::now();
        }
    }

    async fn take(&mut self, incoming: Incoming) -> Result<(), Ended> {
        let call = match incoming {
            Incoming::Call(call) => call,
            Incoming::Refused(reply) => return self.put(&reply).await,
        };
        let xid = call.xid;
        let refused = match (call.program, call.version) {
            (ops::PROGRAM, ops::VERSION) => match self.take_nfs(call).await? {
                Ok(()) => return Ok(()),
                Err(why) => why,
            },
            (mount::PROGRAM, mount::VERSION) => match self.take_mount(&call).await? {
                Ok(()) => return Ok(()),
                Err(why) => why,
            },
            (ops::PROGRAM, _) => Unaccepted::VersionMismatch { only: ops::VERSION },
            (mount::PROGRAM, _) => Unaccepted::VersionMismatch { only: mount::VERSION },
            _ => Unaccepted::ProgramUnavailable,
        };
        self.put(&rpc::unaccepted(xid, refused)).await
    }

    async fn take_nfs(&mut self, call: Call) -> Result<Result<(), Unaccepted>, Ended> {
        let Some(procedure) = Procedure::from_number(call.procedure) else {
            return Ok(Err(Unaccepted::ProcedureUnavailable));
        };
        if procedure == Procedure::Null {
            let reply = rpc::finish(rpc::begin_success(call.xid, 0));
            return self.put(&reply).await.map(Ok);
        }
        // The arguments of every other procedure begin with a handle, and the handle says which export is meant.
        let Ok(handle) = Reader::new(call.arguments()).opaque(ops::MAX_HANDLE) else {
            return Ok(Err(Unaccepted::GarbageArguments));
        };
        let Some((id, _inner)) = ExportId::split(handle) else {
            return self
                .put(&refusal(&call, procedure, Status::BadHandle))
                .await
                .map(Ok);
        };
        // One answer for exports that are not there and for those of others: nobody learns which it is.
        let Some(export) = self.server.exports.reachable(&self.peer, id) else {
            let status = match self.peer {
                // A guest has all its mounts on one connection, and after a restart of the server they come back one after
                // the other: a file of one that is still to come must not be given up for ever.
                Peer::Link(_) => Status::Jukebox,
                Peer::Address(_) | Peer::Socket(_) => Status::Stale,
            };
            return self.put(&refusal(&call, procedure, status)).await.map(Ok);
        };
        if self.used.insert(id) {
            export.on_close(&self.closer);
        }
        let room = ops::reply_size(procedure, call.arguments());
        if let Some(reply) = answer_in_place(&export, procedure, &call, room) {
            // One look at the clock for each call: where one ends the next begins.
            let begun = std::mem::replace(&mut self.clock, Instant::now());
            let took = self.clock.saturating_duration_since(begun);
            export
                .metrics()
                .note(procedure, outcome(procedure, &call, &reply, took));
            return self.put(&reply).await.map(Ok);
        }
        let units = units_of(call.len() + room);
        let held = match self.reading.take() {
            Some((had, held)) if had >= units => held,
            other => {
                drop(other);
                self.acquire(units).await?
            }
        };
        let outgoing = Pending {
            server: Arc::clone(&self.server),
            replies: self.replies.clone(),
            closer: Arc::clone(&self.closer),
            export,
            units,
            held,
            begun: Instant::now(),
        };
        tokio::spawn(outgoing.run(procedure, call));
        Ok(Ok(()))
    }

    async fn take_mount(&mut self, call: &Call) -> Result<Result<(), Unaccepted>, Ended> {
        let request = match mount::read_request(call, &self.peer, &self.server.exports) {
            Ok(request) => request,
            Err(why) => return Ok(Err(why)),
        };
        let mount::Request::Mount(Some(place)) = request else {
            let mut reply = rpc::begin_success(call.xid, 128);
            mount::answer(&request, &mut reply);
            return self.put(&rpc::finish(reply)).await.map(Ok);
        };
        let held = self.acquire(1).await?;
        let (replies, closer) = (self.replies.clone(), Arc::clone(&self.closer));
        let (xid, caller) = (call.xid, call.caller.clone());
        tokio::spawn(async move {
            let id = place.export.id();
            // In standby it waits for the export like any other call.
            let found = match place.export.admit(1).await {
                Admission::Run(running) => {
                    let work = tokio::task::spawn_blocking(move || {
                        let _held = running;
                        place.resolve(&caller)
                    });
                    work.await.unwrap_or(Err(mount::SERVER_FAULT))
                }
                Admission::Later => Err(mount::SERVER_FAULT),
                Admission::Closed => return closer.notify_one(),
            };
            let mut reply = rpc::begin_success(xid, 128);
            mount::answer_mount(id, found, &mut reply);
            send(&replies, rpc::finish(reply), held).await;
        });
        Ok(Ok(()))
    }

    /// Units for a call that is about to run. What is ready goes out before anything is waited for.
    async fn acquire(&mut self, units: u32) -> Result<Units, Ended> {
        if let Some(held) = self.flight.try_take(units) {
            return Ok(held);
        }
        self.flush().await?;
        self.flight.take(units).await.map_err(|_closed| Ended::NoWriter)
    }

    /// Queues a reply made in place.
    async fn put(&mut self, reply: &[u8]) -> Result<(), Ended> {
        if self.batch_units.is_none() {
            self.batch_units = Some(self.acquire(1).await?);
        }
        self.batch.extend_from_slice(reply);
        if self.batch.len() >= BATCH_FULL {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        let Some(units) = self.batch_units.take() else {
            return Ok(());
        };
        let outgoing = Outgoing {
            bytes: std::mem::take(&mut self.batch),
            _units: units,
        };
        self.replies.send(outgoing).await.map_err(|_gone| Ended::NoWriter)
    }
}

/// What a call of `bytes`, its reply included, weighs.
fn units_of(bytes: usize) -> u32 {
    let units = bytes.div_ceil(UNIT).clamp(1, UNITS_PER_CONNECTION);
    u32::try_from(units).unwrap_or(u32::MAX)
}

async fn send(replies: &mpsc::Sender<Outgoing>, bytes: Vec<u8>, units: Units) {
    let outgoing = Outgoing { bytes, _units: units };
    // A connection that is gone wants no reply.
    let _sent = replies.send(outgoing).await;
}

/// The whole reply to a call whose export cannot be asked.
fn refusal(call: &Call, procedure: Procedure, status: Status) -> Vec<u8> {
    let mut reply = rpc::begin_success(call.xid, 32);
    ops::refuse(procedure, status, &mut reply);
    rpc::finish(reply)
}

/// The whole reply to a call, from its export's service. May block.
fn answer(
    export: &Export,
    procedure: Procedure,
    call: &Call,
    key: Option<crate::service::CallKey>,
) -> Vec<u8> {
    let context = Context {
        service: &**export.service(),
        export: export.id(),
        caller: &call.caller,
        key,
        recent: export.recent(),
    };
    let room = ops::reply_size(procedure, call.arguments());
    let mut reply = rpc::begin_success(call.xid, room);
    match ops::answer(&context, procedure, call.arguments(), &mut reply) {
        Ok(()) => rpc::finish(reply),
        Err(why) => rpc::unaccepted(call.xid, why),
    }
}

/// What there is to count of a call and its whole reply.
fn outcome(procedure: Procedure, call: &Call, reply: &[u8], took: Duration) -> Outcome {
    let status = reply
        .get(rpc::SUCCESS_HEAD..)
        .and_then(|body| body.first_chunk::<4>());
    let bytes = match procedure {
        Procedure::Read => reply.len(),
        Procedure::Write => call.len(),
        _ => 0,
    };
    Outcome {
        took,
        refused: status != Some(&[0; 4]),
        bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
    }
}

/// The whole reply to a call that waits for no disk; `None` if it has to go to the pool.
fn answer_in_place(export: &Export, procedure: Procedure, call: &Call, room: usize) -> Option<Vec<u8>> {
    if export.state() != State::Active {
        return None;
    }
    if procedure.only_metadata() && export.service().answers_from_memory() {
        return Some(answer(export, procedure, call, None));
    }
    (procedure == Procedure::Read && room <= READ_IN_PLACE)
        .then(|| answer_cached(export, call, room))
        .flatten()
}

/// The whole reply to a READ of what is in memory; `None` if it has to go to the pool.
fn answer_cached(export: &Export, call: &Call, room: usize) -> Option<Vec<u8>> {
    let context = Context {
        service: &**export.service(),
        export: export.id(),
        caller: &call.caller,
        key: None,
        recent: export.recent(),
    };
    let mut reply = rpc::begin_success(call.xid, room);
    ops::answer_cached(&context, call.arguments(), &mut reply).then(|| rpc::finish(reply))
}

/// A call that is carried out away from the reading task.
struct Pending {
    server: Arc<Server>,
    replies: mpsc::Sender<Outgoing>,
    closer: Arc<Notify>,
    export: Arc<Export>,
    units: u32,
    held: Units,
    begun: Instant,
}

impl Pending {
    async fn run(self, procedure: Procedure, call: Call) {
        let key = procedure
            .must_not_run_twice()
            .then(|| replay::call_key(&self.export.id().0, &call));
        // A retransmission waits for the first run, without holding anything that one might need.
        let alone = match key {
            Some(key) => Some(self.export.recent().enter(key).await),
            None => None,
        };
        let running = match self.export.admit(self.units).await {
            Admission::Run(running) => running,
            Admission::Closed => return self.closer.notify_one(),
            Admission::Later => {
                let reply = refusal(&call, procedure, Status::Jukebox);
                return send(&self.replies, reply, self.held).await;
            }
        };
        let (id, weight) = (self.export.id(), self.export.weight());
        let turn = self.server.share.turn(id, weight, self.units).await;
        let place = self.server.pool.place().await;
        let reply = Reply {
            xid: call.xid,
            replies: self.replies,
            held: Some(self.held),
        };
        let (export, begun) = (self.export, self.begun);
        self.server.pool.run(place, move || {
            let _running = running;
            let bytes = answer(&export, procedure, &call, key);
            let took = begun.elapsed();
            export
                .metrics()
                .note(procedure, outcome(procedure, &call, &bytes, took));
            reply.send(bytes);
            drop((alone, turn));
            // Whoever closes the stack waits for that too; the client does not.
            export.service().tend();
        });
    }
}

/// The reply that a call on the pool owes; dropped without one, the call has panicked.
struct Reply {
    xid: u32,
    replies: mpsc::Sender<Outgoing>,
    held: Option<Units>,
}

impl Reply {
    fn send(mut self, bytes: Vec<u8>) {
        self.put(bytes);
    }

    fn put(&mut self, bytes: Vec<u8>) {
        if let Some(units) = self.held.take() {
            // Never full: every reply in it holds a unit. A connection that is gone wants no reply.
            let _sent = self.replies.try_send(Outgoing { bytes, _units: units });
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.held.is_some() {
            self.put(rpc::unaccepted(self.xid, Unaccepted::SystemError));
        }
    }
}
