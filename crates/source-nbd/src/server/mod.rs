//! The server: images as NBD exports.

mod context;
mod export;
mod handshake;
mod limits;
mod listen;
mod read;
mod server;
mod transmission;

#[cfg(test)]
mod tests;

pub use export::NbdExport;
pub use limits::NbdServerLimits;
pub use server::NbdServer;
