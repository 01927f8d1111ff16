//! The section `[board]`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use xeno_model::units::Millis;
use xeno_state::board::etcd::EtcdConfig;
use xeno_state::board::{BoardConfig, Prefix};

use crate::fleet::fence::NODE;

/// Calls that may take longer would hold up what waits for them for no good.
const TIMEOUT_MS_MAX: u64 = 60_000;

/// The members that a configuration may name; an etcd has three or five.
const ENDPOINTS_MAX: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBoard {
    kind: Spanned<String>,
    path: Option<Spanned<PathBuf>>,
    endpoints: Option<Spanned<Vec<String>>>,
    ca: Option<Spanned<PathBuf>>,
    certificate: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
    user: Option<Spanned<String>>,
    password_file: Option<Spanned<PathBuf>>,
    prefix: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
    fence: Option<Spanned<Vec<String>>>,
}

/// A mistake, and where it is.
type Wrong = (Range<usize>, String);

impl RawBoard {
    /// What the settings come to.
    pub(super) fn read(&self, base: &Path) -> Result<BoardConfig, Wrong> {
        let kind = self.kind.get_ref().as_str();
        if !matches!(kind, "sqlite" | "etcd") {
            let message = format!("`{kind}` is no board: sqlite and etcd are");
            return Err((self.kind.span(), message));
        }
        let foreign = self.settings().into_iter().find_map(|(setting, of, span)| {
            let span = span.filter(|_| of != kind)?;
            let message = format!("`{setting}` is for kind = \"{of}\", and this is \"{kind}\"");
            Some((span, message))
        });
        if let Some(foreign) = foreign {
            return Err(foreign);
        }
        match kind {
            "sqlite" => {
                let path = self
                    .path
                    .as_ref()
                    .map_or(Path::new("board.db"), |path| path.get_ref());
                Ok(BoardConfig::Sqlite {
                    path: base.join(path),
                })
            }
            _ => Ok(BoardConfig::Etcd(Box::new(self.etcd(base)?))),
        }
    }

    /// The command that makes sure that a node is off, if there is one.
    pub(super) fn read_fence(&self) -> Result<Option<Vec<String>>, Wrong> {
        let Some(fence) = &self.fence else { return Ok(None) };
        let words = fence.get_ref();
        let wrong = |message: &str| Err((fence.span(), message.to_owned()));
        match words.split_first() {
            None => wrong("it needs a program: `fence = [\"/etc/xenoslice/fence\", \"{node}\"]`"),
            Some((program, _)) if program.is_empty() || program.contains(NODE) => {
                wrong("its first word is the program, and no node")
            }
            Some((_, rest)) if !rest.iter().any(|word| word.contains(NODE)) => {
                wrong("it must say which node is to be made sure of: one of its words holds `{node}`")
            }
            Some(_) => Ok(Some(words.clone())),
        }
    }

    /// Each setting, whose it is, and where it is set.
    fn settings(&self) -> [(&'static str, &'static str, Option<Range<usize>>); 9] {
        fn span<T>(setting: Option<&Spanned<T>>) -> Option<Range<usize>> {
            setting.map(Spanned::span)
        }
        [
            ("path", "sqlite", span(self.path.as_ref())),
            ("endpoints", "etcd", span(self.endpoints.as_ref())),
            ("ca", "etcd", span(self.ca.as_ref())),
            ("certificate", "etcd", span(self.certificate.as_ref())),
            ("key", "etcd", span(self.key.as_ref())),
            ("user", "etcd", span(self.user.as_ref())),
            ("password_file", "etcd", span(self.password_file.as_ref())),
            ("prefix", "etcd", span(self.prefix.as_ref())),
            ("timeout", "etcd", span(self.timeout.as_ref())),
        ]
    }

