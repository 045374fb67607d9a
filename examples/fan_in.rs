//! Many production servers, one protection server: each agent protects an image
//! over TCP and TLS, all at once, and a table tells what came of it.
//!
//! `cargo run --release --example fan_in -- --agents 16 --mib 256`
//!
//! Half of each image is the same on all of them. With `--in-process` nothing goes
//! over a wire, to compare.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that measures reads the clock and prints"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use backstop::memory::MemorySource;
use backstop::{
    Agent, Changes, Credential, DedupStore, Error, ProtectionServer, ProtectionService, Result,
    SourceName, TcpClient, TcpServer, TlsAuthority, TlsIdentity,
};
use clap::Parser;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Protects the images of many agents at once.
#[derive(Debug, Parser)]
struct Options {
    /// How many agents there are
    #[arg(long, default_value_t = 8)]
    agents: u32,
    /// The size of each one's image, in MiB
    #[arg(long, default_value_t = 64)]
    mib: usize,
    /// Where the vault is made; a folder that goes with the program if not said
    #[arg(long)]
    vault: Option<PathBuf>,
    /// Without a wire
    #[arg(long)]
    in_process: bool,
}

fn failed(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal(format!("{what} failed")).with_source(error)
}

/// A small authority, for as long as the program runs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> std::result::Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self(issuer))
    }

    fn sign(&self, name: String) -> std::result::Result<(String, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name])?.signed_by(&key, &self.0)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn identity(&self, name: String) -> Result<TlsIdentity> {
        let signed = self.sign(name);
        let (chain, key) = signed.map_err(|error| failed("signing a certificate", error))?;
        TlsIdentity::from_pem(chain.as_bytes(), key.as_bytes())
    }

    fn trusted(&self) -> Result<TlsAuthority> {
        TlsAuthority::from_pem(self.0.pem().as_bytes())
    }
}

/// Pages of text that compresses to about a third, and some that does not.
fn content(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut data = Vec::with_capacity(bytes);
    while data.len() < bytes {
        if random.u8(..10) == 0 {
            data.extend((0..4096).map(|_| random.u8(..)));
        } else {
            let row = format!(
                "{:012x} value {:x};\n",
                random.u64(..) >> 20,
                random.u16(..)
            );
            data.extend(row.bytes().cycle().take(random.usize(40..160)));
        }
    }
    data.truncate(bytes);
    data
}

fn image(agent: u32, mib: usize) -> MemorySource {
    let half = (mib << 20) / 2;
    let mut data = content(0, half);
    data.extend(content(u64::from(agent) + 1, half));
    MemorySource::new(data)
}

struct Protected {
    seconds: f64,
    sent: u64,
}

async fn protect(
    service: Arc<dyn ProtectionService>,
    source: SourceName,
    image: MemorySource,
) -> Result<Protected> {
    let start = Instant::now();
    let agent = Agent::new(service);
    let point = agent
        .protect(source.as_str(), &image, Changes::Unknown)
        .await?;
    Ok(Protected {
        seconds: start.elapsed().as_secs_f64(),
        sent: point.counts.bytes_sent.0,
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let scratch = tempfile::tempdir().map_err(|error| failed("making a folder", error))?;
    let place = options
        .vault
        .unwrap_or_else(|| scratch.path().join("vault"));
    let vault = DedupStore::at(&place.to_string_lossy()).with_credential(Credential::key([1; 32]));
    let vault = vault.create().await?;
    let server = ProtectionServer::builder().with_vault(vault.clone());
    let server = server.build().await?;

    let authority = Authority::new().map_err(|error| failed("making an authority", error))?;
    let identity = authority.identity("server.backstop".to_owned())?;
    let listening = TcpServer::builder(identity, authority.trusted()?)
        .listen("127.0.0.1:0", server.service())
        .await?;
    let address = listening.address()?.to_string();
    let running = tokio::spawn(listening.run());

    let mut images = Vec::new();
    for agent in 0..options.agents {
        images.push(image(agent, options.mib));
    }
    let start = Instant::now();
    let mut agents = Vec::new();
    for (number, image) in (0..).zip(images) {
        let number: u32 = number;
        let name = format!("host{number}");
        let service: Arc<dyn ProtectionService> = if options.in_process {
            server.service()
        } else {
            let identity = authority.identity(format!("{name}.agent.backstop"))?;
            let addresses = vec![address.clone()];
            Arc::new(TcpClient::new(addresses, &identity, &authority.trusted()?)?)
        };
        let source = SourceName::new(name)?;
        agents.push((
            source.clone(),
            tokio::spawn(protect(service, source, image)),
        ));
    }
    println!(
        "{:<10} {:>8} {:>8} {:>10}",
        "agent", "seconds", "MB/s", "sent MB"
    );
    let each = (options.mib << 20) as f64 / 1e6;
    let mut times = Vec::new();
    for (source, task) in agents {
        let protected = task.await.map_err(|error| failed("an agent", error))??;
        println!(
            "{:<10} {:>8.2} {:>8.0} {:>10.1}",
            source.as_str(),
            protected.seconds,
            each / protected.seconds,
            protected.sent as f64 / 1e6,
        );
        times.push(protected.seconds);
    }
    let all = start.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    println!(
        "{:<10} {all:>8.2} {:>8.0}   slowest agent {:.2} x the median",
        "all",
        each * f64::from(options.agents) / all,
        times[times.len() - 1] / times[times.len() / 2],
    );
    running.abort();
    vault.close().await
}
