//! How a key is encrypted, when OpenSSL does not open it: algorithms that it gave up look like a wrong passphrase otherwise.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use openssl::cipher::Cipher;

/// Object identifiers in DER, of what the default provider of OpenSSL 3 lacks.
const OLD: [(&[u8], &str); 11] = [
    // 1.2.840.113549.1.5 (RFC 8018 appendix A.3).
    (b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x01", "PBE-MD2-DES"),
    (b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x03", "PBE-MD5-DES"),
    (b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x04", "PBE-MD2-RC2-64"),
    (b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x06", "PBE-MD5-RC2-64"),
    (b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0a", "PBE-SHA1-DES"),
    (b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0b", "PBE-SHA1-RC2-64"),
    // 1.2.840.113549.1.12.1 (RFC 7292 appendix C).
    (b"\x06\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01\x01", "PBE-SHA1-RC4-128"),
    (b"\x06\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01\x02", "PBE-SHA1-RC4-40"),
    (b"\x06\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01\x05", "PBE-SHA1-RC2-128"),
    (b"\x06\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01\x06", "PBE-SHA1-RC2-40"),
    // 1.2.840.113549.3.2, within PBES2.
    (b"\x06\x08\x2a\x86\x48\x86\xf7\x0d\x03\x02", "RC2-CBC"),
];

/// DES within PBES2: 1.3.14.3.2.7.
const DES: (&[u8], &str) = (b"\x06\x05\x2b\x0e\x03\x02\x07", "DES-CBC");

/// The algorithm, if OpenSSL does not have it.
pub(super) fn find(block: &str) -> Option<String> {
    let header = block.lines().find_map(|line| line.strip_prefix("DEK-Info:"));
    if let Some(header) = header {
        let name = header.split(',').next().unwrap_or_default().trim();
        // A name of RFC 1421 has no other characters.
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        return (is_name && Cipher::fetch(None, name, None).is_err()).then(|| name.to_owned());
    }
    let body: String = block.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = BASE64.decode(body).ok()?;
    // The algorithm stands before the encrypted key.
    let algorithm = der.get(..der.len().min(160))?;
    OLD.iter()
        .chain([&DES])
        .find(|(oid, _)| algorithm.windows(oid.len()).any(|window| window == *oid))
        .map(|(_, name)| (*name).to_owned())
}
