//! The `xeno` program: everything people and git hooks say to Xenoslice, and its two daemons.
//!
//! One module of [`commands`] for each command. This crate is the only one that prints, reads the environment for its
//! settings, and installs a `tracing` subscriber; libraries return what is to be said.

mod commands;
mod commits;
mod directory;
mod exit;
mod failure;
mod link;
mod output;
mod telemetry;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{completion, hook, init, plan, template, validate, version};
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
    Plan(plan::PlanArgs),
    #[command(subcommand)]
    Template(template::Template),
    #[command(subcommand)]
    Hook(hook::Hook),
    Completion(completion::Completion),
    Version(version::Version),
}

fn main() -> ExitCode {
    ended(run(&Cli::parse().command)).into()
}

fn run(command: &Command) -> Outcome {
    match command {
        Command::Init(args) => init::run(args),
        Command::Validate(args) => validate::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Template(command) => template::run(command),
        Command::Hook(command) => hook::run(command),
        Command::Completion(args) => completion::run::<Cli>(args),
        Command::Version(args) => version::run(args),
    }
}

/// Says what went wrong, once, and turns it into an exit code.
fn ended(outcome: Outcome) -> Exit {
    match outcome {
        Ok(exit) => exit,
        Err(Failure::Shown) => Exit::Failed,
        // As a filter whose reader has seen enough: quietly.
        Err(Failure::Unread) => Exit::Done,
        Err(Failure::Said { what, hint }) => {
            output::note(&format!(
                "{}: {}",
                output::paint(output::BAD, "error"),
                output::clean(&what)
            ));
            if let Some(hint) = hint {
                output::note(&format!(
                    "{}: {}",
                    output::paint(output::BOLD, "help"),
                    output::clean(&hint)
                ));
            }
            Exit::Failed
        }
    }
}
