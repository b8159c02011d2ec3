# shellcheck shell=bash
# What the scripts share: where things are, how a process is started, awaited and ended.
# Sourced, never run. The sourcing script has set `set -euo pipefail` and ROOT.

TOOLS="$ROOT/target/tools"
VENV="$TOOLS/venv"
# CHOCON_URING names another binary to test or to measure; cargo's is the default.
PROXY_BIN="${CHOCON_URING:-${CARGO_TARGET_DIR:-$ROOT/target}/release/chocon-uring}"
# The project's own tools come first, so that a system-wide copy of another version cannot step in.
# nginx lives in /usr/sbin, which is not on every user's path.
export PATH="$TOOLS/bin:$PATH:/usr/sbin"
# The peers speak to loopback; a proxy from the caller's environment would stand in between.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY all_proxy NO_PROXY no_proxy
export TOOLS VENV PROXY_BIN

have() { command -v "$1" >/dev/null 2>&1; }

die() {
    echo "$*" >&2
    exit 1
}

# Pids started by this shell, ended by `end_all` in its EXIT trap. By pid, so that nobody else's
# nginx is ever hit.
STARTED=()

# start LOG COMMAND...: runs COMMAND in the background, both outputs to LOG; STARTED_PID is its pid.
start() {
    local log=$1
    shift
    # Here and not only by the child, so that whoever awaits a line finds the file.
    : >"$log"
    "$@" >>"$log" 2>&1 </dev/null &
    STARTED_PID=$!
    STARTED+=("$STARTED_PID")
}

# end PID: SIGTERM, five seconds of grace, SIGKILL. A process that has ended already is left alone,
# because its pid may be another's by now.
end() {
    local pid=$1
    grep -qx "$pid" <<<"$(jobs -pr)" || return 0
    kill -TERM "$pid" 2>/dev/null || return 0
    for _ in {1..100}; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

end_all() {
    local pid
    # The newest first: the proxy goes before its origins.
    local i
    for ((i = ${#STARTED[@]} - 1; i >= 0; i--)); do
        pid=${STARTED[i]}
        end "$pid"
    done
    STARTED=()
}

# await_line FILE REGEX PID: waits up to 10 s for the line and prints what group 1 matched.
# Fails at once when PID has ended without it.
await_line() {
    local file=$1 regex=$2 pid=$3 line
    for _ in {1..200}; do
        while IFS= read -r line; do
            if [[ $line =~ $regex ]]; then
                echo "${BASH_REMATCH[1]:-}"
                return 0
            fi
        done <"$file"
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    echo "no line '$regex' in $file; its last lines:" >&2
    tail -n 5 "$file" >&2
    return 1
}

# await_port PORT PID: waits up to 10 s until something listens there.
await_port() {
    for _ in {1..200}; do
        if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return 0; fi
        kill -0 "$2" 2>/dev/null || return 1
        sleep 0.05
    done
    return 1
}

# free_ports N: N ports that the kernel held free a moment ago, for programs that refuse port 0.
free_ports() {
    python3 - "$1" <<'PYTHON'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in held))
PYTHON
}

# What the proxy is started by, for example taskset. It must replace itself with the proxy.
PROXY_RUNNER=()

# start_proxy LOG [FLAG...]: starts the proxy on a kernel-chosen port; sets PROXY_PID, PROXY_PORT.
start_proxy() {
    local log=$1
    shift
    [[ -x $PROXY_BIN ]] || die "no proxy at $PROXY_BIN: run cargo build --release"
    start "$log" "${PROXY_RUNNER[@]}" "$PROXY_BIN" --listen 127.0.0.1 --port 0 "$@"
    PROXY_PID=$STARTED_PID
    PROXY_PORT=$(await_line "$log" 'listening on [^ ]*:([0-9]+)' "$PROXY_PID")
    export PROXY_PID PROXY_PORT
}

# start_nginx CONFIG_FUNCTION DIRECTORY COUNT: writes DIRECTORY/nginx.conf with the function, which
# gets the directory and COUNT ports, and starts nginx on it; sets NGINX_PORTS and NGINX_PID.
# nginx cannot listen on port 0, so another process may take a port in between: three tries.
start_nginx() {
    local config=$1 directory=$2 count=$3
    mkdir -p "$directory"
    for _ in 1 2 3; do
        read -r -a NGINX_PORTS <<<"$(free_ports "$count")"
        "$config" "$directory" "${NGINX_PORTS[@]}" >"$directory/nginx.conf"
        start "$directory/nginx.log" nginx -p "$directory" -c "$directory/nginx.conf" \
            -e "$directory/error.log"
        NGINX_PID=$STARTED_PID
        if await_port "${NGINX_PORTS[0]}" "$NGINX_PID"; then return 0; fi
    done
    tail -n 5 "$directory/nginx.log" >&2
    return 1
}

# The part of nginx.conf that is the same everywhere: one foreground process tree, one directory.
nginx_preamble() {
    local directory=$1 path
    # Started by root, its workers would drop to a user who cannot read a private directory.
    if [[ $(id -u) == 0 ]]; then echo "user root;"; fi
    cat <<NGINX
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid $directory/nginx.pid;
error_log $directory/error.log warn;
events { worker_connections 16384; }
http {
    access_log off;
    default_type application/octet-stream;
    keepalive_timeout 300s;
    keepalive_requests 100000000;
    client_max_body_size 0;
NGINX
    # The compiled-in places of these belong to the system's own nginx.
    for path in client_body proxy fastcgi uwsgi scgi; do
        printf '    %s_temp_path %s;\n' "$path" "$directory/temp-$path"
    done
}

# make_ca DIRECTORY NAME: DIRECTORY/NAME.pem and NAME.key, an authority that lives for a day.
make_ca() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \
        -subj "/CN=throw-away $2" -addext basicConstraints=critical,CA:TRUE \
        -addext keyUsage=critical,keyCertSign,cRLSign \
        -keyout "$1/$2.key" -out "$1/$2.pem" 2>/dev/null
}

# make_cert DIRECTORY CA NAME SAN: DIRECTORY/NAME.pem and NAME.key (ECDSA P-256) signed by CA.
make_cert() {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$3" \
        -keyout "$1/$3.key" -out "$1/$3.csr" 2>/dev/null
    printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n' "$4" \
        >"$1/$3.ext"
    openssl x509 -req -in "$1/$3.csr" -CA "$1/$2.pem" -CAkey "$1/$2.key" -CAcreateserial -days 1 \
        -extfile "$1/$3.ext" -out "$1/$3.pem" 2>/dev/null
}
