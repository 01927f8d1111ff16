//! What can change while a guest runs: processors and its share of them, memory, its traffic, its published ports.

use xeno_model::id::SliverId;
use xeno_model::observed::Limits;
use xeno_reconciler::ports::{PortError, PortResult, Tuning};

use crate::domain::{Domain, RunState, SHORT, rate_path};
use crate::driver::{XenDriver, store_failed};
use crate::moves::at_home;
use crate::spec::{self, credit};

/// The command of xl that sets weight and cap, for the schedulers that know both.
pub(crate) fn scheduler_verb(scheduler: &str) -> Option<&'static str> {
    match scheduler {
        "credit2" => Some("sched-credit2"),
        "credit" => Some("sched-credit"),
        _ => None,
    }
}

impl XenDriver {
    /// Gives a running domain other limits and ports. Connections through ports that stay are not disturbed.
    ///
    /// # Errors
    /// If it is not there, or if it was started with less memory. What could be changed is.
    pub async fn retune(&self, sliver: &SliverId, tuning: &Tuning) -> PortResult<()> {
        let _lock = self.lock(sliver).await?;
        let Some(domain) = self.find(sliver).await? else {
            return Err(PortError::later(format!(
                "{sliver} has no domain that could be changed"
            )));
        };
        at_home(&domain)?;
        match domain.state {
            RunState::Running | RunState::Paused => self.tune(&domain, tuning).await,
            RunState::Leaving | RunState::Suspended | RunState::Stopped | RunState::Unfinished => Err(
                PortError::later(format!("{sliver} does not run and cannot be changed")),
            ),
        }
    }

    /// Takes all published ports from a domain. Connections that are open through them stay open.
    pub(crate) async fn unpublish(&self, sliver: &SliverId) -> PortResult<()> {
        let _lock = self.lock(sliver).await?;
        let Some(domain) = self.spot(sliver).await? else {
            return Ok(());
        };
        at_home(&domain)?;
        let mut record = domain.record;
        self.give_ports(&mut record, &[]).await
    }

    /// Changes what differs, one thing after the other.
    pub(crate) async fn tune(&self, domain: &Domain, tuning: &Tuning) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        let limits = &tuning.limits;
        let (least, most) = (*spec::MEMORY_MIB.start(), domain.record.memory_max_mib);
        if !(least..=most).contains(&tuning.memory_mib) {
            return Err(PortError::never(format!(
                "{sliver} can have {least} to {most} MiB without a reboot, not {}",
                tuning.memory_mib
            )));
        }
        spec::check_limits(limits.cpu_weight, limits.cpu_cap_percent)
            .map_err(|error| PortError::never(format!("cannot limit {sliver}: {error}")))?;
        spec::check_ports(&tuning.publish)
            .map_err(|error| PortError::never(format!("cannot publish for {sliver}: {error}")))?;
        let mut record = domain.record.clone();
        if record.vcpus != tuning.vcpus {
            // The guest takes them into use, and gives them up, as it finds the time. That this node may have fewer is its user's choice.
            let vcpus = tuning.vcpus.to_string();
            self.told(domain, &["vcpu-set", "--ignore-host", &domain.domid(), &vcpus])
                .await?;
            record.vcpus = tuning.vcpus;
        }
        if domain.memory_mib() != tuning.memory_mib {
            // A guest gives memory up as it finds it; Xen sees to it that it takes no more.
            self.told(
                domain,
                &["mem-set", &domain.domid(), &format!("{}m", tuning.memory_mib)],
            )
            .await?;
            record.memory_mib = tuning.memory_mib;
        }
        self.share(domain, limits).await?;
        if domain.limits().net_rate != limits.net_rate {
            record.net_rate = limits.net_rate;
            // The record first: it says in whose words the rate is read.
            self.remember(&record).await?;
            self.throttle(domain, limits).await?;
        }
        if record != domain.record {
            self.remember(&record).await?;
        }
        self.give_ports(&mut record, &tuning.publish).await
    }

    /// Gives the domain its share of the processors, where the scheduler keeps shares.
    async fn share(&self, domain: &Domain, limits: &Limits) -> PortResult<()> {
        let has = domain.limits();
        if (has.cpu_weight, has.cpu_cap_percent) == (limits.cpu_weight, limits.cpu_cap_percent) {
            return Ok(());
        }
        let scheduler = self.node().await?.get("xen_scheduler").unwrap_or_default();
        let Some(verb) = scheduler_verb(scheduler) else {
            return Ok(());
        };
        let weight = limits.cpu_weight.to_string();
        let cap = limits.cpu_cap_percent.unwrap_or(0).to_string();
        self.told(domain, &[verb, "-d", &domain.domid(), "-w", &weight, "-c", &cap])
            .await
    }

    /// Holds the guest's traffic down; netback reads the node anew whenever it changes.
    async fn throttle(&self, domain: &Domain, limits: &Limits) -> PortResult<()> {
        let path = rate_path(domain.listed.domid);
        let mut store = self.store().await?;
        let written = match limits.net_rate {
            Some(rate) => store.write(&path, credit(rate).as_bytes()).await,
            None => store.remove(&path).await,
        };
        written.map_err(|error| store_failed(&error))
    }

    async fn told(&self, domain: &Domain, args: &[&str]) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        let told = self.xl().change(args, &self.run_dir(sliver).log(), SHORT).await;
        told.map_err(|error| error.port(&format!("cannot change {sliver}")))
    }
}
