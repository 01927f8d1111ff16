//! Shares of the processors, where the agent has a control group of its own to give them in.
//!
//! A group is ours to divide if the configuration names it, if an ordinary user owns it (nobody else would have given
//! it to them), or if it says that it was delegated (systemd marks what `Delegate=cpu` hands over with an extended
//! attribute, systemd.resource-control(5)). Root could divide any group; it does not, since the ones that nobody handed
//! over are their manager's.
//!
//! Both versions are spoken (Linux: `Documentation/admin-guide/cgroup-v2.rst`, `scheduler/sched-design-CFS.rst`):
//!
//! | | weight | cap |
//! | --- | --- | --- |
//! | version 2 | `cpu.weight`, 1 to 10000, 100 is plain | `cpu.max`: microseconds of each period |
//! | version 1 | `cpu.shares`, 2 to 262144, 1024 is plain | `cpu.cfs_quota_us` of `cpu.cfs_period_us` |

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::record::CpuShare;

/// The weight of a domain that asks for nothing in particular, here as on Xen.
const WEIGHT_PLAIN: u32 = 256;
/// Within this many microseconds a domain gets what its cap grants.
const PERIOD_US: u64 = 100_000;
/// How often, and after which pause, a group is tried to be removed.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(20);
/// What the kernel takes as the least of a period.
const QUOTA_US_MIN: u64 = 1_000;
/// Where version 2 needs processes that are in a group with controlled children: nowhere; so they go here.
const OWN_LEAF: &str = "xeno-agent";
/// Processes of ours that are moved there; an agent and its file server are two.
const MOVED_MAX: usize = 1_000;

