# shellcheck shell=bash
# For the cases whose origin speaks HTTP/2 to this proxy and HTTP/1.1 to what is behind it: the nginx
# of `run`, and under /trailers an origin that ends its responses with one.
# shellcheck source=tests/peers/lib.sh
. "$PEERS/lib.sh"
needs oha python3
needs_origin http

NGINX_PORT=$(host_of http)
NGINX_PORT=${NGINX_PORT##*:}
start "$CASE_DIR/trailers.log" "$PEERS/trailers_origin.py"
TRAILERS_PORT=$(await_line "$CASE_DIR/trailers.log" '^port ([0-9]+)' "$STARTED_PID")
FRONT_PORT=$(free_ports 1)
export NGINX_PORT TRAILERS_PORT FRONT_PORT
export ORIGIN_front="localhost.ccnproxy-https:$FRONT_PORT"

await_front() {
    await_port "$FRONT_PORT" "$STARTED_PID" || fail "it does not listen: $(tail -n 3 "$1")"
}

# all_answered PATH REQUESTS CLIENTS: every request gets 200, without one error.
all_answered() {
    oha --no-tui --output-format json -n "$2" -c "$3" -H "Host: $ORIGIN_front" \
        "http://127.0.0.1:$PROXY_PORT$1" >"$CASE_DIR/report"
    python3 - "$CASE_DIR/report" "$2" <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
codes, errors = report["statusCodeDistribution"], report["errorDistribution"]
assert codes == {"200": int(sys.argv[2])} and not errors, (codes, errors)
PYTHON
}

# The protocol is what the log of a proxy of its own says; `run` has one that keeps none.
expect_http2() {
    start_proxy "$CASE_DIR/proxy.log" --access-log-format json+ --cores 1
    # All at once on a connection that has said nothing yet.
    all_answered /small 200 200
    grep -q '"proto":"h2"' "$CASE_DIR/proxy.log" || fail "it does not choose HTTP/2"
    if grep -q '"proto":"http/1.1"' "$CASE_DIR/proxy.log"; then fail "some went in HTTP/1.1"; fi
}

check_downloads() {
    head -c 102400 "$FILES/big" >"$FILES/front-100k"
    head -c 10485760 "$FILES/big" >"$FILES/front-10m"
    all_answered /files/front-100k 500 50
    all_answered /files/front-10m 10 10
    expect "10 MiB" "$(through front /files/front-10m | sha256)" "$(sha256 "$FILES/front-10m")"
    rm -f "$FILES/front-100k" "$FILES/front-10m"
}

check_bodies() {
    local wanted
    check_downloads
    cat "$FILES/big" "$FILES/big" "$FILES/big" "$FILES/big" >"$CASE_DIR/huge"
    wanted=$(sha256 "$CASE_DIR/huge")
    expect "256 MiB up" "$(status front /uploads/front -T "$CASE_DIR/huge")" 201
    expect "what arrived" "$(sha256 "$WORK/uploads/front")" "$wanted"
    rm -f "$CASE_DIR/huge"
    mv "$WORK/uploads/front" "$FILES/front"
    expect "256 MiB down" "$(through front /files/front | sha256)" "$wanted"
    rm -f "$FILES/front"
}

# The client sees the trailer behind the last chunk (RFC 9112 §7.1.2).
check_trailers() {
    through front /trailers -H 'TE: trailers' --raw >"$CASE_DIR/trailers"
    grep -q '^x-sum: 7' "$CASE_DIR/trailers" || fail "no trailer: $(tail -n 3 "$CASE_DIR/trailers")"
}
