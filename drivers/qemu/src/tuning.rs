//! What can change while a guest runs: memory, published ports, its share of the processors.
//!
//! What QEMU accepted is noted in the record, durably: a guest that gives up memory slowly, or not at all, is told so
//! once and is not a difference that comes back at every look.

use std::collections::BTreeSet;

use serde_json::json;
use xeno_kept::lock::Lock;
use xeno_model::desired::Publish;
use xeno_model::id::SliverId;
use xeno_model::observed::Limits;
use xeno_reconciler::ports::{DomainSpec, PortError, PortResult, Tuning};

use crate::blocking;
use crate::domain::{Domain, disobeyed, io_failed, lock};
use crate::driver::QemuDriver;
use crate::inventory::find;
use crate::moves::at_home;
use crate::qmp::{Qmp, QmpError};
use crate::record::{CpuShare, Record};
use crate::spec::{self, GUEST_ADDRESS};

/// Lines of the human monitor's answer that are read.
const LINES_MAX: usize = 10_000;

impl QemuDriver {
    /// Gives a running domain other limits and ports. Connections through ports that stay are not disturbed.
    ///
    /// # Errors
    /// If it is not there, if it was started with less memory, or if a port is in use. What could be changed is.
    pub async fn retune(&self, sliver: &SliverId, tuning: &Tuning) -> PortResult<()> {
        let dir = self.run_dir(sliver);
        let lock = lock(&dir, sliver).await?;
        let Some(domain) = find(&dir, sliver).await? else {
            return Err(PortError::later(format!(
                "{sliver} has no domain that could be changed"
            )));
        };
        at_home(&domain)?;
        spec::check_ports(&tuning.publish)
            .map_err(|error| PortError::never(format!("cannot publish for {sliver}: {error}")))?;
        let most = domain.record.memory_max_mib;
        if tuning.memory_mib > most || tuning.memory_mib < *spec::MEMORY_MIB.start() {
            return Err(PortError::never(format!(
                "{sliver} can have {} to {most} MiB without a reboot, not {}",
                spec::MEMORY_MIB.start(),
                tuning.memory_mib
            )));
        }
        let mut record = domain.record.clone();
        let given = self.give(&domain, tuning, &mut record).await;
        // Also what went before a failure is so.
        if record != domain.record {
            domain.remember(&lock, record).await?;
        }
        given
    }

