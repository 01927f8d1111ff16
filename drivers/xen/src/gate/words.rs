//! What xl says to itself across a migration (`tools/xl/xl_migrate.c`, the same from Xen 4.2 to 4.20).
//!
//! The way back holds nothing but these words, in this order, and the way forward ends in exactly one, so nothing has to
//! be looked for in the image of a guest's memory. What differs by a byte is not understood.

/// The receiver is there. No NUL follows.
pub const BANNER: &[u8] = b"xl migration receiver ready, send binary domain data.\n";

/// The receiver has a whole copy, paused.
pub const READY: &[u8] = b"domain received, ready to unpause\0";

/// The source gives the domain away. On the way back the same words give it back: the copy is destroyed.
pub const GO: &[u8] = b"domain is yours, you are cleared to unpause\0";

/// How unpausing the copy went; one byte follows, 0 for well.
pub const REPORT: &[u8] = b"my copy unpause results are as follows\0";

/// The status that stands for any failure.
pub const FAILED: u8 = 1;

/// A word of the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// [`BANNER`].
    Banner,
    /// [`READY`].
    Ready,
    /// [`REPORT`] with its status.
    Report(u8),
    /// [`GO`] on its way back: the receiver has destroyed its copy.
    Back,
}

/// The receiver did not say what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receiver of the migration did not speak as xl does")]
pub struct NotUnderstood;

/// Takes words out of what a receiver writes, however it is cut up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Listener {
    /// How many words came.
    at: usize,
    /// The beginning of the next one.
    begun: Vec<u8>,
}

impl Listener {
    /// Takes more bytes, and gives the words that they complete.
    ///
    /// # Errors
    /// [`NotUnderstood`], at the first byte that cannot be right; nothing more will be understood.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<Vec<Word>, NotUnderstood> {
        let mut words = Vec::new();
        for byte in bytes {
            self.begun.push(*byte);
            let (text, status): (&[u8], usize) = match self.at {
                0 => (BANNER, 0),
                1 => (READY, 0),
                2 => (REPORT, 1),
                3 => (GO, 0),
                _ => return Err(NotUnderstood),
            };
            let told = self.begun.len().min(text.len());
            if self.begun[..told] != text[..told] {
                return Err(NotUnderstood);
            }
            if self.begun.len() == text.len() + status {
                let word = match (self.at, self.begun.last()) {
                    (0, _) => Word::Banner,
                    (1, _) => Word::Ready,
                    (2, Some(status)) => Word::Report(*status),
                    _ => Word::Back,
                };
                // After "it runs" there is nothing left to say.
                self.at = if word == Word::Report(0) { 4 } else { self.at + 1 };
                self.begun.clear();
                words.push(word);
            }
        }
        Ok(words)
    }
}

/// What tells xl at the source that the copy runs, or that it is gone and the source may resume.
#[must_use]
pub fn report(status: u8) -> Vec<u8> {
    let mut bytes = REPORT.to_vec();
    bytes.push(status);
    if status != 0 {
        bytes.extend_from_slice(GO);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(status: u8) -> Vec<u8> {
        [BANNER, READY, &report(status)].concat()
    }

    #[test]
    fn words_are_as_long_as_they_were_measured() {
        assert_eq!([BANNER, READY, GO, REPORT].map(<[u8]>::len), [54, 34, 44, 39]);
    }

    #[test]
    fn words_are_heard_however_they_are_cut() {
        for status in [0, FAILED, 0xff] {
            let mut wanted = vec![Word::Banner, Word::Ready, Word::Report(status)];
            if status != 0 {
                wanted.push(Word::Back);
            }
            let all = spoken(status);
            for piece in 1..=all.len() {
                let mut listener = Listener::default();
                let heard = all.chunks(piece).flat_map(|bytes| listener.hear(bytes).unwrap());
                assert_eq!(heard.collect::<Vec<_>>(), wanted, "in pieces of {piece}");
            }
        }
    }

    #[test]
    fn one_wrong_byte_ends_it() {
        let all = spoken(FAILED);
        for at in 0..all.len() {
            let mut wrong = all.clone();
            wrong[at] ^= 1;
            let status = BANNER.len() + READY.len() + REPORT.len();
            let heard = Listener::default().hear(&wrong);
            // A status may be anything, but after "it runs" nobody says anything.
            assert!(heard.is_err(), "byte {at} of {status}");
        }
        let mut longer = spoken(0);
        longer.push(0);
        assert_eq!(Listener::default().hear(&longer), Err(NotUnderstood));
    }
}
