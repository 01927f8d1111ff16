//! What to do about the difference between desired and observed: pure planning.
