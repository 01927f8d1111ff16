//! What a domain was started as, and what it has been told since: kept in xenstore beside the domain itself.
//!
//! The node `/xeno/domains/UUID` is made before the domain and is gone when the node starts anew, as the domain is.
//! Guests see nothing of it: its owner is dom0, and nobody else has a right to it.

use serde::{Deserialize, Serialize};
use xeno_model::desired::Publish;
use xeno_model::id::{Digest, DomainUuid, Epoch, MigrationId, SliverId, Timestamp};
use xeno_model::units::BitRate;

use crate::config::GuestKind;
use crate::store::PAYLOAD_MAX;

/// Where records are.
pub const DOMAINS: &str = "/xeno/domains";
const VERSION: u32 = 1;

/// How far a domain's making has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It is being built, or its building was cut off.
    Making,
    /// Its memory is being loaded from an image, or that was cut off.
    Loading,
    /// It is whole: paused, running, or at its end.
    Whole,
}

/// The part of a domain in a move between nodes, written down before it can have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moving {
    /// Its memory goes to another node, or that was cut off: it runs, or stands still and can go on.
    Leaving {
        /// Which attempt.
        migration: MigrationId,
        /// Under which epoch it ran.
        epoch: Epoch,
    },
    /// All of its memory has gone, and it stands still until it is woken or destroyed.
    Gone {
        /// Which attempt.
        migration: MigrationId,
        /// Under which epoch it ran.
        epoch: Epoch,
    },
    /// It is a copy of one on another node, whole or not. It has not run.
    Arriving {
        /// Which attempt.
        migration: MigrationId,
    },
}

/// What a domain was started as, and what it has been told since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is: the state directory of the driver that made it.
    pub owner: String,
    /// The sliver it embodies.
    pub sliver: SliverId,
    /// Its identity.
    pub uuid: DomainUuid,
    /// What it was started as.
    pub boot: Digest,
    /// How far its making has come.
    pub phase: Phase,
    /// Its virtualisation.
    pub guest: GuestKind,
    /// Memory in MiB that it was told to keep to.
    pub memory_mib: u64,
    /// Memory in MiB up to which it can grow.
    pub memory_max_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// Most network traffic.
    pub net_rate: Option<BitRate>,
    /// When it was started.
    pub started: Timestamp,
    /// Which part it has in a move between nodes, if it has one.
    pub moving: Option<Moving>,
}

/// The record as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    owner: String,
    sliver: String,
    uuid: String,
    boot: String,
    phase: Phase,
    guest: String,
    memory_mib: u64,
    memory_max_mib: u64,
    vcpus: u32,
    publish: Vec<StoredPublish>,
    net_rate_bits: Option<u64>,
    started_unix_ms: u64,
    /// Left out where there is none, so that the record can be read by those who know nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moving: Option<StoredMoving>,
}

/// A part in a move as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum StoredMoving {
    Leaving { migration: String, epoch: u64 },
    Gone { migration: String, epoch: u64 },
    Arriving { migration: String },
}

/// A published port as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredPublish {
    guest: u16,
    host: u16,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is not JSON of the expected form.
    #[error("it is of another form")]
    Form(#[source] serde_json::Error),
    /// A value in it is wrong, or its version is another one.
    #[error("{0}")]
    Value(String),
    /// It does not fit into a node of xenstore.
    #[error("it has {0} bytes, more than xenstore takes")]
    TooLong(usize),
}

/// The node of a domain's record.
#[must_use]
pub fn path_of(uuid: &DomainUuid) -> String {
    format!("{DOMAINS}/{uuid}")
}

impl Record {
    /// Reads what is stored in xenstore.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(text: &[u8]) -> Result<Self, RecordError> {
        let stored: Stored = serde_json::from_slice(text).map_err(RecordError::Form)?;
        if stored.version != VERSION {
            return Err(RecordError::Value(format!(
                "its version is {}, not {VERSION}",
                stored.version
            )));
        }
        let name = |error: xeno_model::id::NameError| RecordError::Value(error.to_string());
        Ok(Self {
            owner: stored.owner,
            sliver: SliverId::parse_embodiment(&stored.sliver).map_err(name)?,
            uuid: DomainUuid::parse(&stored.uuid).map_err(name)?,
            boot: Digest::parse(&stored.boot).map_err(name)?,
            phase: stored.phase,
            guest: GuestKind::parse(&stored.guest)
                .ok_or_else(|| RecordError::Value(format!("it is of no known kind: {:?}", stored.guest)))?,
            memory_mib: stored.memory_mib,
            memory_max_mib: stored.memory_max_mib,
            vcpus: stored.vcpus,
            publish: stored.publish.into_iter().map(Publish::from).collect(),
            net_rate: stored.net_rate_bits.map(BitRate),
            started: Timestamp(stored.started_unix_ms),
            moving: stored.moving.map(Moving::try_from).transpose()?,
        })
    }

    /// As it is stored in xenstore.
    ///
    /// # Errors
    /// [`RecordError::TooLong`].
    pub fn store(&self) -> Result<Vec<u8>, RecordError> {
        let stored = Stored {
            version: VERSION,
            owner: self.owner.clone(),
            sliver: self.sliver.to_string(),
            uuid: self.uuid.to_string(),
            boot: self.boot.to_string(),
            phase: self.phase,
            guest: self.guest.word().to_owned(),
            memory_mib: self.memory_mib,
            memory_max_mib: self.memory_max_mib,
            vcpus: self.vcpus,
            publish: self.publish.iter().map(StoredPublish::from).collect(),
            net_rate_bits: self.net_rate.map(|rate| rate.0),
            started_unix_ms: self.started.0,
            moving: self.moving.map(StoredMoving::from),
        };
        let text = serde_json::to_vec(&stored).map_err(RecordError::Form)?;
        // The path and its zero travel in the same message.
        if text.len() + path_of(&self.uuid).len() + 1 > PAYLOAD_MAX {
            return Err(RecordError::TooLong(text.len()));
        }
        Ok(text)
    }
}

