//! The texts of the pages, one file a language, in words that a translator can edit.

use std::sync::LazyLock;

use serde::Deserialize;

/// The texts in one language. A file with a text too few or too many is not read, and a test reads each.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each is named after its place, and the files have the texts")]
pub struct Texts {
    pub language: String,
    pub login_title: String,
    pub login_for: String,
    pub email: String,
    pub password: String,
    pub log_in: String,
    pub login_wrong: String,
    pub login_limited: String,
    pub login_unavailable: String,
    pub login_other: String,
    pub register_title: String,
    pub register: String,
    pub register_link: String,
    pub register_login: String,
    pub register_name: String,
    pub register_email: String,
    pub register_password: String,
    pub register_taken: String,
    pub register_next: String,
    pub name: String,
    pub consent_title: String,
    pub consent_asks: String,
    pub consent_as: String,
    pub consent_at: String,
    pub consent_leads_to: String,
    pub consents_title: String,
    pub consents_text: String,
    pub consents_none: String,
    pub consents_login: String,
    pub withdraw: String,
    pub allow: String,
    pub deny: String,
    pub scope_openid: String,
    pub scope_profile: String,
    pub scope_email: String,
    pub scope_offline_access: String,
    pub logout_title: String,
    pub logout_asks: String,
    pub log_out: String,
    pub logged_out_title: String,
    pub logged_out_text: String,
    pub proceed_title: String,
    pub proceed: String,
    pub error_title: String,
    pub error_advice: String,
}

/// The files. The first is the default.
const FILES: [&str; 3] = [
    include_str!("texts/en.toml"),
    include_str!("texts/de.toml"),
    include_str!("texts/id.toml"),
];

#[expect(
    clippy::expect_used,
    reason = "the files are part of the program, and a test reads each of them"
)]
static ALL: LazyLock<[Texts; 3]> = LazyLock::new(|| FILES.map(|file| toml::from_str(file).expect("a file of texts")));

impl Texts {
    /// Every language, by its tag (BCP 47).
    #[must_use]
    pub fn languages() -> Vec<&'static str> {
        ALL.iter().map(|texts| texts.language.as_str()).collect()
    }

    /// The texts in the first of these languages that there is: those that the client asks for, then those that the browser accepts.
    #[must_use]
    pub fn best<'a>(asked: impl Iterator<Item = &'a str>, accept_language: &'a str) -> &'static Self {
        let mut accepted: Vec<(f32, &str)> = accept_language
            .split(',')
            .take(32)
            .filter_map(|range| {
                let (tag, weight) = range.split_once(';').unwrap_or((range, "q=1"));
                let weight: f32 = weight.trim().strip_prefix("q=")?.parse().ok()?;
                (weight > 0.0).then_some((weight, tag.trim()))
            })
            .collect();
        // Stable: of two that are as welcome the first counts.
        accepted.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        asked
            .chain(accepted.into_iter().map(|(_, tag)| tag))
            .find_map(Self::of)
            .unwrap_or(&ALL[0])
    }

    fn of(tag: &str) -> Option<&'static Self> {
        let language = tag.split('-').next().unwrap_or_default();
        ALL.iter().find(|texts| texts.language.eq_ignore_ascii_case(language))
    }

    /// What a scope allows, if it is one of the standard.
    #[must_use]
    pub fn of_scope(&self, word: &str) -> Option<&str> {
        match word {
            "openid" => Some(&self.scope_openid),
            "profile" => Some(&self.scope_profile),
            "email" => Some(&self.scope_email),
            "offline_access" => Some(&self.scope_offline_access),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_language_has_every_text() {
        for file in FILES {
            let texts: toml::Table = toml::from_str(file).unwrap();
            for (name, text) in &texts {
                let text = text.as_str().unwrap();
                assert!(
                    !text.trim().is_empty() && text.trim() == text,
                    "{name} in {}",
                    texts["language"]
                );
            }
            toml::from_str::<Texts>(file).unwrap();
        }
        assert_eq!(Texts::languages(), crate::values::LANGUAGES);
    }

    #[test]
    fn the_best_language_is_shown() {
        let best =
            |asked: &'static [&'static str], accept| Texts::best(asked.iter().copied(), accept).language.as_str();
        for (asked, accept, language) in [
            (&[][..], "", "en"),
            (&[], "fr", "en"),
            (&[], "fr, de;q=0.5", "de"),
            (&[], "en;q=0.4, id;q=0.9, de;q=0.5", "id"),
            (&[], "de-AT", "de"),
            (&[], "de;q=0, id", "id"),
            (&[], ";;;,q=,,", "en"),
            (&["ID"], "de", "id"),
            (&["fr", "id-ID"], "de", "id"),
            (&["fr"], "de", "de"),
        ] {
            assert_eq!(best(asked, accept), language, "{asked:?} {accept}");
        }
    }
}
