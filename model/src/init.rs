//! The repository that `xeno init` writes: small, valid, and full of comments that teach.

use std::collections::BTreeMap;

use crate::id::{Digest, FleetName, NodeName};
use crate::resolve::FLEET_FILE;

/// Files of a new fleet by path: one site with one node, one template, and one slice that serves a page.
///
/// Without the digest of an imported template a placeholder takes its place, and the slice is `stopped`, so that the
/// repository is valid and asks for nothing that cannot be had.
#[must_use]
pub fn scaffold(fleet: &FleetName, node: &NodeName, template: Option<Digest>) -> BTreeMap<String, String> {
    let digest = template.unwrap_or(PLACEHOLDER).to_string();
    let (template_note, state) = match template {
        Some(_) => (
            "",
            "running                         # running | suspended | stopped",
        ),
        None => (
            PLACEHOLDER_NOTE,
            "stopped                         # set this to `running` once the template's digest is right",
        ),
    };
    let fill = |text: &str| {
        text.replace("@FLEET@", fleet.as_str())
            .replace("@NODE@", node.as_str())
            .replace("@DIGEST@", &digest)
            .replace("@TEMPLATE_NOTE@", template_note)
            .replace("@STATE@", state)
    };
    let files = [
        (FLEET_FILE, include_str!("init/fleet.yaml")),
        ("sites/home.yaml", include_str!("init/home.yaml")),
        ("templates/debian-web.yaml", include_str!("init/debian-web.yaml")),
        ("slices/web.yaml", include_str!("init/web.yaml")),
        ("content/web/index.html", include_str!("init/index.html")),
    ];
    files
        .into_iter()
        .map(|(path, text)| (path.to_owned(), fill(text)))
        .collect()
}

const PLACEHOLDER: Digest = Digest([0; 32]);

const PLACEHOLDER_NOTE: &str = "\
# The digest below stands for nothing yet. Make the template on a node, and write here what this prints:
#     xeno template import ROOT-DIRECTORY --name debian-web --kernel VMLINUZ --modules MODULES
";
