//! Where a repository is, and how to be let in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use git2::{Cred, CredentialType, RemoteCallbacks};

use super::SourceError;

/// Most bytes one fetch may bring. A repository of manifests is far below; what is above is a mistake.
const FETCH_BYTES_MAX: usize = 2 << 30;

/// Address of a repository, checked. Prints without secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteUrl {
    url: String,
    local: Option<PathBuf>,
}

/// How to be let in at a remote repository.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Private key for ssh; an ssh agent is asked where there is none.
    pub ssh_key: Option<PathBuf>,
    /// User and password (or token) for https.
    pub https: Option<(String, String)>,
}

impl Credentials {
    /// What the environment says: `XENO_GIT_USERNAME` and `XENO_GIT_PASSWORD`, for https.
    #[must_use]
    pub fn from_env() -> Self {
        let https = match (
            std::env::var("XENO_GIT_USERNAME"),
            std::env::var("XENO_GIT_PASSWORD"),
        ) {
            (Ok(user), Ok(password)) => Some((user, password)),
            (Err(_), Ok(password)) => Some(("git".to_owned(), password)),
            (_, Err(_)) => None,
        };
        Self { ssh_key: None, https }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("ssh_key", &self.ssh_key)
            .field("https", &self.https.as_ref().map(|(user, _)| (user, "…")))
            .finish()
    }
}

impl RemoteUrl {
    /// Reads an address: a path, `file://`, `ssh://`, `user@host:path` or `https://`.
    ///
    /// # Errors
    /// [`SourceError::Url`] for anything else. Plain `http` and `git` are refused, since whoever is on the way could
    /// decide what the node runs.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let refuse = |why| SourceError::Url {
            url: redacted(text),
            why,
        };
        if text.is_empty() {
            return Err(refuse("it is empty"));
        }
        if text.contains(['\0', '\n', '\r']) {
            return Err(refuse("it contains control characters"));
        }
        let local = match text.split_once("://") {
            Some(("file", path)) => Some(PathBuf::from(path)),
            Some(("ssh" | "https", _)) => None,
            Some(("http" | "git", _)) => return Err(refuse("anyone on the way could change what it says")),
            Some(_) => return Err(refuse("this kind of address is not supported")),
            None if is_scp_like(text) => None,
            None => Some(PathBuf::from(text)),
        };
        if local.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(refuse("a path must be absolute"));
        }
        Ok(Self {
            url: text.to_owned(),
            local,
        })
    }

    /// The directory, where it is on this machine.
    #[must_use]
    pub fn local_path(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    pub(super) fn is_ssh(&self) -> bool {
        self.local.is_none() && !self.url.starts_with("https://")
    }

    pub(super) fn for_git(&self) -> String {
        match &self.local {
            Some(path) => path.to_string_lossy().into_owned(),
            None => self.url.clone(),
        }
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&redacted(&self.url))
    }
}

impl fmt::Debug for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Says why libgit2 would not read a repository on this machine, where that is because of its form.
///
/// Its own message names only an extension; a person needs the remedy.
pub(super) fn check_form(path: &Path) -> Result<(), SourceError> {
    let unsupported = |what| SourceError::Unsupported {
        path: path.to_owned(),
        what,
    };
    let config = [path.join("config"), path.join(".git/config")]
        .into_iter()
        .find(|c| c.is_file());
    let Some(config) = config.and_then(|c| git2::Config::open(&c).ok()) else {
        return Ok(());
    };
    let is = |key: &str, value: &str| {
        config
            .get_string(key)
            .is_ok_and(|is| is.eq_ignore_ascii_case(value))
    };
    if is("extensions.objectformat", "sha256") {
        return Err(unsupported(
            "names its objects by SHA-256, which libgit2 does not read",
        ));
    }
    if is("extensions.refstorage", "reftable") {
        return Err(unsupported(
            "keeps its branches in a reftable, which libgit2 does not read",
        ));
    }
    Ok(())
}

/// Callbacks for one connection: each kind of credential is offered once, and everything stops at the deadline.
pub(super) fn callbacks(credentials: &Credentials, deadline: Instant) -> RemoteCallbacks<'_> {
    let mut offered = CredentialType::empty();
    let mut callbacks = RemoteCallbacks::new();
    callbacks.credentials(move |url, user, allowed| {
        let user = user.unwrap_or("git");
        // libgit2 asks again after a refusal, for ever; what was offered once is not offered again.
        let left = allowed.difference(offered);
        if left.contains(CredentialType::USERNAME) {
            offered |= CredentialType::USERNAME;
            return Cred::username(user);
        }
        if left.contains(CredentialType::SSH_KEY) {
            offered |= CredentialType::SSH_KEY;
            return match &credentials.ssh_key {
                Some(key) => Cred::ssh_key(user, None, key, None),
                None => Cred::ssh_key_from_agent(user),
            };
        }
        if left.contains(CredentialType::USER_PASS_PLAINTEXT) {
            offered |= CredentialType::USER_PASS_PLAINTEXT;
            return match &credentials.https {
                Some((user, password)) => Cred::userpass_plaintext(user, password),
                None => git2::Config::open_default()
                    .and_then(|config| Cred::credential_helper(&config, url, Some(user))),
            };
        }
        Err(git2::Error::new(
            git2::ErrorCode::Auth,
            git2::ErrorClass::Net,
            "no credential was accepted",
        ))
    });
    callbacks.transfer_progress(move |progress| {
        Instant::now() < deadline && progress.received_bytes() <= FETCH_BYTES_MAX
    });
    callbacks.sideband_progress(move |_| Instant::now() < deadline);
    callbacks
}

