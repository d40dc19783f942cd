//! The primes of an RSA key of which only `n`, `e` and `d` are stated (RFC 7518 section 6.3.2 requires no more).

use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::error::ErrorStack;

/// How many bases are tried. For a product of two primes each fails with a chance of at most one half.
const BASES: [u32; 40] = [
    2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173,
];

/// What makes an RSA key quick (RFC 8017 section 3.2).
pub(super) struct Factors {
    /// The larger prime.
    pub p: BigNum,
    /// The other one.
    pub q: BigNum,
    /// `d` modulo `p - 1`.
    pub dp: BigNum,
    /// `d` modulo `q - 1`.
    pub dq: BigNum,
    /// The inverse of `q` modulo `p`.
    pub qi: BigNum,
}

/// Finds the primes (NIST SP 800-56B revision 2, appendix C.1); none when the numbers do not belong together. `n` must be odd and bounded
/// by the caller. Numbers that do not belong together cost one exponentiation, others one for each base at the worst.
pub(super) fn recover(n: &BigNumRef, e: &BigNumRef, d: &BigNumRef) -> Result<Option<Factors>, ErrorStack> {
    if d.num_bits() == 0 || d.is_negative() || d >= n {
        return Ok(None);
    }
    let mut context = BigNumContext::new_secure()?;
    let one = BigNum::from_u32(1)?;
    // The order of every base divides this.
    let mut exponent = BigNum::new()?;
    exponent.checked_mul(e, d, &mut context)?;
    exponent.sub_word(1)?;
    let mut halvings = 0;
    while exponent.num_bits() > 0 && !exponent.is_bit_set(halvings) {
        halvings += 1;
    }
    if halvings == 0 {
        return Ok(None);
    }
    let mut odd = BigNum::new()?;
    odd.rshift(&exponent, halvings)?;
    for base in BASES {
        let (mut root, mut square) = (BigNum::new()?, BigNum::new()?);
        root.mod_exp(&*BigNum::from_u32(base)?, &odd, n, &mut context)?;
        for _ in 0..halvings {
            square.mod_sqr(&root, n, &mut context)?;
            if square == one {
                break;
            }
            std::mem::swap(&mut root, &mut square);
        }
        // Whatever the base, the last square is 1 if the numbers belong together.
        if square != one {
            return Ok(None);
        }
        let mut next = root.to_owned()?;
        next.add_word(1)?;
        // A root of 1 that is neither 1 nor -1 tells the primes apart.
        if root == one || *next == *n {
            continue;
        }
        root.sub_word(1)?;
        return factors(n, d, &root, &mut context);
    }
    Ok(None)
}

fn factors(
    n: &BigNumRef,
    d: &BigNumRef,
    multiple: &BigNumRef,
    context: &mut BigNumContext,
) -> Result<Option<Factors>, ErrorStack> {
    let [mut p, mut q, mut rest] = [BigNum::new()?, BigNum::new()?, BigNum::new()?];
    p.gcd(multiple, n, context)?;
    q.div_rem(&mut rest, n, &p, context)?;
    if rest.num_bits() > 0 || p.num_bits() < 2 || q.num_bits() < 2 {
        return Ok(None);
    }
    if p < q {
        std::mem::swap(&mut p, &mut q);
    }
    let less_one = |prime: &BigNumRef| {
        let mut number = prime.to_owned()?;
        number.sub_word(1)?;
        Ok::<_, ErrorStack>(number)
    };
    let [mut dp, mut dq, mut qi] = [BigNum::new()?, BigNum::new()?, BigNum::new()?];
    dp.nnmod(d, &*less_one(&p)?, context)?;
    dq.nnmod(d, &*less_one(&q)?, context)?;
    // Equal primes have no inverse.
    if qi.mod_inverse(&q, &p, context).is_err() {
        return Ok(None);
    }
    Ok(Some(Factors { p, q, dp, dq, qi }))
}
