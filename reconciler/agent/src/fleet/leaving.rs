//! The end of a move that a sliver leaves: one task for each, which does what it is told to when it is told to.
//!
//! Until it says [`News::Held`] or [`News::Given`], nothing has happened that the guest here does not get over by itself; what
//! follows then, the loop orders one by one. The guest stands still from `Held` on: so its calls are parked while the other end
//! still makes a domain of its memory.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{WriteHalf, split};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};
use xeno_model::id::{Digest, MigrationId, NodeName, SliverId};
use xeno_reconciler::ports::{Departure, Grace, MoveLayers, MoveMemory, PortResult};
use xeno_reconciler::render::amount;
use xeno_reconciler::tenure::BootId;

use super::pump::{counted_pipe_over, pipe_over};
use super::wire::{ANSWER_MAX, Hello, Lines, Order, Reply, What, Wire, answer, boot_id, say};
use super::{Fleet, News, Teller};
use crate::crash;
use crate::dispatch::Ports;

/// How long the other end may take to get everything that the sliver needs.
const PREPARE_MAX: Duration = Duration::from_secs(3600);

/// How long the other end may take to say that the copy is whole, once all of it was sent.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// How long the memory of a guest may take: 64 GiB at 20 MB/s.
const DEPART_MAX: Duration = Duration::from_secs(3600);

/// How long one round of the layers may take.
const LAYERS_MAX: Duration = Duration::from_secs(4 * 3600);

/// How long it may take to hear why the other end took no more: a guest may stand still meanwhile.
const LAST_WORD_MAX: Duration = Duration::from_secs(2);

/// How long a guest may take to be gone, beyond its grace.
const STOP_MAX: Duration = Duration::from_secs(30);

/// A sliver that leaves.
#[derive(Clone, Debug)]
pub(crate) struct Leave {
    pub(crate) sliver: SliverId,
    /// Its domain, which may be in the second berth.
    pub(crate) embodiment: SliverId,
    pub(crate) migration: MigrationId,
    pub(crate) to: NodeName,
    /// How its memory goes; `None`: it stays behind.
    pub(crate) departure: Option<Departure>,
    /// Whether its layers were set aside here by a removal, and go as they are.
    pub(crate) set_aside: bool,
    /// What its guest was started as, where one runs.
    pub(crate) booted: Option<Digest>,
    /// Where it is counted what goes over.
    pub(crate) traffic: Arc<Traffic>,
}

/// How many bytes have gone over so far. Of the layers, changes are counted and not what says where they belong.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    memory: Arc<AtomicU64>,
    ahead: AtomicU64,
    last: AtomicU64,
}

impl std::fmt::Display for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = |bytes: &AtomicU64| amount(bytes.load(Ordering::Relaxed));
        if self.memory.load(Ordering::Relaxed) > 0 {
            write!(f, "{} of its memory went over, and ", said(&self.memory))?;
        }
        write!(
            f,
            "{} of its layers ahead, {} at the end",
            said(&self.ahead),
            said(&self.last)
        )
    }
}

/// What the loop orders, once the guest does not run here any more.
#[derive(Debug)]
pub(crate) enum Command {
    /// Send the rest of the writable layers.
    Travel(oneshot::Sender<Result<u64, String>>),
    /// Tell the other end that it has the right.
    Go,
}

/// Takes a sliver to the other end. Returns why that ended.
pub(crate) async fn leave<H: MoveMemory, S: MoveLayers>(
    ports: Arc<Ports<H, S>>,
    fleet: Arc<Fleet>,
    leave: Leave,
    tell: Teller,
    mut commands: mpsc::Receiver<Command>,
) -> String {
    let mut session = match Session::begin(&fleet, &leave).await {
        Ok(session) => session,
        Err(why) => return why,
    };
    let departure = leave.departure.as_ref().filter(|_| session.memory);
    tell.say(News::Ready { boot: session.boot });
    let hung_up = session.replies.hung_up();
    let rested = tokio::select! {
        rested = bring_to_rest(&ports, &fleet, &leave, &mut session, departure) => rested,
        why = hung_up => Err(last_word(&mut session.replies).await.unwrap_or(why)),
    };
    let mut coming = match rested {
        Ok(coming) => coming,
        Err(why) => return why,
    };
    tell.say(match &coming {
        Some(_) => News::Held,
        None => News::Given { memory: false },
    });
    loop {
        tokio::select! {
            // What has been said counts, however late it is looked at.
            biased;
            reply = session.replies.next() => match reply {
                Ok(Reply::Whole) => {
                    if coming.take().is_some() {
                        tell.say(News::Given { memory: true });
                    }
                }
                Ok(Reply::Refused { why }) | Err(why) => return why,
                Ok(Reply::Ready { .. }) => {}
            },
            command = commands.recv() => match command {
                None => return "it was called off".to_owned(),
                Some(Command::Travel(reply)) => {
                    let sent = send_layers(&ports, &fleet, &leave, true).await;
                    let failed = sent.as_ref().err().cloned();
                    // The loop that asked may have ended.
                    let _ = reply.send(sent);
                    if let Some(why) = failed {
                        return why;
                    }
                }
                Some(Command::Go) => {
                    // The other end reads the record too: that this arrives only makes it sooner.
                    let _ = say(&mut session.write, &Order::Go).await;
                }
            },
            () = too_late(coming.as_ref()) => return format!(
                "the other agent did not say that the copy is whole within {} s",
                WHOLE_MAX.as_secs()
            ),
        }
    }
}

