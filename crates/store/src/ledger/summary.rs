//! A summary: all that there is, in the place of all pages before it.

use backstop_core::{Error, Marks, Result};

use super::page::{Page, Past, Summary};
use super::{PER_EVENT, PER_PAGE, frame};
use crate::approvals;
use crate::catalog::{CONDEMNED, EXPIRED, PACKS, POINTS, REPLICAS, numbered_key, pack_number};
use crate::pack::frame::PlainFrame;
use crate::record::{self, PackRecord, PointRecord, ReplicaEntry};
use crate::removal;
use crate::vault::Vault;

/// All that there is, from the catalog.
pub(super) async fn write(vault: &Vault, sequence: u64) -> Result<Vec<PlainFrame>> {
    let mut all = Summary {
        sequence,
        time: Some(vault.time().await?.time),
        protection: Some(removal::protection(vault).await?),
        operators: Some(approvals::operators(vault).await?),
        past: vault.ledger.past(),
        ..Summary::default()
    };
    for prefix in [POINTS, EXPIRED] {
        let mut points = vault.catalog.scan(&[prefix]).await?;
        while let Some((_, value)) = points.next().await? {
            let record: PointRecord = record::decode("a point's record", &value)?;
            let (point, expiry) = (record.point, record.expiry);
            all.expired.extend(expiry.map(|expiry| (point.id, expiry)));
            if point.marks != Marks::default() {
                all.marks.push((point.id, point.marks));
            }
            all.points.push(point.id);
        }
    }
    let mut replicas = vault.catalog.scan(&[REPLICAS]).await?;
    while let Some((_, value)) = replicas.next().await? {
        let entry: ReplicaEntry = record::decode("a replica's record", &value)?;
        all.states.push((entry.source, entry.state));
    }
    let mut condemned = vault.catalog.scan(&[CONDEMNED]).await?;
    while let Some((key, _)) = condemned.next().await? {
        let number = pack_number(&key)?;
        if let Some(value) = vault.catalog.get(&numbered_key(PACKS, number)).await? {
            let record: PackRecord = record::decode("a pack's record", &value)?;
            all.condemned.push(record.name);
        }
    }
    let parts = split(all)?;
    let mut frames = Vec::with_capacity(parts.len());
    for part in parts {
        frames.push(frame(vault, Page::Summary(Box::new(part)))?);
    }
    Ok(frames)
}

/// Cuts a summary into pages.
fn split(mut all: Summary) -> Result<Vec<Summary>> {
    fn take<T>(from: &mut Vec<T>, most: usize) -> Vec<T> {
        from.split_off(from.len().saturating_sub(most))
    }
    let mut parts = Vec::new();
    // By itself: it may be long.
    if !all.past.is_empty() {
        parts.push(Summary {
            sequence: all.sequence,
            time: all.time,
            protection: all.protection,
            operators: all.operators.clone(),
            past: std::mem::take(&mut all.past),
            ..Summary::default()
        });
    }
    loop {
        parts.push(Summary {
            sequence: all.sequence,
            part: 0,
            parts: 0,
            time: all.time,
            protection: all.protection,
            operators: all.operators.clone(),
            points: take(&mut all.points, PER_PAGE),
            expired: take(&mut all.expired, PER_EVENT),
            marks: take(&mut all.marks, PER_EVENT),
            states: take(&mut all.states, PER_EVENT),
            condemned: take(&mut all.condemned, PER_PAGE),
            past: Past::default(),
        });
        let is_empty = all.points.is_empty()
            && all.expired.is_empty()
            && all.marks.is_empty()
            && all.states.is_empty()
            && all.condemned.is_empty();
        if is_empty {
            break;
        }
    }
    let count = u32::try_from(parts.len())
        .map_err(|_| Error::internal("a vault has more points than its ledger can list"))?;
    for (part, number) in parts.iter_mut().zip(0..) {
        part.part = number;
        part.parts = count;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use backstop_core::PointId;

    use super::*;

    fn point(number: usize) -> PointId {
        PointId::from_bytes((number as u128).to_le_bytes())
    }

    #[test]
    fn a_summary_of_any_size_is_cut_into_pages_that_hold_all_of_it() {
        for points in [0, 1, PER_PAGE, PER_PAGE + 1, 3 * PER_PAGE] {
            let all = Summary {
                sequence: 7,
                points: (0..points).map(point).collect(),
                past: Past {
                    began: vec![(3, 4)],
                    ..Past::default()
                },
                marks: (0..points / 5)
                    .map(|at| (point(at), Marks::default()))
                    .collect(),
                ..Summary::default()
            };
            let parts = split(all.clone()).unwrap();
            assert_eq!(parts[0].past, all.past);
            let (mut held, mut marked) = (Vec::new(), 0);
            for (part, number) in parts.iter().zip(0u32..) {
                assert_eq!(
                    (part.part, part.parts),
                    (number, u32::try_from(parts.len()).unwrap())
                );
                assert_eq!(part.sequence, 7);
                assert!(part.points.len() <= PER_PAGE);
                held.extend(part.points.iter().copied());
                marked += part.marks.len();
            }
            held.sort_unstable();
            let mut expected = all.points;
            expected.sort_unstable();
            assert_eq!(held, expected);
            assert_eq!(marked, all.marks.len());
        }
    }
}
