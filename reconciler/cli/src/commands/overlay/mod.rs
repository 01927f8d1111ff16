//! `xeno overlay …`: what a guest changed, and making overlays of it.

mod checkpoints;
mod edit;
mod find;
mod publish;
mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::failure::Outcome;
use crate::output::TextFormat;

/// What a guest has changed: look at it, and make overlays of it.
///
/// TARGET is a sliver (web/0), whether its guest runs or not, a writable layer that a file server has open, or the directory
/// of a writable layer, with no server and no agent anywhere. Nothing of the guest is touched or held up.
#[derive(Subcommand)]
pub(crate) enum Overlay {
    /// Lists what the guest has changed in a directory.
    ///
    /// In front of each name: A added, M changed, T replaced by another type, R renamed, L another name of something, D
    /// removed, and a dot where only what is inside has changed.
    Ls(Ls),
    /// Writes a file as the guest sees it to standard output.
    Cat(Cat),
    /// Says what the guest has changed: content apart from owner and mode. With a file, line by line.
    Diff(Diff),
    /// Says what the guest's changes take up, the largest first.
    Du(Du),
    /// Writes the guest's changes as a layer of an OCI image, and prints its digest.
    ///
    /// The archive has whiteouts (.wh.NAME) and opaque directories as the specification of OCI images says, so `xeno template
    /// import` and every image builder can put it over the same layers. Equal changes give equal bytes.
    Publish(publish::Publish),
    /// Lists what a sliver's writable layers can go back to.
    ///
    /// What the agent made before the sliver started as something else is named after the image that it left, and dropped in
    /// time; everything else is a person's.
    Checkpoints(checkpoints::Checkpoints),
    /// Has a sliver that does not run go back to a checkpoint.
    ///
    /// What is undone by it is kept in another checkpoint first. Refused while the guest is there or its memory is stored: set
    /// `state: stopped` for its slice and push, go back, and set it to `running` again.
    Restore(checkpoints::Restore),
    /// Makes an overlay by hand: serves layers with an empty writable layer above them, and keeps what was changed.
    Edit(edit::Edit),
}

/// Which layer, and where to find what is below it.
#[derive(Args)]
pub(crate) struct Target {
    /// A sliver (web/0), a writable layer of a file server, or the directory of one.
    target: String,
    /// Which of the sliver's mounts, in the order of its manifest, where several are writable.
    #[arg(long, value_name = "N")]
    mount: Option<usize>,
    #[command(flatten)]
    server: Server,
    /// Directory of the agent, for slivers whose layers no file server has open.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/xenoslice")]
    state: PathBuf,
    /// Directory of the template store [default: templates in the directory of the agent].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// A directory that was a layer below it, nearest first; together with what the store holds. Needed only where no file
    /// server has the layer open and a directory was part of its stack.
    #[arg(long, value_name = "DIR")]
    below: Vec<PathBuf>,
}

/// Which file server is asked.
#[derive(Args)]
pub(crate) struct Server {
    /// The file server's control socket [default: $XENO_COWFS_SOCKET, or /run/xenoslice/cowfs.sock].
    #[arg(long, value_name = "FILE")]
    control: Option<PathBuf>,
}

impl Server {
    /// The socket that is meant.
    pub(crate) fn socket(&self) -> PathBuf {
        let environment = || {
            std::env::var_os("XENO_COWFS_SOCKET")
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        self.control
            .clone()
            .or_else(environment)
            .unwrap_or_else(|| PathBuf::from("/run/xenoslice/cowfs.sock"))
    }
}

#[derive(Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    target: Target,
    /// The directory, as the guest calls it.
    #[arg(default_value = "/")]
    path: PathBuf,
    /// Everything the guest sees, not only what it has changed.
    #[arg(short, long)]
    all: bool,
    /// Form of the listing.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

#[derive(Args)]
pub(crate) struct Cat {
    #[command(flatten)]
    target: Target,
    /// The file, as the guest calls it.
    path: PathBuf,
}

#[derive(Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    target: Target,
    /// Only this file or directory, as the guest calls it.
    path: Option<PathBuf>,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

#[derive(Args)]
pub(crate) struct Du {
    #[command(flatten)]
    target: Target,
    /// Directories down to this depth are shown apart.
    #[arg(long, value_name = "N", default_value_t = 2)]
    depth: usize,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

pub(crate) fn run(command: &Overlay) -> Outcome {
    match command {
        Overlay::Ls(args) => show::ls(args),
        Overlay::Cat(args) => show::cat(args),
        Overlay::Diff(args) => show::diff(args),
        Overlay::Du(args) => show::du(args),
        Overlay::Publish(args) => publish::run(args),
        Overlay::Checkpoints(args) => checkpoints::list(args),
        Overlay::Restore(args) => checkpoints::restore(args),
        Overlay::Edit(args) => edit::run(args),
    }
}