    /// Gives a domain what can change while it runs; `record` says what is so.
    pub(crate) async fn give(&self, domain: &Domain, tuning: &Tuning, record: &mut Record) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        let changed = async {
            let mut qmp = domain
                .connect()
                .await
                .map_err(|error| disobeyed(sliver, &error))?;
            self.change(&mut qmp, tuning, record).await
        };
        let changed = changed.await;
        let shared = self.share(domain, &tuning.limits, record).await;
        changed.and(shared)
    }

    /// Publishes exactly these ports for a domain; `record` says what is so.
    pub(crate) async fn give_ports(
        &self,
        domain: &Domain,
        publish: &[Publish],
        record: &mut Record,
    ) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        spec::check_ports(publish)
            .map_err(|error| PortError::never(format!("cannot publish for {sliver}: {error}")))?;
        let mut qmp = domain
            .connect()
            .await
            .map_err(|error| disobeyed(sliver, &error))?;
        self.change_ports(&mut qmp, publish, record).await
    }

    /// Takes all published ports from a domain. Connections that are open through them stay open.
    pub(crate) async fn take_ports(&self, sliver: &SliverId) -> PortResult<()> {
        let dir = self.run_dir(sliver);
        let lock = lock(&dir, sliver).await?;
        let Some(domain) = find(&dir, sliver).await? else {
            return Ok(());
        };
        at_home(&domain)?;
        let mut record = domain.record.clone();
        let changed = self.give_ports(&domain, &[], &mut record).await;
        if record != domain.record {
            domain.remember(&lock, record).await?;
        }
        changed
    }

    /// Gives the domain its share of the processors, where there is a group to give it in.
    async fn share(&self, domain: &Domain, limits: &Limits, record: &mut Record) -> PortResult<()> {
        let Ok(groups) = self.cpu() else { return Ok(()) };
        let share = CpuShare {
            weight: limits.cpu_weight,
            cap_percent: limits.cpu_cap_percent,
        };
        let (groups, label, pid) = (groups.clone(), record.sliver.label(), domain.process.pid);
        blocking(move || groups.give(&label, pid, share))
            .await
            .map_err(|error| io_failed("limit the domain in its control group", &error))?;
        record.cpu = Some(share);
        Ok(())
    }

    /// Changes one thing after the other; `record` says what is so.
    async fn change(&self, qmp: &mut Qmp, tuning: &Tuning, record: &mut Record) -> PortResult<()> {
        let sliver = record.sliver.clone();
        let silent = |error: QmpError| disobeyed(&sliver, &error);
        // Always: a guest that was told and did not listen is told again.
        set_memory(qmp, tuning.memory_mib).await.map_err(silent)?;
        record.memory_mib = tuning.memory_mib;
        self.change_ports(qmp, &tuning.publish, record).await
    }

    /// Publishes exactly these ports; `record` says what is so.
    pub(crate) async fn change_ports(
        &self,
        qmp: &mut Qmp,
        publish: &[Publish],
        record: &mut Record,
    ) -> PortResult<()> {
        let sliver = record.sliver.clone();
        let silent = |error: QmpError| disobeyed(&sliver, &error);
        let there = forwards(qmp).await.map_err(silent)?;
        let wanted: BTreeSet<Forward> = publish.iter().map(Forward::of).collect();
        for port in there.difference(&wanted) {
            let rule = format!("hostfwd_remove n0 tcp:127.0.0.1:{}", port.host);
            qmp.human(&rule).await.map_err(silent)?;
        }
        let mut refused = None;
        for port in wanted.difference(&there) {
            let rule = format!(
                "hostfwd_add n0 tcp:127.0.0.1:{}-{GUEST_ADDRESS}:{}",
                port.host, port.guest
            );
            let said = qmp.human(&rule).await.map_err(silent)?;
            if !said.trim().is_empty() {
                refused = Some((*port, said));
            }
        }
        // The monitor answers in prose: what counts is what is there now.
        let now = forwards(qmp).await.map_err(silent)?;
        if now == wanted {
            record.publish = publish.to_vec();
            return Ok(());
        }
        record.publish = now.iter().map(Forward::publish).collect();
        Err(match refused {
            Some((port, said)) if said.contains("Could not set up host forwarding rule") => PortError::later(
                format!("port {} of this node is in use by another program", port.host),
            ),
            Some((port, said)) => {
                PortError::later(format!("port {} cannot be published: {}", port.host, said.trim()))
            }
            None => PortError::later(format!(
                "QEMU of {sliver} still publishes ports that it was told to give up"
            )),
        })
    }

    /// What a domain that has just been started is told in addition to its arguments.
    pub(crate) async fn after_start(
        &self,
        lock: &Lock,
        spec: &DomainSpec,
        domain: &Domain,
    ) -> PortResult<()> {
        let sliver = &spec.sliver;
        let mut record = domain.record.clone();
        if let Err(error) = self.share(domain, &spec.limits, &mut record).await {
            // It runs, and what is observed is what it has: that is enough for somebody to try again.
            tracing::warn!(%sliver, %error, "a domain runs without its share of the processors");
        }
        if spec.memory_mib != record.memory_mib {
            let told = async {
                let mut qmp = domain.connect().await?;
                set_memory(&mut qmp, spec.memory_mib).await
            };
            told.await.map_err(|error| disobeyed(sliver, &error))?;
            record.memory_mib = spec.memory_mib;
        }
        if record != domain.record {
            domain.remember(lock, record).await?;
        }
        Ok(())
    }
}

/// A listener of the guest's network, as QEMU lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Forward {
    host: u16,
    guest: u16,
}

impl Forward {
    fn of(port: &Publish) -> Self {
        Self {
            host: port.host,
            guest: port.guest,
        }
    }

    fn publish(&self) -> Publish {
        Publish {
            guest: self.guest,
            host: self.host,
        }
    }
}

/// Tells the guest how much memory it may use. Its balloon follows as fast as the guest has pages to give.
async fn set_memory(qmp: &mut Qmp, mib: u64) -> Result<(), QmpError> {
    let value = json!({ "value": mib << 20 });
    qmp.execute_with("balloon", value).await.map(drop)
}

async fn forwards(qmp: &mut Qmp) -> Result<BTreeSet<Forward>, QmpError> {
    let listing = qmp.human("info usernet").await?;
    Ok(listing.lines().take(LINES_MAX).filter_map(read_forward).collect())
}

/// Reads a line of `info usernet`: `TCP[HOST_FORWARD]  8  127.0.0.1 8080  10.0.2.15  80  0  0`.
fn read_forward(line: &str) -> Option<Forward> {
    let mut words = line.split_ascii_whitespace();
    if words.next()? != "TCP[HOST_FORWARD]" {
        return None;
    }
    let [_fd, _address, host, _to, guest] = [(); 5].map(|()| words.next());
    Some(Forward {
        host: host?.parse().ok()?,
        guest: guest?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_from_prose() {
        let listing = "\
Hub -1 (n0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   12       127.0.0.1 45555       10.0.2.15    80     0     0
  TCP[HOST_FORWARD]   8       127.0.0.1 45555       10.0.2.15    80     0     0
  TCP[HOST_FORWARD]   9       127.0.0.1 99999       10.0.2.15    80     0     0
  TCP[HOST_FORWARD]  10
  UDP[236 sec]       11       127.0.0.1 45556       10.0.2.15    80     0     0
";
        let found: Vec<_> = listing.lines().filter_map(read_forward).collect();
        assert_eq!(
            found,
            [Forward {
                host: 45555,
                guest: 80
            }]
        );
    }
}
