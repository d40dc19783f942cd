//! What the stored hashes of passwords cost to check.
//!
//! Every wrong password costs the same, whatever its account has stored and whether there is one: the check of the stored hash, and
//! then everything that another account's hash would cost more, at most [`MAX_REFUSED_LOGIN`]. The other way, to give each unknown address the cost of some stored
//! hash, costs less while costs are mixed, but a caller who knows that a person logs in often knows which cost to expect.
//!
//! Each login reads the costs again, after its account: a cost that a node learnt only when a login met it would make the first
//! wrong password for that account take longer than one for no account.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::accounts::password_hash::{HashCost, HashParameters, MAX_REFUSED_LOGIN, StoredCosts};
use crate::store::{Db, outage};

/// The costs that a wrong password is charged with.
#[derive(Default)]
pub struct HashCosts {
    /// Whether they were beyond the bound at the last look.
    is_beyond: AtomicBool,
}

impl HashCosts {
    /// The costs of all stored hashes and of new ones, as many steps in an index as there are costs. A login goes on without them: the
    /// account was read, so that the database may be well but for this query.
    pub async fn read(&self, db: &Db, parameters: HashParameters) -> StoredCosts {
        let mut costs = match db.password_hash_costs().await {
            Ok(costs) => costs,
            Err(error) => {
                outage::report(
                    "the costs of the stored hashes of passwords could not be read, so that a wrong password takes the longest time",
                    &error,
                );
                return StoredCosts::Unknown;
            }
        };
        costs.insert(parameters.cost());
        let unbounded = HashCost::of_refused_login(&costs);
        let is_beyond = unbounded > MAX_REFUSED_LOGIN;
        let was_beyond = self.is_beyond.swap(is_beyond, Ordering::Relaxed);
        if is_beyond && !was_beyond {
            tracing::warn!(
                kinds = costs.len(),
                "the stored hashes of passwords are of so many costly kinds that a wrong password would take {unbounded:?} to hide \
                 which of them it met; it takes {MAX_REFUSED_LOGIN:?}, of which a part is an estimate. Each login replaces one of these \
                 hashes; so does 'keyround users set-password'"
            );
        }
        StoredCosts::Known(costs)
    }
}
