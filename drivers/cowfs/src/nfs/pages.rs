//! Parts of listings as they go over the wire, kept for those who ask again.
//!
//! What a guest lists again and again is mostly a template's and does not change, and what costs there is signing the handle
//! of each entry and reading its attributes. A *page* is the entries of one answer, encoded; whether it can be sent
//! again is for the service to say each time ([`FileService::stands`](crate::service::FileService::stands)), and attributes
//! that may have changed are encoded anew into the copy that is sent. So nothing here is ever told when something changes,
//! and nothing can be forgotten to be told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::service::{Handle, Stamp};

/// Bytes of pages kept for one export: the listings of a tree of some 35,000 entries. Where that is not enough, pages of no
/// particular choice give way, so that a tree walked round and round still finds some of it.
const KEPT_MAX: usize = 8 << 20;

/// What a page costs beside its bytes and its entries; a guess from above.
const PAGE_COSTS: usize = 512;

/// What an entry costs beside its bytes: its place, and what the service knows of it; a guess from above.
const ENTRY_COSTS: usize = 64;

/// The question that a page answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) dir: Handle,
    pub(super) cookie: u64,
    /// Bytes that the whole result may have, and the names alone.
    pub(super) limits: (usize, usize),
    pub(super) with_objects: bool,
}

/// The answer.
#[derive(Debug)]
pub(super) struct Page {
    /// All that follows the cookie verifier.
    pub(super) bytes: Vec<u8>,
    /// Where in it the attributes of each entry are.
    pub(super) attributes: Vec<usize>,
    pub(super) stamp: Stamp,
}

impl Page {
    fn costs(&self) -> usize {
        PAGE_COSTS + self.bytes.len() + self.attributes.len() * ENTRY_COSTS
    }
}

/// The pages of one export.
#[derive(Debug, Default)]
pub struct Pages {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    pages: Vec<(Question, Arc<Page>)>,
    places: HashMap<Question, usize>,
    costs: usize,
    /// Moves the choice of what gives way.
    turn: u64,
}

impl Pages {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing that can panic happens under this lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page that answered the question the last time.
    pub(super) fn get(&self, question: &Question) -> Option<Arc<Page>> {
        let kept = self.lock();
        let at = *kept.places.get(question)?;
        kept.pages.get(at).map(|(_, page)| Arc::clone(page))
    }

    /// Keeps a page in place of the one that was kept for the question, if there is one.
    pub(super) fn keep(&self, question: Question, page: Page) {
        let costs = page.costs();
        if costs > KEPT_MAX {
            return;
        }
        let mut kept = self.lock();
        if let Some(&at) = kept.places.get(&question) {
            kept.take(at);
        }
        while kept.costs + costs > KEPT_MAX && !kept.pages.is_empty() {
            let at = kept.choose();
            kept.take(at);
        }
        kept.costs += costs;
        let at = kept.pages.len();
        kept.pages.push((question, Arc::new(page)));
        kept.places.insert(question, at);
    }

    /// Bytes that all pages together cost, by the guess that bounds them.
    #[cfg(test)]
    pub(super) fn costs(&self) -> usize {
        self.lock().costs
    }
}

impl Kept {
    /// Any page, another one each time.
    fn choose(&mut self) -> usize {
        self.turn = self.turn.wrapping_add(1);
        // The golden ratio's multiples are spread evenly (Knuth, TAOCP 3, §6.4).
        let spread = self.turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(spread).unwrap_or_default() % self.pages.len()
    }

    fn take(&mut self, at: usize) {
        let (question, page) = self.pages.swap_remove(at);
        self.costs -= page.costs();
        self.places.remove(&question);
        if let Some((moved, _)) = self.pages.get(at) {
            self.places.insert(*moved, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(cookie: u64) -> Question {
        Question {
            dir: Handle::new(b"dir").expect("it is short"),
            cookie,
            limits: (0, 0),
            with_objects: true,
        }
    }

    fn page(len: usize) -> Page {
        Page {
            bytes: vec![0; len],
            attributes: Vec::new(),
            stamp: Stamp::new(()),
        }
    }

    #[test]
    fn pages_are_found_again_and_bounded() {
        let pages = Pages::default();
        for cookie in 0..1000 {
            pages.keep(question(cookie), page(60_000));
            assert!(pages.costs() <= KEPT_MAX);
            assert!(pages.get(&question(cookie)).is_some());
        }
        let kept = (0..1000)
            .filter(|&cookie| pages.get(&question(cookie)).is_some())
            .count();
        assert_eq!(kept, KEPT_MAX / (60_000 + PAGE_COSTS));
        // Kept again, a page takes the place of the one before.
        let before = pages.costs();
        pages.keep(question(999), page(60_001));
        assert_eq!(pages.costs(), before + 1);
        // What is larger than everything is not kept.
        pages.keep(question(5000), page(KEPT_MAX));
        assert!(pages.get(&question(5000)).is_none());
        assert_eq!(pages.costs(), before + 1);
    }
}
