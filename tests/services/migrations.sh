#!/usr/bin/env bash
# The migration tools of others, as they are published.
#
#   tests/services/migrations.sh dbmate ARGS…            a binary, which comes with its npm package
#   tests/services/migrations.sh node-pg-migrate ARGS…   npm
#   tests/services/migrations.sh alembic ARGS…           PyPI, with SQLAlchemy and psycopg2
#   tests/services/migrations.sh flyway ARGS…            Maven Central; ARGS are URL, USER, DIRECTORY and a command
#
# Installs a tool if need be, and runs it in the current directory. What is installed is kept under
# ${XDG_CACHE_HOME:-~/.cache}/tidemill/services. Needs node and npm, python3 with venv, Java 17 with mvn, each for its tool.

set -euo pipefail

dbmate=2.36.0
node_pg_migrate=9.0.0
pg=8.23.1
alembic=1.20.1
sqlalchemy=2.1.9
psycopg2=2.9.13
flyway=11.20.3

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kept=${XDG_CACHE_HOME:-$HOME/.cache}/tidemill/services

die() {
    echo "migrations.sh: $*" >&2
    exit 1
}

# Runs a function once in a directory, which counts once a file says that it is whole. One at a time.
once() {
    local directory=$1 install=$2
    [[ -e $directory/whole ]] && return
    mkdir -p "$kept"
    exec 8>"$directory.lock"
    flock 8
    if [[ ! -e $directory/whole ]]; then
        echo "migrations.sh: installing $(basename "$directory")" >&2
        rm -rf "$directory"
        mkdir -p "$directory"
        (cd "$directory" && "$install") >&2 || die "$(basename "$directory") could not be installed"
        touch "$directory/whole"
    fi
    exec 8>&-
}

need() {
    command -v "$1" >/dev/null || die "$1 is needed (apt-get install $2)"
}

npm_packages() {
    npm install --no-audit --no-fund --silent \
        "dbmate@$dbmate" "node-pg-migrate@$node_pg_migrate" "pg@$pg"
}

python_packages() {
    python3 -m venv .
    bin/pip install --quiet --disable-pip-version-check \
        "alembic==$alembic" "SQLAlchemy==$sqlalchemy" "psycopg2-binary==$psycopg2"
}

maven_packages() {
    mvn -q -B -f "$here/migrations/pom.xml" -Dflyway.version="$flyway" \
        dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$PWD"
}

tool=${1:-}
shift || die "which tool?"
case $tool in
dbmate | node-pg-migrate)
    need npm npm
    node_modules=$kept/migrations-npm-$dbmate-$node_pg_migrate-$pg
    once "$node_modules" npm_packages
    exec "$node_modules/node_modules/.bin/$tool" "$@"
    ;;
alembic)
    need python3 python3-venv
    venv=$kept/migrations-python-$alembic-$sqlalchemy-$psycopg2
    once "$venv" python_packages
    exec "$venv/bin/alembic" "$@"
    ;;
flyway)
    need java default-jre-headless
    need mvn maven
    jars=$kept/migrations-flyway-$flyway
    once "$jars" maven_packages
    exec java -cp "$jars/*" "$here/migrations/Migrate.java" "$@"
    ;;
*) die "unknown tool \"$tool\": dbmate, node-pg-migrate, alembic or flyway" ;;
esac
