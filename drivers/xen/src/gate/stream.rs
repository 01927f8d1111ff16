//! Where the stream of a domain's memory ends: found by its own lengths, and never by looking for something in it.
//!
//! xl writes a header with the domain's configuration, then libxl's records, of which one stands for the whole of libxc's,
//! the memory. Both lists end in a record of type 0. A guest decides what is in its pages, but not where a record ends.
//!
//! # Source
//! xen.git `tools/xl/xl.h` (`save_file_header`), `docs/specs/libxl-migration-stream.pandoc` (version 2) and
//! `docs/specs/libxc-migration-stream.pandoc` (versions 2 and 3), Xen 4.6 to 4.20.

/// The beginning of all that xl writes.
const XL_MAGIC: &[u8; 32] = b"Xen saved domain, xl format\n \0 \r";
/// `SAVEFILE_BYTEORDER_VALUE`: numbers are in this machine's order.
const XL_ORDER: u32 = 0x0102_0304;
/// What goes on in libxl's records (`XL_MANDATORY_FLAG_STREAMv2`).
const XL_RECORDS: u32 = 1 << 1;
/// Longest configuration.
const CONFIG_LEN_MAX: u32 = 1 << 20;
/// `LIBXL_STREAM_IDENT`, in network order.
const LIBXL_MAGIC: &[u8; 8] = b"LibxlFmt";
/// The identification of libxc's part, in network order, behind eight bytes of ones.
const LIBXC_MAGIC: &[u8; 4] = b"XENF";
/// The type of a record that is the last, in both lists.
const END: u32 = 0;
/// The record of libxl behind which libxc's part comes.
const LIBXC_CONTEXT: u32 = 1;
/// Records whose body is longer are no records: libxc sends 1024 pages in one, libxl a device model's state.
const RECORD_LEN_MAX: u32 = 1 << 30;

const XL_HEADER_LEN: usize = 48;
const LIBXL_HEADER_LEN: usize = 16;
/// Image header and domain header.
const LIBXC_HEADER_LEN: usize = 24 + 16;
const RECORD_HEADER_LEN: usize = 8;

/// What came is not the memory of a domain in a form that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tool stack does not send memory in a known form: {0}")]
pub(crate) struct NotAStream(&'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    XlHeader,
    LibxlHeader,
    LibxlRecord,
    LibxcHeader,
    LibxcRecord,
    Over,
}

/// Follows a stream as it passes.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    part: Part,
    /// What there is of the next header.
    head: Vec<u8>,
    /// Bytes of a body that are still to come.
    body: u64,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            part: Part::XlHeader,
            head: Vec::new(),
            body: 0,
        }
    }
}

impl Stream {
    /// Whether all of it has passed.
    #[must_use]
    pub(crate) fn is_over(&self) -> bool {
        self.part == Part::Over
    }

