#!/bin/sh
# Java, Maven and Redis from the system's packages: installed through apt when root, else named.
# With the argument `peers` also a Java compiler.
missing=""
# Kafka 4 needs Java 17
java_version=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
[ "${java_version:-0}" -ge 17 ] || missing="$missing default-jre-headless"
command -v mvn >/dev/null 2>&1 || missing="$missing maven"
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
python3 -c 'import ensurepip' >/dev/null 2>&1 || missing="$missing python3-venv"
# only the benchmark's Kafka Streams peer is compiled
[ "$1" != peers ] || command -v javac >/dev/null 2>&1 || missing="$missing default-jdk-headless"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing$missing …"
    # the package would start a server of its own: the stack starts its own, on its own port
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    log=$(mktemp)
    # apt-get waits for another one that is at work, but not for ever
    wait="-o DPkg::Lock::Timeout=300"
    if apt-get update -qq >"$log" 2>&1 && apt-get install -y -qq $wait --no-install-recommends $missing >>"$log" 2>&1; then
        rm -f "$log"
        exit 0
    fi
    tail -n 5 "$log"
    echo "Could not install$missing through apt: install them and run make again."
    exit 1
fi
[ "${java_version:-17}" -ge 17 ] || echo "Java $java_version is too old: Kafka needs 17 or later."
echo "Missing:$missing. Install them with your system's package manager and run make again."
exit 1
