//! `[remotes]`: how directories of remote file systems are mounted.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use xeno_model::units::Millis;

/// Where remote directories are mounted, unless the configuration says otherwise.
const DIR: &str = "/run/xenoslice/remote";

/// How long an error is held back where a silent server is to give one.
const FAIL_AFTER: Duration = Duration::from_secs(60);

/// How directories of remote file systems are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotesConfig {
    /// Below which each has a directory of its own.
    pub dir: PathBuf,
    /// What guests meet whose server does not answer.
    pub away: Away,
    /// Versions of NFS, in the order in which they are tried.
    pub nfs: Vec<NfsVersion>,
    /// How long a mount stays that nobody uses.
    pub idle: Duration,
    /// The program that mounts, mount(8).
    pub mount: PathBuf,
}

impl Default for RemotesConfig {
    fn default() -> Self {
        Self {
            dir: DIR.into(),
            away: Away::Wait,
            nfs: vec![NfsVersion::V4_2, NfsVersion::V4_1, NfsVersion::V3],
            idle: Duration::from_secs(60),
            mount: "mount".into(),
        }
    }
}

/// What a read from a server that does not answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// It waits until the server answers: nothing is ever lost. `hard` of nfs(5).
    Wait,
    /// It fails after this time with an I/O error, which programs in the guest see. `softerr` of nfs(5), and NFS 3 alone:
    /// of newer versions Linux does not keep the time. What is written to waits in any case: an error there would lose what
    /// was written.
    Fail(Duration),
}

/// A version of NFS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NfsVersion {
    /// NFSv3 (RFC 1813); only to read, since its locks need daemons of their own.
    V3,
    /// NFSv4.1 (RFC 8881).
    V4_1,
    /// NFSv4.2 (RFC 7862).
    V4_2,
}

impl NfsVersion {
    /// As nfs(5) names it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::V3 => "3",
            Self::V4_1 => "4.1",
            Self::V4_2 => "4.2",
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRemotes {
    dir: Option<PathBuf>,
    away: Option<Spanned<String>>,
    fail_after: Option<Spanned<String>>,
    nfs: Option<Spanned<Vec<String>>>,
    idle: Option<Spanned<String>>,
    mount: Option<PathBuf>,
}

impl RawRemotes {
    /// What the settings come to. A mistake has its place.
    pub(super) fn read(&self, base: &Path) -> Result<RemotesConfig, (Range<usize>, String)> {
        let usual = RemotesConfig::default();
        let time = |value: Option<&Spanned<String>>, usual: Duration| match value {
            None => Ok(usual),
            Some(value) => match Millis::parse(value.get_ref()) {
                Ok(Millis(ms)) if ms >= 1_000 => Ok(Duration::from_millis(ms)),
                Ok(_) => Err((value.span(), "it must be a second at least".to_owned())),
                Err(error) => Err((value.span(), error.to_string())),
            },
        };
        let fail_after = time(self.fail_after.as_ref(), FAIL_AFTER)?;
        let away = match self
            .away
            .as_ref()
            .map(|away| (away.get_ref().as_str(), away.span()))
        {
            None | Some(("wait", _)) => Away::Wait,
            Some(("fail", _)) => Away::Fail(fail_after),
            Some((other, span)) => {
                return Err((
                    span,
                    format!("`{other}` is no way to be: guests `wait`, or reads `fail`"),
                ));
            }
        };
        if let (Some(after), Away::Wait) = (&self.fail_after, away) {
            return Err((after.span(), "`fail_after` is for away = \"fail\"".to_owned()));
        }
        let nfs = match &self.nfs {
            None => usual.nfs,
            Some(texts) => {
                let version = |text: &String| {
                    let known = [NfsVersion::V3, NfsVersion::V4_1, NfsVersion::V4_2];
                    known.into_iter().find(|version| version.word() == text)
                };
                let read: Option<Vec<_>> = texts.get_ref().iter().map(version).collect();
                read.filter(|versions| (1..=3).contains(&versions.len()))
                    .ok_or_else(|| {
                        let message = "name one to three versions of NFS: \"4.2\", \"4.1\", \"3\"";
                        (texts.span(), message.to_owned())
                    })?
            }
        };
        if let (Some(texts), Away::Fail(_)) = (&self.nfs, away)
            && !nfs.contains(&NfsVersion::V3)
        {
            let message = "away = \"fail\" needs \"3\" among the versions of NFS: reads by newer ones do not fail in time";
            return Err((texts.span(), message.to_owned()));
        }
        // A name without a slash is looked for in PATH.
        let program = |path: &PathBuf| match path.components().count() {
            1 => path.clone(),
            _ => base.join(path),
        };
        Ok(RemotesConfig {
            dir: self.dir.as_ref().map_or(usual.dir, |dir| base.join(dir)),
            away,
            nfs,
            idle: time(self.idle.as_ref(), usual.idle)?,
            mount: self.mount.as_ref().map_or(usual.mount, program),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RemotesConfig, String> {
        let raw: RawRemotes = toml::from_str(text).map_err(|error| error.to_string())?;
        raw.read(Path::new("/etc/xenoslice"))
            .map_err(|(_, message)| message)
    }

    #[test]
    fn what_is_left_out_waits_and_asks_for_the_newest_protocol_first() {
        assert_eq!(read(""), Ok(RemotesConfig::default()));
        let given =
            "dir = 'far'\naway = 'fail'\nfail_after = '10s'\nnfs = ['3']\nidle = '5m'\nmount = '/bin/mount'";
        let expected = RemotesConfig {
            dir: "/etc/xenoslice/far".into(),
            away: Away::Fail(Duration::from_secs(10)),
            nfs: vec![NfsVersion::V3],
            idle: Duration::from_secs(300),
            mount: "/bin/mount".into(),
        };
        assert_eq!(read(given), Ok(expected));
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, expected) in [
            (
                "away = 'gone'",
                "`gone` is no way to be: guests `wait`, or reads `fail`",
            ),
            ("fail_after = '10s'", "`fail_after` is for away = \"fail\""),
            ("idle = '1ms'", "it must be a second at least"),
            (
                "nfs = ['2']",
                "name one to three versions of NFS: \"4.2\", \"4.1\", \"3\"",
            ),
            (
                "nfs = []",
                "name one to three versions of NFS: \"4.2\", \"4.1\", \"3\"",
            ),
            (
                "away = 'fail'\nnfs = ['4.2', '4.1']",
                "away = \"fail\" needs \"3\" among the versions of NFS: reads by newer ones do not fail in time",
            ),
        ] {
            assert_eq!(read(text), Err(expected.to_owned()), "{text}");
        }
        assert!(read("options = 'suid'").unwrap_err().contains("unknown field"));
    }
}
