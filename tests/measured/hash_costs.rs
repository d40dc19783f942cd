//! What one core takes for a hash, beside the estimates that bound a refused login.

use keyround::accounts::password::Password;
use keyround::accounts::password_hash::{HashCost, Pbkdf2Digest};
use keyround::clock::Clock;
use keyround::crypto::keyed_hash::HashKey;

/// Prints the figures that the estimates of `password_hash::cost` are made from. Only a release build says something of the machine.
#[test]
fn what_one_core_takes() {
    let password = Password::try_from("a".to_owned()).unwrap();
    let of_pbkdf2 = Pbkdf2Digest::ALL.map(|digest| HashCost::Pbkdf2 {
        digest,
        rounds: 1_000_000,
    });
    let argon2 = |memory, passes| HashCost::Argon2 {
        is_id: true,
        memory,
        passes,
        lanes: 1,
    };
    let of_others = [
        HashCost::Bcrypt { cost: 12 },
        argon2(65_536, 3),
        argon2(19 * 1024, 2),
        HashCost::Scrypt { log_n: 15, r: 8, p: 1 },
        HashCost::Scrypt { log_n: 16, r: 8, p: 1 },
    ];
    let clock = Clock::system();
    for cost in of_pbkdf2.into_iter().chain(of_others) {
        let before = clock.read().monotonic;
        cost.spend(&password, &HashKey::from_bytes([7; 32])).unwrap();
        let took = clock.read().monotonic.saturating_sub(before);
        println!("{cost:?}: {took:?}, estimated {:?}", cost.estimate());
    }
}
