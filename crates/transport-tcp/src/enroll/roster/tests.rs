//! What a roster keeps, and what it takes back.

use std::os::unix::fs::PermissionsExt;

use backstop_core::{ManualClock, SystemClock, Timestamp};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::tls;

const HOUR: Duration = Duration::from_hours(1);

struct Lab {
    folder: TempDir,
    clock: Arc<ManualClock>,
    roster: Roster,
}

fn lab() -> Lab {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let roster = Roster::create(folder.path(), Arc::clone(&clock) as _).unwrap();
    Lab {
        folder,
        clock,
        roster,
    }
}

impl Lab {
    /// As another process would.
    fn another(&self) -> Roster {
        Roster::open(self.folder.path(), Arc::clone(&self.clock) as _).unwrap()
    }
}

fn request() -> String {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key);
    request.unwrap().pem().unwrap()
}

fn peer(certificate_pem: &str) -> Peer {
    let chain = tls::certificates("it", certificate_pem.as_bytes()).unwrap();
    Peer::of(Some(&chain)).unwrap()
}

fn refusal(roster: &Roster, secret: &JoinToken) -> Error {
    let error = roster.join(secret.secret(), &request()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    error
}

#[test]
fn only_the_owner_may_read_it() {
    let lab = lab();
    lab.roster.token("web1", Role::Agent, HOUR).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut folders = vec![lab.folder.path().to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            files += 1;
        }
    }
    assert_eq!(files, 6);
}

#[test]
fn a_folder_has_one_roster_and_nothing_else() {
    let lab = lab();
    let clock = || Arc::clone(&lab.clock) as Arc<dyn Clock>;
    let again = Roster::create(lab.folder.path(), clock()).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    let other = tempfile::tempdir().unwrap();
    let nothing = Roster::open(other.path(), clock()).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::NotFound);
    fs::write(other.path().join("letter"), "").unwrap();
    let others = Roster::create(other.path(), clock()).unwrap_err();
    assert_eq!(others.kind(), ErrorKind::InvalidInput);
    // Its making was cut short.
    let cut = lab.folder.path();
    fs::remove_file(cut.join(ENTRIES)).unwrap();
    fs::write(cut.join("authority.key.new"), "half").unwrap();
    let token = Roster::create(cut, clock()).unwrap();
    token.token("web1", Role::Agent, HOUR).unwrap();
}

#[test]
fn a_token_enrolls_once() {
    let lab = lab();
    let token = lab.roster.token("web1", Role::Agent, HOUR).unwrap();
    let bad = lab.roster.join(token.secret(), "no request").unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::InvalidInput);
    let joined = lab.another().join(token.secret(), &request()).unwrap();
    let web1 = peer(&joined.certificate_pem);
    assert_eq!((web1.name.as_str(), web1.role), ("web1", Role::Agent));
    assert!(
        refusal(&lab.roster, &token)
            .to_string()
            .contains("was used already")
    );

    lab.roster.may_connect(&web1).unwrap();
    let own = SourceName::new("web1/data").unwrap();
    lab.roster.may_protect(&web1, &own).unwrap();
    let others = SourceName::new("web2").unwrap();
    assert!(lab.roster.may_protect(&web1, &others).is_err());

    let [enrolment] = &lab.roster.enrolled().unwrap()[..] else {
        panic!("one is enrolled");
    };
    assert_eq!(
        (enrolment.name.as_str(), enrolment.role),
        ("web1", Role::Agent)
    );
    let [certificate] = &enrolment.certificates[..] else {
        panic!("it has one certificate");
    };
    assert_eq!(certificate.fingerprint, web1.certificate);
    assert_eq!(certificate.revoked, None);
    assert!(certificate.not_after > lab.clock.now().after(HOUR * 24 * 3649));
}

#[test]
fn no_secret_is_kept() {
    let lab = lab();
    let token = lab.roster.token("web1", Role::Agent, HOUR).unwrap();
    let hex = data_encoding::HEXLOWER.encode(token.secret());
    for entry in fs::read_dir(lab.folder.path().join(TOKENS)).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read(&path).unwrap();
        assert!(!text.windows(16).any(|window| window == token.secret()));
        let text = format!("{} {}", path.display(), String::from_utf8_lossy(&text));
        assert!(!text.contains(&hex));
    }
}

/// Twenty at once, as processes would: each opens the folder for itself.
#[test]
fn of_many_at_once_one_is_enrolled() {
    let lab = lab();
    let token = lab.roster.token("web1", Role::Agent, HOUR).unwrap();
    let joined = std::thread::scope(|scope| {
        let joining: Vec<_> = (0..20)
            .map(|_| {
                let (roster, token) = (lab.another(), &token);
                scope.spawn(move || roster.join(token.secret(), &request()).is_ok())
            })
            .collect();
        let joined = joining.into_iter().map(|it| it.join().unwrap());
        joined.filter(|joined| *joined).count()
    });
    assert_eq!(joined, 1);
    assert_eq!(lab.roster.enrolled().unwrap()[0].certificates.len(), 1);
}

/// Renaming decides, also where locks are worth nothing.
#[test]
fn without_locks_one_is_let_in_still() {
    let lab = lab();
    let token = lab.roster.token("web1", Role::Agent, HOUR).unwrap();
    let tokens = &lab.roster.folder.tokens;
    let redeemed = std::thread::scope(|scope| {
        let redeeming: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| tokens.redeem(token.secret()).is_ok()))
            .collect();
        let redeemed = redeeming.into_iter().map(|it| it.join().unwrap());
        redeemed.filter(|redeemed| *redeemed).count()
    });
    assert_eq!(redeemed, 1);
}

