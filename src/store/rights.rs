//! What PostgreSQL refuses to the role of the database URL (SQLSTATE 42501), in words that say which right is missing and which command
//! grants it. The rights are those of docs/operate/postgresql.md.

use std::collections::BTreeMap;

use sqlx::FromRow;

use super::tables::names;
use super::timeout::within;
use super::{Db, StoreError, known_schema};

/// The list of migrations, which is the migrator's own table.
const MIGRATIONS: &str = "_sqlx_migrations";
const ALL: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];
/// What the triggers call. Every role may, unless an administrator took this right away.
const FUNCTION: &str = "new_change_id";

/// Tables are resolved as those of statements are. A right on every single column is as good as one on the table; rows are deleted whole.
const POSTGRES_LACKED: &str = "\
    SELECT listed.name AS name, wanted.name AS of_right, quote_ident(current_user) AS of_role \
    FROM unnest($1::TEXT[]) AS listed (name) CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS wanted (name) \
    WHERE NOT has_table_privilege(to_regclass(listed.name), wanted.name) \
        AND CASE WHEN wanted.name = 'DELETE' THEN true ELSE EXISTS (SELECT FROM pg_attribute a \
            WHERE a.attrelid = to_regclass(listed.name) AND a.attnum > 0 AND NOT a.attisdropped \
                AND NOT has_column_privilege(a.attrelid, a.attnum, wanted.name)) END \
    UNION ALL SELECT $2, 'EXECUTE', quote_ident(current_user) \
    WHERE NOT has_function_privilege(to_regprocedure($2 || '()'), 'EXECUTE')";

/// The tables whose rows a policy may hide from the role: not from a superuser, nor from an owner unless the table forces it.
const POSTGRES_HIDDEN: &str = "\
    SELECT listed.name AS name, 'ROW SECURITY' AS of_right, quote_ident(current_user) AS of_role \
    FROM unnest($1::TEXT[]) AS listed (name) WHERE row_security_active(to_regclass(listed.name)::OID)";

/// The rights that change rows, which a role has on a table of which it is not the owner, with the grantees that give it these. An owner
/// and a superuser have every right by what they are: there the tables and the server have one role.
const POSTGRES_SURPLUS: &str = "\
    WITH ours AS (SELECT t.oid, t.relname::TEXT AS name, t.relacl FROM pg_class t \
        WHERE t.oid IN (SELECT to_regclass(listed.name) FROM unnest($1::TEXT[]) AS listed (name)) AND NOT pg_has_role(t.relowner, 'USAGE')), \
    granted AS (SELECT ours.oid, acl.grantee, acl.privilege_type FROM ours, aclexplode(ours.relacl) AS acl \
        UNION SELECT ours.oid, acl.grantee, acl.privilege_type FROM ours JOIN pg_attribute a ON a.attrelid = ours.oid, aclexplode(a.attacl) AS acl) \
    SELECT ours.name AS name, wanted.name AS of_right, quote_ident(current_user) AS of_role, \
        CASE WHEN granted.oid IS NULL THEN 'pg_write_all_data' WHEN granted.grantee = 0 THEN 'PUBLIC' \
            ELSE quote_ident(pg_get_userbyid(granted.grantee)) END AS grantee \
    FROM ours CROSS JOIN (VALUES ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE')) AS wanted (name) \
    LEFT JOIN granted ON granted.oid = ours.oid AND granted.privilege_type = wanted.name \
        AND CASE WHEN granted.grantee = 0 THEN true ELSE pg_has_role(granted.grantee, 'USAGE') END \
    WHERE CASE WHEN wanted.name IN ('DELETE', 'TRUNCATE') THEN has_table_privilege(ours.oid, wanted.name) \
        ELSE has_any_column_privilege(ours.oid, wanted.name) END \
    ORDER BY ours.name, grantee";

/// The rights on a table that the role of a server needs.
fn needed(table: &str) -> &'static [&'static str] {
    match table {
        "audit" => &["SELECT", "INSERT"],
        MIGRATIONS => &["SELECT"],
        _ => ALL,
    }
}

/// The rights that the role of a server needs, by table.
pub fn needed_rights() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    names().chain([MIGRATIONS]).map(|table| (table, needed(table)))
}

/// A right that the role does not have.
#[derive(Clone, Debug, FromRow)]
struct Lacked {
    name: String,
    of_right: String,
    of_role: String,
}

/// A right that the role has and does not need.
#[derive(Clone, Debug, FromRow)]
struct Surplus {
    name: String,
    of_right: String,
    of_role: String,
    /// Who the right is granted to: the role itself, one that it is in, or everyone.
    grantee: String,
}