/// Whether the key that is to be offered cannot even be read; libgit2 says so in many ways.
pub(super) fn unreadable_key(url: &RemoteUrl, credentials: &Credentials) -> bool {
    let key = credentials.ssh_key.as_deref();
    url.is_ssh() && key.is_some_and(|key| std::fs::File::open(key).is_err())
}

/// What was offered to a remote that did not let us in, and what to do about it.
pub(super) fn remedy(url: &RemoteUrl, credentials: &Credentials, code: git2::ErrorCode) -> String {
    if code == git2::ErrorCode::Certificate {
        return if url.is_ssh() {
            "the host's key is not among the known ones: put it into ~/.ssh/known_hosts of the user that the agent runs \
             as (ssh-keyscan shows it; compare it with what the host's owner says)"
                .to_owned()
        } else {
            "the host's certificate is signed by nobody this machine trusts: add its authority to the system's".to_owned()
        };
    }
    if !url.is_ssh() {
        return match &credentials.https {
            Some((user, _)) => format!("user `{user}` and the password in XENO_GIT_PASSWORD were offered"),
            None => "set XENO_GIT_USERNAME and XENO_GIT_PASSWORD".to_owned(),
        };
    }
    let Some(key) = &credentials.ssh_key else {
        return "no key is configured, and the ssh agent had none that was accepted: name one in `ssh_key`"
            .to_owned();
    };
    let key = key.display();
    match std::fs::read_to_string(format!("{key}.pub")) {
        _ if unreadable_key(url, credentials) => {
            format!("the key {key} cannot be read: correct `ssh_key`, or its owner")
        }
        Ok(public) => format!(
            "the key {key} was offered (it must have no passphrase); the host has to accept its public half: {}",
            public.trim()
        ),
        Err(_) => format!(
            "the key {key} was offered (it must have no passphrase); the host has to accept its public half, which \
             `ssh-keygen -y -f {key}` shows"
        ),
    }
}

/// `user@host:path`, as git-clone(1) reads it: a colon before the first slash.
fn is_scp_like(text: &str) -> bool {
    text.split_once(':')
        .is_some_and(|(host, path)| !host.is_empty() && !host.contains('/') && !path.is_empty())
}

/// The address without a password in it.
fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{host}{}", &rest[authority.len()..])
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<&str, &str>) {
        match (RemoteUrl::parse(text), expect) {
            (Ok(url), Ok(shown)) => assert_eq!(url.to_string(), shown),
            (Err(error), Err(why)) => assert!(error.to_string().contains(why), "{error}"),
            (got, expect) => panic!("{text}: got {got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn who_is_not_let_in_is_told_what_was_offered() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("id");
        let check = |url: &str, credentials: &Credentials, code, expected: &str| {
            let told = remedy(&RemoteUrl::parse(url).unwrap(), credentials, code);
            assert!(told.contains(expected), "{told}");
        };
        let (ssh, https, auth) = (
            "git@host:fleet.git",
            "https://host/fleet.git",
            git2::ErrorCode::Auth,
        );
        let none = Credentials {
            ssh_key: None,
            https: None,
        };
        let with_key = Credentials {
            ssh_key: Some(key.clone()),
            https: Some(("bot".to_owned(), "hunter2".to_owned())),
        };
        check(ssh, &none, auth, "no key is configured");
        check(https, &none, auth, "XENO_GIT_USERNAME");
        check(https, &with_key, auth, "user `bot`");
        check(ssh, &with_key, auth, "cannot be read");
        std::fs::write(&key, "a key").unwrap();
        check(ssh, &with_key, auth, "ssh-keygen -y");
        std::fs::write(dir.path().join("id.pub"), "ssh-ed25519 AAAA node\n").unwrap();
        check(ssh, &with_key, auth, "ssh-ed25519 AAAA node");
        check(ssh, &with_key, git2::ErrorCode::Certificate, "known_hosts");
        check(https, &none, git2::ErrorCode::Certificate, "authority");
    }

    #[test]
    fn addresses_are_checked_and_print_without_secrets() {
        check("/srv/fleet.git", Ok("/srv/fleet.git"));
        check("file:///srv/fleet.git", Ok("file:///srv/fleet.git"));
        check("ssh://git@host/fleet.git", Ok("ssh://git@host/fleet.git"));
        check("git@host:fleet.git", Ok("git@host:fleet.git"));
        check(
            "https://bot:hunter2@host/fleet.git",
            Ok("https://bot@host/fleet.git"),
        );
        check("http://host/fleet.git", Err("anyone on the way"));
        check(
            "http://bot:hunter2@host/fleet.git",
            Err("`http://bot@host/fleet.git`"),
        );
        check("fleet.git", Err("absolute"));
        check("", Err("empty"));
    }
}
