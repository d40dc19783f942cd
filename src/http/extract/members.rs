//! The JSON bodies of these endpoints: which members each one has, and what is wrong with a body that has others.
//!
//! What serde says of a body may repeat what was sent, a password perhaps. So a body that serde refuses is read again here, and the
//! sentence has words of this file alone. The name of a member may be a secret too: if it is not listed here, the sentence gives the place of
//! the member instead.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};

use crate::text;

/// A member of a body.
pub struct Member {
    /// Its name.
    name: &'static str,
    /// What its value is.
    value: ValueForm,
    /// Whether the body may do without it.
    is_optional: bool,
}

/// What the value of a member is.
enum ValueForm {
    /// A string.
    Text,
    /// One of these strings.
    OneOf(&'static [&'static str]),
}

impl Member {
    /// A member that must be there.
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Self {
            name,
            value: ValueForm::Text,
            is_optional: false,
        }
    }

    /// A member that may be left out.
    #[must_use]
    pub const fn optional_text(name: &'static str) -> Self {
        Self {
            is_optional: true,
            ..Self::text(name)
        }
    }

    /// Where the refresh token goes: see [`crate::http::account::delivery::Delivery`].
    #[must_use]
    pub const fn token_delivery() -> Self {
        Self {
            name: "token_delivery",
            value: ValueForm::OneOf(&["cookie", "body"]),
            is_optional: true,
        }
    }
}

/// The members of a body, and how it looks when it is right.
pub struct JsonForm {
    /// What the body is to be, as the rest of a sentence.
    pub right: &'static str,
    /// Its members; there are no others.
    pub members: &'static [Member],
}

/// What another application calls a member.
const OTHER_NAMES: [(&str, &str); 14] = [
    ("username", "email"),
    ("user", "email"),
    ("login", "email"),
    ("mail", "email"),
    ("email_address", "email"),
    ("pass", "password"),
    ("passwd", "password"),
    ("pwd", "password"),
    ("old_password", "current_password"),
    ("full_name", "name"),
    ("display_name", "name"),
    ("username", "name"),
    ("token", "refresh_token"),
    ("delivery", "token_delivery"),
];

impl JsonForm {
    /// The body.
    ///
    /// # Errors
    /// What is wrong with it and what would be right, in a sentence without any value that was sent.
    pub fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, String> {
        // Serde would take a list for an object, by the order of its members.
        let is_object = body.trim_ascii_start().starts_with(b"{");
        let parsed = if is_object {
            serde_json::from_slice(body).ok()
        } else {
            None
        };
        parsed.ok_or_else(|| match self.fault(body) {
            fault if fault.is_empty() => format!("the body is to be {}", self.right),
            fault => format!("{fault}; the body is to be {}", self.right),
        })
    }

    fn fault(&self, body: &[u8]) -> String {
        let content = body.trim_ascii();
        if content.is_empty() {
            return "the body is empty".to_owned();
        }
        if body.starts_with(b"\xef\xbb\xbf") {
            return "the body begins with a byte order mark, which JSON does not have (RFC 8259 section 8.1)"
                .to_owned();
        }
        if body.iter().take(2).any(|&octet| octet == 0)
            || body.starts_with(b"\xff\xfe")
            || body.starts_with(b"\xfe\xff")
        {
            return "the body is UTF-16 or UTF-32; JSON is sent as UTF-8 (RFC 8259 section 8.1)".to_owned();
        }
        if let Err(error) = std::str::from_utf8(body) {
            return format!(
                "the body is not UTF-8 from octet {} on; JSON is sent as UTF-8 (RFC 8259 section 8.1)",
                error.valid_up_to() + 1
            );
        }
        // Read as any value, what the parser says is about the form alone.
        if let Err(error) = serde_json::from_slice::<serde_json::Value>(body) {
            let looks_like = looks_like(content);
            return format!("the body is not JSON: {}{looks_like}", without_place(&error, body));
        }
        if let Some(other) = other_than_object(content) {
            return format!("the body is {other} and not an object");
        }
        let seen = serde_json::Deserializer::from_slice(body).deserialize_map(Members);
        seen.map(|seen| self.of_members(&seen)).unwrap_or_default()
    }

