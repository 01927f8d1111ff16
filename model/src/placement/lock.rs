//! The files in which a slice's placement and the order of moves lie, as Cargo's lock file: written by a program, read by people,
//! kept in git.

use std::collections::BTreeMap;

use crate::desired::Turn;
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

/// Where the order of moves is written, from the fleet's root. It is read wherever it is.
pub const MOVES_PATH: &str = "placement/moves.yaml";

/// The text of an order: a document of kind `Moves`, one line for each step.
#[must_use]
pub fn moves_text(name: &NodeName, turns: &[Turn]) -> String {
    let mut text = format!(
        "# Written by `xeno evacuate`; commit it. Agents keep this order; a step that leads elsewhere than its sliver is placed\n\
         # counts for nothing.\n\
         apiVersion: {API_VERSION}\nkind: Moves\nmetadata: {{ name: {} }}\nspec:\n  steps:",
        name_scalar(name.as_str())
    );
    if turns.is_empty() {
        text.push_str(" []");
    }
    text.push('\n');
    for turn in turns {
        let to = turn.to.as_ref();
        let to = to.map_or_else(String::new, |to| format!(", to: {}", name_scalar(to.as_str())));
        let after: Vec<String> = turn.after.iter().map(|index| (index + 1).to_string()).collect();
        let after = if after.is_empty() {
            String::new()
        } else {
            format!(", after: [{}]", after.join(", "))
        };
        let from = name_scalar(turn.from.as_str());
        text.push_str(&format!(
            "    - {{ sliver: {}, from: {from}{to}{after} }}\n",
            turn.sliver
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_as_what_was_written() {
        let node = |name: &str| NodeName::new(name).unwrap();
        let turn = |sliver: &str, from: &str, to: Option<&str>, after: &[usize]| Turn {
            sliver: crate::id::SliverId::parse(sliver).unwrap(),
            from: node(from),
            to: to.map(node),
            after: after.to_vec(),
        };
        let turns = [
            turn("web/0", "a", None, &[]),
            turn("db/1", "null", Some("a"), &[0]),
            turn("web/0", "a", Some("1-1"), &[0, 1]),
        ];
        let text = moves_text(&node("a"), &turns);
        assert!(
            text.ends_with(
                "    - { sliver: web/0, from: a }\n    - { sliver: db/1, from: \"null\", to: a, after: [1] }\n    \
                 - { sliver: web/0, from: a, to: \"1-1\", after: [1, 2] }\n"
            ),
            "{text}"
        );
        for text in [text, moves_text(&node("a"), &[])] {
            let file = parse_file("a.yaml", text.as_bytes());
            assert_eq!(file.findings(), []);
            assert_eq!(file.names().collect::<Vec<_>>(), [(Kind::Moves, "a")]);
        }
    }
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
