//! One part of a schema, in the words of its database.

use std::fmt;

use sqlx::FromRow;

/// Longer definitions are not repeated in a message.
const SHOWN: usize = 120;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, FromRow)]
pub(super) struct Part {
    pub(super) of_table: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) definition: String,
    /// Why it does not work although it is there, such as a trigger that is disabled.
    #[sqlx(default)]
    pub(super) fault: String,
}

impl Part {
    pub(super) fn new(of_table: &str, kind: &str, name: &str, definition: &str) -> Self {
        Self {
            of_table: of_table.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            definition: definition.to_owned(),
            fault: String::new(),
        }
    }

    pub(super) fn is(&self, expected: &Self) -> bool {
        self.replaces(expected) && self.definition == expected.definition
    }

    /// Whether it has the place of the expected part, in whatever form. Statements name tables, columns and functions; an index or a
    /// constraint works under any name.
    pub(super) fn replaces(&self, expected: &Self) -> bool {
        let works_by_form = matches!(expected.kind.as_str(), "index" | "constraint");
        self.is_of(expected)
            && (self.name == expected.name || (works_by_form && self.definition == expected.definition))
    }

    fn is_of(&self, expected: &Self) -> bool {
        self.of_table == expected.of_table && self.kind == expected.kind
    }

    /// What differs, where `self` is in the place of the expected part.
    pub(super) fn difference(&self, expected: &Self) -> String {
        if self.definition == expected.definition {
            return format!("{self} is {}", self.fault);
        }
        let forms = if self.definition.len().max(expected.definition.len()) <= SHOWN {
            format!(": {} instead of {}", self.definition, expected.definition)
        } else {
            String::new()
        };
        format!("{expected} has another form{forms}")
    }

    /// Why rows that this version writes may be refused or changed, if the schema should not have this part.
    pub(super) fn obstacle(&self, expected: &[Self]) -> Option<&'static str> {
        match self.kind.as_str() {
            "column" if self.must_be_given() => Some("every row must have a value in it"),
            "index" if self.is_unique() && !self.contains_key(expected) => Some("it may refuse rows"),
            "constraint" => Some("it may refuse rows"),
            "rule" => Some("it changes statements"),
            "trigger" if is_word_in("before", &self.definition) => Some("it may change or refuse rows"),
            _ => None,
        }
    }

    fn must_be_given(&self) -> bool {
        let definition = self.definition.to_ascii_lowercase();
        definition.contains(" not null")
            && !["default", "generated", "identity"]
                .iter()
                .any(|word| is_word_in(word, &definition))
    }

    fn is_unique(&self) -> bool {
        self.definition.starts_with("UNIQUE ")
    }

    /// What is unique in our columns is unique in them and more.
    fn contains_key(&self, expected: &[Self]) -> bool {
        let columns = self.columns();
        expected
            .iter()
            .filter(|part| part.of_table == self.of_table && part.is_unique() && part.definition.ends_with(')'))
            .any(|key| key.columns().iter().all(|column| columns.contains(column)))
    }

    /// The columns of an index.
    fn columns(&self) -> Vec<&str> {
        let Some((_, rest)) = self.definition.split_once('(') else {
            return Vec::new();
        };
        let inner = rest.strip_suffix(')').or_else(|| Some(rest.split_once(')')?.0));
        inner.unwrap_or_default().split(',').map(str::trim).collect()
    }
}

fn is_word_in(word: &str, text: &str) -> bool {
    text.split(|character: char| !character.is_alphanumeric() && character != '_')
        .any(|found| found.eq_ignore_ascii_case(word))
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            of_table,
            kind,
            name,
            definition,
            ..
        } = self;
        match kind.as_str() {
            "table" => write!(f, "table {of_table}"),
            "index" if self.is_unique() && definition.ends_with(')') => {
                write!(f, "unique index on ({}) of table {of_table}", self.columns().join(", "))
            }
            "constraint" => write!(f, "constraint {definition} of table {of_table}"),
            _ => write!(f, "{kind} {name} of table {of_table}"),
        }
    }
}