    fn of_members(&self, seen: &[Seen]) -> String {
        let mut faults = Vec::new();
        let mut names = HashSet::new();
        for (place, member) in seen.iter().enumerate() {
            let known = self.members.iter().find(|known| known.name == member.name);
            let is_first = names.insert(member.name.as_str());
            match known {
                Some(known) if !is_first => faults.push(format!("{} occurs twice", known.name)),
                Some(known) => faults.extend(known.fault(&member.kind)),
                None if is_first => faults.push(self.unknown(place, &member.name)),
                None => {}
            }
        }
        for member in self.members {
            if !member.is_optional && !names.contains(member.name) {
                faults.push(format!("{} is missing", member.name));
            }
        }
        faults.dedup();
        // A body of 4 KB can have many members.
        faults.truncate(6);
        faults.join(", ")
    }

    fn unknown(&self, place: usize, name: &str) -> String {
        let names = || self.members.iter().map(|member| member.name);
        let other = OTHER_NAMES
            .iter()
            .find(|(other, ours)| name.eq_ignore_ascii_case(other) && names().any(|name| name == *ours));
        if let Some((other, ours)) = other {
            return format!("{other} is unknown (did you mean {ours}?)");
        }
        let place = place + 1;
        match text::nearest(name, names()) {
            Some(meant) => format!("member {place} is unknown (did you mean {meant}?)"),
            None => format!("member {place} is unknown"),
        }
    }
}

impl Member {
    fn fault(&self, kind: &MemberKind) -> Option<String> {
        let name = self.name;
        match (kind, &self.value) {
            (MemberKind::Text(_), ValueForm::Text) => None,
            (MemberKind::Text(text), ValueForm::OneOf(values)) if values.contains(&text.as_str()) => None,
            // As if it was left out: serde reads it so.
            (MemberKind::Other("null"), ValueForm::Text) if self.is_optional => None,
            (MemberKind::Text(_), ValueForm::OneOf(values)) => {
                Some(format!("{name} is neither {}", values.join(" nor ")))
            }
            (MemberKind::Other(kind), _) => Some(format!("{name} is {kind} and not a string")),
        }
    }
}

/// What the parser says, which is about the form alone, with the place; where the text ends, the place is its end.
fn without_place(error: &serde_json::Error, body: &[u8]) -> String {
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or_default().to_lowercase();
    let what = match said.as_str() {
        _ if error.is_eof() => "it ends early",
        said if said.starts_with("control character") => {
            "a line end, tab or other control character in a string must be escaped"
        }
        said if said.starts_with("trailing comma") => "a comma is followed by no member",
        said if said.starts_with("trailing characters") => "something follows its end",
        said if said.starts_with("key must be a string") => "the name of a member must be in double quotation marks",
        said if said.starts_with("invalid escape") => "a backslash in a string begins no escape that JSON has",
        said if said.contains("surrogate") || said.contains("hex escape") => "a \\u in a string is no character",
        said if said.starts_with("recursion") => "it is nested too deep",
        said if said.starts_with("number out of range") => "a number is out of range",
        said if said.starts_with("expected `:`") => "a colon is expected",
        said if said.starts_with("expected `,`") => "a comma or a closing bracket is expected",
        _ => "a value is expected",
    };
    // JSON of one line is the usual one.
    if body.contains(&b'\n') {
        format!("{what} (line {}, column {})", error.line(), error.column())
    } else {
        format!("{what} (column {})", error.column())
    }
}

/// What people send in place of JSON.
fn looks_like(content: &[u8]) -> &'static str {
    let begins = |with: &[u8]| content.starts_with(with);
    if begins(b"{'") || begins(b"{ '") {
        "; JSON has double quotation marks and no single ones"
    } else if begins(b"<") {
        "; it looks like XML or HTML"
    } else if begins(b"--") {
        "; it looks like a form with parts (multipart/form-data)"
    } else if content.contains(&b'=') && !begins(b"{") && !begins(b"[") && !begins(b"\"") {
        "; it looks like a form (name=value)"
    } else {
        ""
    }
}

