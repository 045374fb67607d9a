//! Joining over pipes, with time that stands still until nobody has anything to do.

#![allow(
    clippy::disallowed_methods,
    reason = "it is tokio's time, which the tests hold still"
)]

use backstop_core::SystemClock;
use futures::future::join_all;
use proptest::prelude::*;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use super::*;
use crate::enroll::{CertificateAuthority, verifier};
use crate::tls::{self, TlsAuthority, TlsIdentity};

const GOOD: [u8; JoinToken::SECRET_LENGTH] = [7; JoinToken::SECRET_LENGTH];

/// Knows one secret, and a request that breaks it.
#[derive(Debug)]
struct One;

#[async_trait]
impl Joins for One {
    async fn join(
        &self,
        secret: &[u8; JoinToken::SECRET_LENGTH],
        request_pem: &str,
    ) -> Result<Joined> {
        match (*secret == GOOD, request_pem) {
            (false, _) => Err(Error::new(ErrorKind::Forbidden, "this token is not known")),
            (true, "breaks") => Err(Error::corrupt("the file of tokens is damaged")),
            (true, _) => Ok(Joined {
                certificate_pem: "a certificate".into(),
                authority_pem: "an authority".into(),
            }),
        }
    }
}

#[derive(Clone)]
struct Lab {
    door: Arc<Door>,
    server: Arc<ServerConfig>,
    token: JoinToken,
}

fn lab() -> Lab {
    let authority = CertificateAuthority::create("test", Arc::new(SystemClock)).unwrap();
    let (issued, key) = authority.server(10).unwrap();
    let chain = issued.certificate_pem.as_bytes();
    let identity = TlsIdentity::from_pem(chain, key.as_bytes()).unwrap();
    let agents = TlsAuthority::from_pem(authority.certificate_pem().as_bytes()).unwrap();
    Lab {
        door: Arc::new(Door::new(Arc::new(One))),
        server: tls::joining(&identity, &agents).unwrap(),
        token: JoinToken::generate(&authority).unwrap(),
    }
}

impl Lab {
    /// Comes to the door, as one whose token is this.
    async fn come(&self, token: &JoinToken) -> std::io::Result<TlsStream<DuplexStream>> {
        let (here, there) = duplex(64 << 10);
        let lab = self.clone();
        tokio::spawn(async move {
            let start = LazyConfigAcceptor::new(Acceptor::default(), there).await;
            let from = ([127, 0, 0, 1], 1).into();
            lab.door.serve(start.unwrap(), lab.server, from).await;
        });
        let tls = TlsConnector::from(verifier::client(token).unwrap());
        tls.connect(tls::server_name().unwrap(), here).await
    }

    /// Sends bytes; gives all that comes back, and whether it ends properly.
    async fn answer_to(&self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = self.come(&self.token).await?;
        // It may close before it has read all.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        read.map(|_| answer)
    }

    async fn ask(&self, secret: [u8; JoinToken::SECRET_LENGTH], request: &str) -> Result<Answer> {
        let mut stream = self
            .come(&self.token)
            .await
            .map_err(|error| Error::unavailable("the door stays shut").with_source(error))?;
        let question = Question::new(&secret, request.to_owned());
        message::send(&mut stream, &encode(&question)?).await?;
        decode("it", &message::receive(&mut stream).await?)
    }
}

fn failure(answer: Answer) -> Error {
    match answer {
        Answer::Failed(failure) => failure.into_error(),
        Answer::Joined { .. } => panic!("it was let in"),
    }
}

#[tokio::test(start_paused = true)]
async fn who_knows_the_secret_gets_in_at_once() {
    let lab = lab();
    let begun = Instant::now();
    let answer = lab.ask(GOOD, "please").await.unwrap();
    let Answer::Joined { certificate, .. } = answer else {
        panic!("it was not let in");
    };
    assert_eq!(certificate, "a certificate");
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn causes_stay_with_the_server() {
    let error = failure(lab().ask(GOOD, "breaks").await.unwrap());
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.to_string().contains("damaged"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn failures_come_one_after_the_other() {
    let lab = lab();
    let begun = Instant::now();
    let answers = join_all((0..8).map(|_| lab.ask([8; 16], "please"))).await;
    for answer in answers {
        let error = failure(answer.unwrap());
        assert_eq!(error.kind(), ErrorKind::Forbidden);
    }
    assert_eq!(begun.elapsed(), PENANCE * 8);
}

#[tokio::test(start_paused = true)]
async fn those_who_say_nothing_hold_their_places_for_ten_seconds() {
    let lab = lab();
    let silent = join_all((0..PLACES).map(|_| lab.come(&lab.token))).await;
    assert!(silent.iter().all(std::result::Result::is_ok));
    assert!(lab.ask(GOOD, "please").await.is_err(), "there is no place");
    // They are given up at once, and atone one by one.
    sleep(PATIENCE + PENANCE).await;
    tokio::task::yield_now().await;
    lab.ask(GOOD, "please").await.unwrap();
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn a_token_trusts_its_authority_alone() {
    let (lab, other) = (lab(), self::lab());
    let error = lab.come(&other.token).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    // An authority that is shown by one whose certificate it has not signed.
    let ours = CertificateAuthority::create("ours", Arc::new(SystemClock)).unwrap();
    let theirs = CertificateAuthority::create("theirs", Arc::new(SystemClock)).unwrap();
    let (issued, key) = theirs.server(10).unwrap();
    let chain = issued.certificate_pem.as_bytes();
    let identity = TlsIdentity::from_pem(chain, key.as_bytes()).unwrap();
    let shown = TlsAuthority::from_pem(ours.certificate_pem().as_bytes()).unwrap();
    let deceiver = Lab {
        server: tls::joining(&identity, &shown).unwrap(),
        ..lab.clone()
    };
    let token = JoinToken::generate(&ours).unwrap();
    assert!(deceiver.come(&token).await.is_err());
    // One whose certificate our authority has signed, for something else.
    let (issued, key) = ours.client("web1", tls::Role::Agent, 10).unwrap();
    let chain = issued.certificate_pem.as_bytes();
    let identity = TlsIdentity::from_pem(chain, key.as_bytes()).unwrap();
    let deceiver = Lab {
        server: tls::joining(&identity, &shown).unwrap(),
        ..lab
    };
    assert!(deceiver.come(&token).await.is_err());
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build();
    runtime.unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Nothing comes back but, at most, a sentence.
    #[test]
    fn random_bytes_are_dropped(bytes in prop::collection::vec(any::<u8>(), 0..2000), is_framed: bool) {
        let mut sent = Vec::new();
        if is_framed {
            run(message::send(&mut sent, &bytes)).unwrap();
        } else {
            sent = bytes;
        }
        let lab = lab();
        let answer = run(lab.answer_to(&sent)).unwrap_or_default();
        if !answer.is_empty() {
            let answer = run(message::receive(&mut &answer[..])).unwrap();
            let error = failure(decode("it", &answer).unwrap());
            prop_assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        prop_assert!(run(lab.ask(GOOD, "please")).is_ok());
    }
}
