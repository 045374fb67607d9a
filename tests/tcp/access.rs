//! Grants and the audit over the wire.

use std::sync::Arc;
use std::time::Duration;

use backstop::memory::{MemorySource, MemoryStore};
use backstop::{
    Agent, AuditEntry, Audited, ByteCount, ByteOffset, Changes, Clock, ErrorKind, Grant,
    ManualClock, ProtectionServer, RecoveryService, Role, SourceName, TcpClient, Timestamp,
};

use crate::lab::{Signer, client, serve_all};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_granted_is_recovered_until_it_ends() {
    let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
    let server = ProtectionServer::builder()
        .with_shared_vault(Arc::new(MemoryStore::new()))
        .with_clock(Arc::clone(&clock) as _);
    let server = server.build().await.unwrap();
    let signer = Signer::new();
    let running = serve_all(&signer, &server).await;
    let agent = |name: &str| client(&signer, &signer.agent(name), running.address);
    let (web1, web2) = (agent("web1"), agent("web2"));
    let eve = client(&signer, &signer.operator("eve"), running.address);
    let image = MemorySource::new(vec![2; 50_000]);
    let protecting = Agent::new(Arc::new(web2.clone()));
    let point = protecting.protect("web2", &image, Changes::Unknown).await;
    let point = point.unwrap();
    let source = SourceName::new("web2").unwrap();
    let is_refused = async |client: &TcpClient| {
        let error = client.open(point.id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = client.points(&source).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden);
        assert!(client.sources().await.unwrap().is_empty());
    };
    is_refused(&web1).await;
    let grant = Grant {
        agent: "web1".into(),
        source: source.clone(),
        until: clock.now().after(Duration::from_hours(1)),
    };
    for asked in [
        web1.grant(&grant).await.unwrap_err(),
        web1.grants().await.unwrap_err(),
        web1.withdraw("web1", &source).await.unwrap_err(),
        web1.audit(None).await.unwrap_err(),
        web1.expire(&[point.id]).await.unwrap_err(),
    ] {
        assert_eq!(asked.kind(), ErrorKind::Forbidden, "{asked}");
    }
    eve.grant(&grant).await.unwrap();
    let grants = eve.grants().await.unwrap();
    assert_eq!(grants, std::slice::from_ref(&grant));
    let points = web1.points(&source).await.unwrap();
    assert_eq!(points, std::slice::from_ref(&point));
    assert_eq!(web1.sources().await.unwrap().len(), 1);
    let open = web1.open(point.id).await.unwrap();
    let read = async || open.images[0].read(ByteOffset(7), ByteCount(9)).await;
    assert_eq!(read().await.unwrap(), [2; 9][..]);
    is_refused(&agent("web3")).await;
    // An image that is open ends with what let it.
    eve.withdraw("web1", &source).await.unwrap();
    let error = read().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    eve.grant(&grant).await.unwrap();
    read().await.unwrap();
    clock.advance(Duration::from_hours(1));
    read().await.unwrap_err();
    is_refused(&web1).await;
    eve.expire(&[]).await.unwrap();

    // What was refused is noted on tasks of its own.
    let is_refusal = |entry: &AuditEntry| matches!(entry.record.what, Audited::Refused { .. });
    let mut all = audit(&eve).await;
    while !all.iter().any(is_refusal) {
        all = audit(&eve).await;
    }
    let done = |name: &str| {
        let of = all.iter().rev();
        let of = of.filter(|entry| entry.record.who.name == name && !is_refusal(entry));
        of.map(|entry| entry.record.what.clone())
            .collect::<Vec<_>>()
    };
    let opened = Audited::Opened {
        point: point.id,
        source: source.clone(),
    };
    assert_eq!(done("web1"), [opened]);
    let granted = Audited::Granted(grant);
    let agent = "web1".into();
    let withdrawn = Audited::Withdrawn { agent, source };
    let expired = Audited::Expired {
        points: Vec::new(),
        count: 0,
    };
    assert_eq!(done("eve"), [granted.clone(), withdrawn, granted, expired]);
    let mut refused = all.iter().filter(|entry| is_refusal(entry));
    assert!(refused.all(|entry| entry.record.who.role == Role::Agent));
}

/// All pages, the newest first.
async fn audit(client: &TcpClient) -> Vec<AuditEntry> {
    let mut all: Vec<AuditEntry> = Vec::new();
    loop {
        let before = all.last().map(|entry| entry.number);
        let page = client.audit(before).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}
