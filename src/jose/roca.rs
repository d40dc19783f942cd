//! The fingerprint of RSA keys whose primes were made by a faulty library (ROCA, CVE-2017-15361): the private half follows from the
//! public one.
//!
//! Each prime of such a key is `k * M + 65537^a mod M`, where `M` is a product of small primes. So the modulus of the key is a power of
//! 65537 modulo each of these primes (Nemec, Sys, Svenda, Klinec, Matyas: "The Return of Coppersmith's Attack", ACM CCS 2017, section
//! 2.3.1). Of other keys about one in 2^27 is too.

/// The primes that the fingerprint is taken with.
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Whether a modulus, most significant octet first, has the fingerprint.
#[must_use]
pub fn has_fingerprint(modulus: &[u8]) -> bool {
    PRIMES.iter().all(|&prime| {
        let residue = modulus
            .iter()
            .fold(0, |residue, &octet| (residue * 256 + u32::from(octet)) % prime);
        powers_of_generator(prime).any(|power| power == residue)
    })
}

/// The powers of 65537 modulo a prime, from the first until they repeat.
fn powers_of_generator(prime: u32) -> impl Iterator<Item = u32> {
    let generator = 65_537 % prime;
    let next = move |power: &u32| Some(power * generator % prime).filter(|power| *power != 1);
    std::iter::successors(Some(1), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_powers_are_a_subgroup() {
        assert_eq!(powers_of_generator(3).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(powers_of_generator(11).collect::<Vec<_>>(), [1, 10]);
        assert_eq!(powers_of_generator(17).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 15, 13, 9]);
        for prime in PRIMES {
            let powers: Vec<u32> = powers_of_generator(prime).collect();
            assert!(
                !powers.contains(&0) && (prime - 1).is_multiple_of(u32::try_from(powers.len()).unwrap()),
                "{prime}"
            );
        }
    }
}
