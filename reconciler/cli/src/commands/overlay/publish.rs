//! `xeno overlay publish`: a guest's changes as a layer of an image.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use clap::Args;
use cowfs::inspect::{Inspection, Published, oci};

use super::Target;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{self, FAIR, bytes, count};

#[derive(Args)]
#[command(group = clap::ArgGroup::new("form").required(true).args(["file", "oci"]))]
pub(crate) struct Publish {
    #[command(flatten)]
    target: Target,
    /// Writes a tar archive.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Writes an OCI image layout with that one layer; the directory is made and must be empty.
    #[arg(long, value_name = "DIR")]
    oci: Option<PathBuf>,
}

pub(super) fn run(args: &Publish) -> Outcome {
    let found = args.target.find()?;
    if let Some(why) = &found.alone {
        let failure = Failure::said(format!("nothing is published: {why}"));
        return Err(failure.hint(
            "a layer must say what replaces what, so it takes the layers below: --store, and --below for directories"
                .to_owned(),
        ));
    }
    let (published, to) = match (&args.file, &args.oci) {
        (Some(file), _) => (to_file(&found.inspection, file)?, file),
        (None, Some(dir)) => (to_layout(&found.inspection, dir)?, dir),
        (None, None) => return Err(Failure::said("nowhere to publish to")),
    };
    say(&published, to);
    output::text(&format!("{}\n", published.digest))?;
    Ok(Exit::Done)
}

/// Writes an archive that is there whole or not at all.
pub(super) fn to_file(inspection: &Inspection, path: &Path) -> Outcome<Published> {
    let failed =
        |error: &dyn std::error::Error| Failure::doing(format_args!("publish to {}", path.display()), error);
    let name = path
        .file_name()
        .ok_or_else(|| Failure::said(format!("{} names no file", path.display())))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let hidden = path.with_file_name(hidden);
    let written = File::create_new(&hidden)
        .map_err(|error| failed(&error))
        .and_then(|file| {
            let kept = file.try_clone().map_err(|error| failed(&error))?;
            let published = inspection
                .publish(BufWriter::with_capacity(1 << 20, file))
                .map_err(|error| failed(&error))?;
            kept.sync_all()
                .and_then(|()| fs::rename(&hidden, path))
                .map_err(|error| failed(&error))?;
            Ok(published)
        });
    if written.is_err() {
        // What is half written is of no use; that it was never made is as well.
        let _gone = fs::remove_file(&hidden);
    }
    written
}

fn to_layout(inspection: &Inspection, dir: &Path) -> Outcome<Published> {
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::said(format!("{} is not empty", dir.display())));
    }
    let published = oci::publish(inspection, dir);
    published.map_err(|error| Failure::doing(format_args!("publish to {}", dir.display()), &error))
}

/// For people; what a script wants is the digest alone.
pub(super) fn say(published: &Published, to: &Path) {
    output::note(&format!(
        "wrote {}: {}, of which {} hide something; {}",
        to.display(),
        count(
            usize::try_from(published.members).unwrap_or(usize::MAX),
            "member",
            "members"
        ),
        published.whiteouts,
        bytes(published.bytes),
    ));
    for socket in &published.sockets {
        let path = output::clean(&String::from_utf8_lossy(socket));
        output::note(&output::labelled(
            FAIR,
            "note",
            &format!("/{path} is a socket, and was left out"),
        ));
    }
}
