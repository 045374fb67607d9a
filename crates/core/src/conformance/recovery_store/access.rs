//! Grants and the audit.

use super::rig::Rig;
use crate::conformance::claim;
use crate::{Actor, AuditRecord, Audited, ChunkDigest, Grant, Role, SourceName, Timestamp};

fn grant(agent: &str, source: &str, until: i64) -> Option<Grant> {
    Some(Grant {
        agent: agent.to_owned(),
        source: SourceName::new(source).ok()?,
        until: Timestamp(until),
    })
}

async fn told(rig: &Rig) -> Vec<Grant> {
    claim::succeeds(rig.store.grants().await, "grants are told")
}

/// Grants are kept, replaced and removed, each by agent and source.
pub(super) async fn grants_are_kept(rig: &mut Rig) {
    claim::equal(&told(rig).await, &Vec::new(), "a fresh store has no grants");
    let given = [
        grant("web2", "b/disk", 5),
        grant("web1", "b", 7),
        grant("web1", "a", -1),
        grant("web1", "a", 9),
    ];
    for grant in given.iter().flatten() {
        let set = rig.store.set_grant(grant.clone()).await;
        claim::succeeds(set, "a grant is kept");
    }
    let (Some(a), Some(b), Some(c)) = (&given[3], &given[1], &given[0]) else {
        return;
    };
    claim::equal(
        &told(rig).await,
        &vec![a.clone(), b.clone(), c.clone()],
        "grants come by agent and source, and the last one counts",
    );
    let removed = rig.store.remove_grant("web1", &b.source).await;
    claim::succeeds(removed, "a grant is removed");
    let unknown = rig.store.remove_grant("web2", &b.source).await;
    claim::succeeds(unknown, "removing what is not there changes nothing");
    claim::equal(
        &told(rig).await,
        &vec![a.clone(), c.clone()],
        "a grant that was removed is gone, and no other",
    );
}

fn record(number: i64) -> AuditRecord {
    AuditRecord {
        time: Timestamp(number),
        who: Actor {
            role: Role::Operator,
            name: "eve".to_owned(),
            certificate: ChunkDigest::of(b"certificate"),
        },
        what: Audited::Refused {
            call: "expire".to_owned(),
            why: format!("refused for the {number}th time"),
        },
    }
}

/// Audit records come the newest first, by pages, and the oldest go.
pub(super) async fn the_audit_is_kept_and_bounded(rig: &mut Rig) {
    let none = claim::succeeds(rig.store.audit(None, 10).await, "the audit is told");
    claim::holds(none.is_empty(), "a fresh store's audit is empty");
    for (from, to) in [(0, 3), (3, 4), (4, 11), (11, 11)] {
        let records = (from..to).map(record).collect();
        let added = rig.store.add_audit(records, 6).await;
        claim::succeeds(added, "audit records are added");
    }
    let all = claim::succeeds(rig.store.audit(None, 100).await, "the audit is told");
    let records: Vec<_> = all.iter().map(|entry| entry.record.clone()).collect();
    let newest: Vec<_> = (5..11).rev().map(record).collect();
    claim::equal(
        &records,
        &newest,
        "the newest come first, and the oldest go",
    );
    for pair in all.windows(2) {
        claim::equal(
            &pair[0].number,
            &(pair[1].number + 1),
            "numbers grow by one from record to record",
        );
    }
    let mut paged = Vec::new();
    let mut before = None;
    loop {
        let page = claim::succeeds(rig.store.audit(before, 4).await, "a page is told");
        claim::holds(page.len() <= 4, "a page has no more than was asked for");
        let Some(last) = page.last() else { break };
        before = Some(last.number);
        paged.extend(page);
    }
    claim::equal(&paged, &all, "pages are told one behind the other");
}
