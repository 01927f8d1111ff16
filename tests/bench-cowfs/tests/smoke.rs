//! The program that measures, run once on a tiny tree: that every load works and that the report has its form, never how
//! long anything takes.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_large_layer_is_measured_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let report = dir.path().join("scale.json");
    let output = Command::new(env!("CARGO_BIN_EXE_xeno-bench-cowfs"))
        .args(["--tiny", "--scale", "--report"])
        .arg(&report)
        .output()
        .expect("xeno-bench-cowfs runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = std::fs::read(&report).expect("a report");
    let figures: Vec<Value> = serde_json::from_slice(&text).expect("a list of figures");
    for part in ["template", "opening", "heap", "GETATTR", "checkpoint"] {
        let named = |figure: &&Value| figure["name"].as_str().is_some_and(|name| name.contains(part));
        let figure = figures
            .iter()
            .find(named)
            .unwrap_or_else(|| panic!("nothing about {part}"));
        assert!(
            figure["value"].is_number() && figure["unit"].is_string(),
            "{figure}"
        );
    }
}

#[test]
fn every_load_runs_and_the_report_has_its_form() {
    let dir = tempfile::tempdir().expect("a directory");
    let report = dir.path().join("bench/cowfs.json");
    let output = Command::new(env!("CARGO_BIN_EXE_xeno-bench-cowfs"))
        .args(["--tiny", "--report"])
        .arg(&report)
        .output()
        .expect("xeno-bench-cowfs runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = std::fs::read(&report).expect("a report");
    let figures: Vec<Value> = serde_json::from_slice(&text).expect("a list of figures");
    for figure in &figures {
        let name = figure["name"].as_str().expect("a name");
        assert!(figure["unit"].is_string(), "{figure}");
        // Without the other server there is nothing to compare with, and nothing is claimed.
        let alone = name.ends_with("overlayfs") || name.ends_with("ganesha");
        assert_eq!(figure["value"].is_null(), alone, "{figure}");
        assert!(figure["ok"].is_null(), "{figure}");
    }
    for load in [
        "GETATTR",
        "LOOKUP",
        "walk",
        "small files",
        "READ 1 MiB",
        "READ 4 KiB",
        "WRITE",
        "CREATE",
        "first write",
    ] {
        let ours = figures.iter().find(|figure| {
            figure["name"]
                .as_str()
                .is_some_and(|name| name.starts_with(load) && name.ends_with("cowfs"))
        });
        assert!(
            ours.is_some_and(|figure| figure["value"].as_f64() > Some(0.0)),
            "{load}"
        );
    }
}
