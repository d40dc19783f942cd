//! The figures as a picture: for each kind of answer a group of bars, the longest as wide as the picture.

use std::fmt::Write as _;

use crate::figures::{Comparison, median};
use crate::report::figure;

const WIDTH: f64 = 860.0;
const LABELS: f64 = 270.0;
const BAR: f64 = 18.0;
const STEP: f64 = 24.0;

/// Groups of what has the same name, each of our bar and those beside it.
pub fn draw(comparisons: &[Comparison]) -> String {
    let rates: Vec<&Comparison> = comparisons
        .iter()
        .filter(|comparison| comparison.unit == "/s")
        .collect();
    let mut titles: Vec<&str> = rates.iter().map(|comparison| comparison.what.as_str()).collect();
    titles.sort_unstable();
    titles.dedup();
    let mut body = String::new();
    let mut y = 34.0;
    for title in titles {
        let group: Vec<&&Comparison> = rates.iter().filter(|comparison| comparison.what == title).collect();
        let mut bars = vec![("Keyround", median(&group[0].ours), "#1f6f54")];
        bars.extend(
            group
                .iter()
                .map(|comparison| (comparison.other.as_str(), median(&comparison.others), "#a9b4b0")),
        );
        let longest = bars.iter().map(|(_, rate, _)| *rate).fold(0.0, f64::max);
        writeln!(body, r#"<text x="12" y="{y}" class="title">{title}, per second</text>"#).unwrap();
        y += 10.0;
        for (label, rate, colour) in bars {
            bar(&mut body, y, label, rate, rate / longest, colour);
            y += STEP;
        }
        y += 22.0;
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" role="img">
<style>text {{ font: 13px sans-serif; fill: #24302c }} .title {{ font-weight: bold }}</style>
<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>
{body}</svg>
"##
    )
}

fn bar(body: &mut String, y: f64, label: &str, rate: f64, share: f64, colour: &str) {
    // The figure stands behind the bar.
    let width = (share * (WIDTH - LABELS - 100.0)).max(1.0);
    let (middle, end) = (y + BAR - 5.0, LABELS + width + 8.0);
    writeln!(
        body,
        r#"<text x="{}" y="{middle}" text-anchor="end">{label}</text><rect x="{LABELS}" y="{y}" width="{width:.0}" height="{BAR}" fill="{colour}"/><text x="{end:.0}" y="{middle}">{}</text>"#,
        LABELS - 10.0,
        figure(rate, "/s"),
    )
    .unwrap();
}
