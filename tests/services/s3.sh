#!/usr/bin/env bash
# A server on this machine that speaks S3: moto, which keeps everything in memory.
#
#   tests/services/s3.sh start DIR    install it if need be, start, wait, print the address
#   tests/services/s3.sh status DIR   print the address; exit 1 if it does not run
#   tests/services/s3.sh stop DIR     stop, and wait until it has
#
# DIR takes the log; whoever made it removes it. There is a bucket "tidemill", for whoever asks. moto comes from PyPI
# and is kept under ${XDG_CACHE_HOME:-~/.cache}/tidemill/services. Needs python3 with venv.

set -euo pipefail

version=5.2.5
venv=${XDG_CACHE_HOME:-$HOME/.cache}/tidemill/services/moto-$version
seconds_to_start=60

die() {
    echo "s3.sh: $*" >&2
    exit 1
}

# One at a time; a venv cannot be moved, so it counts once a file says that it is whole.
fetch() {
    [[ -e $venv/whole ]] && return
    command -v python3 >/dev/null || die "python3 is needed (apt-get install python3-venv)"
    mkdir -p "$(dirname "$venv")"
    exec 8>"$venv.lock"
    flock 8
    [[ -e $venv/whole ]] && return
    echo "s3.sh: installing moto $version" >&2
    rm -rf "$venv"
    python3 -m venv "$venv" >&2 || die "python3 cannot make a venv (apt-get install python3-venv)"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "moto[s3,server]==$version" >&2 \
        || die "pip could not install moto $version"
    touch "$venv/whole"
    exec 8>&-
}

free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

pid() {
    local id
    id=$(cat "$dir/pid" 2>/dev/null) || return 1
    # The number may belong to another program by now.
    [[ -r /proc/$id/cmdline ]] && tr '\0' ' ' <"/proc/$id/cmdline" | grep -qF "moto_server" || return 1
    echo "$id"
}

start() {
    if pid >/dev/null; then
        cat "$dir/address"
        return
    fi
    fetch
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    local port
    port=$(free_port)
    # Its own session, so that a Ctrl-C meant for the tests does not end it under them.
    setsid "$venv/bin/python" "$venv/bin/moto_server" -H 127.0.0.1 -p "$port" </dev/null >>"$dir/moto.out" 2>&1 8>&- &
    echo $! >"$dir/pid"
    echo "127.0.0.1:$port" >"$dir/address"
    local deadline=$((SECONDS + seconds_to_start))
    until "$venv/bin/python" - "$port" 2>/dev/null <<'PYTHON'; do
import sys, urllib.request
urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{sys.argv[1]}/tidemill", method="PUT"), timeout=5)
PYTHON
        pid >/dev/null || { tail -20 "$dir/moto.out" >&2; die "moto ended while starting; see $dir/moto.out"; }
        ((SECONDS < deadline)) || die "moto did not start within $seconds_to_start s; see $dir/moto.out"
        sleep 0.2
    done
    cat "$dir/address"
}

status() {
    pid >/dev/null || die "no moto runs in $dir"
    cat "$dir/address"
}

stop() {
    local id
    id=$(pid) || return 0
    kill "$id"
    for _ in $(seq 50); do
        pid >/dev/null || { rm -f "$dir/pid"; return; }
        sleep 0.1
    done
    kill -9 "$id"
    rm -f "$dir/pid"
}

[[ $# == 2 && $1 =~ ^(start|stop|status)$ ]] || die "usage: s3.sh start|stop|status DIR"
dir=$2
[[ -d $dir ]] && dir=$(cd "$dir" && pwd)
"$1"
