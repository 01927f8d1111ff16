//! `docs/manifests.md` is what the tables say, and its examples are a fleet.

use std::path::Path;

use xeno_model::diagnostic::{Paint, Report};
use xeno_model::manifest::{Kind, reference};

use crate::support::Repository;

/// `UPDATE=1` rewrites the file.
#[test]
fn the_reference_is_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/manifests.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, reference()).expect("written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == reference(),
        "docs/manifests.md is not what `xeno schema --markdown` prints; UPDATE=1 rewrites it"
    );
}

#[test]
fn its_examples_are_a_fleet() {
    let text = reference();
    let mut repository = Repository::default();
    for block in text.split("\n```yaml ").skip(1) {
        let (path, rest) = block.split_once('\n').expect("a path");
        let (content, _) = rest.split_once("```").expect("an end");
        repository.put(path, content);
    }
    let parsed = repository.parse();
    let mut kinds: Vec<Kind> = parsed
        .iter()
        .flat_map(|file| file.names().map(|(kind, _)| kind))
        .collect();
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds, Kind::ALL);
    if let Err(findings) = repository.resolve() {
        panic!("{}", Report::new(findings).render(Paint::Plain));
    }
}

#[test]
fn every_kind_has_a_table_and_every_cell_is_closed() {
    let text = reference();
    for kind in Kind::ALL {
        assert!(text.contains(&format!("\n## {}\n", kind.as_str())));
    }
    for row in text
        .lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("| ---"))
    {
        let cells = row.replace("\\|", "").matches('|').count();
        assert!(cells == 6 || cells == 5, "{row}");
    }
    for part in [
        "`spec.placement.replicas`",
        "`spec.overrides[].patch.resources.memory`",
        "| required |",
        "one of",
    ] {
        assert!(text.contains(part), "no {part}");
    }
}
