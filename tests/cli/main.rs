//! The sample command line as a user meets it: the real program is run, and
//! its exit codes, sentences, JSON and files are looked at.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first surprise"
)]
#![allow(unreachable_pub, reason = "a test: nobody else reaches its modules")]

mod bad_input;
mod cost;
mod damage;
mod disks;
mod enroll;
mod exchange;
mod inside;
mod keys;
mod lab;
mod ownership;
mod protection;
mod retention;
#[path = "../rights/mod.rs"]
mod rights;
mod round_trip;
mod second;
mod shapes;
