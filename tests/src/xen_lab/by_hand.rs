//! Guests of the laboratory's own, made with `xl` alone: strangers to the node.

use super::machine::Machine;
use crate::lab::{LabError, LabResult, ensure};

/// Name of the guest that `/srv/lab/memory.cfg` makes.
pub const STRANGER: &str = "stranger";

/// A domain that somebody made with `xl create`, which counts on its console.
#[derive(Debug)]
pub struct Stranger {
    boot: String,
    id: u32,
    ticks: u64,
}

impl Stranger {
    /// Makes it and waits until it counts.
    ///
    /// # Errors
    /// What `xl` said, or that it does not come up.
    pub fn create(machine: &Machine) -> LabResult<Self> {
        // What one before it said, before a power failure perhaps, is not to be taken for its word.
        machine.run("rm -f /var/log/xen/console/guest-stranger.log && xl create -q /srv/lab/memory.cfg")?;
        let line = machine.await_console(STRANGER, "lab-guest: tick")?;
        let (ticks, boot) = tick(&line)?;
        Ok(Self {
            boot,
            id: machine.domain(STRANGER)?.id,
            ticks,
        })
    }

    /// Fails unless it is the same domain as ever, and counts on.
    ///
    /// # Errors
    /// If it was started anew, or stands still.
    pub fn ensure_undisturbed(&mut self, machine: &Machine) -> LabResult<()> {
        let domain = machine.domain(STRANGER)?;
        ensure(domain.id == self.id, || {
            format!("the stranger is domain {} and was {}", domain.id, self.id)
        })?;
        let before = self.ticks;
        let (ticks, boot) = machine.await_output(
            "the stranger to count on",
            "tail -n 2 /var/log/xen/console/guest-stranger.log",
            |said| {
                let found = said.lines().rev().find_map(|line| tick(line).ok())?;
                (found.0 > before).then_some(found)
            },
        )?;
        ensure(boot == self.boot, || "the stranger was booted again".to_owned())?;
        self.ticks = ticks;
        Ok(())
    }
}

/// The count and the boot of a line `lab-guest: tick N boot ID`.
fn tick(line: &str) -> LabResult<(u64, String)> {
    let mut words = line
        .trim()
        .strip_prefix("lab-guest: tick ")
        .into_iter()
        .flat_map(|rest| rest.split(' '));
    match (
        words.next().and_then(|word| word.parse().ok()),
        words.next(),
        words.next(),
    ) {
        (Some(count), Some("boot"), Some(boot)) => Ok((count, boot.to_owned())),
        _ => Err(LabError::Check(format!("no tick: {line:?}"))),
    }
}
