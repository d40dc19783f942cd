//! Whether a binary works with a schema: also with one that a later version has made, if that says so.
//!
//! Servers of two versions run on one database while an upgrade rolls on, and after a roll-back the earlier one finds the later
//! schema. So the name of each migration says since which version of the schema servers work with what it makes, as in
//! `0030_works_since_0028_login_sessions.sql`; one that none of the earlier servers can live with names itself. A binary goes by
//! the names that the database keeps, for it does not know the files.

use std::fmt;

use super::migrations::{known_schema, known_versions};

/// How the schema of a database stands to this binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compatibility {
    /// It is the one that this binary knows.
    Same,
    /// It lacks migrations of this binary.
    Older,
    /// A later version made it, and says that this binary works with it.
    Later,
    /// A later version made it, and this binary must not touch it.
    Incompatible,
}

/// Judges the versions and descriptions of the migrations that a database has, in their order.
#[must_use]
pub fn compatibility(applied: &[(i64, String)]) -> Compatibility {
    let known: Vec<i64> = known_versions().collect();
    let is_unknown = |version: &i64| !known.contains(version);
    let has_all = known
        .iter()
        .all(|version| applied.iter().any(|(applied, _)| applied == version));
    let mut unknown = applied.iter().filter(|(version, _)| is_unknown(version)).peekable();
    if unknown.peek().is_none() {
        return if has_all {
            Compatibility::Same
        } else {
            Compatibility::Older
        };
    }
    let newest = known_schema();
    if has_all
        && unknown.all(|(version, description)| {
            *version > newest && works_since(description).is_some_and(|since| since <= newest)
        })
    {
        Compatibility::Later
    } else if applied.last().is_some_and(|(version, _)| *version > newest) {
        Compatibility::Incompatible
    } else {
        Compatibility::Older
    }
}

/// A step of the schema that this binary would make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStep {
    version: i64,
    description: String,
}

impl MigrationStep {
    /// Whether servers for this version of the schema go on when it is made. Before steps said so, all of them only added.
    #[must_use]
    pub fn works_with(&self, version: i64) -> bool {
        works_since(&self.description).is_none_or(|since| since <= version)
    }

    /// Whether it says so itself, so that such a server starts on what it made.
    #[must_use]
    pub fn says_works_with(&self, version: i64) -> bool {
        works_since(&self.description).is_some_and(|since| since <= version)
    }
}

impl fmt::Display for MigrationStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04} ({})", self.version, self.description)
    }
}

/// The steps that this binary knows and that are not among these versions.
pub(super) fn pending(applied: &[(i64, String)], known: &sqlx::migrate::Migrator) -> Vec<MigrationStep> {
    known
        .iter()
        .filter(|step| applied.iter().all(|(version, _)| *version != step.version))
        .map(|step| MigrationStep {
            version: step.version,
            description: step.description.clone().into_owned(),
        })
        .collect()
}

/// The oldest version of the schema whose servers work with what this migration makes.
#[must_use]
pub fn works_since(description: &str) -> Option<i64> {
    let rest = description.strip_prefix("works since ")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(later: &[(i64, &str)]) -> Vec<(i64, String)> {
        let known = known_versions().map(|version| (version, "known".to_owned()));
        let later = later.iter().map(|(ahead, text)| {
            let text = text.replace("KNOWN", &format!("{:04}", known_schema()));
            (
                known_schema() + ahead,
                text.replace("NEXT", &format!("{:04}", known_schema() + 1)),
            )
        });
        known.chain(later).collect()
    }

    #[test]
    fn a_step_says_who_goes_on() {
        let step = |description: &str| MigrationStep {
            version: 30,
            description: description.to_owned(),
        };
        for (description, version, works, says) in [
            ("works since 0028 grants", 28, true, true),
            ("works since 0028 grants", 27, false, false),
            ("node places", 27, true, false),
        ] {
            let step = step(description);
            assert_eq!(
                (step.works_with(version), step.says_works_with(version)),
                (works, says),
                "{step}"
            );
        }
    }

    #[test]
    fn a_later_schema_is_used_when_each_of_its_steps_says_so() {
        for (later, expected) in [
            (&[][..], Compatibility::Same),
            (&[(1, "works since KNOWN grants")], Compatibility::Later),
            (
                &[(1, "works since 0001 grants"), (7, "works since KNOWN x")],
                Compatibility::Later,
            ),
            (
                &[(1, "works since KNOWN grants"), (2, "works since NEXT x")],
                Compatibility::Incompatible,
            ),
            (
                &[(1, "grants"), (2, "works since KNOWN x")],
                Compatibility::Incompatible,
            ),
            (&[(1, "works since yesterday x")], Compatibility::Incompatible),
            (&[(1, "works since")], Compatibility::Incompatible),
        ] {
            assert_eq!(compatibility(&applied(later)), expected, "{later:?}");
        }
        let mut gap = applied(&[(1, "works since KNOWN grants")]);
        gap.remove(0);
        assert_eq!(compatibility(&gap), Compatibility::Incompatible);
        gap.pop();
        assert_eq!(compatibility(&gap), Compatibility::Older);
        assert_eq!(compatibility(&[]), Compatibility::Older);
    }
}
