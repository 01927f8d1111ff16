//! Every mistake has a case: a small repository in one text file, and beside it what a person is told.
//!
//! A case holds files, each after a line `-- PATH --`; `-- PATH symlink --`, `executable` and `submodule` say what else it
//! may be, `-- PATH absent --` takes away one of the files that every case begins with. Run the tests with
//! `UPDATE=1` to rewrite what is expected.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use xeno_model::diagnostic::{Code, Diagnostic, Paint, Report};
use xeno_model::manifest::{FILE_LEN_MAX, ParsedFile};
use xeno_model::repository::FileMode;
use xeno_model::resolve::resolve;

use crate::support::Repository;

/// What every case begins with.
const BASE: &str = "\
-- fleet.yaml --
apiVersion: xenoslice/v1
kind: Fleet
metadata: { name: test }
-- infra.yaml --
apiVersion: xenoslice/v1
kind: Site
metadata: { name: cambridge }
---
apiVersion: xenoslice/v1
kind: Node
metadata: { name: cam-01 }
spec: { site: cambridge, capacity: { memory: 8GiB, vcpus: 8 } }
---
apiVersion: xenoslice/v1
kind: Node
metadata: { name: cam-02 }
spec: { site: cambridge, capacity: { memory: 4GiB, vcpus: 8 } }
---
apiVersion: xenoslice/v1
kind: Template
metadata: { name: debian-web }
spec:
  channels: { current: sha256:1111111111111111111111111111111111111111111111111111111111111111 }
";

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests/bad")
}

fn unpack(repository: &mut Repository, text: &str) {
    let mut file: Option<(String, FileMode, String)> = None;
    let mut finish = |file: &mut Option<(String, FileMode, String)>| {
        if let Some((path, mode, text)) = file.take() {
            repository.files.insert(path, (mode, text.into_bytes()));
        }
    };
    let mut absent = Vec::new();
    for line in text.split_inclusive('\n') {
        let Some(head) = line
            .trim_end()
            .strip_prefix("-- ")
            .and_then(|head| head.strip_suffix(" --"))
        else {
            if let Some((_, _, text)) = &mut file {
                text.push_str(line);
            }
            continue;
        };
        finish(&mut file);
        let (path, mode) = match head.split_once(' ') {
            None => (head, FileMode::Regular),
            Some((path, "executable")) => (path, FileMode::Executable),
            Some((path, "symlink")) => (path, FileMode::Symlink),
            Some((path, "submodule")) => (path, FileMode::Submodule),
            Some((path, "absent")) => {
                absent.push(path.to_owned());
                continue;
            }
            Some((path, other)) => panic!("{path}: what is `{other}`?"),
        };
        file = Some((path.to_owned(), mode, String::new()));
    }
    finish(&mut file);
    for path in absent {
        repository.files.remove(&path);
    }
}

fn repository(case: &str) -> Repository {
    let mut repository = Repository::default();
    unpack(&mut repository, BASE);
    unpack(&mut repository, case);
    repository
}

/// Compares what a person is told with the file beside the case.
fn expect(name: &str, findings: &[Diagnostic]) {
    let told = Report::new(findings.to_vec()).render(Paint::Plain);
    let path = cases().join(format!("{name}.expected"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &told).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        told == expected,
        "{name}: told\n{told}\ninstead of\n{expected}\nIf that is right: UPDATE=1 cargo test -p xeno-model"
    );
}

