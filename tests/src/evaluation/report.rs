//! What was measured, as a file: document and picture can be made anew without measuring anew.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::sizes::Size;
use super::timeline::Timeline;
use super::wire::Wire;
use crate::lab::{LabError, LabResult};

/// Everything that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What the program says of its version.
    pub program: String,
    /// What the hypervisor says of its version.
    pub xen: String,
    /// The root that all services lie over.
    pub base: Size,
    /// Overlays of services.
    pub overlays: Vec<Overlay>,
    /// How many times longer the same program takes in dom0 than outside, in milliseconds each.
    pub emulation: Vec<Emulation>,
    /// What was deployed, in order.
    pub deployments: Vec<Deployment>,
}

/// The overlay of one service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overlay {
    /// What it is called here.
    pub name: String,
    /// Packages that were installed for it.
    pub packages: Vec<String>,
    /// What of it there is.
    pub size: Size,
}

/// One program, here and there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Emulation {
    /// What it does.
    pub what: String,
    /// Processor time on this machine.
    pub outside_ms: u64,
    /// Processor time in dom0.
    pub dom0_ms: u64,
}

impl Emulation {
    /// How many times longer it takes in dom0.
    #[must_use]
    pub fn factor(&self) -> f64 {
        ratio(self.dom0_ms, self.outside_ms)
    }
}

/// One sliver that came up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deployment {
    /// How it came about.
    pub kind: Kind,
    /// Where its files were.
    pub place: Place,
    /// What was done when.
    pub timeline: Timeline,
    /// What went over the link to the other machine.
    pub wire: Wire,
    /// Bytes of the commit that asked for it, as git packs them.
    pub commit_bytes: u64,
    /// Processor time of the agent meanwhile.
    pub agent_cpu_ms: u64,
    /// Processor time of the file server meanwhile.
    pub cowfs_cpu_ms: u64,
}

/// How a sliver comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// From its kernel, without anything of it being here.
    BootNew,
    /// From the image of its memory.
    ResumeSuspended,
}

/// Where the files of a sliver are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Template and overlay are on the node.
    Near,
    /// The template is on the node, the overlay at the far end of the slow link.
    Far,
    /// The whole root is at the far end, and everything is done with `xl`.
    ByHand,
}

impl Report {
    /// The deployment of this kind and place.
    #[must_use]
    pub fn deployment(&self, kind: Kind, place: Place) -> Option<&Deployment> {
        self.deployments
            .iter()
            .find(|one| one.kind == kind && one.place == place)
    }

    /// Reads one that was kept.
    ///
    /// # Errors
    /// [`LabError`] naming the file.
    pub fn read(path: &Path) -> LabResult<Self> {
        let text = std::fs::read(path).map_err(LabError::io(format!("reading {}", path.display())))?;
        serde_json::from_slice(&text)
            .map_err(|error| LabError::Check(format!("{} is no report: {error}", path.display())))
    }

    /// Keeps it.
    ///
    /// # Errors
    /// [`LabError`] naming the file.
    pub fn keep(&self, path: &Path) -> LabResult<()> {
        let text = serde_json::to_string_pretty(self).map_err(|error| LabError::Check(error.to_string()))?;
        crate::lab::write(path, &(text + "\n"))
    }
}

/// One number over another; 0 over nothing.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^52")]
pub fn ratio(one: u64, other: u64) -> f64 {
    if other == 0 {
        0.0
    } else {
        one as f64 / other as f64
    }
}
