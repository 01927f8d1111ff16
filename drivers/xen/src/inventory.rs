//! Which domains there are, and which of them are ours.
//!
//! A domain is ours if its name is one of ours, and the record at its UUID in xenstore says the same sliver and was
//! written by a driver with our state directory. Everything else is a stranger's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use xeno_model::id::{DomainUuid, SliverId};
use xeno_model::observed::Stranger;
use xeno_reconciler::ports::{PortError, PortResult};

use crate::domain::{Domain, RunState, Surroundings, rate_path, read_rate};
use crate::driver::{XenDriver, io_failed, store_failed};
use crate::list::{Allowed, Flags, Listed, read_allowed, read_list};
use crate::record::{Phase, Record, path_of};
use crate::spec::{name_of, sliver_of};
use crate::store::Connection;
use crate::{blocking, chain, work};

/// What xl puts behind the name of a domain once its memory has gone (xen.git `tools/xl/xl_migrate.c`, `migrate_domain`).
pub(crate) const AWAY: &str = "--migratedaway";
/// Looks until two listings agree.
const LOOKS_MAX: usize = 4;

/// All domains but dom0.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) ours: Vec<Domain>,
    pub(crate) others: Vec<Listed>,
}

impl Inventory {
    pub(crate) fn strangers(&self) -> Vec<Stranger> {
        let strangers = self.others.iter().map(|listed| Stranger {
            name: listed.name.clone(),
            memory_mib: listed.memory_mib,
        });
        let mut strangers: Vec<_> = strangers.collect();
        strangers.sort();
        strangers
    }

    pub(crate) fn of(&self, sliver: &SliverId) -> Option<&Domain> {
        self.ours.iter().find(|domain| domain.record.sliver == *sliver)
    }

    /// A domain that is not ours and has what ours would need.
    pub(crate) fn in_the_way(&self, sliver: &SliverId, uuid: &DomainUuid) -> Option<&Listed> {
        let name = name_of(sliver);
        self.others
            .iter()
            .find(|listed| listed.uuid == *uuid || listed.name == name)
    }
}

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// Which domains there are, and what they do.
    States,
    /// Their limits too.
    Limits,
}

impl XenDriver {
    /// All domains. An error means "not seen".
    pub(crate) async fn take_inventory(&self) -> PortResult<Inventory> {
        self.look(Depth::Limits).await
    }

    /// Which domains are there and what they do, without their limits: half the work of the tool stack, and all that most
    /// steps have to know.
    pub(crate) async fn take_roll(&self) -> PortResult<Inventory> {
        self.look(Depth::States).await
    }

    async fn look(&self, depth: Depth) -> PortResult<Inventory> {
        let mut unequal = String::new();
        for _ in 0..LOOKS_MAX {
            match self.try_inventory(depth).await? {
                Ok(inventory) => return Ok(inventory),
                Err(what) => unequal = what,
            }
        }
        Err(PortError::later(format!(
            "the domains of the node keep changing: {unequal}"
        )))
    }

    /// The domain of a sliver, if it is there, without its limits.
    pub(crate) async fn spot(&self, sliver: &SliverId) -> PortResult<Option<Domain>> {
        let roll = self.take_roll().await?;
        Ok(roll.of(sliver).cloned())
    }

    /// The domain of a sliver, if it is there.
    pub(crate) async fn find(&self, sliver: &SliverId) -> PortResult<Option<Domain>> {
        let inventory = self.take_inventory().await?;
        Ok(inventory.of(sliver).cloned())
    }

    /// What `xl list` says of the domain with this UUID.
    pub(crate) async fn row(&self, uuid: &DomainUuid) -> PortResult<Option<Listed>> {
        Ok(self.rows().await?.into_iter().find(|listed| listed.uuid == *uuid))
    }

    /// The numbers of all domains that libxl has noted, by UUID: a hundredth of the time that a listing takes. It says nothing of
    /// what they do.
    pub(crate) async fn numbers(&self) -> PortResult<BTreeMap<DomainUuid, u32>> {
        let mut store = self.store().await?;
        let names = store.directory("/local/domain").await;
        let names = names.map_err(|error| store_failed(&error))?.unwrap_or_default();
        let mut numbers = BTreeMap::new();
        for domid in names.iter().filter_map(|name| name.parse::<u32>().ok()) {
            let vm = store.read_text(&format!("/local/domain/{domid}/vm")).await;
            let vm = vm.map_err(|error| store_failed(&error))?;
            let uuid = vm.as_deref().and_then(|vm| vm.strip_prefix("/vm/"));
            if let Some(uuid) = uuid.and_then(|uuid| DomainUuid::parse(uuid).ok()) {
                numbers.insert(uuid, domid);
            }
        }
        Ok(numbers)
    }

