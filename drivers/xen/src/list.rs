//! What `xl` prints about domains and the node, read tolerantly. Pure.
//!
//! `xl list -v` says which domains there are and what they do, `xl list -l` (JSON) what they may use. The first is the
//! truth: it holds a row for every domain of the hypervisor, where the second passes over those without a name or a
//! stored configuration.
//!
//! # Source
//! xen.git `tools/xl/xl_list.c` and `tools/xl/xl_info.c`, 4.14 to 4.20; the files in `fixtures` say where each is from.

use std::collections::BTreeMap;

use serde::Deserialize;
use xeno_model::id::DomainUuid;

use crate::config::GuestKind;

/// Domains that are read: Xen has 32,752 numbers for them.
const DOMAINS_MAX: usize = 32_752;

/// Why a listing cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// A line has another form.
    #[error("`xl list -v` has the line {0:?}, which is no domain's")]
    Line(String),
    /// There is no line for the domain 0, which is always there.
    #[error("`xl list -v` does not show this domain itself")]
    NoDom0,
    /// More than there can be.
    #[error("a listing has more than {DOMAINS_MAX} domains")]
    TooMany,
    /// It is not JSON of that form.
    #[error("`xl list -l` cannot be understood: {0}")]
    Json(String),
}

/// One domain, as `xl list -v` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its number on this hypervisor, which changes with every start.
    pub domid: u32,
    /// Memory it holds, in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs that are online.
    pub vcpus: u32,
    /// What it does.
    pub flags: Flags,
    /// Its identity.
    pub uuid: DomainUuid,
}

/// State flags of a domain. More than one can be set, and often none is: runnable, not running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Stands still by order of the tool stack.
    pub paused: bool,
    /// Has stopped, and why.
    pub shutdown: Option<Stopped>,
    /// Is being taken apart.
    pub dying: bool,
}

/// Why a domain has stopped (`xen/include/public/sched.h`, `SHUTDOWN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It powered off.
    Poweroff,
    /// It wants to start again.
    Reboot,
    /// Its memory is being stored, or was; it cannot simply go on.
    Suspend,
    /// It crashed, or its watchdog bit.
    Crash,
    /// Another reason.
    Other,
}

/// What one domain may use, from `xl list -l`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Its identity, where it has one.
    pub uuid: Option<DomainUuid>,
    /// Memory up to which it can grow, in KiB.
    pub memory_max_kib: Option<u64>,
    /// Memory that it was last told to keep to, in KiB.
    pub memory_target_kib: Option<u64>,
    /// Virtual CPUs it was started with.
    pub vcpus_max: Option<u32>,
    /// Weight of its scheduler.
    pub weight: Option<u32>,
    /// Most CPU time in percent of one; 0: no limit.
    pub cap: Option<u32>,
}

/// Reads `xl list -v`.
///
/// # Errors
/// [`ListError`]: a line that cannot be read is no absence of a domain.
pub fn read_list(text: &str) -> Result<Vec<Listed>, ListError> {
    let mut lines = text.lines();
    let titled = lines.next().is_some_and(|line| line.starts_with("Name "));
    let lines = if titled { lines } else { text.lines() };
    let mut all = Vec::new();
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let wrong = || ListError::Line(line.chars().take(200).collect());
        all.push(read_line(line).ok_or_else(wrong)?);
        if all.len() > DOMAINS_MAX {
            return Err(ListError::TooMany);
        }
    }
    if all.iter().any(|domain| domain.domid == 0) {
        Ok(all)
    } else {
        Err(ListError::NoDom0)
    }
}

/// Name, number, memory, CPUs, flags, seconds, UUID; what follows differs. A name may hold anything, so it is what is
/// left before the rightmost run of words that looks like the rest.
fn read_line(line: &str) -> Option<Listed> {
    let words: Vec<(usize, &str)> = words(line).collect();
    let found = words.windows(6).rev().find_map(|run| {
        let &[
            (at, domid),
            (_, memory),
            (_, vcpus),
            (_, flags),
            (_, seconds),
            (_, uuid),
        ] = run
        else {
            return None;
        };
        seconds.parse::<f64>().ok()?;
        Some(Listed {
            name: line[..at].trim_end().to_owned(),
            domid: domid.parse().ok()?,
            memory_mib: memory.parse().ok()?,
            vcpus: vcpus.parse().ok()?,
            flags: Flags::read(flags)?,
            uuid: DomainUuid::parse(uuid).ok()?,
        })
    });
    found.filter(|domain| !domain.name.is_empty())
}

fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split_ascii_whitespace()
        .map(move |word| (word.as_ptr().addr() - line.as_ptr().addr(), word))
}

impl Flags {
    /// Reads six letters such as `-b----` or `---sc-`.
    fn read(letters: &str) -> Option<Self> {
        let &[running, blocked, paused, shutdown, reason, dying] = letters.as_bytes() else {
            return None;
        };
        let is = |letter: u8, set: u8| match letter {
            b'-' => Some(false),
            letter if letter == set => Some(true),
            _ => None,
        };
        is(running, b'r')?;
        is(blocked, b'b')?;
        let reason = match reason {
            b'-' => Stopped::Poweroff,
            b'r' => Stopped::Reboot,
            b's' => Stopped::Suspend,
            b'c' | b'w' => Stopped::Crash,
            _ => Stopped::Other,
        };
        Some(Self {
            paused: is(paused, b'p')?,
            shutdown: is(shutdown, b's')?.then_some(reason),
            dying: is(dying, b'd')?,
        })
    }
}

#[derive(Deserialize)]
struct JsonDomain {
    domid: u32,
    #[serde(default)]
    config: JsonConfig,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonConfig {
    c_info: JsonCreate,
    b_info: JsonBuild,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonCreate {
    uuid: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonBuild {
    max_vcpus: Option<u32>,
    max_memkb: Option<u64>,
    target_memkb: Option<u64>,
    sched_params: JsonSched,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonSched {
    weight: Option<i64>,
    cap: Option<i64>,
}

/// Reads `xl list -l`, by number of the domain. What a domain's entry lacks is `None`.
///
/// # Errors
/// [`ListError::Json`].
pub fn read_allowed(text: &str) -> Result<BTreeMap<u32, Allowed>, ListError> {
    // Without any domain it prints nothing at all in some versions.
    let text = if text.trim().is_empty() { "[]" } else { text };
    let all: Vec<JsonDomain> =
        serde_json::from_str(text).map_err(|error| ListError::Json(error.to_string()))?;
    if all.len() > DOMAINS_MAX {
        return Err(ListError::TooMany);
    }
    // Where the scheduler has no such parameter, it is -1.
    let number = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    let allowed = all.into_iter().map(|domain| {
        let JsonConfig { c_info, b_info } = domain.config;
        let allowed = Allowed {
            uuid: c_info.uuid.and_then(|uuid| DomainUuid::parse(&uuid).ok()),
            memory_max_kib: b_info.max_memkb,
            memory_target_kib: b_info.target_memkb,
            vcpus_max: b_info.max_vcpus,
            weight: number(b_info.sched_params.weight),
            cap: number(b_info.sched_params.cap),
        };
        (domain.domid, allowed)
    });
    Ok(allowed.collect())
}

/// What `xl info` says of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    values: BTreeMap<String, String>,
}

impl NodeInfo {
    /// Reads `xl info`: lines of a name, a colon and a value.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let pairs = text.lines().take(200).filter_map(|line| line.split_once(':'));
        Self {
            values: pairs
                .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
                .collect(),
        }
    }

    /// A value by its name, where it is there and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Memory that belongs to nobody, in MiB.
    #[must_use]
    pub fn free_mib(&self) -> Option<u64> {
        self.get("free_memory")?.parse().ok()
    }

    /// Whether guests of type PVH run here: the processor can (`hvm`), and memory is mapped by it or by shadow pages.
    /// Older versions do not say how it is mapped.
    #[must_use]
    pub fn runs_pvh(&self) -> bool {
        let caps: Vec<_> = self.get("virt_caps").unwrap_or_default().split(' ').collect();
        caps.contains(&"hvm") && (caps.contains(&"hap") || caps.contains(&"shadow"))
    }

    /// Whether the hypervisor notices what a running guest writes, so that it can run while its memory is sent: with the
    /// processor's help for PVH, and with shadow pages for both (Debian builds its Xen without them).
    #[must_use]
    pub fn moves_running(&self, kind: GuestKind) -> bool {
        let caps = self.get("virt_caps").unwrap_or_default();
        caps.split(' ').any(|cap| match kind {
            GuestKind::Pv => cap == "shadow",
            GuestKind::Pvh => cap == "shadow" || cap == "hap",
        })
    }

    /// Whether guests of type PV run here: a hypervisor can be built without.
    #[must_use]
    pub fn runs_pv(&self) -> bool {
        self.get("virt_caps")
            .unwrap_or_default()
            .split(' ')
            .any(|cap| cap == "pv")
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
