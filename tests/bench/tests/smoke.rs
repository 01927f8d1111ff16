//! The programs that measure, run once on tiny fleets: that they work and that the report has its form, never how long
//! anything takes.

use std::process::Command;

use serde_json::Value;

#[test]
fn every_figure_is_measured_and_the_report_has_its_form() {
    let dir = tempfile::tempdir().expect("a directory");
    let report = dir.path().join("bench/report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_xeno-bench"))
        .args(["--tiny", "--report"])
        .arg(&report)
        .output()
        .expect("xeno-bench runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let figures: Vec<Value> =
        serde_json::from_slice(&std::fs::read(&report).expect("a report")).expect("a list of figures");
    for figure in &figures {
        let fields = figure.as_object().expect("an object");
        assert!(
            fields["name"].is_string() && fields["unit"].is_string(),
            "{figure}"
        );
        let measured = fields["value"].as_f64();
        // What could not be measured says why, and claims nothing.
        assert!(
            measured.is_some()
                || fields["note"]
                    .as_str()
                    .is_some_and(|note| note.starts_with("not measured"))
        );
        let claims = measured.is_some() && fields["goal"].is_number();
        assert_eq!(fields["ok"].is_boolean(), claims, "{figure}");
        assert!(measured.is_none_or(|value| value > 0.0), "{figure}");
    }
    let names: Vec<&str> = figures
        .iter()
        .filter_map(|figure| figure["name"].as_str())
        .collect();
    for about in [
        "plan, all new",
        "plan, no change",
        "one-file push → plan",
        "resolve",
        "faster than Terraform",
    ] {
        assert!(
            names.iter().any(|name| name.starts_with(about)),
            "{about} is not in {names:?}"
        );
    }
    assert!(said.is_empty() || !said.contains("error"), "{said}");
}
