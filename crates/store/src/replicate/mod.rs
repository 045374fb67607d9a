//! Replication: recovery points are copied to a second vault, with other keys
//! and on another store, and keep their identity.
//!
//! A point is a synchronization there, whose changes are told by the maps: of
//! the new point's here and of the newest that both vaults have ([`changes`]).
//! So all that holds for synchronizations holds for it: what the vault has is
//! not sent, it is resumed where it stood, a collection may run beside it, and
//! points that were committed together are committed together. Maps are named by
//! their content, so both ends agree when their roots do.

mod changes;
mod doubt;
mod heal;
mod origin;
mod plan;

use std::sync::Arc;

use backstop_core::{
    Agreement, ByteCount, Deduplication, Error, Monitor, NewPoint, PointFacts, PointKind, Progress,
    RecoveryStore, ReplicaState, ReplicaWriter, ReplicateOptions, ReplicateReport, Result,
    SnapshotId, StoreBegin, StreamSpec, region_count,
};

use crate::catalog::POINTS;
use crate::dedup_store::DedupStore;
use crate::failure;
use crate::folding;
use crate::manifest::{Entry, Manifest};
use crate::map::tree::ImageMap;
use crate::record::{self, PointRecord};
use crate::session::Session;
use crate::usage::Operation;
use crate::vault::Vault;
use plan::Plan;

impl DedupStore {
    /// Copies recovery points to another vault, which must be open as its
    /// owner: for each source those that are newer than the newest which the other
    /// has of this vault, whether or not it has expired here; all if it has none.
    ///
    /// What travels are the chunks that the other vault lacks, as they are
    /// stored, each checked against its name before. Points keep their id, their
    /// time, their documents and marks, and the state that their replica had;
    /// they get a sequence of the other vault. Where the other vault has found what
    /// it stores of a replica in doubt, the next point is copied whole, and what is
    /// there is read before it is relied on, which ends the doubt; until then, and
    /// where an agent told doubt there, it stays and is told. An agent whose base is the newest
    /// of them can go on there with an express full.
    ///
    /// *Atomic*: each point, or all of a group that was committed together, is
    /// there whole or not at all. *Cancelling* leaves what was committed; another
    /// run goes on in the middle of a point. Both vaults can be used meanwhile.
    ///
    /// # Errors
    /// [`Conflict`](backstop_core::ErrorKind::Conflict) for a source whose newest
    /// point there never was one of this vault's: the two went their own ways;
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for a source that is
    /// named and not here. A damaged point is no error: it is told.
    pub async fn replicate(
        &self,
        to: &Self,
        options: &ReplicateOptions,
        monitor: &dyn Monitor,
    ) -> Result<ReplicateReport> {
        if self.id() == to.id() {
            return Err(Error::invalid_input(
                "a vault can't be replicated to itself: both are the same",
            ));
        }
        to.vault.writer()?;
        let replicating = Box::pin(self.copy(to, options, monitor));
        let meter = &self.vault.place.meter;
        meter.during(Operation::Replicate, replicating).await
    }

    async fn copy(
        &self,
        to: &Self,
        options: &ReplicateOptions,
        monitor: &dyn Monitor,
    ) -> Result<ReplicateReport> {
        let _read = self.vault.reading.begin();
        let plan = Plan::make(&self.vault, &to.vault, &options.sources).await?;
        let mut run = Run {
            from: self,
            to,
            monitor,
            report: ReplicateReport {
                held: plan.held,
                passed_over: plan.passed_over,
                ..ReplicateReport::default()
            },
            done: 0,
            total: 0,
        };
        let lengths = plan.steps.iter().flatten().flat_map(|record| {
            let streams = record.point.streams.iter();
            streams.map(|stream| stream.length.0)
        });
        run.total = lengths.fold(0, u64::saturating_add);
        for step in &plan.steps {
            let most = options.most_points;
            if most.is_some_and(|most| run.report.points.len() as u64 >= most) {
                run.report.is_partial = true;
                break;
            }
            let names = step
                .iter()
                .map(|record| (record.point.source.clone(), record.point.id));
            if options.dry_run {
                run.report.points.extend(names);
                continue;
            }
            match Box::pin(run.step(step)).await {
                Ok(()) => run.report.points.extend(names),
                Err(error) if failure::is_damage(&error) => {
                    tracing::warn!(%error, "a recovery point can't be replicated");
                    run.report.damaged.extend(names);
                }
                Err(error) => return Err(error),
            }
        }
        if !options.dry_run {
            for source in &plan.sources {
                if doubt::comes_over(&self.vault, to, source).await? {
                    run.report.in_doubt.push(source.clone());
                }
            }
        }
        Ok(run.report)
    }

