//! Where a vault lies: a URL, a path, or an object store that the caller has.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use backstop_core::{Error, Result, Timestamp};
use futures::TryStreamExt;
#[cfg(feature = "aws")]
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
#[cfg(feature = "aws")]
use object_store::{ClientOptions, ObjectStoreScheme};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion};
use url::Url;

use crate::failure;
use crate::object_lock::ObjectLock;
use crate::object_lock::locks::Locks;
#[cfg(feature = "aws")]
use crate::object_lock::s3::S3ObjectLock;
use crate::pack::sink::{ObjectPacks, PackStore};
use crate::usage::meter::Meter;
use crate::usage::metered::Metered;
use crate::usage::metered_packs::MeteredPacks;

/// The folder of the first catalog, and how those of others begin.
const CATALOG: &str = "db";

/// The folder of a catalog.
pub(crate) fn catalog_folder(number: u32) -> String {
    match number {
        0 => CATALOG.to_owned(),
        number => format!("{CATALOG}-{number}"),
    }
}

/// The catalog of a folder.
pub(crate) fn catalog_number(folder: &str) -> Option<u32> {
    let rest = folder.strip_prefix(CATALOG)?;
    if rest.is_empty() {
        return Some(0);
    }
    let number = rest.strip_prefix('-')?.parse().ok()?;
    (catalog_folder(number) == folder).then_some(number)
}

/// A bucket of S3, as `object_store::parse_url_opts` makes it, and what locks its
/// objects.
#[cfg(feature = "aws")]
fn s3(
    url: &Url,
    options: impl Iterator<Item = (String, String)>,
) -> object_store::Result<(AmazonS3, S3ObjectLock)> {
    let mut builder = AmazonS3Builder::new().with_url(url.as_str());
    let mut client = ClientOptions::new();
    for (key, value) in options {
        if let Ok(key) = key.parse::<AmazonS3ConfigKey>() {
            if let AmazonS3ConfigKey::Client(key) = key {
                client = client.with_config(key, value.clone());
            }
            builder = builder.with_config(key, value);
        }
    }
    let store = builder.build()?;
    let lock = S3ObjectLock::new(store.clone(), client);
    Ok((store, lock))
}

/// One prefix of an object store.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    /// The folder of a vault on local files.
    pub(crate) folder: Option<PathBuf>,
    /// What the caller called it, for messages.
    pub(crate) name: String,
    /// Which catalog counts, by the vault's header.
    pub(crate) catalog: u32,
    /// Counts what is asked of the store.
    pub(crate) meter: Arc<Meter>,
    /// What objects are locked with here, and for how long.
    pub(crate) locks: Arc<Locks>,
}

