#!/usr/bin/env bash
# Memory a connection of the proxy beside nginx, as a Markdown table; a part of scripts/bench.
#
# usage: bench_memory.sh [--clients "N..."] [--tls "N..."] [--http2 "N..."] [--only proxy|nginx]
#
# Each row is a process of its own: RSS after a few requests, the most it ever was, and RSS ten
# seconds after the last request.
set -euo pipefail
# A failure inside $(...) ends the run as any other.
shopt -s inherit_errexit
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=scripts/support/common.sh
. "$ROOT/scripts/support/common.sh"

CLIENTS="10000 50000"
TLS_CONNECTIONS="200 1000"
HTTP2_ORIGINS="200 1000"
SIDES="proxy nginx"
# Until memory is read: buffers of a burst are given back step by step.
SETTLE_SECONDS=10
# Idle origin connections that either side may keep: more than any row has.
POOL=20000
while (($# > 0)); do
    case $1 in
    --clients) CLIENTS=${2?} && shift ;;
    --tls) TLS_CONNECTIONS=${2?} && shift ;;
    --http2) HTTP2_ORIGINS=${2?} && shift ;;
    --only) SIDES=${2:?} && shift ;;
    *) die "usage: bench_memory.sh [--clients N...] [--tls N...] [--http2 N...] [--only proxy|nginx]" ;;
    esac
    shift
done
for tool in nginx openssl python3 taskset; do
    have "$tool" || die "$tool is missing: scripts/setup installs it"
done

