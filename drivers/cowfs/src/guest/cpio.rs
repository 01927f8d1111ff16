//! Writes the archive format of an initramfs: cpio "newc" (kernel: `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::fmt::Write as _;

const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;

/// An archive under construction. Owners are root and time stamps zero, so equal input gives equal bytes.
#[derive(Default)]
pub(super) struct Cpio {
    out: Vec<u8>,
    inode: u32,
}

/// A member has more than 4 GiB, which the format cannot say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Cpio {
    pub(super) fn directory(&mut self, path: &str, mode: u32) -> Result<(), TooLarge> {
        self.member(path, DIRECTORY | mode, (0, 0), b"")
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<(), TooLarge> {
        self.member(path, REGULAR | mode, (0, 0), content)
    }

    pub(super) fn character_device(
        &mut self,
        path: &str,
        mode: u32,
        number: (u32, u32),
    ) -> Result<(), TooLarge> {
        self.member(path, CHARACTER | mode, number, b"")
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>, TooLarge> {
        self.inode = 0;
        self.member("TRAILER!!!", 0, (0, 0), b"")?;
        Ok(self.out)
    }

    fn member(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<(), TooLarge> {
        let size = u32::try_from(content.len()).map_err(|_| TooLarge)?;
        let name_size = u32::try_from(path.len() + 1).map_err(|_| TooLarge)?;
        self.inode += 1;
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        // Inode, mode, uid, gid, links, mtime, size, device (2), own device number (2), length of the name, checksum.
        let (major, minor) = device;
        let mut header = String::from("070701");
        for field in [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0,
        ] {
            let _ = write!(header, "{field:08x}");
        }
        self.out.extend_from_slice(header.as_bytes());
        self.out.extend_from_slice(path.as_bytes());
        self.out.push(0);
        self.pad();
        self.out.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_as_the_kernel_wants_it() {
        let mut cpio = Cpio::default();
        cpio.file("a", 0o644, b"hello").expect("small");
        let bytes = cpio.finish().expect("small");
        // Inode 1, a regular file 0644 of root, one link, five bytes, a name of two.
        let fields = [
            "00000001", "000081a4", "00000000", "00000000", "00000001", "00000000", "00000005",
        ];
        let rest = [
            "00000000", "00000000", "00000000", "00000000", "00000002", "00000000",
        ];
        let expected = format!("070701{}{}a\0hello\0\0\0", fields.concat(), rest.concat());
        assert_eq!(String::from_utf8_lossy(&bytes[..expected.len()]), expected);
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
