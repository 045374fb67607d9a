//! What protects the vault less is done by several operators: one asks for it,
//! others approve, and with the last approval that is needed it is done.
//!
//! A request is kept in the catalog until it is done or its time is over. It is
//! done in the same batch in which it goes, so no approval counts twice.
//!
//! This holds against whoever uses this library. It does not hold against who
//! writes the catalog by other means, for which the vault's key and the right
//! to write its objects are enough.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Error, Marks, PointId, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::catalog::{APPROVALS, OPERATORS};
use crate::changes::{self, Change};
use crate::dedup_store::DedupStore;
use crate::header::to_hex;
use crate::keys;
use crate::maintenance::to_its_end;
use crate::operators::{Approval, Operator, OperatorKey, OperatorPublicKey, Operators};
use crate::record;
use crate::removal;
use crate::seal;
use crate::vault::Vault;

/// For how long a request can be approved, by the vault's time.
const APPROVAL_TIME: Duration = Duration::from_hours(24);

/// The most requests that wait at a time.
const MOST_REQUESTS: usize = 256;

/// What needs the approval of several operators, where the vault wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum GuardedAction {
    /// Marks of a recovery point are lifted.
    LiftMarks {
        /// The point.
        point: PointId,
        /// Whether its pin is.
        pinned: bool,
        /// The holds that are.
        holds: BTreeSet<String>,
    },
    /// The undo window becomes shorter.
    ShortenUndo {
        /// How long it is then.
        seconds: u64,
    },
    /// Fewer operators have to approve.
    NeedFewerOperators {
        /// How many then; below two nobody is asked.
        needed: u32,
    },
    /// An operator is registered.
    AddOperator {
        /// The name.
        name: String,
        /// The key.
        key: OperatorPublicKey,
    },
    /// An operator is known no more.
    RemoveOperator {
        /// The name.
        name: String,
    },
    /// A key slot is removed.
    RemoveKey {
        /// Its id.
        slot: String,
    },
}

impl fmt::Display for GuardedAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LiftMarks {
                point,
                pinned,
                holds,
            } => {
                let pin = pinned.then(|| "pin".to_owned());
                let holds = holds.iter().map(|name| format!("hold {name:?}"));
                let marks: Vec<String> = pin.into_iter().chain(holds).collect();
                write!(f, "lift {} of recovery point {point}", marks.join(" and "))
            }
            Self::ShortenUndo { seconds } => {
                write!(f, "shorten the undo window to {seconds} seconds")
            }
            Self::NeedFewerOperators { needed } => {
                write!(f, "need the approval of {needed} operators")
            }
            Self::AddOperator { name, key } => write!(f, "register operator {name:?} ({key})"),
            Self::RemoveOperator { name } => write!(f, "remove operator {name:?}"),
            Self::RemoveKey { slot } => write!(f, "remove key slot {slot}"),
        }
    }
}

/// A request that waits for approvals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ApprovalRequest {
    /// Its name: 32 hexadecimal digits, never used twice.
    pub id: String,
    /// The vault's identity.
    pub vault: String,
    /// What is to be done.
    pub action: GuardedAction,
    /// Until when it can be approved, by the vault's time.
    pub until: Timestamp,
    /// Those who have approved it, who asked for it first.
    pub approvals: Vec<Approval>,
}

impl ApprovalRequest {
    /// What operators sign.
    ///
    /// # Errors
    /// [`Internal`](backstop_core::ErrorKind::Internal), which never happens.
    pub fn text(&self) -> Result<String> {
        let action = serde_json::to_string(&self.action)
            .map_err(|error| Error::internal("a request can't be written").with_source(error))?;
        Ok(format!(
            "backstop approval v0\nvault {}\nrequest {}\nuntil {}\naction {action}\n",
            self.vault, self.id, self.until.0
        ))
    }
}

