//! `enroll`: who may take part, and becoming one who may.

use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use backstop::{
    Clock, Enrolment, Error, ErrorKind, JoinToken, Result, Role, Roster, SystemClock, Timestamp,
    join,
};
use serde::Serialize;
use serde_json::json;

use crate::ending::{Ending, Stop, Verdict};
use crate::enroll_arguments::{EnrollCommand, JoinArguments, RosterArguments, TokenArguments};
use crate::interrupt::unless_interrupted;
use crate::output::Output;
use crate::table::{Align, Table};

/// Makes a roster, changes or lists it, or joins where there is one.
pub async fn enroll(command: &EnrollCommand, output: Output) -> Ending {
    match command {
        EnrollCommand::Init(RosterArguments { dir }) => {
            Roster::create(dir, Arc::new(SystemClock))?;
            let text = format!("made a roster in {}\n", dir.display());
            output.print(&json!({"roster": dir}), text)?;
        }
        EnrollCommand::Token(arguments) => token(arguments, output)?,
        EnrollCommand::Join(arguments) => {
            return unless_interrupted(joined(arguments, output)).await?;
        }
        EnrollCommand::Revoke(arguments) => {
            let (name, role) = (&arguments.who.name, arguments.who.role());
            open(&arguments.roster)?.revoke(name, role)?;
            let object = json!({"revoked": name, "role": role});
            output.print(&object, format_args!("revoked {role} {name}\n"))?;
        }
        EnrollCommand::List(arguments) => list(&open(arguments)?.enrolled()?, output)?,
    }
    Ok(Verdict::Done)
}

fn open(arguments: &RosterArguments) -> Result<Roster> {
    Roster::open(&arguments.dir, Arc::new(SystemClock))
}

fn token(arguments: &TokenArguments, output: Output) -> Result<(), Stop> {
    let (name, role) = (&arguments.who.name, arguments.who.role());
    let lifetime = Duration::from_hours(arguments.hours.into());
    let expires = SystemClock.now().after(lifetime);
    let token = open(&arguments.roster)?.token(name, role, lifetime)?;
    let token = token.to_string();
    let object = json!({
        "name": name, "role": role, "token": token, "expires": expires.to_string(),
    });
    output.print(&object, format_args!("{token}\n"))
}

async fn joined(arguments: &JoinArguments, output: Output) -> Ending {
    let token: JoinToken = arguments.token.parse()?;
    let dir = &arguments.dir;
    // The token is good once: what would keep the key from being kept is told first.
    let key = dir.join("identity.key");
    if key.exists() {
        let sentence = format!("{} is there already; name another folder", key.display());
        return Err(Error::new(ErrorKind::AlreadyExists, sentence).into());
    }
    let mut folder = std::fs::DirBuilder::new();
    folder.recursive(true).mode(0o700);
    folder.create(dir).map_err(|error| {
        let sentence = format!("{} can't be made", dir.display());
        Error::invalid_input(sentence).with_source(error)
    })?;
    let enrolled = join(&arguments.servers, &token).await?;
    enrolled.save(dir)?;
    let (name, role) = (&enrolled.name, enrolled.role);
    let object = json!({"name": name, "role": role, "folder": dir});
    let text = format!(
        "joined as {role} {name}; its certificate is in {}\n",
        dir.display()
    );
    output.print(&object, text)?;
    Ok(Verdict::Done)
}

/// One certificate of somebody.
#[derive(Debug, Serialize)]
struct CertificateReport<'a> {
    name: &'a str,
    role: Role,
    fingerprint: String,
    not_after: String,
    revoked: Option<String>,
}

fn list(enrolled: &[Enrolment], output: Output) -> Result<(), Stop> {
    let mut table = Table::new(&[
        ("role", Align::Left),
        ("name", Align::Left),
        ("certificate", Align::Left),
        ("valid until", Align::Left),
        ("revoked", Align::Left),
    ]);
    let mut reports = Vec::new();
    for one in enrolled {
        for certificate in &one.certificates {
            let report = CertificateReport {
                name: &one.name,
                role: one.role,
                fingerprint: certificate.fingerprint.to_string(),
                not_after: certificate.not_after.to_string(),
                revoked: certificate.revoked.as_ref().map(Timestamp::to_string),
            };
            table.row(vec![
                one.role.to_string(),
                one.name.clone(),
                report.fingerprint.chars().take(16).collect(),
                report.not_after.clone(),
                report.revoked.clone().unwrap_or_default(),
            ]);
            reports.push(report);
        }
    }
    output.print(&reports, table)
}
