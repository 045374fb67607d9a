//! Opening the vault, and closing it whatever happened meanwhile.

use backstop::{
    CpuPool, DedupStore, DedupStoreBuilder, Deduplication, MemoryBudget, ProtectionServer, Result,
    Takeover, VaultSettings,
};

use crate::arguments::VaultArguments;
use crate::cost;
use crate::credential::credential;
use crate::ending::{Ending, Stop};
use crate::interrupt::{close, patience, unless_interrupted};
use crate::output::warn;

/// How a vault is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A new vault, as its owner.
    Create,
    /// As its owner, to write.
    Own,
    /// Beside its owner, to read.
    Read,
}

/// Opens the vault, does the work, and closes the vault in any case. An
/// interrupt stops the work where it is: what was not committed is not
/// visible. In the end it tells what was asked of the store, if that is wanted.
pub async fn with_vault(
    arguments: &VaultArguments,
    (access, tells_usage): (Access, bool),
    cpu: CpuPool,
    work: impl AsyncFnOnce(&DedupStore, &ProtectionServer) -> Ending,
) -> Ending {
    let vault = unless_interrupted(Box::pin(open(arguments, access, cpu))).await??;
    if let Some(log) = vault.missing_log() {
        warn(format_args!(
            "object {log} is missing from the vault: recovery points of its time and later are not shown"
        ));
    }
    let ending = unless_interrupted(serve(&vault, work)).await;
    let patience = patience(ending.is_err());
    let ending = ending.map_err(Stop::from).flatten();
    if let Err(error) = close(vault.close(), patience).await {
        // Everything that was reported is safe; only the next opening has
        // more to do.
        warn(error.within("the vault was not closed properly"));
    }
    if tells_usage {
        warn(cost::line(&vault.usage()));
    }
    ending
}

async fn serve(
    vault: &DedupStore,
    work: impl AsyncFnOnce(&DedupStore, &ProtectionServer) -> Ending,
) -> Ending {
    let server = ProtectionServer::builder()
        .with_vault(vault.clone())
        // Agent and server are this one process, run by one operator who can
        // read all of the vault: there is nobody from whom to hide what other
        // sources have stored, and what they share needn't be compressed
        // again.
        .with_deduplication(Deduplication::Vault)
        .build()
        .await?;
    work(vault, &server).await
}

async fn open(arguments: &VaultArguments, access: Access, cpu: CpuPool) -> Result<DedupStore> {
    let builder = builder(arguments, cpu)?;
    match access {
        Access::Create => builder.create().await,
        Access::Own => builder.open().await,
        Access::Read => builder.open_read_only().await,
    }
}

/// What opens the vault that is named.
pub fn builder(arguments: &VaultArguments, cpu: CpuPool) -> Result<DedupStoreBuilder> {
    let mut settings = VaultSettings::default();
    if arguments.large_vault {
        settings.memory = MemoryBudget::large();
    }
    let takeover = if arguments.takeover {
        Takeover::Force
    } else {
        Takeover::Refuse
    };
    Ok(DedupStore::at(arguments.place())
        .with_credential(credential(arguments)?)
        .with_settings(settings)
        .with_takeover(takeover)
        .with_cpu_pool(cpu))
}
