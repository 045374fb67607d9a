//! What a vault asks of S3: how many requests a protected GiB, an express full
//! and a restore take, beside the least that packs of this size can take; and
//! that what it counts is what the server's own log shows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says what it measured"
)]

#[path = "../rights/mod.rs"]
mod rights;
mod s3;
