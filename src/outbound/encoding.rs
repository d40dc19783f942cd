//! Bodies that are compressed on their way (RFC 9110 section 8.4): `gzip` and `deflate`, whose decoders hold 32 KiB. Not `br` and `zstd`, whose
//! senders decide how much memory a reader needs.

use std::io::{self, Read};

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use reqwest::header::{CONTENT_ENCODING, HeaderMap};

use super::FetchError;

/// What is asked for.
pub(super) const ACCEPTED: &str = "gzip, deflate";

/// What a body is wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

impl Encoding {
    /// What the answer says of its body.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, FetchError> {
        let mut found = Self::Identity;
        for line in headers.get_all(CONTENT_ENCODING) {
            let names = line.to_str().map_err(|_| FetchError::Encoding)?;
            for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                let next = match name.to_ascii_lowercase().as_str() {
                    "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "deflate" => Self::Deflate,
                    _ => return Err(FetchError::Encoding),
                };
                if found != Self::Identity {
                    return Err(FetchError::Encoding);
                }
                found = next;
            }
        }
        Ok(found)
    }

    /// The body as it was before: at most `longest` bytes.
    pub(super) fn decode(self, body: Vec<u8>, longest: usize) -> Result<Vec<u8>, FetchError> {
        let inflated = match self {
            Self::Identity => return Ok(body),
            Self::Gzip => inflate(MultiGzDecoder::new(&*body), longest),
            // Some send what RFC 1951 describes without the wrapper of RFC 1950.
            Self::Deflate => {
                inflate(ZlibDecoder::new(&*body), longest).or_else(|_| inflate(DeflateDecoder::new(&*body), longest))
            }
        };
        let inflated = inflated.map_err(|_| FetchError::Encoding)?;
        if inflated.len() > longest {
            return Err(FetchError::TooLong);
        }
        Ok(inflated)
    }
}

/// One byte more than the bound is enough to know.
fn inflate(body: impl Read, longest: usize) -> io::Result<Vec<u8>> {
    let mut inflated = Vec::new();
    body.take(longest as u64 + 1).read_to_end(&mut inflated)?;
    Ok(inflated)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use reqwest::header::HeaderValue;

    use super::*;

    const LONGEST: usize = 1_000;

    fn of(lines: &[&'static str]) -> Result<Encoding, FetchError> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CONTENT_ENCODING, HeaderValue::from_static(line));
        }
        Encoding::of(&headers)
    }

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn an_encoding_is_read_in_every_spelling_and_others_are_refused() {
        for (lines, expected) in [
            (&[][..], Encoding::Identity),
            (&[""], Encoding::Identity),
            (&["identity"], Encoding::Identity),
            (&["gzip"], Encoding::Gzip),
            (&["GZIP"], Encoding::Gzip),
            (&[" x-gzip , identity"], Encoding::Gzip),
            (&["identity", "Deflate"], Encoding::Deflate),
        ] {
            assert_eq!(of(lines), Ok(expected), "{lines:?}");
        }
        for lines in [
            &["br"][..],
            &["zstd"],
            &["compress"],
            &["gzip, gzip"],
            &["gzip", "deflate"],
            &["aws-chunked"],
        ] {
            assert_eq!(of(lines), Err(FetchError::Encoding), "{lines:?}");
        }
    }

    #[test]
    fn a_body_is_inflated_up_to_its_bound() {
        let zlib = |body: &[u8]| {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        };
        let raw = |body: &[u8]| {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        };
        let body = vec![b'a'; LONGEST];
        for (encoding, encoded) in [
            (Encoding::Identity, body.clone()),
            (Encoding::Gzip, gzip(&body)),
            (Encoding::Gzip, [gzip(&body[..7]), gzip(&body[7..])].concat()),
            (Encoding::Deflate, zlib(&body)),
            (Encoding::Deflate, raw(&body)),
        ] {
            assert_eq!(encoding.decode(encoded, LONGEST), Ok(body.clone()));
        }
        let longer = vec![b'a'; LONGEST + 1];
        for (encoding, encoded) in [
            (Encoding::Gzip, gzip(&longer)),
            (Encoding::Deflate, zlib(&longer)),
            (Encoding::Deflate, raw(&longer)),
            (Encoding::Gzip, gzip(&vec![0; 1 << 26])),
        ] {
            assert_eq!(encoding.decode(encoded, LONGEST), Err(FetchError::TooLong));
        }
        let cut = gzip(&body)[..20].to_vec();
        for (encoding, encoded) in [
            (Encoding::Gzip, cut),
            (Encoding::Gzip, body.clone()),
            (Encoding::Gzip, vec![]),
            (Encoding::Deflate, body),
        ] {
            assert_eq!(encoding.decode(encoded, LONGEST), Err(FetchError::Encoding));
        }
    }
}
