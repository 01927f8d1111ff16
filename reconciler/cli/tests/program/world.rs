//! The program, real git, and a directory for both.

use std::path::PathBuf;
use std::process::{Command, Output};

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its exit code.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Everything it said.
    pub(crate) fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// A directory in which things happen.
pub(crate) struct World {
    /// The directory.
    pub(crate) dir: tempfile::TempDir,
}

/// Digest of a template that nobody has.
pub(crate) const TEMPLATE: &str = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

impl World {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    /// A path in it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn run(&self, command: &mut Command, directory: &str) -> Said {
        let output = command
            .current_dir(self.path(directory))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("XENO", env!("CARGO_BIN_EXE_xeno"))
            .env("NO_COLOR", "1")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .envs([("GIT_AUTHOR_NAME", "A"), ("GIT_AUTHOR_EMAIL", "a@example.org")])
            .envs([
                ("GIT_COMMITTER_NAME", "A"),
                ("GIT_COMMITTER_EMAIL", "a@example.org"),
            ])
            .output()
            .expect("it runs");
        Said::of(&output)
    }

    /// Runs `xeno`.
    pub(crate) fn xeno(&self, directory: &str, arguments: &[&str]) -> Said {
        self.run(
            Command::new(env!("CARGO_BIN_EXE_xeno")).args(arguments),
            directory,
        )
    }

    /// Runs git; what it says is for the caller.
    pub(crate) fn git(&self, directory: &str, arguments: &[&str]) -> Said {
        self.run(Command::new("git").args(arguments), directory)
    }

    /// Runs a shell, in which `$XENO` is the program.
    pub(crate) fn sh(&self, directory: &str, script: &str) -> Said {
        self.run(Command::new("sh").args(["-c", script]), directory)
    }

    /// Changes a file: replaces the first `from` by `to`.
    pub(crate) fn edit(&self, path: &str, from: &str, to: &str) {
        let file = self.path(path);
        let text = std::fs::read_to_string(&file).expect("a file");
        assert!(text.contains(from), "{path} has no {from:?}:\n{text}");
        std::fs::write(file, text.replacen(from, to, 1)).expect("written");
    }

    /// A fleet in `work`, committed, and a bare repository `repo.git` with the hook.
    pub(crate) fn with_hook() -> Self {
        let world = Self::new();
        assert_eq!(
            world
                .git(".", &["init", "-q", "--bare", "-b", "main", "repo.git"])
                .code,
            Some(0)
        );
        let installed = world.xeno(".", &["hook", "install", "repo.git"]);
        assert_eq!(installed.code, Some(0), "{installed:?}");
        let made = world.xeno(".", &["init", "work", "--fleet", "demo", "--template", TEMPLATE]);
        assert_eq!(made.code, Some(0), "{made:?}");
        assert_eq!(world.git("work", &["init", "-q", "-b", "main"]).code, Some(0));
        assert_eq!(
            world
                .git("work", &["remote", "add", "origin", "../repo.git"])
                .code,
            Some(0)
        );
        world.commit("first");
        world
    }

    /// Commits everything in `work`.
    pub(crate) fn commit(&self, message: &str) {
        assert_eq!(self.git("work", &["add", "-A"]).code, Some(0));
        let said = self.git("work", &["commit", "-q", "-m", message]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }

    /// Pushes `work`.
    pub(crate) fn push(&self, arguments: &[&str]) -> Said {
        let words: Vec<&str> = ["push", "origin"].iter().chain(arguments).copied().collect();
        let mut said = self.git("work", &words);
        // Git pads what the other side says, for terminals that show a longer line there.
        said.err = said.err.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        said
    }
}

/// A file of the world.
pub(crate) fn read(world: &World, path: &str) -> String {
    std::fs::read_to_string(world.path(path)).expect("a file")
}

/// Runs a command in the work tree, which ends with this code and says these things.
pub(crate) fn check(world: &World, words: &[&str], code: i32, parts: &[&str]) -> Said {
    let said = world.xeno("work", words);
    assert_eq!(said.code, Some(code), "{words:?}: {said:?}");
    for part in parts {
        assert!(
            said.all().contains(part),
            "{words:?}: no {part:?} in\n{}",
            said.all()
        );
    }
    said
}
