#!/usr/bin/env bash
# Runs a command beside a throw-away PostgreSQL: tests/postgres.sh COMMAND...
# The command finds it in TEST_POSTGRES_URL (a superuser, no password, loopback). It is gone when the command ends.
# It does not wait for its disk, unless TEST_POSTGRES_DURABLE is set: then each commit does, as of one that is installed.
set -euo pipefail

fail() {
    echo "tests/postgres.sh: $*" >&2
    exit 1
}

[ $# -gt 0 ] || fail "say which command to run, as in: tests/postgres.sh cargo test"

# The newest installed server, unless PATH has one.
find_binaries() {
    local folder
    if command -v initdb >/dev/null && command -v postgres >/dev/null && command -v pg_ctl >/dev/null; then
        dirname "$(readlink -f "$(command -v initdb)")"
        return
    fi
    for folder in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV); do
        if [ -x "$folder/initdb" ]; then
            echo "$folder"
            return
        fi
    done
    return 1
}

bin=$(find_binaries) || fail "no PostgreSQL server found in PATH or /usr/lib/postgresql; install it (Debian: apt-get install postgresql)"

# PostgreSQL refuses to run as root.
as_server=()
if [ "$(id -u)" -eq 0 ]; then
    id postgres >/dev/null 2>&1 || fail "PostgreSQL does not run as root, and there is no user 'postgres' to run it as"
    if command -v setpriv >/dev/null; then
        as_server=(setpriv --reuid=postgres --regid=postgres --init-groups)
    elif command -v runuser >/dev/null; then
        as_server=(runuser -u postgres --)
    else
        fail "PostgreSQL does not run as root; install setpriv or runuser (Debian: apt-get install util-linux)"
    fi
fi

speed=(-c fsync=off -c synchronous_commit=off -c full_page_writes=off)
if [ -n "${TEST_POSTGRES_DURABLE:-}" ]; then speed=(); fi

home=$(mktemp -d /tmp/keyround-postgres.XXXXXX)
server() { (cd "$home" && "${as_server[@]}" "$@"); }

# Also after a failure or an interrupt; a command that is still running goes first.
command_pid=
cleanup() {
    local code=$?
    trap '' INT TERM HUP
    trap - EXIT
    if [ -n "$command_pid" ]; then
        kill -TERM -- "-$command_pid" 2>/dev/null || true
        wait "$command_pid" 2>/dev/null || true
    fi
    if [ -f "$home/data/postmaster.pid" ]; then
        server "$bin/pg_ctl" --pgdata="$home/data" --mode=immediate --silent stop || true
    fi
    rm -rf "$home"
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

if [ ${#as_server[@]} -gt 0 ]; then chown postgres "$home"; fi
server "$bin/initdb" --pgdata="$home/data" --username=postgres --auth=trust --encoding=UTF8 --no-locale --no-sync \
    >"$home/initdb.log" 2>&1 || { cat "$home/initdb.log" >&2; fail "initdb failed; what it said is above"; }

# Another process may take a port between our look and the start, so a start that fails tries the next one.
started=
for _ in $(seq 20); do
    port=$((20000 + RANDOM % 12000))
    if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue; fi
    if server "$bin/pg_ctl" --pgdata="$home/data" --log="$home/log" --silent --wait --timeout=60 start --options="\
        -c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories=$home \
        ${speed[*]} -c max_connections=200"; then
        started=yes
        break
    fi
done
if [ -z "$started" ]; then
    cat "$home/log" >&2 || true
    fail "PostgreSQL did not start; its log is above"
fi

export TEST_POSTGRES_URL="postgres://postgres@127.0.0.1:$port/postgres"
export TEST_POSTGRES_SOCKET_FOLDER="$home"
# In the background and in a process group of its own, so that a signal reaches the trap at once and then all of the command.
set -m
"$@" </dev/null &
command_pid=$!
set +m
wait "$command_pid" && code=0 || code=$?
command_pid=
exit "$code"
