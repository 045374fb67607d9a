//! `status`: what a protection server is doing.

use backstop::{ByteCount, TransportStatus};
use indicatif::BinaryBytes;

use crate::certificates::client;
use crate::ending::{Ending, Verdict};
use crate::output::Output;
use crate::table::{Align, Table};
use crate::wire_arguments::ServerArguments;

/// Tells who is connected, what is synchronized, and who waits.
pub async fn status(arguments: &ServerArguments, output: Output) -> Ending {
    let status = client(arguments)?.build()?.status().await?;
    output.print(&status, tables(&status))?;
    Ok(Verdict::Done)
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
