//! How the driver is set up.

use std::path::PathBuf;

use crate::list::NodeInfo;

/// Virtualisation of guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestKind {
    /// Paravirtualised: runs without help of the processor.
    Pv,
    /// With help of the processor, without an emulated machine.
    Pvh,
}

impl GuestKind {
    /// As xl.cfg(5) and the agent's configuration write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pv => "pv",
            Self::Pvh => "pvh",
        }
    }
}

/// How the driver is set up.
#[derive(Clone, Debug)]
pub struct XenConfig {
    /// Directory for what is kept of domains; made when missing, private to the user. Two agents never share one.
    pub state_dir: PathBuf,
    /// Directory for the memory of suspended guests; made when missing, private to the user.
    pub images_dir: PathBuf,
    /// Where `xenconsoled` writes what guests print (its `--log-dir`).
    pub console_dir: PathBuf,
    /// The program `xl`; looked for in `PATH` unless it has a slash.
    pub xl: PathBuf,
    /// The program `xeno-xl-resume`, which lets a suspended domain go on.
    pub xl_resume: PathBuf,
    /// The program `xeno-xl-gate`, which xl sends a running domain through.
    pub xl_gate: PathBuf,
    /// Socket of xenstored; `None`: the usual ones.
    pub xenstored: Option<PathBuf>,
    /// Virtualisation of guests; `None`: PVH where the node can, else PV.
    pub guest: Option<GuestKind>,
    /// Memory that dom0 keeps, whatever guests need, in MiB.
    pub dom0_reserve_mib: u64,
    /// Hotplug script of guests' interfaces, by name below `/etc/xen/scripts` or by path.
    pub vif_script: String,
    /// Where that script reads what it needs to know of a link.
    pub vif_dir: PathBuf,
    /// nft(8), by which ports are published: a program and its first arguments.
    pub nft: Vec<String>,
}

/// The usual hotplug script.
pub const VIF_SCRIPT: &str = "vif-xeno";
/// Where that script looks (`scripts/vif-xeno`).
pub const VIF_DIR: &str = "/run/xenoslice/vif";
/// Where the package puts the program that lets a suspended domain go on.
pub const XL_RESUME: &str = "/usr/lib/xenoslice/xeno-xl-resume";
/// Where the package puts the program that xl sends a running domain through.
pub const XL_GATE: &str = "/usr/lib/xenoslice/xeno-xl-gate";
/// What dom0 keeps unless the configuration says otherwise, in MiB.
pub const DOM0_RESERVE_MIB: u64 = 512;

impl XenConfig {
    /// The usual configuration: images beside the state directory, everything else as Debian's packages have it.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            images_dir: state_dir.with_file_name("images"),
            state_dir,
            console_dir: "/var/log/xen/console".into(),
            xl: "xl".into(),
            xl_resume: XL_RESUME.into(),
            xl_gate: XL_GATE.into(),
            xenstored: None,
            guest: None,
            dom0_reserve_mib: DOM0_RESERVE_MIB,
            vif_script: VIF_SCRIPT.to_owned(),
            vif_dir: VIF_DIR.into(),
            nft: vec!["nft".to_owned()],
        }
    }
}

impl GuestKind {
    /// Whether guests of this kind run on a node.
    pub(crate) fn runs_on(self, node: &NodeInfo) -> bool {
        match self {
            Self::Pv => node.runs_pv(),
            Self::Pvh => node.runs_pvh(),
        }
    }

    /// Reads [`GuestKind::word`].
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pv, Self::Pvh].into_iter().find(|kind| kind.word() == word)
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the state directory {}", path.display())]
pub struct ConfigError {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

impl XenConfig {
    /// Makes the state directory private and its path final.
    pub(crate) fn prepare(&self) -> Result<PathBuf, ConfigError> {
        let failed = |source| ConfigError {
            path: self.state_dir.clone(),
            source,
        };
        xeno_kept::files::make_private(&self.state_dir).map_err(failed)?;
        // A domain is ours if it names this path, and an xl at work is found by it: there must be one spelling.
        let path = std::fs::canonicalize(&self.state_dir).map_err(failed)?;
        let plain = path
            .to_str()
            .is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
        if plain {
            Ok(path)
        } else {
            Err(failed(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "its path must be of printable ASCII without spaces",
            )))
        }
    }
}
