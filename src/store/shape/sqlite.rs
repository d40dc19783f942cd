//! The parts of SQLite's tables, by the statements that made them: SQLite keeps their text.

use sqlx::FromRow;

use super::part::Part;

pub(super) const STATEMENTS: &str =
    "SELECT type AS kind, name, tbl_name AS of_table, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY 1, 2";

/// What a definition of a table begins with that is no column.
const CONSTRAINTS: [&str; 5] = ["constraint", "unique", "primary", "check", "foreign"];

#[derive(Debug, FromRow)]
pub(super) struct Statement {
    kind: String,
    name: String,
    of_table: String,
    sql: String,
}

impl Statement {
    /// The parts that it made.
    pub(super) fn parts(&self) -> Vec<Part> {
        let tokens = tokens(&self.sql);
        match self.kind.as_str() {
            "table" => self.parts_of_table(&tokens),
            "index" => {
                let is_unique = tokens.get(1).is_some_and(|word| word == "unique");
                let columns = tokens
                    .iter()
                    .position(|token| token == "(")
                    .map_or(&[][..], |at| &tokens[at..]);
                let unique = if is_unique { "UNIQUE " } else { "" };
                vec![Part::new(
                    &self.of_table,
                    "index",
                    &self.name,
                    &format!("{unique}{}", joined(columns)),
                )]
            }
            kind => vec![Part::new(&self.of_table, kind, &self.name, &joined(&tokens))],
        }
    }

    /// A unique index is the same whether its column, its table or a statement of its own declares it.
    fn parts_of_table(&self, tokens: &[String]) -> Vec<Part> {
        let of = |kind: &str, name: &str, definition: &str| Part::new(&self.name, kind, name, definition);
        let mut parts = vec![of("table", &self.name, "TABLE")];
        for definition in definitions(tokens) {
            let Some(first) = definition.first() else { continue };
            let is_constraint = CONSTRAINTS.contains(&first.as_str());
            let (key, rest) = without_key(definition, is_constraint);
            parts.extend(key.map(|columns| of("index", &columns, &format!("UNIQUE {columns}"))));
            let text = joined(&rest);
            if !is_constraint {
                parts.push(of("column", first, &text));
            } else if !rest.is_empty() {
                parts.push(of("constraint", &text, &text));
            }
        }
        parts
    }
}

/// The columns that a definition makes unique, and what it says beside that. A key by which SQLite numbers rows stays in its column.
fn without_key(definition: &[String], is_constraint: bool) -> (Option<String>, Vec<String>) {
    let is = |at: usize, word: &str| definition.get(at).is_some_and(|token| token == word);
    let found = (0..definition.len()).find_map(|at| match () {
        () if is(at, "unique") => Some((at, at + 1)),
        () if is(at, "primary") && is(at + 1, "key") => Some((at, at + 2)),
        () => None,
    });
    let mut rest = definition.to_vec();
    let Some((start, end)) = found else {
        return (None, rest);
    };
    if !is_constraint {
        if !is(end, "autoincrement") {
            rest.drain(start..end);
        }
        return (definition.first().map(|column| format!("({column})")), rest);
    }
    let closing = (end..definition.len()).find(|&at| is(at, ")")).unwrap_or(end);
    let columns = joined(&definition[end..=closing.min(definition.len() - 1)]);
    // What follows, such as ON CONFLICT, is said of the key.
    if closing + 1 == definition.len() {
        rest.clear();
    }
    (Some(columns), rest)
}

/// What stands between the commas of the outermost parentheses.
fn definitions(tokens: &[String]) -> Vec<&[String]> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "(" => {
                depth += 1;
                if depth == 1 {
                    start = at + 1;
                }
            }
            ")" => {
                depth -= 1;
                if depth == 0 {
                    found.push(&tokens[start..at]);
                }
            }
            "," if depth == 1 => {
                found.push(&tokens[start..at]);
                start = at + 1;
            }
            _ => (),
        }
    }
    found
}