/// Memory of which the other end makes a domain. What of it is still on its way then is of no use any more.
struct Coming {
    carrying: JoinHandle<()>,
    until: Instant,
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

/// Returns when the other end should long have said that the copy is whole.
async fn too_late(coming: Option<&Coming>) {
    match coming {
        Some(coming) => tokio::time::sleep_until(coming.until).await,
        None => std::future::pending().await,
    }
}

struct Session {
    write: WriteHalf<Wire>,
    replies: Lines<Reply>,
    boot: BootId,
    /// Whether the other end takes its memory.
    memory: bool,
}

impl Session {
    /// Offers the sliver, and waits until the other end is ready to receive it.
    async fn begin(fleet: &Fleet, leave: &Leave) -> Result<Self, String> {
        let mut wire = fleet.connect(&leave.to).await?;
        let offer = What::Offer {
            memory: leave.departure.is_some(),
            booted: leave.booted.map(|booted| booted.to_string()),
        };
        say(
            &mut wire,
            &Hello::new(&fleet.me, &leave.sliver, leave.migration, offer),
        )
        .await?;
        let (boot, memory) = match answer(&mut wire, PREPARE_MAX).await? {
            Reply::Ready { boot, memory } => (boot_id(&boot)?, memory),
            Reply::Refused { why } => return Err(why),
            Reply::Whole => return Err("the other agent says what makes no sense here".to_owned()),
        };
        let (read, write) = split(wire);
        Ok(Self {
            write,
            replies: Lines::of(read),
            boot,
            memory,
        })
    }
}

/// Sends what can be sent while the guest runs, then its memory, until it does not run here any more. Returns its memory,
/// some of which may still be on its way.
async fn bring_to_rest<H: MoveMemory, S: MoveLayers>(
    ports: &Ports<H, S>,
    fleet: &Fleet,
    leave: &Leave,
    session: &mut Session,
    departure: Option<&Departure>,
) -> Result<Option<Coming>, String> {
    if leave.set_aside {
        let revived = ports.storage.revive(&leave.sliver);
        within(STOP_MAX, "taking its layers into use again", revived).await?;
    }
    if leave.booted.is_some() {
        send_layers(ports, fleet, leave, false).await?;
        crash::after_move("send");
    }
    let Some(departure) = departure else {
        if leave.booted.is_some() {
            ports.probers.forget(&leave.embodiment);
            let ms = crate::clock::millis(ports.shutdown_grace);
            let stopped = ports.hypervisor.shutdown(&leave.embodiment, Grace { ms });
            within(ports.shutdown_grace + STOP_MAX, "stopping it", stopped).await?;
        }
        return Ok(None);
    };
    let wire = open(fleet, leave, What::Memory).await?;
    let (pipe, carrying) = counted_pipe_over(wire, &leave.traffic.memory)?;
    ports.probers.forget(&leave.embodiment);
    let gone = ports.hypervisor.depart(&leave.embodiment, departure, pipe);
    if let Err(why) = within(DEPART_MAX, "sending its memory", gone).await {
        // Memory goes one way: why no more of it was taken is said beside it.
        return Err(last_word(&mut session.replies).await.unwrap_or(why));
    }
    crash::after_move("depart");
    Ok(Some(Coming {
        carrying,
        until: Instant::now() + WHOLE_MAX,
    }))
}

/// Why the other end takes no more, if it has said so: that it has hung up, or that a connection broke, follows from that.
async fn last_word(replies: &mut Lines<Reply>) -> Option<String> {
    let refused = async {
        loop {
            match replies.next().await {
                Ok(Reply::Refused { why }) => return Some(why),
                Ok(Reply::Ready { .. } | Reply::Whole) => {}
                Err(_) => return None,
            }
        }
    };
    tokio::time::timeout(LAST_WORD_MAX, refused).await.ok().flatten()
}

/// One round of the writable layers.
async fn send_layers<H: MoveMemory, S: MoveLayers>(
    ports: &Ports<H, S>,
    fleet: &Fleet,
    leave: &Leave,
    last: bool,
) -> Result<u64, String> {
    let wire = open(fleet, leave, What::Layers).await?;
    let (pipe, carrying) = pipe_over(wire)?;
    let sent = ports.storage.send_layers(&leave.sliver, last, pipe);
    let sent = within(LAYERS_MAX, "sending its writable layers", sent).await;
    carrying.abort();
    let round = if last {
        &leave.traffic.last
    } else {
        &leave.traffic.ahead
    };
    round.fetch_add(sent.as_ref().copied().unwrap_or_default(), Ordering::Relaxed);
    sent
}

/// What a port does, under a deadline.
async fn within<T>(
    deadline: Duration,
    what: &str,
    doing: impl Future<Output = PortResult<T>>,
) -> Result<T, String> {
    match tokio::time::timeout(deadline, doing).await {
        Ok(done) => done.map_err(|error| error.what),
        Err(_) => Err(format!("{what} did not end within {} s", deadline.as_secs())),
    }
}

/// Another connection of this move.
async fn open(fleet: &Fleet, leave: &Leave, what: What) -> Result<Wire, String> {
    let mut wire = fleet.connect(&leave.to).await?;
    let hello = Hello::new(&fleet.me, &leave.sliver, leave.migration, what);
    tokio::time::timeout(ANSWER_MAX, say(&mut wire, &hello))
        .await
        .map_err(|_| "the other agent takes nothing".to_owned())??;
    Ok(wire)
}
