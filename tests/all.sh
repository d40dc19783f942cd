#!/usr/bin/env bash
# Runs every test: tests/all.sh, with a PostgreSQL in TEST_POSTGRES_URL. The verifiers wait for rotations most of their time, so they run beside
# the others; what they printed follows at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo test --locked --no-run
cargo test --locked --no-run --test interop

# No test asks a server beyond this machine. A client that reads the certificates of all authorities takes as much time for that as half of a
# test, and most tests make several clients.
export SSL_CERT_FILE=/dev/null

log=target/interop.log
cargo test --locked --test interop >"$log" 2>&1 &
verifiers=$!

failed=()
cargo test --locked --no-fail-fast --lib --bins || failed+=("the tests beside the code")
cargo test --locked --test it || failed+=("tests/it")
cargo test --locked --no-fail-fast --test proof --test simulation || failed+=("tests/proof or tests/simulation")
cargo test --locked --doc || failed+=("the examples in the documentation")
wait "$verifiers" || failed+=("the verifiers")
cat "$log"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'tests/all.sh: FAILED: %s\n' "${failed[@]}" >&2
    exit 1
fi
