//! What a run comes to, printed for people, and the part of it that docs/how-it-works/proof.md shows.

use std::fmt::Write as _;
use std::path::Path;

use keyround::jose::alg::Algorithm;

use crate::libraries::LIBRARIES;
use crate::setup::Outcome;
use crate::verifier::{Library, Summary};

/// How its table begins.
pub const HEADER: &str =
    "| verifier | version | default cache | rotations | tokens checked | refused |\n|---|---|---|---|---|---|\n";

/// Prints every figure of every set-up.
pub fn print<'a>(outcomes: impl Iterator<Item = &'a Outcome> + Clone) {
    print_verifiers(outcomes.clone());
    print_key_sets(outcomes);
}

/// Writes the table of these set-ups into `target/interop/soak.md`.
pub fn write(outcomes: &[Outcome]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/interop");
    std::fs::create_dir_all(&folder).unwrap();
    let rows = LIBRARIES.iter().map(|library| row(library, outcomes));
    let table: String = std::iter::once(HEADER.to_owned()).chain(rows).collect();
    std::fs::write(folder.join("soak.md"), &table).unwrap();
    println!("\n{table}");
}

/// Whether a line of the table is this library's.
pub fn is_of(line: &str, library: &Library) -> bool {
    line.starts_with(&format!("| {} |", library.what)) && line.matches('|').count() == 7
}

fn row(library: &Library, outcomes: &[Outcome]) -> String {
    let Library { what, cache, .. } = library;
    let summaries: Vec<(&Outcome, &Summary)> = outcomes
        .iter()
        .flat_map(|outcome| outcome.verifiers.iter().map(move |verifier| (outcome, verifier)))
        .filter(|(_, (other, ..))| other.name == library.name)
        .filter_map(|(outcome, (.., report))| Some((outcome, report.summary.as_ref()?)))
        .collect();
    let Some((_, Summary { version, .. })) = summaries.first() else {
        return format!("| {what} | not run | {cache} | | | |\n");
    };
    let sum = |count: fn(&Summary) -> usize| summaries.iter().map(|(_, summary)| count(summary)).sum::<usize>();
    let mut rotations = String::new();
    let mut told = Vec::new();
    for (outcome, _) in &summaries {
        let setup = &outcome.setup;
        if told.contains(&setup.name) {
            continue;
        }
        told.push(setup.name);
        let comma = if rotations.is_empty() { "" } else { "; " };
        let fewest = outcome.figures.rotations.values().min().unwrap();
        let period = outcome.figures.mean_period.as_secs_f64();
        write!(rotations, "{comma}{} {fewest}, one in {period:.1} s", setup.kind).unwrap();
    }
    format!(
        "| {what} | {version} | {cache} | {rotations} | {}, in all {} times | {} |\n",
        grouped(sum(|summary| summary.tokens)),
        grouped(sum(|summary| summary.verifications)),
        sum(|summary| summary.refusals)
    )
}

/// With a comma at each thousand.
fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn print_verifiers<'a>(outcomes: impl Iterator<Item = &'a Outcome>) {
    println!(
        "{:<15} {:<27} {:>6} {:>13} {:>8} {:>14} {:>5} {:>11}",
        "server", "verifier", "tokens", "verifications", "refusals", "refused tokens", "late", "max lag"
    );
    for outcome in outcomes {
        for (library, node, report) in &outcome.verifiers {
            let summary = report.summary.clone().unwrap_or_default();
            println!(
                "{:<15} {:<27} {:>6} {:>13} {:>8} {:>14} {:>5} {:>8} ms",
                outcome.setup.name,
                format!("{library}, {node}"),
                summary.tokens,
                summary.verifications,
                summary.refusals,
                summary.refused_tokens,
                summary.late,
                summary.max_lag_ms
            );
        }
    }
}

fn print_key_sets<'a>(outcomes: impl Iterator<Item = &'a Outcome>) {
    println!(
        "\n{:<15} {:>11} {:>11} {:>11} {:>7} {:>7} {:>12} {:>13} {:>6} {:>11}",
        "server",
        "RS256 turns",
        "ES256 turns",
        "mean period",
        "outside",
        "pending",
        "largest set",
        "shortest lead",
        "looks",
        "longest gap"
    );
    for outcome in outcomes {
        let figures = &outcome.figures;
        let rotations = |alg| figures.rotations.get(&alg).copied().unwrap_or(0);
        println!(
            "{:<15} {:>11} {:>11} {:>9.1} s {:>7} {:>7} {:>7} keys {:>11.1} s {:>6} {:>8} ms",
            outcome.setup.name,
            rotations(Algorithm::Rs256),
            rotations(Algorithm::Es256),
            figures.mean_period.as_secs_f64(),
            figures.outside.len(),
            figures.most_pending,
            figures.largest_set,
            figures.shortest_lead.as_secs_f64(),
            figures.polls,
            figures.longest_gap.as_millis()
        );
    }
}
