//! A repository, real git, and what a node makes of it.

use std::path::{Path, PathBuf};
use std::process::Command;

#[cfg(feature = "sshd")]
mod ssh;

use super::*;

/// A work tree with one commit, a mirror that is not made yet, and git without anybody's configuration.
struct World {
    dir: tempfile::TempDir,
}

fn git_in(directory: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(args)
        .current_dir(directory)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_AUTHOR_NAME", "A"), ("GIT_AUTHOR_EMAIL", "a@example.org")])
        .envs([
            ("GIT_COMMITTER_NAME", "A"),
            ("GIT_COMMITTER_EMAIL", "a@example.org"),
        ])
        .output()
        .expect("git runs");
    assert!(
        output.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl World {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(init: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let world = Self { dir };
        std::fs::create_dir(world.work()).expect("a work tree");
        let args: Vec<&str> = ["init", "-q", "-b", "main"].iter().chain(init).copied().collect();
        world.git(&args);
        world.write("fleet.yaml", "kind: Fleet\n");
        world.git(&["add", "-A"]);
        world.git(&["commit", "-q", "-m", "first"]);
        world
    }

    fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn git(&self, args: &[&str]) -> String {
        git_in(&self.work(), args)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.work().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        std::fs::write(path, text).expect("a file");
    }

    fn commit(&self, message: &str) -> Revision {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        Revision::new(&self.git(&["rev-parse", "HEAD"])).expect("an id")
    }

    fn config(&self) -> SourceConfig {
        SourceConfig {
            url: RemoteUrl::parse(&self.work().to_string_lossy()).expect("an address"),
            branch: "main".to_owned(),
            mirror: self.dir.path().join("state/mirror.git"),
            credentials: Credentials::default(),
            accept_rewrites: false,
            timeout: Duration::from_secs(20),
            limits: Limits::default(),
        }
    }

    fn mirror(&self) -> Mirror {
        Mirror::new(self.config())
    }
}

fn paths(snapshot: &RepositorySnapshot) -> Vec<&str> {
    snapshot.files.iter().map(|file| file.path.as_str()).collect()
}

#[test]
fn a_branch_is_fetched_and_read_at_a_commit() {
    let world = World::new();
    let mut mirror = world.mirror();
    let first = mirror.fetch(None).expect("a fetch");
    assert_eq!(first.relation, Relation::First);

    world.write("slices/web.yaml", "kind: Slice\n");
    world.write("slices/files/run.sh", "#!/bin/sh\n");
    world.write(".github/workflows/ci.yaml", "on: push\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(world.work().join("slices/files/run.sh"), executable).expect("chmod");
    let second = world.commit("second\n\nbody");
    let fetched = mirror.fetch(Some(&first.revision)).expect("a fetch");
    assert_eq!(
        fetched,
        Fetched {
            revision: second.clone(),
            relation: Relation::Descendant
        }
    );
    assert_eq!(
        mirror.fetch(Some(&second)).expect("a fetch").relation,
        Relation::Same
    );

    let before = mirror.read(&first.revision, "").expect("a snapshot");
    assert_eq!(paths(&before), ["fleet.yaml"]);
    let after = mirror.read(&second, "").expect("a snapshot");
    assert_eq!(paths(&after), ["fleet.yaml", "slices/web.yaml"]);
    assert_eq!(&*after.files[0].content, b"kind: Fleet\n");
    let script = &after.tree.entries["slices/files/run.sh"];
    assert_eq!((script.mode, script.size), (FileMode::Executable, 10));
    assert_eq!(mirror.blob(&script.blob).expect("a blob"), b"#!/bin/sh\n");
    assert_eq!(mirror.subject(&second).expect("a subject"), "second");

    assert_eq!(
        paths(&mirror.read(&second, "slices").expect("a snapshot")),
        ["web.yaml"]
    );
    assert!(matches!(
        mirror.read(&second, "nowhere"),
        Err(SourceError::NoDirectory { .. })
    ));
    assert!(matches!(
        mirror.read(&second, "fleet.yaml"),
        Err(SourceError::NoDirectory { .. })
    ));
    assert!(matches!(
        mirror.blob(second.as_str()),
        Err(SourceError::NoBlob { .. })
    ));
}

#[test]
fn unchanged_files_are_not_read_again() {
    let world = World::new();
    world.write("a.yaml", "a\n");
    let first = world.commit("a");
    world.write("b.yaml", "b\n");
    let second = world.commit("b");
    let mut reader = Reader::open(&world.work()).expect("a repository");
    let before = reader.read(&first, "").expect("a snapshot");
    let after = reader.read(&second, "").expect("a snapshot");
    assert!(Arc::ptr_eq(&before.files[0].content, &after.files[0].content));
}

#[test]
fn what_is_not_an_ordinary_file_is_listed_and_never_followed() {
    let world = World::new();
    std::os::unix::fs::symlink("/etc/passwd", world.work().join("evil.yaml")).expect("a link");
    std::os::unix::fs::symlink("/etc", world.work().join("dir")).expect("a link");
    let first = world.commit("links");
    world.git(&[
        "update-index",
        "--add",
        "--cacheinfo",
        &format!("160000,{first},sub"),
    ]);
    world.git(&["commit", "-q", "-m", "submodule"]);
    let tip = Revision::new(&world.git(&["rev-parse", "HEAD"])).expect("an id");
    let mut mirror = world.mirror();
    mirror.fetch(None).expect("a fetch");
    let snapshot = mirror.read(&tip, "").expect("a snapshot");
    assert_eq!(paths(&snapshot), ["fleet.yaml"]);
    assert_eq!(
        snapshot.problems,
        [Problem {
            path: "evil.yaml".to_owned(),
            kind: ProblemKind::NotOrdinary(FileMode::Symlink)
        }]
    );
    assert_eq!(snapshot.tree.entries["dir"].mode, FileMode::Symlink);
    assert_eq!(snapshot.tree.entries["sub"].mode, FileMode::Submodule);
    assert!(matches!(
        mirror.read(&tip, "dir"),
        Err(SourceError::NoDirectory { .. })
    ));
}

#[test]
fn names_that_are_not_text_are_problems() {
    use std::os::unix::ffi::OsStrExt;
    let world = World::new();
    std::fs::write(
        world.work().join(std::ffi::OsStr::from_bytes(b"caf\xe9.yaml")),
        "x",
    )
    .expect("a file");
    let tip = world.commit("latin1");
    let snapshot = Reader::open(&world.work())
        .expect("opens")
        .read(&tip, "")
        .expect("a snapshot");
    assert_eq!(snapshot.problems.len(), 1);
    assert_eq!(snapshot.problems[0].kind, ProblemKind::Name);
}

#[test]
fn everything_is_bounded() {
    let world = World::new();
    world.write("big.yaml", &"x".repeat(5000));
    world.write("a/b/c/d/deep.yaml", "x");
    let tip = world.commit("big");
    let read = |limits: Limits| {
        let mut reader = Reader::open(&world.work()).expect("opens").with_limits(limits);
        reader.read(&tip, "")
    };
    let limits = Limits::default();
    let snapshot = read(Limits {
        file_bytes: 4096,
        depth: 3,
        ..limits
    })
    .expect("a snapshot");
    assert_eq!(paths(&snapshot), ["fleet.yaml"]);
    let kinds: Vec<_> = snapshot
        .problems
        .iter()
        .map(|p| (p.path.as_str(), p.kind))
        .collect();
    assert!(
        kinds.contains(&(
            "big.yaml",
            ProblemKind::TooLarge {
                size: 5000,
                max: 4096
            }
        )),
        "{kinds:?}"
    );
    assert!(kinds.contains(&("a/b/c", ProblemKind::TooDeep)), "{kinds:?}");
    assert!(matches!(
        read(Limits {
            total_bytes: 100,
            ..limits
        }),
        Err(SourceError::Limit { .. })
    ));
    assert!(matches!(
        read(Limits { files: 1, ..limits }),
        Err(SourceError::Limit { .. })
    ));
    assert!(matches!(
        read(Limits { entries: 3, ..limits }),
        Err(SourceError::Limit { .. })
    ));
    let blob = world.git(&["rev-parse", "HEAD:big.yaml"]);
    let reader = Reader::open(&world.work()).expect("opens").with_limits(Limits {
        blob_bytes: 10,
        ..limits
    });
    assert!(matches!(reader.blob(&blob), Err(SourceError::Limit { .. })));
}

#[test]
fn a_rewritten_branch_is_refused_and_the_last_good_commit_stays() {
    let world = World::new();
    world.write("a.yaml", "a\n");
    let good = world.commit("good");
    let mut mirror = world.mirror();
    mirror.fetch(None).expect("a fetch");

    world.git(&["checkout", "-q", "--orphan", "other"]);
    world.git(&["commit", "-q", "-m", "unrelated"]);
    world.git(&["branch", "-q", "-f", "main", "HEAD"]);
    let error = mirror.fetch(Some(&good)).expect_err("a refusal");
    assert!(matches!(error, SourceError::Rewritten { .. }), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("accept_rewrites")));
    assert_eq!(
        paths(&mirror.read(&good, "").expect("still there")),
        ["a.yaml", "fleet.yaml"]
    );
    // Also through the making anew that too many packs bring about.
    mirror.packs_max = 0;
    assert!(matches!(
        mirror.fetch(Some(&good)),
        Err(SourceError::Rewritten { .. })
    ));
    assert_eq!(
        paths(&mirror.read(&good, "").expect("still there")),
        ["a.yaml", "fleet.yaml"]
    );

    let mut lenient = Mirror::new(SourceConfig {
        accept_rewrites: true,
        ..world.config()
    });
    assert_eq!(
        lenient.fetch(Some(&good)).expect("taken").relation,
        Relation::Rewritten
    );

    // Back to where it was, and a step behind it: a rewind is a rewrite too.
    world.git(&["branch", "-q", "-f", "main", good.as_str()]);
    assert_eq!(
        mirror.fetch(Some(&good)).expect("a fetch").relation,
        Relation::Same
    );
    world.git(&["branch", "-q", "-f", "main", &format!("{good}~1")]);
    assert!(matches!(
        mirror.fetch(Some(&good)),
        Err(SourceError::Rewritten { .. })
    ));
}

#[test]
fn a_repository_that_vanishes_takes_nothing_with_it() {
    let world = World::new();
    let mut mirror = world.mirror();
    let good = mirror.fetch(None).expect("a fetch").revision;
    std::fs::rename(world.work(), world.dir.path().join("gone")).expect("a move");
    let error = mirror.fetch(Some(&good)).expect_err("an error");
    assert!(matches!(error, SourceError::Missing { .. }), "{error}");
    assert_eq!(
        paths(&mirror.read(&good, "").expect("still there")),
        ["fleet.yaml"]
    );
    assert_eq!(
        paths(&world.mirror().read(&good, "").expect("after a restart too")),
        ["fleet.yaml"]
    );
}

#[test]
fn a_damaged_mirror_is_made_anew_once_the_repository_is_there() {
    let world = World::new();
    let good = world.mirror().fetch(None).expect("a fetch").revision;
    let state = world.dir.path().join("state/mirror.git");
    for object in ["objects/pack", "objects"] {
        let lost = std::fs::remove_dir_all(state.join(object));
        assert!(lost.is_ok());
        std::fs::create_dir_all(state.join(object)).expect("an empty directory");
        let mut mirror = world.mirror();
        assert!(mirror.read(&good, "").is_err());
        assert_eq!(mirror.fetch(Some(&good)).expect("a fetch").revision, good);
        assert_eq!(
            paths(&mirror.read(&good, "").expect("whole again")),
            ["fleet.yaml"]
        );
    }
    std::fs::write(state.join("HEAD"), "garbage").expect("damage");
    std::fs::rename(world.work(), world.dir.path().join("gone")).expect("a move");
    assert!(world.mirror().fetch(Some(&good)).is_err());
    assert!(
        state.join("HEAD").exists(),
        "the old one stays until a new one is whole"
    );
}

#[test]
fn a_missing_branch_is_named_with_those_that_exist() {
    let world = World::new();
    let mut mirror = Mirror::new(SourceConfig {
        branch: "prod".to_owned(),
        ..world.config()
    });
    let error = mirror.fetch(None).expect_err("an error").to_string();
    assert!(error.contains("`prod`") && error.contains("`main`"), "{error}");
}

#[test]
fn forms_that_libgit2_does_not_read_come_with_a_remedy() {
    let check = |init: &[&str], what: &str| {
        let world = World::with(init);
        for error in [
            world.mirror().fetch(None).expect_err("refused"),
            Reader::open(&world.work()).err().expect("refused"),
        ] {
            assert!(error.to_string().contains(what), "{error}");
            assert!(
                error
                    .hint()
                    .is_some_and(|hint| hint.contains("--object-format=sha1"))
            );
        }
    };
    check(&["--object-format=sha256"], "SHA-256");
    // Reftables came with git 2.45; older ones cannot make what is refused here.
    if git_in(Path::new("/"), &["--version"]).as_str() >= "git version 2.45" {
        check(&["--ref-format=reftable"], "reftable");
    }
}

#[tokio::test]
async fn one_thread_answers_everybody() {
    let world = World::new();
    let source = Source::start(world.config()).expect("a thread");
    let fetched = source.fetch(None).await.expect("a fetch");
    let (a, b) = tokio::join!(
        source.read(fetched.revision.clone(), ""),
        source.read(fetched.revision.clone(), "")
    );
    assert_eq!(paths(&a.expect("a snapshot")), paths(&b.expect("a snapshot")));
    assert!(
        source
            .is_descendant(fetched.revision.clone(), fetched.revision)
            .await
            .expect("an answer")
    );
}

#[test]
fn a_commit_with_any_problem_asks_for_nothing_and_unchanged_files_are_parsed_once() {
    let world = World::new();
    let fleet = "apiVersion: xenoslice/v1\nkind: Fleet\nmetadata: { name: demo }\nspec: {}\n";
    world.write("fleet.yaml", fleet);
    world.write(
        "site.yaml",
        "apiVersion: xenoslice/v1\nkind: Site\nmetadata: { name: home }\nspec: {}\n",
    );
    let good = world.commit("good");
    let mut reader = Reader::open(&world.work()).expect("opens");
    let mut manifests = Manifests::default();
    let snapshot = reader.read(&good, "").expect("a snapshot");
    assert_eq!(manifests.fleet(&snapshot).expect("a fleet").name.as_str(), "demo");
    assert_eq!(manifests.parsed(), 2);

    std::os::unix::fs::symlink("fleet.yaml", world.work().join("link.yaml")).expect("a link");
    world.write("huge.yaml", &"x".repeat(5 << 20));
    let bad = world.commit("bad");
    let snapshot = reader.read(&bad, "").expect("a snapshot");
    let report = manifests.fleet(&snapshot).expect_err("diagnostics");
    let paths: Vec<_> = report.shown().iter().map(|d| d.place.path.as_str()).collect();
    assert_eq!(paths, ["huge.yaml", "link.yaml"]);
    assert_eq!(manifests.parsed(), 0);
}
