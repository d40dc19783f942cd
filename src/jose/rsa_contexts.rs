//! RSA by OpenSSL, with contexts that are used again: to set one up costs a sixth of a verification.
//!
//! The contexts belong to their key and go with it, so that no thread keeps a private half that was destroyed.

use std::sync::{Mutex, PoisonError};

use openssl::error::ErrorStack;
use openssl::md::Md;
use openssl::pkey::{HasPublic, PKey, Private, Public};
use openssl::pkey_ctx::{PkeyCtx, PkeyCtxRef};
use openssl::rsa::Padding;

use crate::crypto::sha256;

/// An RSA key for RS256 (RFC 7518 section 3.3), with the contexts that wait for the next message.
pub(super) struct RsaContexts<T> {
    key: PKey<T>,
    digest: Md,
    idle: Mutex<Vec<PkeyCtx<T>>>,
}

impl<T: HasPublic> RsaContexts<T> {
    pub(super) fn new(key: PKey<T>) -> Result<Self, ErrorStack> {
        Ok(Self {
            key,
            // OpenSSL 3 looks a digest up by name wherever it is not brought.
            digest: Md::fetch(None, "SHA2-256", None)?,
            idle: Mutex::default(),
        })
    }

    pub(super) const fn key(&self) -> &PKey<T> {
        &self.key
    }

    /// One that waits, or a new one.
    fn take(&self, init: impl FnOnce(&mut PkeyCtxRef<T>) -> Result<(), ErrorStack>) -> Result<PkeyCtx<T>, ErrorStack> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(context) = idle {
            return Ok(context);
        }
        let mut context = PkeyCtx::new(&self.key)?;
        init(&mut context)?;
        context.set_rsa_padding(Padding::PKCS1)?;
        context.set_signature_md(&self.digest)?;
        Ok(context)
    }

    /// Only one that has just done what it should: nothing of a failure is carried on.
    fn give_back(&self, context: PkeyCtx<T>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(context);
    }
}

impl RsaContexts<Private> {
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let mut context = self.take(PkeyCtxRef::sign_init)?;
        let mut signature = vec![0; self.key.size()];
        let length = context.sign(&sha256(message), Some(&mut signature))?;
        signature.truncate(length);
        self.give_back(context);
        Ok(signature)
    }
}

impl RsaContexts<Public> {
    /// Whether the signature, of exactly the modulus' length (RFC 8017 section 8.2.2), is this key's.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
        if signature.len() != self.key.size() {
            return Ok(false);
        }
        let mut context = self.take(PkeyCtxRef::verify_init)?;
        let verified = context.verify(&sha256(message), signature)?;
        if verified {
            self.give_back(context);
        }
        Ok(verified)
    }
}
