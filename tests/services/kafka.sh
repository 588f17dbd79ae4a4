#!/usr/bin/env bash
# A real Apache Kafka on this machine: one KRaft node, broker and controller in one.
#
#   tests/services/kafka.sh start DIR    fetch the jars if need be, start, wait, print the address
#   tests/services/kafka.sh status DIR   print the address; exit 1 if it does not run
#   tests/services/kafka.sh stop DIR     stop, and wait until it has
#   tests/services/kafka.sh kill DIR     kill -9, and wait until it has ended
#
# DIR takes the configuration, the log and the data; whoever made it removes it. What has been stopped or
# killed starts again under the same address, with the same data. The jars come
# from Maven Central and are kept under ${XDG_CACHE_HOME:-~/.cache}/tidemill/services.
# Needs Java 17 or newer, and mvn for the first start.

set -euo pipefail

version=4.1.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
jars=${XDG_CACHE_HOME:-$HOME/.cache}/tidemill/services/kafka-$version
seconds_to_start=90

die() {
    echo "kafka.sh: $*" >&2
    exit 1
}

# Into a directory of its own, renamed when it is whole: two starts at once do no harm.
fetch() {
    [[ -d $jars ]] && return
    command -v mvn >/dev/null || die "mvn is needed to fetch Kafka (apt-get install maven)"
    mkdir -p "$(dirname "$jars")"
    local partial
    partial=$(mktemp -d "$jars.XXXXXX")
    echo "kafka.sh: fetching Kafka $version" >&2
    mvn -q -B -f "$here/kafka/pom.xml" -Dkafka.version="$version" \
        dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$partial" >&2 \
        || { rm -rf "$partial"; die "mvn could not fetch Kafka $version"; }
    mv -T "$partial" "$jars" 2>/dev/null || rm -rf "$partial"
}

# Two different ports that nobody listens on.
free_ports() {
    local port found=()
    while ((${#found[@]} < 2)); do
        port=$((20000 + RANDOM % 12000))
        [[ " ${found[*]:-} " == *" $port "* ]] && continue
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue
        found+=("$port")
    done
    echo "${found[@]}"
}

# Small and quick to start rather than fast.
java_options=(-Xmx512m -Xms128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$jars/*")

pid() {
    local id
    id=$(cat "$dir/pid" 2>/dev/null) || return 1
    # The number may belong to another program by now.
    [[ -r /proc/$id/cmdline ]] && tr '\0' ' ' <"/proc/$id/cmdline" | grep -qF "$dir/server.properties" || return 1
    echo "$id"
}

configure() {
    local client controller
    read -r client controller <<<"$(free_ports)"
    cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
controller.listener.names=CONTROLLER
listeners=CLIENT://127.0.0.1:$client,CONTROLLER://127.0.0.1:$controller
advertised.listeners=CLIENT://127.0.0.1:$client
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENT
log.dirs=$dir/data
num.partitions=1
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.min.isr=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
PROPERTIES
    echo "127.0.0.1:$client" >"$dir/address"
}

start() {
    if pid >/dev/null; then
        cat "$dir/address"
        return
    fi
    command -v java >/dev/null || die "java is needed to run Kafka (apt-get install openjdk-17-jre-headless)"
    fetch
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    [[ -f $dir/server.properties ]] || configure
    local client
    client=$(sed 's/.*://' "$dir/address")
    if [[ ! -d $dir/data ]]; then
        java "${java_options[@]}" kafka.tools.StorageTool random-uuid >"$dir/cluster-id" 2>>"$dir/kafka.out"
        java "${java_options[@]}" kafka.tools.StorageTool format -t "$(tail -1 "$dir/cluster-id")" -c "$dir/server.properties" \
            >>"$dir/kafka.out" 2>&1 || { cat "$dir/kafka.out" >&2; die "the storage could not be formatted"; }
    fi
    # Its own session, so that a Ctrl-C meant for the tests does not end it under them.
    setsid java "${java_options[@]}" kafka.Kafka "$dir/server.properties" \
        </dev/null >>"$dir/kafka.out" 2>&1 &
    echo $! >"$dir/pid"
    local deadline=$((SECONDS + seconds_to_start))
    until (exec 3<>"/dev/tcp/127.0.0.1/$client") 2>/dev/null; do
        pid >/dev/null || { tail -20 "$dir/kafka.out" >&2; die "Kafka ended while starting; see $dir/kafka.out"; }
        ((SECONDS < deadline)) || die "Kafka did not start within $seconds_to_start s; see $dir/kafka.out"
        sleep 0.2
    done
    cat "$dir/address"
}

status() {
    pid >/dev/null || die "no Kafka runs in $dir"
    cat "$dir/address"
}

stop() {
    local id
    id=$(pid) || return 0
    kill "$id"
    for _ in $(seq 150); do
        pid >/dev/null || { rm -f "$dir/pid"; return; }
        sleep 0.2
    done
    # It had half a minute; the data are the tests' own.
    kill -9 "$id"
    rm -f "$dir/pid"
}

abandon() {
    local id
    id=$(pid) || return 0
    kill -9 "$id"
    while pid >/dev/null; do sleep 0.05; done
    rm -f "$dir/pid"
}

[[ $# == 2 && $1 =~ ^(start|stop|kill|status)$ ]] || die "usage: kafka.sh start|stop|kill|status DIR"
dir=$2
[[ -d $dir ]] && dir=$(cd "$dir" && pwd)
case $1 in
    kill) abandon ;;
    *) "$1" ;;
esac
