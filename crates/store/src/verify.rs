//! Verification: every frame of packs is read, opened, and compared with its
//! name.
//!
//! Packs are read in the order of their numbers. What is written while a cycle
//! is under way, also what a collection moves, gets higher numbers, so that
//! nothing is passed over. What is damaged counts as not held from then on, so
//! that the next synchronization that has it stores it again; and it is told
//! which ranges of which points need it.

pub(crate) mod ranges;
mod scan;

use std::sync::Arc;

use backstop_core::{
    ByteCount, ChunkDigest, Error, ErrorKind, Monitor, Progress, Result, VerifyOptions,
    VerifyReport,
};
use futures::{StreamExt, TryStreamExt, stream};

use crate::catalog::{Batch, VERIFIED};
use crate::failure;
use crate::pack::frame::{self, Content};
use crate::pack::index::Pack;
use crate::pack::table::{HEADER_LENGTH, TableEntry};
use crate::record::{self, PackRecord, VerifiedUpTo};
use crate::vault::Vault;

/// About how much is read of a pack at once, in bytes.
const AT_ONCE: u64 = 2 << 20;

/// Frames of a pack that are read together.
struct Part {
    number: u64,
    pack: Arc<Pack>,
    entries: Vec<TableEntry>,
}

/// What became of a part.
struct Checked {
    frames: u64,
    damaged: Vec<(Content, ChunkDigest)>,
    /// Of the first part: whether the pack's header is as it should be.
    begins_well: bool,
}

/// How many packs are read at once: while the last parts of one are checked, the
/// first of the next are read.
const PACKS_AT_ONCE: usize = 2;

/// A verification under way, or what it finds of one pack.
struct Run<'a> {
    vault: &'a Arc<Vault>,
    report: VerifyReport,
    damaged: Vec<(Content, ChunkDigest)>,
    /// Packs without a table that do not hold all that they should.
    broken: Vec<u64>,
}

/// Verifies packs.
pub(crate) async fn verify(
    vault: &Arc<Vault>,
    options: &VerifyOptions,
    monitor: &dyn Monitor,
) -> Result<VerifyReport> {
    let _read = vault.reading.begin();
    let began = vault.clock.now();
    let packs = vault.listed_packs().await?;
    let mut run = Run::new(vault);
    for (_, record) in &packs {
        run.report.all.add(record.bytes);
    }
    let share = run
        .report
        .all
        .bytes
        .0
        .div_ceil(u64::from(options.parts.max(1)));
    let from = if vault.catalog.is_owner() {
        verified_up_to(vault).await?
    } else {
        0
    };
    let start = packs.partition_point(|(number, _)| *number < from);
    let (before, after) = packs.split_at(start);
    let mut next = None;
    let mut ended = Ok(());
    let order = [after, before].concat();
    let numbers: Vec<u64> = order.iter().map(|(number, _)| *number).collect();
    let mut looking = stream::iter(order)
        .map(|(number, record)| async move {
            let mut run = Run::new(vault);
            run.pack(number, &record).await.map(|()| run)
        })
        .buffered(PACKS_AT_ONCE);
    for number in numbers {
        let late = options
            .most_time
            .is_some_and(|most| vault.clock.now().since(began) >= most);
        run.report.is_partial |= late;
        next = Some(number);
        if late || run.report.packs.bytes.0 >= share {
            break;
        }
        let Some(looked) = looking.try_next().await? else {
            break;
        };
        run.absorb(looked);
        next = None;
        ended = monitor.tell_progress(Progress {
            done: ByteCount(run.report.packs.bytes.0.min(share)),
            total: ByteCount(share),
        });
        if ended.is_err() {
            next = Some(number + 1);
            break;
        }
    }
    drop(looking);
    if vault.catalog.is_owner() {
        // If all of it was seen, the next one begins where this one did.
        keep(vault, next.unwrap_or(from)).await?;
    }
    ended?;
    if run.report.unavailable.count > 0
        && let Some(registration) = &vault.registration
    {
        // Who is not waited for any more has verified nothing.
        registration.check().await?;
    }
    let Run {
        mut report,
        damaged,
        broken,
        ..
    } = run;
    if !damaged.is_empty() || !broken.is_empty() {
        ranges::find(vault, &damaged, broken, &mut report).await?;
    }
    Ok(report)
}

