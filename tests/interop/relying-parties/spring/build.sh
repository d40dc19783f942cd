#!/usr/bin/env bash
# Fetches Spring Boot, compares it with its digests and compiles the relying party: build.sh FOLDER
set -euo pipefail

mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")"
rm -rf "$folder/lib" "$folder/classes" "$folder/ready"
mvn --batch-mode --quiet --strict-checksums -DoutputDirectory="$folder/lib" package
(cd "$folder/lib" && LC_ALL=C sha256sum -- *.jar) | diff - libraries.sha256
# -parameters: Spring reads the names of parameters.
javac -parameters -Xlint:all,-processing,-classfile -Werror -d "$folder/classes" -cp "$folder/lib/*" ./*.java
cp ./*.properties "$folder/classes/"
touch "$folder/ready"