    /// A domain that an xl of ours has just made to stand still, by its record.
    pub(crate) async fn just_made(&self, record: &Record) -> PortResult<Option<Domain>> {
        let Some(domid) = self.numbers().await?.remove(&record.uuid) else {
            return Ok(None);
        };
        Ok(Some(Domain {
            listed: Listed {
                name: name_of(&record.sliver),
                domid,
                memory_mib: record.memory_mib,
                vcpus: record.vcpus,
                flags: Flags {
                    paused: true,
                    ..Flags::default()
                },
                uuid: record.uuid,
            },
            allowed: Allowed::default(),
            state: RunState::Paused,
            net_rate: record.net_rate,
            record: record.clone(),
        }))
    }

    pub(crate) async fn rows(&self) -> PortResult<Vec<Listed>> {
        let text = self.xl().ask(&["list", "-v"]).await;
        let text = text.map_err(|error| error.port("cannot list the domains"))?;
        read_list(&text).map_err(|error| PortError::later(format!("cannot list the domains: {error}")))
    }

    /// The inner error: a domain came or went between two looks.
    async fn try_inventory(&self, depth: Depth) -> PortResult<Result<Inventory, String>> {
        let rows = self.rows().await?;
        let allowed = match depth {
            Depth::States => BTreeMap::new(),
            Depth::Limits => {
                let text = self.xl().ask(&["list", "-l"]).await;
                let text = text.map_err(|error| error.port("cannot list the domains"))?;
                read_allowed(&text)
                    .map_err(|error| PortError::later(format!("cannot list the domains: {error}")))?
            }
        };
        let mut store = None;
        let mut inventory = Inventory::default();
        for listed in rows.into_iter().filter(|listed| listed.domid != 0) {
            let away = listed.name.strip_suffix(AWAY);
            let Some(sliver) = sliver_of(away.unwrap_or(&listed.name)) else {
                inventory.others.push(listed);
                continue;
            };
            let store = match &mut store {
                Some(store) => store,
                none => none.insert(self.store().await?),
            };
            let record = self.record_of(store, &sliver, &listed).await?;
            // One that somebody else sent away may run elsewhere, and is not ours to wake.
            let Some(record) = record.filter(|record| away.is_none() || record.moving.is_some()) else {
                inventory.others.push(listed);
                continue;
            };
            let allowed = allowed
                .get(&listed.domid)
                .filter(|allowed| allowed.uuid == Some(listed.uuid));
            let unfinished = listed.flags.dying || record.phase != Phase::Whole;
            let allowed = match allowed {
                Some(allowed) => allowed.clone(),
                // Its configuration is stored late, and removed early.
                None if unfinished || depth == Depth::States => Allowed::default(),
                None => return Ok(Err(format!("{} came or went", listed.name))),
            };
            let rate = store
                .read_text(&rate_path(listed.domid))
                .await
                .map_err(|error| store_failed(&error))?;
            inventory.ours.push(Domain {
                state: RunState::of(&listed, record.phase, self.surroundings(&sliver).await?),
                net_rate: read_rate(rate.as_deref(), &record),
                record,
                listed,
                allowed,
            });
        }
        Ok(Ok(inventory))
    }

    /// The record of a domain with one of our names. `None`: it is not ours. An error: nobody can say.
    async fn record_of(
        &self,
        store: &mut Connection,
        sliver: &SliverId,
        listed: &Listed,
    ) -> PortResult<Option<Record>> {
        let stored = store
            .read(&path_of(&listed.uuid))
            .await
            .map_err(|error| store_failed(&error))?;
        let Some(text) = stored else { return Ok(None) };
        let record = Record::read(&text).map_err(|error| {
            PortError::later(format!(
                "the record of {sliver} in xenstore is of no use, so nobody can say what its domain is: {}",
                chain(&error)
            ))
        })?;
        let agrees = record.sliver == *sliver && record.uuid == listed.uuid && record.owner == self.owner();
        Ok(agrees.then_some(record))
    }

    /// Directories by whose paths an xl that works for a sliver is known.
    pub(crate) fn places(&self, sliver: &SliverId) -> [PathBuf; 2] {
        [self.run_dir(sliver).path().to_owned(), self.images().of(sliver)]
    }

    async fn surroundings(&self, sliver: &SliverId) -> PortResult<Surroundings> {
        let (places, images, sliver) = (self.places(sliver), self.images().clone(), sliver.clone());
        let ours = self.state_dir().to_owned();
        let look = move || {
            Ok::<_, std::io::Error>(Surroundings {
                at_work: work::look(&places)?.is_some() || work::is_any_moving(&ours)?,
                consumed: images.is_consumed(&sliver)?,
            })
        };
        blocking(look)
            .await
            .map_err(|error| io_failed("look at what is at work", &error))
    }
}
