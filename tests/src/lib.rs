//! Scenarios, properties and whole-system tests.
