//! `xeno cowfs …`: the file server, and looking at what it keeps.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use cowfs::fsck::Report;
use cowfs::writable::WritableError;
use serde_json::{Value, json};

use super::checkpoints;
use super::stat::{self, Stat};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{self, BAD, GOOD, TextFormat, bytes, paint};
use crate::service_manager::{ServiceManager, attended};
use crate::{link, telemetry};

/// The copy-on-write file server.
#[derive(Subcommand)]
pub(crate) enum Cowfs {
    /// Serves stacks of layers over NFS until SIGTERM.
    Serve(Serve),
    /// Opens private files of overlays for a file server that is no root. Run by root.
    Lend(Lend),
    /// Checks a writable layer that nobody has open.
    ///
    /// Says where it is damaged and what can be done about it, and changes nothing. Of written content it compares lengths,
    /// not bytes. Ends with 1 where something is wrong.
    #[command(alias = "check")]
    Fsck(Check),
    /// Makes the log of a writable layer as short as it can be.
    Compact(checkpoints::Layer),
    /// Makes a checkpoint of a writable layer, to go back to.
    Checkpoint(checkpoints::Checkpoint),
    /// Lists the checkpoints of a writable layer.
    Checkpoints(checkpoints::Layer),
    /// Has a writable layer go back to a checkpoint.
    Restore(checkpoints::Restore),
    /// Shows what a running server is asked, how often, and how long it takes.
    ///
    /// Since the server made each export, or with --watch in each interval. A call takes from the moment the server has read
    /// it until its answer is made: waiting for the disk and for other calls is in it, the network is not. Half of the calls
    /// took at most what P50 says, 99 of 100 what P99 says. FAILED counts answers other than OK, also of a LOOKUP for a name
    /// that is not there.
    Stat(Stat),
}

