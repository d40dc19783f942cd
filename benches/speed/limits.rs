//! What OpenSSL takes for one signature and one verification, in the cheapest way that it offers: keys parsed, digests
//! known, contexts used again.

use std::hint::black_box;

use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::md::Md;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::Rsa;
use serde::{Deserialize, Serialize};

use crate::machine::seconds_on_core;

/// For how many seconds each is done.
const EACH: f64 = 0.5;

const DIGEST: [u8; 32] = [7; 32];

/// Microseconds that each takes.
#[derive(Clone, Copy, Deserialize, Serialize)]
pub struct Limits {
    pub rs256_signature: f64,
    pub es256_signature: f64,
    pub rs256_verification: f64,
    pub es256_verification: f64,
}

impl Limits {
    pub fn measure() -> Self {
        let rsa = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let digest = Md::fetch(None, "SHA2-256", None).unwrap();
        let mut signature = vec![0; 256];
        let mut signing = PkeyCtx::new(&rsa).unwrap();
        signing.sign_init().unwrap();
        signing.set_signature_md(&digest).unwrap();
        let rs256_signature = microseconds(|| {
            signing.sign(black_box(&DIGEST), Some(&mut signature)).unwrap();
        });
        let mut verifying = PkeyCtx::new(&rsa).unwrap();
        verifying.verify_init().unwrap();
        verifying.set_signature_md(&digest).unwrap();
        let rs256_verification = microseconds(|| {
            assert!(verifying.verify(black_box(&DIGEST), &signature).unwrap());
        });
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let p256 = EcKey::generate(&group).unwrap();
        let pair = EcdsaSig::sign(&DIGEST, &p256).unwrap();
        Self {
            rs256_signature,
            es256_signature: microseconds(|| {
                black_box(EcdsaSig::sign(black_box(&DIGEST), &p256).unwrap());
            }),
            rs256_verification,
            es256_verification: microseconds(|| assert!(pair.verify(black_box(&DIGEST), &p256).unwrap())),
        }
    }
}

impl Limits {
    /// Between two measurements.
    pub fn mean(&self, other: &Self) -> Self {
        let mean = |of: fn(&Self) -> f64| f64::midpoint(of(self), of(other));
        Self {
            rs256_signature: mean(|limits| limits.rs256_signature),
            es256_signature: mean(|limits| limits.es256_signature),
            rs256_verification: mean(|limits| limits.rs256_verification),
            es256_verification: mean(|limits| limits.es256_verification),
        }
    }
}

/// Of the processor's time, as the servers are measured.
fn microseconds(mut call: impl FnMut()) -> f64 {
    let taken = || seconds_on_core(std::process::id());
    let started = taken();
    let mut calls = 0.0;
    while taken() - started < EACH {
        for _ in 0..100 {
            call();
        }
        calls += 100.0;
    }
    (taken() - started) * 1e6 / calls
}