/// Where new tables are made: in the first schema of the search path that the role may use, else in the first that there is, once it may
/// use that.
const POSTGRES_CREATION: &str = "\
    SELECT quote_ident(current_user) AS of_role, quote_ident(s.nspname) AS of_schema, \
        has_schema_privilege(s.oid, 'USAGE') AND has_schema_privilege(s.oid, 'CREATE') AS may_create, \
        quote_ident(pg_get_userbyid(t.relowner)) AS owner, pg_has_role(t.relowner, 'USAGE') AS is_owner, \
        has_schema_privilege(t.relowner, s.oid, 'CREATE') AS owner_may_create \
    FROM pg_catalog.unnest(string_to_array(current_setting('search_path'), ',')) WITH ORDINALITY AS path (name, place) \
    JOIN pg_catalog.pg_namespace s ON s.nspname = replace(trim(BOTH '\" ' FROM path.name), '$user', current_user) \
    LEFT JOIN pg_catalog.pg_class t ON t.oid = to_regclass('_sqlx_migrations') \
    ORDER BY (s.nspname = current_schema()) IS TRUE DESC, path.place LIMIT 1";

/// Whether a role may make and change the tables.
#[derive(Clone, Debug, FromRow)]
struct Creation {
    of_role: String,
    of_schema: String,
    may_create: bool,
    /// Who owns the tables, if there are any.
    owner: Option<String>,
    is_owner: Option<bool>,
    owner_may_create: Option<bool>,
}

impl Creation {
    /// What must be done before this role, or another one, can change the schema; nothing if this one may.
    fn cure(&self) -> Option<String> {
        let Self { of_role, of_schema, .. } = self;
        let lacks_create = |role: &str| {
            format!(
                "an administrator (the owner of the schema {of_schema}, or a superuser) runs GRANT USAGE, CREATE ON SCHEMA {of_schema} TO {role}"
            )
        };
        match (&self.owner, self.is_owner) {
            (Some(owner), Some(false)) => {
                let first = if self.owner_may_create == Some(true) {
                    String::new()
                } else {
                    format!("{}; then ", lacks_create(owner))
                };
                Some(format!(
                    "the tables belong to {owner}: {first}run 'keyround db migrate' with that role in database.url, and after it this command again"
                ))
            }
            _ if self.may_create => None,
            (Some(_), _) => Some(format!(
                "it owns the tables, but lacks CREATE on the schema {of_schema}: {}; then run this command again",
                lacks_create(of_role)
            )),
            (None, _) => Some(format!(
                "it lacks CREATE on the schema {of_schema}: {}, if this role is to own the tables; else run 'keyround db migrate' (or 'restore') \
                 with the role that is to own them in database.url",
                lacks_create(of_role)
            )),
        }
    }
}

impl Db {
    /// Refuses a role that may not make and change tables, where a start would have to bring the schema up to date.
    ///
    /// # Errors
    /// [`StoreError::MayNotMigrate`] with what must be done, or when the database does not answer.
    pub async fn require_creation(&self, found: i64) -> Result<(), StoreError> {
        let Self::Postgres { pool, patience, .. } = self else {
            return Ok(());
        };
        let asked = sqlx::query_as(POSTGRES_CREATION);
        let creation: Option<Creation> = within(*patience, async { Ok(asked.fetch_optional(pool).await?) }).await?;
        let (role, cure) = match creation {
            Some(creation) => match creation.cure() {
                Some(cure) => (creation.of_role, cure),
                None => return Ok(()),
            },
            None => (
                SOME_ROLE.to_owned(),
                "no schema of its search_path exists: an administrator makes one, or runs ALTER ROLE ... SET search_path = public".to_owned(),
            ),
        };
        let known = known_schema();
        Err(StoreError::MayNotMigrate {
            role,
            cure,
            found,
            known,
        })
    }

