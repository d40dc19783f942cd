//! One test a rule: without it, the simulation finds a violation.
