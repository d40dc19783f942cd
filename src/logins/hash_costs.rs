//! What the stored hashes of passwords cost to check, as this node knows it.
//!
//! Every wrong password costs the same, whatever its account has stored and whether there is one: the check of the stored hash, and
//! then everything that another account's hash would cost more, at most [`MAX_REFUSED_LOGIN`]. The other way, to give each unknown address the cost of some stored
//! hash, costs less while costs are mixed, but a caller who knows that a person logs in often knows which cost to expect.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::accounts::password_hash::{HashCost, HashParameters, MAX_REFUSED_LOGIN};
use crate::clock::Seconds;
use crate::store::{Db, StoreError};

/// How often the costs are read again. A cost that is new is learnt when a login meets it.
pub const RENEW_PERIOD: Seconds = Seconds(3_600);

/// How long one reading may take.
pub const RENEW_TIMEOUT: Seconds = Seconds(60);

/// The costs that a wrong password is charged with.
pub struct HashCosts {
    current: ArcSwap<BTreeSet<HashCost>>,
}

impl HashCosts {
    /// The cost of new passwords alone, until the stored ones are read.
    #[must_use]
    pub fn new(parameters: HashParameters) -> Self {
        Self {
            current: ArcSwap::from_pointee(BTreeSet::from([parameters.cost()])),
        }
    }

    /// All costs.
    #[must_use]
    pub fn current(&self) -> Arc<BTreeSet<HashCost>> {
        self.current.load_full()
    }

    /// Adds the cost of a hash that a login met.
    pub fn learn(&self, cost: HashCost) {
        if !self.current.load().contains(&cost) {
            self.current.rcu(|known| {
                let mut known = BTreeSet::clone(known);
                known.insert(cost);
                known
            });
        }
    }

    /// Reads the costs of all stored hashes, as many steps as there are costs.
    ///
    /// # Errors
    /// When the database does not answer; what was known stays.
    pub async fn renew(&self, db: &Db, parameters: HashParameters) -> Result<(), StoreError> {
        let mut costs = db.password_hash_costs().await?;
        costs.insert(parameters.cost());
        let unbounded = HashCost::of_refused_login(&costs);
        if unbounded > MAX_REFUSED_LOGIN {
            tracing::warn!(
                kinds = costs.len(),
                "the stored hashes of passwords are of so many costly kinds that a wrong password would take {unbounded:?} to hide \
                 which of them it met; it takes {MAX_REFUSED_LOGIN:?}, of which a part is an estimate. Each login replaces one of these \
                 hashes; so does 'keyround users set-password'"
            );
        }
        self.current.store(Arc::new(costs));
        Ok(())
    }
}
