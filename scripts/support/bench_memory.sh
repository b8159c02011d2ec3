#!/usr/bin/env bash
# Memory a connection of the proxy beside nginx, as a Markdown table; a part of scripts/bench.
#
# usage: bench_memory.sh [--clients N]
set -euo pipefail
# A failure inside $(...) ends the run as any other.
shopt -s inherit_errexit
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=scripts/support/common.sh
. "$ROOT/scripts/support/common.sh"

CLIENTS=10000
TLS_CONNECTIONS=200
# Idle origin connections that either side may keep: more than the most connections of a run.
POOL=512
while (($# > 0)); do
    case $1 in
    --clients) CLIENTS=${2:?} && shift ;;
    *) die "usage: bench_memory.sh [--clients N]" ;;
    esac
    shift
done
for tool in nginx wrk openssl python3 taskset; do
    have "$tool" || die "$tool is missing: scripts/setup installs it"
done

WORK=$(mktemp -d)
cleanup() {
    end_all
    rm -rf "$WORK"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
# 10,000 clients need more descriptors than some systems allow: a proxy uses one for each client,
# and this one keeps half of them for origins. Who may raise the limit does, others take what is.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
CLIENTS_MAX=$((($(ulimit -n) - 1000) / 2))
if ((CLIENTS > CLIENTS_MAX)); then
    echo "holding $CLIENTS_MAX clients, not $CLIENTS: open files are limited to $(ulimit -n)" >&2
    CLIENTS=$CLIENTS_MAX
fi

origin_locations() {
    echo "location = /body { return 200 ok; }"
    # About three seconds: long enough for all requests of the memory run to be open at once.
    head -c 3000 /dev/zero >"$WORK/slow"
    echo "location = /slow { alias $WORK/slow; limit_rate 1000; }"
}

origin_config() {
    local directory=$1 http=$2 https=$3
    nginx_preamble "$directory"
    cat <<NGINX
    server { listen 127.0.0.1:$http backlog=4096; $(origin_locations) }
    server {
        listen 127.0.0.1:$https ssl backlog=4096;
        ssl_certificate $WORK/origin.pem; ssl_certificate_key $WORK/origin.key;
        ssl_protocols TLSv1.3;
        $(origin_locations)
    }
}
NGINX
}

peer_config() {
    local directory=$1 http=$2 https=$3
    nginx_preamble "$directory"
    cat <<NGINX
    proxy_http_version 1.1;
    upstream plain { server 127.0.0.1:$ORIGIN_HTTP; keepalive $POOL; keepalive_requests 100000000; }
    upstream tls { server 127.0.0.1:$ORIGIN_HTTPS; keepalive $POOL; keepalive_requests 100000000; }
    server {
        listen 127.0.0.1:$http backlog=4096;
        location / {
            proxy_pass http://plain;
            proxy_set_header Connection ""; proxy_set_header Host localhost:$ORIGIN_HTTP;
        }
    }
    server {
        listen 127.0.0.1:$https backlog=4096;
        location / {
            proxy_pass https://tls;
            proxy_set_header Connection ""; proxy_set_header Host localhost:$ORIGIN_HTTPS;
            proxy_ssl_name localhost; proxy_ssl_server_name on;
            proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on; proxy_ssl_verify off;
        }
    }
}
NGINX
}

# The process and its children: nginx is a master and a worker.
family() { echo "$1" "$(cat "/proc/$1/task/$1/children" 2>/dev/null)"; }

rss_kib() {
    local pid files=()
    for pid in $(family "$1"); do files+=("/proc/$pid/smaps_rollup"); done
    awk '/^Rss:/ { kib += $2 } END { print kib }' "${files[@]}"
}

# target SIDE ORIGIN: sets PID, PORT and HOST of the one to be measured, and ORIGIN_PORT.
target() {
    local label=ccnproxy
    ORIGIN_PORT=$ORIGIN_HTTP
    if [[ $2 == https ]]; then ORIGIN_PORT=$ORIGIN_HTTPS label=ccnproxy-https; fi
    # nginx ignores this Host and sends its own; both get heads of the same length from wrk.
    HOST="localhost.$label:$ORIGIN_PORT"
    if [[ $1 == proxy ]]; then
        PID=$PROXY_PID PORT=$PROXY_PORT
    elif [[ $2 == http ]]; then
        PID=$PEER_PID PORT=$PEER_HTTP
    else
        PID=$PEER_PID PORT=$PEER_HTTPS
    fi
}

# load CONNECTIONS SECONDS: one run of wrk against PORT; its report is in WRK_REPORT.
load() {
    WRK_REPORT=$(taskset -c 1 wrk -t 1 -c "$1" -d "${2}s" --latency -H "Host: $HOST" \
        "http://127.0.0.1:$PORT/body")
    if grep -qE 'Socket errors|Non-2xx' <<<"$WRK_REPORT"; then
        die "errors against port $PORT with $1 connections:"$'\n'"$WRK_REPORT"
    fi
}

