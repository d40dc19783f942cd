#!/usr/bin/env bash
# Builds the version before this one and runs a command with its binary in KEYROUND_BEFORE: tests/before.sh COMMAND...
# KEYROUND_BEFORE_COMMIT names another commit than the last one that knew no login sessions (schema 31). A binary that is
# given in KEYROUND_BEFORE already is used as it is.
set -euo pipefail

[ $# -gt 0 ] || { echo "tests/before.sh: say which command to run, as in: tests/before.sh cargo test --test upgrade" >&2; exit 1; }

if [ -z "${KEYROUND_BEFORE:-}" ]; then
    commit=${KEYROUND_BEFORE_COMMIT:-ce9a585e7e0e6616b39dc8fd529ad5e2bd0f2901}
    folder=$PWD/target/before
    mkdir -p "$folder/source"
    git archive "$commit" | tar -x -C "$folder/source"
    cargo build --locked --bin keyround --manifest-path "$folder/source/Cargo.toml" --target-dir "$folder/target"
    export KEYROUND_BEFORE=$folder/target/debug/keyround
fi
exec "$@"