#[derive(Args)]
pub(crate) struct Serve {
    /// The configuration; see docs/cowfs.md.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The user to serve as, where it is started by root; overrides `user` of the configuration.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

#[derive(Args)]
pub(crate) struct Lend {
    /// The socket to be asked on: `lender` in the server's configuration.
    #[arg(long, value_name = "SOCKET")]
    socket: PathBuf,
    /// User id of the file server.
    #[arg(long, value_name = "UID", required_unless_present = "agent")]
    uid: Option<u32>,
    /// The agent's configuration, which names the user and the directories.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["uid", "roots"])]
    agent: Option<PathBuf>,
    /// Directories of overlays, or what they lie below; nothing outside them is ever opened.
    #[arg(required_unless_present = "agent", value_name = "DIR")]
    roots: Vec<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Check {
    /// Directory of the writable layer. An agent keeps the first mount's of web/0 in `writable/web-0/0` of its state directory.
    layer: PathBuf,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
    /// The same as `--output json`.
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

pub(crate) fn run(command: &Cowfs) -> Outcome {
    match command {
        Cowfs::Serve(args) => serve(args),
        Cowfs::Lend(args) => lend(args),
        Cowfs::Fsck(args) => check(args),
        Cowfs::Compact(args) => checkpoints::compact(args),
        Cowfs::Checkpoint(args) => checkpoints::make(args),
        Cowfs::Checkpoints(args) => checkpoints::list(args),
        Cowfs::Restore(args) => checkpoints::restore(args),
        Cowfs::Stat(args) => stat::run(args),
    }
}

fn serve(args: &Serve) -> Outcome {
    telemetry::install("info");
    let config = cowfs::config::load(&args.config)
        .map_err(|error| Failure::doing(format_args!("read {}", args.config.display()), &error))?;
    let config = match &args.user {
        Some(user) => cowfs::config::Config {
            user: Some(user.clone()),
            ..config
        },
        None => config,
    };
    let manager = ServiceManager::from_environment()?;
    // Before there are threads: what one thread gives up, others would keep.
    let sandbox = cowfs::confine::enter(&config)
        .map_err(|error| Failure::doing("give up what it does not need", &error))?;
    tracing::info!(user = rustix::process::geteuid().as_raw(), %sandbox, "confined");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::doing("start a runtime", &error))?;
    runtime.block_on(async {
        let stop = link::terminated()?;
        let ready = |address: Option<std::net::SocketAddr>| match address {
            Some(address) => tracing::info!(%address, "serving"),
            None => tracing::info!("serving"),
        };
        // Without a control socket, all that can be asked is whether the runtime runs.
        let control = config.control.as_deref().map(cowfs::control::client::Client::new);
        let serving = std::cell::Cell::new(false);
        let answers = async || match &control {
            Some(control) => control.status().await.is_ok(),
            None => serving.get(),
        };
        let ready = |address| {
            serving.set(true);
            ready(address);
        };
        let ended = attended(
            manager.as_ref(),
            answers,
            cowfs::server::serve(config, ready, stop),
        )
        .await;
        if let Some(manager) = &manager {
            manager.stopping();
        }
        ended.map_err(|error| Failure::doing("serve", &error))?;
        tracing::info!("ended");
        Ok(Exit::Done)
    })
}

fn lend(args: &Lend) -> Outcome {
    telemetry::install("info");
    let (roots, uid) = lends(args)?;
    let lender = cowfs::lend::Lender::new(&roots, uid)
        .map_err(|error| Failure::doing("open the directories", &error))?;
    lender
        .serve(&args.socket)
        .map_err(|error| Failure::doing(format_args!("lend on {}", args.socket.display()), &error))?;
    Ok(Exit::Done)
}

/// What is lent, and to whom.
fn lends(args: &Lend) -> Result<(Vec<PathBuf>, u32), Failure> {
    let Some(file) = &args.agent else {
        return Ok((args.roots.clone(), args.uid.unwrap_or_default()));
    };
    let config = xeno_agent::AgentConfig::read(file)
        .map_err(|error| Failure::doing(format_args!("read {}", file.display()), &error))?;
    let uid = match &config.cowfs_user {
        Some(name) => {
            let found = cowfs::confine::find_user(name);
            found
                .map_err(|error| Failure::doing("find the file server's user", &error))?
                .0
        }
        None => rustix::process::geteuid().as_raw(),
    };
    // One that is made later is lent from after a restart; others are not kept waiting for it.
    let (there, absent): (Vec<_>, Vec<_>) = config.overlay_roots.into_iter().partition(|root| root.is_dir());
    for root in absent {
        tracing::warn!(root = %root.display(), "there is no such directory, so nothing is lent from it");
    }
    Ok((there, uid))
}

fn check(args: &Check) -> Outcome {
    let report = cowfs::fsck::fsck(&args.layer).map_err(|error| {
        let hint = match &error {
            WritableError::Busy { .. } => {
                Some("end the server that has it open, or check a copy; `xeno overlay` looks into it meanwhile")
            }
            WritableError::Missing { .. } => {
                Some("name the directory of a writable layer; an agent keeps those of its slivers in `writable` of its state directory")
            }
            WritableError::EpochPassed { .. }
            | WritableError::Newer { .. }
            | WritableError::Damaged { .. }
            | WritableError::Io { .. } => None,
        };
        Failure::doing(format_args!("check {}", args.layer.display()), &error).hint(hint.map(str::to_owned))
    })?;
    let format = if args.json { TextFormat::Json } else { args.output };
    match format {
        TextFormat::Json => output::json(&report_value(&report))?,
        TextFormat::Text => output::styled(&report_text(&report))?,
    }
    Ok(if report.problems.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn report_value(report: &Report) -> Value {
    let count = |count: u64| report.is_counted().then_some(count);
    json!({
        "formatVersion": 1,
        "sound": report.problems.is_empty(),
        "objects": count(report.objects),
        "directories": count(report.directories),
        "names": count(report.names),
        "whiteouts": count(report.whiteouts),
        "bytes": count(report.bytes),
        "logBytes": count(report.log_bytes),
        "tornBytes": count(report.torn_bytes),
        "epoch": count(report.epoch),
        "checkpoints": count(report.checkpoints),
        "leftovers": count(report.leftovers),
        "problems": report.problems.iter().map(|problem| problem.what.as_str()).collect::<Vec<_>>(),
        "damage": report.problems.iter().map(|problem| json!({
            "kind": problem.damage.name(),
            "what": problem.what,
            "help": problem.damage.help(),
        })).collect::<Vec<_>>(),
    })
}

fn report_text(report: &Report) -> String {
    let counted = |count, one, many| output::count(usize::try_from(count).unwrap_or(usize::MAX), one, many);
    let verdict = if report.problems.is_empty() {
        paint(GOOD, "ok")
    } else {
        paint(BAD, "damaged")
    };
    let mut text = if report.is_counted() {
        format!(
            "{verdict}: {}, {}, {} hidden, {} written, log of {}, epoch {}\n",
            counted(report.objects, "object", "objects"),
            counted(report.names, "name", "names"),
            report.whiteouts,
            bytes(report.bytes),
            bytes(report.log_bytes),
            report.epoch,
        )
    } else {
        format!("{verdict}: the layer is not served, and how much it holds is not known\n")
    };
    if report.torn_bytes > 0 {
        text.push_str(&format!(
            "  {} at the end belong to a write that nobody was told about\n",
            bytes(report.torn_bytes)
        ));
    }
    if report.leftovers > 0 {
        text.push_str(&format!(
            "  {} that nothing needs, which the next opening removes\n",
            counted(report.leftovers, "file", "files")
        ));
    }
    let mut helped = std::collections::BTreeSet::new();
    for problem in &report.problems {
        text.push_str(&format!("  {}\n", output::clean(&problem.what)));
        helped.insert(problem.damage.help());
    }
    for help in helped {
        text.push_str(&format!("  help: {help}\n"));
    }
    text
}
