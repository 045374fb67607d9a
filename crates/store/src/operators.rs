//! Operators: who may approve what protects the vault less, and their keys.
//!
//! The vault knows an operator's name and public key; the secret key never
//! comes into it. An approval is a signature (Ed25519) of a text that names the
//! vault, the request, what is to be done and until when, so it is good for
//! nothing else.

use std::fmt;
use std::str::FromStr;

use backstop_core::{Error, ErrorKind, Result};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::approvals::ApprovalRequest;
use crate::header::{from_hex, to_hex};
use crate::seal;

/// The most operators that a vault knows.
const MOST_OPERATORS: usize = 64;

/// The longest name of an operator, in bytes.
const MOST_NAME_BYTES: usize = 64;

/// An operator's secret key.
#[derive(Clone)]
pub struct OperatorKey(Zeroizing<[u8; 32]>);

impl OperatorKey {
    /// A fresh key, from the operating system's generator.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if that gives none.
    pub fn generate() -> Result<Self> {
        Ok(Self(Zeroizing::new(seal::random()?)))
    }

    /// The key with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes, to be kept where only its operator can read them.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.0.clone()
    }

    fn pair(&self) -> Result<Ed25519KeyPair> {
        Ed25519KeyPair::from_seed_unchecked(&*self.0)
            .map_err(|_| Error::internal("an operator's key could not be made"))
    }

    /// What the vault is told of it.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`], which never happens.
    pub fn public(&self) -> Result<OperatorPublicKey> {
        let pair = self.pair()?;
        let bytes = pair.public_key().as_ref().try_into();
        let bytes = bytes.map_err(|_| Error::internal("a public key has an odd length"))?;
        Ok(OperatorPublicKey(bytes))
    }

    /// Approves a request in the name of the key's operator. Needs no vault: a
    /// request can be carried to where the key is.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`], which never happens.
    pub fn approve(&self, operator: &str, request: &ApprovalRequest) -> Result<Approval> {
        let signature = self.pair()?.sign(request.text()?.as_bytes());
        Ok(Approval {
            operator: operator.to_owned(),
            signature: to_hex(signature.as_ref()),
        })
    }
}

impl fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorKey(..)")
    }
}

/// What tells an operator's approvals from others': 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperatorPublicKey([u8; 32]);

impl OperatorPublicKey {
    fn has_signed(&self, text: &str, signature: &str) -> bool {
        let Ok(signature) = from_hex("a signature", signature) else {
            return false;
        };
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(text.as_bytes(), &signature).is_ok()
    }
}

impl fmt::Display for OperatorPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for OperatorPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorPublicKey({self})")
    }
}

impl FromStr for OperatorPublicKey {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bytes = from_hex("a public key", text).ok();
        let bytes = bytes.and_then(|bytes| bytes.as_slice().try_into().ok());
        bytes.map(Self).ok_or_else(|| {
            Error::invalid_input(format!(
                "{text:?} is no public key of an operator (64 hexadecimal digits)"
            ))
        })
    }
}

impl TryFrom<String> for OperatorPublicKey {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<OperatorPublicKey> for String {
    fn from(key: OperatorPublicKey) -> Self {
        key.to_string()
    }
}

/// An operator's approval of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Whose it is.
    pub operator: String,
    /// The signature of [`ApprovalRequest::text`]: 128 hexadecimal digits.
    pub signature: String,
}

/// An operator whom a vault knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// A name.
    pub name: String,
    /// What approvals are checked by.
    pub key: OperatorPublicKey,
}

/// Who may approve, and how many have to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operators {
    /// So many operators have to approve what protects the vault less. Below
    /// two nobody is asked.
    pub needed: u32,
    /// Those who may.
    pub registered: Vec<Operator>,
}

impl Operators {
    /// Whether approvals are needed.
    pub fn decide(&self) -> bool {
        self.needed >= 2
    }

    pub(crate) fn find(&self, name: &str) -> Result<&Operator> {
        let found = self.registered.iter().find(|known| known.name == name);
        found.ok_or_else(|| Error::not_found(format!("the vault knows no operator {name:?}")))
    }

    /// The same with one more.
    pub(crate) fn with(&self, operator: Operator) -> Result<Self> {
        let Operator { name, key } = &operator;
        let is_name = !name.is_empty()
            && name.len() <= MOST_NAME_BYTES
            && name.trim() == name
            && !name.chars().any(char::is_control);
        if !is_name {
            return Err(Error::invalid_input(format!(
                "{name:?} is no name for an operator: 1 to {MOST_NAME_BYTES} bytes, no control \
                 characters, no white space at either end"
            )));
        }
        if let Some(known) = self
            .registered
            .iter()
            .find(|known| known.name == *name || known.key == *key)
        {
            return Err(Error::already_exists(format!(
                "operator {:?} with key {} is known already",
                known.name, known.key
            )));
        }
        if self.registered.len() >= MOST_OPERATORS {
            return Err(Error::invalid_input(format!(
                "the vault knows {MOST_OPERATORS} operators, which is the most"
            )));
        }
        let mut more = self.clone();
        more.registered.push(operator);
        more.registered.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(more)
    }

    /// The same without one.
    pub(crate) fn without(&self, name: &str) -> Result<Self> {
        self.find(name)?;
        let mut fewer = self.clone();
        fewer.registered.retain(|known| known.name != name);
        fewer.check()?;
        Ok(fewer)
    }

    /// The same with another number.
    pub(crate) fn needing(&self, needed: u32) -> Result<Self> {
        let mut other = self.clone();
        other.needed = needed;
        other.check()?;
        Ok(other)
    }

    fn check(&self) -> Result<()> {
        if self.decide() && self.registered.len() < self.needed as usize {
            return Err(Error::conflict(format!(
                "{} operators would have to approve, and the vault would know {}: register \
                 operators first, or need fewer of them",
                self.needed,
                self.registered.len()
            )));
        }
        Ok(())
    }

    /// The operator whose approval of a request this is.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for one who is not known; [`ErrorKind::WrongKey`]
    /// if the signature is not theirs, or not of this request.
    pub(crate) fn check_approval(
        &self,
        request: &ApprovalRequest,
        approval: &Approval,
    ) -> Result<&Operator> {
        let operator = self.find(&approval.operator)?;
        if !operator
            .key
            .has_signed(&request.text()?, &approval.signature)
        {
            return Err(Error::new(
                ErrorKind::WrongKey,
                format!(
                    "this is no approval of request {} by operator {:?}: it was not signed with \
                     the key {}",
                    request.id, operator.name, operator.key
                ),
            ));
        }
        Ok(operator)
    }

    /// How many different operators have approved a request, of those who are
    /// known now.
    pub(crate) fn count(&self, request: &ApprovalRequest) -> usize {
        let valid = self.registered.iter().filter(|operator| {
            request.approvals.iter().any(|approval| {
                approval.operator == operator.name && self.check_approval(request, approval).is_ok()
            })
        });
        valid.count()
    }
}
