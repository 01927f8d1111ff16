//! The file in which a slice's placement lies, as Cargo's lock file: written by a program, read by people, kept in git.

use std::collections::BTreeMap;

use crate::id::{NodeName, SliceName};
use crate::manifest::{API_VERSION, name_scalar};

/// Where the lock of a slice is written, from the fleet's root. It is read wherever it is.
#[must_use]
pub fn lock_path(slice: &SliceName) -> String {
    format!("placement/{slice}.lock.yaml")
}

/// The text of a lock: a document of kind `Placement`, one line for each sliver, so that a diff shows what moves.
#[must_use]
pub fn lock_text(slice: &SliceName, slivers: &BTreeMap<u32, NodeName>) -> String {
    let mut text = format!(
        "# Written by `xeno place`; commit it. Where slivers go is decided there: `xeno place` writes this anew.\n\
         apiVersion: {API_VERSION}\nkind: Placement\nmetadata: {{ name: {} }}\nspec:\n  slivers:",
        name_scalar(slice.as_str())
    );
    if slivers.is_empty() {
        text.push_str(" {}");
    }
    text.push('\n');
    for (number, node) in slivers {
        text.push_str(&format!("    {slice}/{number}: {}\n", name_scalar(node.as_str())));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Kind, parse_file};

    #[test]
    fn a_lock_reads_as_what_was_written() {
        let slice = |name: &str| SliceName::new(name).unwrap();
        let node = |name: &str| NodeName::new(name).unwrap();
        let slivers = [
            (0, node("cam-01")),
            (2, node("0x1f")),
            (10, node("null")),
            (11, node("1-1")),
        ]
        .into();
        let text = lock_text(&slice("web"), &slivers);
        assert!(
            text.ends_with(
                "    web/0: cam-01\n    web/2: \"0x1f\"\n    web/10: \"null\"\n    web/11: \"1-1\"\n"
            ),
            "{text}"
        );
        for (name, slivers) in [
            ("web", slivers),
            ("true", BTreeMap::new()),
            ("7", [(0, node("n"))].into()),
        ] {
            let file = parse_file("a.yaml", lock_text(&slice(name), &slivers).as_bytes());
            assert_eq!(file.findings(), []);
            assert_eq!(file.names().collect::<Vec<_>>(), [(Kind::Placement, name)]);
        }
    }
}
