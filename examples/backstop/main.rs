//! The sample command line of Backstop: protects disk images in a vault and
//! brings them back. A thin composition over the library; what it adds is
//! arguments, tables, JSON and exit codes.
#![allow(unreachable_pub, reason = "a program: nobody else reaches its modules")]

mod access;
mod approval;
mod arguments;
mod care_arguments;
mod certificates;
mod chosen;
mod collect;
mod cost;
mod credential;
mod defect;
mod diff;
mod ending;
mod enroll;
mod enroll_arguments;
mod expire;
mod export;
mod fold;
mod guard_arguments;
mod image_format;
mod image_server;
mod import;
mod imported;
mod interrupt;
mod key_command;
mod keys;
mod listing;
mod marking;
mod observed;
mod other;
mod output;
mod point_reference;
mod progress;
mod protect;
mod protection;
mod qemu;
mod rebuild;
mod remote_agent;
mod report;
mod restore;
mod serve;
mod signals;
mod status;
mod table;
mod vault;
mod verify;
mod wire_arguments;

use std::process::ExitCode;

use backstop::{CpuPool, DedupStore, Error, ProtectionServer, SourceName};
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
        Command::Init(arguments) => {
            protection::protect(arguments.protection, vault, server).await?;
            init(vault, output)
        }
        Command::Key(key) => keys::key(key, vault, output).await,
        Command::Protection(command) => {
            protection::protection(command, vault, server, output).await
        }
        Command::Operator(command) => approval::operator(command, vault, output).await,
        Command::Approval(command) => approval::approval(command, vault, server, output).await,
        Command::Replicate(arguments) => {
            Box::pin(other::replicate(arguments, vault, &cpu, output)).await
        }
        Command::Compare(with) => other::compare(with, vault, &cpu, output).await,
        Command::Heal(from) => Box::pin(other::heal(from, vault, server, &cpu, output)).await,
        Command::Stats(stats) if stats.cost => {
            cost::cost(stats.prices.as_deref(), vault, output).await
        }
        Command::Hold { point, reason } => {
            let mark = Mark::Hold(reason);
            marking::hold(point, mark, vault, server, output).await
        }
        Command::Release { point, reason } => {
            let mark = Mark::Release(reason);
            marking::hold(point, mark, vault, server, output).await
        }
        other => command(other, server, &cpu, output).await,
    };
    let ending = match &arguments.command {
        Command::Rebuild(how) => {
            let rebuilding = rebuild::rebuild(how, &arguments.vault, cpu.clone(), output);
            runtime.block_on(rebuilding)
        }
        Command::Enroll(command) => runtime.block_on(enroll::enroll(command, output)),
        Command::Serve(how) => {
            runtime.block_on(serve::serve(how, &arguments.vault, cpu.clone(), output))
        }
        Command::Agent(how) => runtime.block_on(remote_agent::agent(how, &cpu, output)),
        Command::Status(how) => runtime.block_on(status::status(how, output)),
        Command::Access(command) => runtime.block_on(access::access(command, output)),
        Command::Restore(how) if let Some(server) = how.server() => {
            runtime.block_on(restore::restore_from(&server, how, cpu.clone(), output))
        }
        command => {
            let opening = (access(command), arguments.usage);
            runtime.block_on(with_vault(&arguments.vault, opening, cpu.clone(), work))
        }
    };
    // After an interrupt nobody waits for a disk that may be stuck.
    runtime.shutdown_background();
    ending
}

fn access(command: &Command) -> Access {
    match command {
        Command::Init(_) => Access::Create,
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
        Command::Init(_)
        | Command::Key(_)
        | Command::Rebuild(_)
        | Command::Serve(_)
        | Command::Agent(_)
        | Command::Access(_)
        | Command::Status(_)
        | Command::Enroll(_)
        | Command::Replicate(_)
        | Command::Compare(_)
        | Command::Heal(_)
        | Command::Protection(_)
        | Command::Operator(_)
        | Command::Hold { .. }
        | Command::Release { .. }
        | Command::Approval(_) => Ok(Verdict::Done),
        Command::Protect(arguments) => protect::protect(arguments, server, cpu, output).await,
        Command::Check {
            name,
            image,
            verify,
        } => protect::check(name, image, *verify, server, cpu, output).await,
        Command::Import(arguments) => import::import(arguments, server, cpu, output).await,
        Command::Sources => listing::sources(server, output).await,
        Command::Points {
            name,
            expired: false,
        } => listing::points(name, server, output).await,
        Command::Points { name, .. } => {
            protection::expired(&SourceName::new(name)?, server, output).await
        }
        Command::Undo { points } => protection::undo(points, server, output).await,
        Command::Stats(_) => listing::stats(server, output).await,
        Command::Restore(arguments) => {
            restore::restore(arguments, &*server.recovery_service(), output).await
        }
        Command::Export(arguments) => export::export(arguments, server, output).await,
        Command::Diff { from, to } => diff::diff(from, to, server, output).await,
        Command::Expire(arguments) => expire::expire(arguments, server, output).await,
        Command::Collect(arguments) => collect::collect(arguments, server, output).await,
        Command::Fold(arguments) => fold::fold(arguments, server, output).await,
        Command::Verify(arguments) => verify::verify(arguments, server, output).await,
        Command::Pin { point } => marking::mark(point, Mark::Pin, server, output).await,
        Command::Unpin { point } => marking::mark(point, Mark::Unpin, server, output).await,
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
