use super::*;

const ELF: &[u8] = b"\x7fELF and then a kernel, of which much repeats, of which much repeats";

/// A bzImage as far as its setup header says: two sectors, then eight bytes, then the payload and its length.
fn bz_image(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 3 * 512 + 8];
    image[0x1f1] = 2;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&8_u32.to_le_bytes());
    let len = u32::try_from(payload.len() + 4).unwrap();
    image[0x24c..0x250].copy_from_slice(&len.to_le_bytes());
    image.extend_from_slice(payload);
    image.extend_from_slice(&u32::try_from(ELF.len()).unwrap().to_le_bytes());
    image
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// [`ELF`] by `xz --check=crc32 --x86 --lzma2=dict=1MiB`, as Linux packs itself (`scripts/xz_wrap.sh`).
const XZ: &str = "fd377a585a0000016922de3602010400210110008b216f49e0004300325d003f914584694d5f649b49f4a686a9008c46ff64\
    d418f3c8bfb55bc3f4b99da0ce70695b14f891ee7366a0994339ca8320c000000000f46ceff400014a442d97a15b9042990d\
    010000000001595a";

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks_exact(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn a_kernel_comes_out_of_each_packing() {
    let check = |packed: Vec<u8>, expected: Packing| {
        let image = bz_image(&packed);
        let Image::Packed(packing, payload) = look(&image) else {
            panic!("{expected:?} is not seen");
        };
        assert_eq!(packing, expected);
        let mut kernel = Vec::new();
        unpack(packing, payload, &mut kernel).unwrap();
        assert_eq!(kernel, ELF, "{packing:?}");
    };
    check(gzip(ELF), Packing::Gzip);
    check(zstd::encode_all(ELF, 3).unwrap(), Packing::Zstd);
    check(bytes(XZ), Packing::Xz);
}

#[test]
fn what_is_no_image_is_left_as_it_is() {
    assert_eq!(look(ELF), Image::Elf);
    let good = bz_image(&gzip(ELF));
    let check = |change: fn(&mut Vec<u8>)| {
        let mut image = good.clone();
        change(&mut image);
        assert_eq!(look(&image), Image::Other);
    };
    check(|image| image.truncate(100));
    check(|image| image[0x202] = b'h');
    check(|image| image[0x206] = 7);
    // A payload that begins or ends outside.
    check(|image| image[0x24b] = 0xff);
    check(|image| image[0x24f] = 0xff);
    // Packed with something else.
    check(|image| image[3 * 512 + 8] = 0);
}

#[test]
fn a_kernel_is_kept_by_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let (image, kept) = (dir.path().join("vmlinuz"), dir.path().join("kept"));
    fs::write(&image, bz_image(&gzip(ELF))).unwrap();
    let first = bare(&image, &kept).unwrap();
    assert_eq!(fs::read(&first).unwrap(), ELF);
    // The second time nothing is unpacked.
    fs::write(&first, "kept").unwrap();
    assert_eq!(fs::read(bare(&image, &kept).unwrap()).unwrap(), b"kept");

    // Whatever comes later, only so many are kept.
    for number in 0..KEPT_MAX + 3 {
        let kernel = [ELF, number.to_string().as_bytes()].concat();
        fs::write(&image, bz_image(&gzip(&kernel))).unwrap();
        let path = bare(&image, &kept).unwrap();
        assert_eq!(fs::read(path).unwrap(), kernel);
    }
    assert_eq!(fs::read_dir(&kept).unwrap().count(), KEPT_MAX);

    let plain = dir.path().join("vmlinux");
    fs::write(&plain, ELF).unwrap();
    assert_eq!(bare(&plain, &kept).unwrap(), plain);
}

#[test]
fn a_damaged_kernel_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (image, kept) = (dir.path().join("vmlinuz"), dir.path().join("kept"));
    let check = |payload: &[u8]| {
        fs::write(&image, bz_image(payload)).unwrap();
        let error = bare(&image, &kept).unwrap_err();
        assert!(matches!(error, KernelError::Unpack { .. }), "{error}");
        let left = fs::read_dir(&kept).unwrap().flatten();
        assert_eq!(
            left.filter(|entry| entry.path().extension().is_some_and(|e| e == "vmlinux"))
                .count(),
            0
        );
    };
    check(&gzip(b"no kernel at all"));
    let mut damaged = zstd::encode_all(ELF, 3).unwrap();
    damaged.truncate(20);
    check(&damaged);
    check(b"\xfd7zXZ\0 and then nothing of the kind");
}
