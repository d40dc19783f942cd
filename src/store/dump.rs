//! A backup as a file: the tables as JSON, a line a row, the same from either database. What is sealed stays sealed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::UnixTime;
use crate::crypto::sealing::{BackupMac, MasterKeys};
use crate::jose::jwk::sha256_base64url;

use super::tables::is_in_backup;

/// The form of the file.
const FORMAT: &str = "keyround-backup-2";
/// An older form, which ends with a digest without a key.
const UNAUTHENTICATED_FORMAT: &str = "keyround-backup-1";

/// Whether a file of the older form is read: any holder of the file can have changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unauthenticated {
    /// It is.
    Accepted,
    /// It is not.
    Refused,
}

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
struct DumpHead {
    format: String,
    schema: i64,
    taken_at: i64,
    /// The master key that the file is authenticated under; absent in the older form.
    #[serde(skip_serializing_if = "Option::is_none")]
    master_key: Option<String>,
}

/// The last line: without it, or with another MAC, the file is not what was written.
#[derive(Serialize, Deserialize)]
struct Foot {
    rows: usize,
    #[serde(flatten)]
    seal: FileSeal,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FileSeal {
    HmacSha256(String),
    Sha256(String),
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
    /// It is of the older form.
    #[error(
        "it has the older form '{UNAUTHENTICATED_FORMAT}', which does not show whether it was changed by another hand; if only you \
         could write to it, add --unauthenticated"
    )]
    Unauthenticated,
    /// It was written with another master key.
    #[error("it was written with the master key {0}, which is not listed; list it after the one that seals")]
    NotListed(String),
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

    /// How many rows there are of tables that a restore leaves out: an older version wrote those of foreign tables too.
    #[must_use]
    pub fn left_out(&self) -> BTreeMap<&str, usize> {
        let mut left_out = BTreeMap::new();
        for row in self.rows.iter().filter(|row| !is_in_backup(&row.table)) {
            *left_out.entry(row.table.as_str()).or_default() += 1;
        }
        left_out
    }

    /// The file, authenticated under the master key that seals.
    #[must_use]
    pub fn to_text(&self, master_keys: &MasterKeys) -> String {
        let head = DumpHead {
            format: FORMAT.to_owned(),
            schema: self.schema,
            taken_at: self.taken_at.0,
            master_key: Some(master_keys.sealing_id().to_string()),
        };
        let mut text = line(&head);
        for row in &self.rows {
            text.push_str(&line(row));
        }
        let foot = Foot {
            rows: self.rows.len(),
            seal: FileSeal::HmacSha256(master_keys.backup_mac(text.as_bytes())),
        };
        let _ = write!(text, "{}", line(&foot));
        text
    }

    /// Whether a file that begins with these octets may be one: they hold its first line.
    #[must_use]
    pub fn may_begin_with(octets: &[u8]) -> bool {
        let first = octets.split(|&octet| octet == b'\n').next().unwrap_or_default();
        serde_json::from_slice::<DumpHead>(first)
            .is_ok_and(|head| [FORMAT, UNAUTHENTICATED_FORMAT].contains(&head.format.as_str()))
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it is none, or not what was written.
    pub fn parse(text: &str, master_keys: &MasterKeys, unauthenticated: Unauthenticated) -> Result<Self, DumpError> {
        let first = text.lines().next().ok_or(DumpError::Format)?;
        let head: DumpHead = serde_json::from_str(first).map_err(|_| DumpError::Format)?;
        let whole = text.strip_suffix('\n').ok_or(DumpError::Damaged)?;
        let (_, last) = whole.rsplit_once('\n').ok_or(DumpError::Damaged)?;
        let body = &whole[..whole.len() - last.len()];
        let foot = serde_json::from_str::<Foot>(last).map_err(|_| DumpError::Damaged);
        let rows = match (head.format.as_str(), head.master_key) {
            (FORMAT, Some(id)) => {
                let Foot { rows, seal } = foot?;
                let FileSeal::HmacSha256(mac) = seal else {
                    return Err(DumpError::Damaged);
                };
                match master_keys.check_backup_mac(&id, body.as_bytes(), &mac) {
                    BackupMac::Matches => rows,
                    BackupMac::Differs => return Err(DumpError::Damaged),
                    BackupMac::KeyNotListed => return Err(DumpError::NotListed(id)),
                }
            }
            (UNAUTHENTICATED_FORMAT, None) => {
                let Foot { rows, seal } = foot?;
                let FileSeal::Sha256(digest) = seal else {
                    return Err(DumpError::Damaged);
                };
                if sha256_base64url(body.as_bytes()) != digest {
                    return Err(DumpError::Damaged);
                }
                if unauthenticated == Unauthenticated::Refused {
                    return Err(DumpError::Unauthenticated);
                }
                rows
            }
            _ => return Err(DumpError::Format),
        };
        let read: Vec<DumpedRow> = body
            .lines()
            .skip(1)
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .map_err(|_| DumpError::Damaged)?;
        if read.len() != rows {
            return Err(DumpError::Damaged);
        }
        Ok(Self {
            schema: head.schema,
            taken_at: UnixTime(head.taken_at),
            rows: read,
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
    use crate::crypto::sealing::MasterKey;

    use super::*;

    fn a_dump() -> Dump {
        let row = |number: i64| DumpedRow {
            table: "t".to_owned(),
            row: serde_json::from_str(&format!(r#"{{"a":{number},"b":"x\ny","c":null}}"#)).unwrap(),
        };
        Dump {
            schema: 2,
            taken_at: UnixTime(7),
            rows: vec![row(1), row(i64::MAX)],
        }
    }

    fn master_keys() -> MasterKeys {
        MasterKeys::from(MasterKey::generate().unwrap())
    }

    /// As the version before wrote it.
    fn in_the_older_form(dump: &Dump, keys: &MasterKeys) -> String {
        let text = dump.to_text(keys);
        let rows: Vec<&str> = text.lines().skip(1).take(dump.rows.len()).collect();
        let body = format!(
            "{{\"format\":\"keyround-backup-1\",\"schema\":2,\"taken_at\":7}}\n{}\n",
            rows.join("\n")
        );
        let digest = sha256_base64url(body.as_bytes());
        format!("{body}{{\"rows\":{},\"sha256\":\"{digest}\"}}\n", rows.len())
    }

    #[test]
    fn it_reads_back_and_every_cut_or_change_is_found() {
        let (dump, keys) = (a_dump(), master_keys());
        let text = dump.to_text(&keys);
        let parse = |text: &str| Dump::parse(text, &keys, Unauthenticated::Accepted);
        assert_eq!(parse(&text), Ok(dump));
        for length in 0..text.len() {
            assert!(parse(&text[..length]).is_err(), "{length}");
        }
        for (from, to) in [("\"a\":1", "\"a\":2"), ("\"taken_at\":7", "\"taken_at\":8")] {
            assert_eq!(parse(&text.replacen(from, to, 1)), Err(DumpError::Damaged));
        }
        assert_eq!(parse(&text.replacen("backup-2", "backup-3", 1)), Err(DumpError::Format));
        assert_eq!(parse("SQLite format 3"), Err(DumpError::Format));
    }

    #[test]
    fn a_digest_that_is_computed_again_does_not_stand_for_a_change() {
        let (dump, keys, others) = (a_dump(), master_keys(), master_keys());
        let text = dump.to_text(&keys);
        let head = text.lines().next().unwrap();
        let changed = text.replacen("\"a\":1", "\"a\":2", 1);
        let body = changed.rsplit_once("{\"rows\"").unwrap().0;
        let digest = sha256_base64url(body.as_bytes());
        let parse = |text: &str, keys| Dump::parse(text, keys, Unauthenticated::Accepted);
        // A digest without a key, under either name, and the MAC of another master key, under either name.
        for foot in ["sha256", "hmac_sha256"] {
            let forged = format!("{body}{{\"rows\":2,\"{foot}\":\"{digest}\"}}\n");
            assert_eq!(parse(&forged, &keys), Err(DumpError::Damaged), "{foot}");
        }
        let forged = changed_dump(&dump).to_text(&others);
        let id = others.sealing_id().to_string();
        assert_eq!(parse(&forged, &keys), Err(DumpError::NotListed(id)));
        let forged = forged.replacen(forged.lines().next().unwrap(), head, 1);
        assert_eq!(parse(&forged, &keys), Err(DumpError::Damaged));
        // The older form is no way around.
        let older = in_the_older_form(&dump, &keys);
        assert_eq!(
            Dump::parse(&older, &keys, Unauthenticated::Refused),
            Err(DumpError::Unauthenticated)
        );
        assert_eq!(parse(&older, &keys), Ok(dump));
    }

    fn changed_dump(dump: &Dump) -> Dump {
        let mut changed = dump.clone();
        changed.rows.pop();
        changed
    }
}
