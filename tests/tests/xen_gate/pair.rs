//! Two machines, one guest, and a move that is driven by hand.

use std::path::PathBuf;
use std::time::Instant;

use xeno_tests::lab::{LabError, LabResult, ensure};
use xeno_tests::xen_lab::by_hand::STRANGER;
use xeno_tests::xen_lab::machine::Machine;

/// What carries the frames of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A connection between the two programs.
    Tcp,
    /// A process of its own that can be killed.
    Process,
    /// ssh with a key that is good for nothing else, which starts the receiving program. Slow on an emulated CPU.
    Ssh,
}

/// Where the guest is after a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Here {
    /// Where it came from.
    From,
    /// Where it was to go.
    To,
}

/// The laboratory.
pub(crate) struct Pair {
    machines: [Machine; 2],
    /// Which of them has the guest.
    at: usize,
    boot: String,
    ticks: u64,
    name: &'static str,
    began: Instant,
    _data: tempfile::TempDir,
}

impl Pair {
    /// Starts both machines, and the guest on the first.
    pub(crate) fn start() -> LabResult<Self> {
        let programs = std::env::var_os("XENO_GATE_PROGRAMS").map(PathBuf::from);
        let programs = programs.ok_or_else(|| LabError::Check("XENO_GATE_PROGRAMS is not set".to_owned()))?;
        let data = tempfile::tempdir().map_err(LabError::io("making a directory"))?;
        for program in ["xen-gate", "xeno-xl-resume"] {
            std::fs::copy(programs.join(program), data.path().join(program))
                .map_err(LabError::io(format!("copying {program}")))?;
        }
        // Side by side: most of a boot is waiting.
        let second = std::thread::scope(|scope| {
            let second = scope.spawn(|| Machine::start(2, data.path()));
            let first = Machine::start(1, data.path());
            (first, second.join())
        });
        let (first, Ok(second)) = second else {
            return Err(LabError::Check("starting machine 2 panicked".to_owned()));
        };
        let pair = Self {
            machines: [first?, second?],
            at: 0,
            boot: String::new(),
            ticks: 0,
            name: "",
            began: Instant::now(),
            _data: data,
        };
        // For moves over ssh: each dom0 may start the receiving program in the other.
        let key = pair.machines[0].run("test -e /root/.ssh/gate || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/gate; cat /root/.ssh/gate")?;
        let public = pair.machines[0].run("cat /root/.ssh/gate.pub")?;
        for machine in &pair.machines {
            machine.write("/root/.ssh/gate", &key)?;
            // All that the key is good for.
            let line = format!(
                "restrict,command=\"exec /srv/data/xen-gate receive {STRANGER} 2>/run/receive.log\" {public}"
            );
            machine.write("/root/.ssh/gate.line", &line)?;
            machine
                .run("chmod 600 /root/.ssh/gate && cat /root/.ssh/gate.line >>/root/.ssh/authorized_keys")?;
        }
        pair.machines[0].run("xl create -q /srv/lab/memory.cfg")?;
        let line = pair.machines[0].await_console(STRANGER, "lab-guest: tick")?;
        let boot = line.split_whitespace().next_back().unwrap_or_default().to_owned();
        Ok(Self { boot, ..pair })
    }

    /// Begins a move to the other machine.
    pub(crate) fn begin(&mut self, name: &'static str, way: Way) -> LabResult<()> {
        (self.name, self.began) = (name, Instant::now());
        let address = format!("10.99.0.{}", 2 - self.at);
        self.to().run("rm -f /run/receive.log; : >/run/receive.log")?;
        if way != Way::Ssh {
            self.to().run(&format!(
                "(setsid /srv/data/xen-gate receive {STRANGER} {address}:7000 >/dev/null 2>/run/receive.log </dev/null & echo $! >/run/receive.pid)"
            ))?;
            self.target_says("listening")?;
        }
        let link = match way {
            Way::Tcp => format!("{address}:7000"),
            Way::Process => format!("-- /srv/data/xen-gate link {address}:7000"),
            Way::Ssh => format!(
                "-- ssh -i /root/.ssh/gate -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR {address} gate"
            ),
        };
        // Somebody keeps the pipe open, or the first order would be the last.
        self.from().run(&format!(
            "rm -f /run/orders /run/send.log; mkfifo /run/orders; \
             (setsid sh -c 'exec 3<>/run/orders; exec /srv/data/xen-gate send {STRANGER} {link} <&3' >/dev/null 2>/run/send.log & echo $! >/run/send.pid)"
        ))?;
        Ok(())
    }