/// What became of an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Approved {
    /// It was the last one that was needed: what was asked for is done.
    Done(GuardedAction),
    /// So many more are needed.
    Waiting(u32),
}

/// Where a request stands in the catalog.
pub(crate) fn approval_key(id: &str) -> Vec<u8> {
    [&[APPROVALS], id.as_bytes()].concat()
}

/// What an action does.
enum Effect {
    Change(Box<Change>),
    RemoveKey(String),
}

/// Who may approve.
pub(crate) async fn operators(vault: &Vault) -> Result<Operators> {
    let value = vault.catalog.get_durable(OPERATORS).await?;
    let operators = value.map(|value| record::decode("the record of operators", &value));
    Ok(operators.transpose()?.unwrap_or_default())
}

/// Refuses an action that needs approvals.
pub(crate) async fn check(vault: &Vault, action: &GuardedAction) -> Result<()> {
    let operators = operators(vault).await?;
    if !operators.decide() {
        return Ok(());
    }
    Err(Error::conflict(format!(
        "to {action} takes the approval of {} operators: one asks for it, the others approve",
        operators.needed
    )))
}

/// Refuses to lift marks that need approvals.
pub(crate) async fn check_marks(
    vault: &Vault,
    point: PointId,
    before: &Marks,
    after: &Marks,
) -> Result<()> {
    let holds: BTreeSet<String> = before.holds.difference(&after.holds).cloned().collect();
    let pinned = before.pinned && !after.pinned;
    if !pinned && holds.is_empty() {
        return Ok(());
    }
    let action = GuardedAction::LiftMarks {
        point,
        pinned,
        holds,
    };
    check(vault, &action).await
}

/// What an action does to the vault as it is now.
async fn effect(vault: &Vault, action: &GuardedAction) -> Result<Effect> {
    let known = operators(vault).await?;
    let change = match action {
        GuardedAction::LiftMarks {
            point,
            pinned,
            holds,
        } => {
            let mut record = vault.point_record(*point).await?;
            let marks = &mut record.point.marks;
            let has_all = holds.is_subset(&marks.holds) && (marks.pinned || !pinned);
            if !has_all || (holds.is_empty() && !pinned) {
                return Err(Error::conflict(format!(
                    "recovery point {point} does not have the marks that are to be lifted"
                )));
            }
            marks.pinned &= !pinned;
            marks.holds.retain(|name| !holds.contains(name));
            Change::Marked(record)
        }
        GuardedAction::ShortenUndo { seconds } => {
            let mut protection = removal::protection(vault).await?;
            protection.undo_window = Duration::from_secs(*seconds);
            removal::protection(vault)
                .await?
                .check_change(&protection)?;
            Change::Protected(protection)
        }
        GuardedAction::NeedFewerOperators { needed } => Change::Operators(known.needing(*needed)?),
        GuardedAction::AddOperator { name, key } => Change::Operators(known.with(Operator {
            name: name.clone(),
            key: *key,
        })?),
        GuardedAction::RemoveOperator { name } => Change::Operators(known.without(name)?),
        GuardedAction::RemoveKey { slot } => {
            keys::check_removal(vault, slot).await?;
            return Ok(Effect::RemoveKey(slot.clone()));
        }
    };
    Ok(Effect::Change(Box::new(change)))
}

async fn waiting(vault: &Vault) -> Result<Vec<ApprovalRequest>> {
    let mut requests = Vec::new();
    let mut entries = vault.catalog.scan(&[APPROVALS]).await?;
    while let Some((_, value)) = entries.next().await? {
        requests.push(record::decode("a request for approval", &value)?);
    }
    Ok(requests)
}

