//! `access`: what an operator lets agents recover, and who did what.

use backstop::{AuditEntry, Audited, Clock, Grant, Result, SourceName, SystemClock, TcpClient};
use serde_json::json;

use crate::certificates::client;
use crate::ending::{Ending, Verdict};
use crate::output::Output;
use crate::table::{Align, Table};
use crate::wire_arguments::AccessCommand;

/// Grants, takes back, lists.
pub async fn access(command: &AccessCommand, output: Output) -> Ending {
    match command {
        AccessCommand::Grant {
            agent,
            source,
            lasts,
            server,
        } => {
            let grant = Grant {
                agent: agent.clone(),
                source: SourceName::new(source)?,
                until: SystemClock.now().after(*lasts),
            };
            client(server)?.build()?.grant(&grant).await?;
            let text = format_args!("{agent} may recover {source} until {}\n", grant.until);
            output.print(&grant, text)?;
        }
        AccessCommand::Withdraw {
            agent,
            source,
            server,
        } => {
            let client = client(server)?.build()?;
            client.withdraw(agent, &SourceName::new(source)?).await?;
            let told = json!({"agent": agent, "source": source});
            output.print(
                &told,
                format_args!("{agent} may no longer recover {source}\n"),
            )?;
        }
        AccessCommand::List(server) => {
            let grants = client(server)?.build()?.grants().await?;
            let mut table = Table::new(&[
                ("agent", Align::Left),
                ("may recover", Align::Left),
                ("until", Align::Left),
            ]);
            for grant in &grants {
                let source = grant.source.to_string();
                table.row(vec![grant.agent.clone(), source, grant.until.to_string()]);
            }
            output.print(&grants, table)?;
        }
        AccessCommand::Audit(server) => {
            let entries = audit(&client(server)?.build()?).await?;
            let mut table = Table::new(&[
                ("when", Align::Left),
                ("who", Align::Left),
                ("what", Align::Left),
            ]);
            for AuditEntry { record, .. } in &entries {
                let who = format!("{} {}", record.who.role, record.who.name);
                table.row(vec![record.time.to_string(), who, what(&record.what)]);
            }
            output.print(&entries, table)?;
        }
    }
    Ok(Verdict::Done)
}

/// All pages.
async fn audit(client: &TcpClient) -> Result<Vec<AuditEntry>> {
    let mut entries: Vec<AuditEntry> = Vec::new();
    loop {
        let before = entries.last().map(|entry| entry.number);
        let page = client.audit(before).await?;
        if page.is_empty() {
            return Ok(entries);
        }
        entries.extend(page);
    }
}

fn what(what: &Audited) -> String {
    match what {
        Audited::Opened { point, source } => format!("opened {point} of {source}"),
        Audited::Expired { count, .. } => format!("let {count} points expire"),
        Audited::Granted(Grant {
            agent,
            source,
            until,
        }) => format!("let {agent} recover {source} until {until}"),
        Audited::Withdrawn { agent, source } => format!("no longer lets {agent} recover {source}"),
        Audited::Refused { call, why } => format!("was refused {call}: {why}"),
        other => format!("{other:?}"),
    }
}
