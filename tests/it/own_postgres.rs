//! A PostgreSQL of one test's own, for what would disturb the one that all share: full disks, limits, refused connections, stops.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyround::clock::sleep;
use sqlx::{AssertSqlSafe, PgPool};
use tempfile::TempDir;

use crate::ports::free_port;

/// A server that runs, with a file system of 24 MiB in a mount namespace of its own.
pub struct OwnPostgres {
    folder: TempDir,
    port: u16,
    server: Child,
}

/// The programs of the newest server that is installed.
fn programs() -> PathBuf {
    if Path::new("/usr/lib/postgresql").exists() {
        let versions = std::fs::read_dir("/usr/lib/postgresql").unwrap();
        let versions = versions.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
        let newest = versions
            .filter(|version| Path::new(&format!("/usr/lib/postgresql/{version}/bin/initdb")).exists())
            .max();
        if let Some(newest) = newest {
            return format!("/usr/lib/postgresql/{newest}/bin").into();
        }
    }
    let paths = std::env::split_paths(env!("PATH")).find(|folder| folder.join("initdb").exists());
    paths.expect("no PostgreSQL server is installed")
}

/// In a name space where this user is `daemon`: PostgreSQL does not run as root, and asks for the name of its user.
const AS_DAEMON: [&str; 4] = ["unshare", "--user", "--map-user=daemon", "--map-group=daemon"];

impl OwnPostgres {
    /// Starts it; these lines of `pg_hba.conf` come before the one that admits everybody else to the loopback address.
    pub async fn start(admission: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let [unshare, arguments @ ..] = AS_DAEMON;
        let made = Command::new(unshare)
            .args(arguments)
            .arg(programs().join("initdb"))
            .arg("-D")
            .arg(&data)
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            ])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::write(
            data.join("pg_hba.conf"),
            format!("{admission}host all postgres 127.0.0.1/32 trust\n"),
        )
        .unwrap();
        std::fs::create_dir(folder.path().join("disk")).unwrap();
        let port = free_port();
        let mut own = Self {
            server: launch(folder.path(), port),
            folder,
            port,
        };
        own.until_it_answers().await;
        own
    }

    /// Starts it again on its port, after it was stopped.
    pub async fn start_again(&mut self) {
        self.server.wait().unwrap();
        self.server = launch(self.folder.path(), self.port);
        self.until_it_answers().await;
    }

    async fn until_it_answers(&mut self) {
        for _ in 0..600 {
            if PgPool::connect(&self.url("postgres", "postgres")).await.is_ok() {
                return;
            }
            assert_eq!(self.server.try_wait().unwrap(), None, "{}", self.log());
            sleep(Duration::from_millis(50)).await;
        }
        panic!("it does not start: {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database of this server; `user` may hold a password.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// An empty folder on the small file system, as the server sees it.
    pub fn small_folder(&self) -> String {
        self.folder.path().join("disk/space").display().to_string()
    }

    /// Runs statements as the superuser, each in a transaction of its own.
    pub async fn run(&self, database: &str, statements: &[&str]) -> Result<(), sqlx::Error> {
        let pool = PgPool::connect(&self.url("postgres", database)).await?;
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe((*statement).to_owned()))
                .execute(&pool)
                .await?;
        }
        pool.close().await;
        Ok(())
    }

    /// Sends a signal: `TERM` waits for connections to end, `INT` ends them.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.server.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }
}

fn launch(folder: &Path, port: u16) -> Child {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let script = "mount -t tmpfs -o size=24m tmpfs \"$0\" && mkdir \"$0/space\" && exec \"$@\"";
    Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(folder.join("disk"))
        .args(AS_DAEMON)
        .arg(programs().join("postgres"))
        .arg("-D")
        .arg(folder.join("data"))
        .args(["-c", &format!("port={port}"), "-c", "listen_addresses=127.0.0.1"])
        .args([
            "-c",
            "unix_socket_directories=",
            "-c",
            "fsync=off",
            "-c",
            "max_connections=60",
        ])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        // At once, with all its processes.
        self.signal("QUIT");
        let _ = self.server.wait();
    }
}