/// Findings of cases that no text file can hold.
fn generated() -> Vec<(&'static str, Vec<Diagnostic>)> {
    let with = |path: &str, bytes: Vec<u8>| {
        let mut repository = repository("");
        repository.put(path, bytes);
        repository.resolve().unwrap_err()
    };
    let bomb = {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..20 {
            let before = format!("*a{}, ", i - 1).repeat(10);
            text.push_str(&format!("a{i}: &a{i} [{before}]\n"));
        }
        text
    };
    let long_line = format!(
        "apiVersion: xenoslice/v1\nkind: {}Slice\n",
        "Very".repeat(200_000)
    );
    let parsed = repository("").parse();
    let oversized = ParsedFile::too_large("slices/huge.yaml", 100 << 20);
    let files: Vec<&ParsedFile> = parsed.iter().chain([&oversized]).collect();
    vec![
        ("generated-alias-bomb", with("bomb.yaml", bomb.into_bytes())),
        (
            "generated-too-deep",
            with("deep.yaml", [b"[".repeat(100_000), b"]".repeat(100_000)].concat()),
        ),
        (
            "generated-too-deep-block",
            with("deep.yaml", "- ".repeat(1_000).into_bytes()),
        ),
        (
            "generated-too-large",
            with(
                "large.yaml",
                b"#".repeat(usize::try_from(FILE_LEN_MAX).unwrap() + 1),
            ),
        ),
        (
            "generated-too-large-unread",
            resolve(&files, &repository("").tree()).unwrap_err(),
        ),
        (
            "generated-not-utf-8",
            with("latin.yaml", b"kind: Site # caf\xe9\n".to_vec()),
        ),
        (
            "generated-nul",
            with("nul.yaml", b"kind: Site\nmetadata: { name: a\0b }\n".to_vec()),
        ),
        (
            "generated-escape",
            with(
                "terminal.yaml",
                b"kind: \"\\e[31mSite\"\n\"\\e[2J\": 1\n".to_vec(),
            ),
        ),
        ("generated-long-line", with("long.yaml", long_line.into_bytes())),
        // A line break of YAML 1.1 that is none in YAML 1.2: what one reader skips as a comment, the other reads.
        (
            "generated-ambiguous",
            with(
                "site.yaml",
                "apiVersion: xenoslice/v1\nkind: Site\nmetadata: { name: a } # \u{2028}spec: {}\n"
                    .as_bytes()
                    .to_vec(),
            ),
        ),
        (
            "generated-many",
            with("many.yaml", "kind: Oops\n---\n".repeat(150).into_bytes()),
        ),
    ]
}

fn written() -> Vec<(String, Vec<Diagnostic>)> {
    let mut names: Vec<String> = std::fs::read_dir(cases())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| Some(name.strip_suffix(".txt")?.to_owned()))
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let text = std::fs::read_to_string(cases().join(format!("{name}.txt"))).unwrap();
            let findings = repository(&text).resolve().expect_err(&name);
            (name, findings)
        })
        .collect()
}

#[test]
fn every_case_is_told_as_expected() {
    for (name, findings) in written() {
        expect(&name, &findings);
    }
}

#[test]
fn every_generated_case_is_told_as_expected() {
    for (name, findings) in generated() {
        expect(name, &findings);
    }
}

#[test]
fn every_code_has_a_case() {
    let written = written().into_iter().flat_map(|(_, findings)| findings);
    let generated = generated().into_iter().flat_map(|(_, findings)| findings);
    let seen: BTreeSet<Code> = written.chain(generated).map(|finding| finding.code).collect();
    let unseen: Vec<_> = Code::ALL.iter().filter(|code| !seen.contains(code)).collect();
    assert!(unseen.is_empty(), "no case for {unseen:?}");
}

#[test]
fn the_base_of_all_cases_is_valid() {
    repository("").resolve().unwrap();
}

#[test]
fn findings_are_json_too() {
    let findings = repository("-- infra.yaml absent --\n-- fleet.yaml --\nkind: Fleet\n")
        .resolve()
        .unwrap_err();
    let report = Report::new(findings);
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["formatVersion"], 1);
    assert_eq!(json["diagnostics"][0]["code"], "E0110");
    assert_eq!(json["diagnostics"][0]["place"]["path"], "fleet.yaml");
    assert_eq!(json["diagnostics"][0]["place"]["line"], 1);
}

#[test]
fn colours_are_asked_for() {
    let report = Report::new(repository("-- fleet.yaml absent --\n").resolve().unwrap_err());
    assert!(report.render(Paint::Colour).contains("\u{1b}["));
    let drawn = Report::new(repository("-- site.yaml --\nkind: Sit\n").resolve().unwrap_err());
    let (plain, coloured) = (drawn.render(Paint::Plain), drawn.render(Paint::Colour));
    assert_eq!(plain.lines().count(), coloured.lines().count());
    assert!(!coloured.contains(":::"));
    assert!(!report.render(Paint::Plain).contains('\u{1b}'));
}