impl Place {
    /// A place by URL (`file:///srv/vault`, `s3://bucket/prefix`, `az://…`,
    /// `gs://…`, `memory://`) or by a path of a local folder.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        match Url::parse(text) {
            Ok(url) if url.scheme() == "file" => {
                let folder = url.to_file_path().map_err(|()| {
                    Error::invalid_input(format!(
                        "{text} names no local folder; write file:///path"
                    ))
                })?;
                Ok(Self::local(&folder))
            }
            Ok(url) => Self::remote(text, &url),
            Err(_) => {
                let folder = std::path::absolute(text).map_err(|error| {
                    Error::invalid_input(format!("{text:?} is neither a URL nor a path"))
                        .with_source(error)
                })?;
                Ok(Self::local(&folder))
            }
        }
    }

    fn local(folder: &FilePath) -> Self {
        let place = Self {
            // Replaced by the folder's own store when it exists; nothing is
            // made by only naming a vault.
            store: Arc::new(object_store::memory::InMemory::new()),
            prefix: Path::default(),
            folder: Some(folder.to_owned()),
            name: folder.display().to_string(),
            catalog: 0,
            meter: Arc::default(),
            locks: Arc::default(),
        };
        place.locking_with(None)
    }

    fn remote(text: &str, url: &Url) -> Result<Self> {
        let refused = |error| {
            Error::invalid_input(format!(
                "{text} is no place for a vault; is the feature for this store enabled?"
            ))
            .with_source(error)
        };
        // No setting of a store is anything but text.
        let variables = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        let options = variables.map(|(key, value)| (key.to_ascii_lowercase(), value));
        #[cfg(feature = "aws")]
        if let Ok((ObjectStoreScheme::AmazonS3, path)) = ObjectStoreScheme::parse(url) {
            let prefix = Path::parse(path).map_err(|error| refused(error.into()))?;
            let (store, lock) = s3(url, options).map_err(refused)?;
            let place = Self::metered(Arc::new(store), prefix, text.to_owned());
            return Ok(place.locking_with(Some(Arc::new(lock))));
        }
        let (store, prefix) = object_store::parse_url_opts(url, options).map_err(refused)?;
        Ok(Self::metered(Arc::from(store), prefix, text.to_owned()))
    }

    /// A prefix of a store that the caller made.
    pub(crate) fn of_store(store: Arc<dyn ObjectStore>, prefix: &str) -> Result<Self> {
        let prefix = Path::parse(prefix).map_err(|error| {
            Error::invalid_input(format!("{prefix:?} is no prefix of an object store"))
                .with_source(error)
        })?;
        let name = format!("{store}/{prefix}");
        Ok(Self::metered(store, prefix, name))
    }

    fn metered(store: Arc<dyn ObjectStore>, prefix: Path, name: String) -> Self {
        let meter = Arc::default();
        let place = Self {
            store: Arc::new(Metered::new(store, &prefix, &meter)),
            prefix,
            folder: None,
            name,
            catalog: 0,
            meter,
            locks: Arc::default(),
        };
        place.locking_with(None)
    }

    /// The same, whose objects are locked with this.
    pub(crate) fn locking_with(self, lock: Option<Arc<dyn ObjectLock>>) -> Self {
        let meter = Arc::clone(&self.meter);
        let locks = Locks::new(lock, self.prefix.clone(), self.name.clone(), meter);
        Self {
            locks: Arc::new(locks),
            ..self
        }
    }

    /// Makes the local folder, if there is one, and sees to it that it is
    /// there after power loss.
    pub(crate) fn make(&mut self) -> Result<()> {
        if let Some(folder) = &self.folder {
            let made = folder
                .ancestors()
                .take_while(|folder| !folder.exists())
                .count();
            std::fs::create_dir_all(folder).map_err(|error| failure::of_io(folder, error))?;
            for parent in folder.ancestors().skip(1).take(made) {
                let synced = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
                synced.map_err(|error| failure::of_io(parent, error))?;
            }
        }
        self.attach()
    }

    /// Opens the local folder, if there is one.
    pub(crate) fn attach(&mut self) -> Result<()> {
        if let Some(folder) = &self.folder {
            let missing = |error: std::io::Error| match error.kind() {
                std::io::ErrorKind::NotFound => self.missing(),
                _ => failure::of_io(folder, error),
            };
            let facts = std::fs::metadata(folder).map_err(missing)?;
            if !facts.is_dir() {
                return Err(Error::invalid_input(format!(
                    "{} is not a folder, so it is no vault",
                    folder.display()
                )));
            }
            let store = LocalFileSystem::new_with_prefix(folder)
                .map_err(|error| failure::of_store(&self.name, error))?;
            let store = Arc::new(store.with_fsync(true));
            self.store = Arc::new(Metered::new(store, &self.prefix, &self.meter));
        }
        Ok(())
    }

    /// The error for a place without a vault.
    pub(crate) fn missing(&self) -> Error {
        Error::not_found(format!(
            "there is no vault at {}; make one first",
            self.name
        ))
    }

    /// The error for a vault that has lost its catalog.
    pub(crate) fn catalog_is_gone(&self) -> Error {
        Error::corrupt(format!(
            "the catalog of the vault at {} (its folder {}) is gone; bring it back, or rebuild it \
             from the packs",
            self.name,
            self.catalog_folder()
        ))
    }

    /// Where its packs go.
    pub(crate) fn packs(&self) -> Result<Arc<dyn PackStore>> {
        #[cfg(unix)]
        if let Some(folder) = &self.folder {
            let packs = crate::pack::local::LocalPacks::new(folder.clone())?;
            return Ok(Arc::new(MeteredPacks::new(packs, &self.meter)));
        }
        Ok(Arc::new(ObjectPacks::new(
            Arc::clone(&self.store),
            self.prefix.clone(),
        )))
    }

    /// The folder of the catalog that counts.
    pub(crate) fn catalog_folder(&self) -> String {
        catalog_folder(self.catalog)
    }

    /// An object under the prefix.
    pub(crate) fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), Path::join)
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Vec<u8>> {
        let object = self.store.get(&self.path(name)).await;
        let bytes = match object {
            Ok(object) => object.bytes().await,
            Err(error) => Err(error),
        };
        bytes
            .map(Into::into)
            .map_err(|error| failure::of_store(name, error))
    }

    /// An object, and by what this version of it is known.
    pub(crate) async fn get_versioned(&self, name: &str) -> Result<(Vec<u8>, UpdateVersion)> {
        let failed = |error| failure::of_store(name, error);
        let object = self.store.get(&self.path(name)).await.map_err(failed)?;
        let version = UpdateVersion {
            e_tag: object.meta.e_tag.clone(),
            version: object.meta.version.clone(),
        };
        let bytes = object.bytes().await.map_err(failed)?;
        Ok((bytes.into(), version))
    }

    /// Puts an object in the place of this version of it; tells whether it was
    /// still that one. On local files, and where a store can't tell versions
    /// apart, it is put in any case: there an owner's lock, or nothing, keeps
    /// others away.
    pub(crate) async fn put_over(
        &self,
        name: &str,
        bytes: Vec<u8>,
        version: UpdateVersion,
    ) -> Result<bool> {
        use object_store::Error as StoreError;
        let is_known = version.e_tag.is_some() || version.version.is_some();
        if self.folder.is_some() || !is_known {
            return self.put(name, bytes).await.map(|()| true);
        }
        let path = self.path(name);
        let payload = PutPayload::from(bytes.clone());
        let mode = PutMode::Update(version);
        match self.store.put_opts(&path, payload, mode.into()).await {
            Ok(_) => Ok(true),
            // It may be what this very request, sent twice, has put.
            Err(StoreError::Precondition { .. } | StoreError::NotFound { .. }) => {
                Ok(self.get(name).await? == bytes)
            }
            Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => {
                self.put(name, bytes).await.map(|()| true)
            }
            Err(error) => Err(failure::of_store(name, error)),
        }
    }

    /// The first bytes of an object; none if it is shorter.
    pub(crate) async fn get_start(&self, name: &str, bytes: u64) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        let failed = |error| failure::of_store(name, error);
        match self.store.get_range(&path, 0..bytes).await {
            Ok(start) => Ok((start.len() as u64 == bytes).then(|| start.into())),
            Err(error @ object_store::Error::NotFound { .. }) => Err(failed(error)),
            // Stores refuse a range that begins at an object's end.
            Err(error) => match self.store.head(&path).await {
                Ok(facts) if facts.size < bytes => Ok(None),
                _ => Err(failed(error)),
            },
        }
    }

    /// Stores an object that must not be there yet.
    pub(crate) async fn put_new(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let payload = PutPayload::from(bytes);
        self.store
            .put_opts(&self.path(name), payload, PutMode::Create.into())
            .await
            .map(drop)
            .map_err(|error| failure::of_store(name, error))
    }

    pub(crate) async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        self.store
            .put(&self.path(name), PutPayload::from(bytes))
            .await
            .map(drop)
            .map_err(|error| failure::of_store(name, error))
    }

    /// When an object was written; none if it is not there.
    pub(crate) async fn written(&self, name: &str) -> Result<Option<Timestamp>> {
        match self.store.head(&self.path(name)).await {
            Ok(facts) => Ok(Some(Timestamp(facts.last_modified.timestamp_millis()))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failure::of_store(name, error)),
        }
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failure::of_store(name, error)),
        }
    }

    /// Makes it last that objects of a folder were deleted: on local files
    /// power loss could else bring them back.
    pub(crate) fn sync(&self, folder: &str) -> Result<()> {
        let Some(root) = &self.folder else {
            return Ok(());
        };
        let path = root.join(folder);
        let synced = std::fs::File::open(&path).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failure::of_io(&path, error))
    }

    /// When an object of a folder was last written; none if it holds nothing.
    pub(crate) async fn last_written(&self, folder: &str) -> Result<Option<Timestamp>> {
        let failed = |error| failure::of_store(folder, error);
        let path = self.path(folder);
        let mut last = None;
        let mut objects = self.store.list(Some(&path));
        while let Some(object) = objects.try_next().await.map_err(failed)? {
            last = last.max(Some(Timestamp(object.last_modified.timestamp_millis())));
        }
        Ok(last)
    }

    /// Deletes a folder and all that is in it.
    pub(crate) async fn delete_folder(&self, folder: &str) -> Result<()> {
        let failed = |error| failure::of_store(folder, error);
        let path = self.path(folder);
        let objects: Vec<_> = self
            .store
            .list(Some(&path))
            .try_collect()
            .await
            .map_err(failed)?;
        for object in objects {
            match self.store.delete(&object.location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        match self
            .folder
            .as_ref()
            .map(|root| std::fs::remove_dir_all(root.join(folder)))
        {
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failure::of_io(FilePath::new(folder), error))
            }
            _ => Ok(()),
        }
    }

    /// The catalogs that there are, by their folders.
    pub(crate) async fn catalogs(&self) -> Result<Vec<u32>> {
        let folders = self.folders().await?;
        Ok(folders
            .iter()
            .filter_map(|name| catalog_number(name))
            .collect())
    }

    /// The names of the folders of the vault.
    pub(crate) async fn folders(&self) -> Result<Vec<String>> {
        let found = self
            .store
            .list_with_delimiter(Some(&self.prefix))
            .await
            .map_err(|error| failure::of_store(&self.name, error))?;
        let names = found.common_prefixes.iter().filter_map(Path::filename);
        Ok(names.map(str::to_owned).collect())
    }

    /// The names of the objects in a folder of the vault.
    pub(crate) async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let found = self
            .store
            .list_with_delimiter(Some(&self.path(folder)))
            .await
            .map_err(|error| failure::of_store(folder, error))?;
        let names = found
            .objects
            .iter()
            .filter_map(|object| object.location.filename());
        Ok(names.map(|name| format!("{folder}/{name}")).collect())
    }
}
