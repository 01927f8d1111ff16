//! `xeno cowfs checkpoint`, `checkpoints`, `restore` and `compact`: looking after writable layers, served or not.

use std::path::PathBuf;

use clap::Args;
use cowfs::control::client::Client;
use cowfs::writable::saved::Saved;
use cowfs::writable::{Writable, WritableError};
use serde_json::json;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link;
use crate::output::{self, TextFormat, bytes, count};

/// Which layer is meant.
#[derive(Args)]
pub(crate) struct Layer {
    /// Directory of the writable layer, which nobody has open; with --control, the name of one that the server has.
    layer: String,
    /// Control socket of the file server that has the layer open.
    #[arg(long, value_name = "FILE")]
    control: Option<PathBuf>,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

/// Makes a checkpoint of a writable layer, to go back to.
///
/// It costs the layer's names and attributes, and what is overwritten later. A guest need not be stopped for it, but is as
/// after a power failure when it goes back to one that was made while it ran.
#[derive(Args)]
pub(crate) struct Checkpoint {
    #[command(flatten)]
    layer: Layer,
    /// Name of the checkpoint; one of that name that is there stays as it is.
    name: String,
    /// Removes it instead, if it is there.
    #[arg(long)]
    delete: bool,
}

/// Has a writable layer go back to a checkpoint.
///
/// Whatever was changed since is gone. The layer must be served to nobody; with --control, it must be part of no stack.
#[derive(Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    layer: Layer,
    /// Name of the checkpoint.
    name: String,
}

impl Layer {
    fn open(&self) -> Outcome<Writable> {
        Writable::open_as_last(self.layer.as_ref()).map_err(|error| {
            let hint = matches!(error, WritableError::Busy { .. }).then(|| {
                "name the server's control socket with --control, and the layer as it is called there"
                    .to_owned()
            });
            Failure::doing(format_args!("open {}", self.layer), &error).hint(hint)
        })
    }

    fn client(&self) -> Option<Client> {
        self.control.clone().map(Client::new)
    }

    /// Says that it is done.
    fn done(&self, what: &str, text: &str) -> Outcome {
        match self.output {
            TextFormat::Json => output::json(&json!({ "formatVersion": 1, "done": what }))?,
            TextFormat::Text => output::text(&format!("{text}\n"))?,
        }
        Ok(Exit::Done)
    }
}

pub(crate) fn compact(args: &Layer) -> Outcome {
    let text = match args.client() {
        Some(client) => {
            link::wait(async { Ok(client.compact(&args.layer).await?) })?;
            "compacted".to_owned()
        }
        None => {
            let layer = args.open()?;
            let before = layer.log_bytes();
            let layer = layer
                .compact()
                .map_err(|error| Failure::doing(format_args!("compact {}", args.layer), &error))?;
            format!(
                "the log had {} and has {}",
                bytes(before),
                bytes(layer.log_bytes())
            )
        }
    };
    args.done("compact", &text)
}

pub(crate) fn make(args: &Checkpoint) -> Outcome {
    let (layer, name) = (&args.layer, args.name.as_str());
    match layer.client() {
        Some(client) => link::wait(async {
            let done = if args.delete {
                client.delete_checkpoint(&layer.layer, name).await
            } else {
                client.checkpoint(&layer.layer, name).await
            };
            Ok(done?)
        })?,
        None => {
            let mut open = layer.open()?;
            let done = if args.delete {
                open.delete_saved(name)
            } else {
                open.save(name)
            };
            done.map_err(|error| Failure::doing(format_args!("make checkpoint {name}"), &error))?;
        }
    }
    let done = if args.delete { "is gone" } else { "is there" };
    layer.done("checkpoint", &format!("checkpoint `{name}` {done}"))
}

pub(crate) fn restore(args: &Restore) -> Outcome {
    let (layer, name) = (&args.layer, args.name.as_str());
    match layer.client() {
        Some(client) => link::wait(async { Ok(client.restore(&layer.layer, name).await?) })?,
        None => {
            let restored = layer.open()?.restore(name);
            restored.map_err(|error| Failure::doing(format_args!("go back to checkpoint {name}"), &error))?;
        }
    }
    layer.done("restore", &format!("back at checkpoint `{name}`"))
}

pub(crate) fn list(args: &Layer) -> Outcome {
    let checkpoints: Vec<Saved> = match args.client() {
        Some(client) => {
            let asked = link::wait(async { Ok(client.checkpoints(&args.layer).await?) })?;
            asked.checkpoints
        }
        None => args
            .open()?
            .saved()
            .map_err(|error| Failure::doing(format_args!("list checkpoints of {}", args.layer), &error))?,
    };
    match args.output {
        TextFormat::Json => output::json(&json!({ "formatVersion": 1, "checkpoints": checkpoints }))?,
        TextFormat::Text => {
            let mut text = String::new();
            for one in &checkpoints {
                text.push_str(&format!(
                    "{}  {}  {}, {} written, epoch {}\n",
                    output::clean(&one.name),
                    output::moment(one.created.saturating_mul(1000)),
                    count(
                        usize::try_from(one.objects).unwrap_or(usize::MAX),
                        "object",
                        "objects"
                    ),
                    bytes(one.bytes),
                    one.epoch,
                ));
            }
            output::text(&text)?;
        }
    }
    Ok(Exit::Done)
}