WORK=$(mktemp -d)
cleanup() {
    end_all
    rm -rf "$WORK"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
# Who may raise the hard limit does, others take what is.
ulimit -n 262144 2>/dev/null || ulimit -n "$(ulimit -Hn)"
# The proxy keeps three of eight descriptors for origins.
CLIENTS_MAX=$((($(ulimit -n) - 200) * 5 / 8))

origin_locations() {
    echo "location = /body { return 200 ok; }"
    # About three seconds: long enough for all requests of a burst to be open at once.
    head -c 3000 /dev/zero >"$WORK/slow"
    echo "location = /slow { alias $WORK/slow; limit_rate 1000; }"
}

origin_config() {
    local directory=$1 http=$2 https=$3 http2=$4 port
    nginx_preamble "$directory"
    cat <<NGINX
    server { listen 127.0.0.1:$http backlog=4096; $(origin_locations) }
NGINX
    for port in "$https ssl" "$http2 ssl http2"; do
        cat <<NGINX
    server {
        listen 127.0.0.1:$port backlog=4096;
        ssl_certificate $WORK/origin.pem; ssl_certificate_key $WORK/origin.key;
        ssl_protocols TLSv1.3;
        keepalive_timeout 600s;
        $(origin_locations)
    }
NGINX
    done
    echo "}"
}

peer_config() {
    local directory=$1 http=$2 https=$3
    nginx_preamble "$directory" |
        sed "s/worker_rlimit_nofile .*/worker_rlimit_nofile $(ulimit -n);/;
            s/worker_connections .*;/worker_connections $(ulimit -n);/"
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

# status_kib KEY PID: a figure of proc_pid_status(5), of the process and its children together.
status_kib() {
    local pid files=()
    for pid in $(family "$2"); do files+=("/proc/$pid/status"); done
    awk -v key="$1:" '$1 == key { kib += $2 } END { print kib }' "${files[@]}"
}

# start_side SIDE http|https|h2: a fresh process on CPU 0; sets PID, PORT and HOST.
start_side() {
    local pid label=ccnproxy port=$ORIGIN_HTTP
    if [[ $2 == https ]]; then label=ccnproxy-https port=$ORIGIN_HTTPS; fi
    # nginx ignores this Host and sends its own.
    HOST="localhost.$label:$port"
    # An origin a request: one HTTP/2 connection carries all requests of one origin. Names below
    # localhost lead to loopback without a look-up (RFC 6761 6.3).
    if [[ $2 == h2 ]]; then HOST="o{}.h2.localhost.ccnproxy-https:$ORIGIN_HTTP2"; fi
    if [[ $1 == proxy ]]; then
        # It pins its threads within the CPUs it may use, so it must start on CPU 0 alone.
        PROXY_RUNNER=(taskset -c 0)
        start_proxy "$WORK/proxy.log" --cores 1 --access-log-dir none -c "$POOL" \
            --client-idle-timeout 600 --keepalive-timeout 600
        PID=$PROXY_PID PORT=$PROXY_PORT
    else
        start_nginx peer_config "$WORK/peer" 2
        PID=$NGINX_PID PORT=${NGINX_PORTS[0]}
        if [[ $2 == https ]]; then PORT=${NGINX_PORTS[1]}; fi
        for pid in $(family "$PID"); do taskset -cp 0 "$pid" >/dev/null; done
    fi
    # What the first requests allocate once and for all is no connection's cost.
    hold /body 8 one-by-one
    release
    sleep 1
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
}

release() {
    exec {HOLD_FD}>&-
    wait "$HOLDER"
    rm "$WORK/hold" "$WORK/held"
}

# Connections that are open to a port of loopback: established ones with that remote port.
open_connections() {
    awk -v port="$(printf ':%04X' "$1")" '
        $4 == "01" && substr($3, length($3) - 4) == port { n++ } END { print n + 0 }' /proc/net/tcp
}

# row WHAT SIDE COUNT BEFORE PEAK IDLE LATER: KiB, LATER may be unknown.
row() {
    awk -v what="$1" -v side="$2" -v n="$3" -v before="$4" -v peak="$5" -v idle="$6" -v later="$7" '
        function mib(kib) { return kib == "" ? "" : sprintf("%.1f", kib / 1024) }
        BEGIN {
            printf "| %s | %s | %d | %s | %s | %s | %s | **%.2f** |\n", what, side, n,
                mib(before), mib(peak), mib(idle), mib(later), (idle - before) / n
        }'
}

# COUNT connections to the https origin that a burst of as many requests leaves behind.
tls_row() {
    local side=$1 count=$2 before opened
    start_side "$side" https
    opened=$(open_connections "$ORIGIN_HTTPS")
    before=$(status_kib VmRSS "$PID")
    hold /slow "$count" at-once
    release
    sleep "$SETTLE_SECONDS"
    opened=$(($(open_connections "$ORIGIN_HTTPS") - opened))
    ((opened > 0)) || die "$side keeps no TLS connection to the origin"
    row "TLS connection to an origin" "$side" "$opened" "$before" "$(status_kib VmHWM "$PID")" \
        "$(status_kib VmRSS "$PID")" ""
    end "$PID"
}

# COUNT HTTP/2 connections, each to an origin of its own, after a request each.
http2_row() {
    local count=$1 before opened
    start_side proxy h2
    opened=$(open_connections "$ORIGIN_HTTP2")
    before=$(status_kib VmRSS "$PID")
    hold /body "$count" one-by-one
    release
    sleep "$SETTLE_SECONDS"
    # The first eight origins have theirs from before.
    opened=$(($(open_connections "$ORIGIN_HTTP2") - opened))
    ((opened > 0)) || die "the proxy keeps no HTTP/2 connection to the origin"
    row "HTTP/2 connection and its origin" proxy "$opened" "$before" "$(status_kib VmHWM "$PID")" \
        "$(status_kib VmRSS "$PID")" ""
    end "$PID"
}

# COUNT client connections that made one request each, one after the other.
client_row() {
    local side=$1 count=$2 before idle
    if ((count > CLIENTS_MAX && CLIENTS_MAX * 10 < count * 9)); then
        echo "| client connection | $side | $count | | | | | not run: open files are limited to" \
            "$(ulimit -n) |"
        return
    fi
    # What is short of a round number by less than a tenth says the same.
    if ((count > CLIENTS_MAX)); then count=$CLIENTS_MAX; fi
    start_side "$side" http
    before=$(status_kib VmRSS "$PID")
    hold /body "$count" one-by-one
    sleep "$SETTLE_SECONDS"
    idle=$(status_kib VmRSS "$PID")
    release
    sleep "$SETTLE_SECONDS"
    row "client connection after one request" "$side" "$count" "$before" \
        "$(status_kib VmHWM "$PID")" "$idle" "$(status_kib VmRSS "$PID")"
    end "$PID"
}

make_ca "$WORK" ca
make_cert "$WORK" ca origin DNS:localhost,DNS:*.h2.localhost,IP:127.0.0.1
export SSL_CERT_FILE="$WORK/ca.pem"
start_nginx origin_config "$WORK/origin" 3
read -r ORIGIN_HTTP ORIGIN_HTTPS ORIGIN_HTTP2 <<<"${NGINX_PORTS[*]}"
for pid in $(family "$NGINX_PID"); do taskset -cp 1 "$pid" >/dev/null; done

echo "### Memory a connection"
echo
echo "RSS of the process (worker and master for nginx), in user space only: socket buffers are the" \
    "kernel's. A fresh process for each row; \"idle\" is read $SETTLE_SECONDS s after the last" \
    "request, \"closed\" $SETTLE_SECONDS s after its clients have gone."
echo
echo "| what is idle | side | connections | RSS before, MiB | at most | idle | closed | KiB each |"
echo "|---|---|---:|---:|---:|---:|---:|---:|"
for count in $TLS_CONNECTIONS; do
    for side in $SIDES; do tls_row "$side" "$count"; done
done
# Neither nginx nor many others speak HTTP/2 to an origin.
if [[ " $SIDES " == *" proxy "* ]]; then
    for count in $HTTP2_ORIGINS; do http2_row "$count"; done
fi
for count in $CLIENTS; do
    for side in $SIDES; do client_row "$side" "$count"; done
done
