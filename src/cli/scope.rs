//! Scopes as they are typed.

use std::str::FromStr;

use crate::oauth::scope::{MAX_SCOPE_WORDS, Scope};

/// Reads a scope. A comma or a semicolon is a character of a word (RFC 6749 section 3.3), but who types one means two words.
pub fn parse<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    if text.contains([',', ';']) {
        let words: Vec<&str> = text.split([',', ';', ' ']).filter(|word| !word.is_empty()).collect();
        let spaced = words.join(" ");
        if spaced.parse::<T>().is_ok() {
            return Err(format!(
                "the words of a scope are separated by spaces; did you mean '{spaced}'?"
            ));
        }
    }
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Reads a scope to be registered: a request could not name all of a longer one. What earlier versions registered is still granted.
pub fn registered(text: &str) -> Result<Scope, String> {
    let scope: Scope = parse(text)?;
    if scope.len() > MAX_SCOPE_WORDS {
        return Err(format!(
            "a scope has at most {MAX_SCOPE_WORDS} words, because a request may name no more; this one has {}: leave some out, or \
             register a second client",
            scope.len()
        ));
    }
    Ok(scope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::federation::OpenIdScope;

    #[test]
    fn what_no_request_could_name_is_not_registered() {
        let words = |count: usize| {
            (0..count)
                .map(|number| format!("w{number}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(registered(&words(64)).unwrap().len(), 64);
        assert_eq!(registered(&format!("{} w0", words(64))).unwrap().len(), 64);
        let refused = registered(&words(65)).unwrap_err();
        assert!(
            refused.contains("at most 64 words") && refused.contains("has 65"),
            "{refused}"
        );
    }

    #[test]
    fn other_separators_are_answered_with_the_right_one() {
        assert_eq!(parse::<Scope>("read write").unwrap().to_string(), "read write");
        assert_eq!(parse::<Scope>("").unwrap().to_string(), "");
        for text in [
            "read,write",
            "read, write",
            "read;write",
            ",read,,write,",
            "read write,",
        ] {
            let refused = parse::<Scope>(text).unwrap_err();
            assert!(refused.ends_with("did you mean 'read write'?"), "{text}: {refused}");
        }
        let refused = parse::<OpenIdScope>("openid,email").unwrap_err();
        assert!(refused.ends_with("did you mean 'openid email'?"), "{refused}");
        // Without openid it is no scope of a provider, however it is spelled.
        let refused = parse::<OpenIdScope>("email,profile").unwrap_err();
        assert!(refused.contains("openid among them"), "{refused}");
        assert!(parse::<Scope>("a\",b").unwrap_err().contains("printable ASCII"));
    }
}
