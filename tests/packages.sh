#!/usr/bin/env bash
# Installs the system packages that are missing:
# tests/packages.sh [build] [postgres] [node] [python] [tools] [browser] [java] [apache] [bench] [failover]
# Asks for nothing when nothing is missing; says what to install when it cannot.
set -euo pipefail

fail() {
    echo "Keyround: $*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

missing=()
need() { missing+=("$@"); }

check_build() {
    have cargo || fail "cargo is missing: install a Rust toolchain (https://rustup.rs), 1.94 or newer"
    have cc || need gcc libc6-dev
    have pkg-config || need pkg-config
    # Without pkg-config nobody can say whether OpenSSL's headers are there.
    { have pkg-config && pkg-config --exists 'openssl >= 1.1.1'; } || need libssl-dev
    have curl || need curl
    [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] || [ -e /etc/ssl/cert.pem ] ||
        need ca-certificates
}

check_postgres() {
    have initdb && have postgres && have pg_ctl && return
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need postgresql
}

check_node() {
    have npm || need npm
    have node || { need nodejs; return; }
    node -e 'const [major, minor] = process.versions.node.split("."); process.exit(major * 100 + +minor < 2019 ? 1 : 0)' ||
        fail "node is older than 20.19, which the verifier libraries need: install a newer one"
}

check_python() {
    have python3 || { need python3 python3-venv; return; }
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "python3 is older than 3.10: install a newer one"
    # Debian packs these two apart; a venv without pip helps nobody.
    python3 -c 'import venv, ensurepip' 2>/dev/null || need python3-venv
}

check_java() {
    have mvn || need maven
    have javac || { need default-jdk-headless; return; }
    [ "$(javac -version 2>&1 | sed 's/^javac \([0-9]*\).*/\1/')" -ge 17 ] ||
        fail "javac is older than 17, which the verifier needs: install a newer JDK"
}

# Not the package apache2, which Debian would start as a service.
check_apache() {
    [ -x /usr/sbin/apache2 ] || need apache2-bin
    [ -e /usr/lib/apache2/modules/mod_auth_openidc.so ] || need libapache2-mod-auth-openidc
}

check_tools() {
    have curl || need curl
    have openssl || need openssl
    have systemd-analyze || need systemd
    { have unshare && have setpriv; } || need util-linux
    have ip || [ -x /usr/sbin/ip ] || need iproute2
    # The shell has one of its own; the tests need the program.
    type -P kill >/dev/null || need procps
}

check_bench() {
    have taskset || need util-linux
}

# Patroni, etcd and HAProxy themselves are unpacked: see `finish`.
check_failover() {
    local package
    [ -x /usr/bin/python3 ] || need python3
    for package in psycopg2 etcd yaml dateutil click prettytable psutil urllib3 cdiff; do
        dpkg -s "python3-$package" >/dev/null 2>&1 || need "python3-$package"
    done
    for package in liblua5.3-0 libopentracing-c-wrapper0; do
        dpkg -s "$package" >/dev/null 2>&1 || need "$package"
    done
    type -P pgrep >/dev/null || need procps
}

check_browser() {
    have chromium || need chromium
    # Of the same release as the browser, because of the same source.
    have chromedriver || need chromium-driver
}

# Unpacked into target/tools, not installed: Debian would start each of them as a service. A program and its package, or the file of a
# library and its package.
unpack() {
    local program=$1 package=$2 found
    if have "$program" || [ -x "/usr/sbin/$program" ]; then return; fi
    for found in target/tools/usr/*/"$program" {target/tools,}/usr/lib/*/"$program"; do
        if [ -e "$found" ]; then return; fi
    done
    have apt-get || fail "this machine has no apt-get; install by hand what Debian calls: $package"
    mkdir -p target/tools
    if ! (cd target/tools && apt-get download -qq "$package" >&2); then
        refresh
        (cd target/tools && apt-get download -qq "$package" >&2) || fail "apt-get could not download: $package"
    fi
    dpkg -x target/tools/"$package"_*.deb target/tools
}

finish() {
    local part
    for part in "$@"; do
        if [ "$part" = tools ]; then
            unpack promtool prometheus
            unpack nginx nginx
            unpack sslscan sslscan
            unpack caddy caddy
            unpack haproxy haproxy
            unpack liblua5.3.so.0 liblua5.3-0
            unpack libopentracing.so.1 libopentracing1
            unpack libopentracing-c-wrapper.so.0 libopentracing-c-wrapper0
            unpack pgbouncer pgbouncer
            unpack libcares.so.2 libc-ares2
            unpack libevent-2.1.so.7 libevent-2.1-7
            unpack faketime/libfaketime.so.1 libfaketime
        elif [ "$part" = failover ]; then
            unpack patroni patroni
            unpack etcd etcd-server
            unpack haproxy haproxy
        elif [ "$part" = bench ]; then
            unpack nginx nginx
        fi
    done
    exit 0
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        have sudo || fail "installing needs root, and there is no sudo; as root, run: apt-get install ${missing[*]:-}"
        sudo "$@"
    fi
}

refresh() {
    as_root apt-get update -qq || echo "Keyround: the package lists could not be refreshed; trying with the old ones" >&2
}

for part in "$@"; do
    "check_$part"
done
[ ${#missing[@]} -gt 0 ] || finish "$@"

echo "Keyround: installing what is missing: ${missing[*]}" >&2
have apt-get || fail "this machine has no apt-get; install by hand what Debian calls: ${missing[*]}"
refresh
# Debian would start a database server of its own on installation; the tests start theirs.
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 ||
    fail "apt-get could not install: ${missing[*]}; install them by hand and try again"

missing=()
for part in "$@"; do
    "check_$part"
done
[ ${#missing[@]} -eq 0 ] || fail "still missing after the installation: ${missing[*]}"
finish "$@"
