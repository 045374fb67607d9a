//! Which chunks may be named, and what is refused.

use super::rig::{Rig, Run, Source, address};
use crate::conformance::claim;
use crate::conformance::model::{self, Edit};
use crate::{
    Deduplication, ErrorKind, Piece, PieceContent, REGION_LENGTH, RegionAddress, RegionUpdate,
    VerifiedChunk, WHOLE_REGION,
};

const REGION: u64 = REGION_LENGTH as u64;

/// Where [`naming`] puts one chunk after another.
const STEP: u32 = 300_000;

async fn needed(run: &Run, at: &RegionAddress, chunks: &[&VerifiedChunk]) -> Vec<bool> {
    let digests: Vec<_> = chunks.iter().map(|chunk| chunk.digest()).collect();
    claim::succeeds(run.writer.needed(at, &digests).await, "`needed` answers")
}

/// An update that names chunks and sends some of them.
fn naming(at: RegionAddress, chunks: &[&VerifiedChunk], sent: &[&VerifiedChunk]) -> RegionUpdate {
    let starts = (0..).map(|number| number * STEP);
    RegionUpdate {
        at,
        pieces: starts
            .zip(chunks)
            .map(|(start, chunk)| model::whole_piece(start, chunk))
            .collect(),
        chunks: sent.iter().copied().cloned().collect(),
    }
}

pub(super) async fn a_missing_chunk_is_refused_and_nothing_changes(rig: &mut Rig) {
    let mut source = Source::new("vm", REGION);
    rig.initial(&mut source).await;
    let run = rig.begin(&source).await;
    let at = address(0, 0);
    let data = [5000, 6000].map(|length| model::noise(&mut rig.random, length));
    let [known, unknown] = [0, 1].map(|number: usize| model::chunk(&data[number]));
    let before = claim::succeeds(
        run.writer.slices(&at, WHOLE_REGION).await,
        "slices are told",
    );
    claim::fails(
        run.writer
            .write(naming(at.clone(), &[&known, &unknown], &[&known]))
            .await,
        ErrorKind::ChunkMissing,
        "a write that names an unknown chunk is refused",
    );
    let after = claim::succeeds(
        run.writer.slices(&at, WHOLE_REGION).await,
        "slices are told",
    );
    claim::equal(&after, &before, "a refused write changes nothing");
    let update = naming(at, &[&known, &unknown], &[&known, &unknown]);
    claim::succeeds(
        run.writer.write(update).await,
        "a write that sends all its chunks is taken",
    );
    let [known, unknown] = data;
    source.model(0).apply(&Edit::data(0, known));
    source.model(0).apply(&Edit::data(STEP.into(), unknown));
    rig.commit(&mut source, &run).await;
    rig.head_holds(&source).await;
}

pub(super) async fn needed_answers_from_the_own_replica(rig: &mut Rig) {
    let mut source = Source::new("vm", 2 * REGION);
    let data = [10_000, 9000].map(|length| model::noise(&mut rig.random, length));
    let [held, strange] = [0, 1].map(|number: usize| model::chunk(&data[number]));
    let [held_data, strange_data] = data;
    rig.protect(&mut source, &[(0, Edit::data(0, held_data.clone()))])
        .await;
    let run = rig.begin(&source).await;
    let at = address(0, 0);
    claim::equal(
        &needed(&run, &at, &[&strange, &held, &strange]).await,
        &vec![true, false, true],
        "`needed` answers for each digest in order: what the region's map names is there",
    );
    claim::holds(
        needed(&run, &at, &[]).await.is_empty(),
        "`needed` of nothing is nothing",
    );
    let update = naming(at.clone(), &[&strange, &held], &[&strange]);
    claim::succeeds(
        run.writer.write(update).await,
        "a chunk that is not needed may be named",
    );
    source.model(0).apply(&Edit::data(0, strange_data));
    source.model(0).apply(&Edit::data(STEP.into(), held_data));
    claim::equal(
        &needed(&run, &at, &[&strange, &held]).await,
        &vec![false, false],
        "what this synchronization wrote into a region is not needed there again",
    );
    rig.commit(&mut source, &run).await;
    rig.head_holds(&source).await;
}

