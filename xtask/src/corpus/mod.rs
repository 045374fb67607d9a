//! Real disk images to measure with, made from this machine's own files; the same seed makes the same images.
//!
//! [`images`] makes a disk, the same disk a day later, and another host's disk with the same files. [`churn`] changes
//! mounted images as real programs do, and [`compare`] finds which blocks that changed.

pub mod churn;
pub mod compare;
pub mod images;
pub mod mount;
pub mod packages;
pub mod pages;
pub mod pick;