# hold PATH COUNT ORDER: client connections that have made a request each; `release` closes them.
hold() {
    mkfifo "$WORK/hold"
    python3 "$ROOT/scripts/support/hold_clients.py" "$PORT" "$HOST" "$1" "$2" "$3" \
        <"$WORK/hold" >"$WORK/held" 2>&1 &
    HOLDER=$!
    STARTED+=("$HOLDER")
    exec {HOLD_FD}>"$WORK/hold"
    # 10,000 requests one after another take some seconds; each of them has its own deadline.
    while [[ ! -s $WORK/held ]] && kill -0 "$HOLDER" 2>/dev/null; do sleep 0.1; done
    grep -q '^held ' "$WORK/held" || die "holding $2 clients failed: $(cat "$WORK/held")"
    # A moment for buffers that are given back a little later.
    sleep 1
}

release() {
    exec {HOLD_FD}>&-
    wait "$HOLDER"
    rm "$WORK/hold" "$WORK/held"
    sleep 1
}

# Connections that are open to a port of loopback: established ones with that remote port.
open_connections() {
    awk -v port="$(printf ':%04X' "$1")" '
        $4 == "01" && substr($3, length($3) - 4) == port { n++ } END { print n + 0 }' /proc/net/tcp
}

memory_row() {
    awk -v what="$1" -v side="$2" -v n="$3" -v before="$4" -v after="$5" 'BEGIN {
        printf "| %s | %s | %d | %.1f | %.1f | **%.2f** |\n",
            what, side, n, before / 1024, after / 1024, (after - before) / n }'
}

# The two to be compared, fresh, both on CPU 0.
start_sides() {
    local pid
    start_nginx peer_config "$WORK/peer" 2
    read -r PEER_HTTP PEER_HTTPS <<<"${NGINX_PORTS[*]}"
    PEER_PID=$NGINX_PID
    for pid in $(family "$PEER_PID"); do taskset -cp 0 "$pid" >/dev/null; done
    # The proxy pins its threads within the CPUs it may use, so it must start on CPU 0 alone.
    PROXY_RUNNER=(taskset -c 0)
    start_proxy "$WORK/proxy.log" "${PROXY_FLAGS[@]}"
}

bench_memory() {
    local side before after opened
    echo "### Memory a connection"
    echo
    echo "RSS of the process (smaps_rollup, worker and master for nginx), in user space only:" \
        "socket buffers are the kernel's."
    echo
    echo "| what is idle | side | connections | RSS before, MiB | after, MiB | KiB each |"
    echo "|---|---|---:|---:|---:|---:|"
    for side in proxy nginx; do
        # What a load leaves behind that is no idle TLS connection must be in both figures: as many
        # clients over http, then as many handshakes at once as will be made between the two.
        target "$side" http
        hold /slow $((2 * TLS_CONNECTIONS)) at-once
        release
        target "$side" https
        hold /slow "$TLS_CONNECTIONS" at-once
        release
        before=$(rss_kib "$PID")
        opened=$(open_connections "$ORIGIN_HTTPS")
        hold /slow $((2 * TLS_CONNECTIONS)) at-once
        release
        after=$(rss_kib "$PID")
        # Those that are still open: the two figures differ by these.
        opened=$(($(open_connections "$ORIGIN_HTTPS") - opened))
        ((opened > 0)) || die "$side keeps no TLS connection to the origin"
        memory_row "TLS connection to an origin" "$side" "$opened" "$before" "$after"
    done
    # In new processes: memory that the first part gave back would be taken up again unseen.
    end "$PROXY_PID"
    end "$PEER_PID"
    start_sides
    for side in proxy nginx; do
        target "$side" http
        # What the first requests allocate once and for all is no connection's cost.
        load 8 1
        before=$(rss_kib "$PID")
        hold /body "$CLIENTS" one-by-one
        after=$(rss_kib "$PID")
        memory_row "client connection after one request" "$side" "$CLIENTS" "$before" "$after"
        release
    done
}

make_ca "$WORK" ca
make_cert "$WORK" ca origin DNS:localhost,IP:127.0.0.1
export SSL_CERT_FILE="$WORK/ca.pem"

start_nginx origin_config "$WORK/origin" 2
read -r ORIGIN_HTTP ORIGIN_HTTPS <<<"${NGINX_PORTS[*]}"
for pid in $(family "$NGINX_PID"); do taskset -cp 1 "$pid" >/dev/null; done
PROXY_FLAGS=(--cores 1 --access-log-dir none -c "$POOL" --client-idle-timeout 600 --keepalive-timeout 600)
start_sides
bench_memory
