//! What is done for calls about recovery points.

use std::sync::Arc;
use std::time::Duration;

use backstop_core::{
    Audited, ByteOffset, Error, ErrorKind, Extent, PointId, REGION_LENGTH, RecoveredRange,
    Recovery, RecoveryPoint, RecoveryService, RegionIndex, Result,
};
use bytes::Bytes;
use tokio::time::timeout;

use super::access::{self, may_recover};
use super::session::Caller;
use super::turns::Share;
use crate::limits;
use crate::tls::Role;
use crate::wire::Call;
use crate::wire::control::{decode, encode};
use crate::wire::image::{self, Part, READ_LENGTH_MAX, Told};
use crate::wire::points::{
    Close, Expire, Opened, Page, PointAnswer, PointQuestion, PointsQuestion, SourcesQuestion,
};

/// How long an opening waits for its note, which goes on by itself.
const NOTE_PATIENCE: Duration = Duration::from_millis(100);

/// What is made for a list, in bytes: a page, and what it is made of.
const LIST_LENGTH: u64 = 2 << 20;

/// Of points that expire, so many are told in the audit.
const EXPIRED_TOLD: usize = 100;

/// So many ranges are told at once, which is 1 MiB.
const TOLD_MAX: usize = 64 << 10;

/// How much of an image is looked at in one step for ranges with data, in bytes,
/// and how many steps one call makes: what a step finds may be an extent for every
/// slice of its maps, of which a region has 32 Ki at most.
const LOOK_LENGTH: u64 = 32 * REGION_LENGTH as u64;
const LOOKS_MAX: usize = 64;

/// What one step finds takes that much, in bytes.
const LOOK_MEMORY: u64 = 16 << 20;

/// Answers one call; gives the memory that the answer takes with it.
pub(super) async fn answer(
    caller: &Arc<Caller>,
    call: Call,
    message: Bytes,
    share: Share,
) -> Result<(Bytes, Share)> {
    let service = caller.shared.recovery.as_deref().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "this protection server gives no recovery points back over the network",
        )
    })?;
    // Who holds memory and waits for more would hold up whoever does the same, so
    // the message's goes back first; what is left of the message is small.
    match call {
        Call::Extents | Call::Read => {
            let part = Part::decode(message)?;
            drop(share);
            if call == Call::Extents {
                let mut share = caller.take(LOOK_MEMORY).await?;
                let answer = extents(caller, part).await?;
                share.shrink(answer.len() as u64);
                return Ok((answer, share));
            }
            read(caller, part).await
        }
        Call::Sources | Call::Points => {
            let mut share = caller.exchange(share, LIST_LENGTH).await?;
            let answer = if call == Call::Sources {
                sources(caller, service, &message).await?
            } else {
                points(caller, service, &message).await?
            };
            share.shrink(answer.len() as u64);
            Ok((answer, share))
        }
        Call::Point => {
            let PointQuestion { point } = decode("a question for a recovery point", &message)?;
            let point = known(caller, call, service, point).await?;
            let answer = PointAnswer {
                point: told(caller, point),
            };
            Ok((encode(&answer)?, share))
        }
        Call::Open => Ok((open(caller, service, &message).await?, share)),
        Call::Close => {
            let Close { image } = decode("the closing of a recovery point", &message)?;
            caller.images.close(image);
            Ok((Bytes::new(), share))
        }
        _ => {
            let Expire { points } = decode("the expiry of recovery points", &message)?;
            access::may_operate(caller, call)?;
            let noted = Audited::Expired {
                points: points.iter().take(EXPIRED_TOLD).copied().collect(),
                count: points.len() as u64,
            };
            access::note(caller, noted).await?;
            service.expire(&points).await?;
            tracing::info!(peer = %caller.peer, points = points.len(), "expired recovery points");
            Ok((Bytes::new(), share))
        }
    }
}

/// A point as the peer may know it.
fn told(caller: &Caller, point: RecoveryPoint) -> RecoveryPoint {
    match caller.peer.role {
        Role::Operator => point,
        Role::Agent => point.for_agents(),
    }
}

/// A point that the peer may recover; any other is as good as unknown.
async fn known(
    caller: &Arc<Caller>,
    call: Call,
    service: &dyn RecoveryService,
    id: PointId,
) -> Result<RecoveryPoint> {
    let unknown = || Error::not_found(format!("there is no recovery point {id}"));
    let point = service.point(id).await.map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            unknown()
        } else {
            error
        }
    })?;
    if let Err(error) = may_recover(caller, &point.source).await {
        if error.kind() != ErrorKind::Forbidden {
            return Err(error);
        }
        access::refused(caller, call, &error);
        return Err(unknown());
    }
    Ok(point)
}

async fn sources(caller: &Caller, service: &dyn RecoveryService, message: &[u8]) -> Result<Bytes> {
    let question: SourcesQuestion = decode("a question for sources", message)?;
    let mut asked = Vec::new();
    for status in service.sources().await? {
        let is_behind = question
            .after
            .as_ref()
            .is_none_or(|after| status.source > *after);
        if !is_behind {
            continue;
        }
        match may_recover(caller, &status.source).await {
            Ok(()) => asked.push(status),
            Err(error) if error.kind() == ErrorKind::Forbidden => {}
            Err(error) => return Err(error),
        }
    }
    encode(&Page::first(asked)?)
}