    /// Compares the points that this and another vault hold, by the names of
    /// their roots: the same name is the same content, to the last byte. Reads
    /// no data; whether that can be read, [`verify`] tells.
    ///
    /// # Errors
    /// Those of the stores.
    ///
    /// [`verify`]: backstop_core::Maintenance::verify
    pub async fn agrees_with(&self, other: &Self) -> Result<Agreement> {
        let here = plan::points(&self.vault).await?;
        let there = plan::points(&other.vault).await?;
        let mut agreement = Agreement::default();
        for (id, record) in &here {
            match there.get(id) {
                None => agreement.only_here += 1,
                Some(other) if other.manifest == record.manifest => agreement.same += 1,
                Some(_) => {
                    let name = (record.point.source.clone(), *id);
                    agreement.different.push(name);
                }
            }
        }
        let only = there.keys().filter(|id| !here.contains_key(id));
        agreement.only_there = only.count() as u64;
        agreement.different.sort();
        Ok(agreement)
    }
}

/// A replication under way.
struct Run<'a> {
    from: &'a DedupStore,
    to: &'a DedupStore,
    monitor: &'a dyn Monitor,
    report: ReplicateReport,
    done: u64,
    total: u64,
}

/// A point that is sent.
struct Member<'a> {
    record: &'a PointRecord,
    session: Arc<Session>,
    state_before: ReplicaState,
}

