//! Packs: objects of about 32 MiB of sealed frames, written once.

pub(crate) mod frame;
pub(crate) mod index;
#[cfg(unix)]
pub(crate) mod local;
pub(crate) mod name;
pub(crate) mod reader;
pub(crate) mod sink;
pub(crate) mod table;
mod tables;
pub(crate) mod writer;
