//! A backup as a file: the tables as JSON, a line a row, the same from either database. What is sealed stays sealed.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::UnixTime;
use crate::jose::jwk::sha256_base64url;

/// The form of the file.
const FORMAT: &str = "keyround-backup-1";

/// Every row of every table that is worth keeping, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Dump {
    /// The version of the schema that the rows are from.
    pub schema: i64,
    /// When it was taken.
    pub taken_at: UnixTime,
    /// The rows, in the order in which they are to be written.
    pub rows: Vec<DumpedRow>,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpedRow {
    /// Its table.
    pub table: String,
    /// Its values by column: integers, texts and nulls.
    pub row: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    schema: i64,
    taken_at: i64,
}

/// The last line: without it, or with another digest, the file is not what was written.
#[derive(Serialize, Deserialize)]
struct Foot {
    rows: usize,
    sha256: String,
}

/// Why a file is no backup that can be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DumpError {
    /// Its first line says something else.
    #[error(
        "it is no backup of Keyround, or one in a form that this version does not know; its first line must say '{FORMAT}'"
    )]
    Format,
    /// It was cut short or changed.
    #[error(
        "it was cut short or changed since it was written: its last line does not match the rest; use another copy"
    )]
    Damaged,
}

impl DumpedRow {
    /// The text in this column.
    #[must_use]
    pub fn text(&self, column: &str) -> Option<&str> {
        self.row.get(column)?.as_str()
    }
}

impl Dump {
    /// The rows of one table.
    pub fn table<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a DumpedRow> {
        self.rows.iter().filter(move |row| row.table == table)
    }

    /// The file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let head = Head {
            format: FORMAT.to_owned(),
            schema: self.schema,
            taken_at: self.taken_at.0,
        };
        let mut text = line(&head);
        for row in &self.rows {
            text.push_str(&line(row));
        }
        let foot = Foot {
            rows: self.rows.len(),
            sha256: sha256_base64url(text.as_bytes()),
        };
        let _ = write!(text, "{}", line(&foot));
        text
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it is none, or not whole.
    pub fn parse(text: &str) -> Result<Self, DumpError> {
        let first = text.lines().next().ok_or(DumpError::Format)?;
        let head: Head = serde_json::from_str(first).map_err(|_| DumpError::Format)?;
        if head.format != FORMAT {
            return Err(DumpError::Format);
        }
        let whole = text.strip_suffix('\n').ok_or(DumpError::Damaged)?;
        let (_, last) = whole.rsplit_once('\n').ok_or(DumpError::Damaged)?;
        let foot: Foot = serde_json::from_str(last).map_err(|_| DumpError::Damaged)?;
        let body = &whole[..whole.len() - last.len()];
        if sha256_base64url(body.as_bytes()) != foot.sha256 {
            return Err(DumpError::Damaged);
        }
        let rows: Vec<DumpedRow> = body
            .lines()
            .skip(1)
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .map_err(|_| DumpError::Damaged)?;
        if rows.len() != foot.rows {
            return Err(DumpError::Damaged);
        }
        Ok(Self {
            schema: head.schema,
            taken_at: UnixTime(head.taken_at),
            rows,
        })
    }
}

fn line(value: &impl Serialize) -> String {
    // Our own types: texts, numbers and JSON.
    let mut text = serde_json::to_string(value).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_every_cut_or_change_is_found() {
        let row = |number: i64| DumpedRow {
            table: "t".to_owned(),
            row: serde_json::from_str(&format!(r#"{{"a":{number},"b":"x\ny","c":null}}"#)).unwrap(),
        };
        let dump = Dump {
            schema: 2,
            taken_at: UnixTime(7),
            rows: vec![row(1), row(i64::MAX)],
        };
        let text = dump.to_text();
        assert_eq!(Dump::parse(&text), Ok(dump));
        for length in 0..text.len() {
            assert!(Dump::parse(&text[..length]).is_err(), "{length}");
        }
        assert_eq!(
            Dump::parse(&text.replacen("\"a\":1", "\"a\":2", 1)),
            Err(DumpError::Damaged)
        );
        assert_eq!(
            Dump::parse(&text.replacen("backup-1", "backup-2", 1)),
            Err(DumpError::Format)
        );
        assert_eq!(Dump::parse("SQLite format 3"), Err(DumpError::Format));
    }
}
