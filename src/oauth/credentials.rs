//! How a client says who it is: `client_secret_basic` and `client_secret_post` (RFC 6749 section 2.3.1).

use base64::Engine;
use zeroize::Zeroizing;

use super::error::{ErrorCode, OauthError};
use super::token::{Parameters, form_decode};

/// A name and a secret as they were presented; nothing is proved yet.
#[derive(Clone, PartialEq, Eq)]
pub struct CredentialReading {
    /// The name, which may be no client's.
    pub client_id: String,
    /// The secret.
    pub secret: Zeroizing<String>,
}

/// What a request presents, read in each way in which clients write it.
pub struct Credentials {
    readings: Vec<CredentialReading>,
    /// Whether they came in the `Authorization` header.
    pub by_header: bool,
}

impl Credentials {
    /// Takes the credentials from the header or the body, whichever holds them.
    ///
    /// # Errors
    /// `invalid_request` for two methods at once or a malformed header, `invalid_client` when there are none.
    pub fn find(authorization: Option<&str>, parameters: &Parameters) -> Result<Self, OauthError> {
        let (id, secret) = (parameters.one("client_id")?, parameters.one("client_secret")?);
        match (authorization, id, secret) {
            (Some(_), _, Some(_)) => Err(OauthError::invalid_request(
                "the client authenticated twice; use the Authorization header or client_secret, not both",
            )),
            (Some(header), id, None) => {
                let mut credentials = Self::from_basic(header)?;
                credentials
                    .readings
                    .retain(|reading| id.is_none_or(|id| id == reading.client_id));
                if credentials.readings.is_empty() {
                    return Err(OauthError::invalid_request(
                        "client_id differs from the client in the Authorization header",
                    ));
                }
                Ok(credentials)
            }
            (None, Some(id), Some(secret)) => Ok(Self {
                readings: vec![CredentialReading::new(id, secret)],
                by_header: false,
            }),
            _ => Err(OauthError::new(
                ErrorCode::InvalidClient,
                "the client did not authenticate; use client_secret_basic, client_secret_post or private_key_jwt",
            )),
        }
    }

    /// The name and the secret, in each way in which they may be meant: one to three, the standard's first.
    pub fn readings(&self) -> impl Iterator<Item = &CredentialReading> {
        self.readings.iter()
    }

    fn from_basic(header: &str) -> Result<Self, OauthError> {
        let refuse = |description: &str| OauthError {
            code: ErrorCode::InvalidClient,
            description: description.to_owned(),
            challenge: true,
        };
        let encoded = header
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
            .map(|(_, encoded)| encoded.trim())
            .ok_or_else(|| refuse("the Authorization header is not of the Basic scheme"))?;
        let malformed =
            || refuse("the Basic credentials are not base64 of an encoded id and secret with a colon between");
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .map(Zeroizing::new)
            .map_err(|_| malformed())?;
        let text = std::str::from_utf8(&decoded).map_err(|_| malformed())?;
        let (id, secret) = text.split_once(':').ok_or_else(malformed)?;
        // Each is form-encoded before they are joined (RFC 6749 section 2.3.1).
        let decoded = CredentialReading {
            client_id: form_decode(id),
            secret: Zeroizing::new(form_decode(secret)),
        };
        // Many clients join them as they are (`curl --user`), so that a colon in the id is not told from the one between.
        let raw = CredentialReading::new(id, secret);
        let split_last = text
            .rsplit_once(':')
            .map(|(id, secret)| CredentialReading::new(id, secret));
        let mut readings = vec![decoded];
        for reading in [Some(raw), split_last].into_iter().flatten() {
            if !readings.contains(&reading) {
                readings.push(reading);
            }
        }
        Ok(Self {
            readings,
            by_header: true,
        })
    }
}

impl CredentialReading {
    fn new(client_id: &str, secret: &str) -> Self {
        Self {
            client_id: client_id.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(text: &str) -> String {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
    }

    #[test]
    fn the_header_is_read_as_the_standard_and_as_other_clients_write_it() {
        for (text, expected) in [
            ("billing:secret", &[("billing", "secret")][..]),
            ("a%2Bb:p%3A%26q+r", &[("a+b", "p:&q r"), ("a%2Bb", "p%3A%26q+r")]),
            ("svc%3Aprod:a%2Bb", &[("svc:prod", "a+b"), ("svc%3Aprod", "a%2Bb")]),
            ("svc:prod:secret", &[("svc", "prod:secret"), ("svc:prod", "secret")]),
            (
                "svc:prod:a+b",
                &[("svc", "prod:a b"), ("svc", "prod:a+b"), ("svc:prod", "a+b")],
            ),
            (
                "https://app.example.com:secret",
                &[
                    ("https", "//app.example.com:secret"),
                    ("https://app.example.com", "secret"),
                ],
            ),
        ] {
            let found = Credentials::find(Some(&basic(text)), &Parameters::parse("").unwrap()).unwrap();
            let read: Vec<_> = found
                .readings()
                .map(|reading| (reading.client_id.as_str(), reading.secret.as_str()))
                .collect();
            assert_eq!(read, expected, "{text}");
        }
        let body = Parameters::parse("client_id=svc%3Aprod").unwrap();
        let found = Credentials::find(Some(&basic("svc:prod:secret")), &body).unwrap();
        assert_eq!(found.readings().count(), 1);
        let other = Parameters::parse("client_id=other").unwrap();
        let error = Credentials::find(Some(&basic("svc:prod:secret")), &other)
            .err()
            .unwrap();
        assert_eq!(error.code, ErrorCode::InvalidRequest);
    }

    #[test]
    fn two_methods_at_once_are_refused() {
        let body = Parameters::parse("client_id=a&client_secret=s").unwrap();
        let error = Credentials::find(Some(&basic("a:s")), &body).err().unwrap();
        assert_eq!(error.code, ErrorCode::InvalidRequest);
    }

    #[test]
    fn a_malformed_header_is_an_unproved_client() {
        for header in ["Basic", "Basic !!", "Bearer abc", &basic("no-colon"), "Basic /w=="] {
            let error = Credentials::find(Some(header), &Parameters::parse("").unwrap())
                .err()
                .unwrap();
            assert_eq!(
                (error.code, error.challenge),
                (ErrorCode::InvalidClient, true),
                "{header}"
            );
        }
    }
}
