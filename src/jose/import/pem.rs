//! One key as PEM (RFC 7468), however its lines end and whatever text is around it.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use openssl::pkey::{PKey, Private, Public};
use openssl::rsa::Rsa;
use openssl::x509::X509;
use zeroize::Zeroizing;

use super::{ImportError, Imported, Passphrase, old_encryption, private, public};

/// A block with its first and last line.
struct Block<'a> {
    label: &'a str,
    text: Zeroizing<String>,
}

/// Reads the one key of the text. Its certificate, and its public half, may be beside it.
pub(super) fn read(text: &str, passphrase: Passphrase<'_>) -> Result<Imported, ImportError> {
    let text = unfolded(&unescaped(text));
    let blocks = blocks(&text);
    let (mut certificates, mut publics, mut privates) = (Vec::new(), Vec::new(), Vec::new());
    for block in &blocks {
        match block.label {
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => certificates.push(block),
            "PUBLIC KEY" | "RSA PUBLIC KEY" => publics.push(block),
            "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => privates.push(block),
            "OPENSSH PRIVATE KEY" => return Err(ImportError::OpenSsh),
            _ => {}
        }
    }
    let publics = publics.into_iter().map(read_public).collect::<Result<Vec<_>, _>>()?;
    let (key, halves) = match (privates.as_slice(), publics.split_first()) {
        ([block], _) => {
            let key = open(block, passphrase)?;
            let half = PKey::public_key_from_der(&key.public_key_to_der()?)?;
            (private(&key)?, [&[half], &*publics].concat())
        }
        ([], Some((half, _))) => (public(half)?, publics),
        ([], None) if !certificates.is_empty() => return Err(ImportError::Certificate),
        ([], None) => return Err(nothing(&text)),
        (several, _) => return Err(ImportError::Several(several.len())),
    };
    let Some((half, others)) = halves.split_first() else {
        return Ok(key);
    };
    let different = others.iter().filter(|other| !half.public_eq(other)).count();
    if different > 0 {
        return Err(ImportError::Several(1 + different));
    }
    // One of them is the key's; the others are those of its issuers.
    let is_its_own = |block: &&Block<'_>| {
        let certified = X509::from_pem(block.text.as_bytes()).and_then(|certificate| certificate.public_key());
        certified.is_ok_and(|certified| half.public_eq(&certified))
    };
    if !certificates.is_empty() && !certificates.iter().any(is_its_own) {
        return Err(ImportError::OtherCertificate);
    }
    Ok(key)
}

/// The text with the line ends that a JSON or environment file wrote as `\n`. No PEM has a backslash.
fn unescaped(text: &str) -> Zeroizing<String> {
    if text.contains("-----BEGIN ") && text.contains("\\n") {
        let text = Zeroizing::new(text.replace("\\r", "\r"));
        return Zeroizing::new(text.replace("\\n", "\n").trim().trim_matches(['"', '\'']).to_owned());
    }
    Zeroizing::new(text.to_owned())
}

/// The text with a line end where a YAML file, a shell or an environment variable made it a space, or took it away. Text around the blocks
/// is left out.
fn unfolded(text: &str) -> Zeroizing<String> {
    const BEGIN: &str = "-----BEGIN ";
    const LINE: usize = 64;
    let is_marker = |line: &str| {
        let label = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix("-----"));
        label.is_some_and(|label| !label.contains("-----"))
    };
    let is_folded = text.lines().any(|line| line.contains(BEGIN) && !is_marker(line.trim()));
    if !is_folded {
        return Zeroizing::new(text.to_owned());
    }
    // As large as it can become, so that no copy of the key stays behind: a line end for each line, and a few for each block.
    let mut unfolded = Zeroizing::new(String::with_capacity(2 * text.len()));
    let mut rest = text;
    while let Some((_, block)) = rest.split_once(BEGIN) {
        let Some((label, block)) = block.split_once("-----") else {
            break;
        };
        let end = format!("-----END {label}-----");
        let (body, behind) = block.split_once(&end).unwrap_or((block, ""));
        for part in [BEGIN, label, "-----\n"] {
            unfolded.push_str(part);
        }
        let mut words = body.split_whitespace().peekable();
        // The headers of RFC 1421, each with one word behind its name, and an empty line.
        let mut has_headers = false;
        while let Some(name) = words.next_if(|word| word.ends_with(':')) {
            for part in [name, " ", words.next().unwrap_or_default(), "\n"] {
                unfolded.push_str(part);
            }
            has_headers = true;
        }
        if has_headers {
            unfolded.push('\n');
        }
        for (at, character) in words.flat_map(str::chars).enumerate() {
            if at > 0 && at % LINE == 0 {
                unfolded.push('\n');
            }
            unfolded.push(character);
        }
        for part in ["\n", &end, "\n"] {
            unfolded.push_str(part);
        }
        rest = behind;
    }
    unfolded
}

