//! `xeno doctor`: is this machine fit?

use std::path::{Path, PathBuf};

use clap::Args;
use xeno_agent::AgentConfig;
use xeno_agent::api::{FORMAT_VERSION, Fact, FactState};
use xeno_agent::api_client::{ApiClient, ClientError};
use xeno_qemu::Accel;

use super::doctor_node;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome, chain};
use crate::link::{AgentArgs, wait};
use crate::output::{self, BAD, FAIR, GOOD, TextFormat, ago, bytes, paint};

/// Where configuration and state are unless somebody says otherwise.
const DEFAULT_CONFIG: &str = "/etc/xenoslice/agent.toml";
const DEFAULT_STATE: &str = "/var/lib/xenoslice";

/// Below this much space, imports and writes are about to fail.
const SPACE_BAD: u64 = 100 << 20;
/// Below this much space, it is time to do something.
const SPACE_FAIR: u64 = 2 << 30;

/// Any clock that is right is later than this: 2026-01-01. Certificates, signatures and waits all lean on it.
const CLOCK_MIN_MS: u64 = 1_767_225_600_000;

/// Checks whether this machine is fit to be a node, and says what to do where it is not.
#[derive(Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    agent: AgentArgs,
    /// The agent's configuration, for what only its directory tells [default: /etc/xenoslice/agent.toml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

pub(crate) fn run(args: &Doctor) -> Outcome {
    let config = match &args.config {
        Some(path) => Some(
            AgentConfig::read(path)
                .map_err(|error| Failure::doing(format_args!("read {}", path.display()), &error))?,
        ),
        // Where there is none, or not for this user, less is known.
        None => AgentConfig::read(Path::new(DEFAULT_CONFIG)).ok(),
    };
    let state = config
        .as_ref()
        .map_or(Path::new(DEFAULT_STATE), |config| config.state_dir.as_path());
    let client = match (&args.config, &config) {
        (Some(_), Some(config)) => ApiClient::new(&config.socket),
        (_, _) => args.agent.client(),
    };
    let mut facts = wait(async { Ok(agent(&client).await) })?;
    // A running agent knows more of its own hypervisor; where there is none, its directory may tell.
    let on_xen = facts.iter().any(|fact| fact.what == "xl")
        || matches!(&config, Some(config) if config.hypervisor.kind() == "xen");
    if !on_xen
        && !facts.iter().any(|fact| fact.what == "acceleration")
        && let Some(verdict) = wait(async { Ok(verdict(state).await) })?
    {
        facts.push(verdict);
    }
    for (what, look) in [("qemu", qemu as fn() -> Fact), ("acceleration", acceleration)] {
        if !on_xen && !facts.iter().any(|fact| fact.what == what) {
            facts.push(look());
        }
    }
    if let Some(config) = &config {
        facts.extend(wait(async { Ok(doctor_node::file_server(config).await) })?);
        facts.extend(wait(async { Ok(doctor_node::board(config).await) })?);
    }
    if on_xen {
        facts.push(doctor_node::packet_filter());
    }
    facts.push(busybox());
    facts.push(clock());
    facts.push(space(state));
    let worst = if facts.iter().any(|fact| fact.state == FactState::Bad) {
        Exit::Failed
    } else {
        Exit::Done
    };
    match args.output {
        TextFormat::Json => output::json(&xeno_agent::api::Doctor {
            format_version: FORMAT_VERSION,
            facts,
        })?,
        TextFormat::Text => output::styled(&facts.iter().map(line).collect::<String>())?,
    }
    Ok(worst)
}

fn line(fact: &Fact) -> String {
    let (style, word) = match fact.state {
        FactState::Good => (GOOD, "ok  "),
        FactState::Fair => (FAIR, "warn"),
        FactState::Bad => (BAD, "fail"),
    };
    let text = output::clean(&fact.text).replace('\n', &format!("\n{:22}", ""));
    format!(
        "{}  {:<14}  {text}\n",
        paint(style, word),
        output::clean(&fact.what)
    )
}

pub(super) fn fact(what: &str, state: FactState, text: impl Into<String>) -> Fact {
    Fact {
        what: what.to_owned(),
        state,
        text: text.into(),
    }
}

/// What is said of an agent already, from its status.
const TOLD: [&str; 3] = ["agent", "git", "repository"];

