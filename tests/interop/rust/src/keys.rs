//! `jsonwebtoken` fetches nothing itself: the keys are in a map, and a kid that is not in it makes for a fetch.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

/// So that tokens with invented kids do not flood the issuer.
const BETWEEN_FETCHES: Duration = Duration::from_secs(1);

/// Make one of these and keep it: it holds the key set, and fetches it again when it meets a new key.
pub struct Verifier {
    issuer: String,
    audience: String,
    key_set: String,
    keys: HashMap<String, DecodingKey>,
    fetched: Option<Instant>,
}

impl Verifier {
    /// Holds no key yet.
    pub fn new(issuer: &str, audience: &str, key_set: &str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            key_set: key_set.to_owned(),
            keys: HashMap::new(),
            fetched: None,
        }
    }

    /// The claims of a valid token.
    pub fn verify(&mut self, token: &str) -> Result<Value, String> {
        let header = decode_header(token).map_err(|error| error.to_string())?;
        if header.typ.as_deref() != Some("at+jwt") {
            return Err("this is no access token".to_owned());
        }
        if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256) {
            return Err(format!("{:?} is not expected", header.alg));
        }
        let kid = header.kid.ok_or("the token names no key")?;
        let may_fetch = self.fetched.is_none_or(|fetched| fetched.elapsed() >= BETWEEN_FETCHES);
        if !self.keys.contains_key(&kid) && may_fetch {
            self.fetched = Some(Instant::now());
            self.keys = self.fetch()?;
        }
        let key = self.keys.get(&kid).ok_or_else(|| format!("no key {kid} in the set"))?;
        let mut expected = Validation::new(header.alg);
        expected.set_issuer(&[&self.issuer]);
        expected.set_audience(&[&self.audience]);
        expected.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let data = decode::<Value>(token, key, &expected).map_err(|error| error.to_string())?;
        Ok(data.claims)
    }

    fn fetch(&self) -> Result<HashMap<String, DecodingKey>, String> {
        let answer = minreq::get(&self.key_set).with_timeout(10).send();
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status_code != 200 {
            return Err(format!("the key set's status is {}", answer.status_code));
        }
        let set: JwkSet = serde_json::from_slice(answer.as_bytes()).map_err(|error| error.to_string())?;
        let mut keys = HashMap::new();
        for jwk in &set.keys {
            let key = DecodingKey::from_jwk(jwk).map_err(|error| error.to_string())?;
            keys.extend(jwk.common.key_id.clone().map(|kid| (kid, key)));
        }
        Ok(keys)
    }
}
