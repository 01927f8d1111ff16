//! A machine of the Xen laboratory: booted or resumed, asked over ssh, ended.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::lab::process::Daemon;
use crate::lab::{LabError, LabResult, ensure, wait_for};

/// How long something may take that happens on an emulated CPU which others share.
pub const DEADLINE: Duration = Duration::from_secs(600);

/// A machine that runs.
#[derive(Debug)]
pub struct Machine {
    id: u8,
}

impl Machine {
    /// Starts machine 1 or 2 on a fresh disk: from its snapshot if one was kept, else it boots. The files below `data` are
    /// below `/srv/data` there.
    ///
    /// # Errors
    /// What `lab` said.
    pub fn start(id: u8, data: &Path) -> LabResult<Self> {
        // From here on it is ended, also if it does not come up.
        let machine = Self { id };
        machine.power_off()?;
        let how = if machine.dir().join("snapshot.state").exists() {
            "resume"
        } else {
            "up"
        };
        lab(&[how, "--data", &data.to_string_lossy(), &id.to_string()])?;
        Ok(machine)
    }

    /// 1 or 2.
    #[must_use]
    pub fn id(&self) -> u8 {
        self.id
    }

    /// Ends it at once: for its dom0 and all guests a power failure.
    ///
    /// # Errors
    /// What `lab` said.
    pub fn power_off(&self) -> LabResult<()> {
        lab(&["down", &self.id.to_string()]).map(drop)
    }

    /// Boots it again from the disks that it lost power over.
    ///
    /// # Errors
    /// What `lab` said.
    pub fn boot_again(&self) -> LabResult<()> {
        lab(&["up", "--again", &self.id.to_string()]).map(drop)
    }

    /// Runs a shell command in dom0. Its exit code is for the caller.
    ///
    /// # Errors
    /// If ssh cannot be run.
    pub fn output(&self, command: &str) -> LabResult<Output> {
        Command::new(script())
            .args(["ssh", &self.id.to_string(), command])
            .output()
            .map_err(LabError::io(format!("running {command:?} in dom0")))
    }

