//! A recovery point that the server at the other end has open.

use std::sync::Arc;

use backstop_core::{
    Error, Extent, Geometry, PointId, RecoveredRange, Recovery, RecoveryPoint, Result,
};
use bytes::Bytes;
use tokio::sync::Mutex;

use super::TcpClient;
use super::connection::Connection;
use super::image::RemoteImage;
use crate::wire::Call;
use crate::wire::control::{decode, encode};
use crate::wire::image::{Part, Read};
use crate::wire::points::{Close, Opened, PointQuestion};

/// An open point; it is closed when this is dropped.
pub(super) struct RemotePoint {
    client: TcpClient,
    id: PointId,
    streams: Vec<(String, Geometry)>,
    handle: Mutex<Handle>,
}

/// What the server knows it by.
#[derive(Clone)]
struct Handle {
    connection: Arc<Connection>,
    image: u64,
}

/// Asks for a point to be opened, over the connection of now or a new one.
async fn open(client: &TcpClient, point: PointId) -> Result<(Handle, Opened)> {
    let connection = client.connection().await?;
    let question = encode(&PointQuestion { point })?;
    let answer = connection.ask(Call::Open, question).await?;
    let opened: Opened = decode("the server's answer to an opening", &answer)?;
    let image = opened.image;
    Ok((Handle { connection, image }, opened))
}

impl RemotePoint {
    pub(super) async fn open(client: TcpClient, id: PointId) -> Result<(RecoveryPoint, Arc<Self>)> {
        let (handle, opened) = open(&client, id).await?;
        let geometries = opened.geometries()?;
        let point = opened.point;
        let names = point.streams.iter();
        let names = names.map(|stream| format!("{} of recovery point {id}", stream.name));
        let remote = Self {
            client,
            id,
            streams: names.zip(geometries).collect(),
            handle: Mutex::new(handle),
        };
        Ok((point, Arc::new(remote)))
    }

    pub(super) fn images(self: &Arc<Self>) -> Vec<Arc<dyn Recovery>> {
        let streams = self.streams.iter().enumerate();
        let image = |(stream, (name, geometry)): (usize, &(String, Geometry))| {
            let reader = Reader {
                point: Arc::clone(self),
                stream,
            };
            Arc::new(RemoteImage::new(reader, name.clone(), *geometry)) as Arc<dyn Recovery>
        };
        streams.map(image).collect()
    }

    /// What the server knows it by now: it is opened again if the connection
    /// broke.
    async fn handle(self: &Arc<Self>) -> Result<Handle> {
        {
            let handle = self.handle.lock().await;
            if handle.connection.is_open() {
                return Ok(handle.clone());
            }
        }
        // In a task of its own: what the server has opened must be known, whoever
        // still waits for it.
        let point = Arc::clone(self);
        let opening = tokio::spawn(async move { point.open_again().await });
        opening
            .await
            .map_err(|error| Error::internal("opening was cut short").with_source(error))?
    }

    async fn open_again(&self) -> Result<Handle> {
        let mut handle = self.handle.lock().await;
        if !handle.connection.is_open() {
            let (again, opened) = open(&self.client, self.id).await?;
            let known = self.streams.iter().map(|(_, geometry)| *geometry);
            if opened.geometries()? != known.collect::<Vec<_>>() {
                return Err(Error::conflict(format!(
                    "recovery point {} has other images than it had when it was opened",
                    self.id
                )));
            }
            *handle = again;
        }
        Ok(handle.clone())
    }
}

impl Drop for RemotePoint {
    fn drop(&mut self) {
        let Handle { connection, image } = self.handle.get_mut().clone();
        if !connection.is_open() {
            return;
        }
        let (Ok(runtime), Ok(message)) = (
            tokio::runtime::Handle::try_current(),
            encode(&Close { image }),
        ) else {
            // It ends with the connection.
            return;
        };
        drop(runtime.spawn(async move {
            if let Err(error) = connection.ask(Call::Close, message).await {
                tracing::debug!(%error, "a recovery point was not closed");
            }
        }));
    }
}

/// Reads one image of a point.
#[derive(Clone)]
pub(super) struct Reader {
    point: Arc<RemotePoint>,
    stream: usize,
}

impl Reader {
    pub(super) async fn ask(&self, call: Call, range: Extent) -> Result<Bytes> {
        let Handle { connection, image } = self.point.handle().await?;
        let part = Part {
            image,
            stream: self.stream,
            range,
        };
        connection.ask(call, part.encode()).await
    }

    /// Reads a range that one call can read.
    pub(super) async fn recover(&self, range: Extent) -> Result<RecoveredRange> {
        let answer = self.ask(Call::Read, range).await?;
        let read = Read::decode(answer, range)?;
        let codecs = Arc::clone(&self.point.client.codecs);
        let is_work = read.is_compressed();
        let recover = move || codecs.decompress_with(|decompressor| read.recovered(decompressor));
        if is_work {
            self.point.client.cpu.run(recover).await?
        } else {
            recover()
        }
    }
}
