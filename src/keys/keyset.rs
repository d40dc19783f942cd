//! Being written.

/// The length of a set of keys with these lengths, in bytes.
pub fn set_bytes(keys: impl Iterator<Item = usize>) -> usize {
    let around = r#"{"keys":[]}"#.len();
    keys.fold(around, |bytes, key| bytes.saturating_add(key + 1))
}
