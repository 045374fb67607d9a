//! The project's own tasks, called as `cargo xtask COMMAND`; not published.
//!
//! `test`, `ci`, `fuzz` and `soak` check the project, [`mod@bench`] measures it beside its peers, and [`architecture`],
//! [`reach`], [`tidy`] and [`licences`] are the rules that the tests of this crate and `ci` hold the source to.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task tells the person who called it what it does"
)]

pub mod architecture;
pub mod bench;
pub mod ci;
pub mod command;
pub mod corpus;
pub mod fuzz;
pub mod install;
pub mod licences;
pub mod metadata;
pub mod peers;
pub mod problem;
pub mod project;
pub mod random;
pub mod reach;
pub mod soak;
pub mod stopwatch;
pub mod test;
pub mod tidy;
