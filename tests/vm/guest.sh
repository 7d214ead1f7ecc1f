#!/bin/sh
# The check that `cargo xtask vm` runs in each kernel, with busybox alone: an HTTP server, a client, and the agent between them.
# Leaves the spans in /out/spans.jsonl; the host judges them (xtask/src/vm/verdict.rs). Then once more by each of the rungs
# `fentry` and `kprobe` that this kernel has; their spans are counted here.
set -u

REQUESTS=20
PORT=8080
SOCKET=/run/spantap/spantap.sock
AGENT=
SPANS=

fail() {
    echo "guest: $1"
    echo "--- the agent's log"
    tail -n 60 /tmp/agent.log
    [ -n "$AGENT" ] && kill -9 "$AGENT" 2>/dev/null
    exit 1
}

# Runs a command up to $1 times, a second apart, until it succeeds; gives up early when the agent has ended.
until_ok() {
    tries=$1
    shift
    while [ "$tries" -gt 0 ]; do
        "$@" && return 0
        [ -n "$AGENT" ] && ! kill -0 "$AGENT" 2>/dev/null && return 1
        tries=$((tries - 1))
        sleep 1
    done
    return 1
}

answers() { spantap status --socket $SOCKET >/dev/null 2>&1; }
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
    rm -rf /tmp/data
    spantap run --socket $SOCKET --data-dir /tmp/data --select-port $PORT "$@" >/tmp/agent.log 2>&1 &
    AGENT=$!
    until_ok 60 answers || fail "the agent ($*) did not answer on its socket"
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

end_agent() {
    kill -TERM "$AGENT"
    wait "$AGENT" || fail "the agent ended with $?"
    AGENT=
}

echo "guest: Linux $(uname -r)"
mkdir -p /srv/www /run/spantap
chmod 0750 /run/spantap
echo "hello from the guest" >/srv/www/item
echo "ok" >/srv/www/warm-up
httpd -p 127.0.0.1:$PORT -h /srv/www || fail "httpd did not start"
until_ok 10 listens || fail "httpd does not answer"

spantap check
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
