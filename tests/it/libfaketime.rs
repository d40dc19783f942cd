//! The library that lies about the time to a process.

use std::path::PathBuf;

/// Where `tests/packages.sh` or Debian put it.
pub fn library() -> PathBuf {
    let roots = [concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/usr/lib"), "/usr/lib"];
    roots
        .iter()
        .filter_map(|root| std::fs::read_dir(root).ok())
        .flatten()
        .map(|folder| folder.unwrap().path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .expect("libfaketime is missing: run tests/packages.sh tools")
}
