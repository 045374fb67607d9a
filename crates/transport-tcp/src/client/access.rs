//! What an operator asks about grants and the audit.

use backstop_core::{AuditEntry, Grant, Result, SourceName};

use super::TcpClient;
use crate::wire::Call;
use crate::wire::access::{Audit, AuditQuestion, Grants, Withdraw};
use crate::wire::control::{decode, encode};

/// For operators; others are [`Forbidden`](backstop_core::ErrorKind::Forbidden).
impl TcpClient {
    /// Lets an agent recover a source that is not its own:
    /// [`AccessService::grant`](backstop_core::AccessService::grant).
    ///
    /// # Errors
    /// As there; [`Unsupported`](backstop_core::ErrorKind::Unsupported) if the
    /// server keeps no grants; so in the other calls.
    pub async fn grant(&self, grant: &Grant) -> Result<()> {
        self.ask(Call::Grant, encode(grant)?).await.map(drop)
    }

    /// All grants, by agent and source; also those whose time is over.
    ///
    /// # Errors
    /// As [`grant`](Self::grant).
    pub async fn grants(&self) -> Result<Vec<Grant>> {
        let answer = self.ask(Call::Grants, encode(&())?).await?;
        Ok(decode::<Grants>("the server's answer about grants", &answer)?.items)
    }

    /// Takes a grant back, at once; without one it changes nothing.
    ///
    /// # Errors
    /// As [`grant`](Self::grant).
    pub async fn withdraw(&self, agent: &str, source: &SourceName) -> Result<()> {
        let message = Withdraw {
            agent: agent.to_owned(),
            source: source.clone(),
        };
        self.ask(Call::Withdraw, encode(&message)?).await.map(drop)
    }

    /// Who did what, the newest first: a page of those with numbers below
    /// `before`, or of all; none at the end.
    ///
    /// # Errors
    /// As [`grant`](Self::grant).
    pub async fn audit(&self, before: Option<u64>) -> Result<Vec<AuditEntry>> {
        let question = AuditQuestion { before };
        let answer = self.ask(Call::Audit, encode(&question)?).await?;
        Ok(decode::<Audit>("the server's answer about the audit", &answer)?.items)
    }
}
