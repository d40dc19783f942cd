//! Where the browser goes after a login: nowhere that the operator did not name.

use std::fmt;

use url::Url;

/// An address on the issuer's own origin, or on one that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnTo(String);

/// The text leads elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("return_to must be a path such as /home, or a URL whose origin stands in accounts.allowed_origins")]
pub struct NotAllowed;

/// The longest that is taken, in bytes.
const LONGEST: usize = 2_048;

impl ReturnTo {
    /// Reads what a request asks for; without a wish it is the root of the issuer's origin. `allowed_origins` are exact
    /// (`https://app.example.com`).
    ///
    /// # Errors
    /// When it leads anywhere else.
    pub fn parse<'a>(
        wish: Option<&str>,
        issuer: &Url,
        mut allowed_origins: impl Iterator<Item = &'a str>,
    ) -> Result<Self, NotAllowed> {
        let text = wish.unwrap_or("/");
        // A backslash, a tab or a line break is read in one way by a browser and in another by everybody else.
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        let is_whole = ["/", "https://", "http://"].iter().any(|start| text.starts_with(start));
        if !printable || !is_whole || text.len() > LONGEST {
            return Err(NotAllowed);
        }
        let url = issuer.join(text).map_err(|_| NotAllowed)?;
        let origin = url.origin();
        let is_allowed = origin == issuer.origin() || {
            let origin = origin.ascii_serialization();
            allowed_origins.any(|allowed| allowed == origin)
        };
        if !is_allowed || !url.username().is_empty() || url.password().is_some() {
            return Err(NotAllowed);
        }
        Ok(Self(url.into()))
    }

    /// What [`Self::parse`] gave, read back from where it was kept.
    #[must_use]
    pub const fn kept(text: String) -> Self {
        Self(text)
    }

    /// The address, whole.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReturnTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wish: Option<&str>) -> Option<String> {
        let issuer = "https://id.example/sso".parse().unwrap();
        let allowed = ["https://app.example", "http://127.0.0.1:3000"];
        ReturnTo::parse(wish, &issuer, allowed.into_iter())
            .ok()
            .map(|return_to| return_to.to_string())
    }

    #[test]
    fn paths_and_allowed_origins_are_taken() {
        for (wish, address) in [
            (None, "https://id.example/"),
            (Some("/home?a=b#c"), "https://id.example/home?a=b#c"),
            (Some("/../x"), "https://id.example/x"),
            (Some("https://id.example/x"), "https://id.example/x"),
            (Some("https://app.example"), "https://app.example/"),
            (Some("https://app.example/@x"), "https://app.example/@x"),
            (Some("http://127.0.0.1:3000/a"), "http://127.0.0.1:3000/a"),
            // A name without a scheme leads where its origin says.
            (Some("//app.example/x"), "https://app.example/x"),
        ] {
            assert_eq!(read(wish).as_deref(), Some(address), "{wish:?}");
        }
    }

    #[test]
    fn nothing_leads_elsewhere() {
        for wish in [
            "",
            "home",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            "https:evil.example",
            "https://evil.example",
            "https://app.example.evil.example",
            "https://app.example@evil.example",
            "https://user@app.example",
            "https://app.example:444",
            "http://app.example",
            "http://id.example/",
            "HTTPS://evil.example",
            "javascript:alert(1)",
            "data:text/html,x",
            " /home",
            "/hä",
            &format!("/{}", "a".repeat(2_048)),
        ] {
            assert_eq!(read(Some(wish)), None, "{wish:?}");
        }
    }
}
