//! The smallest guest: an initramfs of ours with one program, which prints a line.
//!
//! It answers the one question that matters about an accelerator: does this kernel get to its first process? It
//! needs no modules and no busybox, and no agreement with anybody's initramfs.

/// What the guest prints.
pub(crate) const MARKER: &str = "xeno: this accelerator runs Linux";

/// Where the program is loaded; any page of user space would do.
const BASE: u64 = 0x40_0000;
/// ELF header and one program header.
const HEADERS_LEN: usize = 64 + 56;

/// The initramfs: a "newc" archive (Linux: `Documentation/driver-api/early-userspace/buffer-format.rst`) of `/init`.
/// `/dev/console` comes from the archive that is built into every kernel.
pub(crate) fn initramfs() -> Vec<u8> {
    let mut archive = Vec::new();
    member(&mut archive, "init", 0o100_755, &program());
    member(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

fn member(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    // Magic, then inode, mode, uid, gid, links, mtime, size, device (4 fields), length of the name, checksum.
    let header = format!(
        "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
        1,
        0,
        0,
        1,
        0,
        content.len(),
        0,
        0,
        0,
        0,
        name.len() + 1,
        0
    );
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// An x86-64 program: `write(1, MARKER, len)`, then nothing for ever.
fn program() -> Vec<u8> {
    let text = format!("{MARKER}\n");
    let len = u8::try_from(text.len()).expect("the marker is short");
    #[rustfmt::skip]
    let code = [
        0xb8, 1, 0, 0, 0,                   // mov eax, 1        write(2)
        0xbf, 1, 0, 0, 0,                   // mov edi, 1        to standard output
        0x48, 0x8d, 0x35, 9, 0, 0, 0,       // lea rsi, [rip+9]  the text, 9 bytes after this instruction
        0xba, len, 0, 0, 0,                 // mov edx, len
        0x0f, 0x05,                         // syscall
        0xeb, 0xfe,                         // jmp to itself
    ];
    let total = (HEADERS_LEN + code.len() + text.len()) as u64;
    let mut elf = Vec::new();
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0"); // 64 bit, little endian, System V
    elf.extend_from_slice(&2_u16.to_le_bytes()); // executable
    elf.extend_from_slice(&62_u16.to_le_bytes()); // x86-64
    elf.extend_from_slice(&1_u32.to_le_bytes());
    elf.extend_from_slice(&(BASE + HEADERS_LEN as u64).to_le_bytes()); // entry
    elf.extend_from_slice(&64_u64.to_le_bytes()); // program headers
    elf.extend_from_slice(&0_u64.to_le_bytes()); // no sections
    elf.extend_from_slice(&0_u32.to_le_bytes());
    for field in [64_u16, 56, 1, 64, 0, 0] {
        elf.extend_from_slice(&field.to_le_bytes());
    }
    elf.extend_from_slice(&1_u32.to_le_bytes()); // PT_LOAD
    elf.extend_from_slice(&5_u32.to_le_bytes()); // readable, executable
    for field in [0, BASE, BASE, total, total, 0x1000] {
        elf.extend_from_slice(&field.to_le_bytes());
    }
    debug_assert_eq!(elf.len(), HEADERS_LEN);
    elf.extend_from_slice(&code);
    elf.extend_from_slice(text.as_bytes());
    elf
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    #[test]
    fn the_program_prints_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("init");
        std::fs::write(&path, program()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(
            &mut std::io::BufReader::new(child.stdout.take().unwrap()),
            &mut line,
        )
        .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(line.trim_end(), MARKER);
    }
}
