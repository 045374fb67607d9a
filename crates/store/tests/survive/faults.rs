//! An object store that does to each request what a policy says: let it pass,
//! fail it, answer it wrongly, or never answer.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result, UploadPart,
};

/// What kind of request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Put,
    /// A part of an upload, its beginning, or taking it back.
    Part,
    /// The end of an upload.
    Complete,
    Get,
    List,
    Delete,
    Copy,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Pass,
    /// A transient error; nothing happened.
    Fail,
    /// A transient error; but it happened.
    FailAfter,
    /// Never answered; nothing happened.
    Vanish,
    /// Never answered; but it happened.
    VanishAfter,
    /// The object is said not to be there.
    Missing,
    /// Whoever asks may not; nothing happened.
    Refuse,
    /// A get gives fewer bytes than there are.
    Tear(u64),
    /// A get gives bytes of which one bit is wrong.
    Flip(u64),
}

/// Decides what becomes of requests.
pub(crate) trait Policy: fmt::Debug + Send + Sync + 'static {
    /// A request arrives, and brings or asks for so many bytes, as far as it
    /// says: its number, and how often others go first.
    fn arrive(&self, request: Request, path: &str, length: u64) -> (u64, u32);

    /// Its turn has come.
    fn decide(&self, number: u64, request: Request, path: &str) -> Action;
}

/// What becomes of a request by its kind and path.
type Rule = Box<dyn FnMut(Request, &str) -> Action + Send>;

/// A rule that a test gives, and changes as it goes on.
#[derive(Default)]
pub(crate) struct Script(Mutex<Option<Rule>>);

impl Script {
    /// From now on this rule holds.
    pub(crate) fn rule(&self, rule: impl FnMut(Request, &str) -> Action + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::new(rule));
    }

    /// From now on everything passes.
    pub(crate) fn pass(&self) {
        *self.0.lock().unwrap() = None;
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

impl Policy for Script {
    fn arrive(&self, _: Request, _: &str, _: u64) -> (u64, u32) {
        (0, 0)
    }

    fn decide(&self, _: u64, request: Request, path: &str) -> Action {
        let mut rule = self.0.lock().unwrap();
        rule.as_mut()
            .map_or(Action::Pass, |rule| rule(request, path))
    }
}

/// The store.
#[derive(Debug)]
pub(crate) struct FaultyStore<P> {
    inner: Arc<dyn ObjectStore>,
    policy: Arc<P>,
}

impl<P: Policy> FaultyStore<P> {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, policy: Arc<P>) -> Arc<Self> {
        Arc::new(Self { inner, policy })
    }
}

impl<P> fmt::Display for FaultyStore<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

/// How many bytes a read asks for; zero for all there are.
fn asked(options: &GetOptions) -> u64 {
    match &options.range {
        Some(GetRange::Bounded(range)) => range.end - range.start,
        Some(GetRange::Suffix(length)) => *length,
        Some(GetRange::Offset(_)) | None => 0,
    }
}

fn failed(path: &Path) -> Error {
    Error::Generic {
        store: "faulty",
        source: format!("the request for {path} failed by choice").into(),
    }
}

fn missing(path: &Path) -> Error {
    Error::NotFound {
        path: path.to_string(),
        source: "missing by choice".into(),
    }
}

/// Runs a request under a policy. `work` gets what is asked of an answer.
async fn under<P: Policy, T>(
    policy: &P,
    (request, length): (Request, u64),
    path: &Path,
    work: impl Future<Output = Result<T>>,
) -> Result<(T, Action)> {
    let (number, yields) = policy.arrive(request, path.as_ref(), length);
    for _ in 0..yields {
        tokio::task::yield_now().await;
    }
    let action = policy.decide(number, request, path.as_ref());
    match action {
        Action::Pass | Action::Tear(_) | Action::Flip(_) => Ok((work.await?, action)),
        Action::Fail => Err(failed(path)),
        Action::Missing => Err(missing(path)),
        Action::Refuse => Err(object_store::Error::PermissionDenied {
            path: path.to_string(),
            source: "the object is locked".into(),
        }),
        Action::FailAfter => {
            let _ = work.await;
            Err(failed(path))
        }
        Action::Vanish => std::future::pending().await,
        Action::VanishAfter => {
            let _ = work.await;
            std::future::pending().await
        }
    }
}

