//! What `xeno doctor` looks at beside agent and hypervisor: the file server, the board, and what links of guests on Xen need.

use cowfs::control::api::Status;
use cowfs::control::client::Client;
use xeno_agent::AgentConfig;
use xeno_agent::api::{Fact, FactState};

use super::doctor::{fact, in_path};
use crate::failure::chain;

/// The file server of this configuration, and whether it gets what only root may read.
pub(super) async fn file_server(config: &AgentConfig) -> Vec<Fact> {
    let on_xen = config.hypervisor.kind() == "xen";
    match Client::new(&config.cowfs_socket).status().await {
        Ok(status) => {
            let own = rustix::process::geteuid().as_raw();
            let told = config.cowfs_user.as_deref().map(|name| {
                cowfs::confine::find_user(name)
                    .map(|(uid, _)| uid)
                    .map_err(|error| error.to_string())
            });
            let overlays = !config.overlay_roots.is_empty();
            let mut facts = vec![judge(&status, own, told, on_xen)];
            facts.extend(private_files(&status, overlays));
            facts
        }
        Err(error) => vec![fact(
            "file server",
            FactState::Bad,
            format!(
                "{}\nstart it: systemctl start xeno-cowfs, or `xeno cowfs serve --config FILE`",
                chain(&error)
            ),
        )],
    }
}

/// Whether the board of this configuration answers, if there is one.
pub(super) async fn board(config: &AgentConfig) -> Option<Fact> {
    let board = config.board.as_ref()?;
    Some(match board.look().await {
        Ok(text) => fact("board", FactState::Good, text),
        Err(error) => {
            let text = format!(
                "{}\nlook at [board] of agent.toml and at its {}; guests run on without it",
                chain(&error),
                board.kind()
            );
            fact("board", FactState::Bad, text)
        }
    })
}

/// What is wrong with a file server that answers. `own` is our user, as a rule the agent's; `told` is whom agent.toml says that
/// the server runs as.
fn judge(status: &Status, own: u32, told: Option<Result<u32, String>>, on_xen: bool) -> Fact {
    let of = |state, text: String| fact("file server", state, text);
    let runs = format!("runs as user {}, sandbox {}", status.user, status.sandbox);
    let expected = match told {
        Some(Err(error)) => {
            return of(
                FactState::Bad,
                format!("`user` in [cowfs] of agent.toml: {error}"),
            );
        }
        Some(Ok(uid)) => uid,
        None => own,
    };
    if expected != status.user && own == 0 {
        let text = format!(
            "{runs}; the agent takes it for user {expected}\nset `user` in [cowfs] of agent.toml to whom cowfs.toml names"
        );
        return of(FactState::Bad, text);
    }
    if on_xen
        && !status
            .listeners
            .iter()
            .any(|listener| listener.starts_with("[::]:"))
    {
        let text = format!(
            "{runs}; it does not listen for links, over which guests on Xen mount\nadd [links] to cowfs.toml (docs/xen.md)"
        );
        return of(FactState::Bad, text);
    }
    if status.user == 0 {
        let text = format!(
            "{runs}\nset `user` in cowfs.toml, so that a hole in it is not a hole in the machine (docs/cowfs.md)"
        );
        return of(FactState::Fair, text);
    }
    if status.sandbox.starts_with("none") {
        let text = format!("{runs}\nname its directories in [sandbox] of cowfs.toml (docs/cowfs.md)");
        return of(FactState::Fair, text);
    }
    of(FactState::Good, runs)
}

/// Whether files of overlays that only root may read are served; nothing to say where there are no overlays, or root itself
/// serves them.
fn private_files(status: &Status, overlays: bool) -> Option<Fact> {
    if !overlays || status.user == 0 {
        return None;
    }
    let (state, text) = match status.lender {
        Some(true) => (FactState::Good, "lent by xeno-lend".to_owned()),
        Some(false) => (
            FactState::Bad,
            "`lender` of cowfs.toml does not answer, so guests cannot read what only root may\nstart it: systemctl start xeno-lend"
                .to_owned(),
        ),
        None => (
            FactState::Fair,
            "files of overlays that only root may read cannot be served\nset `lender` in cowfs.toml (docs/cowfs.md)"
                .to_owned(),
        ),
    };
    Some(fact("private files", state, text))
}

/// What links of guests on Xen need: no link is made without its filter.
pub(super) fn packet_filter() -> Fact {
    match in_path("nft") {
        Some(path) => fact("packet filter", FactState::Good, path.display().to_string()),
        None => fact(
            "packet filter",
            FactState::Bad,
            "nft is not in PATH, and no link is made without its filter: apt-get install nftables",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(user: u32, sandbox: &str, listeners: &[&str]) -> Status {
        Status {
            format_version: 1,
            version: "1".into(),
            pid: 1,
            listeners: listeners.iter().map(|text| (*text).to_owned()).collect(),
            exports: 0,
            user,
            sandbox: sandbox.into(),
            lease_nanos: None,
            lender: None,
        }
    }

    #[test]
    fn who_lends_private_files_is_said_where_there_are_overlays() {
        let check = |user, overlays, lender, expected: Option<(FactState, &str)>| {
            let status = Status {
                lender,
                ..status(user, "full", &[])
            };
            let found = private_files(&status, overlays);
            assert_eq!(found.is_some(), expected.is_some());
            if let (Some(found), Some((state, words))) = (found, expected) {
                assert_eq!(found.state, state);
                assert!(found.text.contains(words), "{}", found.text);
            }
        };
        check(7, false, None, None);
        check(0, true, None, None);
        check(7, true, None, Some((FactState::Fair, "set `lender`")));
        check(
            7,
            true,
            Some(false),
            Some((FactState::Bad, "systemctl start xeno-lend")),
        );
        check(7, true, Some(true), Some((FactState::Good, "lent")));
    }

    #[test]
    fn each_thing_that_is_wrong_with_a_file_server_is_said_with_what_helps() {
        let check = |status: &Status, own, told, on_xen, state, words: &str| {
            let found = judge(status, own, told, on_xen);
            assert_eq!(found.state, state, "{}", found.text);
            assert!(found.text.contains(words), "{}", found.text);
        };
        let well = status(7, "full", &["[::]:2049"]);
        check(
            &well,
            0,
            Some(Ok(7)),
            true,
            FactState::Good,
            "runs as user 7, sandbox full",
        );
        check(&well, 7, None, false, FactState::Good, "");
        check(&well, 0, None, true, FactState::Bad, "takes it for user 0");
        check(&well, 0, Some(Ok(8)), true, FactState::Bad, "takes it for user 8");
        check(
            &well,
            0,
            Some(Err("no such user".into())),
            true,
            FactState::Bad,
            "no such user",
        );
        let deaf = status(7, "full", &["127.0.0.1:2049"]);
        check(&deaf, 0, Some(Ok(7)), true, FactState::Bad, "add [links]");
        check(&deaf, 0, Some(Ok(7)), false, FactState::Good, "");
        check(
            &status(0, "full", &["[::]:1"]),
            0,
            None,
            true,
            FactState::Fair,
            "set `user` in cowfs.toml",
        );
        check(
            &status(7, "none: why", &["[::]:1"]),
            7,
            None,
            true,
            FactState::Fair,
            "[sandbox]",
        );
    }
}