    /// Runs a shell command in dom0 that has to succeed; what it printed.
    ///
    /// # Errors
    /// What it said if it failed.
    pub fn run(&self, command: &str) -> LabResult<String> {
        let output = self.output(command)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure(output.status.success(), || {
            format!(
                "{command:?} in dom0: {}\n{said}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        Ok(said)
    }

    /// Runs a shell command in dom0 again and again until `wanted` finds in its output what it looks for. Whether the command
    /// succeeds does not matter.
    ///
    /// # Errors
    /// With what the command printed last.
    pub fn await_output<T>(
        &self,
        what: &str,
        command: &str,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> LabResult<T> {
        wait_for(what, DEADLINE, || {
            let output = self.output(command).map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&output.stdout);
            wanted(&said).ok_or_else(|| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))
        })
    }

    /// Lets dom0 reach a port of this machine's loopback by the same port of its own, until what is returned is ended.
    ///
    /// # Errors
    /// If ssh cannot be run, or the port there does not answer.
    pub fn lend_port(&self, port: u16) -> LabResult<Daemon> {
        let id = self.id.to_string();
        let forward = format!("127.0.0.1:{port}:127.0.0.1:{port}");
        // Not over the connection that commands share: it is ended by itself.
        let arguments = [
            "ssh",
            &id,
            "-S",
            "none",
            "-N",
            "-o",
            "ExitOnForwardFailure=yes",
            "-R",
            &forward,
        ];
        let log = self.dir().join("lend.log");
        let daemon = Daemon::start(&script(), &arguments, &log)?;
        self.await_output(
            &format!("port {port} to be reached from dom0"),
            &format!("curl -s --max-time 5 -o /dev/null http://127.0.0.1:{port}/health && echo answers"),
            |said| said.starts_with("answers").then_some(()),
        )?;
        Ok(daemon)
    }

    /// Copies files into a directory of dom0.
    ///
    /// # Errors
    /// What `lab` said.
    pub fn push_files(&self, directory: &str, files: &[&Path]) -> LabResult<()> {
        let id = self.id.to_string();
        let mut arguments = vec!["push-files".to_owned(), id, directory.to_owned()];
        arguments.extend(files.iter().map(|file| file.to_string_lossy().into_owned()));
        lab(&arguments).map(drop)
    }

    /// Writes a file in dom0, making its directory.
    ///
    /// # Errors
    /// What the shell there said.
    pub fn write(&self, path: &str, text: &str) -> LabResult<()> {
        use std::io::Write as _;
        let quoted = quote(path);
        let failed = || LabError::io(format!("writing {path} in dom0"));
        let mut child = Command::new(script())
            .args(["ssh", &self.id.to_string()])
            .arg(format!("mkdir -p \"$(dirname {quoted})\" && cat >{quoted}"))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .map_err(failed())?;
        child
            .stdin
            .take()
            .expect("it was asked for")
            .write_all(text.as_bytes())
            .map_err(failed())?;
        let status = child.wait().map_err(failed())?;
        ensure(status.success(), || format!("writing {path} in dom0: {status}"))
    }

    /// All that a guest has said on its console so far.
    ///
    /// # Errors
    /// If there is no such console.
    pub fn console(&self, domain: &str) -> LabResult<String> {
        self.run(&format!("cat {}", quote(&console_log(domain))))
    }

    /// Waits until a guest says `marker` on its console; its last line with it.
    ///
    /// # Errors
    /// With the end of what it said.
    pub fn await_console(&self, domain: &str, marker: &str) -> LabResult<String> {
        let log = quote(&console_log(domain));
        let command = format!(
            "grep -aF {} {log} || {{ tail -n 8 {log} >&2; false; }}",
            quote(marker)
        );
        self.await_output(&format!("{domain} to say {marker:?}"), &command, |said| {
            Some(said.lines().next_back()?.trim_end().to_owned())
        })
    }

    /// Domains as `xl list` names them, without dom0: name, id and state (`xl(1)`), in order of their names.
    ///
    /// # Errors
    /// If `xl` fails or prints something else.
    pub fn domains(&self) -> LabResult<Vec<Domain>> {
        let said = self.run("xl list")?;
        let mut domains = said
            .lines()
            .skip(1)
            .map(|line| {
                let mut words = line.split_whitespace();
                Some(Domain {
                    name: words.next()?.to_owned(),
                    id: words.next()?.parse().ok()?,
                    memory_mib: words.next()?.parse().ok()?,
                    vcpus: words.next()?.parse().ok()?,
                    state: words.next()?.to_owned(),
                })
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| LabError::Check(format!("xl list printed something else:\n{said}")))?;
        domains.retain(|domain| domain.id != 0);
        domains.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(domains)
    }

    /// The domain of this name.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn domain(&self, name: &str) -> LabResult<Domain> {
        let mut found = self.domains()?;
        found.retain(|domain| domain.name == name);
        ensure(found.len() == 1, || {
            format!("{} domains are called {name}", found.len())
        })?;
        Ok(found.remove(0))
    }

    /// Where the script keeps the machine.
    fn dir(&self) -> PathBuf {
        lab_dir().join(format!("machine{}", self.id))
    }

    /// The remote helper by which git reaches a repository in dom0 (git-remote-ext(1)).
    #[must_use]
    pub fn git_url(&self, repository: &str) -> String {
        format!("ext::{} ssh {} %S {repository}", script().display(), self.id)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Nobody is left to hear of it; the next test that wants this machine ends it first.
        let _ended = self.power_off();
    }
}

/// One domain, as `xl list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its number, another with each boot and resume.
    pub id: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Six letters: running, blocked, paused, shut down, crashed, dying.
    pub state: String,
}

/// Where the laboratory keeps everything, as its scripts know it.
#[must_use]
pub fn lab_dir() -> PathBuf {
    std::env::var_os("XEN_LAB_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/xen-lab"),
        PathBuf::from,
    )
}

/// Quotes a word for a shell.
#[must_use]
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn console_log(domain: &str) -> String {
    format!("/var/log/xen/console/guest-{domain}.log")
}

/// The laboratory's script.
pub(crate) fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("xen-lab/lab")
}

fn lab<S: AsRef<str>>(arguments: &[S]) -> LabResult<String> {
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let output = Command::new(script())
        .args(&arguments)
        .output()
        .map_err(LabError::io("running the laboratory"))?;
    ensure(output.status.success(), || {
        format!(
            "lab {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