/// A group in which domains are given shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CpuGroups {
    base: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl CpuGroups {
    /// Looks for a group that is ours to divide.
    ///
    /// # Errors
    /// Says why there is none, in words that fit after "because".
    pub(crate) fn find(configured: Option<&Path>) -> Result<Self, String> {
        if let Some(base) = configured {
            return Self::at(base).ok_or_else(|| {
                format!(
                    "{} is no control group with the cpu controller that this user may divide",
                    base.display()
                )
            });
        }
        let read =
            |path: &str| fs::read_to_string(path).map_err(|error| format!("{path} cannot be read: {error}"));
        let (own, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
        let candidates = groups(&own, &mounts);
        let ours = candidates.iter().find(|path| is_handed_over(path));
        match ours {
            Some(base) => Self::at(base).ok_or_else(|| {
                format!(
                    "the control group {} has no cpu controller to divide",
                    base.display()
                )
            }),
            None => Err("the agent has no control group of its own".to_owned()),
        }
    }

    fn at(base: &Path) -> Option<Self> {
        let has = |name: &str| base.join(name).exists();
        let controllers = fs::read_to_string(base.join("cgroup.controllers"));
        let version = match controllers {
            Ok(controllers) => {
                let cpu = controllers.split_ascii_whitespace().any(|word| word == "cpu");
                cpu.then_some(Version::Two)?
            }
            Err(_) => (has("cgroup.procs") && has("cpu.shares")).then_some(Version::One)?,
        };
        let may = rustix::fs::access(base, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
        may.ok().map(|()| Self {
            base: base.to_owned(),
            version,
        })
    }

    /// For people: what and where it is.
    pub(crate) fn describe(&self) -> String {
        let version = match self.version {
            Version::One => 1,
            Version::Two => 2,
        };
        format!("control groups version {version} in {}", self.base.display())
    }

    fn of(&self, label: &str) -> PathBuf {
        self.base.join(format!("xeno-{label}"))
    }

    /// Gives the process `pid` of a domain its share.
    pub(crate) fn give(&self, label: &str, pid: u32, share: CpuShare) -> io::Result<()> {
        if self.version == Version::Two {
            self.divide()?;
        }
        let group = self.of(label);
        match fs::create_dir(&group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for (file, value) in self.values(share) {
            fs::write(group.join(file), value)?;
        }
        fs::write(group.join("cgroup.procs"), pid.to_string())
    }

    /// The share that the process of a domain has now: `expected` if it is that, or near what the kernel says.
    /// `None`: it has none of ours.
    pub(crate) fn look(&self, label: &str, pid: u32, expected: Option<CpuShare>) -> Option<CpuShare> {
        let group = self.of(label);
        let members = fs::read_to_string(group.join("cgroup.procs")).ok()?;
        members.lines().find(|line| line.trim().parse() == Ok(pid))?;
        let is = |share: CpuShare| {
            let mut values = self.values(share).into_iter();
            values.all(|(file, value)| {
                fs::read_to_string(group.join(file)).is_ok_and(|now| now.trim() == value)
            })
        };
        expected.filter(|share| is(*share)).or_else(|| self.read(&group))
    }

    /// Removes the group of a domain that is gone. Its process may not have been collected yet, which is waited for a
    /// little. What cannot be removed does nothing.
    pub(crate) fn remove(&self, label: &str) {
        let group = self.of(label);
        for _ in 0..REMOVE_TRIES {
            match fs::remove_dir(&group) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(REMOVE_PAUSE),
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::debug!(group = %group.display(), %error, "a control group stays");
                    return;
                }
                _ => return,
            }
        }
    }

    /// Lets children have the cpu controller. Version 2 wants no process beside them, so ours move to a leaf.
    fn divide(&self) -> io::Result<()> {
        let control = self.base.join("cgroup.subtree_control");
        let now = fs::read_to_string(&control)?;
        if now.split_ascii_whitespace().any(|word| word == "cpu") {
            return Ok(());
        }
        let members = fs::read_to_string(self.base.join("cgroup.procs"))?;
        if !members.trim().is_empty() {
            let leaf = self.base.join(OWN_LEAF);
            match fs::create_dir(&leaf) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            for member in members.lines().take(MOVED_MAX) {
                match fs::write(leaf.join("cgroup.procs"), member.trim()) {
                    // It has ended meanwhile.
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                    moved => moved?,
                }
            }
        }
        fs::write(control, "+cpu")
    }

    /// What is written into which file.
    fn values(&self, share: CpuShare) -> Vec<(&'static str, String)> {
        let weight = u64::from(share.weight);
        let quota = share
            .cap_percent
            .map(|cap| (u64::from(cap) * PERIOD_US / 100).max(QUOTA_US_MIN));
        match self.version {
            Version::Two => {
                let weight = (weight * 100 / u64::from(WEIGHT_PLAIN)).clamp(1, 10_000);
                let most = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                vec![
                    ("cpu.weight", weight.to_string()),
                    ("cpu.max", format!("{most} {PERIOD_US}")),
                ]
            }
            Version::One => {
                let shares = (weight * 1024 / u64::from(WEIGHT_PLAIN)).clamp(2, 262_144);
                let quota = quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string());
                vec![
                    ("cpu.shares", shares.to_string()),
                    ("cpu.cfs_period_us", PERIOD_US.to_string()),
                    ("cpu.cfs_quota_us", quota),
                ]
            }
        }
    }

    /// The share that a group gives, in our words.
    fn read(&self, group: &Path) -> Option<CpuShare> {
        let text = |file: &str| fs::read_to_string(group.join(file)).ok();
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let plain = u64::from(WEIGHT_PLAIN);
        let (weight, quota, period) = match self.version {
            Version::Two => {
                let weight = number(&text("cpu.weight")?)? * plain / 100;
                let most = text("cpu.max")?;
                let (quota, period) = most.trim().split_once(' ')?;
                (weight, number(quota), number(period)?)
            }
            Version::One => {
                let weight = number(&text("cpu.shares")?)? * plain / 1024;
                (
                    weight,
                    number(&text("cpu.cfs_quota_us")?),
                    number(&text("cpu.cfs_period_us")?)?,
                )
            }
        };
        let cap = quota.map(|quota| quota.saturating_mul(100) / period.max(1));
        Some(CpuShare {
            weight: u32::try_from(weight).unwrap_or(u32::MAX),
            cap_percent: cap.map(|cap| u32::try_from(cap).unwrap_or(u32::MAX)),
        })
    }
}

/// Whether a group was given to us to divide.
fn is_handed_over(group: &Path) -> bool {
    let Ok(status) = fs::metadata(group) else {
        return false;
    };
    let user = rustix::process::geteuid();
    if !user.is_root() && status.uid() == user.as_raw() {
        return true;
    }
    ["trusted.delegate", "user.delegate"].iter().any(|name| {
        let mut value = [0_u8; 2];
        matches!(rustix::fs::getxattr(group, *name, &mut value[..]), Ok(1)) && value[0] == b'1'
    })
}

