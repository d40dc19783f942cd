#!/usr/bin/env bash
# Builds oauth2-proxy from its sources, which go.sum compares with their digests: build.sh PROGRAM GO_TOOLCHAIN
set -euo pipefail

program=$PWD/$1
mkdir -p "$(dirname "$program")"
# A toolchain is there if the machine has none that is new enough.
if [ -d "$2" ]; then
    export GOROOT=$2 PATH=$2/bin:$PATH
fi
cd "$(dirname "$0")"
go build -mod=readonly -o "$program" github.com/oauth2-proxy/oauth2-proxy/v7
