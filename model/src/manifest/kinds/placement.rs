//! `Placement`: the lock of a slice.

use super::{API, KIND, SLIVERS_MAX, map, text};
use crate::manifest::shape::{MapShape, Shape, required};

pub(super) static PLACEMENT: MapShape = map(&[
    API,
    KIND,
    required(
        "metadata",
        Shape::Map(&map(&[required(
            "name",
            Shape::Text(&text::SLICE_NAME),
            "The slice whose slivers these are.",
        )])),
        "Whose placement it is.",
    ),
    required(
        "spec",
        Shape::Map(&map(&[required(
            "slivers",
            Shape::Free {
                key: &text::SLIVER,
                value: &Shape::Text(&text::NODE_NAME),
                len_max: SLIVERS_MAX,
            },
            "Each sliver and its node: `web/0: cam-01`.",
        )])),
        "Where they are.",
    ),
]);
