//! `serve`: a vault for many agents.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use backstop::{
    CpuPool, DedupStore, Error, ProtectionServer, Result, Roster, SystemClock, TcpServer,
    TcpServerBuilder, TcpServerSettings, TlsAuthority, TlsIdentity,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;
use tokio::signal::unix::Signal;
use tracing_subscriber::EnvFilter;

use crate::arguments::VaultArguments;
use crate::certificates::certificates;
use crate::ending::{Ending, Stop, Verdict};
use crate::output::{Output, warn};
use crate::signals::{Stops, reload};
use crate::vault;
use crate::wire_arguments::ServeArguments;

/// Serves agents until the program is told to stop: then nothing new is begun,
/// what is under way may end for a while, and the vault is closed. Told once more,
/// it does not wait. At SIGHUP it reads its certificates again.
pub async fn serve(
    arguments: &ServeArguments,
    place: &VaultArguments,
    cpu: CpuPool,
    output: Output,
) -> Ending {
    let mut stops = Stops::listen()?;
    let mut asked = reload()?;
    log(arguments.log_json);
    if let Some(address) = arguments.metrics {
        give_metrics(address)?;
    }
    let shown = Shown::of(arguments)?;
    let mut settings = TcpServerSettings::default();
    settings.agents_at_once = usize::try_from(arguments.agents_at_once).unwrap_or(usize::MAX);
    let opening = vault::builder(place, cpu.clone())?.open();
    let vault = tokio::select! {
        vault = Box::pin(opening) => vault?,
        () = stops.told() => return Ok(Verdict::Done),
    };
    let listening = shown.server()?.with_cpu_pool(cpu).with_settings(settings);
    let served = async {
        let server = ProtectionServer::builder().with_vault(vault.clone());
        let server = server.build().await?;
        let listening = listening
            .with_recovery(server.recovery_service())
            .with_access(server.access_service())
            .listen(&arguments.listen, server.service())
            .await?;
        tell(&listening, &vault, output)?;
        run(
            arguments,
            &shown,
            listening,
            &server,
            (&mut stops, &mut asked),
        )
        .await;
        Ok(Verdict::Done)
    };
    let served = Box::pin(served).await;
    if let Err(error) = vault.close().await {
        // Everything that was reported is safe.
        warn(error.within("the vault was not closed properly"));
    }
    served
}

/// Says where agents reach it, once they do.
fn tell(listening: &TcpServer, vault: &DedupStore, output: Output) -> Result<(), Stop> {
    let address = listening.address()?;
    let told = json!({"listening": address, "vault": vault.id()});
    let text = format_args!("serving vault {} on {address}\n", vault.id());
    output.print(&told, text)
}

/// Where the certificates are.
enum Shown {
    Roster(Roster),
    Folder(PathBuf),
}

impl Shown {
    fn of(arguments: &ServeArguments) -> Result<Self> {
        match (&arguments.roster, &arguments.certificates) {
            (Some(roster), _) => Ok(Self::Roster(Roster::open(roster, Arc::new(SystemClock))?)),
            (None, Some(folder)) => Ok(Self::Folder(folder.clone())),
            (None, None) => Err(Error::invalid_input("no certificates are named")),
        }
    }

    fn read(&self) -> Result<(TlsAuthority, TlsIdentity)> {
        match self {
            Self::Roster(roster) => Ok((roster.authority()?, roster.identity()?)),
            Self::Folder(folder) => certificates(folder),
        }
    }

    fn server(&self) -> Result<TcpServerBuilder> {
        let (authority, identity) = self.read()?;
        let builder = TcpServer::builder(identity, authority);
        Ok(match self {
            Self::Roster(roster) => builder
                .with_gate(Arc::new(roster.clone()))
                .with_joins(Arc::new(roster.clone())),
            Self::Folder(_) => builder,
        })
    }
}

async fn run(
    arguments: &ServeArguments,
    shown: &Shown,
    listening: TcpServer,
    server: &ProtectionServer,
    (stops, asked): (&mut Stops, &mut Signal),
) {
    let handle = listening.handle();
    let stopping = async {
        stops.told().await;
        tracing::info!(within = ?arguments.stop_within, "stopping");
        tokio::select! {
            ended = handle.stop(arguments.stop_within) => ended,
            () = stops.told() => handle.stop(std::time::Duration::ZERO).await,
        }
    };
    let reloading = async {
        loop {
            asked.recv().await;
            let reloaded = shown.read();
            let reloaded =
                reloaded.and_then(|(authority, identity)| handle.reload(&identity, &authority));
            match reloaded {
                Ok(()) => tracing::info!("certificates were read again"),
                Err(error) => tracing::error!(%error, "the certificates stay as they were"),
            }
        }
    };
    let stopped = async { tokio::join!(listening.run(), stopping).1 };
    let ended = tokio::select! {
        ended = stopped => ended,
        () = reloading => false,
    };
    if !ended {
        tracing::warn!("synchronizations are under way; they go on where they stood");
    }
    if let Err(error) = server.suspend_all().await {
        warn(error.within("how far synchronizations had come was not kept"));
    }
}

/// Logs to standard error, by `RUST_LOG`.
fn log(is_json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if is_json {
        log.json().init();
    } else {
        log.init();
    }
}

fn give_metrics(address: SocketAddr) -> Result<()> {
    let giving = PrometheusBuilder::new().with_http_listener(address);
    giving.install().map_err(|error| {
        Error::unavailable(format!("metrics can't be given on {address}")).with_source(error)
    })
}
