//! JSON objects in which every name stands once: `serde_json` alone keeps the last of two, other readers the first
//! (RFC 8725 section 2.4).

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads one JSON object, with white space around it or not (RFC 8259 section 2). No object at any depth may have two members of
/// one name.
///
/// # Errors
/// What `serde_json` says; it may quote the text, so it is for the eyes of whoever brought it.
pub fn object(text: &[u8]) -> Result<Map<String, Value>, serde_json::Error> {
    match read(text, Strict)? {
        Value::Object(members) => Ok(members),
        _ => Err(serde_json::Error::custom("it is no JSON object")),
    }
}

/// What an object holds under names that are known beforehand.
pub struct JsonMembers<const N: usize> {
    /// The values, in the order of the names.
    pub named: [Option<Value>; N],
    /// Whether it has members of other names.
    pub has_others: bool,
}

/// Reads an object of our own, when only its members of these names are wanted. It takes half the time of [`object`]. We write no
/// white space around it, so the first octet must open it and the last one close it.
///
/// # Errors
/// See [`object`].
pub fn members<const N: usize>(text: &[u8], names: [&'static str; N]) -> Result<JsonMembers<N>, serde_json::Error> {
    if text.first() != Some(&b'{') || text.last() != Some(&b'}') {
        return Err(serde_json::Error::custom("it is no JSON object"));
    }
    read(text, NamedMembers(names))
}

fn read<'de, T>(text: &'de [u8], form: impl DeserializeSeed<'de, Value = T>) -> Result<T, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = form.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

struct NamedMembers<const N: usize>([&'static str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for NamedMembers<N> {
    type Value = JsonMembers<N>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for NamedMembers<N> {
    type Value = JsonMembers<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object in which every name stands once")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut named = [const { None }; N];
        let mut others = HashSet::new();
        while let Some(name) = members.next_key_seed(MemberName)? {
            let value = members.next_value_seed(Strict)?;
            let place = self.0.iter().zip(&mut named).find(|(known, _)| **known == name);
            let is_first = match place {
                Some((_, place)) => place.replace(value).is_none(),
                None => others.insert(name),
            };
            if !is_first {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(JsonMembers {
            named,
            has_others: !others.is_empty(),
        })
    }
}

/// A name, where it stands in the text unless it holds an escape.
struct MemberName;

impl<'de> DeserializeSeed<'de> for MemberName {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for MemberName {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON in which every name stands once")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(Strict)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(Strict)?;
            if values.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_every_name_once_is_read_as_it_stands() {
        let text = r#"{"a":[1,-2,1.5,"x",null,true,{"a":{}}],"b":18446744073709551615}"#;
        let read = Value::Object(object(text.as_bytes()).unwrap());
        assert_eq!(read, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn white_space_around_an_object_of_others_is_no_part_of_it() {
        for text in ["{\"a\":1}\n", " {\"a\":1}", "\t\r\n {\"a\":1} \n\r\t"] {
            assert_eq!(object(text.as_bytes()).unwrap()["a"], 1, "{text:?}");
            assert!(members(text.as_bytes(), ["a"]).is_err(), "{text:?}");
        }
        // White space in Unicode or ASCII, but not in JSON.
        for space in ["\u{b}", "\u{c}", "\u{a0}", "\u{2028}", "\u{feff}", "\0"] {
            for text in [format!("{space}{{}}"), format!("{{}}{space}")] {
                assert!(object(text.as_bytes()).is_err(), "{text:?}");
            }
        }
    }

    #[test]
    fn members_that_are_asked_for_are_found_whatever_else_there_is() {
        let read = members(br#"{"x":{"a":1},"b":null,"\u0061":[1]}"#, ["a", "b", "c"]).unwrap();
        assert_eq!(read.named, [Some(vec![1].into()), Some(Value::Null), None]);
        assert!(read.has_others);
        assert!(!members(br#"{"b":1}"#, ["a", "b"]).unwrap().has_others);
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_at_any_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":1,"x":1}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":[[{"b":1,"c":0,"b":2}]]}"#,
        ] {
            assert!(object(text.as_bytes()).is_err(), "{text}");
            assert!(members(text.as_bytes(), ["a"]).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_object_alone_is_refused() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(3_000), "]".repeat(3_000));
        for text in [
            "",
            "{",
            "[]",
            "1",
            "null",
            " ",
            "{}{}",
            "{} {}",
            "\u{feff}{}",
            "{\"a\":1e999}",
            "{\"a\":01}",
            &deep,
        ] {
            assert!(object(text.as_bytes()).is_err(), "{text}");
            assert!(members(text.as_bytes(), ["a"]).is_err(), "{text}");
        }
        for text in [&b"{\"\xff\":1}"[..], b"{\"a\":\"\xff\"}"] {
            assert!(object(text).is_err());
            assert!(members(text, ["a"]).is_err());
        }
    }
}
