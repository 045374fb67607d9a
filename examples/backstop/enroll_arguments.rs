//! The arguments of `enroll`.

use std::path::PathBuf;

use backstop::Role;
use clap::{Args, Subcommand};

/// What to do about who may take part.
#[derive(Debug, Subcommand)]
pub enum EnrollCommand {
    /// Make a roster, with an authority and the server's certificate
    Init(RosterArguments),
    /// Make a token that lets a host join once; tells it
    Token(TokenArguments),
    /// Join a protection server with a token: makes a key here and gets a certificate for it
    Join(JoinArguments),
    /// Take back what a name was given: certificates and unused tokens
    Revoke(RevokeArguments),
    /// List who was enrolled
    List(RosterArguments),
}

/// Where the roster is.
#[derive(Debug, Args)]
pub struct RosterArguments {
    /// The roster's folder, beside the protection server
    #[arg(long, env = "BACKSTOP_ROSTER", value_name = "FOLDER")]
    pub dir: PathBuf,
}

/// Who is meant.
#[derive(Debug, Args)]
pub struct Who {
    /// The name: an agent's sources begin with it
    pub name: String,
    /// As an operator, not as an agent
    #[arg(long)]
    pub operator: bool,
}

impl Who {
    /// What it may be.
    pub fn role(&self) -> Role {
        if self.operator {
            Role::Operator
        } else {
            Role::Agent
        }
    }
}

/// Whom a token is for.
#[derive(Debug, Args)]
pub struct TokenArguments {
    /// Where the roster is.
    #[command(flatten)]
    pub roster: RosterArguments,
    /// Who joins with it.
    #[command(flatten)]
    pub who: Who,
    /// For how long it is good
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=8784))]
    pub hours: u32,
}

/// Where to join.
#[derive(Debug, Args)]
pub struct JoinArguments {
    /// The protection server; several are tried in turn
    #[arg(long = "server", value_name = "HOST:PORT", required = true)]
    pub servers: Vec<String>,
    /// The token, as `enroll token` told it; better by the environment, which other users can't read
    #[arg(
        long,
        env = "BACKSTOP_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub token: String,
    /// The folder for authority.pem, identity.pem and identity.key
    #[arg(long, value_name = "FOLDER")]
    pub dir: PathBuf,
}

/// What to take back.
#[derive(Debug, Args)]
pub struct RevokeArguments {
    /// Where the roster is.
    #[command(flatten)]
    pub roster: RosterArguments,
    /// Whose.
    #[command(flatten)]
    pub who: Who,
}