    fn etcd(&self, base: &Path) -> Result<EtcdConfig, Wrong> {
        let at = |path: &Spanned<PathBuf>| base.join(path.get_ref());
        let endpoints = self.endpoints.as_ref();
        let endpoints = endpoints.ok_or_else(|| {
            (
                self.kind.span(),
                "kind = \"etcd\" needs `endpoints`: its members".to_owned(),
            )
        })?;
        if endpoints.get_ref().len() > ENDPOINTS_MAX {
            return Err((endpoints.span(), format!("it may name {ENDPOINTS_MAX} members")));
        }
        let prefix = match &self.prefix {
            None => Prefix::new("xenoslice/").map_err(|error| (self.kind.span(), error.to_string()))?,
            Some(prefix) => {
                let text = prefix.get_ref();
                let slash = if text.ends_with('/') { "" } else { "/" };
                Prefix::new(format!("{text}{slash}")).map_err(|error| (prefix.span(), error.to_string()))?
            }
        };
        let timeout = match &self.timeout {
            None => Duration::from_secs(5),
            Some(timeout) => match Millis::parse(timeout.get_ref()) {
                Ok(Millis(ms @ 1..=TIMEOUT_MS_MAX)) => Duration::from_millis(ms),
                Ok(_) => {
                    return Err((
                        timeout.span(),
                        "it must be more than nothing, and at most 1m".to_owned(),
                    ));
                }
                Err(error) => return Err((timeout.span(), error.to_string())),
            },
        };
        let config = EtcdConfig {
            endpoints: endpoints.get_ref().clone(),
            prefix,
            ca: self.ca.as_ref().map(at),
            identity: both(
                ("certificate", self.certificate.as_ref()),
                ("key", self.key.as_ref()),
            )?
            .map(|(certificate, key)| (at(certificate), at(key))),
            user: both(
                ("user", self.user.as_ref()),
                ("password_file", self.password_file.as_ref()),
            )?
            .map(|(user, file)| (user.get_ref().clone(), at(file))),
            timeout,
        };
        config.check().map_err(|(field, message)| {
            let set = self
                .settings()
                .into_iter()
                .find(|(setting, ..)| *setting == field);
            let span = set.and_then(|(.., span)| span);
            (span.unwrap_or_else(|| self.kind.span()), message)
        })?;
        Ok(config)
    }
}

type Pair<'s, A, B> = (&'s Spanned<A>, &'s Spanned<B>);

