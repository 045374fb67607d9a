//! The names of agents and operators, as their certificates can hold them.

use backstop_core::{Error, Result};

use crate::tls::Role;

/// The longest name, in bytes: with what follows it in a certificate it is a DNS
/// name still (RFC 1035, 2.3.4).
const LENGTH_MAX: usize = 200;

/// The longest part between two dots, in bytes (RFC 1035, 2.3.4).
const LABEL_MAX: usize = 63;

/// Checks that a name is one of DNS labels.
pub(super) fn check(name: &str) -> Result<()> {
    if name.len() <= LENGTH_MAX && name.split('.').all(is_label) {
        return Ok(());
    }
    let shown: String = name.chars().take(LENGTH_MAX).collect();
    Err(Error::invalid_input(format!(
        "{shown:?} is no name of an agent or operator: it takes letters, digits and hyphens, \
         with single dots between, at most {LENGTH_MAX} bytes"
    )))
}

fn is_label(label: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=LABEL_MAX).contains(&label.len())
        && label.bytes().all(is_allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// The DNS name that a certificate holds for who has this name and role.
pub(super) fn dns(name: &str, role: Role) -> String {
    match role {
        Role::Agent => format!("{name}.agent.backstop"),
        Role::Operator => format!("{name}.operator.backstop"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(8));
        for name in [
            "a",
            "web1",
            "WEB-1.example.org",
            "1.2.3.4",
            &label,
            &longest,
        ] {
            check(name).unwrap();
        }
        let long_label = "a".repeat(64);
        let too_long = format!("{longest}b");
        for name in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a b",
            "a/b",
            "*",
            "a_b",
            "ä",
            "a\n",
            &long_label,
            &too_long,
        ] {
            let error = check(name).unwrap_err();
            assert!(error.to_string().contains("is no name"), "{error}");
        }
    }
}
