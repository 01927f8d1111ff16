//! One domain of ours that is there: what it does, and how it ends.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use xeno_model::id::{DomainUuid, SliverId};
use xeno_model::observed::{DomainState, Limits, ObservedDomain};
use xeno_model::units::BitRate;
use xeno_reconciler::ports::{PortError, PortResult};

use crate::driver::XenDriver;
use crate::list::{Allowed, Listed, Stopped};
use crate::record::{Phase, Record};
use crate::spec::{credit, name_of, rate_of};
use crate::store::Connection;
use crate::xl::{Xl, XlError};

/// How long a domain may take to vanish once it is destroyed: its memory is scrubbed meanwhile.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(120);
/// How often is looked at something that xenstore did not announce.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The same where xenstore cannot be asked to announce it.
const LOOK_BLIND: Duration = Duration::from_millis(500);
/// How long a command may take that only tells the hypervisor something.
pub(crate) const SHORT: Duration = Duration::from_secs(60);

/// A domain of ours: name, UUID and record agree.
#[derive(Clone, Debug)]
pub(crate) struct Domain {
    pub(crate) record: Record,
    pub(crate) listed: Listed,
    pub(crate) allowed: Allowed,
    pub(crate) state: RunState,
    /// What netback holds its traffic down to.
    pub(crate) net_rate: Option<BitRate>,
}

/// What a domain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunState {
    /// The guest runs.
    Running,
    /// The guest stands still and can go on.
    Paused,
    /// The guest has made itself ready to be stored or moved, and whoever asked it to is gone. It can go on, with help.
    Suspended,
    /// It is not whole, and will not become it by itself.
    Unfinished,
    /// It is on its way to something else: being taken apart, or its memory is being stored.
    Leaving,
    /// It has stopped and is still there.
    Stopped,
}

/// What is known of a domain beside its listing and record.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Surroundings {
    /// Whether an xl is at work for its sliver, or moves a domain that may be its.
    pub(crate) at_work: bool,
    /// Whether its image was taken out of reach, after it had been loaded whole.
    pub(crate) consumed: bool,
}

impl RunState {
    pub(crate) fn of(listed: &Listed, phase: Phase, around: Surroundings) -> Self {
        let flags = listed.flags;
        match (flags.dying, flags.shutdown, phase) {
            (true, _, _) => Self::Leaving,
            // A guest stands suspended while its memory is read.
            (false, Some(Stopped::Suspend), Phase::Whole) if around.at_work => Self::Leaving,
            (false, Some(Stopped::Suspend), Phase::Whole) => Self::Suspended,
            (false, Some(_), Phase::Whole) => Self::Stopped,
            (false, _, Phase::Making) => Self::Unfinished,
            (false, _, Phase::Loading) if !around.consumed => Self::Unfinished,
            (false, Some(_), Phase::Loading) => Self::Stopped,
            (false, None, Phase::Whole | Phase::Loading) if flags.paused => Self::Paused,
            (false, None, Phase::Whole | Phase::Loading) => Self::Running,
        }
    }

    /// In the reconciler's words.
    pub(crate) fn observed(self) -> DomainState {
        match self {
            Self::Running => DomainState::Running,
            Self::Paused | Self::Suspended => DomainState::Paused,
            Self::Leaving => DomainState::Stopping,
            // It holds its memory and does nothing any more, however it came to that.
            Self::Unfinished | Self::Stopped => DomainState::Crashed,
        }
    }
}

impl Domain {
    /// The limits that hypervisor and netback keep.
    pub(crate) fn limits(&self) -> Limits {
        let usual = Limits::default();
        Limits {
            cpu_weight: self.allowed.weight.unwrap_or(usual.cpu_weight),
            cpu_cap_percent: self.allowed.cap.filter(|cap| *cap > 0),
            net_rate: self.net_rate,
        }
    }

