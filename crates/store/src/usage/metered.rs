//! An object store that counts what is asked of another, and changes nothing.
//!
//! Requests count when they are made. The bytes of a get are those that the
//! store says it gives: who stops to read early counts as who reads all.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

use super::ObjectKind;
use super::meter::{Kind, Meter};
use crate::place::catalog_number;
use crate::readers::READERS;

/// How many objects a store lists in one answer.
const PAGE: u64 = 1000;

/// What an object of a vault is, by its name under the vault's prefix.
pub(crate) fn object_kind(name: &str) -> ObjectKind {
    let (folder, file) = name.split_once('/').unwrap_or((name, ""));
    let ending = file.rsplit_once('.').map(|(_, ending)| ending);
    match (folder, ending) {
        ("packs", Some("data")) => ObjectKind::DataPacks,
        ("packs", Some("map")) => ObjectKind::MapPacks,
        (READERS, _) => ObjectKind::Readers,
        (folder, _) if catalog_number(folder).is_some() => ObjectKind::Catalog,
        _ => ObjectKind::Other,
    }
}

fn kind_under(prefix: &Path, location: &Path) -> ObjectKind {
    let name = location.as_ref().strip_prefix(prefix.as_ref());
    object_kind(name.unwrap_or_default().trim_start_matches('/'))
}

/// How many answers it takes to list so many objects.
pub(crate) fn pages(objects: u64) -> u64 {
    objects.div_ceil(PAGE).max(1)
}

/// Counts what is asked of a store by a vault.
#[derive(Debug)]
pub(crate) struct Metered {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    meter: Arc<Meter>,
}

impl Metered {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: &Path, meter: &Arc<Meter>) -> Self {
        Self {
            store,
            prefix: prefix.clone(),
            meter: Arc::clone(meter),
        }
    }

    fn object(&self, location: &Path) -> ObjectKind {
        kind_under(&self.prefix, location)
    }

    fn listed(&self, prefix: Option<&Path>) -> ObjectKind {
        prefix.map_or(ObjectKind::Other, |prefix| self.object(prefix))
    }

    /// Counts the pages of a list as it is read.
    fn paged(
        &self,
        prefix: Option<&Path>,
        list: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (meter, object) = (Arc::clone(&self.meter), self.listed(prefix));
        let operation = meter.operation();
        meter.count_for(operation, object, Kind::List, 1, 0);
        let mut seen: u64 = 0;
        let paged = list.inspect(move |_| {
            if seen > 0 && seen.is_multiple_of(PAGE) {
                meter.count_for(operation, object, Kind::List, 1, 0);
            }
            seen += 1;
        });
        paged.boxed()
    }
}

impl fmt::Display for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

fn length(payload: &PutPayload) -> u64 {
    payload.content_length() as u64
}

#[async_trait]
impl ObjectStore for Metered {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.meter
            .count(self.object(location), Kind::Put, length(&payload));
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let object = self.object(location);
        self.meter.count(object, Kind::Upload, 0);
        let upload = self.store.put_multipart_opts(location, options).await?;
        Ok(Box::new(MeteredUpload {
            upload,
            object,
            meter: Arc::clone(&self.meter),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let object = self.object(location);
        let operation = self.meter.operation();
        let kind = if options.head { Kind::Head } else { Kind::Get };
        self.meter.count_for(operation, object, kind, 1, 0);
        let result = self.store.get_opts(location, options).await?;
        if kind == Kind::Get {
            let bytes = result.range.end.saturating_sub(result.range.start);
            self.meter.count_for(operation, object, kind, 0, bytes);
        }
        Ok(result)
    }

    // `get_ranges` stays the trait's own: it reads neighbours at once, by the
    // above.

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (meter, operation) = (Arc::clone(&self.meter), self.meter.operation());
        let prefix = self.prefix.clone();
        let counted = locations.inspect(move |location| {
            if let Ok(location) = location {
                let object = kind_under(&prefix, location);
                meter.count_for(operation, object, Kind::Delete, 1, 0);
            }
        });
        self.store.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.paged(prefix, self.store.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.paged(prefix, self.store.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (object, operation) = (self.listed(prefix), self.meter.operation());
        self.meter.count_for(operation, object, Kind::List, 1, 0);
        let listed = self.store.list_with_delimiter(prefix).await?;
        let names = listed.objects.len() + listed.common_prefixes.len();
        let more = pages(names as u64) - 1;
        self.meter.count_for(operation, object, Kind::List, more, 0);
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.meter.count(self.object(to), Kind::Copy, 0);
        self.store.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        // What stores make of it that know no renaming.
        self.meter.count(self.object(to), Kind::Copy, 0);
        self.meter.count(self.object(from), Kind::Delete, 0);
        self.store.rename_opts(from, to, options).await
    }
}

/// An upload in parts whose requests are counted.
#[derive(Debug)]
struct MeteredUpload {
    upload: Box<dyn MultipartUpload>,
    object: ObjectKind,
    meter: Arc<Meter>,
}

#[async_trait]
impl MultipartUpload for MeteredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.meter.count(self.object, Kind::Part, length(&data));
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.meter.count(self.object, Kind::Upload, 0);
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.meter.count(self.object, Kind::Delete, 0);
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests;
