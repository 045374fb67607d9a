//! A vault whose key a program of yours keeps: a script around your key
//! management service, `age`, `gpg`, or a token's tool. A recovery key stands
//! beside it, for the day on which that service is gone.
//!
//! ```text
//! cargo run --example key_provider -- FOLDER PROGRAM [ARGUMENT]...
//! ```
//!
//! With `age`, a program that is enough:
//!
//! ```text
//! #!/bin/sh
//! case "$1" in
//! wrap) exec age --encrypt --recipient age1... ;;
//! unwrap) exec age --decrypt --identity /etc/backstop/identity ;;
//! esac
//! ```
#![allow(unreachable_pub, reason = "a program: nobody else reaches its modules")]
#![allow(clippy::print_stdout, reason = "it tells the recovery key")]

#[path = "backstop/key_command.rs"]
mod key_command;

use backstop::{Credential, DedupStore, Error, RecoveryKey, Result};

use key_command::CommandKeys;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let place = arguments
        .next()
        .ok_or_else(|| Error::invalid_input("give a folder for the vault, and a program"))?;
    let command = arguments.collect::<Vec<_>>().join(" ");
    let provider = Credential::provider(CommandKeys::new(&command)?);

    let vault = DedupStore::at(&place)
        .with_credential(provider.clone())
        .create()
        .await?;
    let recovery = RecoveryKey::generate()?;
    vault
        .add_key(&Credential::Recovery(recovery.clone()))
        .await?;
    println!("recovery key, told once: {}", *recovery.to_text());
    vault.close().await?;

    // From now on the program opens it, and a rotation does not ask for it.
    let vault = DedupStore::at(&place)
        .with_credential(provider)
        .open()
        .await?;
    let key = vault.rotate_key().await?;
    println!("everything new is sealed under vault key {key}");
    vault.close().await
}
