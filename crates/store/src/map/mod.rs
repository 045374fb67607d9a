//! The stored form of image maps: nodes, and the tree that they make.

pub(crate) mod compare;
pub(crate) mod node;
pub(crate) mod tree;
