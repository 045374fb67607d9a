//! The server: images as NBD exports.

mod context;
mod export;
mod exports;
mod handshake;
mod limits;
mod listen;
mod read;
mod transmission;

#[cfg(test)]
mod tests;

pub use export::NbdExport;
pub use exports::NbdServer;
pub use limits::NbdServerLimits;