impl<'a> Run<'a> {
    fn new(vault: &'a Arc<Vault>) -> Self {
        Self {
            vault,
            report: VerifyReport::default(),
            damaged: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// Takes what was found of one pack.
    fn absorb(&mut self, other: Self) {
        let (report, found) = (&mut self.report, other.report);
        report.frames += found.frames;
        report.damaged += found.damaged;
        report.damaged_tables += found.damaged_tables;
        for (all, one) in [
            (&mut report.packs, found.packs),
            (&mut report.unavailable, found.unavailable),
        ] {
            all.count += one.count;
            all.bytes = all.bytes.saturating_add(one.bytes);
        }
        self.damaged.extend(other.damaged);
        self.broken.extend(other.broken);
    }

    /// Reads one pack. What can't be read now, for whatever reason, is no
    /// damage, and holds up none of the others; but a newer format is nothing
    /// to go around.
    async fn pack(&mut self, number: u64, record: &PackRecord) -> Result<()> {
        if let Err(error) = self.read_pack(number, record).await {
            if error.kind() == ErrorKind::Unsupported {
                return Err(error);
            }
            tracing::warn!(pack = %record.name, %error, "a pack could not be verified now");
            self.report.unavailable.add(record.bytes);
        }
        self.report.packs.add(record.bytes);
        Ok(())
    }

    async fn read_pack(&mut self, number: u64, record: &PackRecord) -> Result<()> {
        let vault = self.vault;
        let (pack, entries) = match self.table(number, record).await {
            Ok(table) => table,
            Err(error) if failure::is_damage(&error) => {
                tracing::warn!(pack = %record.name, %error, "a pack's table is damaged");
                let whole = scan::whole_frames(vault, record).await?;
                self.report.damaged_tables += 1;
                self.report.frames += whole;
                self.report.damaged += record.frames.saturating_sub(whole);
                if whole < record.frames {
                    self.broken.push(number);
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let parts = stream::iter(parts(number, &pack, entries));
        let mut checked = parts
            .map(|part| check(vault, part))
            .buffer_unordered(vault.cpu.parallelism() + 1);
        let mut ended = Ok(());
        while let Some(part) = checked.next().await {
            match part {
                Ok(part) => {
                    self.report.frames += part.frames;
                    self.report.damaged += part.damaged.len() as u64;
                    self.damaged.extend(part.damaged);
                    if !part.begins_well {
                        tracing::warn!(pack = %record.name, "a pack's header is damaged");
                        self.report.damaged_tables += 1;
                    }
                }
                Err(error) => ended = Err(error),
            }
        }
        ended
    }

    /// The table of a pack. Of a pack that is gone, every frame that the table
    /// would have told is damage.
    async fn table(
        &self,
        number: u64,
        record: &PackRecord,
    ) -> Result<(Arc<Pack>, Vec<TableEntry>)> {
        match self.vault.index.table(number).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.vault.reader.store.check_vault().await?;
                let what = format!("pack {} is gone", record.name);
                Err(Error::corrupt(what).with_source(error))
            }
            table => table,
        }
    }
}

/// Cuts a pack into parts.
fn parts(number: u64, pack: &Arc<Pack>, entries: Vec<TableEntry>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut length = AT_ONCE;
    for entry in entries {
        let frame = entry.header.frame_length() as u64;
        if length + frame > AT_ONCE {
            length = 0;
            parts.push(Part {
                number,
                pack: Arc::clone(pack),
                entries: Vec::new(),
            });
        }
        length += frame;
        if let Some(part) = parts.last_mut() {
            part.entries.push(entry);
        }
    }
    parts
}

/// Reads a part and checks its frames; what is damaged is read once more.
async fn check(vault: &Arc<Vault>, part: Part) -> Result<Checked> {
    let first = read(vault, &part).await?;
    forgive(vault, &part, &first).await?;
    if first.damaged.is_empty() && first.begins_well {
        return Ok(first);
    }
    // It may have been damaged only on its way here.
    let again = read(vault, &part).await?;
    let mut damaged = Vec::new();
    if !again.damaged.is_empty() {
        vault.reader.refuse_newer(part.number).await?;
    }
    for (content, digest) in again.damaged {
        let located = vault.index.locate_indexed(content, &[digest]).await?;
        // Another copy may have taken its place.
        if located.iter().flatten().any(|at| at.pack == part.number) {
            vault.index.mark_bad(content, &digest).await;
            damaged.push((content, digest));
        }
    }
    Ok(Checked {
        frames: again.frames,
        damaged,
        begins_well: again.begins_well,
    })
}

/// What was bad and could be read is bad no more: the disk may have come to itself.
async fn forgive(vault: &Vault, part: &Part, checked: &Checked) -> Result<()> {
    for entry in &part.entries {
        let frame = (entry.header.content, entry.digest);
        if !vault.index.is_bad(frame.0, &frame.1) || checked.damaged.contains(&frame) {
            continue;
        }
        let located = vault.index.locate_indexed(frame.0, &[frame.1]).await?;
        if located.iter().flatten().any(|at| at.pack == part.number) {
            vault.index.forget_bad(&frame).await;
        }
    }
    Ok(())
}

async fn read(vault: &Arc<Vault>, part: &Part) -> Result<Checked> {
    let (Some(first), Some(last)) = (part.entries.first(), part.entries.last()) else {
        return Ok(Checked {
            frames: 0,
            damaged: Vec::new(),
            begins_well: true,
        });
    };
    // The first part takes the pack's header along, which a rebuild goes by.
    let begins = first.offset == HEADER_LENGTH as u64;
    let start = if begins { 0 } else { first.offset };
    let end = last.offset + last.header.frame_length() as u64;
    let buffer = vault.buffer(usize::try_from(end - start).unwrap_or(0));
    let bytes = vault.reader.read_into(&part.pack, start, buffer).await;
    let mut bytes = match bytes {
        Ok(bytes) => Some(bytes),
        Err(error) if failure::is_damage(&error) => None,
        Err(error) => return Err(error),
    };
    let (pack, entries) = (Arc::clone(&part.pack), part.entries.clone());
    let codecs = Arc::clone(&vault.codecs);
    let check = move || {
        let mut plain = Vec::new();
        let mut damaged = Vec::new();
        let head = bytes.as_ref().filter(|_| begins);
        let begins_well = head.is_none_or(|head| head.starts_with(&pack.header()));
        for entry in &entries {
            let from = usize::try_from(entry.offset - start).unwrap_or(usize::MAX);
            let to = from.saturating_add(entry.header.frame_length());
            let frame = bytes.as_mut().and_then(|bytes| bytes.get_mut(from..to));
            let opened = frame
                .ok_or_else(|| Error::corrupt("a pack ends early"))
                .and_then(|sealed| frame::open(sealed, entry.offset, &pack.key, &pack.name))
                .and_then(|(header, payload)| {
                    plain.resize(header.plain_length as usize, 0);
                    codecs.decompress_with(|decompressor| {
                        decompressor.decompress(header.encoding, payload, &mut plain)
                    })?;
                    Ok(header == entry.header && ChunkDigest::of(&plain) == entry.digest)
                });
            if !matches!(opened, Ok(true)) {
                tracing::warn!(pack = %pack.name, offset = entry.offset, "a frame is damaged");
                damaged.push((entry.header.content, entry.digest));
            }
        }
        Checked {
            frames: entries.len() as u64,
            damaged,
            begins_well,
        }
    };
    vault.cpu.run(check).await
}

async fn verified_up_to(vault: &Vault) -> Result<u64> {
    let value = vault.catalog.get(VERIFIED).await?;
    let record = value
        .map(|value| record::decode::<VerifiedUpTo>("the mark of verification", &value))
        .transpose()?;
    Ok(record.map_or(0, |record| record.next_pack))
}

async fn keep(vault: &Vault, next_pack: u64) -> Result<()> {
    let mut batch = Batch::default();
    batch.put(VERIFIED, &record::encode(&VerifiedUpTo { next_pack })?);
    vault.catalog.write(batch).await
}
