//! The migrations of this binary.

pub(super) static SQLITE_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");
pub(super) static POSTGRES_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/postgres");

/// The newest version of the schema that this binary knows.
#[must_use]
pub fn known_schema() -> i64 {
    SQLITE_MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

/// The versions that this binary knows, in order.
pub(super) fn known_versions() -> impl Iterator<Item = i64> {
    SQLITE_MIGRATIONS.iter().map(|migration| migration.version)
}
