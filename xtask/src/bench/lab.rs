//! The place where measuring happens: its folders, the programs, the images, and a tidy end.

use crate::bench::measure::{Cost, measure};
use crate::bench::samples::Sample;
use crate::bench::tool::{Repository, Tool};
use crate::bench::{Options, Row};
use crate::command;
use crate::corpus::images::{self, Images};
use crate::corpus::mount::free_bytes;
use crate::corpus::packages;
use crate::install;
use crate::problem::{Context, Outcome};
use crate::project;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders, programs and images.
#[derive(Debug)]
pub struct Lab {
    /// What was asked for
    pub options: Options,
    /// Everything is below this folder
    pub root: PathBuf,
    /// Our command line
    pub cli: PathBuf,
    /// A raw key of 32 bytes for our vaults
    pub key: PathBuf,
    /// The images of the first corpus
    pub images: Images,
}

impl Lab {
    /// Builds, installs and makes what the rows need.
    pub fn set_up(options: &Options) -> Outcome<Self> {
        let root = project::target()?.join("bench-peers");
        fs::create_dir_all(&root).context(root.display())?;
        let free = free_bytes(&root)?;
        let needed = (options.gib << 30) * 14;
        if free < needed {
            return Err(format!(
                "about {} GB must be free, {} are",
                needed / 1_000_000_000,
                free / 1_000_000_000
            ));
        }
        let cli = match &options.cli {
            Some(path) => path.canonicalize().context(path.display())?,
            None => build_cli()?,
        };
        install::debian("restic", &["restic"])?;
        install::debian("borg", &["borgbackup"])?;
        let key = root.join("vault.key");
        fs::write(
            &key,
            (0..32_u8)
                .map(|byte| byte.wrapping_mul(7))
                .collect::<Vec<u8>>(),
        )
        .context(key.display())?;
        let images = ready_images(options, &root)?;
        let mut options = options.clone();
        if options.cold && !command::is_root() {
            println!("note: only the administrator can empty the page cache; no cold round");
            options.cold = false;
        }
        if !options.skip_churn && !command::is_root() {
            println!("note: only the administrator can mount images; no churn");
            options.skip_churn = true;
        }
        Ok(Self {
            options,
            root,
            cli,
            key,
            images,
        })
    }

    /// An empty folder below the root.
    pub fn folder(&self, name: &str) -> Outcome<PathBuf> {
        let folder = self.root.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).context(folder.display())?;
        }
        fs::create_dir_all(&folder).context(folder.display())?;
        Ok(folder)
    }

    /// The Debian packages that updates unpack; kept between runs.
    pub fn packages(&self) -> Outcome<Vec<PathBuf>> {
        packages::download(&self.root.join("packages"))
    }

    /// Runs a command in a quiet moment: nothing of earlier runs is left to be written.
    pub fn quiet_run(&self, command: &mut Command) -> Outcome<(Cost, String)> {
        command::run_quietly(&mut Command::new("sync"))?;
        measure(command, &self.root)
    }

    /// Protects and makes a sample of it: cost, what the repository grew by, and what our tool itself says.
    pub fn protect(
        &self,
        repository: &Repository,
        row: &str,
        name: &str,
        image: &Path,
        extents: Option<&Path>,
    ) -> Outcome<(Sample, Value)> {
        let before = repository.stored_bytes()?;
        let (cost, said) = self.quiet_run(&mut repository.protect(name, image, extents))?;
        let after = repository.stored_bytes()?;
        let mut facts = BTreeMap::from([("stored_bytes", after), ("grown_bytes", after - before)]);
        let mut object = Value::Null;
        if repository.tool == Tool::Ours {
            object = json_object(&said)?;
            for (fact, field) in [
                ("changed_bytes", "bytes_changed"),
                ("read_bytes", "bytes_read"),
                ("sampled_bytes", "bytes_sampled"),
                ("sent_bytes", "bytes_sent"),
                ("added_bytes", "bytes_added"),
            ] {
                if let Some(value) = object[field].as_f64() {
                    facts.insert(fact, value);
                }
            }
        }
        let sample = Sample {
            row: row.to_owned(),
            tool: repository.tool,
            cost,
            facts,
        };
        Ok((sample, object))
    }

    /// Removes what takes space; the report and the downloaded packages stay.
    pub fn clean_up(&self) -> Outcome<()> {
        if self.options.keep {
            return Ok(());
        }
        for name in ["vaults", "private", "out", "scratch", "images"] {
            let folder = self.root.join(name);
            if folder.exists() {
                fs::remove_dir_all(&folder).context(folder.display())?;
            }
        }
        Ok(())
    }
}

