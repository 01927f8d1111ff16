//! A sliver goes back with its image, and when a person asks for it, through the whole agent.

use xeno_agent::handle::HandleError;

use crate::fleet::{commit, id, slice};
use crate::world::World;

async fn names(world: &World) -> Vec<String> {
    let found = world.agent().handle().checkpoints(id("web/0")).await.unwrap();
    found.checkpoints.into_iter().map(|one| one.name).collect()
}

#[tokio::test(start_paused = true)]
async fn a_person_goes_back_once_nobody_uses_it() {
    let mut world = World::new();
    world.start().await;
    world.push(commit(1, &[slice("web")])).await;
    world.converged().await;
    world.push(commit(2, &[slice("web").page("other")])).await;
    world.converged().await;
    let made = names(&world).await;
    assert_eq!(made.len(), 1, "{made:?}");

    let handle = world.agent().handle().clone();
    let restore = async |name: &str| handle.restore(id("web/0"), name.to_owned()).await;
    let runs = restore(&made[0]).await.unwrap_err();
    assert!(
        matches!(&runs, HandleError::InUse { why } if why.contains("state: stopped")),
        "{runs}"
    );
    world
        .push(commit(3, &[slice("web").page("other").with("state: stopped")]))
        .await;
    world.converged().await;
    let missing = restore("never-made").await.unwrap_err();
    assert!(
        matches!(missing, HandleError::NoSuchCheckpoint { .. }),
        "{missing}"
    );
    let nobody = handle.checkpoints(id("db/0")).await.unwrap_err();
    assert!(matches!(nobody, HandleError::NoSuchSliver { .. }), "{nobody}");
    let restored = restore(&made[0]).await.unwrap();
    assert_eq!(restored.checkpoint, made[0]);
    // What was undone can be gone back to as well.
    assert!(names(&world).await.contains(&restored.kept));
    restore(&restored.kept).await.unwrap();
    world.push(commit(4, &[slice("web").page("other")])).await;
    world.converged().await;
    world.stop().await;
}