/// What an agent is told and may do must not depend on what others stored.
pub(super) async fn others_chunks_can_not_be_named(rig: &mut Rig) {
    let mut theirs = Source::new("theirs", REGION);
    let secret = model::noise(&mut rig.random, 20_000);
    rig.protect(&mut theirs, &[(0, Edit::data(0, secret.clone()))])
        .await;
    let chunks = model::update(0, crate::RegionIndex(0), &Edit::data(0, secret)).chunks;
    let chunks: Vec<&VerifiedChunk> = chunks.iter().collect();

    let mut mine = Source::new("mine", REGION);
    rig.initial(&mut mine).await;
    let run = rig.begin(&mine).await;
    let at = address(0, 0);
    claim::holds(
        needed(&run, &at, &chunks)
            .await
            .iter()
            .all(|needed| *needed),
        "a chunk that only another source stored is needed",
    );
    let before = claim::succeeds(
        run.writer.slices(&at, WHOLE_REGION).await,
        "slices are told",
    );
    claim::fails(
        run.writer.write(naming(at.clone(), &chunks, &[])).await,
        ErrorKind::ChunkMissing,
        "a chunk that only another source stored can't be named",
    );
    let after = claim::succeeds(
        run.writer.slices(&at, WHOLE_REGION).await,
        "slices are told",
    );
    claim::equal(&after, &before, "a refused write changes nothing");
    rig.commit(&mut mine, &run).await;
    rig.head_holds(&mine).await;
}

pub(super) async fn a_shared_domain_names_others_chunks(rig: &mut Rig) {
    let mut theirs = Source::new("theirs", REGION);
    let data = model::noise(&mut rig.random, 10_000);
    rig.protect(&mut theirs, &[(0, Edit::data(0, data.clone()))])
        .await;
    let chunk = model::chunk(&data);
    let mut mine = Source::new("mine", 2 * REGION);
    mine.deduplication = Deduplication::Vault;
    let run = rig.begin(&mine).await;
    let at = address(0, 1);
    let unknown = model::chunk(&model::noise(&mut rig.random, 100));
    claim::equal(
        &needed(&run, &at, &[&chunk, &unknown]).await,
        &vec![false, true],
        "in a deduplication domain a chunk that the vault holds is not needed",
    );
    claim::succeeds(
        run.writer.write(naming(at, &[&chunk], &[])).await,
        "in a deduplication domain a chunk that the vault holds may be named",
    );
    mine.model(0).apply(&Edit::data(REGION, data));
    rig.commit(&mut mine, &run).await;
    rig.head_holds(&mine).await;
}

pub(super) async fn bad_updates_are_refused_and_nothing_changes(rig: &mut Rig) {
    let mut source = Source::new("vm", REGION + 10_000);
    rig.initial(&mut source).await;
    let run = rig.begin(&source).await;
    let chunk = model::chunk(&model::noise(&mut rig.random, 8000));
    let whole = |start| model::whole_piece(start, &chunk);
    let hole = |start, length| Piece {
        start,
        length,
        content: PieceContent::Hole,
    };
    let bad = [
        (
            "an image that does not exist",
            address(1, 0),
            vec![whole(0)],
        ),
        ("a region past the end", address(0, 2), vec![whole(0)]),
        (
            "a region far past the end",
            address(0, u64::MAX),
            vec![hole(0, 1)],
        ),
        (
            "a piece past the image's end",
            address(0, 1),
            vec![whole(2001)],
        ),
        (
            "a hole past the image's end",
            address(0, 1),
            vec![hole(10_000, 1)],
        ),
        (
            "a piece past the region's end",
            address(0, 0),
            vec![whole(REGION_LENGTH - 7999)],
        ),
        ("an empty piece", address(0, 0), vec![hole(5, 0)]),
        (
            "pieces out of order",
            address(0, 0),
            vec![whole(50_000), hole(0, 10)],
        ),
        (
            "pieces that overlap",
            address(0, 0),
            vec![whole(0), hole(7999, 10)],
        ),
        (
            "a piece past its chunk's end",
            address(0, 0),
            vec![model::piece(0, 8000, &chunk, 1)],
        ),
        (
            "a piece of an overflowing skip",
            address(0, 0),
            vec![model::piece(0, 1, &chunk, u32::MAX)],
        ),
    ];
    for (what, at, pieces) in bad {
        let chunks = vec![chunk.clone()];
        let update = RegionUpdate { at, pieces, chunks };
        claim::fails(
            run.writer.write(update).await,
            ErrorKind::InvalidInput,
            &format!("a write with {what} is refused as invalid input"),
        );
    }
    rig.commit(&mut source, &run).await;
    rig.head_holds(&source).await;
}
