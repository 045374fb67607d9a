//! Grants and the audit: what is asked of them, and what goes into it.

use std::sync::Arc;

use backstop_core::{AccessService, Actor, Audited, Error, ErrorKind, Grant, Result, SourceName};
use bytes::Bytes;

use super::session::Caller;
use crate::tls::Role;
use crate::wire::Call;
use crate::wire::access::{AUDIT_MAX, Audit, AuditQuestion, Grants, Withdraw};
use crate::wire::control::{decode, encode};

/// Answers one call of an operator.
pub(super) async fn answer(caller: &Arc<Caller>, call: Call, message: &[u8]) -> Result<Bytes> {
    may_operate(caller, call)?;
    let access = caller.shared.access.as_deref().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "this protection server keeps no grants and no audit",
        )
    })?;
    let by = Actor::from(&caller.peer);
    match call {
        Call::Grant => {
            let grant: Grant = decode("a grant", message)?;
            access.grant(&by, grant).await?;
            Ok(Bytes::new())
        }
        Call::Withdraw => {
            let Withdraw { agent, source } = decode("the end of a grant", message)?;
            access.withdraw(&by, &agent, &source).await?;
            Ok(Bytes::new())
        }
        Call::Grants => {
            let items = access.grants().await?;
            encode(&Grants { items })
        }
        _ => {
            let AuditQuestion { before } = decode("a question for the audit", message)?;
            let items = access.audit(before, AUDIT_MAX).await?;
            encode(&Audit { items })
        }
    }
}

/// Whether the caller may look after the vault; a refusal is noted.
pub(super) fn may_operate(caller: &Arc<Caller>, call: Call) -> Result<()> {
    let may = caller.shared.gate.may_operate(&caller.peer);
    may.inspect_err(|error| refused(caller, call, error))
}

/// Whether the caller may recover a source, by the gate or by a grant.
pub(super) async fn may_recover(caller: &Caller, source: &SourceName) -> Result<()> {
    let Err(error) = caller.shared.gate.may_recover(&caller.peer, source) else {
        return Ok(());
    };
    if caller.peer.role == Role::Agent
        && let Some(access) = &caller.shared.access
        && access.is_granted(&caller.peer.name, source).await?
    {
        return Ok(());
    }
    Err(error)
}

/// Notes a refusal, on a task of its own: how long an answer takes must not tell
/// whether there was something to refuse.
pub(super) fn refused(caller: &Arc<Caller>, call: Call, why: &Error) {
    tracing::warn!(peer = %caller.peer, call = call.name(), %why, "refused");
    let Some(access) = caller.shared.access.clone() else {
        return;
    };
    let by = Actor::from(&caller.peer);
    let what = Audited::Refused {
        call: call.name().to_owned(),
        why: why.context().to_owned(),
    };
    tokio::spawn(async move {
        if let Err(error) = access.note(&by, what).await {
            tracing::warn!(who = by.name, %error, "a refusal was not noted");
        }
    });
}

/// Notes what is about to be done.
pub(super) async fn note(caller: &Caller, what: Audited) -> Result<()> {
    match &caller.shared.access {
        Some(access) => access.note(&Actor::from(&caller.peer), what).await,
        None => Ok(()),
    }
}

/// As it is shared by all connections.
pub(super) type Access = Option<Arc<dyn AccessService>>;
