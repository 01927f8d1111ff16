//! What a domain was started as, and what it has been told since: kept beside it, on disk.

use std::path::Path;

use serde::{Deserialize, Serialize};
use xeno_kept::files::{read_json, write_json};
use xeno_model::desired::Publish;
use xeno_model::id::{Digest, DomainUuid, Epoch, MigrationId, SliverId, Timestamp};

use crate::accel::Accel;

/// Why a record cannot be used.
pub use xeno_kept::files::FileError as RecordError;

/// What a domain was started as, and what it has been told since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The sliver it embodies.
    pub sliver: SliverId,
    /// Its identity.
    pub uuid: DomainUuid,
    /// What it was started as.
    pub boot: Digest,
    /// Memory in MiB that it was last told to keep to. A guest may be slow to give up the rest, or keep it.
    pub memory_mib: u64,
    /// Memory in MiB that it was started with, and may be given again without a reboot.
    pub memory_max_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// Its share of the processors, where it was given one.
    pub cpu: Option<CpuShare>,
    /// What executes its code; not known of domains that an older version started.
    pub accel: Option<Accel>,
    /// When it was started.
    pub started: Timestamp,
    /// Which part it has in a move between nodes, if it has one.
    pub moving: Option<Moving>,
}

/// The part of a domain in a move between nodes, written down before it can have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moving {
    /// Its memory goes to another node, or has gone.
    Leaving {
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

/// A share of the node's processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuShare {
    /// Weight against other domains; 256 is plain.
    pub weight: u32,
    /// Most that all its CPUs together may use, in percent of one processor.
    pub cap_percent: Option<u32>,
}

/// The record as it is stored. Version 1 had no more memory than it used, and knew no share and no accelerator. Version 3
/// is written only of a domain that moves: whoever does not know of moves must not take it for an ordinary one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRecord {
    version: u32,
    sliver: String,
    uuid: String,
    boot: String,
    memory_mib: u64,
    #[serde(default)]
    memory_max_mib: Option<u64>,
    vcpus: u32,
    publish: Vec<StoredPublish>,
    #[serde(default)]
    cpu: Option<StoredShare>,
    #[serde(default)]
    accel: Option<Accel>,
    started_unix_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moving: Option<StoredMoving>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum StoredMoving {
    Leaving { migration: String, epoch: u64 },
    Arriving { migration: String },
}

/// A published port as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredPublish {
    guest: u16,
    host: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredShare {
    weight: u32,
    cap_percent: Option<u32>,
}

const RECORD_VERSION: u32 = 2;
const RECORD_VERSION_MOVING: u32 = 3;
const RECORD_VERSION_OLDEST: u32 = 1;

impl Record {
    /// Reads the record in `path`. `None`: there is none.
    ///
    /// # Errors
    /// [`RecordError`] if there is one that cannot be used.
    pub fn read(path: &Path) -> Result<Option<Self>, RecordError> {
        let Some(stored) = read_json::<StoredRecord>(path)? else {
            return Ok(None);
        };
        stored.into_record().map(Some).map_err(|what| RecordError::Value {
            path: path.to_owned(),
            what,
        })
    }

