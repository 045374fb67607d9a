//! The formats that images come in.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// A format of disk images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// The bytes as they are, in a sparse file
    Raw,
    /// QEMU's and KVM's
    Qcow2,
    /// VMware's
    Vmdk,
    /// Hyper-V's
    Vhdx,
}

impl ImageFormat {
    /// Its name, here and as `qemu-img` knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
        }
    }

    /// The format of that name.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::value_variants().iter();
        all.find(|format| format.name() == name).copied()
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
