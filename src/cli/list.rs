//! Lists as they are typed: one value for each flag or argument, never one with commas.

use std::str::FromStr;

use crate::oauth::client::Audience;
use crate::text;

/// Reads one item of a list. A comma or a semicolon may be a character of it, but who types one means several items.
pub fn item<T>(text: &str) -> Result<T, String>
where
    T: FromStr<Err: ToString>,
{
    if let Some(several) = several(text, |item| item.parse::<T>().is_ok()) {
        return Err(format!(
            "several values are several arguments; did you mean {}?",
            several.join(" ")
        ));
    }
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Reads an audience to be registered. What earlier versions registered is still read.
pub fn audience(text: &str) -> Result<Audience, String> {
    if text::names_user(text) {
        return Err(
            "an audience has no user and no password, because each token repeats it; leave out what is before the '@'"
                .to_owned(),
        );
    }
    match text::uri_fault(text) {
        Some(fault) if text.bytes().all(|octet| octet.is_ascii_graphic()) => {
            Err(format!("an audience with a colon is a URI; this one {fault}"))
        }
        _ => item(text),
    }
}

/// The items that separators part, if each may be one. What follows a comma in a URI belongs to it unless it is a URI too.
fn several(text: &str, is_item: impl Fn(&str) -> bool) -> Option<Vec<&str>> {
    let items: Vec<&str> = text
        .split([',', ';'])
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .collect();
    let first = items.first()?;
    let are_alike = items.iter().all(|item| item.contains("://") == first.contains("://"));
    (text.contains([',', ';']) && are_alike && items.iter().all(|item| is_item(item))).then_some(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::user::Role;
    use crate::oauth::client::Grant;

    #[test]
    fn several_items_in_one_are_told_apart() {
        for (text, meant) in [
            (
                "https://a.example,https://b.example",
                "https://a.example https://b.example",
            ),
            (
                "https://a.example, https://b.example",
                "https://a.example https://b.example",
            ),
            ("billing;shop", "billing shop"),
            ("billing,", "billing"),
        ] {
            let refused = item::<Audience>(text).unwrap_err();
            assert!(
                refused.ends_with(&format!("did you mean {meant}?")),
                "{text}: {refused}"
            );
        }
        assert!(item::<Role>("admin,reader").unwrap_err().contains("admin reader"));
        assert!(item::<Grant>("client_credentials,client_credentials").is_err());
        for one in ["https://a.example/?ids=1,2", "billing", "urn:a:b"] {
            assert_eq!(item::<Audience>(one).unwrap().as_str(), one);
        }
    }
}