    /// Writes the record to `path` so that it survives a power failure.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), RecordError> {
        write_json(path, &StoredRecord::from(self))
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

impl From<&Record> for StoredRecord {
    fn from(record: &Record) -> Self {
        let share = |share: CpuShare| StoredShare {
            weight: share.weight,
            cap_percent: share.cap_percent,
        };
        Self {
            version: match record.moving {
                None => RECORD_VERSION,
                Some(_) => RECORD_VERSION_MOVING,
            },
            sliver: record.sliver.to_string(),
            uuid: record.uuid.to_string(),
            boot: record.boot.to_string(),
            memory_mib: record.memory_mib,
            memory_max_mib: Some(record.memory_max_mib),
            vcpus: record.vcpus,
            publish: record.publish.iter().map(StoredPublish::from).collect(),
            cpu: record.cpu.map(share),
            accel: record.accel,
            started_unix_ms: record.started.0,
            moving: record.moving.map(StoredMoving::from),
        }
    }
}

impl StoredRecord {
    fn into_record(self) -> Result<Record, String> {
        if !(RECORD_VERSION_OLDEST..=RECORD_VERSION_MOVING).contains(&self.version) {
            return Err(format!(
                "its version is {}, not {RECORD_VERSION_OLDEST} to {RECORD_VERSION_MOVING}",
                self.version
            ));
        }
        let share = |share: StoredShare| CpuShare {
            weight: share.weight,
            cap_percent: share.cap_percent,
        };
        Ok(Record {
            sliver: SliverId::parse_embodiment(&self.sliver).map_err(|error| error.to_string())?,
            uuid: DomainUuid::parse(&self.uuid).map_err(|error| error.to_string())?,
            boot: Digest::parse(&self.boot).map_err(|error| error.to_string())?,
            memory_mib: self.memory_mib,
            memory_max_mib: self.memory_max_mib.unwrap_or(self.memory_mib),
            vcpus: self.vcpus,
            publish: self.publish.into_iter().map(Publish::from).collect(),
            cpu: self.cpu.map(share),
            accel: self.accel,
            started: Timestamp(self.started_unix_ms),
            moving: self.moving.map(StoredMoving::into_moving).transpose()?,
        })
    }
}

impl From<Moving> for StoredMoving {
    fn from(moving: Moving) -> Self {
        match moving {
            Moving::Leaving { migration, epoch } => Self::Leaving {
                migration: migration.to_string(),
                epoch: epoch.0,
            },
            Moving::Arriving { migration } => Self::Arriving {
                migration: migration.to_string(),
            },
        }
    }
}

impl StoredMoving {
    fn into_moving(self) -> Result<Moving, String> {
        let parse = |text: &str| MigrationId::parse(text).map_err(|error| error.to_string());
        Ok(match self {
            Self::Leaving { migration, epoch } => Moving::Leaving {
                migration: parse(&migration)?,
                epoch: Epoch(epoch),
            },
            Self::Arriving { migration } => Moving::Arriving {
                migration: parse(&migration)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn record() -> Record {
        Record {
            sliver: SliverId::parse("web/0").unwrap(),
            uuid: DomainUuid([7; 16]),
            boot: Digest::of(b"boot"),
            memory_mib: 128,
            memory_max_mib: 256,
            vcpus: 1,
            publish: vec![Publish {
                guest: 80,
                host: 8080,
            }],
            cpu: Some(CpuShare {
                weight: 512,
                cap_percent: Some(50),
            }),
            accel: Some(Accel::Tcg),
            started: Timestamp(5),
            moving: None,
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("domain.json");
        assert_eq!(Record::read(&path).unwrap(), None);
        record().write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), Some(record()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let migration = MigrationId([0xa7; 16]);
        for moving in [
            Moving::Leaving {
                migration,
                epoch: Epoch(7),
            },
            Moving::Arriving { migration },
        ] {
            let moves = Record {
                moving: Some(moving),
                ..record()
            };
            moves.write(&path).unwrap();
            assert_eq!(Record::read(&path).unwrap(), Some(moves));
            assert!(fs::read_to_string(&path).unwrap().contains("\"version\": 3"));
        }
    }

    /// A guest may well outlive the version of the agent that started it.
    #[test]
    fn a_record_of_the_first_version_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("domain.json");
        let new = record();
        let old = serde_json::json!({
            "version": 1, "sliver": "web/0", "uuid": new.uuid.to_string(), "boot": new.boot.to_string(),
            "memory_mib": 128, "vcpus": 1, "publish": [{ "guest": 80, "host": 8080 }], "started_unix_ms": 5,
        });
        fs::write(&path, old.to_string()).unwrap();
        let expected = Record {
            memory_max_mib: 128,
            cpu: None,
            accel: None,
            ..new
        };
        assert_eq!(Record::read(&path).unwrap(), Some(expected));
    }

    #[test]
    fn a_record_of_another_version_or_form_is_an_error_and_not_an_absence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("domain.json");
        record().write(&path).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        for (from, to) in [
            ("\"version\": 2", "\"version\": 4"),
            ("\"version\": 2", "\"version\": 0"),
            ("web/0", "web"),
            ("\"vcpus\"", "\"vcpuz\""),
            ("{", "garbage"),
            ("sha256:", "md5:"),
            ("\"tcg\"", "\"hand\""),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good);
            fs::write(&path, bad).unwrap();
            Record::read(&path).unwrap_err();
        }
    }
}
