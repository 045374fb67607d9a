//! Grants and the audit of the in-memory store.

use std::collections::{BTreeMap, VecDeque};

use crate::{AuditEntry, AuditRecord, Grant, SourceName};

#[derive(Debug, Default)]
pub(super) struct Access {
    grants: BTreeMap<(String, SourceName), Grant>,
    audit: VecDeque<AuditEntry>,
    next: u64,
}

impl Access {
    pub(super) fn grants(&self) -> Vec<Grant> {
        self.grants.values().cloned().collect()
    }

    pub(super) fn set(&mut self, grant: Grant) {
        let of = (grant.agent.clone(), grant.source.clone());
        self.grants.insert(of, grant);
    }

    pub(super) fn remove(&mut self, agent: &str, source: &SourceName) {
        self.grants.remove(&(agent.to_owned(), source.clone()));
    }

    pub(super) fn add(&mut self, records: Vec<AuditRecord>, keep: u64) {
        for record in records {
            let number = self.next;
            self.next += 1;
            self.audit.push_back(AuditEntry { number, record });
        }
        while self.audit.len() as u64 > keep {
            self.audit.pop_front();
        }
    }

    pub(super) fn audit(&self, before: Option<u64>, most: usize) -> Vec<AuditEntry> {
        let newest_first = self.audit.iter().rev();
        let asked = newest_first.filter(|entry| before.is_none_or(|before| entry.number < before));
        asked.take(most).cloned().collect()
    }
}
