//! A whole agent from its configuration: a real repository, its own mirror, its state and its socket.

use std::path::Path;
use std::time::Duration;

use git2::{Repository, Signature};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use xeno_agent::api::{Phase, Status};
use xeno_agent::api_client::ApiClient;
use xeno_agent::{AgentConfig, AgentError};

const FLEET: &str = "apiVersion: xenoslice/v1\nkind: Fleet\nmetadata: { name: acme }\n---\n\
    apiVersion: xenoslice/v1\nkind: Site\nmetadata: { name: cambridge }\n---\n\
    apiVersion: xenoslice/v1\nkind: Node\nmetadata: { name: cam-01 }\n\
    spec: { site: cambridge, capacity: { memory: 2GiB, vcpus: 2 }, hypervisor: qemu }\n";

fn commit(repository: &Path, fleet: &str) -> String {
    let repository = Repository::open(repository).unwrap();
    let blob = repository.blob(fleet.as_bytes()).unwrap();
    let mut tree = repository.treebuilder(None).unwrap();
    tree.insert("fleet.yaml", blob, 0o100_644).unwrap();
    let tree = repository.find_tree(tree.write().unwrap()).unwrap();
    let who = Signature::now("A", "a@example.net").unwrap();
    let parent = repository.find_reference("refs/heads/main").ok();
    let parent = parent.map(|parent| parent.peel_to_commit().unwrap());
    let parents: Vec<_> = parent.iter().collect();
    repository
        .commit(Some("refs/heads/main"), &who, &who, "say it", &tree, &parents)
        .unwrap()
        .to_string()
}

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), AgentError>>,
}

fn config(dir: &Path) -> AgentConfig {
    let text = "node = \"cam-01\"\nrepository = \"fleet.git\"\npoll = \"1s\"\nlook = \"1s\"\n";
    AgentConfig::parse(Path::new("agent.toml"), text, dir).unwrap()
}

fn start(dir: &Path) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let agent = xeno_agent::run(config(dir), "/bin/true".into(), async {
        let _ = stopped.await;
    });
    Running {
        stop,
        task: tokio::spawn(agent),
    }
}

async fn until(dir: &Path, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
    let client = ApiClient::new(&dir.join("agent.sock"));
    let mut last = None;
    let wait = async {
        loop {
            if let Ok(status) = client.status().await {
                if wanted(&status) {
                    return status;
                }
                last = Some(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match timeout(Duration::from_secs(60), wait).await {
        Ok(status) => status,
        Err(_) => panic!("waiting for {what}: {last:#?}"),
    }
}

fn is_at(status: &Status, revision: &str) -> bool {
    status
        .accepted
        .as_ref()
        .is_some_and(|accepted| accepted.revision == revision)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_follows_its_repository_and_outlives_its_loss() {
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("fleet.git");
    let mut options = git2::RepositoryInitOptions::new();
    options.bare(true).initial_head("main");
    Repository::init_opts(&repository, &options).unwrap();
    let first = commit(&repository, FLEET);

    let agent = start(dir.path());
    let status = until(dir.path(), "the first commit", |status| is_at(status, &first)).await;
    assert_eq!(status.node.name, "cam-01");
    // Nobody serves files here: the agent says so, and goes on.
    until(dir.path(), "blindness", |status| status.phase == Phase::Blind).await;

    let second = start(dir.path()).task.await.unwrap().unwrap_err();
    assert!(matches!(second, AgentError::State(_)), "{second:?}");

    let broken = commit(&repository, &FLEET.replace("cambridge, cap", "oxford, cap"));
    let status = until(dir.path(), "the rejection", |status| status.rejected.is_some()).await;
    let rejected = status.rejected.unwrap();
    assert_eq!(rejected.revision, broken);
    assert!(
        rejected.why.contains("oxford") && rejected.why.contains("fleet.yaml:"),
        "{}",
        rejected.why
    );
    assert_eq!(status.accepted.unwrap().revision, first);

    agent.stop.send(()).unwrap();
    agent.task.await.unwrap().unwrap();
    assert!(!dir.path().join("agent.sock").exists());

    // Without the repository it works on from its mirror.
    std::fs::rename(&repository, dir.path().join("gone.git")).unwrap();
    let agent = start(dir.path());
    let status = until(dir.path(), "the loss of the repository", |status| {
        status.source.failure.is_some() && status.phase == Phase::Blind
    })
    .await;
    assert_eq!(status.node.fleet.as_deref(), Some("acme"));
    assert!(is_at(&status, &first));

    std::fs::rename(dir.path().join("gone.git"), &repository).unwrap();
    let third = commit(&repository, &format!("{FLEET}# better\n"));
    let status = until(dir.path(), "the third commit", |status| is_at(status, &third)).await;
    assert_eq!(status.accepted.unwrap().generation, 2);
    assert_eq!(status.rejected, None);
    agent.stop.send(()).unwrap();
    agent.task.await.unwrap().unwrap();
}
