//! `key`: the passphrases and keys that open the vault.

use backstop::{DedupStore, KeySlotInfo, KeySlotKind};
use serde::Serialize;
use serde_json::json;

use crate::arguments::KeyCommand;
use crate::credential::new_credential;
use crate::ending::{Ending, Verdict};
use crate::output::Output;
use crate::table::{Align, Table};

#[derive(Debug, Serialize)]
struct SlotReport {
    id: String,
    kind: &'static str,
}

impl From<KeySlotInfo> for SlotReport {
    fn from(slot: KeySlotInfo) -> Self {
        let kind = match slot.kind {
            KeySlotKind::Open => "open",
            KeySlotKind::Key => "key",
            KeySlotKind::Passphrase => "passphrase",
            KeySlotKind::Unfinished => "unfinished",
            _ => "foreign",
        };
        Self { id: slot.id, kind }
    }
}

/// Lists, adds, replaces or removes key slots.
pub async fn key(command: &KeyCommand, vault: &DedupStore, output: Output) -> Ending {
    let (slot, done) = match command {
        KeyCommand::List => {
            let slots = vault.key_slots().await?;
            let slots: Vec<SlotReport> = slots.into_iter().map(Into::into).collect();
            let mut table = Table::new(&[("slot", Align::Left), ("opens with", Align::Left)]);
            for slot in &slots {
                table.row(vec![slot.id.clone(), slot.kind.to_owned()]);
            }
            output.print(&slots, table)?;
            return Ok(Verdict::Done);
        }
        KeyCommand::Remove { slot } => {
            vault.remove_key(slot).await?;
            output.print(&json!({"removed": slot}), format_args!("removed {slot}\n"))?;
            return Ok(Verdict::Done);
        }
        KeyCommand::Add(new) => (
            vault.add_key(&new_credential(new)?).await?,
            "added".to_owned(),
        ),
        KeyCommand::Replace { slot, with } => {
            let new = new_credential(with)?;
            let added = vault.replace_key(slot, &new).await?;
            (added, format!("replaced {slot} by"))
        }
    };
    let slot = SlotReport::from(slot);
    let text = format!("{done} {}, which opens with a {}\n", slot.id, slot.kind);
    output.print(&slot, text)?;
    Ok(Verdict::Done)
}
