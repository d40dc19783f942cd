//! The versions of the services: what their lock files or their packages say.

use std::path::Path;
use std::process::Command;

/// Where a version stands.
#[derive(Debug)]
pub enum Version {
    /// In this package of `node_modules`.
    Npm(&'static str),
    /// In `pom.xml`.
    SpringBoot,
    /// In that of the relying party.
    SpringBootLogin,
    /// In `go.mod`.
    Keyfunc,
    /// Known to the system's packages.
    ModAuthOpenidc,
}

impl Version {
    /// The version.
    pub fn read(&self) -> String {
        match self {
            Self::Npm(package) => {
                let manifest = file(&format!("javascript/node_modules/{package}/package.json"));
                let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
                manifest["version"].as_str().unwrap().to_owned()
            }
            Self::SpringBoot => spring_boot("spring/pom.xml"),
            Self::SpringBootLogin => spring_boot("relying-parties/spring/pom.xml"),
            Self::Keyfunc => between(&file("go/go.mod"), "github.com/MicahParks/keyfunc/v3 v", "\n"),
            Self::ModAuthOpenidc => {
                let ask = ["-W", "-f", "${Version}", "libapache2-mod-auth-openidc"];
                let output = Command::new("dpkg-query").args(ask).output().unwrap();
                String::from_utf8(output.stdout).unwrap()
            }
        }
    }
}

fn spring_boot(pom: &str) -> String {
    let before = "spring-boot-dependencies</artifactId>\n        <version>";
    between(&file(pom), before, "<")
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn between(text: &str, before: &str, after: &str) -> String {
    let (_, rest) = text.split_once(before).unwrap();
    rest.split_once(after).unwrap().0.to_owned()
}
