//! `operator` and `approval`: who approves what protects the vault less.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use backstop::{
    ApprovalRequest, Approved, DedupStore, Error, ErrorKind, GuardedAction, OperatorKey,
    ProtectionServer, Result,
};
use serde::Serialize;
use serde_json::json;

use crate::credential::operator_key;
use crate::ending::{Ending, Verdict};
use crate::guard_arguments::{ActionCommand, ApprovalCommand, OperatorCommand, Signer};
use crate::output::Output;
use crate::table::{Align, Table};

/// Lists, registers or removes operators, or makes a key for one.
pub async fn operator(command: &OperatorCommand, vault: &DedupStore, output: Output) -> Ending {
    match command {
        OperatorCommand::List => {
            let operators = vault.operators().await?;
            let mut table = Table::new(&[("operator", Align::Left), ("public key", Align::Left)]);
            for operator in &operators.registered {
                table.row(vec![operator.name.clone(), operator.key.to_string()]);
            }
            output.print(&operators.registered, table)?;
        }
        OperatorCommand::Key { to } => {
            let public = new_key(to)?;
            let object = json!({"file": to, "key": public});
            output.print(&object, format_args!("{public}\n"))?;
        }
        OperatorCommand::Add { name, key } => {
            vault.add_operator(name, *key).await?;
            let object = json!({"name": name, "key": key});
            output.print(&object, format_args!("registered {name}\n"))?;
        }
        OperatorCommand::Remove { name } => {
            vault.remove_operator(name).await?;
            output.print(&json!({"removed": name}), format_args!("removed {name}\n"))?;
        }
    }
    Ok(Verdict::Done)
}

/// Makes a file with a fresh key; gives what the vault is told of it.
fn new_key(path: &Path) -> Result<String> {
    let key = OperatorKey::generate()?;
    let failed = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            _ => ErrorKind::InvalidInput,
        };
        Error::new(kind, format!("{} can't be made", path.display())).with_source(error)
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(&*key.to_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(key.public()?.to_string())
}

#[derive(Debug, Serialize)]
struct RequestReport<'a> {
    id: &'a str,
    action: &'a GuardedAction,
    approved_by: Vec<&'a str>,
    needed: u32,
}

impl<'a> RequestReport<'a> {
    fn of(request: &'a ApprovalRequest, needed: u32) -> Self {
        let approved_by = request.approvals.iter().map(|of| of.operator.as_str());
        Self {
            id: &request.id,
            action: &request.action,
            approved_by: approved_by.collect(),
            needed,
        }
    }
}

/// Lists what waits for approval, asks for something, or approves it.
pub async fn approval(
    command: &ApprovalCommand,
    vault: &DedupStore,
    server: &ProtectionServer,
    output: Output,
) -> Ending {
    let needed = vault.operators().await?.needed;
    match command {
        ApprovalCommand::List => {
            let requests = vault.approval_requests().await?;
            let mut table = Table::new(&[
                ("request", Align::Left),
                ("to", Align::Left),
                ("approved by", Align::Left),
            ]);
            let reports = requests.iter().map(|of| RequestReport::of(of, needed));
            let reports: Vec<RequestReport<'_>> = reports.collect();
            for report in &reports {
                let (id, action) = (report.id.to_owned(), report.action.to_string());
                table.row(vec![id, action, report.approved_by.join(", ")]);
            }
            output.print(&reports, table)?;
        }
        ApprovalCommand::Request { signer, action } => {
            let Signer {
                operator,
                operator_key: file,
            } = signer;
            let action = guarded(action, server).await?;
            let key = operator_key(file)?;
            let request = vault.request_approval(action, operator, &key).await?;
            let text = format!("request {} waits for approval\n", request.id);
            output.print(&RequestReport::of(&request, needed), text)?;
        }
        ApprovalCommand::Confirm { id, signer } => {
            confirm(id, signer, vault, output).await?;
        }
    }
    Ok(Verdict::Done)
}

async fn confirm(id: &str, signer: &Signer, vault: &DedupStore, output: Output) -> Ending {
    let requests = vault.approval_requests().await?;
    let request = requests.iter().find(|request| request.id == id);
    let request = request.ok_or_else(|| {
        Error::not_found(format!(
            "no request {id} waits for approval: it was done, its time is over, or it never was; \
             `backstop approval list` tells those that wait"
        ))
    })?;
    let key = operator_key(&signer.operator_key)?;
    let approval = key.approve(&signer.operator, request)?;
    let (object, text) = match vault.approve(id, approval).await? {
        Approved::Done(action) => (
            json!({"id": id, "done": true, "action": action}),
            format!("done: {action}\n"),
        ),
        Approved::Waiting(more) => (
            json!({"id": id, "done": false, "waiting_for": more}),
            format!("approved; it waits for {more} more\n"),
        ),
        _ => (json!({"id": id}), "approved\n".to_owned()),
    };
    output.print(&object, text)?;
    Ok(Verdict::Done)
}

async fn guarded(action: &ActionCommand, server: &ProtectionServer) -> Result<GuardedAction> {
    Ok(match action {
        ActionCommand::LiftHold { point, reason } => GuardedAction::LiftMarks {
            point: point.find(&*server.recovery_service()).await?.id,
            pinned: false,
            holds: BTreeSet::from([reason.clone()]),
        },
        ActionCommand::Unpin { point } => GuardedAction::LiftMarks {
            point: point.find(&*server.recovery_service()).await?.id,
            pinned: true,
            holds: BTreeSet::new(),
        },
        ActionCommand::UndoWindow { days } => GuardedAction::ShortenUndo {
            seconds: u64::from(*days) * 86_400,
        },
        ActionCommand::Operators { needed } => {
            GuardedAction::NeedFewerOperators { needed: *needed }
        }
        ActionCommand::AddOperator { name, key } => GuardedAction::AddOperator {
            name: name.clone(),
            key: *key,
        },
        ActionCommand::RemoveOperator { name } => {
            GuardedAction::RemoveOperator { name: name.clone() }
        }
        ActionCommand::RemoveKey { slot } => GuardedAction::RemoveKey { slot: slot.clone() },
    })
}
