//! What an update of a client or a provider changes: for the person, for programs, and for the audit log.

use serde_json::{Map, Value, json};

use super::output;

/// A setting with its values before and after.
pub struct Difference {
    pub name: &'static str,
    pub old: String,
    pub new: String,
}

/// The settings whose values differ; both lists name the same settings.
pub fn differences<const N: usize>(
    old: [(&'static str, String); N],
    new: [(&'static str, String); N],
) -> Vec<Difference> {
    let pairs = old.into_iter().zip(new);
    pairs
        .filter(|(old, new)| old != new)
        .map(|((name, old), (_, new))| Difference { name, old, new })
        .collect()
}

/// The reason in the audit log.
pub fn reason(differences: &[Difference]) -> String {
    let told: Vec<String> = differences
        .iter()
        .map(|Difference { name, old, new }| format!("{name} from '{old}' to '{new}'"))
        .collect();
    format!("changed {}", told.join(", "))
}

/// The member `changes`.
pub fn to_json(differences: &[Difference]) -> Map<String, Value> {
    differences
        .iter()
        .map(|Difference { name, old, new }| ((*name).to_owned(), json!({ "from": old, "to": new })))
        .collect()
}

/// A line for each, its name in a column of this width.
pub fn tell(differences: &[Difference], width: usize) {
    for Difference { name, old, new } in differences {
        output::line(&format!(
            "{:<width$}'{old}' before, '{new}' now",
            name.replace('_', " ")
        ));
    }
}
