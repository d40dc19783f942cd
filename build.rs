//! Migrations are embedded in the binary: a changed file must build it anew.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
