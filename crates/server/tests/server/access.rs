//! Who was let recover what, and who did what.

use std::time::Duration;

use backstop_core::{Actor, Audited, ChunkDigest, ErrorKind, Grant, PointId, Role, Timestamp};

use crate::rig::{Rig, name};

fn who(name: &str) -> Actor {
    Actor {
        role: Role::Operator,
        name: name.into(),
        certificate: ChunkDigest::of(name.as_bytes()),
    }
}

#[tokio::test]
async fn a_grant_holds_until_its_time_or_its_end() {
    let rig = Rig::new().await;
    let access = rig.server.access_service();
    let eve = who("eve");
    let now = rig.server_time();
    let granted = async |agent: &str| access.is_granted(agent, &name("b")).await.unwrap();
    let grant = |agent: &str, until: Timestamp| Grant {
        agent: agent.into(),
        source: name("b"),
        until,
    };
    let hour = Duration::from_hours(1);
    assert!(!granted("web1").await);
    for agent in ["web1", "web2"] {
        let until = now.after(hour);
        access.grant(&eve, grant(agent, until)).await.unwrap();
    }
    assert!(granted("web1").await && granted("web2").await && !granted("web3").await);
    assert!(!access.is_granted("web1", &name("c")).await.unwrap());
    access.withdraw(&eve, "web2", &name("b")).await.unwrap();
    assert!(granted("web1").await && !granted("web2").await);
    let again = Rig::over(rig.store.clone()).await;
    let kept = again.server.access_service().grants().await.unwrap();
    assert_eq!(kept, [grant("web1", now.after(hour))], "it is the vault's");
    rig.clock.advance(hour);
    assert!(!granted("web1").await);
    let error = access.grant(&eve, grant("", now)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let audit = access.audit(None, 10).await.unwrap();
    let noted: Vec<_> = audit.iter().map(|entry| &entry.record.what).collect();
    let withdrawn = Audited::Withdrawn {
        agent: "web2".into(),
        source: name("b"),
    };
    let granted = |agent| Audited::Granted(grant(agent, now.after(hour)));
    assert_eq!(noted, [&withdrawn, &granted("web2"), &granted("web1")]);
    assert!(
        audit
            .iter()
            .all(|entry| entry.record.who == eve && entry.record.time == now)
    );
}

#[tokio::test]
async fn refusals_are_noted_a_few_times_an_hour() {
    let rig = Rig::new().await;
    let access = rig.server.access_service();
    let refused = || Audited::Refused {
        call: "open".into(),
        why: "it is another's".into(),
    };
    let noted = async || access.audit(None, 10_000).await.unwrap().len();
    for _ in 0..100 {
        access.note(&who("web1"), refused()).await.unwrap();
    }
    assert_eq!(noted().await, 16);
    for number in 0..300 {
        let name = format!("web{number}0");
        access.note(&who(&name), refused()).await.unwrap();
    }
    assert_eq!(noted().await, 256);
    // What was done is noted all the same.
    let point = PointId::from_bytes([1; 16]);
    let source = name("a");
    let opened = Audited::Opened { point, source };
    access.note(&who("web1"), opened).await.unwrap();
    assert_eq!(noted().await, 257);
    rig.clock.advance(Duration::from_hours(1));
    access.note(&who("web1"), refused()).await.unwrap();
    assert_eq!(noted().await, 258);
}
