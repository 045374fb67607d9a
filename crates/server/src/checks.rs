//! What agents say is checked before anything is done with it.

use std::collections::BTreeSet;

use backstop_core::{
    BeginRequest, Commit, Error, PieceContent, PointFacts, RegionAddress, RegionUpdate, Result,
    SliceContent, StreamSpec,
};

use crate::settings::ServerSettings;

/// The longest document, in bytes: 1 MiB.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// The most that the documents and facts of one commit may have, in bytes:
/// 64 MiB. They are held in memory together.
const GROUP_BYTES_MAX: usize = 64 << 20;

/// The longest name of a document or a fact, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// The longest value of a fact of provenance, in bytes.
const VALUE_BYTES_MAX: usize = 4096;

/// Checks the images of a request: some, not too many, sorted, each once.
pub(crate) fn begin(request: &BeginRequest, settings: &ServerSettings) -> Result<()> {
    let count = request.streams.len();
    if count == 0 || count > settings.streams_max {
        return Err(Error::invalid_input(format!(
            "{} has {count} images; between 1 and {} can be protected",
            request.source, settings.streams_max
        )));
    }
    for pair in request.streams.windows(2) {
        if pair[0].name >= pair[1].name {
            return Err(Error::invalid_input(format!(
                "the images of {} are not sorted by name: {} comes before {}",
                request.source, pair[0].name, pair[1].name
            )));
        }
    }
    Ok(())
}

/// Checks that a commit is not too large and names each synchronization once.
pub(crate) fn group(commits: &[Commit], settings: &ServerSettings) -> Result<()> {
    if commits.len() > settings.group_max {
        return Err(Error::invalid_input(format!(
            "{} synchronizations can't be committed together; {} can",
            commits.len(),
            settings.group_max
        )));
    }
    let bytes: usize = commits.iter().map(|commit| weight(&commit.facts)).sum();
    if bytes > GROUP_BYTES_MAX {
        return Err(Error::invalid_input(format!(
            "the documents and facts of a commit have {bytes} bytes; {GROUP_BYTES_MAX} are allowed"
        )));
    }
    let mut ids = BTreeSet::new();
    for commit in commits {
        if !ids.insert(commit.synchronization) {
            return Err(Error::invalid_input(format!(
                "synchronization {} is named twice in one commit",
                commit.synchronization
            )));
        }
        facts(&commit.facts, settings).map_err(|error| {
            error.within(format_args!(
                "committing synchronization {}",
                commit.synchronization
            ))
        })?;
    }
    Ok(())
}

/// The bytes of what an agent tells beside the images.
fn weight(facts: &PointFacts) -> usize {
    let documents = facts.documents.iter().map(|it| it.content.len());
    let provenance = facts
        .provenance
        .iter()
        .map(|(key, value)| key.len() + value.len());
    documents.chain(provenance).sum()
}

fn facts(facts: &PointFacts, settings: &ServerSettings) -> Result<()> {
    at_most("documents", facts.documents.len(), settings.documents_max)?;
    at_most(
        "facts of provenance",
        facts.provenance.len(),
        settings.provenance_max,
    )?;
    let mut names = BTreeSet::new();
    for document in &facts.documents {
        name("document", &document.name)?;
        let length = document.content.len();
        if length > DOCUMENT_BYTES_MAX {
            return Err(Error::invalid_input(format!(
                "document {:?} has {length} bytes; {DOCUMENT_BYTES_MAX} are allowed",
                document.name
            )));
        }
        if !names.insert(&document.name) {
            return Err(Error::invalid_input(format!(
                "document {:?} is given twice",
                document.name
            )));
        }
    }
    for (key, value) in &facts.provenance {
        name("fact", key)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::invalid_input(format!(
                "fact {key:?} has {} bytes; {VALUE_BYTES_MAX} are allowed",
                value.len()
            )));
        }
    }
    Ok(())
}

fn at_most(what: &str, count: usize, most: usize) -> Result<()> {
    if count <= most {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "{count} {what} are too many; {most} are allowed"
    )))
}

/// Checks the name of a document, a fact or a hold.
pub(crate) fn name(what: &str, name: &str) -> Result<()> {
    let length = name.len();
    if (1..=NAME_BYTES_MAX).contains(&length) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "{what} name {name:?} is empty, longer than {NAME_BYTES_MAX} bytes, or contains control characters"
    )))
}

/// The length of a region that is addressed, in bytes.
pub(crate) fn region_length(streams: &[StreamSpec], at: &RegionAddress) -> Result<u64> {
    let stream = stream(streams, at.stream)?;
    let extent = at.region.extent(stream.length);
    if extent.is_empty() {
        return Err(Error::invalid_input(format!(
            "region {} lies past the end of image {} ({} bytes)",
            at.region.0, stream.name, stream.length
        )));
    }
    Ok(extent.length().0)
}

/// An image that is addressed by its place.
pub(crate) fn stream(streams: &[StreamSpec], place: usize) -> Result<&StreamSpec> {
    streams.get(place).ok_or_else(|| {
        Error::invalid_input(format!(
            "image {place} does not exist: the synchronization has {}",
            streams.len()
        ))
    })
}

/// Checks that the pieces of an update are sorted, don't overlap, and lie in
/// their region and in the chunks that are sent.
pub(crate) fn update(streams: &[StreamSpec], update: &RegionUpdate) -> Result<()> {
    let region = region_length(streams, &update.at)?;
    let mut previous_end = 0;
    for piece in &update.pieces {
        let start = u64::from(piece.start);
        let end = start + u64::from(piece.length);
        if piece.length == 0 || start < previous_end || end > region {
            return Err(Error::invalid_input(format!(
                "a piece of {} bytes at {start} of region {} of image {} is empty, out of order, \
                 or passes the end",
                piece.length, update.at.region.0, streams[update.at.stream].name
            )));
        }
        previous_end = end;
    }
    pieces_fit_chunks(update)
}

fn pieces_fit_chunks(update: &RegionUpdate) -> Result<()> {
    let sent: std::collections::HashMap<_, _> = update
        .chunks
        .iter()
        .map(|chunk| (chunk.digest(), u64::from(chunk.length())))
        .collect();
    for piece in &update.pieces {
        let PieceContent::Data(SliceContent::Chunk { digest, skip }) = piece.content else {
            continue;
        };
        let end = u64::from(skip) + u64::from(piece.length);
        if sent.get(&digest).is_some_and(|length| end > *length) {
            return Err(Error::invalid_input(format!(
                "a piece of {} bytes from byte {skip} passes the end of chunk {digest}",
                piece.length
            )));
        }
    }
    Ok(())
}
