#!/bin/sh
# The steps of deploy/Dockerfile, so that they can be run without a container engine: deploy/build.sh build|install ROOT
set -eu

step=$1
root=$2

case $step in
# Compiles the program into ROOT/keyround. PROFILE is "release" unless said otherwise.
build)
    profile=${PROFILE:-release}
    if [ "$profile" = dev ]; then folder=debug; else folder=$profile; fi
    cargo build --locked --profile "$profile"
    mkdir -p "$root"
    cp "${CARGO_TARGET_DIR:-target}/$folder/keyround" "$root/keyround"
    ;;
# Makes what the program needs below ROOT ("/" in the image): a user without a shell or a password, and folders of its own.
install)
    state=$root/var/lib/keyround
    mkdir -p "$root/etc" "$state/data" "$state/keys" "$state/ledger"
    grep -q '^keyround:' "$root/etc/passwd" 2>/dev/null ||
        echo 'keyround:x:10001:10001::/var/lib/keyround:/usr/sbin/nologin' >>"$root/etc/passwd"
    grep -q '^keyround:' "$root/etc/group" 2>/dev/null || echo 'keyround:x:10001:' >>"$root/etc/group"
    chmod 0700 "$state" "$state/data" "$state/keys" "$state/ledger"
    chown -R 10001:10001 "$state"
    ;;
*)
    echo "deploy/build.sh: there is no step '$step'; say build or install" >&2
    exit 2
    ;;
esac
