#!/usr/bin/env bash
# Says that a verifier cannot be had, and fails unless TEST_WITHOUT_VERIFIERS (names, separated by commas) tells to go on.
set -euo pipefail

name=$1
case ",${TEST_WITHOUT_VERIFIERS:-}," in
*",$name,"*) echo "Keyround: going on without the verifier $name, as TEST_WITHOUT_VERIFIERS says" >&2 ;;
*)
    echo "Keyround: the verifier $name cannot be had; what failed is above. To go on without it, set" \
        "TEST_WITHOUT_VERIFIERS=${TEST_WITHOUT_VERIFIERS:+$TEST_WITHOUT_VERIFIERS,}$name" >&2
    exit 1
    ;;
esac
