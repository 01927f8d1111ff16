//! What a node must not forget, in SQLite.
