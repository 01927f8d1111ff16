//! The cases, by what they are about.

mod attributes;
mod bits;
mod content;
mod data;
mod directories;
mod handles;
mod kernel;
mod links;
mod listing;
mod moves;
mod names;
mod nodes;
mod open;
mod paths;
mod permissions;
mod places;
mod rename;
mod rights;
mod stamps;
mod ties;
mod times;
mod unlinked;

use crate::check::Outcome;
use crate::ground::Ground;

/// One named case.
pub(crate) struct Case {
    group: &'static str,
    name: &'static str,
    pub(crate) body: fn(&Ground) -> Outcome,
}

impl Case {
    /// `rename.file_over_file`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}.{}", self.group, self.name)
    }
}

/// Every case there is.
pub(crate) fn all() -> Vec<Case> {
    [
        open::CASES,
        data::CASES,
        links::CASES,
        directories::CASES,
        rename::CASES,
        attributes::CASES,
        times::CASES,
        nodes::CASES,
        listing::CASES,
        permissions::CASES,
        paths::CASES,
        handles::CASES,
        unlinked::CASES,
        content::CASES,
        kernel::CASES,
        ties::CASES,
        moves::CASES,
        names::CASES,
        places::CASES,
        stamps::CASES,
        rights::CASES,
        bits::CASES,
    ]
    .into_iter()
    .flatten()
    .map(|case| Case { ..*case })
    .collect()
}

/// Names the cases of a module after its functions.
macro_rules! cases {
    ($group:literal: $($name:ident),+ $(,)?) => {
        pub(super) const CASES: &[super::Case] = &[
            $(super::Case { group: $group, name: stringify!($name), body: $name }),+
        ];
    };
}
use cases;
