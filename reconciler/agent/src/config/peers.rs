//! The section `[peers]`.

use std::net::SocketAddr;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

/// Where agents that share a file on one machine listen: any free port of its loopback.
const LOOPBACK: &str = "127.0.0.1:0";

/// Where the agent listens for other agents, and where they find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeersConfig {
    /// Address and port; port 0: any that is free.
    pub listen: SocketAddr,
    /// What other agents are told; `None`: `listen`.
    pub advertise: Option<String>,
}

impl PeersConfig {
    /// What agents of one machine do that say nothing else.
    #[must_use]
    pub fn loopback() -> Option<Self> {
        let listen = LOOPBACK.parse().ok()?;
        Some(Self {
            listen,
            advertise: None,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeers {
    listen: Spanned<String>,
    advertise: Option<Spanned<String>>,
}

impl RawPeers {
    pub(super) fn read(&self) -> Result<PeersConfig, (Range<usize>, String)> {
        let wrong =
            |text: &Spanned<String>, what: &str| (text.span(), format!("`{}` {what}", text.get_ref()));
        let listen: SocketAddr = self.listen.get_ref().parse().map_err(|_| {
            wrong(
                &self.listen,
                "is no ADDRESS:PORT, such as 192.0.2.7:7046 or [::]:7046",
            )
        })?;
        let advertise = match &self.advertise {
            None if listen.ip().is_unspecified() => {
                return Err(wrong(
                    &self.listen,
                    "is every address of this node: say with `advertise` at which others reach it",
                ));
            }
            None => None,
            Some(advertise) => {
                let text = advertise.get_ref();
                let port = text
                    .rsplit_once(':')
                    .and_then(|(_, port)| port.parse::<u16>().ok());
                if text.len() > 255 || text.contains(char::is_whitespace) || port.is_none_or(|port| port == 0)
                {
                    return Err(wrong(advertise, "is no HOST:PORT"));
                }
                Some(text.clone())
            }
        };
        Ok(PeersConfig { listen, advertise })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::AgentConfig;
    use super::*;

    fn parse(text: &str) -> Result<Option<PeersConfig>, String> {
        let text = format!("node = \"cam-01\"\nrepository = \"/srv/fleet.git\"\n{text}\n");
        AgentConfig::parse(Path::new("agent.toml"), &text, Path::new("/etc/xenoslice"))
            .map(|config| config.peers)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn agents_of_one_machine_find_each_other_by_themselves() {
        assert_eq!(parse(""), Ok(None));
        assert_eq!(
            parse("board = { kind = \"sqlite\" }"),
            Ok(PeersConfig::loopback())
        );
        let etcd = "board = { kind = \"etcd\", endpoints = [\"http://127.0.0.1:2379\"] }";
        assert_eq!(parse(etcd), Ok(None));
        let said = PeersConfig {
            listen: "[::]:7046".parse().unwrap(),
            advertise: Some("cam-01.example:7046".to_owned()),
        };
        let peers = "[peers]\nlisten = \"[::]:7046\"\nadvertise = \"cam-01.example:7046\"";
        assert_eq!(parse(&format!("{etcd}\n{peers}")), Ok(Some(said)));
    }

    #[test]
    fn mistakes_have_a_place() {
        let check = |peers: &str, expected: &str| {
            let error = parse(&format!("board = {{ kind = \"sqlite\" }}\n[peers]\n{peers}")).unwrap_err();
            assert!(error.contains(expected), "{peers}: {error}");
        };
        check(
            "listen = \"cam-01\"",
            "agent.toml:5:10: `cam-01` is no ADDRESS:PORT",
        );
        check(
            "listen = \"0.0.0.0:7046\"",
            "agent.toml:5:10: `0.0.0.0:7046` is every address",
        );
        check(
            "listen = \"192.0.2.1:1\"\nadvertise = \"x\"",
            "agent.toml:6:13: `x` is no HOST:PORT",
        );
        check("listen = \"192.0.2.1:1\"\nport = 3", "unknown field `port`");
        let alone = parse("[peers]\nlisten = \"192.0.2.1:7046\"").unwrap_err();
        assert!(alone.contains("`[peers]` needs a `[board]`"), "{alone}");
    }
}
