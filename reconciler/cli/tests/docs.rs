//! Keeps `docs/` honest: what it shows is read by what would really read it.
//!
//! - blocks marked `yaml PATH` are together a fleet that resolves;
//! - blocks marked `toml agent.toml` and `toml cowfs.toml` load;
//! - every `xeno …` of a `console` block is a command line that the program takes, and every command is shown somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use xeno_model::diagnostic::{Paint, Report};
use xeno_model::manifest::parse_file;
use xeno_model::repository::{FileMode, RepositoryTree, TreeEntry};
use xeno_model::resolve::resolve;

/// A fenced block: the words after its fence, and its text.
struct Block {
    marks: Vec<String>,
    text: String,
}

fn documents() -> Vec<(PathBuf, String)> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut paths: Vec<_> = std::fs::read_dir(docs)
        .expect("docs/ is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a document is text");
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The blocks whose first mark is `language`.
fn blocks(text: &str, language: &str) -> Vec<Block> {
    let mut all = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(marks), None) => {
                let marks = marks.split_whitespace().map(str::to_owned).collect();
                open = Some(Block {
                    marks,
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => all.extend(open.take()),
            (None, Some(block)) => block.text.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is never closed");
    all.retain(|block| block.marks.first().is_some_and(|mark| mark == language));
    all
}

fn xeno(words: &[String]) -> Output {
    let program = Command::new(env!("CARGO_BIN_EXE_xeno")).args(words).output();
    program.expect("xeno can be run")
}

#[test]
fn manifests_are_a_fleet() {
    for (path, text) in documents() {
        let manifests: BTreeMap<String, String> = blocks(&text, "yaml")
            .into_iter()
            .map(|block| (block.marks[1].clone(), block.text))
            .collect();
        if manifests.is_empty() {
            continue;
        }
        let mut paths: BTreeSet<&str> = manifests.keys().map(String::as_str).collect();
        // What they carry is not shown.
        paths.insert("content/web/index.html");
        let entry = |path: &str| TreeEntry {
            blob: "0".repeat(40),
            size: manifests.get(path).map_or(10, |text| text.len() as u64),
            mode: FileMode::Regular,
        };
        let entries = paths.into_iter().map(|path| (path.to_owned(), entry(path)));
        let tree = RepositoryTree {
            entries: entries.collect(),
        };
        let parsed: Vec<_> = manifests
            .iter()
            .map(|(path, text)| parse_file(path, text.as_bytes()))
            .collect();
        if let Err(findings) = resolve(&parsed.iter().collect::<Vec<_>>(), &tree) {
            panic!(
                "{}:\n{}",
                path.display(),
                Report::new(findings).render(Paint::Plain)
            );
        }
    }
}

#[test]
fn configurations_load() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let mut count = 0;
    for (path, text) in documents() {
        for block in blocks(&text, "toml") {
            let name = block
                .marks
                .get(1)
                .unwrap_or_else(|| panic!("{}: whose configuration is\n{}", path.display(), block.text));
            let file = scratch.path().join(name);
            std::fs::write(&file, &block.text).expect("write a configuration");
            let loaded = match name.as_str() {
                "agent.toml" => xeno_agent::AgentConfig::read(&file)
                    .map(drop)
                    .map_err(|error| error.to_string()),
                "cowfs.toml" => cowfs::config::load(&file)
                    .map(drop)
                    .map_err(|error| error.to_string()),
                other => Err(format!("nothing reads {other}")),
            };
            if let Err(why) = loaded {
                panic!("{}: {why}\n{}", path.display(), block.text);
            }
            count += 1;
        }
    }
    assert!(count >= 5, "found {count} configurations");
}

/// The words of each `xeno` on a line of a shell, those of `$( … )` apart. Only as much of a shell as the documents need:
/// single quotes, pipes, comments and a `&` at the end.
fn command_lines(line: &str) -> Vec<Vec<String>> {
    if let Some((before, rest)) = line.split_once("$(") {
        let (inner, after) = rest.split_once(')').expect("a closing parenthesis");
        let mut all = command_lines(inner);
        // Whatever it prints, here it is a digest.
        let digest = format!("sha256:{}", "0".repeat(64));
        all.extend(command_lines(&format!("{before}{digest}{after}")));
        return all;
    }
    let mut commands = vec![Vec::new()];
    let mut quoted = false;
    for part in line.split('\'') {
        let last = commands.last_mut().expect("there is one");
        if quoted {
            last.push(part.to_owned());
        } else {
            for word in part.split_whitespace() {
                match word {
                    "#" => return only_xeno(commands),
                    "|" => commands.push(Vec::new()),
                    "&" => {}
                    word => commands.last_mut().expect("there is one").push(word.to_owned()),
                }
            }
        }
        quoted = !quoted;
    }
    only_xeno(commands)
}

fn only_xeno(commands: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let mut ours: Vec<_> = commands
        .into_iter()
        .filter(|words| words.first().is_some_and(|word| word == "xeno"))
        .collect();
    for words in &mut ours {
        words.remove(0);
    }
    ours
}

fn shown_commands() -> Vec<(PathBuf, Vec<String>)> {
    let mut all = Vec::new();
    for (path, text) in documents() {
        for block in blocks(&text, "console") {
            for line in block.text.lines() {
                let line = line
                    .strip_prefix("$ ")
                    .unwrap_or_else(|| panic!("{}: {line}", path.display()));
                all.extend(command_lines(line).into_iter().map(|words| (path.clone(), words)));
            }
        }
    }
    all
}

#[test]
fn command_lines_are_taken() {
    let all = shown_commands();
    assert!(all.len() > 15, "found {} command lines", all.len());
    for (path, mut words) in all {
        // Read up to here, and then nothing is done.
        words.push("--help".to_owned());
        let said = xeno(&words);
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(
            said.status.success(),
            "{}: xeno {}\n{error}",
            path.display(),
            words.join(" ")
        );
    }
}

/// The commands that the help of `words` lists.
fn listed(words: &[&str]) -> Vec<String> {
    let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    words.push("--help".to_owned());
    let help = String::from_utf8(xeno(&words).stdout).expect("help is text");
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    commands
        .take_while(|line| !line.is_empty())
        // Deeper lines go on with a sentence.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn every_command_is_described() {
    let text: String = documents().into_iter().map(|(_, text)| text).collect();
    let mut all = Vec::new();
    for name in listed(&[]) {
        let below = listed(&[&name]);
        if below.is_empty() {
            all.push(name);
        } else {
            all.extend(below.iter().map(|sub| format!("{name} {sub}")));
        }
    }
    assert!(all.len() > 18, "found {all:?}");
    let missing: Vec<_> = all
        .iter()
        .filter(|name| !text.contains(&format!("xeno {name}")))
        .collect();
    assert!(missing.is_empty(), "nowhere in docs/: {missing:?}");
}
