#!/usr/bin/env bash
# The clients that tests/clients drives: Python's, node's and Java's drivers, and dbt.
#
#   tests/services/clients.sh fetch    install them if need be, print the directory that they are in
#
# In the directory: python/ and dbt/ (venvs), node_modules/, pgjdbc.jar. What is installed is pinned, with its digests, by the files in
# tests/services/clients; the directory is kept under ${XDG_CACHE_HOME:-~/.cache}/tidemill/services, one for each state of those files.
# Needs python3 with venv, npm, mvn. Everything comes from PyPI, npm's registry and Maven Central.

set -euo pipefail

pgjdbc=42.7.14
pgjdbc_sha256=73914527305a40cce504b0d3d90b23caf565136912d607ae8ae7c5895512332c
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
    echo "clients.sh: $*" >&2
    exit 1
}

venv() {
    python3 -m venv "$1" >&2 || die "python3 cannot make a venv (apt-get install python3-venv)"
    "$1/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$2" >&2 || die "pip could not install $2"
}

# One at a time; a venv cannot be moved, so the directory counts once a file says that it is whole.
fetch() {
    local digest directory
    digest=$(cat "$here"/clients.sh "$here"/clients/* | sha256sum | cut -c1-12)
    directory=${XDG_CACHE_HOME:-$HOME/.cache}/tidemill/services/clients-$digest
    if [[ ! -e $directory/whole ]]; then
        command -v python3 >/dev/null || die "python3 is needed (apt-get install python3-venv)"
        command -v npm >/dev/null || die "npm is needed (apt-get install npm)"
        command -v mvn >/dev/null || die "mvn is needed (apt-get install maven)"
        mkdir -p "$directory"
        exec 8>"$directory.lock"
        flock 8
    fi
    if [[ ! -e $directory/whole ]]; then
        echo "clients.sh: installing the clients" >&2
        rm -rf "$directory"
        mkdir -p "$directory"
        venv "$directory/python" "$here/clients/python.txt"
        venv "$directory/dbt" "$here/clients/dbt.txt"
        cp "$here"/clients/package*.json "$directory"
        (cd "$directory" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2) || die "npm could not install the packages"
        mvn -q -B dependency:copy -Dartifact="org.postgresql:postgresql:$pgjdbc" -DoutputDirectory="$directory" >&2 \
            || die "mvn could not fetch pgjdbc $pgjdbc"
        mv "$directory/postgresql-$pgjdbc.jar" "$directory/pgjdbc.jar"
        echo "$pgjdbc_sha256  $directory/pgjdbc.jar" | sha256sum --quiet --check >&2 || die "pgjdbc $pgjdbc is not the one that is expected"
        touch "$directory/whole"
    fi
    echo "$directory"
}

[[ $# == 1 && $1 == fetch ]] || die "usage: clients.sh fetch"
fetch