/// The groups with the cpu controller that this process is in, as paths: `own` and `mounts` as in cgroups(7) and
/// proc(5), `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn groups(own: &str, mounts: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let is_mine = |kind: &str, options: &str| match controllers {
            "" => kind == "cgroup2",
            _ => kind == "cgroup" && options.split(',').any(|option| option == "cpu"),
        };
        if !controllers.is_empty() && !controllers.split(',').any(|controller| controller == "cpu") {
            continue;
        }
        let mounted = mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut right = right.split(' ');
            let (kind, options) = (right.next()?, right.nth(1)?);
            let mut left = left.split(' ').skip(3);
            let (root, point) = (left.next()?, left.next()?);
            is_mine(kind, options).then_some((root, point))
        });
        let Some((root, point)) = mounted else { continue };
        // A mount may show only a part of the tree.
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
        all.push(Path::new(point).join(below.trim_start_matches('/')));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(weight: u32, cap_percent: Option<u32>) -> CpuShare {
        CpuShare { weight, cap_percent }
    }

    /// A directory that looks like a group. Files of the kernel are there before they are written to.
    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    #[test]
    fn own_groups_are_found() {
        let mounts = "\
30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";
        let own = "5:memory:/m\n2:cpu,cpuacct:/user/a\n0::/user.slice/a:b.service\n";
        let expected = [
            "/sys/fs/cgroup/cpu,cpuacct/user/a",
            "/sys/fs/cgroup/unified/user.slice/a:b.service",
        ];
        assert_eq!(groups(own, mounts), expected.map(PathBuf::from));
        let container = "40 30 0:27 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            groups("0::/docker/x/y\n", container),
            [PathBuf::from("/sys/fs/cgroup/y")]
        );
        assert!(groups("nonsense\n1:\n", "nonsense - \n").is_empty());
    }

    #[test]
    fn version_two_is_divided_and_written() {
        let dir = group(&[
            ("cgroup.controllers", "cpuset cpu io\n"),
            ("cgroup.subtree_control", "\n"),
            ("cgroup.procs", "17\n18\n"),
        ]);
        let groups = CpuGroups::find(Some(dir.path())).unwrap();
        assert!(groups.describe().starts_with("control groups version 2"));
        let asked = share(512, Some(50));
        assert_eq!(groups.look("web-0", 42, Some(asked)), None);
        groups.give("web-0", 42, asked).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("cgroup.subtree_control"), "+cpu");
        assert_eq!(read("xeno-agent/cgroup.procs"), "18", "moved one by one");
        assert_eq!(
            (read("xeno-web-0/cpu.weight"), read("xeno-web-0/cpu.max")),
            ("200".into(), "50000 100000".into())
        );
        assert_eq!(groups.look("web-0", 42, Some(asked)), Some(asked));
        assert_eq!(groups.look("web-0", 43, Some(asked)), None, "another process");
        // Somebody changes it: what is seen is what is so.
        fs::write(dir.path().join("xeno-web-0/cpu.max"), "max 100000\n").unwrap();
        assert_eq!(groups.look("web-0", 42, Some(asked)), Some(share(512, None)));
        // What does not come back from the kernel's scale is known again all the same.
        let odd = share(257, None);
        groups.give("web-0", 42, odd).unwrap();
        assert_eq!(groups.look("web-0", 42, Some(odd)), Some(odd));
    }

    #[test]
    fn version_one_is_written() {
        let dir = group(&[("cgroup.procs", ""), ("cpu.shares", "1024\n")]);
        let groups = CpuGroups::find(Some(dir.path())).unwrap();
        groups.give("web-0", 42, share(256, None)).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join("xeno-web-0").join(name)).unwrap();
        assert_eq!(
            (read("cpu.shares"), read("cpu.cfs_quota_us")),
            ("1024".into(), "-1".into())
        );
        assert_eq!(groups.look("web-0", 42, None), Some(share(256, None)));
        groups.give("web-0", 42, share(65535, Some(150))).unwrap();
        assert_eq!(
            (read("cpu.shares"), read("cpu.cfs_quota_us")),
            ("262140".into(), "150000".into())
        );
    }

    #[test]
    fn what_is_no_group_is_not_divided() {
        for files in [
            &[][..],
            &[("cgroup.controllers", "io memory\n")],
            &[("cpu.shares", "1024\n")],
        ] {
            let dir = group(files);
            let why = CpuGroups::find(Some(dir.path())).unwrap_err();
            assert!(why.contains("is no control group"), "{why}");
            assert!(!is_handed_over(dir.path()) || !rustix::process::geteuid().is_root());
        }
    }
}
