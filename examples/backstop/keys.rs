//! `key`: the passphrases and keys that open the vault, and the vault's own keys.

use backstop::{DedupStore, KeySlotInfo, KeySlotKind, Objects, RecoveryKey, RetireReport};
use serde::Serialize;
use serde_json::json;

use crate::arguments::KeyCommand;
use crate::credential::new_credential;
use crate::ending::{Ending, Verdict};
use crate::output::Output;
use crate::report::amount;
use crate::table::{Align, Table};

#[derive(Debug, Serialize)]
struct SlotReport {
    id: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    /// Told once, when it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_key: Option<String>,
}

impl From<KeySlotInfo> for SlotReport {
    fn from(slot: KeySlotInfo) -> Self {
        let kind = match slot.kind {
            KeySlotKind::Open => "open",
            KeySlotKind::Key => "key",
            KeySlotKind::Passphrase => "passphrase",
            KeySlotKind::Recovery => "recovery",
            KeySlotKind::Provider => "provider",
            KeySlotKind::Unfinished => "unfinished",
            KeySlotKind::Missing => "missing",
            _ => "foreign",
        };
        let (provider, reference) = slot.provider.unzip();
        Self {
            id: slot.id,
            kind,
            provider,
            reference,
            recovery_key: None,
        }
    }
}

impl SlotReport {
    fn opens_with(&self) -> String {
        match (&self.provider, &self.reference) {
            (Some(provider), Some(reference)) => format!("provider {provider} ({reference})"),
            _ => self.kind.to_owned(),
        }
    }
}

/// Lists, adds, replaces or removes key slots, and changes the vault's own keys.
pub async fn key(command: &KeyCommand, vault: &DedupStore, output: Output) -> Ending {
    let (slot, made, done) = match command {
        KeyCommand::List => return list(vault, output).await,
        KeyCommand::Ring => return ring(vault, output).await,
        KeyCommand::Rotate => {
            let key = vault.rotate_key().await?;
            let text = format!(
                "everything new is sealed under vault key {key}; `collect --reseal` seals anew what is there\n"
            );
            output.print(&json!({"current": key}), text)?;
            return Ok(Verdict::Done);
        }
        KeyCommand::Retire => {
            let report = vault.retire_keys().await?;
            return retired(&report, output);
        }
        KeyCommand::Remove { slot } => {
            vault.remove_key(slot).await?;
            let text = format!(
                "removed {slot}; if who had it should read nothing new, run `key rotate`\n"
            );
            output.print(&json!({"removed": slot}), text)?;
            return Ok(Verdict::Done);
        }
        KeyCommand::Add(new) => {
            let (new, made) = new_credential(new)?;
            (vault.add_key(&new).await?, made, "added".to_owned())
        }
        KeyCommand::Replace { slot, with } => {
            let (new, made) = new_credential(with)?;
            let added = vault.replace_key(slot, &new).await?;
            (added, made, format!("replaced {slot} by"))
        }
    };
    let mut slot = SlotReport::from(slot);
    let mut text = format!(
        "{done} {}, which opens with a {}\n",
        slot.id,
        slot.opens_with()
    );
    if let Some(key) = made.as_ref().map(RecoveryKey::to_text) {
        let once = "This is told once: write it down, and lock it away.";
        text = format!("{text}\n    {}\n\n{once}\n", *key);
        slot.recovery_key = Some(key.to_string());
    }
    output.print(&slot, text)?;
    Ok(Verdict::Done)
}

async fn list(vault: &DedupStore, output: Output) -> Ending {
    let slots = vault.key_slots().await?;
    let slots: Vec<SlotReport> = slots.into_iter().map(Into::into).collect();
    let mut table = Table::new(&[("slot", Align::Left), ("opens with", Align::Left)]);
    for slot in &slots {
        table.row(vec![slot.id.clone(), slot.opens_with()]);
    }
    output.print(&slots, table)?;
    Ok(Verdict::Done)
}

async fn ring(vault: &DedupStore, output: Output) -> Ending {
    let ring = vault.key_ring().await?;
    let mut table = Table::new(&[
        ("vault key", Align::Left),
        ("created", Align::Left),
        ("packs", Align::Right),
        ("bytes", Align::Right),
        ("", Align::Left),
    ]);
    let mut keys = Vec::new();
    for key in &ring.keys {
        let what = if key.is_current { "current" } else { "" };
        table.row(vec![
            key.id.to_string(),
            key.created.to_string(),
            key.packs.count.to_string(),
            amount(key.packs.bytes),
            what.to_owned(),
        ]);
        keys.push(json!({
            "id": key.id,
            "created": key.created,
            "is_current": key.is_current,
            "packs": key.packs,
        }));
    }
    output.print(&keys, table)?;
    Ok(Verdict::Done)
}

fn retired(report: &RetireReport, output: Output) -> Ending {
    let retired = report.retired.iter();
    let mut lines: Vec<String> = retired
        .map(|key| format!("dropped vault key {key}\n"))
        .collect();
    lines.extend(report.kept.iter().map(|(key, Objects { count, bytes })| {
        let bytes = amount(*bytes);
        format!("kept vault key {key}: {count} packs ({bytes}) are sealed under it; `collect --reseal` seals them anew\n")
    }));
    if lines.is_empty() {
        lines.push("the vault has one key, the current one\n".to_owned());
    }
    let kept = report.kept.iter();
    let kept: Vec<_> = kept
        .map(|(key, packs)| json!({"id": key, "packs": packs}))
        .collect();
    output.print(
        &json!({"retired": report.retired, "kept": kept}),
        lines.concat(),
    )?;
    Ok(Verdict::Done)
}