/// The JSON object that our command line printed, alone or as its last line.
pub fn json_object(said: &str) -> Outcome<Value> {
    let last = said.trim().lines().last().unwrap_or_default();
    serde_json::from_str(said)
        .or_else(|_| serde_json::from_str(last))
        .context(format!(
            "our command line wrote no JSON object but {last:?}"
        ))
}

/// The id of the recovery point in such an object.
pub fn point_id(object: &Value) -> Outcome<String> {
    object["id"]
        .as_str()
        .map(str::to_owned)
        .context("our command line named no recovery point")
}

/// Reads files through, so that they are in the page cache.
pub fn warm(path: &Path) -> Outcome<()> {
    let facts = fs::metadata(path).context(path.display())?;
    if facts.is_dir() {
        for entry in fs::read_dir(path).context(path.display())? {
            warm(&entry.context(path.display())?.path())?;
        }
        return Ok(());
    }
    let mut file = File::open(path).context(path.display())?;
    let mut buffer = vec![0; 1 << 18];
    while file.read(&mut buffer).context(path.display())? > 0 {}
    Ok(())
}

/// Empties the page cache.
pub fn chill() -> Outcome<()> {
    command::run_quietly(&mut Command::new("sync"))?;
    fs::write("/proc/sys/vm/drop_caches", "3").context("can't empty the page cache")
}

/// How many bytes of a file are really on the disk.
pub fn allocated_bytes(path: &Path) -> Outcome<f64> {
    Ok(fs::metadata(path).context(path.display())?.blocks() as f64 * 512.0)
}

fn build_cli() -> Outcome<PathBuf> {
    let mut build = Command::new(project::cargo());
    build.current_dir(project::root()?);
    command::run(build.args(["build", "--release", "--example", "backstop"]))?;
    Ok(project::target()?.join("release/examples/backstop"))
}

fn ready_images(options: &Options, root: &Path) -> Outcome<Images> {
    let needs_images = [
        Row::Initial,
        Row::Express,
        Row::Host2,
        Row::Restore,
        Row::Check,
        Row::Scattered,
        Row::Update,
        Row::Churn,
        Row::LargeIndex,
        Row::Care,
    ];
    let folder = root.join("images");
    if let Some(given) = std::env::var_os("BACKSTOP_CORPUS") {
        let images = Images::in_folder(
            &PathBuf::from(given)
                .canonicalize()
                .context("BACKSTOP_CORPUS")?,
        );
        if images.exist() {
            println!("images: those of BACKSTOP_CORPUS");
            return Ok(images);
        }
        return Err(
            "BACKSTOP_CORPUS has no day0.img, day1.img, day1.extents and host2.img".to_owned(),
        );
    }
    let images = Images::in_folder(&folder);
    let growth_alone = !needs_images.iter().any(|row| options.wants(*row));
    let right_size = fs::metadata(&images.day0).is_ok_and(|facts| facts.len() == options.gib << 30);
    if growth_alone || (images.exist() && right_size) {
        return Ok(images);
    }
    fs::create_dir_all(&folder).context(folder.display())?;
    images::make(&folder, options.gib, &from(options))
}

/// The folders whose files fill the images.
pub fn from(options: &Options) -> Vec<PathBuf> {
    if options.from.is_empty() {
        vec![PathBuf::from("/usr")]
    } else {
        options.from.clone()
    }
}
