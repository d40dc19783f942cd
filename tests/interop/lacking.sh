#!/usr/bin/env bash
# Says that verifiers cannot be had: lacking.sh NAME... Fails unless TEST_WITHOUT_VERIFIERS (names, separated by commas) tells to go on
# without each of them.
set -euo pipefail

missing=()
for name in "$@"; do
    case ",${TEST_WITHOUT_VERIFIERS:-}," in
    *",$name,"*) echo "Keyround: going on without the verifier $name, as TEST_WITHOUT_VERIFIERS says" >&2 ;;
    *) missing+=("$name") ;;
    esac
done
if [ ${#missing[@]} -gt 0 ]; then
    names=$(IFS=, && echo "${missing[*]}")
    echo "Keyround: the verifiers $names cannot be had; what failed is above. To go on without them, set" \
        "TEST_WITHOUT_VERIFIERS=${TEST_WITHOUT_VERIFIERS:+$TEST_WITHOUT_VERIFIERS,}$names" >&2
    exit 1
fi
