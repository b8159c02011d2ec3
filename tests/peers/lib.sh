# shellcheck shell=bash
# For the cases: how to say what was expected, and how to reach an origin through the proxy.
# `run` exports PROXY_PORT and the origins as they stand in a Host field, for example
# ORIGIN_tls13=localhost.ccnproxy-https:40123. CASE_DIR is the case's own empty directory.
# shellcheck source=scripts/support/common.sh
. "$ROOT/scripts/support/common.sh"

# A case that starts processes of its own leaves none behind.
trap end_all EXIT

fail() {
    echo "$*"
    exit 1
}

skip() {
    echo "$*"
    exit 77
}

needs() {
    local tool
    for tool in "$@"; do have "$tool" || skip "$tool is missing"; done
}

# needs_origin NAME...: an origin whose program could not be installed is not there.
needs_origin() {
    local name variable
    for name in "$@"; do
        variable="ORIGIN_$name"
        [[ ${!variable:-} ]] || skip "the $name origin is missing"
    done
}

# host_of ORIGIN: the Host field that leads to it.
host_of() {
    local name="ORIGIN_$1"
    echo "${!name}"
}

# expect WHAT GOT WANTED
expect() {
    [[ $2 == "$3" ]] || fail "$1 is '$2', not '$3'"
}

# through ORIGIN PATH [CURL ARGUMENT...]: one curl request with a Host field to the proxy.
through() {
    local host path=$2
    host=$(host_of "$1")
    shift 2
    curl -sS --max-time 50 -H "Host: $host" "$@" "http://127.0.0.1:$PROXY_PORT$path"
}

# status ORIGIN PATH [CURL ARGUMENT...]: the response's status alone.
status() {
    through "$@" -o /dev/null -w '%{http_code}'
}

sha256() { sha256sum "$@" | cut -d ' ' -f 1; }

# field NAME FILE: the value of a header field in a file written by curl -D.
field() { tr -d '\r' <"$2" | sed -n "s/^$1: *//Ip"; }

# Most cases speak through curl.
needs curl
