//! `status`: what a protection server is doing.

use std::time::Duration;

use backstop::{ByteCount, RecoveryService, ReplicaState, SourceStatus, TransportStatus};
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::certificates::client;
use crate::ending::{Ending, Verdict};
use crate::output::Output;
use crate::table::{Align, Table};
use crate::wire_arguments::ServerArguments;

#[derive(Debug, Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    status: &'a TransportStatus,
    sources: Vec<SourceAge>,
}

/// A source, and what would be lost if it were lost now.
#[derive(Debug, Serialize)]
struct SourceAge {
    #[serde(flatten)]
    source: SourceStatus,
    /// Of the newest point, in seconds.
    age: Option<u64>,
}

/// Tells what is protected and how old the newest points are, who is connected,
/// what is synchronized, and who waits.
pub async fn status(arguments: &ServerArguments, output: Output) -> Ending {
    let client = client(arguments)?.build()?;
    let (status, sources) = (client.status().await?, client.sources().await?);
    let sources = sources.into_iter().map(|source| SourceAge {
        age: source
            .newest
            .map(|newest| status.at.since(newest.time).as_secs()),
        source,
    });
    let told = Told {
        status: &status,
        sources: sources.collect(),
    };
    let text = format!("{}\n{}", ages(&told.sources), tables(&status));
    output.print(&told, text)?;
    Ok(Verdict::Done)
}

fn ages(sources: &[SourceAge]) -> Table {
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("state", Align::Left),
        ("newest point", Align::Left),
        ("age", Align::Right),
    ]);
    for SourceAge { source, age } in sources {
        let state = match source.state {
            ReplicaState::Pending => "pending",
            ReplicaState::Consistent => "consistent",
            ReplicaState::Inconsistent { .. } => "inconsistent",
        };
        let newest = source.newest.map(|newest| newest.time.to_string());
        let age = age.map(|age| humantime::format_duration(Duration::from_secs(age)).to_string());
        table.row(vec![
            source.source.to_string(),
            state.to_owned(),
            newest.unwrap_or_default(),
            age.unwrap_or_default(),
        ]);
    }
    table
}

fn tables(status: &TransportStatus) -> String {
    let mut connections = Table::new(&[
        ("connected", Align::Left),
        ("from", Align::Left),
        ("since", Align::Left),
        ("synchronizes", Align::Left),
        ("how", Align::Left),
        ("done", Align::Right),
        ("received", Align::Right),
        ("a second", Align::Right),
    ]);
    for connection in &status.connections {
        let who = vec![
            connection.peer.clone(),
            connection.from.to_string(),
            connection.since.to_string(),
        ];
        for one in &connection.synchronizations {
            let mut row = who.clone();
            let percent = one.regions_done.saturating_mul(100) / one.regions.max(1);
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rate is no exact number"
            )]
            let rate = one.rate(status.at) as u64;
            row.extend([
                one.source.to_string(),
                one.plan.clone(),
                format!("{percent} %"),
                amount(one.received),
                amount(ByteCount(rate)),
            ]);
            connections.row(row);
        }
        if connection.synchronizations.is_empty() {
            connections.row(who);
        }
    }
    let mut text = connections.to_string();
    if !status.waiting.is_empty() {
        let mut waiting = Table::new(&[
            ("waits", Align::Left),
            ("to synchronize", Align::Left),
            ("since", Align::Left),
        ]);
        for one in &status.waiting {
            waiting.row(vec![
                one.agent.clone(),
                one.source.to_string(),
                one.since.to_string(),
            ]);
        }
        text.push('\n');
        text.push_str(&waiting.to_string());
    }
    text
}

fn amount(bytes: ByteCount) -> String {
    BinaryBytes(bytes.0).to_string()
}