#[async_trait]
impl<P: Policy> ObjectStore for FaultyStore<P> {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let what = (Request::Put, payload.content_length() as u64);
        let work = self.inner.put_opts(location, payload, opts);
        under(&*self.policy, what, location, work)
            .await
            .map(|(result, _)| result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let work = self.inner.put_multipart_opts(location, opts);
        let (inner, _) = under(&*self.policy, (Request::Part, 0), location, work).await?;
        Ok(Box::new(FaultyUpload {
            inner,
            policy: Arc::clone(&self.policy),
            path: location.clone(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let what = (Request::Get, asked(&options));
        let work = self.inner.get_opts(location, options);
        let (result, action) = under(&*self.policy, what, location, work).await?;
        match action {
            Action::Tear(seed) => {
                damaged(result, |bytes| {
                    let kept = fastrand::Rng::with_seed(seed).usize(0..bytes.len());
                    bytes.truncate(kept);
                })
                .await
            }
            Action::Flip(seed) => {
                damaged(result, |bytes| {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let at = random.usize(0..bytes.len());
                    bytes[at] ^= 1 << random.u8(..8);
                })
                .await
            }
            _ => Ok(result),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (inner, policy) = (Arc::clone(&self.inner), Arc::clone(&self.policy));
        locations
            .and_then(move |path| {
                let (inner, policy) = (Arc::clone(&inner), Arc::clone(&policy));
                async move {
                    under(&*policy, (Request::Delete, 0), &path, inner.delete(&path)).await?;
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, policy) = (Arc::clone(&self.inner), Arc::clone(&self.policy));
        let prefix = prefix.cloned();
        async move {
            let path = prefix.clone().unwrap_or_default();
            let listed = inner.list(prefix.as_ref());
            under(&*policy, (Request::List, 0), &path, async { Ok(listed) })
                .await
                .map(|(listed, _)| listed)
        }
        .into_stream()
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        let work = self.inner.list_with_delimiter(prefix);
        under(&*self.policy, (Request::List, 0), &path, work)
            .await
            .map(|(result, _)| result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let work = self.inner.copy_opts(from, to, options);
        under(&*self.policy, (Request::Copy, 0), to, work)
            .await
            .map(drop)
    }
}

/// An answer with other bytes; an empty one stays as it is.
async fn damaged(result: GetResult, damage: impl FnOnce(&mut Vec<u8>)) -> Result<GetResult> {
    let (meta, range) = (result.meta.clone(), result.range.clone());
    let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
    let mut bytes = result.bytes().await?.to_vec();
    if !bytes.is_empty() {
        damage(&mut bytes);
    }
    let stream = futures::stream::once(async move { Ok(Bytes::from(bytes)) }).boxed();
    Ok(GetResult {
        payload: GetResultPayload::Stream(stream),
        meta,
        range,
        attributes,
        extensions,
    })
}

#[derive(Debug)]
struct FaultyUpload<P> {
    inner: Box<dyn MultipartUpload>,
    policy: Arc<P>,
    path: Path,
}

#[async_trait]
impl<P: Policy> MultipartUpload for FaultyUpload<P> {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let what = (Request::Part, data.content_length() as u64);
        let work = self.inner.put_part(data);
        let (policy, path) = (Arc::clone(&self.policy), self.path.clone());
        async move { under(&*policy, what, &path, work).await.map(drop) }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let work = self.inner.complete();
        under(&*self.policy, (Request::Complete, 0), &self.path, work)
            .await
            .map(|(result, _)| result)
    }

    async fn abort(&mut self) -> Result<()> {
        let work = self.inner.abort();
        under(&*self.policy, (Request::Part, 0), &self.path, work)
            .await
            .map(drop)
    }
}
