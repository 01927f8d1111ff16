//! One connection: calls in, replies out.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{Notify, mpsc, watch};

use super::eager::Eager;
use super::flight::{ClientFlight, Flight, Units};
use super::listen::Reset;
use super::outgoing::{self, Outgoing, Outlet};
use super::pending::Pending;
use super::{Server, UNIT, UNITS_PER_CONNECTION, answer};
use crate::export::{Admission, ExportId, Peer};
use crate::lease::Pass;
use crate::nfs::mount;
use crate::nfs::ops::{self, Procedure};
use crate::nfs::rpc::{self, Call, Incoming, NotRpc, Records, Unaccepted};
use crate::nfs::xdr::{Reader, Writer};
use crate::service::Status;

/// Bytes of replies answered in place that are sent on without waiting for more.
const BATCH_FULL: usize = UNIT;

/// The longest record that is read without asking what else is in flight.
const SHORT: usize = 16 << 10;

/// What a reply takes beside the content it carries.
const REPLY_HEAD: usize = 512;

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
    streams: (R, Outlet<W>),
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
    (reader, outlet): (R, Outlet<W>),
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
        sender: watch::Sender::default(),
        used: BTreeSet::new(),
        batch: Writer::default(),
        batch_pass: Pass::default(),
        batch_units: None,
        clock: Instant::now(),
        eager: Eager::default(),
    };
    if let Peer::Socket(export) = &connection.peer {
        export.on_close(&closer);
        connection.used.insert(export.id());
    }
    let mut writing = tokio::spawn(outgoing::write(outlet, queue));
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

struct Connection {
    server: Arc<Server>,
    peer: Peer,
    flight: Flight,
    /// For the record that is being read, if it is a long one; the call then has them.
    reading: Option<(u32, Units)>,
    replies: mpsc::Sender<Outgoing>,
    closer: Arc<Notify>,
    /// Gone once nothing more can come: calls that still wait for their export then are not carried out.
    sender: watch::Sender<()>,
    /// Exports it has used: they close it when they are sealed.
    used: BTreeSet<ExportId>,
    /// Replies made in place, not sent yet, and the unit that all of them together hold.
    batch: Writer,
    batch_pass: Pass,
    batch_units: Option<Units>,
    /// When the last answer was made in place, or what is being decoded was read.
    clock: Instant,
    /// The pace of its calls.
    eager: Eager,
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
            let read = match self.look(&mut reader, &mut records).await {
                Some(read) => read,
                None => reader.read_buf(records.room()).await,
            };
            if read.map_err(Ended::Io)? == 0 {
                return Ok(());
            }
            let now = Instant::now();
            self.eager = self.eager.after(now.saturating_duration_since(self.clock));
            self.clock = now;
        }
    }

    /// Reads what comes soon, if something is likely to; `None` where there is reason to sleep until it comes.
    async fn look<R: AsyncRead + Unpin>(
        &self,
        reader: &mut R,
        records: &mut Records,
    ) -> Option<io::Result<usize>> {
        let patience = self.eager.look()?;
        let _looks = self.server.loops.looking().enter()?;
        while self.clock.elapsed() < patience {
            // Replies go out, others have their turn, and the loop asks what has come.
            tokio::task::yield_now().await;
            let mut read = pin!(reader.read_buf(records.room()));
            let read = poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await;
            if let Poll::Ready(read) = read {
                return Some(read);
            }
        }
        None
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
                .put(&answer::refusal(&call, procedure, Status::BadHandle))
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
            return self.put(&answer::refusal(&call, procedure, status)).await.map(Ok);
        };
        if self.used.insert(id) {
            export.on_close(&self.closer);
        }
        let room = ops::reply_size(procedure, call.arguments());
        if answer::may_be_in_place(&export, procedure, room)
            // What is read from memory counts, and whoever has had more than others that wait takes turns with them.
            && (procedure != Procedure::Read || self.server.share.pass(id, export.weight(), room))
        {
            self.hold_batch().await?;
            let pass = export.pass();
            let start = self.batch.position();
            if answer::in_place(&export, procedure, &call, room, &mut self.batch) {
                self.batch_pass.with(pass);
                // One look at the clock for each call: where one ends the next begins.
                let begun = std::mem::replace(&mut self.clock, Instant::now());
                let took = self.clock.saturating_duration_since(begun);
                let reply = &self.batch.buffer()[start..];
                export.metrics().note(
                    procedure,
                    answer::outcome(procedure, &call, reply, reply.len(), took),
                );
                return self.flush_if_full().await.map(Ok);
            }
            self.batch.truncate(start);
        }
        let Some(once) = self.flight.begin(&call) else {
            return Ok(Ok(()));
        };
        let units = units_of(call.len() + room);
        let held = match self.reading.take() {
            Some((had, held)) if had >= units => held,
            other => {
                drop(other);
                self.acquire(units).await?
            }
        };
        let pending = Pending {
            server: Arc::clone(&self.server),
            replies: self.replies.clone(),
            closer: Arc::clone(&self.closer),
            sender: self.sender.subscribe(),
            export,
            units,
            held,
            once,
            begun: Instant::now(),
        };
        tokio::spawn(pending.run(procedure, call));
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
        let (xid, caller, sender) = (call.xid, call.caller.clone(), self.sender.subscribe());
        tokio::spawn(async move {
            let id = place.export.id();
            let mut pass = Pass::default();
            // In standby it waits for the export like any other call.
            let found = match place.export.admit(1, sender).await {
                Admission::Run(running) => {
                    pass = place.export.pass();
                    let work = tokio::task::spawn_blocking(move || {
                        let _held = running;
                        place.resolve(&caller)
                    });
                    work.await.unwrap_or(Err(mount::SERVER_FAULT))
                }
                Admission::Later => Err(mount::SERVER_FAULT),
                Admission::Closed => return closer.notify_one(),
                Admission::Abandoned => return,
            };
            let mut reply = rpc::begin_success(xid, 128);
            mount::answer_mount(id, found, &mut reply);
            outgoing::send(&replies, rpc::finish(reply), pass, held).await;
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

    /// Sees to it that something may be added to the batch.
    async fn hold_batch(&mut self) -> Result<(), Ended> {
        if self.batch_units.is_none() {
            self.batch_units = Some(self.acquire(1).await?);
        }
        Ok(())
    }

    /// Queues a reply made in place.
    async fn put(&mut self, reply: &[u8]) -> Result<(), Ended> {
        self.hold_batch().await?;
        self.batch.array(reply);
        self.flush_if_full().await
    }

    async fn flush_if_full(&mut self) -> Result<(), Ended> {
        if self.batch.position() >= BATCH_FULL {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        let Some(units) = self.batch_units.take() else {
            return Ok(());
        };
        if self.batch.position() == 0 {
            // What they were for has gone to the pool.
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.batch).into_bytes();
        let outgoing = Outgoing::new(bytes, std::mem::take(&mut self.batch_pass), units);
        self.replies.send(outgoing).await.map_err(|_gone| Ended::NoWriter)
    }
}

/// What a call of `bytes`, its reply included, weighs.
fn units_of(bytes: usize) -> u32 {
    let units = bytes.div_ceil(UNIT).clamp(1, UNITS_PER_CONNECTION);
    u32::try_from(units).unwrap_or(u32::MAX)
}