/// What an agent says, beginning with whether there is one.
async fn agent(client: &ApiClient) -> Vec<Fact> {
    let status = match client.status().await {
        Ok(status) => status,
        Err(error @ ClientError::NoAgent { .. }) => {
            let text = format!(
                "nobody answers: {}\nstart one with `xeno agent --config FILE`, or name its socket with --socket",
                chain(&error)
            );
            return vec![fact("agent", FactState::Bad, text)];
        }
        Err(error) => return vec![fact("agent", FactState::Bad, chain(&error))],
    };
    let own = env!("CARGO_PKG_VERSION");
    let mut facts = vec![if status.node.version == own {
        fact(
            "agent",
            FactState::Good,
            format!("{} answers for {}", own, status.node.name),
        )
    } else {
        let text = format!(
            "the agent is version {}, this program {own}: restart the agent",
            status.node.version
        );
        fact("agent", FactState::Fair, text)
    }];
    let source = &status.source;
    let read = source
        .read_ms
        .map_or_else(|| "never".to_owned(), |at| ago(at, status.node.now_ms));
    facts.push(match &source.failure {
        None => fact(
            "git",
            FactState::Good,
            format!("{} {}, read {read}", source.repository, source.branch),
        ),
        Some(why) => fact(
            "git",
            FactState::Bad,
            format!("{why}\nlast read {read}; the node keeps what it runs"),
        ),
    });
    match client.doctor().await {
        Ok(doctor) => facts.extend(
            doctor
                .facts
                .into_iter()
                .filter(|fact| !TOLD.contains(&fact.what.as_str())),
        ),
        Err(error) => facts.push(fact("agent", FactState::Bad, chain(&error))),
    }
    facts
}

/// What the agent found out by booting Linux: only its directory tells.
async fn verdict(state: &Path) -> Option<Fact> {
    let qemu = in_path(xeno_qemu::config::QEMU_NAME)?;
    let verdict = xeno_qemu::accel::known(&state.join("qemu"), &qemu).await?;
    let (state, word) = match verdict.accel {
        Accel::Kvm => (FactState::Good, "guests run on KVM"),
        Accel::Tcg => (FactState::Fair, "guests run in emulation, several times slower"),
    };
    Some(fact("acceleration", state, format!("{word}: {}", verdict.why)))
}

fn qemu() -> Fact {
    let name = xeno_qemu::config::QEMU_NAME;
    match in_path(name) {
        Some(path) => fact("qemu", FactState::Good, path.display().to_string()),
        None => fact(
            "qemu",
            FactState::Bad,
            format!("{name} is not in PATH: apt-get install qemu-system-x86"),
        ),
    }
}

/// Whether KVM could be used. Whether Linux boots on it an agent finds out with its first guest.
fn acceleration() -> Fact {
    let kvm = Path::new("/dev/kvm");
    if !kvm.exists() {
        return fact(
            "acceleration",
            FactState::Fair,
            "no /dev/kvm: guests run in emulation, several times slower",
        );
    }
    match std::fs::OpenOptions::new().read(true).write(true).open(kvm) {
        Ok(_) => fact(
            "acceleration",
            FactState::Good,
            "/dev/kvm can be opened; the agent tries whether Linux boots on it",
        ),
        Err(error) => {
            let text = format!(
                "/dev/kvm cannot be opened ({error}): add this user to the group kvm\nuntil then guests run in emulation"
            );
            fact("acceleration", FactState::Fair, text)
        }
    }
}

fn busybox() -> Fact {
    let path = cowfs::guest::default_busybox();
    if path.exists() {
        return fact("busybox", FactState::Good, path.display().to_string());
    }
    let text = format!(
        "{} is missing: `xeno template import --kernel` needs it: apt-get install busybox-static",
        path.display()
    );
    fact("busybox", FactState::Fair, text)
}

fn clock() -> Fact {
    let now = output::now_ms();
    if now < CLOCK_MIN_MS {
        return fact(
            "clock",
            FactState::Bad,
            format!("it says {}: set it, or run an NTP client", output::moment(now)),
        );
    }
    fact("clock", FactState::Good, output::moment(now))
}

/// Space on the disk of a directory, or of the nearest one above that is there.
fn space(directory: &Path) -> Fact {
    let Some(there) = directory.ancestors().find(|directory| directory.is_dir()) else {
        return fact(
            "disk",
            FactState::Fair,
            format!("{} is not there", directory.display()),
        );
    };
    match rustix::fs::statvfs(there) {
        Err(error) => fact("disk", FactState::Fair, format!("{}: {error}", there.display())),
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let text = format!("{} free below {}", bytes(free), there.display());
            match free {
                ..SPACE_BAD => fact(
                    "disk",
                    FactState::Bad,
                    format!("{text}: nothing can be imported or written"),
                ),
                SPACE_BAD..SPACE_FAIR => fact("disk", FactState::Fair, format!("{text}: make room")),
                SPACE_FAIR.. => fact("disk", FactState::Good, text),
            }
        }
    }
}

pub(super) fn in_path(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::var_os("PATH")?;
    let executable = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|there| there.is_file() && there.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(executable)
}