/// Words in lower case and without quotation marks, texts as they are, and single signs. SQLite adds quotation marks to names when a
/// table or column is renamed.
fn tokens(sql: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = sql.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '\'' | '"' | '`' => quoted(rest, first),
            '[' => rest.find(']').map_or(rest.len(), |end| end + 1),
            _ if is_of_word(first) => rest.find(|character| !is_of_word(character)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        match first {
            '-' | '/' if length > 1 => (),
            '\'' => tokens.push(token.to_owned()),
            '"' | '`' | '[' => tokens.push(token.trim_matches(['"', '`', '[', ']']).to_ascii_lowercase()),
            _ => tokens.push(token.to_ascii_lowercase()),
        }
        rest = after.trim_start();
    }
    tokens
}

/// The length of a text in quotation marks, which are doubled within it.
fn quoted(text: &str, mark: char) -> usize {
    let mut end = 1;
    while let Some(at) = text[end..].find(mark) {
        end += at + 1;
        if !text[end..].starts_with(mark) {
            return end;
        }
        end += 1;
    }
    text.len()
}

fn is_of_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn joined<T: AsRef<str>>(tokens: &[T]) -> String {
    let mut text = String::new();
    for token in tokens {
        let token = token.as_ref();
        let is_word =
            |character: Option<char>| character.is_some_and(|character| is_of_word(character) || character == '\'');
        if is_word(text.chars().last()) && is_word(token.chars().next()) {
            text.push(' ');
        }
        text.push_str(token);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(kind: &str, sql: &str) -> Vec<(String, String)> {
        let statement = Statement {
            kind: kind.to_owned(),
            name: "t".to_owned(),
            of_table: "t".to_owned(),
            sql: sql.to_owned(),
        };
        let mut parts: Vec<_> = statement
            .parts()
            .into_iter()
            .map(|part| (part.kind, part.definition))
            .collect();
        parts.sort();
        parts
    }

    #[test]
    fn the_same_table_has_the_same_parts_however_it_is_written() {
        let table = parts(
            "table",
            "CREATE TABLE t (a TEXT NOT NULL PRIMARY KEY, -- it's a comment, with a comma\n b BIGINT CHECK (b IN (1, 2)), c TEXT DEFAULT 'X, ''y')",
        );
        let expected = [
            ("column", "a text not null"),
            ("column", "b bigint check(b in(1,2))"),
            ("column", "c text default 'X, ''y'"),
            ("index", "UNIQUE (a)"),
            ("table", "TABLE"),
        ];
        assert_eq!(table, expected.map(|(kind, text)| (kind.to_owned(), text.to_owned())));
        let other = "create table \"t\"(`a` text not null, [B] bigint check(b in (1,2))/* , */,c text default 'X, ''y', UNIQUE(a))";
        assert_eq!(parts("table", other), table);
        for (kind, sql, part, definition) in [
            ("index", "CREATE UNIQUE INDEX i ON t (a)", "index", "UNIQUE (a)"),
            (
                "index",
                "CREATE INDEX i ON t (a) WHERE a IS NOT NULL",
                "index",
                "(a)where a is not null",
            ),
            (
                "table",
                "CREATE TABLE t (s INTEGER PRIMARY KEY AUTOINCREMENT)",
                "column",
                "s integer primary key autoincrement",
            ),
            (
                "table",
                "CREATE TABLE t (a TEXT, UNIQUE (a) ON CONFLICT IGNORE)",
                "constraint",
                "unique(a)on conflict ignore",
            ),
            (
                "table",
                "CREATE TABLE t (a TEXT UNIQUE ON CONFLICT REPLACE)",
                "column",
                "a text on conflict replace",
            ),
        ] {
            let found = parts(kind, sql);
            assert!(
                found.contains(&(part.to_owned(), definition.to_owned())),
                "{sql}: {found:?}"
            );
        }
    }
}
