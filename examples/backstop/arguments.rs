//! What the command line takes, and what it tells about itself.

use std::path::PathBuf;

use backstop::MOST_SAMPLE_SLICES;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::care_arguments::{
    CollectArguments, ExpireArguments, FoldArguments, RebuildArguments, VerifyArguments,
};
use crate::enroll_arguments::EnrollCommand;
use crate::guard_arguments::{ApprovalCommand, InitArguments, OperatorCommand, ProtectionCommand};
use crate::image_format::ImageFormat;
use crate::other::{OtherVault, ReplicateArguments};
use crate::point_reference::PointReference;
use crate::wire_arguments::{AccessCommand, AgentArguments, ServeArguments, ServerArguments};

const ABOUT: &str =
    "Keeps replicas of disk images in a vault, makes recovery points, brings any of them back";

const EXIT_CODES: &str = "\
POINT is a recovery point's id, at least the first 4 digits of one, or NAME@latest.

Exit codes:
    0  done
    2  the command line is wrong
    3  an input is wrong (a name, a file, a list of extents, a place)
    4  there is no such vault, image, source, recovery point or program
    5  the passphrase or key does not open the vault
    6  the vault is owned by another process (see --takeover)
    7  another process has taken the vault over meanwhile
    8  stored data is damaged; after `verify`, some is, and the rest was read; after `export`
       nothing was made
    9  restored, but for ranges that are damaged in the vault or were unreadable; they are told
   10  no space is left
   11  the store does not answer properly; repeat later
   12  the vault was written by another version
   13  it exists already and was not touched
   14  something changed meanwhile: look again; the image changed: protect a snapshot of it
   15  blocks of the source can't be read; after `protect` and `check` the rest is protected
   16  this is not permitted: a certificate or token does not count, or was revoked
   70  a defect of this program
  130  interrupted; nothing half-made is visible
";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "backstop", version, about = ABOUT, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Where the vault is and how it is opened.
    #[command(flatten)]
    pub vault: VaultArguments,

    /// Print JSON on standard output, and no progress
    #[arg(long, global = true)]
    pub json: bool,

    /// Tell on standard error what the run asked of the store
    #[arg(long, global = true)]
    pub usage: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// The arguments of this process. Ends it where they are wrong, or ask for
    /// help.
    pub fn of_process() -> Self {
        let arguments = Self::parse();
        if let Err((kind, sentence)) = arguments.check() {
            Self::command().error(kind, sentence).exit();
        }
        arguments
    }

    /// What clap can't say of options that may stand before the command or
    /// after it.
    fn check(&self) -> Result<(), (ErrorKind, &'static str)> {
        if self.vault.place.is_none() && !self.command.is_elsewhere() {
            return Err((
                ErrorKind::MissingRequiredArgument,
                "no vault is named: give `--vault URL`, or set BACKSTOP_VAULT",
            ));
        }
        let vault = &self.vault;
        let files = [
            &vault.key_file,
            &vault.passphrase_file,
            &vault.recovery_key_file,
        ];
        let given = files.iter().filter(|file| file.is_some()).count();
        if given + usize::from(vault.key_command.is_some()) > 1 {
            return Err((
                ErrorKind::ArgumentConflict,
                "of `--key-file`, `--passphrase-file`, `--recovery-key-file` and `--key-command` only one can be used",
            ));
        }
        if self.vault.takeover && !self.command.writes() {
            return Err((
                ErrorKind::ArgumentConflict,
                "`--takeover` goes with commands that write to a vault which is there; this one takes it from nobody",
            ));
        }
        Ok(())
    }
}

/// Where the vault is and how it is opened.
#[derive(Debug, Args)]
pub struct VaultArguments {
    /// A URL (file:///srv/vault, s3://bucket/prefix, az://..., gs://...) or a local folder
    #[arg(
        long = "vault",
        env = "BACKSTOP_VAULT",
        value_name = "URL",
        global = true
    )]
    pub place: Option<String>,

    /// A file that holds the passphrase in its first line; without it, BACKSTOP_PASSPHRASE
    #[arg(long, value_name = "FILE", global = true)]
    pub passphrase_file: Option<PathBuf>,

    /// A file that holds a raw key: 32 bytes, or 64 hexadecimal digits
    #[arg(long, value_name = "FILE", global = true)]
    pub key_file: Option<PathBuf>,

    /// A file that holds a recovery key, as `key add --recovery` printed it
    #[arg(long, value_name = "FILE", global = true)]
    pub recovery_key_file: Option<PathBuf>,

    /// A program, with its arguments, that unwraps the vault's key: called with `unwrap` (or `wrap`)
    /// as its last argument, 32 bytes or what it made of them on its standard input and output;
    /// it ends with code 5 if it has no such key
    #[arg(long, value_name = "COMMAND", global = true)]
    pub key_command: Option<String>,

    /// Take the vault over from a process that owns it: that one can write nothing any more
    #[arg(long, global = true)]
    pub takeover: bool,

    /// Use up to 256 MiB instead of 96, for vaults of about ten million chunks
    #[arg(long, global = true)]
    pub large_vault: bool,
}

