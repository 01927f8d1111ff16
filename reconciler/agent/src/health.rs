//! Asks slivers how they are: one prober per sliver with a health check, verdicts as data.
//!
//! A verdict changes only after `threshold` equal answers in a row, and a bad one means nothing until the sliver's
//! grace is over. QEMU accepts connections on a published port before anything in the guest listens, so an open port
//! alone proves nothing: HTTP is judged by its answer, TCP by whether the connection stays.

mod judge;
mod probe;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Duration, MissedTickBehavior, interval};
use xeno_model::desired::{DesiredSliver, Health, Probe, Publish};
use xeno_model::id::{Digest, SliverId};
use xeno_model::observed::HealthVerdict;
use xeno_reconciler::ports::{PortError, PortResult};

use crate::clock::Clock;
use judge::Judge;
use probe::Asker;

/// Verdicts by sliver; a sliver without one has not been asked.
pub(crate) type Verdicts = BTreeMap<SliverId, HealthVerdict>;

/// What a prober asks, and of which start of the sliver: another one begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Subject {
    health: Health,
    publish: Vec<Publish>,
    booted: Digest,
    console: PathBuf,
}

#[derive(Debug)]
struct Task {
    subject: Subject,
    abort: AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

/// All probers of a node. Cheap to clone; they end with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Probers {
    clock: Clock,
    tasks: Arc<Mutex<BTreeMap<SliverId, Task>>>,
    verdicts: Arc<watch::Sender<Verdicts>>,
}

impl Probers {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            tasks: Arc::default(),
            verdicts: Arc::new(watch::Sender::new(Verdicts::new())),
        }
    }

    /// The verdicts as they are.
    pub(crate) fn verdicts(&self) -> Verdicts {
        self.verdicts.borrow().clone()
    }

    /// Tells of changes of verdicts.
    pub(crate) fn watch(&self) -> watch::Receiver<Verdicts> {
        self.verdicts.subscribe()
    }

    /// Asks this sliver from now on, and begins anew if it was started as something else or is asked something else.
    pub(crate) fn ask(&self, sliver: &DesiredSliver, booted: Digest, console: PathBuf) {
        let Some(health) = sliver.health.clone() else {
            self.forget(&sliver.id);
            return;
        };
        let subject = Subject {
            health,
            publish: sliver.publish.clone(),
            booted,
            console,
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks
            .get(&sliver.id)
            .is_some_and(|task| task.subject == subject && !task.abort.is_finished())
        {
            return;
        }
        self.verdicts.send_modify(|verdicts| {
            verdicts.insert(sliver.id.clone(), HealthVerdict::Starting);
        });
        let prober = keep_asking(
            sliver.id.clone(),
            subject.clone(),
            self.clock,
            self.verdicts.clone(),
        );
        let abort = tokio::spawn(prober).abort_handle();
        tasks.insert(sliver.id.clone(), Task { subject, abort });
    }

    /// Asks this sliver no more, and forgets its verdict: it stops, or has stopped.
    pub(crate) fn forget(&self, sliver: &SliverId) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.remove(sliver);
        self.verdicts
            .send_if_modified(|verdicts| verdicts.remove(sliver).is_some());
    }

    /// Asks only the slivers for which `keep` holds.
    pub(crate) fn retain(&self, keep: impl Fn(&SliverId) -> bool) {
        let gone: Vec<_> = {
            let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.keys().filter(|sliver| !keep(sliver)).cloned().collect()
        };
        for sliver in gone {
            self.forget(&sliver);
        }
    }

    /// Waits until a sliver is healthy.
    pub(crate) async fn healthy(&self, sliver: &SliverId) {
        let mut verdicts = self.watch();
        // The sender lives as long as `self`, so this ends with the verdict only.
        let _ = verdicts
            .wait_for(|verdicts| verdicts.get(sliver) == Some(&HealthVerdict::Healthy))
            .await;
    }
}

async fn keep_asking(
    sliver: SliverId,
    subject: Subject,
    clock: Clock,
    verdicts: Arc<watch::Sender<Verdicts>>,
) {
    let grace_until_ms = clock.elapsed_ms().saturating_add(subject.health.grace.0);
    let mut judge = Judge::new(subject.health.threshold, grace_until_ms);
    let every = Duration::from_millis(subject.health.interval.0.max(100));
    let mut asker = Asker::new(&subject.health.probe, &subject.publish, &subject.console, every);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = asker.ask().await;
        let verdict = judge.hear(answer, clock.elapsed_ms());
        verdicts.send_if_modified(|verdicts| {
            let changed = verdicts.get(&sliver) != Some(&verdict);
            if changed {
                verdicts.insert(sliver.clone(), verdict);
            }
            changed
        });
    }
}

/// How long `AwaitHealthy` may wait: the grace, and as long as the threshold takes.
pub(crate) fn patience(health: &Health) -> Duration {
    let answers = health.interval.0.saturating_mul(u64::from(health.threshold));
    Duration::from_millis(health.grace.0.saturating_add(answers))
}

/// Ports by which a domain can be asked how it is while another still has those of its sliver: free ones of this moment.
/// Should somebody else take one before the domain does, its start fails and is tried again with others.
pub(crate) fn ports_to_ask(sliver: &DesiredSliver) -> PortResult<Vec<Publish>> {
    let guest = match sliver.health.as_ref().map(|health| &health.probe) {
        Some(Probe::Http { port, .. } | Probe::Tcp { port }) => *port,
        Some(Probe::Console { .. }) | None => return Ok(Vec::new()),
    };
    let failed = |error: std::io::Error| PortError::later(format!("looking for a free port: {error}"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let host = listener.local_addr().map_err(failed)?.port();
    Ok(vec![Publish { guest, host }])
}

/// Where a running sliver is asked: at the ports that its domain has, if it has all of them, else at those it is to get.
pub(crate) fn asked_at(sliver: &DesiredSliver, published: &[Publish]) -> Vec<Publish> {
    let guest = match sliver.health.as_ref().map(|health| &health.probe) {
        Some(Probe::Http { port, .. } | Probe::Tcp { port }) => *port,
        Some(Probe::Console { .. }) | None => return sliver.publish.clone(),
    };
    let wanted = published.iter().any(|publish| sliver.publish.contains(publish));
    let reached = published.iter().any(|publish| publish.guest == guest);
    if reached && !wanted {
        published.to_vec()
    } else {
        sliver.publish.clone()
    }
}

/// The URL at which a published port answers.
pub(crate) fn url(publish: &Publish, health: Option<&Health>) -> String {
    match health.map(|health| &health.probe) {
        Some(Probe::Http { port, path, .. }) if *port == publish.guest => {
            format!("http://127.0.0.1:{}{path}", publish.host)
        }
        Some(Probe::Http { .. } | Probe::Tcp { .. } | Probe::Console { .. }) | None => match publish.guest {
            80 | 8080 => format!("http://127.0.0.1:{}/", publish.host),
            _ => format!("tcp://127.0.0.1:{}", publish.host),
        },
    }
}