/// Why a text without a block is not a key.
fn nothing(text: &str) -> ImportError {
    // "-----BEGIN " in base64.
    if text.trim_start().starts_with("LS0tLS1CRUdJTi") {
        return ImportError::WrappedPem;
    }
    wrapped_der(text).unwrap_or(ImportError::NotAKey)
}

/// What makes a PEM of a key in DER that was written in base64.
fn wrapped_der(text: &str) -> Option<ImportError> {
    let base64: Zeroizing<String> = Zeroizing::new(text.split_whitespace().collect());
    let der = Zeroizing::new(BASE64.decode(base64.trim_end_matches('=')).ok()?);
    let cure = if PKey::private_key_from_der(&der).is_ok() {
        "'base64 -d FILE | openssl pkey -inform DER'"
    } else if PKey::public_key_from_der(&der).is_ok() {
        "'base64 -d FILE | openssl pkey -pubin -inform DER'"
    } else if Rsa::public_key_from_der_pkcs1(&der).is_ok() {
        "'base64 -d FILE | openssl rsa -RSAPublicKey_in -pubout -inform DER'"
    } else if X509::from_der(&der).is_ok() {
        "'base64 -d FILE | openssl x509 -inform DER -pubkey -noout'"
    } else if der.starts_with(&[0x30]) && der.len() > 60 {
        // An encrypted key, or a key of another kind.
        "'base64 -d FILE | openssl pkcs8 -topk8 -inform DER'"
    } else {
        return None;
    };
    Some(ImportError::WrappedDer(cure))
}

/// With or without padding, which was taken away.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The blocks, the parameters aside that OpenSSL writes before a SEC1 key. A block that does not end is one too.
fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut is_within = false;
    // A line may end with CR, LF or both (RFC 7468 section 3).
    let end = if text.contains('\n') { '\n' } else { '\r' };
    for line in text.split(end).map(str::trim) {
        let begins = line
            .strip_prefix("-----BEGIN ")
            .and_then(|rest| rest.strip_suffix("-----"));
        if let Some(label) = begins {
            // As large as the text, so that no copy of the key stays behind.
            let text = Zeroizing::new(String::with_capacity(text.len() + 1));
            blocks.push(Block { label, text });
            is_within = true;
        }
        let Some(block) = blocks.last_mut().filter(|_| is_within) else {
            continue;
        };
        // An empty line parts the headers of RFC 1421 from the key.
        let is_header_end = line.is_empty() && block.text.contains(':') && !block.text.ends_with("\n\n");
        if !line.is_empty() || is_header_end {
            block.text.push_str(line);
            block.text.push('\n');
        }
        is_within = !line.starts_with("-----END ");
    }
    blocks.retain(|block| !block.label.ends_with("PARAMETERS"));
    blocks
}

fn read_public(block: &Block<'_>) -> Result<PKey<Public>, ImportError> {
    let text = block.text.as_bytes();
    let key = if block.label == "PUBLIC KEY" {
        PKey::public_key_from_pem(text)
    } else {
        Rsa::public_key_from_pem_pkcs1(text).and_then(PKey::from_rsa)
    };
    key.map_err(|_| ImportError::Damaged)
}

fn open(block: &Block<'_>, passphrase: Passphrase<'_>) -> Result<PKey<Private>, ImportError> {
    let text = block.text.as_bytes();
    let is_encrypted = block.label.starts_with("ENCRYPTED") || block.text.contains("Proc-Type: 4,ENCRYPTED");
    // Without a passphrase OpenSSL would ask at the terminal by itself.
    let opened = match (is_encrypted, passphrase) {
        (false, _) => return PKey::private_key_from_pem_passphrase(text, b"").map_err(|_| ImportError::Damaged),
        (true, Passphrase::None) => return Err(old(block).unwrap_or(ImportError::PassphraseNeeded)),
        (true, Passphrase::Text(passphrase)) => PKey::private_key_from_pem_passphrase(text, passphrase.as_bytes()),
        (true, Passphrase::AskAtTerminal) => PKey::private_key_from_pem(text),
    };
    opened.map_err(|_| old(block).unwrap_or(ImportError::DoesNotOpen))
}

fn old(block: &Block<'_>) -> Option<ImportError> {
    old_encryption::find(&block.text).map(ImportError::OldEncryption)
}