impl VaultArguments {
    /// Where the vault is; checked to be named.
    pub fn place(&self) -> &str {
        self.place.as_deref().unwrap_or_default()
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a vault; it is encrypted if a passphrase or key is given
    Init(InitArguments),
    /// Make a recovery point of an image: everything, or the changed extents alone
    Protect(ProtectArguments),
    /// Protect images of other hosts: agents reach the vault over the network
    Serve(ServeArguments),
    /// Protect images of this host at a protection server: everything, what differs, or the changed extents
    Agent(AgentArguments),
    /// Tell what a protection server is doing, and how old the newest points are; for operators
    Status(ServerArguments),
    /// Let agents recover what is not theirs, and see who did what; for operators
    #[command(subcommand)]
    Access(AccessCommand),
    /// Make a recovery point of an image of another format: everything, or what differs
    Import(ImportArguments),
    /// Decide which hosts may be agents, and become one; takes no vault
    #[command(subcommand)]
    Enroll(EnrollCommand),
    /// List the protected sources
    Sources,
    /// List the recovery points of a source, oldest first
    Points {
        /// The source
        name: String,
        /// Those that have expired and can be brought back
        #[arg(long)]
        expired: bool,
    },
    /// Bring a recovery point back
    Restore(RestoreArguments),
    /// Bring a recovery point out as an image that virtual machines take
    Export(ExportArguments),
    /// Tell where two recovery points may differ, as lines of `offset length`
    Diff {
        /// From this one
        from: PointReference,
        /// To this one
        to: PointReference,
    },
    /// Compare an image with its replica, and make a recovery point by sending what differs
    Check {
        /// The source
        name: String,
        /// A disk image or block device that nobody writes to
        #[arg(long, value_name = "PATH")]
        image: PathBuf,
        /// Read what is stored too, and send again what is damaged: heals all
        /// recovery points that share it
        #[arg(long)]
        verify: bool,
    },
    /// Remove the recovery points that a policy no longer keeps
    Expire(ExpireArguments),
    /// Bring back recovery points that have expired
    Undo {
        /// The recovery points
        #[arg(required = true)]
        points: Vec<PointReference>,
    },
    /// Give back the space of what has expired
    Collect(CollectArguments),
    /// Make the newest recovery points cheaper to read, from the next synchronization on
    Fold(FoldArguments),
    /// Read what is stored, and tell what is damaged
    Verify(VerifyArguments),
    /// Make the index and the catalog anew from the packs, if they are damaged or gone
    Rebuild(RebuildArguments),
    /// Copy recovery points to another vault: what that one lacks
    Replicate(ReplicateArguments),
    /// Tell whether another vault holds the same recovery points
    Compare(OtherVault),
    /// Verify, and take from another vault what is damaged
    Heal(OtherVault),
    /// Keep a recovery point whatever the policy says
    Pin {
        /// The recovery point
        point: PointReference,
    },
    /// Let the policy decide about a recovery point again
    Unpin {
        /// The recovery point
        point: PointReference,
    },
    /// Keep a recovery point for a named reason, such as a lawsuit
    Hold {
        /// The recovery point
        point: PointReference,
        /// The name of the reason
        #[arg(long, default_value = "hold")]
        reason: String,
    },
    /// Lift the hold of that name
    Release {
        /// The recovery point
        point: PointReference,
        /// The name of the reason
        #[arg(long, default_value = "hold")]
        reason: String,
    },
    /// Count what the vault holds, or what it costs
    Stats(StatsArguments),
    /// List, add, replace or remove what opens the vault
    #[command(subcommand)]
    Key(KeyCommand),
    /// Show or change what keeps recovery points from being removed
    #[command(subcommand)]
    Protection(ProtectionCommand),
    /// List, register or remove operators, who approve what protects the vault less
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Ask for what takes the approval of several operators, and approve it
    #[command(subcommand)]
    Approval(ApprovalCommand),
}

impl Command {
    /// Whether it reads only, which it does beside the vault's owner.
    pub fn reads(&self) -> bool {
        matches!(
            self,
            Self::Sources
                | Self::Points { .. }
                | Self::Restore(_)
                | Self::Export(_)
                | Self::Diff { .. }
                | Self::Replicate(_)
                | Self::Compare(_)
                | Self::Verify(VerifyArguments { beside: true, .. })
                | Self::Key(KeyCommand::List | KeyCommand::Ring)
                | Self::Protection(ProtectionCommand::Show)
                | Self::Operator(OperatorCommand::List | OperatorCommand::Key { .. })
                | Self::Approval(ApprovalCommand::List)
                | Self::Stats(_)
        )
    }

