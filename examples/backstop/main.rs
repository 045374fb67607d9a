//! The sample command line of Backstop: protects disk images in a vault and
//! brings them back. A thin composition over the library; what it adds is
//! arguments, tables, JSON and exit codes.
#![allow(unreachable_pub, reason = "a program: nobody else reaches its modules")]

mod arguments;
mod chosen;
mod collect;
mod credential;
mod defect;
mod diff;
mod ending;
mod expire;
mod fold;
mod interrupt;
mod key_command;
mod keys;
mod listing;
mod marking;
mod output;
mod point_reference;
mod progress;
mod protect;
mod report;
mod restore;
mod table;
mod vault;
mod verify;

use std::process::ExitCode;

use backstop::{CpuPool, DedupStore, Error, ProtectionServer};
use serde_json::json;

use crate::arguments::{Arguments, Command};
use crate::ending::{Ending, Stop, Verdict};
use crate::marking::Mark;
use crate::output::Output;
use crate::vault::{Access, with_vault};

/// Threads for work that waits for a disk or a processor. More would only
/// take memory: each keeps buffers of its own.
const BLOCKING_THREADS: usize = 5;

fn main() -> ExitCode {
    let arguments = Arguments::of_process();
    let output = if arguments.json {
        Output::Programs
    } else {
        Output::People
    };
    defect::tell_panics();
    let ended = defect::contained(|| match run(&arguments, output) {
        Ok(verdict) => verdict.exit_code(),
        Err(Stop::OutputClosed) => 0,
        Err(Stop::Failed(error)) => output.fail(&error),
        Err(Stop::Reported(error)) => Output::People.fail(&error),
    });
    ended.unwrap_or_else(|defect| output.fail(&defect)).into()
}

fn run(arguments: &Arguments, output: Output) -> Ending {
    let cpu = CpuPool::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One thread drives what waits; the work is done on the others.
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|error| {
            Stop::Failed(Error::unavailable("no threads can be started").with_source(error))
        })?;
    let work = async |vault: &DedupStore, server: &ProtectionServer| match &arguments.command {
        Command::Init => init(vault, output),
        Command::Key(key) => keys::key(key, vault, output).await,
        other => command(other, server, &cpu, output).await,
    };
    let access = access(&arguments.command);
    let ending = runtime.block_on(with_vault(&arguments.vault, access, cpu.clone(), work));
    // After an interrupt nobody waits for a disk that may be stuck.
    runtime.shutdown_background();
    ending
}

fn access(command: &Command) -> Access {
    match command {
        Command::Init => Access::Create,
        command if command.reads() => Access::Read,
        _ => Access::Own,
    }
}

async fn command(
    command: &Command,
    server: &ProtectionServer,
    cpu: &CpuPool,
    output: Output,
) -> Ending {
    match command {
        Command::Init | Command::Key(_) => Ok(Verdict::Done),
        Command::Protect(arguments) => protect::protect(arguments, server, cpu, output).await,
        Command::Check {
            name,
            image,
            verify,
        } => protect::check(name, image, *verify, server, cpu, output).await,
        Command::Sources => listing::sources(server, output).await,
        Command::Points { name } => listing::points(name, server, output).await,
        Command::Stats => listing::stats(server, output).await,
        Command::Restore(arguments) => restore::restore(arguments, server, output).await,
        Command::Diff { from, to } => diff::diff(from, to, server, output).await,
        Command::Expire(arguments) => expire::expire(arguments, server, output).await,
        Command::Collect(arguments) => collect::collect(arguments, server, output).await,
        Command::Fold(arguments) => fold::fold(arguments, server, output).await,
        Command::Verify(arguments) => verify::verify(arguments, server, output).await,
        Command::Pin { point } => marking::mark(point, Mark::Pin, server, output).await,
        Command::Unpin { point } => marking::mark(point, Mark::Unpin, server, output).await,
        Command::Hold { point, reason } => {
            marking::mark(point, Mark::Hold(reason), server, output).await
        }
        Command::Release { point, reason } => {
            marking::mark(point, Mark::Release(reason), server, output).await
        }
    }
}

fn init(vault: &DedupStore, output: Output) -> Ending {
    let encrypted = vault.is_encrypted();
    let object = json!({"vault": vault.id(), "encrypted": encrypted});
    let how = if encrypted {
        "encrypted"
    } else {
        "not encrypted: no passphrase or key was given"
    };
    output.print(&object, format_args!("made vault {} ({how})\n", vault.id()))?;
    Ok(Verdict::Done)
}