impl Run<'_> {
    /// Copies points that belong together. What can't be committed ends: for
    /// good if something is damaged, else to be continued.
    async fn step(&mut self, step: &[PointRecord]) -> Result<()> {
        let copied = self.try_step(step).await;
        if let Err(error) = &copied {
            for record in step {
                let begun = self.to.vault.session(record.point.synchronization);
                let Some(session) = begun else { continue };
                let ended = if failure::is_damage(error) {
                    session.abort().await
                } else {
                    session.suspend().await
                };
                if let Err(error) = ended {
                    tracing::debug!(%error, "a replication could not be ended");
                }
            }
        }
        copied
    }

    async fn try_step(&mut self, step: &[PointRecord]) -> Result<()> {
        let mut members = Vec::with_capacity(step.len());
        for record in step {
            members.push(self.send(record).await?);
        }
        let mut points = Vec::with_capacity(members.len());
        for member in &members {
            points.push(self.new_point(member).await?);
        }
        let committed = self.to.commit(points).await?;
        for point in committed {
            let added = point.bytes_added.unwrap_or_default();
            self.report.bytes_added = self.report.bytes_added.saturating_add(added);
        }
        Ok(())
    }

    /// Sends what the other vault lacks of a point.
    async fn send<'r>(&mut self, record: &'r PointRecord) -> Result<Member<'r>> {
        let point = &record.point;
        let (from, to) = (&self.from.vault, &self.to.vault);
        let manifest = from.manifest(record).await?;
        let replica = to.replica_entry(&point.source).await?;
        let is_whole = replica
            .as_ref()
            .is_some_and(|replica| doubt::is_about_data(&replica.state));
        let head = replica.as_ref().and_then(|replica| replica.head);
        let base = head.filter(|_| !is_whole);
        // It has to start from the maps that both have.
        folding::forget(to, &point.source).await?;
        let begin = StoreBegin {
            id: point.synchronization,
            source: point.source.clone(),
            // What it is made of never changes.
            snapshot: SnapshotId::from_bytes(point.id.to_bytes()),
            streams: point
                .streams
                .iter()
                .map(|stream| StreamSpec {
                    name: stream.name.clone(),
                    length: stream.length,
                })
                .collect(),
            base,
            deduplication: Deduplication::Vault,
            kind: match base {
                _ if is_whole => PointKind::ConsistencyCheck,
                None => PointKind::Initial,
                Some(_) => PointKind::ExpressFull,
            },
            verify: is_whole,
        };
        if let Some(begun) = to.unfinished_entry(&point.source).await?
            && (begun.base, begun.verify) != (begin.base, begin.verify)
        {
            // It was copied otherwise before the replica came into doubt.
            let _one = to.commit.lock().await;
            to.delete_unfinished(&point.source).await?;
        }
        let writer = self.to.begin(begin.clone()).await?;
        let session = to.session(begin.id).ok_or_else(|| {
            Error::conflict(format!(
                "another synchronization of {} has begun; repeat the replication",
                point.source
            ))
        })?;
        let bases = self.to.maps_of(&begin).await?;
        for (stream, base) in bases.into_iter().enumerate() {
            let spec = &begin.streams[stream];
            let Some(Entry::Image(map)) = manifest.entries.get(spec.name.as_str()) else {
                return Err(Error::corrupt(format!(
                    "the manifest of recovery point {} has no image {}",
                    point.id, spec.name
                )));
            };
            let copy = changes::Copy {
                from,
                to,
                writer: &*writer,
                stream,
            };
            let before = self.done;
            let length = spec.length.0;
            let (monitor, total) = (self.monitor, self.total);
            let tell = |region: u64| {
                let done = before + (region << 22).min(length);
                monitor.tell_progress(Progress {
                    done: ByteCount(done),
                    total: ByteCount(total),
                })
            };
            let sent = copy.image(base, *map, tell).await?;
            self.report.regions += sent.regions;
            self.report.chunks += sent.chunks;
            self.report.bytes_sent.0 += sent.bytes;
            self.done = before + length;
            let end = backstop_core::RegionIndex(region_count(spec.length));
            writer.progress(stream, end).await?;
        }
        let settled = session.settle().await?;
        check_roots(record, &manifest, &begin, &settled.maps)?;
        Ok(Member {
            record,
            session,
            state_before: replica.map_or(ReplicaState::Pending, |replica| replica.state),
        })
    }

    async fn new_point(&mut self, member: &Member<'_>) -> Result<NewPoint> {
        let point = &member.record.point;
        let documents = self.from.documents(point.id).await?;
        let bytes: usize = documents
            .iter()
            .map(|document| document.content.len())
            .sum();
        self.report.bytes_sent.0 += bytes as u64;
        let mut facts = PointFacts::new(point.kind);
        facts.consistency = point.consistency;
        facts.snapshot_time = point.snapshot_time;
        facts.counts = point.counts;
        facts.sample = point.sample;
        facts.provenance = point.provenance.clone();
        origin::add(&mut facts.provenance, self.from.id(), point.sequence);
        facts.documents = documents;
        Ok(NewPoint {
            synchronization: member.session.begin.id,
            id: point.id,
            time: point.time,
            facts,
            marks: point.marks.clone(),
            state_before: member.state_before.clone(),
            state: doubt::state_after(&member.state_before, member.record),
        })
    }
}

/// Both ends must have come to the same maps.
fn check_roots(
    record: &PointRecord,
    manifest: &Manifest,
    begin: &StoreBegin,
    maps: &[ImageMap],
) -> Result<()> {
    for (spec, map) in begin.streams.iter().zip(maps) {
        if manifest.entries.get(spec.name.as_str()) != Some(&Entry::Image(*map)) {
            return Err(Error::internal(format!(
                "the copy of {} of recovery point {} came out as something else",
                spec.name, record.point.id
            )));
        }
    }
    Ok(())
}

/// All points of a vault.
async fn records(vault: &Vault) -> Result<Vec<PointRecord>> {
    let mut records = Vec::new();
    let mut points = vault.catalog.scan(&[POINTS]).await?;
    while let Some((_, value)) = points.next().await? {
        records.push(record::decode("a point's record", &value)?);
    }
    Ok(records)
}
