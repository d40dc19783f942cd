//! Scopes as they are typed.

use std::str::FromStr;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::federation::OpenIdScope;
    use crate::oauth::scope::Scope;

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
