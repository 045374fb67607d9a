//! `stats --cost`: what the vault asks of its store, what it stores, and what
//! that costs by a price list.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use backstop::{
    Amount, ByteCount, DedupStore, Error, ErrorKind, ObjectKind, Operation, PriceList, Requests,
    Result, StoreUsage, Stored, UsageByOperation,
};
use serde::Serialize;

use crate::ending::{Ending, Verdict};
use crate::output::Output;
use crate::report::amount;
use crate::table::{Align, Table};

/// What it costs, as JSON. Amounts of money are decimal numbers in strings.
#[derive(Debug, Serialize)]
struct CostReport {
    /// Without a price list nothing has a price.
    currency: Option<String>,
    /// What is stored now, and what that costs in a month.
    stored: BTreeMap<ObjectKind, StoredReport>,
    stored_cost_per_month: Option<Amount>,
    /// What owners have asked, by month.
    months: Vec<MonthReport>,
    /// The same of all months.
    operations: Vec<OperationReport>,
    /// What this run has asked so far; of a reader, as this is, nobody keeps it.
    this_run: StoreUsage,
}

#[derive(Debug, Serialize)]
struct StoredReport {
    #[serde(flatten)]
    stored: Stored,
    cost_per_month: Option<Amount>,
}

#[derive(Debug, Serialize)]
struct MonthReport {
    month: String,
    operations: Vec<OperationReport>,
    #[serde(flatten)]
    total: RequestReport,
}

#[derive(Debug, Serialize)]
struct OperationReport {
    operation: Operation,
    #[serde(flatten)]
    requests: RequestReport,
}

/// Requests, and what they cost.
#[derive(Clone, Copy, Debug, Serialize)]
struct RequestReport {
    #[serde(flatten)]
    requests: Requests,
    cost: Option<Amount>,
}

impl RequestReport {
    fn new(requests: Requests, prices: Option<&PriceList>) -> Self {
        let cost = prices.map(|prices| prices.of_requests(&requests));
        Self { requests, cost }
    }
}

/// Tells what the vault costs.
pub async fn cost(prices: Option<&Path>, vault: &DedupStore, output: Output) -> Ending {
    // Before anything is asked: a wrong file is told at once.
    let prices = prices.map(read).transpose()?;
    let report = gather(prices.as_ref(), vault).await?;
    output.print(&report, text(&report))?;
    Ok(Verdict::Done)
}

fn read(path: &Path) -> Result<PriceList> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::InvalidInput,
        };
        let sentence = format!("{} can't be read", path.display());
        Error::new(kind, sentence).with_source(error)
    })?;
    PriceList::parse(&text).map_err(|error| error.within(path.display()))
}

async fn gather(prices: Option<&PriceList>, vault: &DedupStore) -> Result<CostReport> {
    let month_cost = |bytes| prices.map(|prices| prices.of_stored(bytes));
    let stored = vault.stored().await?;
    let bytes: ByteCount = stored.values().map(|stored| stored.bytes).sum();
    let months = vault.usage_by_month().await?;
    let mut all = UsageByOperation::new();
    for (operation, requests) in months.iter().flat_map(|month| &month.operations) {
        *all.entry(*operation).or_default() += *requests;
    }
    let months = months.into_iter().map(|month| MonthReport {
        total: RequestReport::new(total(&month.operations), prices),
        operations: operations(&month.operations, prices),
        month: month.month,
    });
    Ok(CostReport {
        currency: prices.map(|prices| prices.currency.clone()),
        stored: stored
            .into_iter()
            .map(|(kind, stored)| {
                let cost_per_month = month_cost(stored.bytes);
                let report = StoredReport {
                    stored,
                    cost_per_month,
                };
                (kind, report)
            })
            .collect(),
        stored_cost_per_month: month_cost(bytes),
        months: months.collect(),
        operations: operations(&all, prices),
        this_run: vault.usage(),
    })
}

fn operations(usage: &UsageByOperation, prices: Option<&PriceList>) -> Vec<OperationReport> {
    let each = usage.iter().map(|(operation, requests)| OperationReport {
        operation: *operation,
        requests: RequestReport::new(*requests, prices),
    });
    each.collect()
}

fn total(usage: &UsageByOperation) -> Requests {
    let mut total = Requests::default();
    for requests in usage.values() {
        total += *requests;
    }
    total
}

fn money(amount: Option<Amount>) -> String {
    amount.map(|amount| amount.to_string()).unwrap_or_default()
}

fn text(report: &CostReport) -> String {
    let currency = report.currency.as_deref().unwrap_or_default();
    let mut stored = Table::new(&[
        ("stored now", Align::Left),
        ("objects", Align::Right),
        ("bytes", Align::Right),
        ("a month", Align::Right),
        ("", Align::Left),
    ]);
    for (kind, class) in &report.stored {
        stored.row(vec![
            kind.to_string(),
            class.stored.objects.to_string(),
            amount(class.stored.bytes),
            money(class.cost_per_month),
            currency.to_owned(),
        ]);
    }
    let sums = report.stored.values().map(|class| class.stored);
    stored.row(vec![
        "in all".to_owned(),
        sums.clone()
            .map(|stored| stored.objects)
            .sum::<u64>()
            .to_string(),
        amount(sums.map(|stored| stored.bytes).sum()),
        money(report.stored_cost_per_month),
        currency.to_owned(),
    ]);
    let mut asked = Table::new(&[
        ("month", Align::Left),
        ("operation", Align::Left),
        ("writes", Align::Right),
        ("reads", Align::Right),
        ("deletes", Align::Right),
        ("sent", Align::Right),
        ("received", Align::Right),
        ("cost", Align::Right),
        ("", Align::Left),
    ]);
    let mut row = |month: &str, operation: &str, RequestReport { requests, cost }| {
        asked.row(vec![
            month.to_owned(),
            operation.to_owned(),
            requests.writes().to_string(),
            requests.reads().to_string(),
            requests.deletes.to_string(),
            amount(ByteCount(requests.bytes_sent)),
            amount(ByteCount(requests.bytes_received)),
            money(cost),
            currency.to_owned(),
        ]);
    };
    for month in &report.months {
        for each in &month.operations {
            row(&month.month, each.operation.name(), each.requests);
        }
        row(&month.month, "in all", month.total);
    }
    for each in &report.operations {
        row("all months", each.operation.name(), each.requests);
    }
    let mut text = format!("{stored}\n{asked}");
    if report.currency.is_none() {
        // Writing to a string can't fail.
        let _ = writeln!(text, "\nno prices: give a price list by --prices FILE");
    }
    text
}

/// What a run asked of the store, in one line.
pub fn line(usage: &StoreUsage) -> String {
    let total = usage.total();
    let mut line = format!(
        "asked of the store: {} writes, {} reads, {} deletions, {} sent, {} received",
        total.writes(),
        total.reads(),
        total.deletes,
        amount(ByteCount(total.bytes_sent)),
        amount(ByteCount(total.bytes_received)),
    );
    for (operation, requests) in usage.by_operation() {
        let _ = write!(line, "; {operation} {}", requests.count());
    }
    line
}
