//! What the command line takes of protection, operators and approvals.

use std::path::PathBuf;

use backstop::{LockMode, OperatorPublicKey};
use clap::{Args, Subcommand};

use crate::point_reference::PointReference;

/// How a new vault is protected.
#[derive(Debug, Args)]
pub struct InitArguments {
    /// What it protects from the start.
    #[command(flatten)]
    pub protection: Guards,
}

/// What to show or change.
#[derive(Debug, Subcommand)]
pub enum ProtectionCommand {
    /// Show what protects the vault
    Show,
    /// Change it; what is not named stays
    Set(ProtectionArguments),
}

/// How the vault is to be protected.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct ProtectionArguments {
    /// No recovery point expires before it is so old; this can never be made shorter, by nobody
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(..=3660))]
    pub minimum_retention: Option<u32>,
    /// For so long an expired recovery point can be brought back
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(..=3660))]
    pub undo: Option<u32>,
    /// The store locks the vault's objects for the minimum retention (governance or compliance); this can never be made weaker
    #[arg(long, value_name = "MODE", value_parser = lock_mode)]
    pub object_lock: Option<LockMode>,
    /// So many operators have to approve what protects the vault less
    #[arg(long, value_name = "N")]
    pub operators: Option<u32>,
}

impl ProtectionArguments {
    /// What of it the vault itself enforces.
    pub fn of_vault(&self) -> Guards {
        Guards {
            minimum_retention: self.minimum_retention,
            undo: self.undo,
            object_lock: self.object_lock,
        }
    }
}

fn lock_mode(text: &str) -> Result<LockMode, String> {
    [LockMode::Governance, LockMode::Compliance]
        .into_iter()
        .find(|mode| mode.to_string() == text)
        .ok_or_else(|| "a lock is governance or compliance".to_owned())
}

/// What the vault enforces.
#[derive(Clone, Copy, Debug, Args)]
pub struct Guards {
    /// No recovery point expires before it is so old; this can never be made shorter, by nobody
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(..=3660))]
    pub minimum_retention: Option<u32>,
    /// For so long an expired recovery point can be brought back
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(..=3660))]
    pub undo: Option<u32>,
    /// The store locks the vault's objects for the minimum retention (governance or compliance); this can never be made weaker
    #[arg(long, value_name = "MODE", value_parser = lock_mode)]
    pub object_lock: Option<LockMode>,
}

/// What to do with operators.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// List the operators
    List,
    /// Make a key for an operator; tells its public key
    Key {
        /// The file to make, which only the operator may read
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Register an operator
    Add {
        /// The operator's name
        name: String,
        /// The public key, as `operator key` told it
        key: OperatorPublicKey,
    },
    /// Remove an operator
    Remove {
        /// The operator's name
        name: String,
    },
}

/// Who does it.
#[derive(Debug, Args)]
pub struct Signer {
    /// The operator who does this
    #[arg(long = "as", value_name = "NAME")]
    pub operator: String,
    /// The file with that operator's key
    #[arg(long, value_name = "FILE")]
    pub operator_key: PathBuf,
}

/// What to do with approvals.
#[derive(Debug, Subcommand)]
pub enum ApprovalCommand {
    /// List what waits for approval
    List,
    /// Ask for something, as one of the operators; it can be approved for a day
    Request {
        /// Who asks.
        #[command(flatten)]
        signer: Signer,
        /// What for.
        #[command(subcommand)]
        action: ActionCommand,
    },
    /// Approve a request as another operator: with the last approval that is needed it is done
    Confirm {
        /// The request
        id: String,
        /// Who approves.
        #[command(flatten)]
        signer: Signer,
    },
}

/// What is asked for.
#[derive(Debug, Subcommand)]
pub enum ActionCommand {
    /// Lift the hold of that name
    LiftHold {
        /// The recovery point
        point: PointReference,
        /// The name of the reason
        #[arg(long, default_value = "hold")]
        reason: String,
    },
    /// Take a pin back
    Unpin {
        /// The recovery point
        point: PointReference,
    },
    /// Make the undo window shorter, for what expires from then on
    UndoWindow {
        /// How long it is then
        #[arg(value_parser = clap::value_parser!(u32).range(..=3660))]
        days: u32,
    },
    /// Let fewer operators approve; below two nobody is asked
    Operators {
        /// How many
        needed: u32,
    },
    /// Register an operator
    AddOperator {
        /// The operator's name
        name: String,
        /// The public key, as `operator key` told it
        key: OperatorPublicKey,
    },
    /// Remove an operator
    RemoveOperator {
        /// The operator's name
        name: String,
    },
    /// Remove a key slot
    RemoveKey {
        /// The id of the slot
        slot: String,
    },
}
