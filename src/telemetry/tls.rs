//! Metrics of the certificate of the public listener.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;

use crate::clock::UnixTime;

pub(super) type SecondsGauge = Gauge<f64, AtomicU64>;

/// What TLS of the public listener tells; clones count together.
#[derive(Clone, Default)]
pub struct TlsMetrics {
    pub(super) expiry: SecondsGauge,
    pub(super) refused: Gauge,
}

impl TlsMetrics {
    /// A certificate is served that expires then.
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit into the 52 bits")]
    pub fn served(&self, expires_at: UnixTime) {
        self.expiry.set(expires_at.0 as f64);
        self.refused.set(0);
    }

    /// What the files hold now is refused.
    pub fn refused(&self) {
        self.refused.set(1);
    }
}
