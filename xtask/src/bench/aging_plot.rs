//! Draws what growing old costs, as lines over the days; written as SVG by hand.

use crate::bench::aging::{DAY, RESTORE};
use crate::bench::plot::{colour, legend};
use crate::bench::samples::{Sample, Samples};
use crate::bench::tool::Tool;
use std::fmt::Write as _;

const WIDTH: f64 = 1080.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 120.0;
const PANEL: f64 = 200.0;
const STEP: f64 = 270.0;

/// A line of one tool: days and values.
type Line = (Tool, Vec<(f64, f64)>);

/// The whole picture.
pub fn draw(samples: &Samples) -> String {
    let fact = |name: &'static str, unit: f64| {
        move |sample: &Sample| sample.facts.get(name).map(|value| value / unit)
    };
    let panels: [(&str, &str, Vec<Line>); 4] = [
        (
            "Stored",
            "MB",
            lines(samples, DAY, fact("stored_bytes", 1e6)),
        ),
        (
            "Objects",
            "files",
            lines(samples, DAY, fact("objects", 1.0)),
        ),
        (
            "Restore of the newest point",
            "seconds",
            lines(samples, RESTORE, |sample| Some(sample.cost.wall_s)),
        ),
        (
            "Protection of a day's change",
            "seconds",
            lines(samples, DAY, |sample| {
                let day = sample.facts.get("day")?;
                (*day > 0.0).then_some(sample.cost.wall_s)
            }),
        ),
    ];
    let height = TOP + STEP * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    text(
        &mut svg,
        (LEFT, 36.0),
        "start",
        22,
        "Growing old: 1 % scattered change a day, 14 days kept",
    );
    legend(&mut svg);
    for (number, (title, unit, lines)) in panels.iter().enumerate() {
        panel(
            &mut svg,
            TOP + STEP * number as f64,
            &format!("{title} ({unit})"),
            lines,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// The medians over each day's samples.
fn lines(samples: &Samples, row: &str, of: impl Fn(&Sample) -> Option<f64>) -> Vec<Line> {
    let line = |tool| {
        let mut days: Vec<f64> = samples
            .of(row, tool)
            .filter_map(|sample| sample.facts.get("day").copied())
            .collect();
        days.dedup();
        let value = |day: f64| {
            samples.median(row, tool, |sample| {
                (sample.facts.get("day") == Some(&day))
                    .then(|| of(sample))
                    .flatten()
            })
        };
        let points = days.into_iter().filter_map(|day| Some((day, value(day)?)));
        (tool, points.collect())
    };
    Tool::ALL.into_iter().map(line).collect()
}

fn panel(svg: &mut String, top: f64, title: &str, lines: &[Line]) {
    text(svg, (LEFT, top - 10.0), "start", 15, title);
    let all = || lines.iter().flat_map(|(_, line)| line);
    let last_day = all().map(|(day, _)| *day).fold(1.0, f64::max);
    let largest = all()
        .map(|(_, value)| *value)
        .fold(f64::MIN_POSITIVE, f64::max);
    let x = |day: f64| LEFT + day / last_day * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| top + PANEL - value / largest * PANEL;
    for part in 0..=4 {
        let value = largest * f64::from(part) / 4.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{0:.1}\" x2=\"{1:.1}\" y2=\"{0:.1}\" stroke=\"#d8dee4\"/>",
            y(value),
            WIDTH - RIGHT
        );
        let label = if largest < 20.0 {
            format!("{value:.2}")
        } else {
            format!("{value:.0}")
        };
        text(svg, (LEFT - 8.0, y(value) + 4.0), "end", 12, &label);
    }
    for (tool, line) in lines {
        let points: Vec<String> = line
            .iter()
            .map(|(day, value)| format!("{:.1},{:.1}", x(*day), y(*value)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            points.join(" "),
            colour(*tool)
        );
    }
    text(svg, (LEFT, top + PANEL + 18.0), "start", 12, "day 0");
    text(
        svg,
        (WIDTH - RIGHT, top + PANEL + 18.0),
        "end",
        12,
        &format!("day {last_day:.0}"),
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, size: u32, words: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"#1b1f24\">{words}</text>"
    );
}
