//! What `xeno doctor` should know about this driver.

use crate::accel::{self, Accel, AccelChoice};
use crate::chain;
use crate::driver::QemuDriver;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What was looked at, in a word or two.
    pub name: &'static str,
    /// How it is.
    pub status: FactStatus,
    /// What was found.
    pub what: String,
    /// What to do about it, where something can be done.
    pub help: Option<String>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FactStatus {
    /// As it should be.
    Good,
    /// Guests run, but something could be better.
    Limited,
    /// Guests cannot run.
    Missing,
}

impl QemuDriver {
    /// Looks at what guests need on this node. Starts no guest and changes nothing.
    pub async fn facts(&self) -> Vec<Fact> {
        let mut facts = Vec::new();
        match self.config().find_qemu() {
            None => facts.push(Fact {
                name: "qemu",
                status: FactStatus::Missing,
                what: format!("no {} in PATH", crate::config::QEMU_NAME),
                help: Some("apt install qemu-system-x86".into()),
            }),
            Some(qemu) => {
                facts.push(match accel::qemu_version(&qemu).await {
                    Ok(version) => Fact {
                        name: "qemu",
                        status: FactStatus::Good,
                        what: format!("{version} at {}", qemu.display()),
                        help: None,
                    },
                    Err(error) => Fact {
                        name: "qemu",
                        status: FactStatus::Missing,
                        what: chain(&error),
                        help: Some("apt install --reinstall qemu-system-x86".into()),
                    },
                });
                facts.push(self.accel_fact(&qemu).await);
            }
        }
        let xeno = &self.config().xeno_binary;
        let there = xeno.is_file();
        facts.push(Fact {
            name: "forwarder",
            status: if there {
                FactStatus::Good
            } else {
                FactStatus::Missing
            },
            what: if there {
                format!("guests reach their exports through {}", xeno.display())
            } else {
                format!("{} is gone: guests cannot reach their exports", xeno.display())
            },
            help: (!there)
                .then(|| "put the program back, or start the agent again from where it is now".into()),
        });
        facts.push(self.cpu_fact());
        facts.extend(self.silent_ones().into_iter().map(|sliver| Fact {
            name: "silent",
            status: FactStatus::Limited,
            what: format!("the QEMU of {sliver} is there and does not answer: it is taken to run, and nothing is started twice"),
            help: Some(
                "look at its process and its qemu.log; `state: stopped` destroys it, whether it answers or not".into(),
            ),
        }));
        facts
    }

    fn cpu_fact(&self) -> Fact {
        match self.cpu() {
            Ok(groups) => Fact {
                name: "cpu limits",
                status: FactStatus::Good,
                what: format!("weight and cap are kept by {}", groups.describe()),
                help: None,
            },
            Err(why) => Fact {
                name: "cpu limits",
                status: FactStatus::Limited,
                what: format!("weight and cap of guests are not kept, because {why}"),
                help: Some(
                    "give the agent's unit Delegate=cpu, or name a group of its user as `cgroup` in [hypervisor]".into(),
                ),
            },
        }
    }

    async fn accel_fact(&self, qemu: &std::path::Path) -> Fact {
        let verdict = match self.config().accel {
            AccelChoice::Always(accel) => Some((accel, "the configuration says so".to_owned())),
            AccelChoice::Auto => {
                let known = accel::known(self.state_dir(), qemu).await;
                known.map(|verdict| (verdict.accel, verdict.why))
            }
        };
        let (status, what, help) = match verdict {
            Some((Accel::Kvm, why)) => (FactStatus::Good, format!("kvm: {why}"), None),
            Some((Accel::Tcg, why)) => (
                FactStatus::Limited,
                format!("tcg, in software and several times slower than kvm: {why}"),
                Some(
                    "enable virtualisation in the firmware or the outer hypervisor, and join the group kvm"
                        .into(),
                ),
            ),
            None => (
                FactStatus::Good,
                "/dev/kvm is there; the first guest to boot will find out whether it works".into(),
                None,
            ),
        };
        Fact {
            name: "acceleration",
            status,
            what,
            help,
        }
    }
}