    /// Sees that the guest counts on in one place, and that nothing is left in the other.
    #[expect(
        clippy::print_stdout,
        reason = "minutes pass between two cases, and somebody may be watching"
    )]
    pub(crate) fn end(&mut self, here: Here) -> LabResult<()> {
        let at = match here {
            Here::From => self.at,
            Here::To => 1 - self.at,
        };
        self.clear(1 - at)?;
        self.at = at;
        runs(&self.machines[at])?;
        let before = self.highest()?;
        let name = self.name;
        let boot = self.boot.clone();
        let ticks = self.machines[at].await_output("the guest to count on", COUNTS, |said| {
            highest(said).filter(|(ticks, _)| *ticks > before)
        })?;
        ensure(ticks.1 == boot, || format!("{name}: the guest was booted again"))?;
        ensure(ticks.0 > self.ticks, || {
            format!("{name}: it counts from {} and was at {}", ticks.0, self.ticks)
        })?;
        self.ticks = ticks.0;
        println!(
            "ok  {name}: it counts on, at {} ({} s)",
            self.ticks,
            self.began.elapsed().as_secs()
        );
        Ok(())
    }

    /// Waits until a machine has nothing of the guest. A paused copy, whose agent died, is destroyed, as its node would.
    fn clear(&self, at: usize) -> LabResult<()> {
        let machine = &self.machines[at];
        let incoming = format!("{STRANGER}--incoming");
        machine.await_output(
            &format!("{}: nothing on the other machine", self.name),
            "xl list",
            |said| {
                let mut left = said.lines().skip(2).map(|line| line.split_whitespace().next());
                left.all(|name| name == Some(incoming.as_str())).then_some(())
            },
        )?;
        for domain in machine.domains()? {
            ensure(domain.state.contains('p'), || {
                format!("{}: {domain:?} is not paused", self.name)
            })?;
            // It may be about to go by itself; that it goes is what counts.
            machine.output(&format!("xl destroy {}", domain.id))?;
        }
        machine.await_output(
            &format!("{}: nothing is left there", self.name),
            "xl list",
            |said| (said.lines().count() == 2).then_some(()),
        )
    }

    fn highest(&self) -> LabResult<u64> {
        let said = self.machines[self.at].run(COUNTS)?;
        Ok(highest(&said).map_or(0, |(ticks, _)| ticks))
    }

    /// Where the guest comes from.
    pub(crate) fn from(&self) -> &Machine {
        &self.machines[self.at]
    }

    /// Where it is to go.
    pub(crate) fn to(&self) -> &Machine {
        &self.machines[1 - self.at]
    }

    pub(crate) fn order(&self, order: &str) -> LabResult<()> {
        self.from().run(&format!("echo {order} >/run/orders")).map(drop)
    }

    pub(crate) fn source_says(&self, words: &str) -> LabResult<()> {
        self.says(self.from(), "/run/send.log", words)
    }

    pub(crate) fn target_says(&self, words: &str) -> LabResult<()> {
        self.says(self.to(), "/run/receive.log", words)
    }

    fn says(&self, machine: &Machine, log: &str, words: &str) -> LabResult<()> {
        let what = format!("{}: {words:?} in {log}", self.name);
        // xl writes there, too; what is ours says so.
        machine.await_output(&what, &format!("cat {log}"), |said| {
            let ours = said.lines().filter_map(|line| line.strip_prefix("xen-gate: "));
            ours.into_iter().any(|line| line.starts_with(words)).then_some(())
        })
    }

    pub(crate) fn until_ready(&self) -> LabResult<()> {
        self.source_says("Ready")
    }

    pub(crate) fn until_go(&self) -> LabResult<()> {
        self.order("pass-ready")?;
        self.source_says("Go")
    }

    /// The state in which `xl list` shows the guest, under its name with `suffix`.
    pub(crate) fn state(&self, machine: &Machine, suffix: &str) -> LabResult<String> {
        Ok(machine.domain(&format!("{STRANGER}{suffix}"))?.state)
    }

    /// Ends the process that is the link.
    pub(crate) fn cut_link(&self) -> LabResult<()> {
        self.from()
            .run("kill -KILL $(sed -n 's/^xen-gate: link //p' /run/send.log)")
            .map(drop)
    }

    pub(crate) fn kill_target(&self) -> LabResult<()> {
        self.to().run("kill -KILL $(cat /run/receive.pid)").map(drop)
    }

    pub(crate) fn kill_source(&self) -> LabResult<()> {
        self.from().run("kill -KILL $(cat /run/send.pid)").map(drop)
    }

    pub(crate) fn kill_xl(&self) -> LabResult<()> {
        self.from()
            .run("kill -KILL $(sed -n 's/^xen-gate: xl \\([0-9]*\\) .*/\\1/p' /run/send.log)")
            .map(drop)
    }

    /// Sends a signal to `xl migrate-receive`.
    pub(crate) fn receiver(&self, signal: &str) -> LabResult<()> {
        let pid = "$(sed -n 's/^xen-gate: xl \\([0-9]*\\)$/\\1/p' /run/receive.log)";
        self.to().run(&format!("kill -{signal} {pid}")).map(drop)
    }

    /// Waits until the guest runs at the target, under its own name.
    pub(crate) fn runs_there(&self) -> LabResult<()> {
        runs(self.to())
    }

    /// Has the guest, suspended under its name with `suffix`, go on under its own.
    pub(crate) fn resume(&self, suffix: &str) -> LabResult<()> {
        let rename = if suffix.is_empty() {
            String::new()
        } else {
            format!("{STRANGER}{suffix} {STRANGER}")
        };
        let command = format!("/srv/data/xeno-xl-resume $(xl domid {STRANGER}{suffix}) {rename}");
        self.from().run(&command).map(drop)
    }
}

/// Waits until the guest has its own name on a machine.
fn runs(machine: &Machine) -> LabResult<()> {
    machine.await_output("the guest under its own name", "xl list", |said| {
        said.lines()
            .any(|line| line.starts_with(&format!("{STRANGER} ")))
            .then_some(())
    })
}

/// The console's log has another name after a move.
const COUNTS: &str = "cat /var/log/xen/console/guest-stranger*.log";

/// The highest count on a console, and the boot that counts.
fn highest(said: &str) -> Option<(u64, String)> {
    let counts = said.lines().filter_map(|line| {
        let mut words = line.trim().strip_prefix("lab-guest: tick ")?.split(' ');
        let ticks = words.next()?.parse::<u64>().ok()?;
        (words.next()? == "boot").then_some((ticks, words.next()?.to_owned()))
    });
    counts.max()
}
