//! A fleet with one stopped sliver, pushed to a repository with the hook, and where it is asked for, its node.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use xeno_tests::lab::node::Node;
use xeno_tests::lab::repository::{Push, Repository};
use xeno_tests::lab::{Parts, built, wait_for};

/// Generous: machines are shared.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Digest of a template that nobody has.
const TEMPLATE: &str = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Runs a command to its end.
    pub(crate) fn by(command: &mut Command) -> Self {
        let output = command.env("NO_COLOR", "1").output().expect("it runs");
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// That it failed with exit code 1 and said all of `parts`, however the lines were broken.
    #[track_caller]
    pub(crate) fn refused(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        says(&format!("{}{}", self.out, self.err), parts);
    }
}

/// That a text has all of `parts`, however its lines are broken, and tells of no panic.
#[track_caller]
pub(crate) fn says(text: &str, parts: &[&str]) {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!flat.contains("panicked"), "{text}");
    for part in parts {
        assert!(flat.contains(part), "no {part:?} in\n{text}");
    }
}

/// The program that is given bad input.
pub(crate) fn program() -> PathBuf {
    built::program("xeno")
}

/// Runs `xeno` in a directory.
pub(crate) fn xeno(dir: &Path, arguments: &[&str]) -> Said {
    Said::by(Command::new(program()).current_dir(dir).args(arguments))
}

/// A repository whose first commit is good.
pub(crate) struct World {
    _scratch: tempfile::TempDir,
    pub(crate) dir: PathBuf,
    pub(crate) repository: Repository,
    /// The good commit.
    pub(crate) good: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a directory");
        let dir = scratch.path().canonicalize().expect("it exists");
        let repository = Repository::create(&dir, &program()).expect("a repository");
        let made = xeno(&dir, &["init", "work", "--fleet", "demo", "--template", TEMPLATE]);
        assert_eq!(made.code, Some(0), "{made:?}");
        let mut world = Self {
            _scratch: scratch,
            dir,
            repository,
            good: String::new(),
        };
        world.edit("slices/web.yaml", "state: running", "state: stopped");
        let push = world.push("good");
        assert!(push.accepted, "{}", push.output);
        world.good = push.revision;
        world
    }

    /// Replaces the first `from` in a file of the work tree.
    pub(crate) fn edit(&self, path: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.repository.work.join(path)).expect("a file");
        assert!(text.contains(from), "{path} has no {from:?}:\n{text}");
        self.repository
            .write(path, &text.replacen(from, to, 1))
            .expect("written");
    }

    pub(crate) fn push(&self, message: &str) -> Push {
        self.repository.push(message).expect("git runs")
    }

    /// Pushes the commit that was refused before; whether it is taken now.
    pub(crate) fn push_again(&self) -> bool {
        let mut git = Command::new("git");
        git.current_dir(&self.repository.work);
        Said::by(git.args(["push", "-q", "origin", "main"])).code == Some(0)
    }

    /// Runs git in the work tree.
    pub(crate) fn git(&self, arguments: &[&str]) {
        let mut git = Command::new("git");
        git.current_dir(&self.repository.work)
            .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
            .args(["-c", "protocol.file.allow=always"])
            .args(arguments);
        let said = Said::by(&mut git);
        assert_eq!(said.code, Some(0), "{said:?}");
    }

    /// Looks at the work tree and pushes it: both refuse it and say `parts`; the branch stays where it was.
    #[track_caller]
    pub(crate) fn refuses(&self, parts: &[&str]) {
        xeno(&self.repository.work, &["validate", "."]).refused(parts);
        self.refuses_push(parts);
    }

    #[track_caller]
    pub(crate) fn refuses_push(&self, parts: &[&str]) {
        let push = self.push("bad");
        assert!(!push.accepted, "{}", push.output);
        let text = push.output.replace("remote: ", "");
        says(&text, parts);
        says(&text, &["refused: nothing of commit"]);
        assert_eq!(self.head(), self.good);
    }

    fn head(&self) -> String {
        let mut git = Command::new("git");
        let said = Said::by(
            git.arg("-C")
                .arg(&self.repository.bare)
                .args(["rev-parse", "main"]),
        );
        said.out.trim().to_owned()
    }

    /// From now on pushes reach the branch unseen, as in a repository that has no hook.
    pub(crate) fn without_hook(&self) {
        std::fs::remove_file(self.repository.bare.join("hooks/pre-receive")).expect("the hook");
    }

    /// Starts its node, and waits until it is as the good commit asks.
    pub(crate) fn node(&self) -> Running {
        let parts = Parts {
            xeno: program(),
            template: TEMPLATE.to_owned(),
            published: self.dir.join("published"),
        };
        let node = Node::start(&self.dir, "node-a", &self.repository.bare, &parts).expect("a node");
        let running = Running(node);
        running.0.await_converged(DEADLINE).expect("it converges");
        running
    }
}

/// A node whose daemons end with the test, however it ends.
pub(crate) struct Running(pub(crate) Node);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, which is as well.
        let _ = self.0.kill_agent();
        let _ = self.0.kill_cowfs();
    }
}

impl Running {
    pub(crate) fn xeno(&self, arguments: &[&str]) -> Said {
        Said::by(
            Command::new(program())
                .env("XENO_SOCKET", self.0.socket())
                .args(arguments),
        )
    }

    /// Waits until `xeno status` says all of `parts`.
    #[track_caller]
    pub(crate) fn await_status(&self, parts: &[&str]) {
        wait_for(&format!("{parts:?} in the status"), DEADLINE, || {
            let said = self.xeno(&["status"]);
            let flat = said.out.split_whitespace().collect::<Vec<_>>().join(" ");
            match parts.iter().all(|part| flat.contains(part)) {
                true => Ok(()),
                false => Err(said.out),
            }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }

    /// That it answers with `revision` as its last good commit, and has nothing to do.
    #[track_caller]
    pub(crate) fn is_still_at(&self, revision: &str) {
        let status = self.0.json(&["status", "-o", "json"]).expect("it answers");
        assert_eq!(status["accepted"]["revision"], revision, "{status}");
        let plan = self.xeno(&["plan", "--detailed-exitcode"]);
        assert_eq!(plan.code, Some(0), "{plan:?}");
        says(&plan.out, &["Nothing to do"]);
    }

    /// Most memory its agent ever had, in KiB.
    pub(crate) fn agent_peak_kib(&self) -> u64 {
        peak_kib(self.0.agent.pid())
    }
}

/// Most memory a process ever had (`VmHWM` of proc_pid_status(5)), in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).expect("a number")
}
