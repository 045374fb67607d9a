//! The arguments of `serve`, `agent` and `status`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};

/// Where a protection server listens.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// The address for agents; port 0 for any that is free, which is told
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// Who may take part, as `enroll init` made it: agents join, and what is revoked ends at once
    #[arg(
        long,
        env = "BACKSTOP_ROSTER",
        value_name = "FOLDER",
        required_unless_present = "certificates"
    )]
    pub roster: Option<PathBuf>,
    /// Instead of a roster, a folder with authority.pem, identity.pem and identity.key: whoever has a
    /// certificate of that authority takes part
    #[arg(long, value_name = "FOLDER", conflicts_with = "roster")]
    pub certificates: Option<PathBuf>,
    /// Give metrics to Prometheus over HTTP on this address
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics: Option<SocketAddr>,
    /// How many agents synchronize at once; others wait for their turn
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub agents_at_once: u32,
    /// When told to stop, let what is under way end for so long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub stop_within: Duration,
    /// Write the log as JSON
    #[arg(long)]
    pub log_json: bool,
}

/// How a protection server is reached.
#[derive(Debug, Args)]
pub struct ServerArguments {
    /// The protection server; several are tried in turn
    #[arg(long = "server", value_name = "HOST:PORT", required = true)]
    pub servers: Vec<String>,
    /// A folder with authority.pem, identity.pem and identity.key
    #[arg(long, value_name = "FOLDER")]
    pub certificates: PathBuf,
}

/// What an operator does about who may recover what.
#[derive(Debug, Subcommand)]
pub enum AccessCommand {
    /// Let an agent recover a source that is not its own, for a time
    Grant {
        /// The agent's name
        agent: String,
        /// The source
        source: String,
        /// For how long
        #[arg(long = "for", value_name = "TIME", default_value = "8h", value_parser = humantime::parse_duration)]
        lasts: Duration,
        /// How the protection server is reached.
        #[command(flatten)]
        server: ServerArguments,
    },
    /// Take back what was granted
    Withdraw {
        /// The agent's name
        agent: String,
        /// The source
        source: String,
        /// How the protection server is reached.
        #[command(flatten)]
        server: ServerArguments,
    },
    /// List what was granted
    List(ServerArguments),
    /// Tell who did what, the newest first
    Audit(ServerArguments),
}

/// What an agent protects, and when.
#[derive(Debug, Args)]
pub struct AgentArguments {
    /// How the protection server is reached.
    #[command(flatten)]
    pub server: ServerArguments,
    /// What to protect: the source's name, which begins with the agent's, and a disk image or block
    /// device that nobody writes to
    #[arg(value_name = "NAME=IMAGE", required = true)]
    pub images: Vec<Named>,
    /// What may have changed since the newest point: lines of `offset length` in bytes; nothing else is read
    #[arg(long, value_name = "NAME=FILE")]
    pub extents: Vec<Named>,
    /// Synchronize again and again, this long after the last time; SIGUSR1 has it done now
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "extents")]
    pub every: Option<Duration>,
    /// Go on trying for so long while the server is away or its vault is full
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub patience: Duration,
    /// How many bytes a second are sent when, in this host's time: `default 20M; mon-fri 08:00-18:00 2M`
    #[arg(long, value_name = "SCHEDULE")]
    pub bandwidth: Option<String>,
    /// When told to stop, let what is under way end for so long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub stop_within: Duration,
}

/// A name and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The path.
    pub path: PathBuf,
}

impl FromStr for Named {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok(Self {
                name: name.to_owned(),
                path: path.into(),
            }),
            _ => Err("it has to be a name, `=` and a path"),
        }
    }
}