    /// Memory that it was last told to keep to, in MiB.
    pub(crate) fn memory_mib(&self) -> u64 {
        let target = self.allowed.memory_target_kib.map(|kib| kib.div_ceil(1024));
        target.unwrap_or(self.record.memory_mib)
    }

    pub(crate) fn observed(&self) -> ObservedDomain {
        ObservedDomain {
            uuid: self.record.uuid,
            state: self.state.observed(),
            booted: self.record.boot,
            memory_mib: self.memory_mib(),
            memory_max_mib: self.record.memory_max_mib,
            vcpus: self.record.vcpus,
            limits: self.limits(),
            publish: self.record.publish.clone(),
        }
    }

    pub(crate) fn domid(&self) -> String {
        self.listed.domid.to_string()
    }
}

/// The node of a backend's rate.
pub(crate) fn rate_path(domid: u32) -> String {
    format!("/local/domain/0/backend/vif/{domid}/0/rate")
}

/// The rate that netback has, in the words it was given where it is that.
pub(crate) fn read_rate(node: Option<&str>, record: &Record) -> Option<BitRate> {
    let node = node?;
    let asked = record.net_rate.filter(|rate| credit(*rate) == node);
    asked.or_else(|| rate_of(node))
}

impl XenDriver {
    /// Ends a domain: asks it, where it can hear, waits, destroys it, and waits until it is gone.
    pub(crate) async fn end(&self, domain: &Domain, grace: Duration) -> PortResult<()> {
        let (sliver, uuid) = (&domain.record.sliver, domain.record.uuid);
        // Before the question, so that no answer is missed. Without it things only take longer.
        let mut watch = self.watch_ends().await;
        if domain.state == RunState::Running && !grace.is_zero() {
            let domid = domain.domid();
            let asked = self
                .xl()
                .change(&["shutdown", &domid], &self.run_dir(sliver).log(), SHORT)
                .await;
            if let Err(error) = asked {
                tracing::debug!(%sliver, error = crate::chain(&error), "a domain cannot be asked to stop");
            } else {
                let until = Instant::now() + grace;
                self.wait(&mut watch, until, &uuid, |listed| {
                    listed.is_none_or(|listed| listed.flags.dying || listed.flags.shutdown.is_some())
                })
                .await?;
            }
        }
        let Some(listed) = self.row(&uuid).await? else {
            return Ok(());
        };
        if !listed.flags.dying {
            // By its number, which was just read together with its UUID and is not given out again for long.
            let domid = listed.domid.to_string();
            let destroyed = self
                .xl()
                .change(&["destroy", &domid], &self.run_dir(sliver).log(), END_LIMIT)
                .await;
            if let Err(error) = destroyed {
                // Whoever waits for its end may have been faster.
                if self.row(&uuid).await?.is_some_and(|listed| !listed.flags.dying) {
                    return Err(error.port(&format!("cannot destroy the domain of {sliver}")));
                }
            }
        }
        let until = Instant::now() + END_LIMIT;
        if self
            .wait(&mut watch, until, &uuid, |listed| listed.is_none())
            .await?
        {
            Ok(())
        } else {
            Err(PortError::later(format!(
                "the domain of {sliver} was destroyed and is still there"
            )))
        }
    }

    /// Has a suspended domain come back to life, which no command of xl does (`xeno-xl-resume`).
    ///
    /// No xl that could still do it is left. That nobody else runs it is known to whoever asks for this: one that did not leave
    /// by a move of ours has the name that our domains have, which an xl that gives a domain away takes from it before it says
    /// so to the other side (xen.git `tools/xl/xl_migrate.c`, `migrate_domain`).
    async fn wake(&self, sliver: &SliverId, domain: &Domain) -> PortResult<()> {
        let program = &self.config().xl_resume;
        tracing::warn!(%sliver, domid = domain.listed.domid, "a suspended domain was left behind, and goes on");
        let resume = Xl::new(program.clone());
        let (domid, name) = (domain.domid(), name_of(sliver));
        // Renamed by an xl that gave it away.
        let args: &[&str] = if domain.listed.name == name {
            &[&domid]
        } else {
            &[&domid, &domain.listed.name, &name]
        };
        let told = resume.change(args, &self.run_dir(sliver).log(), SHORT).await;
        told.map_err(|error| {
            let why = match error {
                XlError::Missing { .. } => format!("{} is missing", program.display()),
                error => crate::chain(&error),
            };
            PortError::later(format!("{sliver} was left suspended and cannot go on: {why}"))
        })
    }

