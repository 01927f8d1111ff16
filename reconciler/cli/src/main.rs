//! The `xeno` program: everything people and git hooks say to Xenoslice, and its two daemons.
//!
//! One module of [`commands`] for each command. This crate is the only one that prints, reads the environment for its
//! settings, and installs a `tracing` subscriber; libraries return what is to be said.

mod board;
mod commands;
mod commits;
mod desired_text;
mod directory;
mod exit;
mod failure;
mod graph;
mod link;
mod names;
mod output;
mod past;
mod person;
mod placing;
mod plan_document;
mod plan_file;
mod service_manager;
mod summaries;
mod telemetry;
mod unified;
mod whole_file;
mod worktree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{
    abandon, agent, apply, approve, completion, console, cordon, cowfs, describe, diff, doctor, evacuate,
    events, fence, freeze, get, history, hook, init, man, migrate, overlay, place, plan, reconcile, rollout,
    schema, simulate, status, suspend, template, tree, undelete, validate, version, why,
};
use exit::Exit;
use failure::{Failure, Outcome};

/// Services on many machines, from a git repository.
#[derive(Parser)]
#[command(name = "xeno", version, max_term_width = 100, propagate_version = false)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    Validate(validate::Validate),
    Place(place::Place),
    Plan(plan::PlanArgs),
    Apply(apply::Apply),
    Approve(approve::Approve),
    Diff(diff::DiffArgs),
    Simulate(simulate::Simulate),
    Status(status::StatusArgs),
    Tree(tree::TreeArgs),
    History(history::HistoryArgs),
    Suspend(suspend::Suspend),
    Resume(suspend::Resume),
    Migrate(migrate::Migrate),
    Cordon(cordon::Cordon),
    Uncordon(cordon::Uncordon),
    Evacuate(evacuate::Evacuate),
    Abandon(abandon::Abandon),
    Fence(fence::Fence),
    Undelete(undelete::Undelete),
    Get(get::Get),
    Describe(describe::Describe),
    Why(why::Why),
    Events(events::EventsArgs),
    Logs(console::Logs),
    Console(console::Console),
    Reconcile(reconcile::Reconcile),
    #[command(subcommand)]
    Rollout(rollout::Rollout),
    Freeze(freeze::Freeze),
    Thaw(freeze::Thaw),
    Doctor(doctor::Doctor),
    #[command(subcommand)]
    Template(template::Template),
    #[command(subcommand)]
    Overlay(overlay::Overlay),
    #[command(subcommand)]
    Hook(hook::Hook),
    #[command(subcommand)]
    Cowfs(cowfs::Cowfs),
    Agent(agent::Agent),
    Completion(completion::Completion),
    Man(man::ManArgs),
    Schema(schema::Schema),
    Version(version::Version),
    /// Joins standard input and output to a socket, for QEMU.
    #[command(hide = true)]
    Guestfwd {
        /// The socket.
        socket: PathBuf,
    },
}

fn main() -> ExitCode {
    // One for each connection of each guest: nothing may be set up before it, not even the command line's grammar.
    let words: Vec<_> = std::env::args_os().skip(1).take(3).collect();
    if let [word, socket] = words.as_slice()
        && word == "guestfwd"
    {
        return ended(forward(Path::new(socket)), Exit::Failed).into();
    }
    completion::answer::<Cli>();
    let command = Cli::parse().command;
    // There, 1 says that something differs, as diff(1) and kubectl have it.
    let failed = if matches!(command, Command::Diff(_)) {
        Exit::Changes
    } else {
        Exit::Failed
    };
    ended(run(&command), failed).into()
}

fn run(command: &Command) -> Outcome {
    match command {
        Command::Init(args) => init::run(args),
        Command::Validate(args) => validate::run(args),
        Command::Place(args) => place::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Apply(args) => apply::run(args),
        Command::Approve(args) => approve::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Simulate(args) => simulate::run(args),
        Command::Status(args) => status::run(args),
        Command::Tree(args) => tree::run(args),
        Command::History(args) => history::run(args),
        Command::Suspend(args) => suspend::suspend(args),
        Command::Resume(args) => suspend::resume(args),
        Command::Migrate(args) => migrate::run(args),
        Command::Cordon(args) => cordon::cordon(args),
        Command::Uncordon(args) => cordon::uncordon(args),
        Command::Evacuate(args) => evacuate::run(args),
        Command::Abandon(args) => abandon::run(args),
        Command::Fence(args) => fence::run(args),
        Command::Undelete(args) => undelete::run(args),
        Command::Get(args) => get::run(args),
        Command::Describe(args) => describe::run(args),
        Command::Why(args) => why::run(args),
        Command::Events(args) => events::run(args),
        Command::Logs(args) => console::logs(args),
        Command::Console(args) => console::console(args),
        Command::Reconcile(args) => reconcile::run(args),
        Command::Rollout(command) => rollout::run(command),
        Command::Freeze(args) => freeze::freeze(args),
        Command::Thaw(args) => freeze::thaw(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Template(command) => template::run(command),
        Command::Overlay(command) => overlay::run(command),
        Command::Hook(command) => hook::run(command),
        Command::Agent(args) => agent::run(args),
        Command::Cowfs(command) => cowfs::run(command),
        Command::Completion(args) => completion::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Man(args) => man::run::<Cli>(args),
        Command::Version(args) => version::run(args),
        Command::Guestfwd { socket } => forward(socket),
    }
}

fn forward(socket: &Path) -> Outcome {
    let failed =
        |error: std::io::Error| Failure::doing(format_args!("forward to {}", socket.display()), &error);
    xeno_qemu::forward::run(socket).map_err(failed)?;
    Ok(Exit::Done)
}

/// Says what went wrong, once, and turns it into an exit code.
fn ended(outcome: Outcome, failed: Exit) -> Exit {
    match outcome {
        Ok(exit) => exit,
        Err(Failure::Shown) => failed,
        // As a filter whose reader has seen enough: quietly.
        Err(Failure::Unread) => Exit::Done,
        Err(Failure::Said { what, hint }) => {
            output::note(&output::labelled(output::BAD, "error", &what));
            if let Some(hint) = hint {
                output::note(&output::labelled(output::BOLD, "help", &hint));
            }
            failed
        }
    }
}