async fn request(
    vault: &Vault,
    action: GuardedAction,
    operator: &str,
    key: &OperatorKey,
) -> Result<ApprovalRequest> {
    vault.writer()?;
    let _one = vault.commit.lock().await;
    let operators = operators(vault).await?;
    if !operators.decide() {
        return Err(Error::conflict(format!(
            "the vault at {} asks for no approvals: do it without",
            vault.place.name
        )));
    }
    effect(vault, &action).await?;
    let now = vault.time().await?.time;
    let (over, open): (Vec<_>, Vec<_>) = waiting(vault)
        .await?
        .into_iter()
        .partition(|request| request.until <= now);
    if open.len() >= MOST_REQUESTS {
        return Err(Error::conflict(format!(
            "{MOST_REQUESTS} requests wait for approvals, which is the most; each goes by time"
        )));
    }
    let mut request = ApprovalRequest {
        id: to_hex(&seal::random::<16>()?),
        vault: vault.header.id.clone(),
        action,
        until: now.after(APPROVAL_TIME),
        approvals: Vec::new(),
    };
    let approval = key.approve(operator, &request)?;
    operators.check_approval(&request, &approval)?;
    request.approvals.push(approval);
    let over = over.into_iter().map(|request| Change::Answered(request.id));
    let changes: Vec<Change> = over.chain([Change::Asked(request.clone())]).collect();
    changes::commit(vault, &changes).await?;
    Ok(request)
}

async fn approve(vault: &Vault, id: &str, approval: Approval) -> Result<Approved> {
    vault.writer()?;
    let _one = vault.commit.lock().await;
    let value = vault.catalog.get_durable(&approval_key(id)).await?;
    let value = value.ok_or_else(|| {
        Error::not_found(format!(
            "no request {id} waits for approval in the vault at {}: it was done, or never made",
            vault.place.name
        ))
    })?;
    let mut request: ApprovalRequest = record::decode("a request for approval", &value)?;
    let now = vault.time().await?;
    if request.until <= now.time {
        return Err(Error::conflict(format!(
            "request {id} could be approved until {}; ask again",
            now.by_clock(request.until)
        )));
    }
    let operators = operators(vault).await?;
    let operator = operators.check_approval(&request, &approval)?;
    if let Some(before) = request
        .approvals
        .iter()
        .find(|before| before.operator == operator.name)
    {
        return Err(Error::conflict(format!(
            "operator {:?} has approved request {id} already; it takes another one",
            before.operator
        )));
    }
    request.approvals.push(approval);
    let more = (operators.needed as usize).saturating_sub(operators.count(&request));
    if more > 0 {
        changes::commit(vault, &[Change::Asked(request)]).await?;
        return Ok(Approved::Waiting(u32::try_from(more).unwrap_or(u32::MAX)));
    }
    let answered = Change::Answered(request.id);
    match effect(vault, &request.action).await? {
        Effect::Change(change) => {
            changes::commit(vault, &[*change, answered]).await?;
            changes::keep(vault).await?;
        }
        Effect::RemoveKey(slot) => {
            // If it ends between the two, it has to be asked for again.
            changes::commit(vault, &[answered]).await?;
            keys::remove(vault, &slot).await?;
        }
    }
    Ok(Approved::Done(request.action))
}

/// Makes a change of the operators that needs no approvals.
async fn change_operators(
    vault: &Vault,
    action: Option<GuardedAction>,
    change: impl FnOnce(&Operators) -> Result<Operators>,
) -> Result<()> {
    vault.writer()?;
    let _one = vault.commit.lock().await;
    if let Some(action) = action {
        check(vault, &action).await?;
    }
    let changed = change(&operators(vault).await?)?;
    changes::commit(vault, &[Change::Operators(changed)]).await?;
    changes::keep(vault).await
}

