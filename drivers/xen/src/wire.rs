//! What a guest's link needs on the node: the file its hotplug script reads, and its published ports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use xeno_kept::files::write_durably;
use xeno_model::desired::Publish;
use xeno_model::id::{DomainUuid, SliverId};
use xeno_reconciler::ports::{DomainSpec, PortError, PortResult};

use crate::blocking;
use crate::domain::{Domain, RunState};
use crate::driver::{XenDriver, io_failed};
use crate::facts::SCRIPTS;
use crate::inventory::Inventory;
use crate::link::{GuestLink, link_name};
use crate::publish::Published;
use crate::record::Record;
use crate::spec::{Wire, name_of};

/// How long the hotplug script may take to put rules back.
const RULES_MAX: Duration = Duration::from_secs(10);

impl XenDriver {
    /// How the domain with this UUID is wired.
    pub(crate) fn wire(&self, uuid: &DomainUuid) -> Wire {
        Wire {
            link: GuestLink::of(*uuid),
            script: self.config().vif_script.clone(),
        }
    }

    /// Refuses a domain whose link would be mistaken for that of another.
    pub(crate) fn check_link(&self, spec: &DomainSpec, inventory: &Inventory) -> PortResult<()> {
        let others = inventory
            .ours
            .iter()
            .filter(|domain| domain.record.uuid != spec.uuid);
        let others: Vec<_> = others
            .map(|domain| (domain.listed.name.as_str(), GuestLink::of(domain.record.uuid)))
            .collect();
        GuestLink::of(spec.uuid)
            .beside(others)
            .map_err(|error| PortError::never(format!("{} cannot be started: {error}", spec.sliver)))
    }

    /// Writes what the hotplug script reads; it runs while the domain is being built.
    pub(crate) async fn describe_link(
        &self,
        sliver: &SliverId,
        uuid: &DomainUuid,
        public: &[IpAddr],
    ) -> PortResult<()> {
        let text = GuestLink::of(*uuid).script_config(public);
        let path = self.link_config(sliver);
        let write = move || {
            // Below /run, where others have their directories too: only this one is made here.
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            write_durably(&path, text.as_bytes())
        };
        blocking(write)
            .await
            .map_err(|error| io_failed("describe a guest's link", &error))
    }

    /// Removes it.
    pub(crate) async fn forget_link(&self, sliver: &SliverId) -> PortResult<()> {
        let path = self.link_config(sliver);
        let remove = move || match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        blocking(remove)
            .await
            .map_err(|error| io_failed("forget a guest's link", &error))
    }

    fn link_config(&self, sliver: &SliverId) -> std::path::PathBuf {
        let name = name_of(sliver);
        let link = link_name(&name).unwrap_or(&name);
        self.config().vif_dir.join(format!("{link}.conf"))
    }

    /// Publishes exactly these ports, and notes them.
    pub(crate) async fn give_ports(&self, record: &mut Record, publish: &[Publish]) -> PortResult<()> {
        if record.publish.is_empty() && publish.is_empty() {
            return Ok(());
        }
        let guest = GuestLink::of(record.uuid).ipv4;
        // The record says at least what is so: what it names is taken back with the domain.
        let before = record.publish.clone();
        let news = publish.iter().filter(|port| !before.contains(port));
        record.publish = before.iter().chain(news).cloned().collect();
        if record.publish != before {
            self.remember(record).await?;
        }
        self.publisher().set(guest, publish).await?;
        if record.publish != publish {
            record.publish = publish.to_vec();
            self.remember(record).await?;
        }
        Ok(())
    }

    /// Takes back the ports of a domain that is gone, or is to go.
    pub(crate) async fn take_ports(&self, record: &Record) -> PortResult<()> {
        if record.publish.is_empty() {
            return Ok(());
        }
        self.publisher().clear(GuestLink::of(record.uuid).ipv4).await
    }

