//! The remote directories of a node in memory.

use std::collections::BTreeMap;

use xeno_model::desired::Remote;
use xeno_model::observed::RemoteState;

use super::{ScriptedNode, State};
use crate::ports::{DriverFact, PortError, PortResult, Remotes, Soundness};

impl ScriptedNode {
    /// Lets the server behind a URL answer nobody any more: what is mounted of it stays, and hangs.
    pub fn silence(&self, url: &str) {
        let mut state = self.state();
        let since = state.now();
        state.silent.insert(url.to_owned());
        for (remote, is) in state.remotes.iter_mut() {
            if remote.url == url {
                *is = silence(since);
            }
        }
    }

    /// Lets it answer again.
    pub fn unsilence(&self, url: &str) {
        let mut state = self.state();
        state.silent.remove(url);
        for (remote, is) in state.remotes.iter_mut() {
            if remote.url == url {
                *is = RemoteState::Answers;
            }
        }
    }

    /// Takes a mount away, as a person with `umount -l` would, or a new boot of the node.
    pub fn unmount(&self, remote: &Remote) {
        self.state().remotes.remove(remote);
    }
}

fn silence(since: xeno_model::id::Timestamp) -> RemoteState {
    RemoteState::Silent {
        since,
        why: "it has not answered for 5 s".to_owned(),
    }
}

impl State {
    /// Whether a remote directory can be read from.
    pub(super) fn answers(&self, remote: &Remote) -> bool {
        self.remotes.get(remote) == Some(&RemoteState::Answers)
    }
}

impl Remotes for ScriptedNode {
    async fn remotes(&self) -> PortResult<BTreeMap<Remote, RemoteState>> {
        self.look(|state| BTreeMap::clone(&state.remotes)).await
    }

    async fn mount_remote(&self, remote: &Remote) -> PortResult<()> {
        let effect = |state: &mut State| {
            if state.silent.contains(&remote.url) {
                let why = format!("{} does not answer", remote.url);
                state.refused.get_or_insert(PortError::later(why));
                return;
            }
            state.remotes.insert(remote.clone(), RemoteState::Answers);
        };
        self.call("mount", &remote.to_string(), effect).await
    }

    async fn remote_facts(&self) -> Vec<DriverFact> {
        vec![DriverFact {
            what: "remotes",
            soundness: Soundness::Good,
            text: "everything can be mounted".to_owned(),
        }]
    }
}
