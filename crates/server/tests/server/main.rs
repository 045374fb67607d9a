//! The protection server over the in-memory store.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod access;
mod commits;
mod conformance;
mod doubts;
mod idle;
mod plans;
mod recovery;
mod restores;
mod retention;
mod rig;
