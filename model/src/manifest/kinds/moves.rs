//! `Moves`: in which order slivers go where they are placed.

use super::{API, KIND, STEPS_MAX, map, text};
use crate::manifest::shape::{MapShape, Shape, optional, required};

pub(super) static MOVES: MapShape = map(&[
    API,
    KIND,
    required(
        "metadata",
        Shape::Map(&map(&[required(
            "name",
            Shape::Text(&text::NODE_NAME),
            "The node that is emptied.",
        )])),
        "What they are for.",
    ),
    required(
        "spec",
        Shape::Map(&map(&[required(
            "steps",
            Shape::List {
                item: &Shape::Map(&map(&[
                    required("sliver", Shape::Text(&text::SLIVER), "The sliver."),
                    required("from", Shape::Text(&text::NODE_NAME), "Where it is before."),
                    optional(
                        "to",
                        Shape::Text(&text::NODE_NAME),
                        "Where it goes; without it the sliver is stopped where it is, and takes no memory, until its next step.",
                    ),
                    optional(
                        "after",
                        Shape::List {
                            item: &Shape::Number { min: 1, max: 100_000 },
                            len_max: STEPS_MAX,
                        },
                        "Numbers of earlier steps, from 1, that are done before this one begins.",
                    )
                    .default("none"),
                ])),
                len_max: STEPS_MAX,
            },
            "The steps. Those of a sliver that do not lead to where it is placed count for nothing.",
        )])),
        "The order.",
    ),
]);
