//! The effective settings, for people and for programs. Secrets were replaced when the settings were read.

use crate::clock::Seconds;

use super::{Config, settings};

impl Config {
    /// The effective settings as TOML, secrets hidden, with the derived verify window as a comment.
    #[must_use]
    pub fn to_toml(&self) -> String {
        settings::toml(|setting| {
            let name = setting.name();
            match self.shown.get(&name) {
                Some(value) => format!("{} = {value}\n", setting.field),
                None if name == "keys.verify_window" => {
                    format!("# {} is derived: {}\n", setting.field, self.verify_window())
                }
                None => format!("# {} is not set\n", setting.field),
            }
        })
    }

    /// The effective settings as JSON: sections, fields, null for what is not set; `derived` holds the verify window.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut sections = serde_json::Map::new();
        for setting in settings::SETTINGS {
            let value = self.shown.get(&setting.name());
            let value = value
                .and_then(|value| serde_json::to_value(value).ok())
                .unwrap_or_default();
            if let serde_json::Value::Object(fields) = sections
                .entry(setting.section)
                .or_insert_with(|| serde_json::Value::Object(serde_json::Map::new()))
            {
                fields.insert(setting.field.to_owned(), value);
            }
        }
        let derived = serde_json::json!({ "verify_window": self.verify_window().to_string() });
        sections.insert("derived".to_owned(), derived);
        sections.into()
    }

    /// How long a superseded key stays published under these settings.
    fn verify_window(&self) -> Seconds {
        let policy = &self.keys.policy;
        policy.verify_window(policy.windows().max_token_ttl)
    }
}
