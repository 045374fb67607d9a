//! The recovery service that the server at the other end is.

use async_trait::async_trait;
use backstop_core::{
    Error, OpenPoint, PointId, RecoveryPoint, RecoveryService, Result, SourceName, SourceStatus,
};

use super::TcpClient;
use super::point::RemotePoint;
use crate::wire::Call;
use crate::wire::control::{decode, encode};
use crate::wire::points::{
    Expire, Page, PointAnswer, PointQuestion, Points, PointsQuestion, Sources, SourcesQuestion,
};

#[async_trait]
impl RecoveryService for TcpClient {
    async fn sources(&self) -> Result<Vec<SourceStatus>> {
        let mut all: Vec<SourceStatus> = Vec::new();
        loop {
            let after = all.last().map(|status| status.source.clone());
            let question = SourcesQuestion { after };
            let answer = self.ask(Call::Sources, encode(&question)?).await?;
            let page: Sources = decode("the server's answer about sources", &answer)?;
            if !add(&mut all, page)? {
                return Ok(all);
            }
        }
    }

    async fn points(&self, source: &SourceName) -> Result<Vec<RecoveryPoint>> {
        let mut all: Vec<RecoveryPoint> = Vec::new();
        loop {
            let question = PointsQuestion {
                source: source.clone(),
                after: all.last().map(|point| point.sequence),
            };
            let answer = self.ask(Call::Points, encode(&question)?).await?;
            let page: Points = decode("the server's answer about recovery points", &answer)?;
            if !add(&mut all, page)? {
                return Ok(all);
            }
        }
    }

    async fn point(&self, point: PointId) -> Result<RecoveryPoint> {
        let question = encode(&PointQuestion { point })?;
        let answer = self.ask(Call::Point, question).await?;
        Ok(decode::<PointAnswer>("the server's answer about a recovery point", &answer)?.point)
    }

    async fn open(&self, point: PointId) -> Result<OpenPoint> {
        // In a task of its own: the server must be told to close what nobody
        // waits for any more.
        let opening = tokio::spawn(RemotePoint::open(self.clone(), point));
        let opened = opening
            .await
            .map_err(|error| Error::internal("opening was cut short").with_source(error))?;
        let (point, remote) = opened?;
        let images = RemotePoint::images(&remote);
        Ok(OpenPoint { point, images })
    }

    async fn expire(&self, points: &[PointId]) -> Result<()> {
        let points = points.to_vec();
        let message = encode(&Expire { points })?;
        self.ask(Call::Expire, message).await.map(drop)
    }
}

/// Takes a page in; tells whether there are more.
fn add<T>(all: &mut Vec<T>, page: Page<T>) -> Result<bool> {
    if page.more && page.items.is_empty() {
        return Err(Error::invalid_input(
            "the server tells of more and does not say what",
        ));
    }
    all.extend(page.items);
    Ok(page.more)
}
