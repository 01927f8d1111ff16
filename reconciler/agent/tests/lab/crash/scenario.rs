//! Stories: what is there, what is asked for, and so which actions it takes.

use tokio::time::Duration;
use xeno_model::desired::DesiredNode;
use xeno_model::observed::DomainState;
use xeno_reconciler::action::ActionKind;

use crate::fleet::{Slice, commit, id, slice};
use crate::world::{TOMBSTONE, World};

/// One story. The sliver `db/0` is in all of it, and nobody asks anything of it.
pub(crate) struct Scenario {
    /// The sliver it is about.
    pub(crate) about: &'static str,
    /// Carried out in peace.
    pub(crate) before: Vec<Commit>,
    /// What happens to the node then.
    pub(crate) happens: fn(&World),
    /// What is pushed then, and goes wrong.
    pub(crate) then: Commit,
}

/// One commit of a story.
pub(crate) struct Commit {
    slices: Vec<Slice>,
    pass: Duration,
}

impl Commit {
    pub(crate) fn desired(&self, number: u8) -> DesiredNode {
        commit(number, &self.slices)
    }

    /// How much time passes once it is carried out.
    pub(crate) fn then_pass(&self) -> Duration {
        self.pass
    }

    /// Whether it asks for a sliver.
    pub(crate) fn names(&self, sliver: &str) -> bool {
        self.desired(1).slivers.contains_key(&id(sliver))
    }
}

/// `db/0`, and these.
fn with(slices: impl IntoIterator<Item = Slice>) -> Commit {
    let mut all = vec![slice("db").template("fedora")];
    all.extend(slices);
    Commit {
        slices: all,
        pass: Duration::ZERO,
    }
}

fn story(before: impl IntoIterator<Item = Commit>, then: Commit) -> Scenario {
    Scenario {
        about: "web/0",
        before: before.into_iter().collect(),
        happens: |_| {},
        then,
    }
}

/// A slice that keeps nothing gets another page: another domain of it starts beside the first, and takes over.
fn replaced() -> Scenario {
    let web = || {
        let web = slice("web").keeping_nothing().asked();
        web.with("publish: [{ guest: 80, host: 18080 }]")
    };
    story([with([web()])], with([web().page("other")]))
}

/// The story of a replacement, for kinds of action whose own story is another one.
pub(crate) fn replacement(kind: ActionKind) -> Option<Scenario> {
    let part = matches!(
        kind,
        ActionKind::ImportFiles
            | ActionKind::OpenWritable
            | ActionKind::Stack
            | ActionKind::Export
            | ActionKind::Boot
            | ActionKind::Shutdown
            | ActionKind::Unexport
            | ActionKind::CloseWritable
    );
    part.then(replaced)
}

/// The story that has an action of this kind. A kind without one does not compile.
pub(crate) fn scenario(kind: ActionKind) -> Scenario {
    let web = || slice("web").asked();
    match kind {
        ActionKind::FetchTemplate
        | ActionKind::ImportFiles
        | ActionKind::OpenWritable
        | ActionKind::Stack
        | ActionKind::Export
        | ActionKind::Boot
        | ActionKind::AwaitHealthy => story([with([])], with([web().page("new")])),
        ActionKind::MountRemote => story([with([])], {
            with([web().overlay("nfs://store.example/acme/apache")])
        }),
        ActionKind::Shutdown | ActionKind::Unexport | ActionKind::CloseWritable => {
            story([with([web()])], with([web().page("other")]))
        }
        ActionKind::Checkpoint => story([with([web()])], with([web().page("other")])),
        ActionKind::Restore => {
            let other = with([web().page("other")]);
            story(
                [with([web()]), other],
                with([web().with("rollback: { data: restore }")]),
            )
        }
        ActionKind::Limit => story([with([web()])], with([web().limits("disk: 1GiB")])),
        ActionKind::Tombstone => story([with([web()])], with([])),
        ActionKind::Revive => story([with([web()]), with([])], with([web()])),
        ActionKind::Purge => {
            let (mut gone, mut later) = (with([]), with([]));
            gone.pass = TOMBSTONE - Duration::from_secs(60);
            later.pass = Duration::from_secs(120);
            story([with([web()]), gone], later)
        }
        ActionKind::Retune => story([with([web().limits("memoryMax: 512MiB")])], {
            with([web().limits("memoryMax: 512MiB").memory("256MiB")])
        }),
        ActionKind::Suspend | ActionKind::Seal => {
            story([with([web()])], with([web().with("state: suspended")]))
        }
        ActionKind::Resume => story(
            [with([web()]), with([web().with("state: suspended")])],
            with([web()]),
        ),
        ActionKind::DiscardImage => {
            let suspended = with([web().with("state: suspended")]);
            story([with([web()]), suspended], with([web().with("state: stopped")]))
        }
        ActionKind::Adopt => {
            let named = slice("site").asked().metadata("movedFrom: web");
            let mut renamed = story([with([web()])], with([named]));
            renamed.about = "site/0";
            renamed
        }
        ActionKind::Unpublish | ActionKind::Publish => replaced(),
        ActionKind::Unpause => Scenario {
            happens: |world| world.node.set_domain_state(&id("web/0"), DomainState::Paused),
            ..story([with([web()])], with([web()]))
        },
    }
}
