//! The real peers that the tests talk to, and the rights that they need: which there are, how each is had, and how the
//! tests learn where it is.

use crate::command;
use crate::install;
use crate::problem::{Context, Outcome};
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What lists the names of peers that are left out, divided by commas.
const WITHOUT: &str = "BACKSTOP_WITHOUT";

/// Pinned, so that a run next year tests against what this one did.
const MOTO: &str = "moto[server,s3]==5.2.5";
const AZURITE: &str = "azurite@3.37.0";

/// The programs that [`Peer::Qemu`] is, each with its Debian package.
const QEMU: [(&str, &str); 6] = [
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdcopy", "libnbd-bin"),
    ("nbdkit", "nbdkit"),
];

/// A real program that tests run against, or a right that they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// The S3 emulator moto (PyPI)
    S3,
    /// The Azure Blob Storage emulator Azurite (npm)
    Azure,
    /// mke2fs, to make real file systems (Debian)
    E2fsprogs,
    /// strace (Debian) and the right to trace: power loss on local files
    Strace,
    /// setpriv (Debian's util-linux) and the right to become another user: rights on files
    Setpriv,
    /// The right to mount, in a namespace of its own: full disks
    Mount,
    /// The right to attach loop devices: block devices and unreadable blocks
    Loop,
    /// QEMU's tools, libnbd's and nbdkit (Debian): images of other formats, NBD
    Qemu,
}

impl Peer {
    /// All of them.
    pub const ALL: [Peer; 8] = [
        Peer::Mount,
        Peer::Loop,
        Peer::Strace,
        Peer::Setpriv,
        Peer::E2fsprogs,
        Peer::Qemu,
        Peer::S3,
        Peer::Azure,
    ];

    /// The name that `--without` and `BACKSTOP_WITHOUT` use.
    pub fn name(self) -> &'static str {
        match self {
            Peer::S3 => "s3",
            Peer::Azure => "azure",
            Peer::E2fsprogs => "e2fsprogs",
            Peer::Strace => "strace",
            Peer::Setpriv => "setpriv",
            Peer::Mount => "mount",
            Peer::Loop => "loop",
            Peer::Qemu => "qemu",
        }
    }

    /// Installs the peer and says which variable tells the tests where it is, if one does.
    fn set_up(self, folder: &Path) -> Outcome<Option<(&'static str, PathBuf)>> {
        match self {
            Peer::E2fsprogs => {
                let program = install::debian("mke2fs", &["e2fsprogs"])?;
                println!("e2fsprogs: {}", program.display());
                Ok(None)
            }
            Peer::Strace => {
                let program = install::debian("strace", &["strace"])?;
                may(&program, &["-f", "-o", "/dev/null", "true"])
            }
            Peer::Setpriv => {
                let program = install::debian("setpriv", &["util-linux"])?;
                let another = ["--reuid=65534", "--regid=65534", "--clear-groups"];
                may(&program, &[&another[..], &["true"]].concat())
            }
            Peer::Mount => {
                let program = install::debian("unshare", &["util-linux"])?;
                may(&program, &["--mount", "true"])
            }
            Peer::Loop => {
                let program = install::debian("losetup", &["mount"])?;
                may(&program, &["--find"])
            }
            Peer::Qemu => {
                for (program, package) in QEMU {
                    let program = install::debian(program, &[package])?;
                    println!("qemu: {}", program.display());
                }
                Ok(None)
            }
            Peer::S3 => {
                let folder = folder.join("moto");
                install::python(&folder, MOTO)?;
                there(folder.join("bin/moto_server"))
                    .map(|program| Some(("BACKSTOP_PEER_MOTO", program)))
            }
            Peer::Azure => {
                let folder = folder.join("azurite");
                install::node(&folder, AZURITE)?;
                there(folder.join("node_modules/.bin/azurite-blob"))
                    .map(|program| Some(("BACKSTOP_PEER_AZURITE", program)))
            }
        }
    }
}

/// Tries what the tests will do.
fn may(program: &Path, arguments: &[&str]) -> Outcome<Option<(&'static str, PathBuf)>> {
    command::run_quietly(Command::new(program).args(arguments))?;
    println!("{} {}: may be run", program.display(), arguments.join(" "));
    Ok(None)
}

fn there(program: PathBuf) -> Outcome<PathBuf> {
    if program.exists() {
        Ok(program)
    } else {
        Err(format!("{} was not installed", program.display()))
    }
}

/// The peers to leave out: those that were named, and those in `listed`, the value of `BACKSTOP_WITHOUT`.
fn left_out(named: &[Peer], listed: &str) -> Outcome<Vec<Peer>> {
    let mut without = named.to_vec();
    for name in listed.split(',').map(str::trim) {
        if !name.is_empty() {
            without.push(
                Peer::from_str(name, false)
                    .map_err(|_| format!("{WITHOUT} names {name}, and there is no such peer"))?,
            );
        }
    }
    Ok(without)
}

/// Sets up all peers but those in `without` or left out by the environment, and hands back the environment that the
/// tests need.
pub fn set_up(folder: &Path, without: &[Peer]) -> Outcome<Vec<(String, String)>> {
    let without = left_out(without, &std::env::var(WITHOUT).unwrap_or_default())?;
    let mut environment = Vec::new();
    for peer in Peer::ALL {
        if without.contains(&peer) {
            println!("{}: left out, its tests will skip", peer.name());
            continue;
        }
        let place = peer.set_up(folder).context(format!(
            "the peer {} can't be had (leave it out with --without {})",
            peer.name(),
            peer.name()
        ))?;
        if let Some((variable, program)) = place {
            println!("{}: {}", peer.name(), program.display());
            environment.push((variable.to_owned(), program.display().to_string()));
        }
    }
    let names: Vec<&str> = without.iter().map(|peer| peer.name()).collect();
    environment.push((WITHOUT.to_owned(), names.join(",")));
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_left_out_by_name_here_or_in_the_environment() {
        for peer in Peer::ALL {
            assert_eq!(left_out(&[], peer.name()), Ok(vec![peer]));
        }
        let both = left_out(&[Peer::S3], "mount, loop").unwrap();
        assert_eq!(both, [Peer::S3, Peer::Mount, Peer::Loop]);
        assert_eq!(left_out(&[], ""), Ok(vec![]));
        assert!(left_out(&[], "mounts").unwrap_err().contains("mounts"));
    }
}