impl From<Moving> for StoredMoving {
    fn from(moving: Moving) -> Self {
        match moving {
            Moving::Leaving { migration, epoch } => Self::Leaving {
                migration: migration.to_string(),
                epoch: epoch.0,
            },
            Moving::Gone { migration, epoch } => Self::Gone {
                migration: migration.to_string(),
                epoch: epoch.0,
            },
            Moving::Arriving { migration } => Self::Arriving {
                migration: migration.to_string(),
            },
        }
    }
}

impl TryFrom<StoredMoving> for Moving {
    type Error = RecordError;

    fn try_from(stored: StoredMoving) -> Result<Self, RecordError> {
        let parse =
            |text: &str| MigrationId::parse(text).map_err(|error| RecordError::Value(error.to_string()));
        Ok(match stored {
            StoredMoving::Leaving { migration, epoch } => Self::Leaving {
                migration: parse(&migration)?,
                epoch: Epoch(epoch),
            },
            StoredMoving::Gone { migration, epoch } => Self::Gone {
                migration: parse(&migration)?,
                epoch: Epoch(epoch),
            },
            StoredMoving::Arriving { migration } => Self::Arriving {
                migration: parse(&migration)?,
            },
        })
    }
}

impl From<&Publish> for StoredPublish {
    fn from(port: &Publish) -> Self {
        Self {
            guest: port.guest,
            host: port.host,
        }
    }
}

impl From<StoredPublish> for Publish {
    fn from(port: StoredPublish) -> Self {
        Self {
            guest: port.guest,
            host: port.host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            owner: "/var/lib/xenoslice/xen".into(),
            sliver: SliverId::parse("web/0").unwrap(),
            uuid: DomainUuid([7; 16]),
            boot: Digest::of(b"boot"),
            phase: Phase::Whole,
            guest: GuestKind::Pv,
            memory_mib: 128,
            memory_max_mib: 256,
            vcpus: 1,
            publish: vec![Publish {
                guest: 80,
                host: 8080,
            }],
            net_rate: Some(BitRate(10_000_000)),
            started: Timestamp(5),
            moving: None,
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_stored() {
        let (migration, epoch) = (MigrationId([3; 16]), Epoch(4));
        for moving in [
            None,
            Some(Moving::Leaving { migration, epoch }),
            Some(Moving::Gone { migration, epoch }),
            Some(Moving::Arriving { migration }),
        ] {
            let record = Record { moving, ..record() };
            let stored = record.store().unwrap();
            assert_eq!(Record::read(&stored).unwrap(), record);
            let said = String::from_utf8(stored).unwrap();
            assert_eq!(said.contains("moving"), moving.is_some(), "{said}");
        }
    }

    #[test]
    fn the_longest_record_of_a_guest_fits_and_a_longer_one_is_refused() {
        let port = |host| Publish { guest: 65_535, host };
        let mut full = record();
        full.moving = Some(Moving::Leaving {
            migration: MigrationId([0xff; 16]),
            epoch: Epoch(u64::MAX),
        });
        full.sliver = SliverId::parse(&format!("{}/4294967295", "a".repeat(63))).unwrap();
        full.publish = (0..64).map(|host| port(60_000 + host)).collect();
        full.store().unwrap();
        full.owner = "/".repeat(4096);
        assert!(matches!(full.store(), Err(RecordError::TooLong(_))));
    }

    #[test]
    fn a_record_of_another_version_or_form_is_an_error_and_not_an_absence() {
        let good = String::from_utf8(record().store().unwrap()).unwrap();
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("web/0", "web"),
            ("\"vcpus\"", "\"vcpuz\""),
            ("{", "garbage"),
            ("sha256:", "md5:"),
            ("\"pv\"", "\"vm\""),
            ("\"whole\"", "\"half\""),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good);
            Record::read(bad.as_bytes()).unwrap_err();
        }
    }
}
