//! Packs: objects of about 32 MiB of sealed frames, written once.

mod bad;
pub(crate) mod frame;
pub(crate) mod index;
#[cfg(unix)]
pub(crate) mod local;
mod location;
pub(crate) mod name;
mod numbers;
pub(crate) mod reader;
mod runs;
pub(crate) mod salvage;
pub(crate) mod sink;
pub(crate) mod table;
mod tables;
pub(crate) mod writer;
