//! Draws the medians as grouped bars, one panel for wall time and one for what was stored; written as SVG by hand.

use crate::bench::samples::Samples;
use crate::bench::tool::Tool;
use std::fmt::Write as _;

const WIDTH: f64 = 1080.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
const PANEL_HEIGHT: f64 = 300.0;
const PANEL_STEP: f64 = 430.0;
const TOP: f64 = 130.0;

/// What a row is called below its bars, in two lines.
const ROWS: [(&str, &str, &str); 8] = [
    ("initial", "initial", "protection"),
    ("express", "express full,", "1 % scattered"),
    ("host2", "second host,", "same files"),
    ("churn", "express full,", "real churn"),
    ("update-first", "update,", "first host"),
    ("update-second", "same update,", "second host"),
    ("restore", "restore,", "with fsync"),
    ("restore-nosync", "restore,", "no fsync"),
];

/// One bar of a group: how high it is, and what is written over it.
type Value = Option<f64>;

struct Panel<'a> {
    title: &'a str,
    unit: &'a str,
    groups: Vec<(&'a str, &'a str, [Value; 3])>,
}

/// The whole picture.
pub fn draw(samples: &Samples) -> String {
    let panel = |title, unit, of: &dyn Fn(&str, Tool) -> Value| Panel {
        title,
        unit,
        groups: ROWS
            .iter()
            .map(|(row, first, second)| (*first, *second, Tool::ALL.map(|tool| of(row, tool))))
            .filter(|(_, _, values)| values.iter().any(Option::is_some))
            .collect(),
    };
    let grown = |row: &str, tool| {
        samples
            .fact(row, tool, "grown_bytes")
            .map(|bytes| bytes / 1e6)
    };
    let panels = [
        panel(
            "Wall time, process start to exit",
            "seconds",
            &|row, tool| samples.wall(row, tool),
        ),
        panel("Added to the vault or repository", "megabytes", &grown),
    ];
    let height = TOP + PANEL_STEP * 2.0 - 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    text(
        &mut svg,
        LEFT,
        36.0,
        "start",
        22.0,
        "#1b1f24",
        "Backstop beside restic and borg",
    );
    text(
        &mut svg,
        LEFT,
        60.0,
        "start",
        13.0,
        "#57606a",
        "Medians of interleaved rounds on the same disk images; lower is better; logarithmic scale.",
    );
    legend(&mut svg);
    for (number, panel) in panels.iter().enumerate() {
        draw_panel(&mut svg, panel, TOP + PANEL_STEP * number as f64);
    }
    svg.push_str("</svg>\n");
    svg
}

pub(super) fn colour(tool: Tool) -> &'static str {
    match tool {
        Tool::Ours => "#0b6e99",
        Tool::Restic => "#e0a030",
        Tool::Borg => "#8f9aa5",
    }
}

pub(super) fn legend(svg: &mut String) {
    for (number, tool) in Tool::ALL.into_iter().enumerate() {
        let x = LEFT + 96.0 * number as f64;
        rectangle(svg, x, 76.0, 14.0, 14.0, colour(tool));
        let name = if tool == Tool::Ours {
            "Backstop"
        } else {
            tool.name()
        };
        text(svg, x + 20.0, 88.0, "start", 13.0, "#1b1f24", name);
    }
}

fn draw_panel(svg: &mut String, panel: &Panel<'_>, top: f64) {
    let bottom = top + PANEL_HEIGHT;
    text(svg, LEFT, top - 12.0, "start", 15.0, "#1b1f24", panel.title);
    let values = || {
        panel
            .groups
            .iter()
            .flat_map(|group| group.2)
            .flatten()
            .filter(|value| *value > 0.0)
    };
    let Some(largest) = values().reduce(f64::max) else {
        text(
            svg,
            LEFT,
            top + 40.0,
            "start",
            13.0,
            "#57606a",
            "not measured",
        );
        return;
    };
    let smallest = values().fold(largest, f64::min);
    // Whole powers of ten, so that the grid has round labels; the smallest bar keeps some height.
    let high = largest.log10().ceil().max(smallest.log10().floor() + 1.0);
    let low = smallest.log10().floor();
    let height_of = |value: f64| {
        ((value.max(1e-9).log10() - low) / (high - low)).clamp(0.004, 1.0) * PANEL_HEIGHT
    };
    let mut power = low;
    while power <= high {
        let y = bottom - (power - low) / (high - low) * PANEL_HEIGHT;
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#d8dee4\"/>",
            WIDTH - RIGHT
        );
        text(
            svg,
            LEFT - 10.0,
            y + 4.0,
            "end",
            12.0,
            "#57606a",
            &short(10_f64.powf(power)),
        );
        power += 1.0;
    }
    let middle = top + PANEL_HEIGHT / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"22\" y=\"{middle:.1}\" transform=\"rotate(-90 22 {middle:.1})\" text-anchor=\"middle\" \
         font-size=\"13\" fill=\"#57606a\">{}</text>",
        panel.unit
    );
    let step = (WIDTH - LEFT - RIGHT) / panel.groups.len() as f64;
    let bar = (step * 0.24).min(42.0);
    for (number, (first, second, values)) in panel.groups.iter().enumerate() {
        let centre = LEFT + step * (number as f64 + 0.5);
        let present: Vec<(Tool, f64)> = Tool::ALL
            .into_iter()
            .zip(values)
            .filter_map(|(tool, value)| value.map(|value| (tool, value)))
            .collect();
        let mut x = centre - (bar + 3.0) * present.len() as f64 / 2.0;
        for (tool, value) in present {
            let height = height_of(value);
            rectangle(svg, x, bottom - height, bar, height, colour(tool));
            text(
                svg,
                x + bar / 2.0,
                bottom - height - 5.0,
                "middle",
                11.0,
                "#1b1f24",
                &short(value),
            );
            x += bar + 3.0;
        }
        text(svg, centre, bottom + 20.0, "middle", 12.0, "#1b1f24", first);
        text(
            svg,
            centre,
            bottom + 36.0,
            "middle",
            12.0,
            "#1b1f24",
            second,
        );
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" y1=\"{bottom:.1}\" x2=\"{:.1}\" y2=\"{bottom:.1}\" stroke=\"#57606a\"/>",
        WIDTH - RIGHT
    );
}

fn rectangle(svg: &mut String, x: f64, y: f64, width: f64, height: f64, fill: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\" fill=\"{fill}\"/>"
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, size: f64, fill: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{fill}\">{words}</text>"
    );
}

/// A number with two or three figures.
fn short(value: f64) -> String {
    match value {
        value if value >= 10.0 || value == 0.0 => format!("{value:.0}"),
        value if value >= 1.0 => trimmed(format!("{value:.1}")),
        value if value >= 0.1 => trimmed(format!("{value:.2}")),
        value => trimmed(format!("{value:.3}")),
    }
}

fn trimmed(number: String) -> String {
    if number.contains('.') {
        number
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned()
    } else {
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_picture_says_so() {
        let svg = draw(&Samples::default());
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("not measured"));
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 0.001, 0.0934, 0.25, 1.0, 3.44, 12.5, 1000.0].map(short);
        assert_eq!(
            numbers,
            ["0", "0.001", "0.093", "0.25", "1", "3.4", "12", "1000"]
        );
    }
}
