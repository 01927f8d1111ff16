//! What `xeno doctor` should know about this driver.

use std::path::{Path, PathBuf};

use xeno_reconciler::ports::{DriverFact, Soundness};

use crate::blocking;
use crate::driver::XenDriver;
use crate::list::NodeInfo;
use crate::tuning::scheduler_verb;

/// Where xl looks for hotplug scripts.
pub(crate) const SCRIPTS: &str = "/etc/xen/scripts";

impl XenDriver {
    /// Looks at what guests need on this node. Changes nothing.
    pub(crate) async fn facts(&self) -> Vec<DriverFact> {
        let mut facts = Vec::new();
        match self.info().await {
            Ok(info) => facts.extend(self.node_facts(&info).await),
            Err(error) => facts.push(bad(
                "xl",
                format!("{error}\napt install xen-system-amd64, and start the machine with Xen"),
            )),
        }
        facts.push(match self.store().await {
            Ok(_) => good("xenstored", format!("answers at {}", self.xenstored().display())),
            Err(error) => bad(
                "xenstored",
                format!("{error}\nstart Xen's services: systemctl start xen"),
            ),
        });
        facts.push(self.script_fact());
        facts.push(match self.publisher().observe().await {
            Ok(published) => good("published ports", format!("{} by nftables", published.len())),
            Err(error) => bad("published ports", format!("{error}\napt install nftables")),
        });
        facts.push(self.console_fact().await);
        facts
    }

    async fn node_facts(&self, info: &NodeInfo) -> Vec<DriverFact> {
        let mut facts = Vec::new();
        let version = info.get("xen_version").unwrap_or("of an unknown version");
        facts.push(good("xl", format!("Xen {version}")));
        let kind = self.kind().await.map_or("?", crate::config::GuestKind::word);
        let caps = info.get("virt_caps").unwrap_or("none");
        facts.push(match kind {
            "pvh" if !info.runs_pvh() => bad(
                "guests",
                format!("are to be pvh, and this node cannot ({caps})\nset `guest = \"pv\"` in [hypervisor], or enable virtualisation in the firmware"),
            ),
            "pv" if !info.runs_pv() => {
                bad("guests", format!("are to be pv, and this hypervisor was built without it ({caps})"))
            }
            kind => good("guests", format!("are {kind}; the node can do: {caps}")),
        });
        facts.push(self.moves_fact(info).await);
        let scheduler = info.get("xen_scheduler").unwrap_or("?");
        facts.push(if scheduler_verb(scheduler).is_some() {
            good("cpu limits", format!("weight and cap are kept by {scheduler}"))
        } else {
            fair(
                "cpu limits",
                format!(
                    "weight and cap are not kept: the scheduler is {scheduler}\nboot Xen with sched=credit2"
                ),
            )
        });
        facts.push(self.memory_fact(info).await);
        facts
    }

    /// How guests leave for other nodes.
    async fn moves_fact(&self, info: &NodeInfo) -> DriverFact {
        let config = self.config();
        let missing = [&config.xl_gate, &config.xl_resume]
            .into_iter()
            .find(|program| rustix::fs::access(program.as_path(), rustix::fs::Access::EXEC_OK).is_err());
        if let Some(program) = missing {
            return bad(
                "moves",
                format!(
                    "{} cannot be run\ninstall the one that comes with Xenoslice",
                    program.display()
                ),
            );
        }
        match self.kind().await {
            Ok(kind) if info.moves_running(kind) => good("moves", "guests run while they move".to_owned()),
            Ok(_) => fair(
                "moves",
                "guests stand still while their memory is sent: this hypervisor does not notice what they write\nuse pvh guests, or a Xen that was built with shadow paging".to_owned(),
            ),
            Err(error) => bad("moves", error.what),
        }
    }

    async fn memory_fact(&self, info: &NodeInfo) -> DriverFact {
        let reserve = self.config().dom0_reserve_mib;
        let free = info.free_mib().unwrap_or(0);
        let fixed = info
            .get("xen_commandline")
            .is_some_and(|line| line.split(' ').any(|word| word.starts_with("dom0_mem=")));
        let dom0 = match self.rows().await {
            Ok(rows) => rows
                .into_iter()
                .find(|listed| listed.domid == 0)
                .map_or(0, |dom0| dom0.memory_mib),
            Err(error) => return bad("memory", error.what),
        };
        let text = format!("dom0 has {dom0} MiB of which it keeps {reserve}; {free} MiB are free for guests");
        if dom0 < reserve {
            return fair(
                "memory",
                format!("{text}\ngive dom0 more, or set a smaller `dom0_reserve` in [hypervisor]"),
            );
        }
        if fixed {
            good("memory", text)
        } else {
            fair(
                "memory",
                format!(
                    "{text}; dom0's is not fixed, so it shrinks as guests come\nboot Xen with dom0_mem={reserve}M,max:{reserve}M or more"
                ),
            )
        }
    }

    fn script_fact(&self) -> DriverFact {
        let path = Path::new(SCRIPTS).join(&self.config().vif_script);
        let runs = rustix::fs::access(&path, rustix::fs::Access::EXEC_OK);
        match runs {
            Ok(()) => good("hotplug script", format!("{}", path.display())),
            Err(error) => bad(
                "hotplug script",
                format!(
                    "{} cannot be run: {error}\ninstall the one that comes with Xenoslice",
                    path.display()
                ),
            ),
        }
    }

    async fn console_fact(&self) -> DriverFact {
        let dir: PathBuf = self.config().console_dir.clone();
        let logs = blocking(consoles_are_logged).await;
        match logs {
            Some(true) => good("consoles", format!("what guests print is kept in {}", dir.display())),
            Some(false) => fair(
                "consoles",
                "xenconsoled keeps nothing of what guests print, so `xeno logs` and console checks see nothing\nset \
                 XENCONSOLED_TRACE=guest in /etc/default/xen, and restart it"
                    .to_owned(),
            ),
            None => bad("consoles", "xenconsoled does not run: guests cannot print\nsystemctl start xenconsoled".to_owned()),
        }
    }
}

/// Whether the console daemon keeps what guests print; `None`: it does not run.
fn consoles_are_logged() -> Option<bool> {
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|entry| {
        let args = std::fs::read(entry.path().join("cmdline")).ok()?;
        let mut words = args.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let program = words.next()?;
        program
            .ends_with("xenconsoled")
            .then(|| words.any(|word| matches!(word.strip_prefix("--log="), Some("guest" | "all"))))
    })
}

fn good(what: &'static str, text: String) -> DriverFact {
    fact(what, Soundness::Good, text)
}

fn fair(what: &'static str, text: String) -> DriverFact {
    fact(what, Soundness::Fair, text)
}

fn bad(what: &'static str, text: String) -> DriverFact {
    fact(what, Soundness::Bad, text)
}

fn fact(what: &'static str, soundness: Soundness, text: String) -> DriverFact {
    DriverFact {
        what,
        soundness,
        text,
    }
}
