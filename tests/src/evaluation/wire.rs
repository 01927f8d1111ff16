//! What goes over the link between the two machines: bytes, frames, and calls of the far NFS server.

use serde::{Deserialize, Serialize};

use crate::lab::{LabError, LabResult};
use crate::xen_lab::machine::Machine;

/// The slow link: each machine delays and shapes what it sends.
pub const DELAY_MS: u32 = 50;
/// Its rate in each direction.
pub const RATE_MBIT: u32 = 4;

/// What went over the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// Bytes towards the node, Ethernet headers included.
    pub bytes_in: u64,
    /// Bytes away from it.
    pub bytes_out: u64,
    /// Frames in both directions.
    pub frames: u64,
    /// Calls that the far NFS server answered.
    pub calls: u64,
}

impl Wire {
    /// The counters as they are now.
    ///
    /// # Errors
    /// If a machine does not say.
    pub fn counted(node: &Machine, far: &Machine) -> LabResult<Self> {
        let said =
            node.run("cd /sys/class/net/eth1/statistics && cat rx_bytes tx_bytes rx_packets tx_packets")?;
        let numbers: Vec<u64> = said.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let calls = far.run("sed -n 's/^rpc \\([0-9]*\\) .*/\\1/p' /proc/net/rpc/nfsd")?;
        match (numbers.as_slice(), calls.trim().parse()) {
            (&[bytes_in, bytes_out, frames_in, frames_out], Ok(calls)) => Ok(Self {
                bytes_in,
                bytes_out,
                frames: frames_in + frames_out,
                calls,
            }),
            _ => Err(LabError::Check(format!("no counters in {said:?}, {calls:?}"))),
        }
    }

    /// What came after an earlier look.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            bytes_in: self.bytes_in.saturating_sub(before.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(before.bytes_out),
            frames: self.frames.saturating_sub(before.frames),
            calls: self.calls.saturating_sub(before.calls),
        }
    }

    /// Bytes in both directions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes_in + self.bytes_out
    }
}

/// Makes the link between the machines as slow as it is to be measured (tc-netem(8)).
///
/// # Errors
/// What `tc` said.
pub fn slow(machines: &[&Machine]) -> LabResult<()> {
    for machine in machines {
        machine.run(&format!(
            "modprobe sch_netem && tc qdisc replace dev eth1 root netem delay {DELAY_MS}ms rate {RATE_MBIT}mbit"
        ))?;
    }
    Ok(())
}
