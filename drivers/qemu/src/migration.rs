//! QEMU's migration: what suspend, resume and moves between nodes are made of.
//!
//! To QEMU all of them are one thing: memory goes into a descriptor that it is handed, or comes out of one. Its states are
//! in `qapi/migration.json` (`MigrationStatus`).

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use xeno_reconciler::ports::{PortError, PortResult};

use crate::domain::{Domain, END_LIMIT, RunState, SOON_STEP, await_state, disobeyed, run_state};
use crate::driver::QemuDriver;
use crate::images::is_machine;
use crate::qmp::{Qmp, QmpError};

/// QEMU paces migrations for networks; what is not told otherwise goes as fast as it can.
pub(crate) const BANDWIDTH_UNBOUND: u64 = 1 << 40;

/// Where a migration stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Migration {
    /// It is under way, and has moved so many bytes.
    Active { bytes: u64 },
    /// All of the memory has gone, or come.
    Completed,
    /// There is none.
    Ended { why: String },
}

impl Migration {
    pub(crate) fn is_active(&self) -> bool {
        match self {
            Self::Active { .. } => true,
            Self::Completed | Self::Ended { .. } => false,
        }
    }

    fn of(answer: &Value) -> Self {
        let text = |field: &str| answer.get(field).and_then(Value::as_str);
        match text("status") {
            Some("completed") => Self::Completed,
            // Without a status there has not been one.
            None | Some("none" | "cancelled" | "failed") => {
                let why = text("error-desc")
                    .or_else(|| text("status"))
                    .unwrap_or("it did not begin");
                Self::Ended {
                    why: why.chars().take(500).collect(),
                }
            }
            Some(_) => Self::Active {
                bytes: answer
                    .pointer("/ram/transferred")
                    .and_then(Value::as_u64)
                    .unwrap_or_default(),
            },
        }
    }
}

/// Asks where the migration stands.
pub(crate) async fn migration(qmp: &mut Qmp) -> Result<Migration, QmpError> {
    Ok(Migration::of(&qmp.execute("query-migrate").await?))
}

/// Ends a migration that is under way, and waits until it has ended; then the guest goes on, unless it stood still before,
/// or the migration has been completed after all.
pub(crate) async fn cancel(qmp: &mut Qmp) -> Result<(), QmpError> {
    qmp.execute("migrate_cancel").await?;
    let until = Instant::now() + END_LIMIT;
    while migration(qmp).await?.is_active() && Instant::now() < until {
        sleep(SOON_STEP).await;
    }
    Ok(())
}

/// Has the guest run, whatever became of a migration: one that is under way is ended, since at its end the guest would
/// stop. Says what it does in the end.
pub(crate) async fn run_on(qmp: &mut Qmp) -> Result<RunState, QmpError> {
    if migration(qmp).await?.is_active() {
        cancel(qmp).await?;
    }
    let until = Instant::now() + END_LIMIT;
    loop {
        match qmp.execute("cont").await {
            Ok(_) => return await_state(qmp, END_LIMIT, |state| state == RunState::Running).await,
            // "Migration is not finalized yet": its status says that it is over a moment before it is.
            Err(QmpError::Refused { .. })
                if Instant::now() < until && run_state(qmp).await? == RunState::Finishing =>
            {
                sleep(SOON_STEP).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Switches capabilities on or off (`MigrationCapability`).
pub(crate) async fn set_capabilities(qmp: &mut Qmp, all: &[(&str, bool)]) -> Result<(), QmpError> {
    let all: Vec<Value> = all
        .iter()
        .map(|(capability, state)| json!({ "capability": capability, "state": state }))
        .collect();
    qmp.execute_with("migrate-set-capabilities", json!({ "capabilities": all }))
        .await
        .map(drop)
}

/// Waits until a migration is over. Its events ([`EVENT`]) wake this; now and then it looks without, and gives up one in
/// which nothing has moved for so long.
pub(crate) async fn over(qmp: &mut Qmp, stalled_after: Option<Duration>) -> Result<Migration, QmpError> {
    let (mut moved, mut since) = (0, Instant::now());
    loop {
        match migration(qmp).await? {
            Migration::Active { bytes } if bytes != moved => (moved, since) = (bytes, Instant::now()),
            stands @ Migration::Active { .. } => {
                if stalled_after.is_some_and(|limit| since.elapsed() > limit) {
                    return Ok(stands);
                }
            }
            over => return Ok(over),
        }
        qmp.event(EVENT, LOOK_EVERY).await?;
    }
}

/// Comes whenever the status of a migration changes, where the capability `events` is on.
const EVENT: &str = "MIGRATION";
/// How often a migration is looked at without an event.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// QEMU's machine type with its version, as `-machine` takes it.
pub(crate) async fn machine(qmp: &mut Qmp) -> Result<String, QmpError> {
    let what = json!({ "path": "/machine", "property": "type" });
    let answer = qmp.execute_with("qom-get", what).await?;
    let name = answer.as_str().and_then(|name| name.strip_suffix("-machine"));
    match name.filter(|name| is_machine(name)) {
        Some(name) => Ok(name.to_owned()),
        None => Err(QmpError::Garbage(format!("the type of its machine is {answer}"))),
    }
}

impl QemuDriver {
    /// Has a domain's guest run and makes sure that it does.
    pub(crate) async fn run_on(&self, domain: &Domain) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        let went_on = async {
            // A connection of its own: another may be what failed.
            run_on(&mut domain.connect().await?).await
        };
        match went_on.await {
            Ok(RunState::Running) => Ok(()),
            Ok(state) => Err(PortError::later(format!(
                "{sliver} does not go on: it is {state:?}"
            ))),
            Err(error) => Err(disobeyed(sliver, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: &Value, expected: Migration) {
        assert_eq!(Migration::of(answer), expected, "{answer}");
    }

    #[test]
    fn what_qemu_says_of_a_migration() {
        let ended = |why: &str| Migration::Ended { why: why.into() };
        check(&json!({}), ended("it did not begin"));
        check(&json!({ "status": "cancelled" }), ended("cancelled"));
        check(
            &json!({ "status": "failed", "error-desc": "Broken pipe" }),
            ended("Broken pipe"),
        );
        check(&json!({ "status": "completed" }), Migration::Completed);
        check(
            &json!({ "status": "active", "ram": { "transferred": 7 } }),
            Migration::Active { bytes: 7 },
        );
        // What a later QEMU may call a migration that is not over.
        check(
            &json!({ "status": "wait-unplug" }),
            Migration::Active { bytes: 0 },
        );
    }
}
