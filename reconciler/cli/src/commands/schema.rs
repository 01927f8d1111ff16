//! `xeno schema`: what a manifest may say, for editors and for reading.

use clap::Args;
use xeno_model::manifest::{json_schema, reference};

use crate::exit::Exit;
use crate::failure::Outcome;
use crate::output;

/// Prints the JSON Schema of manifests, for editors
///
/// One schema (2020-12) is for all kinds of documents. With the YAML language server, a first line in a manifest is enough:
///
///     # yaml-language-server: $schema=../.xenoslice.schema.json
///
/// where the file is what this printed. It looks at one document; `xeno validate` looks at the fleet.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Schema {
    /// Prints the reference of all fields instead, as Markdown.
    #[arg(long)]
    markdown: bool,
}

pub(crate) fn run(args: &Schema) -> Outcome {
    if args.markdown {
        output::text(&reference())?;
    } else {
        output::json(&json_schema())?;
    }
    Ok(Exit::Done)
}
