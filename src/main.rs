//! The binary `keyround`.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyround::cli::run()
}
