//! Network block devices (NBD) for Backstop.

mod protocol;
mod server;
mod wire;

pub use server::{NbdExport, NbdServer, NbdServerLimits};
