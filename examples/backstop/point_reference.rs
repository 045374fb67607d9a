//! How a recovery point is named on the command line.

use std::convert::Infallible;
use std::str::FromStr;

use backstop::{
    Error, PointId, ProtectionServer, RecoveryPoint, RecoveryService, Result, SourceName,
};

/// The fewest digits of an id that name a point.
const FEWEST_DIGITS: usize = 4;

/// A recovery point by its id, by the first digits of it, or as the newest of
/// a source. What it means is known once the vault is open.
#[derive(Clone, Debug)]
pub struct PointReference(String);

impl FromStr for PointReference {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl PointReference {
    /// Finds the point that is meant.
    pub async fn find(&self, server: &dyn RecoveryService) -> Result<RecoveryPoint> {
        let text = self.0.as_str();
        if let Some(name) = text.strip_suffix("@latest") {
            return newest(server, &SourceName::new(name)?).await;
        }
        if let Ok(id) = text.parse::<PointId>() {
            return server.point(id).await;
        }
        self.by_prefix(server, &self.digits()?).await
    }

    /// Finds the expired point that is meant, by its id or the first digits of
    /// it. A whole id is not looked for.
    pub async fn find_expired(&self, server: &ProtectionServer) -> Result<PointId> {
        let text = self.0.as_str();
        if let Ok(id) = text.parse::<PointId>() {
            return Ok(id);
        }
        let digits = self.digits()?;
        let mut expired = Vec::new();
        for replica in server.sources().await? {
            let points = server.expired(&replica.source).await?;
            expired.extend(points.into_iter().map(|expired| expired.point));
        }
        let found = only(expired, &digits)?.map(|point| point.id);
        found.ok_or_else(|| {
            Error::not_found(format!(
                "no expired recovery point's id begins with {digits}; `backstop points NAME --expired` lists them"
            ))
        })
    }

    /// The first digits of an id.
    fn digits(&self) -> Result<String> {
        let text = self.0.as_str();
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits || !(FEWEST_DIGITS..32).contains(&text.len()) {
            return Err(Error::invalid_input(format!(
                "{text:?} names no recovery point: give an id, at least its first {FEWEST_DIGITS} digits, or NAME@latest"
            )));
        }
        Ok(text.to_ascii_lowercase())
    }

    async fn by_prefix(&self, server: &dyn RecoveryService, digits: &str) -> Result<RecoveryPoint> {
        let mut points = Vec::new();
        for replica in server.sources().await? {
            let of_source = server.points(&replica.source).await?;
            points.extend(only(of_source, digits)?);
        }
        only(points, digits)?.ok_or_else(|| {
            Error::not_found(format!(
                "no recovery point's id begins with {digits}; `backstop points NAME` lists them"
            ))
        })
    }
}

/// The only one of these points whose id begins so.
fn only(points: Vec<RecoveryPoint>, digits: &str) -> Result<Option<RecoveryPoint>> {
    let mut found: Option<RecoveryPoint> = None;
    for point in points {
        if !point.id.to_string().starts_with(digits) {
            continue;
        }
        if let Some(other) = &found {
            return Err(Error::invalid_input(format!(
                "{digits} begins the ids of {} and {}: give more digits",
                other.id, point.id
            )));
        }
        found = Some(point);
    }
    Ok(found)
}

async fn newest(server: &dyn RecoveryService, source: &SourceName) -> Result<RecoveryPoint> {
    let newest = server.points(source).await?.pop();
    newest.ok_or_else(|| unknown_source(source))
}

/// The error for a source that was never protected.
pub fn unknown_source(source: &SourceName) -> Error {
    Error::not_found(format!(
        "source {source} has no recovery point; `backstop sources` lists what has"
    ))
}
