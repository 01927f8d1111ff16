//! What is wanted, as text and as types: manifests, diagnostics, the desired and the observed model.