    async fn watch_ends(&self) -> Option<Connection> {
        let mut connection = Connection::open(self.xenstored()).await.ok()?;
        connection.watch("@releaseDomain", "end").await.ok()?;
        Some(connection)
    }

    /// Waits until the listing of a domain is as it should be; `false`: it was not in time.
    async fn wait(
        &self,
        watch: &mut Option<Connection>,
        until: Instant,
        uuid: &DomainUuid,
        right: impl Fn(Option<&Listed>) -> bool,
    ) -> PortResult<bool> {
        loop {
            if right(self.row(uuid).await?.as_ref()) {
                return Ok(true);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            match watch {
                Some(connection) => {
                    // Dropped in the middle of an event only after this long; then the connection is of no use.
                    match timeout(left.min(LOOK_EVERY), connection.event()).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(_)) => *watch = None,
                        Err(_) => *watch = self.watch_ends().await,
                    }
                }
                None => tokio::time::sleep(left.min(LOOK_BLIND)).await,
            }
        }
    }

    /// Lets a domain go on. One that cannot is seen to stand by whoever looks next.
    pub(crate) async fn set_free(&self, sliver: &SliverId, domain: &Domain) -> PortResult<()> {
        let domid = domain.domid();
        if domain.state == RunState::Suspended {
            self.wake(sliver, domain).await?;
        }
        let told = self
            .xl()
            .change(&["unpause", &domid], &self.run_dir(sliver).log(), SHORT)
            .await;
        told.map_err(|error| error.port(&format!("cannot let {sliver} go on")))
    }

    /// Lets a domain go on, and makes sure that it does.
    pub(crate) async fn let_go(&self, sliver: &SliverId, domain: &Domain) -> PortResult<()> {
        self.set_free(sliver, domain).await?;
        // xl says nothing of a domain that cannot.
        match self.row(&domain.record.uuid).await? {
            Some(listed) if !listed.flags.paused => Ok(()),
            Some(_) => Err(PortError::later(format!(
                "{sliver} was told to go on and still stands"
            ))),
            // It has been quick.
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Flags;

    #[test]
    fn what_stands_suspended_is_left_alone_while_an_xl_works_and_can_go_on_after_that() {
        let check = |shutdown: Option<Stopped>, phase: Phase, at_work: bool, expected: RunState| {
            let listed = Listed {
                domid: 7,
                name: "xeno.web-0".to_owned(),
                uuid: DomainUuid([1; 16]),
                memory_mib: 64,
                vcpus: 1,
                flags: Flags {
                    shutdown,
                    ..Flags::default()
                },
            };
            let around = Surroundings {
                at_work,
                consumed: false,
            };
            assert_eq!(
                RunState::of(&listed, phase, around),
                expected,
                "{shutdown:?} {phase:?} {at_work}"
            );
        };
        check(Some(Stopped::Suspend), Phase::Whole, true, RunState::Leaving);
        check(Some(Stopped::Suspend), Phase::Whole, false, RunState::Suspended);
        check(
            Some(Stopped::Suspend),
            Phase::Loading,
            false,
            RunState::Unfinished,
        );
        check(Some(Stopped::Crash), Phase::Whole, false, RunState::Stopped);
        check(None, Phase::Whole, false, RunState::Running);
        assert_eq!(RunState::Suspended.observed(), DomainState::Paused);
    }
}
