//! The three tools and how each is told to do the same thing.

use crate::bench::lab::Lab;
use crate::problem::{Context, Outcome};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Our sample command line
    Ours,
    /// restic, encrypted as it always is
    Restic,
    /// borg, `repokey` and `zstd,1`
    Borg,
}

const SECRET: &str = "correct horse battery staple";

impl Tool {
    /// All, ours first.
    pub const ALL: [Tool; 3] = [Tool::Ours, Tool::Restic, Tool::Borg];

    /// How tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Ours => "ours",
            Tool::Restic => "restic",
            Tool::Borg => "borg",
        }
    }

    /// All three, beginning with another one each round, so that none always runs in another's wake.
    pub fn rotated(round: u32) -> [Tool; 3] {
        let mut order = Self::ALL;
        order.rotate_left(round as usize % 3);
        order
    }
}

/// How our vault is opened.
#[derive(Debug, Clone, Copy)]
pub enum Unlock {
    /// By a passphrase, as the peers are: a slow key derivation each time
    Passphrase,
    /// By a file with a raw key
    KeyFile,
}

/// A vault or repository of one tool.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Whose it is
    pub tool: Tool,
    /// Where it is
    pub folder: PathBuf,
    private: PathBuf,
    key: PathBuf,
    cli: PathBuf,
    unlock: Unlock,
    large_budget: bool,
}

impl Repository {
    /// An empty, encrypted repository; one left from before is removed.
    pub fn create(lab: &Lab, tool: Tool, name: &str, unlock: Unlock) -> Outcome<Self> {
        let folder = lab.folder(&format!("vaults/{name}-{}", tool.name()))?;
        let private = lab.folder(&format!("private/{name}-{}", tool.name()))?;
        let repository = Self {
            tool,
            folder,
            private,
            key: lab.key.clone(),
            cli: lab.cli.clone(),
            unlock,
            large_budget: false,
        };
        let mut init = match tool {
            Tool::Ours => repository.ours(&["init"]),
            Tool::Restic => repository.restic(&["init"]),
            Tool::Borg => {
                let mut init = repository.borg();
                init.args(["init", "-e", "repokey"]).arg(&repository.folder);
                init
            }
        };
        crate::command::run_quietly(&mut init)?;
        Ok(repository)
    }

    /// The same, from now on opened with the memory of a large vault.
    pub fn with_large_budget(self) -> Self {
        Self {
            large_budget: true,
            ..self
        }
    }