    /// Whether it has nothing to do with a vault here.
    fn is_elsewhere(&self) -> bool {
        match self {
            Self::Agent(_) | Self::Access(_) | Self::Enroll(_) | Self::Status(_) => true,
            Self::Restore(arguments) => arguments.server().is_some(),
            _ => false,
        }
    }

    /// Whether it writes to a vault that is there, which takes owning it.
    pub fn writes(&self) -> bool {
        !self.reads() && !self.is_elsewhere() && !matches!(self, Self::Init(_))
    }
}

/// What to do with the passphrases and keys that open the vault.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the key slots
    List,
    /// Let another passphrase or key open the vault too
    Add(NewKey),
    /// Put another key slot in the place of one
    Replace {
        /// The id of the slot that goes
        slot: String,
        /// The new passphrase or key.
        #[command(flatten)]
        with: NewKey,
    },
    /// Remove a key slot; the last one stays
    Remove {
        /// The id of the slot
        slot: String,
    },
    /// List the vault's own keys, and how much is sealed under each
    Ring,
    /// Make a new vault key for everything new, as after removing a slot; all slots open as before
    Rotate,
    /// Drop old vault keys under which nothing is sealed any more (see `collect --reseal`)
    Retire,
}

/// A new passphrase or key.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct NewKey {
    /// A file that holds the new passphrase in its first line
    #[arg(long, value_name = "FILE")]
    pub new_passphrase_file: Option<PathBuf>,
    /// A file that holds the new raw key: 32 bytes, or 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    pub new_key_file: Option<PathBuf>,
    /// Make a recovery key, and print it once: write it down, and lock it away
    #[arg(long)]
    pub recovery: bool,
    /// A program that wraps the slot's key (see --key-command)
    #[arg(long, value_name = "COMMAND")]
    pub new_key_command: Option<String>,
}

/// What to protect.
#[derive(Debug, Args)]
pub struct ProtectArguments {
    /// What to call the source
    pub name: String,
    /// A disk image or block device that nobody writes to
    #[arg(long, value_name = "PATH")]
    pub image: PathBuf,
    /// What may have changed since the base: lines of `offset length` in bytes; nothing else is read
    #[arg(long, value_name = "FILE")]
    pub extents: Option<PathBuf>,
    /// Since which recovery point the extents changed; the newest of the source if not said
    #[arg(long, value_name = "POINT", requires = "extents")]
    pub base: Option<PointReference>,
    /// How many unchanged slices to read and compare, so that wrong extents are found, at most 65536 [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(MOST_SAMPLE_SLICES)))]
    pub sample: Option<u32>,
}

/// What to count.
#[derive(Debug, Args)]
pub struct StatsArguments {
    /// Tell what is stored and what was asked of the store, by month and operation
    #[arg(long)]
    pub cost: bool,
    /// A price list (JSON), to tell what that costs
    #[arg(long, value_name = "FILE", requires = "cost")]
    pub prices: Option<PathBuf>,
}

/// Which image to take in, and as what.
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// What to call the source
    pub name: String,
    /// An image file that nobody writes to
    pub image: PathBuf,
    /// The image's format; told by `qemu-img` if not said. Say it for images that you don't trust
    #[arg(long)]
    pub format: Option<ImageFormat>,
    /// Take so many bytes of its disk; what is beyond must be zeros
    #[arg(long, value_name = "BYTES")]
    pub length: Option<u64>,
}

/// What to bring back, and where to.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// The recovery point
    pub point: PointReference,
    /// The protection server that has it, if the vault is not opened here; several are tried in turn
    #[arg(long = "server", value_name = "HOST:PORT", requires = "certificates")]
    pub servers: Vec<String>,
    /// To the server: a folder with authority.pem, identity.pem and identity.key
    #[arg(long, value_name = "FOLDER", requires = "servers")]
    pub certificates: Option<PathBuf>,
    /// The image to make, or a block device (with --overwrite)
    #[arg(long, value_name = "PATH")]
    pub to: PathBuf,
    /// Replace what is there
    #[arg(long)]
    pub overwrite: bool,
    /// Don't wait until the image is on the disk: a power loss soon after may take it back
    #[arg(long)]
    pub no_sync: bool,
}

impl RestoreArguments {
    /// How the protection server is reached, if it is one elsewhere.
    pub fn server(&self) -> Option<ServerArguments> {
        Some(ServerArguments {
            servers: self.servers.clone(),
            certificates: self.certificates.clone()?,
        })
    }
}

/// What to bring out, and as what.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// The recovery point
    pub point: PointReference,
    /// The image to make
    #[arg(value_name = "OUTPUT")]
    pub to: PathBuf,
    /// The image's format; all but raw take `qemu-img`
    #[arg(long)]
    pub format: ImageFormat,
    /// Which image of a recovery point that has several
    #[arg(long, value_name = "NAME")]
    pub stream: Option<String>,
    /// Replace what is there
    #[arg(long)]
    pub overwrite: bool,
    /// Don't wait until the image is on the disk: a power loss soon after may take it back
    #[arg(long)]
    pub no_sync: bool,
}
