//! `xeno init`: a repository that works, with comments that teach.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use xeno_agent::source::Manifests;
use xeno_model::id::{Digest, FleetName, NodeName};
use xeno_model::init::scaffold;

use super::validate::describe;
use crate::directory;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output;

/// Writes the manifests of a new fleet.
#[derive(Args)]
pub(crate) struct Init {
    /// Directory; made when missing.
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Name of the fleet [default: that of the directory].
    #[arg(long, value_parser = |text: &str| FleetName::new(text).map_err(|error| error.to_string()))]
    fleet: Option<FleetName>,
    /// Name of its first node.
    #[arg(long, default_value = "node-a", value_parser = |text: &str| NodeName::new(text).map_err(|error| error.to_string()))]
    node: NodeName,
    /// Digest that `xeno template import` printed; without one, the first slice is stopped.
    #[arg(long, value_parser = |text: &str| Digest::parse(text).map_err(|error| error.to_string()))]
    template: Option<Digest>,
}

pub(crate) fn run(args: &Init) -> Outcome {
    let root = &args.directory;
    let failed = |error: std::io::Error| Failure::doing(format_args!("write {}", root.display()), &error);
    fs::create_dir_all(root).map_err(failed)?;
    let fleet = match &args.fleet {
        Some(fleet) => fleet.clone(),
        None => named_after(root)?,
    };
    let files = scaffold(&fleet, &args.node, args.template);
    // All or nothing: somebody's fleet is not to be mixed with an example.
    if let Some(path) = files
        .keys()
        .find(|path| root.join(path).symlink_metadata().is_ok())
    {
        return Err(Failure::said(format!(
            "{} is there already; nothing was written",
            root.join(path).display()
        ))
        .hint("name another directory".to_owned()));
    }
    let mut text = String::new();
    for (path, content) in &files {
        let file = root.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::write(&file, content).map_err(failed)?;
        text.push_str(&format!("wrote {}\n", file.display()));
    }
    let checked = Manifests::default()
        .fleet(&directory::read(root)?)
        .map_err(|report| crate::commits::show(&report))?;
    text.push_str(&format!("{}\n", describe(&checked)));
    output::text(&text)?;
    Ok(Exit::Done)
}

fn named_after(root: &std::path::Path) -> Outcome<FleetName> {
    let name = fs::canonicalize(root)
        .ok()
        .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    name.and_then(|name| FleetName::new(&name).ok()).ok_or_else(|| {
        Failure::said("the directory's name is not one for a fleet").hint("give one with --fleet".to_owned())
    })
}
