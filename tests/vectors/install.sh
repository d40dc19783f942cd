#!/usr/bin/env bash
# Puts the public test vectors (Project Wycheproof) into a folder: tests/vectors/install.sh FOLDER GO_TOOLCHAIN
set -euo pipefail

folder=$1
export PATH=$2/bin:$PATH

module=$(cd "$(dirname "$0")" && go mod download -json github.com/C2SP/wycheproof | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
[ -d "$module/testvectors_v1" ] || { echo "tests/vectors/install.sh: the module has no testvectors_v1" >&2; exit 1; }
mkdir -p "$folder"
for name in json_web_key json_web_signature json_web_crypto ecdsa_secp256r1_sha256_p1363 \
    rsa_signature_2048_sha256 rsa_signature_3072_sha256 rsa_signature_4096_sha256; do
    install -m 0644 "$module/testvectors_v1/${name}_test.json" "$folder/$name.json"
done
