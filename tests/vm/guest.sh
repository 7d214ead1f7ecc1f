#!/bin/sh
# The check that `cargo xtask vm` runs in each kernel, with busybox alone: an HTTP server, a client, and the agent between them.
# Leaves the spans in /out/spans.jsonl; the host judges them (xtask/src/vm/verdict.rs). Then once more by each of the rungs
# `fentry` and `kprobe` that this kernel has; their spans are counted here.
. /task/lib.sh

REQUESTS=20
PORT=8080
SPANS=

listens() { wget -q -O /dev/null http://127.0.0.1:$PORT/warm-up; }
of_kind() { grep -c "\"kind\":\"$1\"" "$SPANS"; }
# Not more and not fewer than one span at each end of each request.
complete() {
    spantap spans --socket $SOCKET --protocol http --limit 1000 --json >"$SPANS" || return 1
    [ "$(of_kind client)" -eq $REQUESTS ] && [ "$(of_kind server)" -eq $REQUESTS ]
}
# Whether the hook that is a function is attached by rung $1, and by no better one.
attached_by() {
    spantap status --socket $SOCKET --json | tr -d '\n ' | tr '{' '\n' |
        grep '"name":"tcp_sendmsg_locked"' | grep '"attached":true' | grep -q "\"detail\":\"$1\""
}

# Requests under an agent with these more flags, and their spans in $1.
round() {
    SPANS=$1
    shift
    start_agent --select-port $PORT "$@"
    if [ "${1-}" = --attach ]; then
        attached_by "$2" || fail "tcp_sendmsg_locked is not attached by $2"
    fi
    made=0
    while [ $made -lt $REQUESTS ]; do
        wget -q -O /dev/null http://127.0.0.1:$PORT/item || fail "request $made failed"
        made=$((made + 1))
    done
    until_ok 30 complete || fail "($*) $(wc -l <"$SPANS") spans of $((2 * REQUESTS)) after 30 s"
    sleep 1 # an invented span would come late
    complete || fail "($*) another number of spans than before"
    echo "guest: agent${*:+ }$*: $made requests, $(wc -l <"$SPANS") spans"
}

echo "guest: Linux $(uname -r)"
mkdir -p /srv/www
echo "hello from the guest" >/srv/www/item
echo "ok" >/srv/www/warm-up
httpd -p 127.0.0.1:$PORT -h /srv/www || fail "httpd did not start"
until_ok 10 listens || fail "httpd does not answer"

check_host
# No TLS library is here, but the programs for them load, and attach to the agent's own file.
grep '"name":"tls_libraries"' /out/check.jsonl | grep -q '"ok":true' || fail "TLS libraries cannot be probed"
round /out/spans.jsonl
spantap status --socket $SOCKET
spantap losses --socket $SOCKET
end_agent
echo "guest: the agent ended in order"

# fentry needs the kernel's types, kprobe its perf event.
if [ -e /sys/kernel/btf/vmlinux ]; then
    round /tmp/fentry.jsonl --attach fentry
    end_agent
fi
if [ -e /sys/bus/event_source/devices/kprobe ]; then
    round /tmp/kprobe.jsonl --attach kprobe
    end_agent
fi
