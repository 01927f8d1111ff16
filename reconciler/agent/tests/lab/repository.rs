//! A real repository, and what people do to it.

use std::path::{Path, PathBuf};

use git2::{Oid, Repository, RepositoryInitOptions, Signature};
use xeno_agent::source::RemoteUrl;

const MAIN: &str = "refs/heads/main";

pub(crate) struct Origin {
    path: PathBuf,
}

impl Origin {
    /// An empty one.
    pub(crate) fn new(path: &Path) -> Self {
        let mut options = RepositoryInitOptions::new();
        options.bare(true).initial_head("main");
        Repository::init_opts(path, &options).unwrap();
        Self {
            path: path.to_owned(),
        }
    }

    pub(crate) fn url(&self) -> RemoteUrl {
        RemoteUrl::parse(self.path.to_str().unwrap()).unwrap()
    }

    /// A commit that holds exactly these files, on top of what is there.
    pub(crate) fn commit(&self, files: &[(&str, &[u8])]) -> String {
        self.write(files, true)
    }

    /// A commit with only `fleet.yaml`.
    pub(crate) fn manifests(&self, yaml: &str) -> String {
        self.commit(&[("fleet.yaml", yaml.as_bytes())])
    }

    /// The branch becomes another history, as after a forced push.
    pub(crate) fn rewrite(&self, yaml: &str) -> String {
        let repository = self.open();
        repository.find_reference(MAIN).unwrap().delete().unwrap();
        self.write(&[("fleet.yaml", yaml.as_bytes())], false)
    }

    /// The branch goes.
    pub(crate) fn lose_branch(&self) {
        self.open().find_reference(MAIN).unwrap().delete().unwrap();
    }

    /// The branch is what it was at a commit.
    pub(crate) fn reset(&self, commit: &str) {
        let repository = self.open();
        let commit = Oid::from_str(commit).unwrap();
        repository.reference(MAIN, commit, true, "reset").unwrap();
    }

    /// The repository is elsewhere, or back.
    pub(crate) fn moved(&self, away: bool) {
        let elsewhere = self.path.with_extension("elsewhere");
        let (from, to) = if away {
            (&self.path, &elsewhere)
        } else {
            (&elsewhere, &self.path)
        };
        std::fs::rename(from, to).unwrap();
    }

    fn open(&self) -> Repository {
        Repository::open(&self.path).unwrap()
    }

    fn write(&self, files: &[(&str, &[u8])], onto_what_is_there: bool) -> String {
        let repository = self.open();
        let mut tree = repository.treebuilder(None).unwrap();
        for (name, content) in files {
            let blob = repository.blob(content).unwrap();
            tree.insert(name, blob, 0o100_644).unwrap();
        }
        let tree = repository.find_tree(tree.write().unwrap()).unwrap();
        let who = Signature::now("A", "a@example.net").unwrap();
        let parent = repository
            .find_reference(MAIN)
            .ok()
            .filter(|_| onto_what_is_there);
        let parent = parent.map(|parent| parent.peel_to_commit().unwrap());
        let parents: Vec<_> = parent.iter().collect();
        let commit = repository.commit(Some(MAIN), &who, &who, "say it", &tree, &parents);
        commit.unwrap().to_string()
    }
}
