//! What PostgreSQL refuses to the role of the database URL (SQLSTATE 42501), in words that say which right is missing and which command
//! grants it. The rights are those of docs/operate/postgresql.md.

/// Who gets the rights, where the role is not known.
const SOME_ROLE: &str = "the role of database.url";

/// The message of PostgreSQL, if an error means that a right is missing.
pub(super) fn refusal(error: &sqlx::Error) -> Option<&str> {
    let error = error.as_database_error()?;
    (error.code()? == "42501").then(|| error.message())
}

/// What the role is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Read and write rows, as a server does.
    Rows,
    /// Make the tables, and own them.
    Tables,
}

/// What is missing to this role, and what grants it.
pub(super) fn explained(message: &str, role: Option<&str>, duty: Duty) -> String {
    let role = role.unwrap_or(SOME_ROLE);
    let of = |kind: &str| {
        let (_, name) = message.split_once(&format!(" for {kind} "))?;
        Some(name.trim_matches('"'))
    };
    let cure = if message.starts_with("must be owner of") {
        "run this command as the role that owns the tables".to_owned()
    } else if duty == Duty::Tables {
        of("schema").map_or_else(
            || format!("name the role that owns the tables in the URL, not {role}"),
            |schema| {
                format!(
                    "tables are made there, so an administrator runs GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}, or name the role that \
                     owns the tables in the URL"
                )
            },
        )
    } else if let Some(table) = of("table").or_else(|| of("relation")) {
        match table {
            "audit" | "_sqlx_migrations" => {
                let rights = if table == "audit" { "SELECT, INSERT" } else { "SELECT" };
                format!(
                    "a server needs no more there than GRANT {rights} ON {table} TO {role}; what changes or deletes its rows, such as 'db \
                     prune --audit-older-than', 'db copy' and 'restore', is run as the role that owns the tables"
                )
            }
            table => format!(
                "as the role that owns the tables, run GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}, and ALTER DEFAULT \
                 PRIVILEGES for the tables of later versions"
            ),
        }
    } else if let Some(schema) = of("schema") {
        format!(
            "to use its tables, an administrator runs GRANT USAGE ON SCHEMA {schema} TO {role}; tables are made there ('db migrate', 'db \
             copy', 'restore') by another role, which owns them and has USAGE and CREATE"
        )
    } else {
        "run this command as the role that owns the tables".to_owned()
    };
    format!(
        "{message} (SQLSTATE 42501, to {role}): {cure}; see 'Roles with the least rights' in docs/operate/postgresql.md"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_names_the_right_and_what_grants_it() {
        for (message, parts) in [
            (
                "permission denied for table clients",
                &["GRANT SELECT, INSERT, UPDATE, DELETE ON clients TO keyround_server"][..],
            ),
            (
                "permission denied for table audit",
                &["GRANT SELECT, INSERT ON audit TO keyround_server", "db prune"],
            ),
            (
                "permission denied for relation _sqlx_migrations",
                &["GRANT SELECT ON _sqlx_migrations TO keyround_server"],
            ),
            (
                "permission denied for schema public",
                &["GRANT USAGE ON SCHEMA public TO keyround_server", "USAGE and CREATE"],
            ),
            (
                "must be owner of table users",
                &["run this command as the role that owns"],
            ),
            (
                "keine Berechtigung für Tabelle clients",
                &["run this command as the role that owns"],
            ),
        ] {
            let told = explained(message, Some("keyround_server"), Duty::Rows);
            assert!(
                told.starts_with(message) && told.contains("docs/operate/postgresql.md"),
                "{told}"
            );
            for part in parts {
                assert!(told.contains(part), "{told}");
            }
        }
        let unknown = explained("permission denied for table a", None, Duty::Rows);
        assert!(unknown.contains("ON a TO the role of database.url"));
        for (message, part) in [
            (
                "permission denied for schema public",
                "GRANT USAGE, CREATE ON SCHEMA public TO new_server",
            ),
            (
                "permission denied for table audit",
                "the role that owns the tables in the URL, not new_server",
            ),
        ] {
            let told = explained(message, Some("new_server"), Duty::Tables);
            assert!(told.contains(part) && !told.contains("database.url"), "{told}");
        }
    }
}
