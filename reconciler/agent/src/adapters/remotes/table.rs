//! What the kernel has mounted: `/proc/self/mountinfo` (proc_pid_mountinfo(5)). Reading it asks no server.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The longest table read. Each line is a mount; a node has hundreds at most.
const LEN_MAX: u64 = 16 << 20;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// Its type.
    pub(super) fstype: String,
    /// What it was made from.
    pub(super) source: String,
}

/// Everything that is mounted directly in `dir`, by the name of its mount point. Of several at one place the last is
/// what everybody sees.
pub(super) fn mounted_in(table: &Path, dir: &Path) -> io::Result<BTreeMap<String, Mounted>> {
    let mut text = Vec::new();
    File::open(table)?.take(LEN_MAX + 1).read_to_end(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|len| len > LEN_MAX) {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "there are more mounts than a node can have",
        ));
    }
    // Names of mounts that are not ours may be of any bytes.
    let text = String::from_utf8_lossy(&text);
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let Some((at, mounted)) = read(line) else { continue };
        if at.parent() == Some(dir)
            && let Some(name) = at.file_name().and_then(|name| name.to_str())
        {
            all.insert(name.to_owned(), mounted);
        }
    }
    Ok(all)
}

/// `36 35 98:0 /root /mount/point options [tags…] - type source super-options`
fn read(line: &str) -> Option<(PathBuf, Mounted)> {
    let (head, tail) = line.split_once(" - ")?;
    let at = unescape(head.split(' ').nth(4)?);
    let mut fields = tail.split(' ');
    let mounted = Mounted {
        fstype: fields.next()?.to_owned(),
        source: unescape(fields.next()?),
    };
    Some((PathBuf::from(at), mounted))
}

/// Space, tab, line feed and backslash are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/xvda1 rw
40 22 0:35 / /run/xenoslice/remote/aa ro,nosuid shared:12 - nfs4 store.example:/acme/apache ro,vers=4.2
41 22 0:36 / /run/xenoslice/remote/bb ro - nfs4 store.example:/with\\040space rw
42 41 0:37 / /run/xenoslice/remote/bb/below ro - tmpfs tmpfs rw
43 22 0:38 / /run/xenoslice/remote/aa ro - tmpfs mine rw
nonsense
44 22 0:39 / /run/xenoslice/remote rw
";

    #[test]
    fn what_lies_on_top_is_what_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path().join("mountinfo");
        std::fs::write(&table, TABLE).unwrap();
        let found = mounted_in(&table, Path::new("/run/xenoslice/remote")).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(name, is)| (name.as_str(), is.fstype.as_str(), is.source.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("aa", "tmpfs", "mine"),
                ("bb", "nfs4", "store.example:/with space")
            ]
        );
    }
}