impl DedupStore {
    /// Who may approve what protects the vault less, and how many have to.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn operators(&self) -> Result<Operators> {
        operators(&self.vault).await
    }

    /// Registers an operator, durably.
    ///
    /// # Errors
    /// [`Conflict`](backstop_core::ErrorKind::Conflict) if that takes the
    /// approval of others; [`AlreadyExists`](backstop_core::ErrorKind::AlreadyExists)
    /// for a name or key that is known; [`InvalidInput`](backstop_core::ErrorKind::InvalidInput)
    /// for what is no name.
    pub async fn add_operator(&self, name: &str, key: OperatorPublicKey) -> Result<()> {
        let (vault, name) = (Arc::clone(&self.vault), name.to_owned());
        to_its_end(async move {
            let action = GuardedAction::AddOperator {
                name: name.clone(),
                key,
            };
            let operator = Operator { name, key };
            change_operators(&vault, Some(action), |known| known.with(operator)).await
        })
        .await
    }

    /// Removes an operator, durably. Approvals that were given count no more.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for an unknown one;
    /// [`Conflict`](backstop_core::ErrorKind::Conflict) if that takes the
    /// approval of others, or if too few would be left.
    pub async fn remove_operator(&self, name: &str) -> Result<()> {
        let (vault, name) = (Arc::clone(&self.vault), name.to_owned());
        to_its_end(async move {
            let action = GuardedAction::RemoveOperator { name: name.clone() };
            change_operators(&vault, Some(action), |known| known.without(&name)).await
        })
        .await
    }

    /// From now on so many operators have to approve what protects the vault
    /// less: lifting pins and holds, a shorter undo window, removing a key slot,
    /// and every change of the operators themselves. Below two nobody is asked.
    ///
    /// # Errors
    /// [`Conflict`](backstop_core::ErrorKind::Conflict) if the vault knows fewer
    /// operators, or if needing fewer takes their approval.
    pub async fn need_operators(&self, needed: u32) -> Result<()> {
        let vault = Arc::clone(&self.vault);
        to_its_end(async move {
            let now = operators(&vault).await?;
            let fewer = GuardedAction::NeedFewerOperators { needed };
            let action = (needed < now.needed).then_some(fewer);
            change_operators(&vault, action, |known| {
                if known.decide() && needed < known.needed {
                    return Err(Error::conflict("the operators have changed; look again"));
                }
                known.needing(needed)
            })
            .await
        })
        .await
    }

    /// Asks for what takes the approval of several operators, as one of them.
    /// It can be approved for a day.
    ///
    /// # Errors
    /// [`Conflict`](backstop_core::ErrorKind::Conflict) if the vault asks for no
    /// approvals; [`NotFound`](backstop_core::ErrorKind::NotFound) for an unknown
    /// operator; [`WrongKey`](backstop_core::ErrorKind::WrongKey) if the key is
    /// another's; and those of doing it.
    pub async fn request_approval(
        &self,
        action: GuardedAction,
        operator: &str,
        key: &OperatorKey,
    ) -> Result<ApprovalRequest> {
        let (vault, operator, key) = (Arc::clone(&self.vault), operator.to_owned(), key.clone());
        to_its_end(async move { request(&vault, action, &operator, &key).await }).await
    }

    /// Approves a request; with the last approval that is needed it is done.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for a request that does
    /// not wait, as one that was done, and for an unknown operator;
    /// [`WrongKey`](backstop_core::ErrorKind::WrongKey) if the approval is not
    /// the operator's, or not of this request;
    /// [`Conflict`](backstop_core::ErrorKind::Conflict) if the operator has
    /// approved it before or its time is over; and those of doing it, after
    /// which it still waits.
    pub async fn approve(&self, id: &str, approval: Approval) -> Result<Approved> {
        let (vault, id) = (Arc::clone(&self.vault), id.to_owned());
        to_its_end(async move { approve(&vault, &id, approval).await }).await
    }

    /// The requests that wait for approvals. A reader may ask too.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn approval_requests(&self) -> Result<Vec<ApprovalRequest>> {
        let now = self.vault.time().await?.time;
        let mut requests = waiting(&self.vault).await?;
        requests.retain(|request| request.until > now);
        requests.sort_by(|a, b| (a.until, &a.id).cmp(&(b.until, &b.id)));
        Ok(requests)
    }
}