async fn points(
    caller: &Arc<Caller>,
    service: &dyn RecoveryService,
    message: &[u8],
) -> Result<Bytes> {
    let question: PointsQuestion = decode("a question for recovery points", message)?;
    let may = may_recover(caller, &question.source).await;
    may.inspect_err(|error| access::refused(caller, Call::Points, error))?;
    let all = service.points(&question.source).await?.into_iter();
    let asked = all.filter(|point| question.after.is_none_or(|after| point.sequence > after));
    encode(&Page::first(asked.map(|point| told(caller, point)))?)
}

async fn open(
    caller: &Arc<Caller>,
    service: &dyn RecoveryService,
    message: &[u8],
) -> Result<Bytes> {
    let PointQuestion { point } = decode("the opening of a recovery point", message)?;
    let known = known(caller, Call::Open, service, point).await?;
    let place = caller.images.place()?;
    let (id, source) = (known.id, known.source);
    let noting = access::note(caller, Audited::Opened { point: id, source });
    // Beside each other: nothing can be read before both are done.
    let noting = timeout(NOTE_PATIENCE, noting);
    let (noted, open) = futures::future::join(noting, service.open(point)).await;
    let noted = noted.unwrap_or_else(|_| Err(Error::unavailable("it takes too long")));
    if let Err(error) = noted {
        // On a full disk, or beside the vault's owner, data must come back too.
        tracing::warn!(peer = %caller.peer, %point, %error, "an opening was not noted");
    }
    let open = open?;
    let shapes = open.images.iter().map(|image| image.geometry());
    let (shapes, point) = (shapes.collect(), told(caller, open.point.clone()));
    tracing::info!(peer = %caller.peer, point = %point.id, source = %point.source, "opened");
    encode(&Opened::new(caller.images.keep(open, place), point, shapes))
}

async fn extents(caller: &Caller, part: Part) -> Result<Bytes> {
    let image = caller.images.get(part.image)?;
    may_recover(caller, &image.open.point.source).await?;
    let image = image.stream(part.stream)?;
    check(&**image, part.range)?;
    Ok(look(&**image, part.range).await?.encode())
}

fn check(image: &dyn Recovery, range: Extent) -> Result<()> {
    let length = image.geometry().length;
    if Extent::whole(length).contains(range) {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "{range} lies past the end of an image of {length} bytes"
    )))
}

/// Finds what may hold data, as far as one answer goes.
async fn look(image: &dyn Recovery, range: Extent) -> Result<Told> {
    let mut told = Told {
        until: range.offset(),
        data: Vec::new(),
    };
    for _ in 0..LOOKS_MAX {
        let end = told.until.0.saturating_add(LOOK_LENGTH);
        let end = ByteOffset(end.min(range.end().0));
        let found = image.data_extents(Extent::between(told.until, end)).await?;
        told.until = end;
        for extent in found {
            match told.data.last_mut() {
                Some(last) if last.end() == extent.offset() => {
                    *last = Extent::between(last.offset(), extent.end());
                }
                _ => told.data.push(extent),
            }
        }
        if told.data.len() > TOLD_MAX {
            told.data.truncate(TOLD_MAX);
            told.until = told.data.last().map_or(end, |last| last.end());
            break;
        }
        if told.until >= range.end() {
            break;
        }
    }
    Ok(told)
}

async fn read(caller: &Caller, part: Part) -> Result<(Bytes, Share)> {
    let range = part.range;
    if range.length().0 > READ_LENGTH_MAX {
        return Err(Error::invalid_input(format!(
            "{} bytes are too many for one read; {READ_LENGTH_MAX} are allowed",
            range.length()
        )));
    }
    let image = caller.images.get(part.image)?;
    let source = &image.open.point.source;
    let image = image.stream(part.stream)?;
    check(&**image, range)?;
    let turn = Arc::clone(&caller.images.reading).acquire_owned().await;
    let turn = turn.map_err(|_| Error::internal("there are no turns for reads"))?;
    // What is read and what is made of it are there at the same time.
    let mut share = caller.take(2 * range.length().0).await?;
    share.keep(turn);
    // After all waiting: what was withdrawn meanwhile is not read.
    may_recover(caller, source).await?;
    let recovered = recover(&**image, range).await?;
    let codecs = Arc::clone(&caller.shared.codecs);
    let encoding = move || image::encode_read(range, recovered, &codecs);
    let answer = caller.shared.cpu.run(encoding).await??;
    share.shrink(answer.len() as u64);
    Ok((answer, share))
}

/// Reads region by region: a map that can't be read costs its own region.
async fn recover(image: &dyn Recovery, range: Extent) -> Result<RecoveredRange> {
    let length = image.geometry().length;
    let mut whole = RecoveredRange::default();
    let mut at = range.offset();
    while at < range.end() {
        let region = RegionIndex::at(at).extent(length);
        let part = region.intersection(Extent::between(at, range.end()));
        match image.recover(part).await {
            Ok(recovered) => {
                whole.data.extend(recovered.data);
                whole.missing.extend(recovered.missing);
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => whole.missing.push((part, error)),
            Err(error) => return Err(error),
        }
        at = part.end();
    }
    Ok(whole)
}

/// So many reads of one connection take no more than half of the memory that a
/// server has by default.
const _: () = assert!(limits::READS as u64 * 2 * READ_LENGTH_MAX <= 64 << 20);
