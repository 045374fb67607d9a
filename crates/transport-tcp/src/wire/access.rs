//! What is said of grants and the audit, as JSON like
//! [`control`](super::control).

use backstop_core::{AuditEntry, Grant, SourceName};
use serde::{Deserialize, Serialize};

/// The most audit records of one answer.
pub(crate) const AUDIT_MAX: usize = 500;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Withdraw {
    pub(crate) agent: String,
    pub(crate) source: SourceName,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Grants {
    pub(crate) items: Vec<Grant>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct AuditQuestion {
    /// Those with smaller numbers are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Audit {
    pub(crate) items: Vec<AuditEntry>,
}