fn other_than_object(content: &[u8]) -> Option<&'static str> {
    match content.first()? {
        b'{' => None,
        b'[' => Some("a list"),
        b'"' => Some("a string"),
        b't' | b'f' => Some("true or false"),
        b'n' => Some("null"),
        _ => Some("a number"),
    }
}

/// A member that was sent.
struct Seen {
    name: String,
    kind: MemberKind,
}

enum MemberKind {
    /// A text, kept for as long as the fault is looked for.
    Text(zeroize::Zeroizing<String>),
    /// What it is instead.
    Other(&'static str),
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<Seen>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seen = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
            let kind = match value {
                serde_json::Value::String(text) => MemberKind::Text(text.into()),
                serde_json::Value::Null => MemberKind::Other("null"),
                serde_json::Value::Bool(_) => MemberKind::Other("true or false"),
                serde_json::Value::Number(_) => MemberKind::Other("a number"),
                serde_json::Value::Array(_) => MemberKind::Other("a list"),
                serde_json::Value::Object(_) => MemberKind::Other("an object"),
            };
            seen.push(Seen { name, kind });
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it is read matters")]
    struct Login {
        email: String,
        password: String,
        token_delivery: Option<crate::http::account::delivery::Delivery>,
    }

    const LOGIN: JsonForm = JsonForm {
        right: "{}",
        members: &[
            Member::text("email"),
            Member::text("password"),
            Member::token_delivery(),
        ],
    };

    fn said(body: impl AsRef<[u8]>) -> String {
        match LOGIN.read::<Login>(body.as_ref()) {
            Ok(_) => "accepted".to_owned(),
            Err(said) => said.strip_suffix("; the body is to be {}").unwrap_or(&said).to_owned(),
        }
    }

    #[test]
    fn each_fault_of_a_body_is_named() {
        for (body, expected) in [
            (" {\"email\":\"a\",\"password\":\"b\"}", "accepted"),
            ("", "the body is empty"),
            (" \r\n", "the body is empty"),
            (r#"{"email":"a"}"#, "password is missing"),
            ("{}", "email is missing, password is missing"),
            (r#"{"email":"a","password":7}"#, "password is a number and not a string"),
            (
                r#"{"email":null,"password":["x"]}"#,
                "email is null and not a string, password is a list and not a string",
            ),
            (
                r#"{"email":{"a":1},"password":true}"#,
                "email is an object and not a string, password is true or false and not a string",
            ),
            (
                r#"{"email":"a","password":"b","password":"c"}"#,
                "password occurs twice",
            ),
            (r#"{"email":"a","password":"b","remember":true}"#, "member 3 is unknown"),
            (
                r#"{"username":"a","password":"b"}"#,
                "username is unknown (did you mean email?), email is missing",
            ),
            (
                r#"{"Email":"a","password":"b"}"#,
                "member 1 is unknown (did you mean email?), email is missing",
            ),
            (
                r#"{"email":"a","passwort":"b"}"#,
                "member 2 is unknown (did you mean password?), password is missing",
            ),
            (
                r#"{"email":"a","password":"b","tokenDelivery":"body"}"#,
                "member 3 is unknown (did you mean token_delivery?)",
            ),
            (r#"{"email":"a","password":"b","7$ x":1}"#, "member 3 is unknown"),
            (
                r#"{"USERNAME":"a","password":"b"}"#,
                "username is unknown (did you mean email?), email is missing",
            ),
            (r#"["a","b"]"#, "the body is a list and not an object"),
            (r#""email""#, "the body is a string and not an object"),
            ("null", "the body is null and not an object"),
            ("12", "the body is a number and not an object"),
            (
                r#"{"email":"a","password":"b""#,
                "the body is not JSON: it ends early (column 27)",
            ),
            (
                r#"{"email":"a","password":"b",}"#,
                "the body is not JSON: a comma is followed by no member (column 29)",
            ),
            (
                r#"{"email":"a" "password":"b"}"#,
                "the body is not JSON: a comma or a closing bracket is expected (column 14)",
            ),
            (
                "{\"email\":\"a\",\n\"password\":\"b\tc\"}",
                "the body is not JSON: a line end, tab or other control character in a string must be escaped (line 2, column 14)",
            ),
            (
                "{'email':'a'}",
                "the body is not JSON: the name of a member must be in double quotation marks (column 2); JSON has double quotation marks and no single ones",
            ),
            (
                r#"{email:"a"}"#,
                "the body is not JSON: the name of a member must be in double quotation marks (column 2)",
            ),
            (
                r#"{"email":"a"}{}"#,
                "the body is not JSON: something follows its end (column 14)",
            ),
            (
                r#"{"email":"\x"}"#,
                "the body is not JSON: a backslash in a string begins no escape that JSON has (column 12)",
            ),
            (
                r#"{"email":"\ud800"}"#,
                "the body is not JSON: a \\u in a string is no character (column 17)",
            ),
            (
                r#"{"email":undefined}"#,
                "the body is not JSON: a value is expected (column 10)",
            ),
            (
                "email=a&password=b",
                "the body is not JSON: a value is expected (column 1); it looks like a form (name=value)",
            ),
            (
                "<a/>",
                "the body is not JSON: a value is expected (column 1); it looks like XML or HTML",
            ),
            (
                "\u{feff}{}",
                "the body begins with a byte order mark, which JSON does not have (RFC 8259 section 8.1)",
            ),
            (
                "{\0\"\0",
                "the body is UTF-16 or UTF-32; JSON is sent as UTF-8 (RFC 8259 section 8.1)",
            ),
        ] {
            assert_eq!(said(body), expected, "{body}");
        }
        assert_eq!(
            said(b"{\"email\":\"J\xfcrgen\"}"),
            "the body is not UTF-8 from octet 12 on; JSON is sent as UTF-8 (RFC 8259 section 8.1)"
        );
    }

    #[test]
    fn no_value_and_no_name_that_was_sent_is_repeated() {
        for body in [
            r#"{"email":"swordfish","password":"swordfish","token_delivery":"swordfish"}"#,
            r#"{"email":"swordfish"#,
            r#"{"email":"a","password":"b","swordfish7":1}"#,
            r#"{"email":"a","password":"b","swordfish":1}"#,
            r#"{"email":"a","password":"b","swordfish":1,"swordfish":2}"#,
            r#"{"email":"a","passwordfish":"b"}"#,
            r#"{"email":"a","password":"b","sword fish":1}"#,
            r#"{"email":swordfish}"#,
            r#"["swordfish"]"#,
            r#""swordfish""#,
            "email=a&password=swordfish",
            r#"{"email":["swordfish"],"password":{"swordfish":"swordfish"}}"#,
        ] {
            let said = said(body);
            assert!(!said.contains("fish") && said != "accepted", "{body}: {said}");
        }
    }

    // Serde takes a variant without content also as an object or as a list.
    #[test]
    fn a_word_is_a_string_and_nothing_else() {
        for (value, expected) in [
            (r#""body""#, "accepted"),
            (r#""cookie""#, "accepted"),
            (r#""BODY""#, "token_delivery is neither cookie nor body"),
            (r#"{"body":null}"#, "token_delivery is an object and not a string"),
            (r#"{"cookie":null}"#, "token_delivery is an object and not a string"),
            (r#"{"body":{}}"#, "token_delivery is an object and not a string"),
            (r#"["body"]"#, "token_delivery is a list and not a string"),
            (r#"["body",null]"#, "token_delivery is a list and not a string"),
            ("0", "token_delivery is a number and not a string"),
            ("true", "token_delivery is true or false and not a string"),
        ] {
            let body = format!(r#"{{"email":"a","password":"b","token_delivery":{value}}}"#);
            assert_eq!(said(&body), expected, "{body}");
        }
    }

    #[test]
    fn a_body_of_many_faults_is_answered_shortly() {
        let many: Vec<String> = (0..300).map(|number| format!(r#""{number}":1"#)).collect();
        assert!(said(format!("{{{}}}", many.join(","))).len() < 200);
        let deep = format!("{}{}", "[".repeat(2_000), "]".repeat(2_000));
        assert!(said(deep).starts_with("the body is not JSON: it is nested too deep"));
    }
}
