//! Manual pages and completions: whatever a command is called, both know it.

use std::collections::BTreeSet;
use std::process::Command;

use crate::world::World;

/// Commands, as the help of `words` lists them, `help` itself left out.
fn listed(world: &World, words: &[&str]) -> Vec<String> {
    let said = world.xeno(".", &[words, &["--help"]].concat());
    let commands = said.out.lines().skip_while(|line| *line != "Commands:").skip(1);
    commands
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn every_command_has_a_manual_page() {
    let world = World::new();
    let wrote = world.xeno(".", &["man", "share/man1"]);
    assert_eq!(wrote.code, Some(0), "{wrote:?}");
    let pages: BTreeSet<String> = std::fs::read_dir(world.path("share/man1"))
        .expect("a directory")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let mut expected = BTreeSet::from(["xeno.1".to_owned()]);
    for name in listed(&world, &[]) {
        expected.extend(
            listed(&world, &[&name])
                .iter()
                .map(|below| format!("xeno-{name}-{below}.1")),
        );
        expected.insert(format!("xeno-{name}.1"));
    }
    assert!(expected.len() > 20, "{expected:?}");
    assert_eq!(pages, expected);
    let page = |name: &str| std::fs::read_to_string(world.path("share/man1").join(name)).expect("a page");
    // Hyphens are escaped, so that nobody takes them for dashes.
    let hook = page("xeno-hook.1").replace('\\', "");
    for part in [".TH xeno-hook 1", "xeno-hook-install(1)", "SEE ALSO"] {
        assert!(hook.contains(part), "no {part} in\n{hook}");
    }
    assert!(page("xeno-hook-install.1").contains("EXIT STATUS"));
    // Written again over what is there.
    assert_eq!(world.xeno(".", &["man", "share/man1"]).code, Some(0));
    assert_eq!(world.xeno(".", &["man", "share/man1/xeno.1"]).code, Some(1));
}

/// What a shell is offered in `directory` for the last of these words.
fn offered(world: &World, directory: &str, words: &[&str]) -> Vec<String> {
    let index = (words.len() - 1).to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_xeno"))
        .args(["--"].iter().chain(words))
        .current_dir(world.path(directory))
        .env("XENO_SOCKET", world.path("no-agent.sock"))
        .envs([
            ("XENO_COMPLETE", "bash"),
            ("_CLAP_IFS", "\n"),
            ("_CLAP_COMPLETE_INDEX", &index),
        ])
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn shells_are_offered_commands_options_and_names_of_the_fleet() {
    let world = World::new();
    let commands = offered(&world, ".", &["xeno", ""]);
    for name in listed(&world, &[]) {
        assert!(commands.contains(&name), "{name} is not in {commands:?}");
    }
    assert!(!commands.iter().any(|name| name == "guestfwd"), "{commands:?}");
    assert!(offered(&world, ".", &["xeno", "validate", "--o"]).contains(&"--output".to_owned()));
    assert_eq!(
        world.xeno(".", &["init", "fleet", "--fleet", "demo"]).code,
        Some(0)
    );
    assert_eq!(
        offered(&world, "fleet/slices", &["xeno", "why", ""])
            .first()
            .map(String::as_str),
        Some("web/0")
    );
    assert_eq!(
        offered(&world, "fleet", &["xeno", "plan", "--node", ""]),
        ["node-a"]
    );
    assert_eq!(
        offered(&world, "fleet", &["xeno", "plan", "--node", "x"]),
        [""; 0]
    );
    // Names are offered while something is wrong, and nobody is told off for pressing a key.
    world.edit("fleet/slices/web.yaml", "memory:", "memroy:");
    assert_eq!(
        offered(&world, "fleet", &["xeno", "plan", "--node", ""]),
        ["node-a"]
    );
    assert!(!offered(&world, ".", &["xeno", "why", "w"]).contains(&"web/0".to_owned()));
}

#[test]
fn scripts_ask_the_program_again() {
    let world = World::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let said = world.xeno(".", &["completion", shell]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(
            said.out.contains("XENO_COMPLETE") && said.out.contains("xeno"),
            "{}",
            said.out
        );
    }
    assert_eq!(world.xeno(".", &["completion", "tcsh"]).code, Some(2));
}
