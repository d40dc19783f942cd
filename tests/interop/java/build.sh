#!/usr/bin/env bash
# Fetches the library, holds it against its digest and compiles the verifier: build.sh FOLDER
set -euo pipefail

mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")"
rm -rf "$folder/lib" "$folder/classes" "$folder/ready"
mvn --batch-mode --quiet --strict-checksums -DoutputDirectory="$folder/lib" package
(cd "$folder/lib" && sha256sum --quiet --check) <libraries.sha256
javac -Xlint:all -Werror -d "$folder/classes" -cp "$folder/lib/*" ./*.java
touch "$folder/ready"
