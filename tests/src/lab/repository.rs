//! A bare repository with the push hook, and a clone in which somebody works.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{LabError, LabResult, ensure, write};

/// The repository of a laboratory.
#[derive(Clone, Debug)]
pub struct Repository {
    /// What nodes read and people push to.
    pub bare: PathBuf,
    /// Where somebody edits manifests.
    pub work: PathBuf,
}

/// What `git push` came to.
#[derive(Clone, Debug)]
pub struct Push {
    /// Whether it was accepted.
    pub accepted: bool,
    /// What it printed.
    pub output: String,
    /// The commit that was pushed.
    pub revision: String,
}

impl Repository {
    /// Makes `repo.git` and `work` in `dir` and installs the hook of `xeno`.
    ///
    /// # Errors
    /// What git or `xeno hook install` said.
    pub fn create(dir: &Path, xeno: &Path) -> LabResult<Self> {
        let repository = Self {
            bare: dir.join("repo.git"),
            work: dir.join("work"),
        };
        std::fs::create_dir_all(&repository.work).map_err(LabError::io("making the work directory"))?;
        git(dir, &["init", "-q", "--bare", "-b", "main", "repo.git"])?;
        git(&repository.work, &["init", "-q", "-b", "main"])?;
        git(&repository.work, &["remote", "add", "origin", "../repo.git"])?;
        // Whoever goes on by hand says `git push`, and no more.
        git(&repository.work, &["config", "push.autoSetupRemote", "true"])?;
        let output = Command::new(xeno)
            .args(["hook", "install"])
            .arg(&repository.bare)
            .output()
            .map_err(LabError::io("running xeno hook install"))?;
        ensure(output.status.success(), || {
            format!("xeno hook install: {}", String::from_utf8_lossy(&output.stderr))
        })?;
        Ok(repository)
    }

    /// Makes a work tree in `dir` whose pushes go to `url`, where there is a bare repository already. It may be one of
    /// git-remote-ext(1).
    ///
    /// # Errors
    /// What git said.
    pub fn work_on(dir: &Path, url: &str) -> LabResult<Self> {
        let repository = Self {
            bare: PathBuf::from(url),
            work: dir.join("work"),
        };
        std::fs::create_dir_all(&repository.work).map_err(LabError::io("making the work directory"))?;
        git(&repository.work, &["init", "-q", "-b", "main"])?;
        git(&repository.work, &["remote", "add", "origin", url])?;
        git(&repository.work, &["config", "protocol.ext.allow", "always"])?;
        Ok(repository)
    }

    /// Has pushes go to two repositories, one after the other.
    ///
    /// # Errors
    /// What git said.
    pub fn push_to_both(&self, first: &str, second: &str) -> LabResult<()> {
        for url in [first, second] {
            git(
                &self.work,
                &["remote", "set-url", "--add", "--push", "origin", url],
            )?;
        }
        Ok(())
    }

    /// Writes a file of the work tree.
    ///
    /// # Errors
    /// [`LabError::Io`] naming the path.
    pub fn write(&self, path: &str, text: &str) -> LabResult<()> {
        write(&self.work.join(path), text)
    }

    /// Writes a program of the work tree: git keeps that it may be executed.
    ///
    /// # Errors
    /// [`LabError::Io`] naming the path.
    pub fn write_executable(&self, path: &str, text: &str) -> LabResult<()> {
        use std::os::unix::fs::PermissionsExt as _;
        self.write(path, text)?;
        std::fs::set_permissions(self.work.join(path), std::fs::Permissions::from_mode(0o755))
            .map_err(LabError::io(format!("making {path} executable")))
    }

    /// Removes a file of the work tree.
    ///
    /// # Errors
    /// [`LabError::Io`] naming the path.
    pub fn remove(&self, path: &str) -> LabResult<()> {
        std::fs::remove_file(self.work.join(path)).map_err(LabError::io(format!("removing {path}")))
    }

    /// Commits everything and pushes it; a refusal is an outcome, not an error.
    ///
    /// # Errors
    /// If git cannot be run or the commit fails.
    pub fn push(&self, message: &str) -> LabResult<Push> {
        self.commit(message)?;
        self.push_commits()
    }

    /// Commits everything.
    ///
    /// # Errors
    /// What git said.
    pub fn commit(&self, message: &str) -> LabResult<()> {
        git(&self.work, &["add", "-A"])?;
        git(&self.work, &["commit", "-q", "-m", message]).map(drop)
    }

    /// Pushes what has been committed; a refusal is an outcome, not an error.
    ///
    /// # Errors
    /// If git cannot be run.
    pub fn push_commits(&self) -> LabResult<Push> {
        let revision = git(&self.work, &["rev-parse", "HEAD"])?.trim().to_owned();
        let output = command(&self.work)
            .args(["push", "origin", "main"])
            .output()
            .map_err(LabError::io("running git push"))?;
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Push {
            accepted: output.status.success(),
            output: text,
            revision,
        })
    }

    /// Runs a `xeno` command that edits manifests and commits, in the clone and as its author; returns what it printed.
    ///
    /// # Errors
    /// What it said if it failed.
    pub fn intend(&self, xeno: &Path, arguments: &[&str]) -> LabResult<String> {
        let output = Command::new(xeno)
            .current_dir(&self.work)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("NO_COLOR", "1")
            .envs([
                ("GIT_AUTHOR_NAME", "Demo"),
                ("GIT_AUTHOR_EMAIL", "demo@example.invalid"),
                ("GIT_COMMITTER_NAME", "Demo"),
                ("GIT_COMMITTER_EMAIL", "demo@example.invalid"),
            ])
            .args(arguments)
            .output()
            .map_err(LabError::io(format!("running xeno {}", arguments.join(" "))))?;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        ensure(output.status.success(), || {
            format!("xeno {}: {said}", arguments.join(" "))
        })?;
        Ok(said)
    }

    /// Takes back a commit that was refused.
    ///
    /// # Errors
    /// What git said.
    pub fn take_back(&self) -> LabResult<()> {
        git(&self.work, &["reset", "-q", "--hard", "HEAD~1"]).map(drop)
    }
}

/// Git with a fixed author and without the settings of whoever runs it.
fn command(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .args([
            "-c",
            "user.name=Demo",
            "-c",
            "user.email=demo@example.invalid",
            "-c",
            "safe.directory=*",
            "-c",
            "color.ui=false",
        ]);
    command
}

fn git(dir: &Path, arguments: &[&str]) -> LabResult<String> {
    let output = command(dir)
        .args(arguments)
        .output()
        .map_err(LabError::io("running git"))?;
    ensure(output.status.success(), || {
        format!(
            "git {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
