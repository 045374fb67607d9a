//! Agents and a protection server over TCP and TLS, all of it real.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, and certificates are of the real time"
)]

mod access;
mod conformance;
mod harm;
mod hostile;
mod images;
mod join;
mod lab;
mod protect;
mod reconnect;
mod recover;