    /// Refuses a role without one of the rights that a server needs, and one from which row security hides rows. SQLite has no rights but those to its file.
    ///
    /// # Errors
    /// Which rights are missing and what grants them, or that the database does not answer.
    pub async fn require_rights(&self) -> Result<(), StoreError> {
        let Self::Postgres { pool, patience, .. } = self else {
            return Ok(());
        };
        let tables: Vec<&str> = needed_rights().map(|(table, _)| table).collect();
        let (lacked, hidden): (Vec<Lacked>, Vec<Lacked>) = within(*patience, async {
            self.refuse_barred_tables().await?;
            let lacked = sqlx::query_as(POSTGRES_LACKED).bind(&tables).bind(FUNCTION);
            let hidden = sqlx::query_as(POSTGRES_HIDDEN).bind(&tables);
            Ok((lacked.fetch_all(pool).await?, hidden.fetch_all(pool).await?))
        })
        .await?;
        if let Some(Lacked { of_role, .. }) = hidden.first() {
            let names: Vec<&str> = hidden.iter().map(|table| table.name.as_str()).collect();
            let cure = names
                .iter()
                .map(|name| format!("ALTER TABLE {name} DISABLE ROW LEVEL SECURITY"));
            return Err(StoreError::HiddenRows {
                tables: names.join(", "),
                role: of_role.clone(),
                cure: cure.collect::<Vec<_>>().join("; "),
            });
        }
        let is_needed =
            |lacked: &Lacked| lacked.of_right == "EXECUTE" || needed(&lacked.name).contains(&&*lacked.of_right);
        let mut by_name: BTreeMap<&str, Vec<&Lacked>> = BTreeMap::new();
        for lacked in lacked.iter().filter(|lacked| is_needed(lacked)) {
            by_name.entry(&lacked.name).or_default().push(lacked);
        }
        let Some(role) = lacked
            .first()
            .map(|lacked| lacked.of_role.clone())
            .filter(|_| !by_name.is_empty())
        else {
            return Ok(());
        };
        let (mut missing, mut grants) = (Vec::new(), Vec::new());
        for (name, lacked) in &by_name {
            // In the order in which they are always written.
            let rights: Vec<&str> = ALL
                .iter()
                .chain(&["EXECUTE"])
                .copied()
                .filter(|right| lacked.iter().any(|lacked| lacked.of_right == *right))
                .collect();
            let rights = rights.join(", ");
            let (kind, object) = if *name == FUNCTION {
                ("function", format!("FUNCTION {name}()"))
            } else {
                ("table", (*name).to_owned())
            };
            missing.push(format!("{rights} on {kind} {name}"));
            grants.push(format!("GRANT {rights} ON {object} TO {role}"));
        }
        Err(StoreError::MissingRights {
            reads: !lacked.iter().any(|lacked| lacked.of_right == "SELECT"),
            missing: missing.join(" and "),
            grants: grants.join("; "),
            role,
        })
    }
}

impl Db {
    /// Refuses a role that is not the owner and yet may change what was appended to the audit log, or the list of migrations, as where
    /// tables were made anew and the default rights hold for them. SQLite has no rights but those to its file.
    ///
    /// # Errors
    /// [`StoreError::SurplusRights`] with what takes them away, or when the database does not answer.
    pub async fn require_no_more_rights(&self) -> Result<(), StoreError> {
        let Self::Postgres { pool, patience, .. } = self else {
            return Ok(());
        };
        let asked = sqlx::query_as(POSTGRES_SURPLUS).bind(["audit", MIGRATIONS].as_slice());
        let found: Vec<Surplus> = within(*patience, async { Ok(asked.fetch_all(pool).await?) }).await?;
        let is_surplus = |found: &&Surplus| !needed(&found.name).contains(&&*found.of_right);
        let mut by_grant: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        let mut role = None;
        for Surplus {
            name,
            of_right,
            of_role,
            grantee,
        } in found.iter().filter(is_surplus)
        {
            role = Some(of_role.clone());
            let rights = by_grant.entry((name, grantee)).or_default();
            if !rights.contains(&of_right.as_str()) {
                rights.push(of_right);
            }
        }
        let Some(role) = role else {
            return Ok(());
        };
        let (mut surplus, mut revokes) = (Vec::new(), Vec::new());
        for ((name, grantee), rights) in by_grant {
            let rights = [ALL, &["TRUNCATE"]]
                .concat()
                .into_iter()
                .filter(|right| rights.contains(right))
                .collect::<Vec<_>>()
                .join(", ");
            surplus.push(format!("{rights} on {name}"));
            let revoke = if grantee == WRITES_ALL {
                format!("REVOKE {WRITES_ALL} FROM {role}")
            } else {
                format!("REVOKE {rights} ON {name} FROM {grantee}")
            };
            if !revokes.contains(&revoke) {
                revokes.push(revoke);
            }
        }
        surplus.dedup();
        Err(StoreError::SurplusRights {
            role,
            surplus: surplus.join(" and "),
            revokes: revokes.join("; "),
        })
    }
}

/// The role of PostgreSQL that gives these rights without a grant on a table.
const WRITES_ALL: &str = "pg_write_all_data";

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
            "audit" | MIGRATIONS => {
                let rights = needed(table).join(", ");
                format!(
                    "a server needs no more there than GRANT {rights} ON {table} TO {role}; what changes or deletes its rows, such as 'db \
                     prune --audit-older-than', 'db copy' and 'restore', is run as the role that owns the tables"
                )
            }
            table => format!(
                "as the role that owns the tables, run GRANT {} ON {table} TO {role}, and ALTER DEFAULT PRIVILEGES for the tables of later \
                 versions",
                needed(table).join(", ")
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
