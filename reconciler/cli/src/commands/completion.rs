//! `xeno completion`: the words of the command line, and the names of the fleet, for a shell.
//!
//! The script that a shell reads once asks the program again at every Tab. What it is asked then is in an environment
//! variable, so it costs other runs nothing.

use clap::builder::PossibleValuesParser;
use clap::{Arg, Args, Command, CommandFactory};
use clap_complete::engine::ArgValueCandidates;
use clap_complete::env::{CompleteEnv, Shells};

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::{names, output};

/// What says that a shell asks for completions.
const VARIABLE: &str = "XENO_COMPLETE";

/// Prints a completion script: `source <(xeno completion bash)`
///
/// Completes commands, options and, inside a fleet's directory or beside an agent, the names of slices, slivers and nodes.
///
/// bash: source <(xeno completion bash)                    in ~/.bashrc
/// zsh:  source <(xeno completion zsh)                     in ~/.zshrc, after compinit
/// fish: xeno completion fish > ~/.config/fish/completions/xeno.fish
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Completion {
    /// The shell.
    #[arg(value_parser = PossibleValuesParser::new(["bash", "elvish", "fish", "powershell", "zsh"]))]
    shell: String,
}

pub(crate) fn run(args: &Completion) -> Outcome {
    let shells = Shells::builtins();
    let shell = shells
        .completer(&args.shell)
        .ok_or_else(|| Failure::said(format!("no completions are known for {}", args.shell)))?;
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "xeno", "xeno", "xeno", &mut script)
        .map_err(|error| Failure::doing("write the script", &error))?;
    output::text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// Answers a shell that asks, and ends the program; else does nothing.
pub(crate) fn answer<C: CommandFactory>() {
    CompleteEnv::with_factory(|| with_names(C::command()))
        .var(VARIABLE)
        .complete();
}

/// Lets every argument that is a name of the fleet be completed: those are known by what they are called.
fn with_names(command: Command) -> Command {
    let named = |argument: Arg| match argument.get_id().as_str() {
        "sliver" => argument.add(ArgValueCandidates::new(names::slivers)),
        "slice" | "slices" => argument.add(ArgValueCandidates::new(names::slices)),
        "node" | "to" => argument.add(ArgValueCandidates::new(names::nodes)),
        _ => argument,
    };
    command.mut_args(named).mut_subcommands(with_names)
}
