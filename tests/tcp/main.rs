//! Agents and a protection server over TCP and TLS, all of it real.

mod conformance;
mod hostile;
mod lab;
mod protect;
