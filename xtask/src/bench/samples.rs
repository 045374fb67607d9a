//! What was measured: one sample for each run of a command, and medians over the rounds.

use crate::bench::measure::Cost;
use crate::bench::tool::Tool;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One run of one command.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What was done; the same name for all tools and rounds
    pub row: String,
    /// By whom
    pub tool: Tool,
    /// What it took
    pub cost: Cost,
    /// Other numbers: stored bytes, changed bytes, ...
    pub facts: BTreeMap<&'static str, f64>,
}

/// All runs so far.
#[derive(Debug, Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Adds a sample and prints it.
    pub fn add(&mut self, sample: Sample) {
        let mut facts = String::new();
        for (name, value) in &sample.facts {
            let _ = write!(facts, ", {name} {value:.0}");
        }
        println!(
            "{:22} {:7} {:8.3} s, {:7.2} s cpu, {:6.1} MiB{facts}",
            sample.row,
            sample.tool.name(),
            sample.cost.wall_s,
            sample.cost.cpu_s(),
            sample.cost.peak_mib
        );
        self.0.push(sample);
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names of the rows, in the order in which they were first measured.
    pub fn rows(&self) -> Vec<&str> {
        let mut rows = Vec::new();
        for sample in &self.0 {
            if !rows.contains(&sample.row.as_str()) {
                rows.push(&sample.row);
            }
        }
        rows
    }

    /// The samples of a row by one tool.
    pub fn of<'a>(&'a self, row: &'a str, tool: Tool) -> impl Iterator<Item = &'a Sample> {
        self.0
            .iter()
            .filter(move |sample| sample.row == row && sample.tool == tool)
    }

    /// The median of something over a row's samples by one tool.
    pub fn median(
        &self,
        row: &str,
        tool: Tool,
        of: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<f64> {
        median(self.of(row, tool).filter_map(of).collect())
    }

    /// The median wall time in seconds.
    pub fn wall(&self, row: &str, tool: Tool) -> Option<f64> {
        self.median(row, tool, |sample| Some(sample.cost.wall_s))
    }

    /// The median of a fact.
    pub fn fact(&self, row: &str, tool: Tool, name: &str) -> Option<f64> {
        self.median(row, tool, |sample| sample.facts.get(name).copied())
    }

    /// The largest peak memory of a tool over the rows that are meant, in MiB, and in which row that was.
    pub fn peak(&self, tool: Tool, meant: impl Fn(&str) -> bool) -> Option<(f64, &str)> {
        self.0
            .iter()
            .filter(|sample| sample.tool == tool && meant(&sample.row))
            .map(|sample| (sample.cost.peak_mib, sample.row.as_str()))
            .max_by(|one, other| one.0.total_cmp(&other.0))
    }

    /// All samples as JSON.
    pub fn to_json(&self) -> Value {
        let list = self.0.iter().map(|sample| {
            json!({
                "row": sample.row,
                "tool": sample.tool.name(),
                "wall_s": sample.cost.wall_s,
                "user_s": sample.cost.user_s,
                "system_s": sample.cost.system_s,
                "peak_mib": sample.cost.peak_mib,
                "facts": sample.facts,
            })
        });
        Value::Array(list.collect())
    }
}

/// The middle value; the mean of the two middle ones if their number is even.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len(), values.get(middle)) {
        (count, Some(value)) if count % 2 == 1 => Some(*value),
        (_, Some(value)) => Some(f64::midpoint(values[middle - 1], *value)),
        (_, None) => None,
    }
}

/// How far the point furthest from the straight line through all lies from it, beside the largest value. None for fewer
/// than three points: two are always on a line.
pub fn bend(points: &[(f64, f64)]) -> Option<f64> {
    let (zero, slope) = line(points).filter(|_| points.len() > 2)?;
    let furthest = points.iter().map(|(x, y)| (y - zero - slope * x).abs());
    let largest = points.iter().map(|(_, y)| y.abs());
    let (furthest, largest) = (furthest.reduce(f64::max)?, largest.reduce(f64::max)?);
    (largest > 0.0).then_some(furthest / largest)
}

/// The straight line through points by least squares: where it meets zero, and its slope.
pub fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if points.len() < 2 || spread == 0.0 {
        return None;
    }
    let slope = points
        .iter()
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum::<f64>()
        / spread;
    Some((y - slope * x, slope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_lines() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        let (zero, slope) = line(&[(1.0, 5.0), (2.0, 7.0), (3.0, 9.0)]).unwrap();
        assert!((zero - 3.0).abs() < 1e-9 && (slope - 2.0).abs() < 1e-9);
        assert_eq!(line(&[(1.0, 5.0)]), None);
    }

    #[test]
    fn a_curve_is_no_line() {
        let times = |of: fn(f64) -> f64| [1.0, 5.0, 10.0, 20.0, 50.0].map(|x| (x, of(x)));
        assert!(bend(&times(|x| 30.0 + 8.0 * x)).unwrap() < 1e-9);
        // One that curves, though it may meet zero where a line would; a step; one that flattens.
        assert!(bend(&times(|x| x * x)).unwrap() > 0.1);
        assert!(bend(&times(|x| if x > 5.0 { 8.0 * x + 150.0 } else { 8.0 * x })).unwrap() > 0.1);
        assert!(bend(&times(f64::sqrt)).unwrap() > 0.1);
        assert_eq!(bend(&[(1.0, 5.0), (2.0, 7.0)]), None);
        assert_eq!(bend(&[(1.0, 0.0), (2.0, 0.0), (3.0, 0.0)]), None);
    }
}
