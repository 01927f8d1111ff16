//! What a guest's link needs on the node: the file its hotplug script reads, and its published ports.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use xeno_kept::files::write_durably;
use xeno_model::desired::Publish;
use xeno_model::id::{DomainUuid, SliverId};
use xeno_reconciler::ports::{DomainSpec, PortError, PortResult};

use crate::blocking;
use crate::driver::{XenDriver, io_failed};
use crate::inventory::Inventory;
use crate::link::{GuestLink, link_name};
use crate::publish::Published;
use crate::record::Record;
use crate::spec::{Wire, name_of};

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
    pub(crate) async fn describe_link(&self, sliver: &SliverId, uuid: &DomainUuid) -> PortResult<()> {
        let text = GuestLink::of(*uuid).script_config(&[]);
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