#[test]
fn tokens_expire_and_are_forgotten() {
    let lab = lab();
    for lifetime in [Duration::ZERO, HOUR * 24 * 367] {
        let refused = lab.roster.token("web1", Role::Agent, lifetime).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    }
    let token = lab.roster.token("web1", Role::Agent, HOUR).unwrap();
    lab.clock.advance(HOUR);
    assert!(
        refusal(&lab.roster, &token)
            .to_string()
            .contains("has expired")
    );
    let stranger = JoinToken::generate(&lab.roster.folder.authority).unwrap();
    assert!(
        refusal(&lab.roster, &stranger)
            .to_string()
            .contains("is not known")
    );
    let files = || {
        fs::read_dir(lab.folder.path().join(TOKENS))
            .unwrap()
            .count()
    };
    lab.clock.advance(HOUR * 24 * 30);
    lab.roster.token("web2", Role::Agent, HOUR).unwrap();
    assert_eq!(files(), 2, "it is remembered for thirty days");
    lab.clock.advance(Duration::from_millis(1));
    lab.roster.token("web3", Role::Agent, HOUR).unwrap();
    assert_eq!(files(), 2);
}

#[test]
fn revoking_takes_all_back_that_was_given_so_far() {
    let lab = lab();
    let enrolled = [(); 2].map(|()| lab.roster.enroll("web1", Role::Agent).unwrap());
    let peers = enrolled.map(|it| peer(&it.certificate_pem));
    let operator = lab.roster.enroll("web1", Role::Operator).unwrap();
    let operator = peer(&operator.certificate_pem);
    let unused = lab.roster.token("web1", Role::Agent, HOUR).unwrap();
    let of_operator = lab.roster.token("web1", Role::Operator, HOUR).unwrap();
    let other = lab.another();
    for peer in peers.iter().chain([&operator]) {
        other.may_connect(peer).unwrap();
    }

    lab.roster.revoke("web1", Role::Agent).unwrap();
    for peer in &peers {
        let source = SourceName::new("web1").unwrap();
        for error in [other.may_connect(peer), other.may_protect(peer, &source)] {
            let error = error.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Forbidden);
            assert!(error.to_string().contains("was revoked"), "{error}");
        }
    }
    other.may_connect(&operator).unwrap();
    assert!(refusal(&other, &unused).to_string().contains("withdrawn"));
    other.join(of_operator.secret(), &request()).unwrap();

    let anew = lab.roster.token("web1", Role::Agent, HOUR).unwrap();
    let anew = other.join(anew.secret(), &request()).unwrap();
    lab.roster
        .may_connect(&peer(&anew.certificate_pem))
        .unwrap();
    assert!(lab.roster.may_connect(&peers[0]).is_err());

    let nobody = lab.roster.revoke("web2", Role::Agent).unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
    lab.roster.token("web2", Role::Agent, HOUR).unwrap();
    lab.roster.revoke("web2", Role::Agent).unwrap();
}

#[test]
fn who_is_not_on_the_roster_is_refused() {
    let lab = lab();
    let authority = &lab.roster.folder.authority;
    let (issued, _) = authority.client("web1", Role::Agent, 10).unwrap();
    let unlisted = peer(&issued.certificate_pem);
    let error = lab.roster.may_connect(&unlisted).unwrap_err();
    assert!(
        error.to_string().contains("is not on the roster"),
        "{error}"
    );
    let listed = lab.roster.enroll("web2", Role::Agent).unwrap();
    let listed = peer(&listed.certificate_pem);
    let renamed = Peer {
        name: "web3".into(),
        ..listed.clone()
    };
    assert!(lab.roster.may_connect(&renamed).is_err());
    lab.roster.may_connect(&listed).unwrap();
    lab.clock
        .set(Timestamp(lab.clock.now().0 + 3_660 * 86_400_000));
    let error = lab.roster.may_connect(&listed).unwrap_err();
    assert!(error.to_string().contains("has expired"), "{error}");
}

/// What can't be read lets nobody in, and tells no names of files.
#[test]
fn without_its_file_nobody_gets_in() {
    let lab = lab();
    let listed = lab.roster.enroll("web1", Role::Agent).unwrap();
    let listed = peer(&listed.certificate_pem);
    let path = lab.folder.path().join(ENTRIES);
    let entries = fs::read(&path).unwrap();
    fs::write(&path, &entries[..entries.len() / 2]).unwrap();
    for _ in 0..2 {
        let error = lab.roster.may_connect(&listed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(!error.to_string().contains("json"), "{error}");
    }
    fs::remove_file(&path).unwrap();
    assert!(lab.roster.may_connect(&listed).is_err());
    fs::write(&path, &entries).unwrap();
    lab.roster.may_connect(&listed).unwrap();
}

#[test]
fn a_server_is_renewed() {
    let lab = lab();
    let first = lab.roster.identity().unwrap();
    lab.roster.renew_server().unwrap();
    let second = lab.another().identity().unwrap();
    assert_ne!(format!("{first:?}"), format!("{second:?}"));
    let authority = lab.roster.authority().unwrap();
    tls::server(&second, &authority).unwrap();
    tls::server(&first, &authority).unwrap();
}
