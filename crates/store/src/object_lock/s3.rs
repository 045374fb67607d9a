//! Locks of S3's objects: `PutObjectRetention` and `PutObjectLegalHold`, on the
//! newest version of an object.
//!
//! Requests are signed by `object_store`'s own client, so that they go by the
//! same credentials, region and endpoint. They carry `Content-MD5`: S3 wants that
//! or another checksum for these calls, and it is what all stores that speak S3
//! know.

use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use backstop_core::{Error, ErrorKind, LockMode, Result, Timestamp};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::DateTime;
use md5::{Digest, Md5};
use object_store::ClientOptions;
use object_store::aws::AmazonS3;
use object_store::client::{
    HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector,
};
use object_store::path::Path;
use object_store::signer::{HeaderMap, HeaderName, HeaderValue, Method, SignedUrlOptions, Signer};

use super::{LockState, LockedUntil, ObjectLock};
use crate::failure;

/// For how long a signed request is good.
const SIGNED_FOR: Duration = Duration::from_mins(5);

/// How long is waited before a request is repeated that the store could not
/// answer, and how often.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// The most that is read of an answer, in bytes.
const MOST_ANSWER: usize = 64 << 10;

const RETENTION: &str = "retention";
const LEGAL_HOLD: &str = "legal-hold";

/// Locks objects of a bucket that was made with object lock.
///
/// The credentials need `s3:PutObjectRetention`, `s3:GetObjectRetention`,
/// `s3:PutObjectLegalHold` and `s3:GetObjectLegalHold`, without which S3 keeps
/// quiet of locks. S3 refuses requests of a
/// host whose clock is wrong by minutes, so a clock that is set ahead by mistake
/// locks nothing for too long.
#[derive(Debug)]
pub struct S3ObjectLock {
    store: AmazonS3,
    options: ClientOptions,
    /// Made when it is first needed: most runs lock nothing.
    client: OnceLock<HttpClient>,
}

/// What a store answered.
struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }

    fn code(&self) -> &str {
        between(&self.text, "Code").unwrap_or_default()
    }

    /// The error that this is.
    fn error(&self, object: &Path) -> Error {
        let (kind, sentence) = match (self.status, self.code()) {
            (404, "NoSuchBucket") => (
                ErrorKind::Unavailable,
                format!("the bucket of object {object} is gone"),
            ),
            (404, _) => (
                ErrorKind::NotFound,
                format!("object {object} is missing from the vault"),
            ),
            (400, "InvalidRequest") | (405 | 409 | 501, _) => (
                ErrorKind::Unsupported,
                format!(
                    "the store does not lock object {object}: its bucket was made without object \
                     lock, or it has none"
                ),
            ),
            (401 | 403, _) => (
                ErrorKind::InvalidInput,
                format!(
                    "the store refuses to change the lock of object {object}; its credentials need \
                     s3:PutObjectRetention and s3:PutObjectLegalHold, and a lock that is there may \
                     be firmer"
                ),
            ),
            _ => (
                ErrorKind::Unavailable,
                format!("the store failed to change the lock of object {object}"),
            ),
        };
        let told = between(&self.text, "Message").unwrap_or_default();
        let status = self.status;
        let told = format!("the store answered {status} {}: {told}", self.code());
        Error::new(kind, sentence).with_source(std::io::Error::other(told))
    }
}

/// What stands in an element of an answer.
fn between<'a>(text: &'a str, element: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{element}>"))?;
    Some(rest.split_once(&format!("</{element}>"))?.0)
}

fn mode_name(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Governance => "GOVERNANCE",
        LockMode::Compliance => "COMPLIANCE",
    }
}

/// The locks that the headers of an object tell.
fn told(headers: &HeaderMap) -> LockState {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    let mode = match header("x-amz-object-lock-mode") {
        Some("GOVERNANCE") => Some(LockMode::Governance),
        Some("COMPLIANCE") => Some(LockMode::Compliance),
        _ => None,
    };
    let until = header("x-amz-object-lock-retain-until-date");
    let until = until.and_then(|until| DateTime::parse_from_rfc3339(until).ok());
    let until = until.map(|until| Timestamp(until.timestamp_millis()));
    let locked = mode.zip(until);
    LockState::new(
        locked.map(|(mode, until)| LockedUntil { mode, until }),
        header("x-amz-object-lock-legal-hold") == Some("ON"),
    )
}

impl S3ObjectLock {
    /// Locks objects of the bucket that `store` is; `options` are how its
    /// server is talked to, as they were given to the store's builder.
    pub fn new(store: AmazonS3, options: ClientOptions) -> Self {
        Self {
            store,
            options,
            client: OnceLock::new(),
        }
    }

