#!/bin/sh
# The check that `cargo xtask vm` runs in each kernel, with busybox alone: an HTTP server, a client, and the agent between them.
# Leaves the spans in /out/spans.jsonl; the host judges them (xtask/src/vm/verdict.rs).
set -u

REQUESTS=20
PORT=8080
SOCKET=/run/spantap/spantap.sock
AGENT=

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
complete() {
    spantap spans --socket $SOCKET --protocol http --limit 1000 --json >/out/spans.jsonl || return 1
    [ "$(wc -l </out/spans.jsonl)" -ge $((2 * REQUESTS)) ]
}

echo "guest: Linux $(uname -r)"
mkdir -p /srv/www /run/spantap /tmp/data
chmod 0750 /run/spantap
echo "hello from the guest" >/srv/www/item
echo "ok" >/srv/www/warm-up
httpd -p 127.0.0.1:$PORT -h /srv/www || fail "httpd did not start"
until_ok 10 listens || fail "httpd does not answer"

spantap check
spantap run --socket $SOCKET --data-dir /tmp/data --select-port $PORT >/tmp/agent.log 2>&1 &
AGENT=$!
until_ok 60 answers || fail "the agent did not answer on its socket"

made=0
while [ $made -lt $REQUESTS ]; do
    wget -q -O /dev/null http://127.0.0.1:$PORT/item || fail "request $made failed"
    made=$((made + 1))
done
echo "guest: $made requests made"

until_ok 30 complete || fail "$(wc -l </out/spans.jsonl) spans of $((2 * REQUESTS)) after 30 s"
sleep 1 # an invented span would come late
complete || fail "spans went away"
spantap status --socket $SOCKET
spantap losses --socket $SOCKET

kill -TERM "$AGENT"
wait "$AGENT" || fail "the agent ended with $?"
echo "guest: the agent ended in order"
