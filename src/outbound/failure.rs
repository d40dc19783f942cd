//! Why something was not fetched, in words with which an operator can fix it.

use std::error::Error;
use std::fmt::Write as _;
use std::io;

/// Why a document was not fetched. No variant holds anything that came from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// It lies in a network that is not everybody's.
    #[error(
        "its host has an address in a private or reserved network; if that network is yours, name it in outbound.allowed_networks"
    )]
    AddressNotAllowed,
    /// DNS.
    #[error("its host name cannot be resolved by DNS")]
    NotResolved,
    /// TCP, by a reset.
    #[error("its host refused the connection: nothing listens on this port")]
    ConnectionRefused,
    /// TCP, by the network.
    #[error("its host cannot be reached by the network")]
    NoRoute,
    /// No connection in time.
    #[error("no connection to its host was made within 2 seconds")]
    ConnectTimeout,
    /// A certificate of another authority.
    #[error(
        "its certificate is not signed by an authority that is trusted; if the authority is yours, name its certificate in outbound.ca_file"
    )]
    UntrustedCertificate,
    /// A certificate of another host.
    #[error("its certificate is for another host name")]
    CertificateName,
    /// A certificate of another time.
    #[error("its certificate has expired, or is not valid yet; look at its certificate and at the clock here")]
    CertificateTime,
    /// Any other fault of the certificate.
    #[error("its certificate is not valid")]
    Certificate,
    /// No TLS.
    #[error("no TLS connection was made: its host does not speak TLS on this port, or not TLS 1.2 or 1.3")]
    Tls,
    /// No HTTP.
    #[error("its answer broke off, or is not HTTP")]
    Broken,
    /// Anything else.
    #[error("it cannot be reached over https")]
    Unreachable,
    /// It took too long.
    #[error("it took longer than 5 seconds")]
    TooSlow,
    /// It answered with something else.
    #[error("it answered with a status that is not 200; redirects are not followed")]
    Status,
    /// It is too long.
    #[error("it is longer than 64 KiB")]
    TooLong,
    /// Compressed in another way, or damaged.
    #[error("its Content-Encoding is not gzip or deflate, which were asked for, or its body is not so encoded")]
    Encoding,
}

/// Why the resolver gives no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAddress {
    #[error("an address in a private or reserved network")]
    NotAllowed,
    #[error("the name cannot be resolved")]
    NotResolved,
}

/// The reason that an error of the client stands for.
pub(super) fn reason(error: &reqwest::Error) -> FetchError {
    let chain = || std::iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source());
    match chain().find_map(|cause| cause.downcast_ref::<NoAddress>()) {
        Some(NoAddress::NotAllowed) => return FetchError::AddressNotAllowed,
        Some(NoAddress::NotResolved) => return FetchError::NotResolved,
        None => {}
    }
    let kind = chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => FetchError::ConnectTimeout,
        (false, true) => FetchError::TooSlow,
        (true, false) => match kind {
            Some(io::ErrorKind::ConnectionRefused) => FetchError::ConnectionRefused,
            Some(
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable,
            ) => FetchError::NoRoute,
            _ => of_handshake(chain()),
        },
        (false, false) if error.is_builder() => FetchError::Unreachable,
        (false, false) => FetchError::Broken,
    }
}

/// The TLS library tells in words alone which check of a certificate failed.
fn of_handshake<'e>(chain: impl Iterator<Item = &'e (dyn Error + 'static)>) -> FetchError {
    let text = chain.fold(String::new(), |mut text, cause| {
        let _ = write!(text, "{cause} ");
        text
    });
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if !says(&["certificate verify failed"]) {
        FetchError::Tls
    } else if says(&[
        "issuer certificate",
        "self-signed",
        "self signed",
        "verify the first certificate",
    ]) {
        FetchError::UntrustedCertificate
    } else if says(&["ostname mismatch", "IP address mismatch"]) {
        FetchError::CertificateName
    } else if says(&["has expired", "not yet valid"]) {
        FetchError::CertificateTime
    } else {
        FetchError::Certificate
    }
}