    fn client(&self) -> Result<&HttpClient> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let made = ReqwestConnector::default().connect(&self.options);
        let made = made.map_err(|error| failure::of_store("of a lock", error))?;
        Ok(self.client.get_or_init(|| made))
    }

    /// Makes a request, again if the store can't answer now.
    async fn ask(&self, object: &Path, change: Option<(&str, &str)>) -> Result<Answer> {
        let mut pauses = PAUSES.iter();
        loop {
            let answered = self.ask_once(object, change).await;
            let is_passing = match &answered {
                Ok(answer) => answer.status >= 500 || answer.status == 429,
                Err(error) => error.kind() == ErrorKind::Unavailable,
            };
            match pauses.next() {
                Some(pause) if is_passing => tokio::time::sleep(*pause).await,
                _ => return answered,
            }
        }
    }

    /// Changes a lock; or reads what is told of an object.
    async fn ask_once(&self, object: &Path, change: Option<(&str, &str)>) -> Result<Answer> {
        let mut signed = SignedUrlOptions::new();
        let method = if change.is_some() {
            Method::PUT
        } else {
            Method::HEAD
        };
        if let Some((what, body)) = change {
            let sum = BASE64_STANDARD.encode(Md5::digest(body));
            let sum = HeaderValue::from_str(&sum)
                .map_err(|error| Error::internal("a checksum is no header").with_source(error))?;
            let header = HeaderName::from_static("content-md5");
            signed = signed
                .with_query([(what, "")])
                .with_signed_header(header, sum);
        }
        let failed = |error| failure::of_store(object.as_ref(), error);
        let signing = self
            .store
            .signed_url_opts(method.clone(), object, SIGNED_FOR, &signed);
        let url = signing.await.map_err(failed)?;
        let body = change.map_or_else(HttpRequestBody::empty, |(_, body)| body.to_owned().into());
        let mut request = HttpRequest::new(body);
        *request.method_mut() = method;
        *request.headers_mut() = signed.signed_headers;
        *request.uri_mut() = url
            .as_str()
            .parse()
            .map_err(|_| Error::internal("a signed URL can't be read"))?;
        let unanswered = |error| {
            Error::unavailable(format!(
                "the store did not answer about the lock of object {object}"
            ))
            .with_source(error)
        };
        let response = self.client()?.execute(request).await.map_err(unanswered)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.into_body().bytes().await.map_err(unanswered)?;
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MOST_ANSWER)]).into_owned();
        Ok(Answer {
            status,
            headers,
            text,
        })
    }

    async fn put(&self, object: &Path, what: &str, body: &str) -> Result<()> {
        let answer = self.ask(object, Some((what, body))).await?;
        if answer.is_good() {
            return Ok(());
        }
        Err(answer.error(object))
    }
}

#[async_trait]
impl ObjectLock for S3ObjectLock {
    async fn lock(&self, object: &Path, to: LockedUntil) -> Result<LockedUntil> {
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{}</Mode>\
             <RetainUntilDate>{}</RetainUntilDate></Retention>",
            mode_name(to.mode),
            to.until
        );
        match self.put(object, RETENTION, &body).await {
            Ok(()) => Ok(to),
            // Where a longer or firmer lock is there, a lesser one is refused.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                let there = self.state(object).await.ok();
                let there = there.and_then(|state| state.locked);
                there.filter(|there| there.covers(&to)).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn set_hold(&self, object: &Path, is_held: bool) -> Result<()> {
        let status = if is_held { "ON" } else { "OFF" };
        let body = format!(
            "<LegalHold xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>{status}</Status>\
             </LegalHold>"
        );
        self.put(object, LEGAL_HOLD, &body).await
    }

    async fn state(&self, object: &Path) -> Result<LockState> {
        let answer = self.ask(object, None).await?;
        if answer.is_good() {
            return Ok(told(&answer.headers));
        }
        Err(answer.error(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Answer {
        let text = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        Answer {
            status,
            headers: HeaderMap::new(),
            text,
        }
    }

    #[test]
    fn answers_are_told_by_what_to_do() {
        let object = Path::from("vault/packs/a.data");
        for (status, code, kind) in [
            (404, "NoSuchKey", ErrorKind::NotFound),
            (404, "NoSuchBucket", ErrorKind::Unavailable),
            (400, "InvalidRequest", ErrorKind::Unsupported),
            (501, "NotImplemented", ErrorKind::Unsupported),
            (403, "AccessDenied", ErrorKind::InvalidInput),
            (503, "SlowDown", ErrorKind::Unavailable),
        ] {
            let error = answer(status, code).error(&object);
            assert_eq!(error.kind(), kind, "{status} {code}");
            assert!(error.to_string().contains("object vault/packs/a.data"));
        }
    }

    #[test]
    fn a_lock_is_read_from_what_is_told() {
        let mut headers = HeaderMap::new();
        assert_eq!(told(&headers), LockState::default());
        for (name, value) in [
            ("x-amz-object-lock-mode", "COMPLIANCE"),
            ("x-amz-object-lock-legal-hold", "ON"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(told(&headers), LockState::new(None, true));
        let date = HeaderValue::from_static("2030-01-02T03:04:05.678Z");
        headers.insert("x-amz-object-lock-retain-until-date", date);
        let locked = told(&headers).locked.unwrap();
        assert_eq!(locked.mode, LockMode::Compliance);
        assert_eq!(locked.until.to_string(), "2030-01-02T03:04:05.678Z");
    }
}