    /// Puts the rules of links back that somebody took away (`nft flush ruleset`): without them a guest could send as
    /// another. What fails is said, and tried again at the next look.
    pub(crate) async fn mend_links(&self, inventory: &Inventory) {
        let running = |domain: &&Domain| domain.state == RunState::Running;
        let domains: Vec<u32> = inventory
            .ours
            .iter()
            .filter(running)
            .map(|domain| domain.listed.domid)
            .collect();
        if domains.is_empty() {
            return;
        }
        let tables = match self.publisher().tables().await {
            Ok(tables) => tables,
            Err(error) => {
                tracing::warn!(%error, "the rules of links cannot be seen");
                return;
            }
        };
        for domid in lost_rules(&domains, &tables) {
            match self.put_rules_back(domid).await {
                Ok(()) => tracing::warn!(domid, "the rules of a link were gone, and are back"),
                Err(why) => tracing::warn!(domid, why, "the rules of a link are gone"),
            }
        }
    }

    async fn put_rules_back(&self, domid: u32) -> Result<(), String> {
        let run = Command::new(Path::new(SCRIPTS).join(&self.config().vif_script))
            .arg("rules")
            .env("vif", format!("vif{domid}.0"))
            .env("XENBUS_PATH", format!("/local/domain/0/backend/vif/{domid}/0"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let ended = tokio::time::timeout(RULES_MAX, run).await;
        let output = ended
            .map_err(|_elapsed| "the hotplug script takes too long".to_owned())?
            .map_err(|error| format!("running the hotplug script: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said: String = String::from_utf8_lossy(&output.stderr)
            .chars()
            .take(500)
            .collect();
        Err(said.trim().to_owned())
    }

    /// What is published, where anything should be; `None`: nobody can say, or nothing is.
    pub(crate) async fn published(&self, inventory: &Inventory) -> Option<Published> {
        if inventory
            .ours
            .iter()
            .all(|domain| domain.record.publish.is_empty())
        {
            return None;
        }
        match self.publisher().observe().await {
            Ok(published) => Some(published),
            Err(error) => {
                tracing::warn!(%error, "published ports cannot be seen; the records have to do");
                None
            }
        }
    }
}

/// Those of these domains whose link has lost its rules, or that of all links.
fn lost_rules(domains: &[u32], tables: &BTreeSet<String>) -> Vec<u32> {
    let of_all = tables.contains("inet xeno-links");
    let has = |domid: &u32| of_all && tables.contains(&format!("netdev xeno-vif{domid}.0"));
    domains.iter().filter(|domid| !has(domid)).copied().collect()
}

/// The ports that lead to the guest of a record; as the record has them, where that is what is published.
pub(crate) fn ports_of(record: &Record, published: Option<&Published>) -> Vec<Publish> {
    let Some(published) = published else {
        return record.publish.clone();
    };
    let guest = GuestLink::of(record.uuid).ipv4;
    let found: BTreeMap<u16, u16> = published
        .iter()
        .filter(|(_, target)| target.guest == guest)
        .map(|(host, target)| (*host, target.port))
        .collect();
    let noted: BTreeMap<u16, u16> = record
        .publish
        .iter()
        .map(|port| (port.host, port.guest))
        .collect();
    if found == noted {
        return record.publish.clone();
    }
    found
        .into_iter()
        .map(|(host, guest)| Publish { guest, host })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_rules_away_leaves_links_to_be_mended() {
        let tables = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<BTreeSet<_>>()
        };
        let whole = [
            "inet xeno-links",
            "ip xeno",
            "netdev xeno-vif3.0",
            "netdev xeno-vif4.0",
        ];
        assert_eq!(lost_rules(&[3, 4], &tables(&whole)), Vec::<u32>::new());
        assert_eq!(lost_rules(&[3, 5], &tables(&whole)), [5]);
        // Without what is the same for all, every one is to be looked after.
        assert_eq!(lost_rules(&[3, 4], &tables(&whole[1..])), [3, 4]);
        assert_eq!(lost_rules(&[3, 4], &tables(&[])), [3, 4]);
    }
}
