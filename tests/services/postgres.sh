#!/usr/bin/env bash
# A real PostgreSQL on this machine.
#
#   tests/services/postgres.sh start DIR    make the cluster if need be, start, wait, print the address
#   tests/services/postgres.sh status DIR   print the address; exit 1 if it does not run
#   tests/services/postgres.sh stop DIR     stop, and wait until it has
#
# DIR takes the data and the log; whoever made it removes it. What has been stopped starts again under the same address.
# The superuser is "postgres", without a
# password, over loopback only. PostgreSQL refuses to run as root: then it runs as the system's user postgres.
# Needs Debian's package postgresql-15 or newer (POSTGRES_BIN names another place of initdb and pg_ctl).

set -euo pipefail

seconds_to_start=60

die() {
    echo "postgres.sh: $*" >&2
    exit 1
}

# The newest that is installed.
binaries() {
    local found
    found=${POSTGRES_BIN:-$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)}
    [[ -x $found/initdb ]] || die "PostgreSQL's server is needed (apt-get install postgresql-15)"
    echo "$found"
}

# Runs a command as a user that PostgreSQL runs under.
unprivileged() {
    if ((EUID == 0)); then
        setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/tmp "$@"
    else
        "$@"
    fi
}

free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

runs() {
    [[ -d $dir/cluster ]] && unprivileged "$bin/pg_ctl" status -D "$dir/cluster" >/dev/null 2>&1
}

start() {
    if runs; then
        cat "$dir/address"
        return
    fi
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    if ((EUID == 0)); then
        id postgres >/dev/null 2>&1 || die "there is no system user postgres"
        # The user has to reach the directory, but not to read what else is on the way.
        chown postgres "$dir"
        local way=$dir
        while [[ $way != / ]]; do
            unprivileged test -x "$way" || chmod o+x "$way"
            way=$(dirname "$way")
        done
    fi
    if [[ ! -f $dir/cluster/PG_VERSION ]]; then
        unprivileged "$bin/initdb" -D "$dir/cluster" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync \
            >"$dir/initdb.out" 2>&1 || { cat "$dir/initdb.out" >&2; die "the cluster could not be made"; }
        unprivileged tee -a "$dir/cluster/postgresql.conf" >/dev/null <<SETTINGS
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
synchronous_commit = off
shared_buffers = 16MB
wal_level = logical
timezone = 'UTC'
log_timezone = 'UTC'
SETTINGS
    fi
    local port
    port=$(sed 's/.*://' "$dir/address" 2>/dev/null) || port=$(free_port)
    unprivileged "$bin/pg_ctl" start -D "$dir/cluster" -w -t "$seconds_to_start" -l "$dir/cluster/log" \
        -o "-p $port" >"$dir/start.out" 2>&1 \
        || { cat "$dir/start.out" "$dir/cluster/log" >&2; die "PostgreSQL did not start"; }
    echo "127.0.0.1:$port" >"$dir/address"
    cat "$dir/address"
}

status() {
    runs || die "no PostgreSQL runs in $dir"
    cat "$dir/address"
}

stop() {
    runs || return 0
    unprivileged "$bin/pg_ctl" stop -D "$dir/cluster" -m fast -w -t 30 >/dev/null \
        || unprivileged "$bin/pg_ctl" stop -D "$dir/cluster" -m immediate -w >/dev/null
}

[[ $# == 2 && $1 =~ ^(start|stop|status)$ ]] || die "usage: postgres.sh start|stop|status DIR"
dir=$2
[[ -d $dir ]] && dir=$(cd "$dir" && pwd)
bin=$(binaries)
"$1"
