//! How much of a pack can be read whose table can't.

use backstop_core::Result;

use crate::pack::index::Pack;
use crate::pack::salvage::{self, Salvaged};
use crate::pack::table::FOOTER_LENGTH;
use crate::record::PackRecord;
use crate::vault::Vault;

/// How many frames of a pack can be read. One whose header is damaged hides
/// those behind it.
pub(super) async fn whole_frames(vault: &Vault, record: &PackRecord) -> Result<u64> {
    let pack = Pack::of(record, &vault.seal).await?;
    let tail = FOOTER_LENGTH as u64 + u64::from(record.table_bytes);
    let end = record.bytes.saturating_sub(tail);
    let found = salvage::frames(&vault.reader, &pack, end, &vault.codecs).await?;
    let whole = found
        .iter()
        .filter(|frame| matches!(frame, Salvaged::Whole(_)));
    Ok(whole.count() as u64)
}