/// Two settings of which none is of use without the other.
fn both<'s, A, B>(
    (first, a): (&str, Option<&'s Spanned<A>>),
    (second, b): (&str, Option<&'s Spanned<B>>),
) -> Result<Option<Pair<'s, A, B>>, Wrong> {
    match (a, b) {
        (None, None) => Ok(None),
        (Some(a), Some(b)) => Ok(Some((a, b))),
        (Some(a), None) => Err((a.span(), format!("`{first}` needs `{second}`"))),
        (None, Some(b)) => Err((b.span(), format!("`{second}` needs `{first}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::AgentConfig;
    use super::*;

    fn parse(board: &str) -> Result<Option<BoardConfig>, String> {
        let text = format!("node = \"cam-01\"\nrepository = \"/srv/fleet.git\"\n{board}\n");
        AgentConfig::parse(Path::new("agent.toml"), &text, Path::new("/etc/xenoslice"))
            .map(|config| config.board)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_node_alone_needs_no_board_and_a_machine_a_file() {
        assert_eq!(parse(""), Ok(None));
        let sqlite = |path: &str| Ok(Some(BoardConfig::Sqlite { path: path.into() }));
        assert_eq!(
            parse("board = { kind = \"sqlite\" }"),
            sqlite("/etc/xenoslice/board.db")
        );
        let said = "[board]\nkind = \"sqlite\"\npath = \"/var/lib/x/b.db\"";
        assert_eq!(parse(said), sqlite("/var/lib/x/b.db"));
    }

    #[test]
    fn a_fence_names_the_node() {
        let fence = |fence: &str| {
            let text = format!(
                "node = \"cam-01\"\nrepository = \"/srv/fleet.git\"\nboard = {{ kind = \"sqlite\", fence = {fence} }}\n"
            );
            AgentConfig::parse(Path::new("agent.toml"), &text, Path::new("/etc/xenoslice"))
                .map(|config| config.fence)
                .map_err(|error| error.to_string())
        };
        let words = ["fence-ipmi", "--off", "{node}-ipmi"].map(str::to_owned).to_vec();
        assert_eq!(
            fence(r#"["fence-ipmi", "--off", "{node}-ipmi"]"#),
            Ok(Some(words))
        );
        for (wrong, says) in [
            ("[]", "it needs a program"),
            (r#"["", "{node}"]"#, "its first word is the program"),
            (r#"["{node}"]"#, "its first word is the program"),
            (r#"["reboot", "cam-02"]"#, "one of its words holds `{node}`"),
        ] {
            let error = fence(wrong).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn an_etcd_can_be_said_in_full() {
        let short = parse("[board]\nkind = \"etcd\"\nendpoints = [\"http://127.0.0.1:2379\"]");
        let Ok(Some(BoardConfig::Etcd(short))) = short else {
            panic!("{short:?}")
        };
        assert_eq!(
            (short.prefix.as_str(), short.timeout),
            ("xenoslice/", Duration::from_secs(5))
        );
        assert_eq!((&short.ca, &short.identity, &short.user), (&None, &None, &None));

        let full = r#"
            [board]
            kind = "etcd"
            endpoints = ["https://etcd-1:2379", "https://etcd-2:2379"]
            ca = "ca.pem"
            certificate = "node.pem"
            key = "/run/node.key"
            user = "cam-01"
            password_file = "password"
            prefix = "xenoslice/north"
            timeout = "2s"
        "#;
        let expected = EtcdConfig {
            endpoints: vec!["https://etcd-1:2379".to_owned(), "https://etcd-2:2379".to_owned()],
            prefix: Prefix::new("xenoslice/north/").unwrap(),
            ca: Some("/etc/xenoslice/ca.pem".into()),
            identity: Some(("/etc/xenoslice/node.pem".into(), "/run/node.key".into())),
            user: Some(("cam-01".to_owned(), "/etc/xenoslice/password".into())),
            timeout: Duration::from_secs(2),
        };
        assert_eq!(parse(full), Ok(Some(BoardConfig::Etcd(Box::new(expected)))));
    }

    #[test]
    fn mistakes_have_a_place() {
        let check = |line: &str, expected: &str| {
            let error = parse(&format!("[board]\nkind = {line}")).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        };
        let etcd = |line: &str| format!("\"etcd\"\nendpoints = [\"http://a:1\"]\n{line}");
        check(
            "\"consul\"",
            "agent.toml:4:8: `consul` is no board: sqlite and etcd are",
        );
        check("\"etcd\"", "agent.toml:4:8: kind = \"etcd\" needs `endpoints`");
        check(
            "\"sqlite\"\nuser = \"x\"",
            "agent.toml:5:8: `user` is for kind = \"etcd\"",
        );
        check(
            &etcd("path = \"b.db\""),
            "agent.toml:6:8: `path` is for kind = \"sqlite\"",
        );
        check(
            &etcd("pasword = \"x\""),
            "agent.toml:6:1: unknown field `pasword`",
        );
        check(
            &etcd("user = \"x\""),
            "agent.toml:6:8: `user` needs `password_file`",
        );
        check(&etcd("key = \"x\""), "agent.toml:6:7: `key` needs `certificate`");
        check(&etcd("ca = \"x\""), "agent.toml:6:6: it is for https endpoints");
        check(&etcd("prefix = \"\""), "agent.toml:6:10: ");
        check(&etcd("prefix = \"a b\""), "agent.toml:6:10: `a b` is no key");
        check(
            &etcd("timeout = \"5m\""),
            "agent.toml:6:11: it must be more than nothing",
        );
        check(
            "\"etcd\"\nendpoints = []",
            "agent.toml:5:13: it names the members",
        );
        check(
            "\"etcd\"\nendpoints = [\"https://a:1\"]",
            "agent.toml:5:13: https needs `ca`",
        );
        let error = parse("[board]\npath = \"x\"").unwrap_err();
        assert!(error.contains("missing field `kind`"), "{error}");
    }
}