    /// Our command line on this vault, told to write JSON.
    pub fn ours(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cli);
        command.env(
            "BACKSTOP_VAULT",
            format!("file://{}", self.folder.display()),
        );
        match self.unlock {
            Unlock::Passphrase => command.env("BACKSTOP_PASSPHRASE", SECRET),
            Unlock::KeyFile => command
                .env_remove("BACKSTOP_PASSPHRASE")
                .arg("--key-file")
                .arg(&self.key),
        };
        command.args(self.large_budget.then_some("--large-vault"));
        command.arg("--json").args(arguments);
        command
    }

    fn restic(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("restic");
        command
            .env("RESTIC_PASSWORD", SECRET)
            .env("RESTIC_REPOSITORY", &self.folder)
            .arg("--cache-dir")
            .arg(&self.private)
            .args(arguments);
        command
    }

    fn borg(&self) -> Command {
        let mut command = Command::new("borg");
        command
            .env("BORG_PASSPHRASE", SECRET)
            .env("BORG_BASE_DIR", &self.private)
            .env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes");
        command
    }

    /// Protects an image under a name; `extents` is for us alone, as the peers have no use for it.
    pub fn protect(&self, name: &str, image: &Path, extents: Option<&Path>) -> Command {
        match self.tool {
            Tool::Ours => {
                let mut command = self.ours(&["protect", name, "--image"]);
                command.arg(image);
                if let Some(extents) = extents {
                    command.arg("--extents").arg(extents);
                }
                command
            }
            Tool::Restic => {
                let mut command = self.restic(&["backup", "--quiet", "--tag", name]);
                command.arg(image);
                command
            }
            Tool::Borg => {
                let mut command = self.borg();
                let stem = image.file_stem().unwrap_or_default().to_string_lossy();
                let archive = format!("{}::{name}-{stem}", self.folder.display());
                command
                    .args(["create", "-C", "zstd,1", &archive])
                    .arg(image);
                command
            }
        }
    }

    /// Brings an image back below `out`: the command and the file that it will make. `point` is our recovery point;
    /// with `sync`, the command ends only when the image is on the disk.
    pub fn restore(
        &self,
        point: &str,
        name: &str,
        image: &Path,
        out: &Path,
        sync: bool,
    ) -> Outcome<(Command, PathBuf)> {
        let inner = image
            .strip_prefix("/")
            .context("images have absolute paths")?;
        let (mut command, file) = match self.tool {
            Tool::Ours => {
                let file = out.join("restored.img");
                let mut command = self.ours(&["restore", point, "--to"]);
                command.arg(&file).args((!sync).then_some("--no-sync"));
                return Ok((command, file));
            }
            Tool::Restic => {
                let mut command = self.restic(&["restore", "--quiet", "latest", "--path"]);
                command.arg(image).arg("--target").arg(out);
                (command, out.join(inner))
            }
            Tool::Borg => {
                let mut command = self.borg();
                let stem = image.file_stem().unwrap_or_default().to_string_lossy();
                let archive = format!("{}::{name}-{stem}", self.folder.display());
                command
                    .args(["extract", "--sparse", &archive])
                    .current_dir(out);
                (command, out.join(inner))
            }
        };
        if sync {
            command = followed_by_sync(&command, &file);
        }
        Ok((command, file))
    }

    /// What looks after it once a day: keeps the newest points, and gives back the space of the others. Ours also folds,
    /// and writes no more for that than one and a half times what changed.
    pub fn care(&self, keep: u32, changed_bytes: f64) -> Vec<Command> {
        let keep = keep.to_string();
        match self.tool {
            Tool::Ours => {
                let most = format!("{:.0}", (1.5 * changed_bytes / f64::from(1 << 20)).max(1.0));
                vec![
                    self.ours(&["expire", "--all", "--keep-last", &keep, "--min-age", "0s"]),
                    self.ours(&["fold", "--all", "--most-written", &most]),
                    self.ours(&["collect"]),
                ]
            }
            Tool::Restic => {
                vec![self.restic(&[
                    "forget",
                    "--quiet",
                    "--keep-last",
                    &keep,
                    "--group-by",
                    "host",
                    "--prune",
                ])]
            }
            Tool::Borg => {
                let (mut prune, mut compact) = (self.borg(), self.borg());
                prune
                    .args(["prune", "--keep-last", &keep])
                    .arg(&self.folder);
                compact.arg("compact").arg(&self.folder);
                vec![prune, compact]
            }
        }
    }

    /// How many objects it is made of.
    pub fn objects(&self) -> Outcome<f64> {
        Ok(below(&self.folder, &|_| 1)? as f64)
    }

    /// How many bytes the repository takes.
    pub fn stored_bytes(&self) -> Outcome<f64> {
        Ok(below(&self.folder, &std::fs::Metadata::len)? as f64)
    }

    /// Removes it.
    pub fn remove(self) -> Outcome<()> {
        for folder in [&self.folder, &self.private] {
            std::fs::remove_dir_all(folder).context(folder.display())?;
        }
        Ok(())
    }
}

/// The same command in a shell that then waits until the file is on the disk.
fn followed_by_sync(command: &Command, file: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "file=$1; shift; \"$@\" && sync \"$file\"", "sh"])
        .arg(file)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    if let Some(folder) = command.get_current_dir() {
        shell.current_dir(folder);
    }
    shell
}

/// The sum over all files below a folder.
fn below(folder: &Path, of: &dyn Fn(&std::fs::Metadata) -> u64) -> Outcome<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(folder).context(folder.display())? {
        let entry = entry.context(folder.display())?;
        let facts = entry.metadata().context(folder.display())?;
        total += if facts.is_dir() {
            below(&entry.path(), of)?
        } else {
            of(&facts)
        };
    }
    Ok(total)
}
