//! The real peers that the tests talk to: which there are, how each is installed, and how the tests learn where it is.

use crate::install;
use crate::problem::{Context, Outcome};
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// Pinned, so that a run next year tests against what this one did.
const MOTO: &str = "moto[server,s3]==5.2.5";
const AZURITE: &str = "azurite@3.37.0";

/// A real program that tests run against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// The S3 emulator moto (PyPI)
    S3,
    /// The Azure Blob Storage emulator Azurite (npm)
    Azure,
    /// mke2fs, to make real file systems (Debian)
    E2fsprogs,
}

impl Peer {
    /// All of them.
    pub const ALL: [Peer; 3] = [Peer::E2fsprogs, Peer::S3, Peer::Azure];

    /// The name that `--without` and `BACKSTOP_WITHOUT` use.
    pub fn name(self) -> &'static str {
        match self {
            Peer::S3 => "s3",
            Peer::Azure => "azure",
            Peer::E2fsprogs => "e2fsprogs",
        }
    }

    /// Installs the peer and says which variable tells the tests where it is, if one does.
    fn set_up(self, folder: &Path) -> Outcome<Option<(&'static str, PathBuf)>> {
        match self {
            Peer::E2fsprogs => {
                let program = install::debian("mke2fs", &["e2fsprogs"])?;
                println!("e2fsprogs: {}", program.display());
                // The power-loss test of local vaults watches their system calls.
                let program = install::debian("strace", &["strace"])?;
                println!("strace: {}", program.display());
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

fn there(program: PathBuf) -> Outcome<PathBuf> {
    if program.exists() {
        Ok(program)
    } else {
        Err(format!("{} was not installed", program.display()))
    }
}

/// Sets up all peers but those in `without`, and hands back the environment that the tests need.
pub fn set_up(folder: &Path, without: &[Peer]) -> Outcome<Vec<(String, String)>> {
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
    environment.push(("BACKSTOP_WITHOUT".to_owned(), names.join(",")));
    Ok(environment)
}