    /// Lets bytes pass, and says how many of them belong to the stream: all, unless it ends among them.
    ///
    /// # Errors
    /// [`NotAStream`].
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Result<usize, NotAStream> {
        let mut rest = bytes;
        while !rest.is_empty() && self.part != Part::Over {
            let of_body = rest.len().min(usize::try_from(self.body).unwrap_or(usize::MAX));
            if of_body > 0 {
                rest = &rest[of_body..];
                self.body -= of_body as u64;
                continue;
            }
            let missing = self.part.header_len() - self.head.len();
            let (more, behind) = rest.split_at(missing.min(rest.len()));
            self.head.extend_from_slice(more);
            rest = behind;
            if self.head.len() == self.part.header_len() {
                self.understand()?;
                self.head.clear();
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// A header is whole.
    fn understand(&mut self) -> Result<(), NotAStream> {
        let head = self.head.as_slice();
        match self.part {
            Part::XlHeader => {
                if !head.starts_with(XL_MAGIC) || number(head, 32) != XL_ORDER {
                    return Err(NotAStream("it does not begin as xl's"));
                }
                if number(head, 36) & XL_RECORDS == 0 {
                    return Err(NotAStream("it is older than Xen 4.6"));
                }
                let config = number(head, 44);
                if config > CONFIG_LEN_MAX {
                    return Err(NotAStream("the configuration in it is too long"));
                }
                // Nothing aligns it.
                self.body = u64::from(config);
                self.part = Part::LibxlHeader;
            }
            Part::LibxlHeader => {
                if !head.starts_with(LIBXL_MAGIC) {
                    return Err(NotAStream("libxl's part does not begin as one"));
                }
                self.part = Part::LibxlRecord;
            }
            Part::LibxlRecord => match record(head)? {
                (END, _) => self.part = Part::Over,
                (kind, body) => {
                    self.body = body;
                    if kind == LIBXC_CONTEXT {
                        self.part = Part::LibxcHeader;
                    }
                }
            },
            Part::LibxcHeader => {
                if !head.starts_with(&[0xff; 8]) || !head[8..].starts_with(LIBXC_MAGIC) {
                    return Err(NotAStream("libxc's part does not begin as one"));
                }
                self.part = Part::LibxcRecord;
            }
            Part::LibxcRecord => match record(head)? {
                (END, _) => self.part = Part::LibxlRecord,
                (_, body) => self.body = body,
            },
            Part::Over => {}
        }
        Ok(())
    }
}

impl Part {
    fn header_len(self) -> usize {
        match self {
            Self::XlHeader => XL_HEADER_LEN,
            Self::LibxlHeader => LIBXL_HEADER_LEN,
            Self::LibxcHeader => LIBXC_HEADER_LEN,
            Self::LibxlRecord | Self::LibxcRecord => RECORD_HEADER_LEN,
            Self::Over => 0,
        }
    }
}

/// The number at an offset, in this machine's order; what is not there is 0.
fn number(head: &[u8], at: usize) -> u32 {
    let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    u32::from_ne_bytes(bytes.unwrap_or_default())
}

/// Type and length of a record's body, with what fills it up to eight bytes.
fn record(head: &[u8]) -> Result<(u32, u64), NotAStream> {
    let (kind, len) = (number(head, 0), number(head, 4));
    if len > RECORD_LEN_MAX || (kind == END && len != 0) {
        return Err(NotAStream("a record in it is too long"));
    }
    Ok((kind, u64::from(len).next_multiple_of(8)))
}

/// Streams for tests.
#[cfg(test)]
pub(crate) mod example {
    use super::*;

    fn rec(kind: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len()).unwrap();
        let mut bytes = [kind.to_ne_bytes(), len.to_ne_bytes()].concat();
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// A domain whose configuration and pages are these.
    pub(crate) fn domain(config: &[u8], pages: &[&[u8]]) -> Vec<u8> {
        let mut bytes = XL_MAGIC.to_vec();
        for number in [XL_ORDER, 3, 0, u32::try_from(config.len()).unwrap()] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(config);
        bytes.extend(LIBXL_MAGIC);
        bytes.extend([0, 0, 0, 2, 0, 0, 0, 0]);
        bytes.extend(rec(LIBXC_CONTEXT, &[]));
        bytes.extend([0xff; 8]);
        bytes.extend(LIBXC_MAGIC);
        bytes.extend([0; 28]);
        for page in pages {
            bytes.extend(rec(1, page));
        }
        bytes.extend(rec(END, &[]));
        bytes.extend(rec(2, b"emulator"));
        bytes.extend(rec(END, &[]));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::GO;
    use super::example::domain;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_ends_where_it_ends_whatever_a_guest_has_in_its_memory() {
        let like_the_end = [[0; 16].as_slice(), GO, &[0; 4]].concat();
        let stream = domain(b"{\"odd\":1}", &[&like_the_end, b"", &[0; 4096]]);
        let all = [stream.as_slice(), GO].concat();
        for piece in [1, 7, 44, 4096, all.len()] {
            let mut passing = Stream::default();
            let mut passed = 0;
            for bytes in all.chunks(piece) {
                assert_eq!(passing.is_over(), passed == stream.len());
                passed += passing.pass(bytes).unwrap();
            }
            assert_eq!(passed, stream.len(), "in pieces of {piece}");
            assert!(passing.is_over());
        }
        let mut cut = Stream::default();
        cut.pass(&stream[..stream.len() - 1]).unwrap();
        assert!(!cut.is_over());
    }

    #[test]
    fn what_is_of_another_form_is_refused() {
        let good = domain(b"{}", &[b"page"]);
        let check = |at: usize, value: u8, why: &str| {
            let mut wrong = good.clone();
            wrong[at] = value;
            let said = Stream::default().pass(&wrong).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        };
        check(0, b'x', "as xl's");
        check(32, 9, "as xl's");
        check(36, 1, "older than");
        check(47, 9, "configuration");
        check(50, b'x', "libxl's part");
        let libxc = XL_HEADER_LEN + 2 + LIBXL_HEADER_LEN + RECORD_HEADER_LEN;
        check(libxc, 0, "libxc's part");
        check(libxc + 8, 0, "libxc's part");
        check(libxc + LIBXC_HEADER_LEN + 7, 0xff, "too long");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..200) {
            let mut stream = domain(b"{}", &[b"page"]);
            let at = at.min(stream.len());
            stream.splice(at.., bytes);
            let passed = Stream::default().pass(&stream);
            prop_assert!(passed.is_err() || passed.is_ok_and(|passed| passed <= stream.len()));
        }
    }
}
