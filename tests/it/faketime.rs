//! Processes on a wall clock that is wrong, by libfaketime. Their monotonic clock stays true.

use std::path::{Path, PathBuf};

use crate::child::Process;
use crate::helpers::TestDatabase;
use crate::libfaketime::library;

/// A wall clock that is off by as much as its file says.
pub struct Wall(PathBuf);

impl Wall {
    pub fn new(database: &TestDatabase, name: &str, off_by: i64) -> Self {
        Self::within(database.folder.path(), name, off_by)
    }

    /// One whose file is in this folder.
    pub fn within(folder: &Path, name: &str, off_by: i64) -> Self {
        let wall = Self(folder.join(format!("{name}.clock")));
        wall.set(off_by);
        wall
    }

    /// Sets it, at once for every process that reads it.
    pub fn set(&self, off_by: i64) {
        let next = self.0.with_extension("next");
        std::fs::write(&next, format!("{off_by:+}\n")).unwrap();
        std::fs::rename(next, &self.0).unwrap();
    }

    /// What a process on this clock has in its environment.
    pub fn variables<'a>(&'a self, library: &'a Path) -> [(&'static str, &'a str); 5] {
        [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", self.0.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DISABLE_SHM", "1"),
        ]
    }

    /// Starts a server on this clock.
    pub fn spawn(&self, database: &TestDatabase, name: &str, settings: &[(&str, &str)]) -> Process {
        Process::spawn_in(database, name, settings, &self.variables(&library()))
    }
}
