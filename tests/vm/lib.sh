# What the guest's checks share: SOCKET; DATA, the folder of the log, which each agent finds empty unless it is set to another. Sets AGENT
# while an agent runs.
set -u

SOCKET=/run/spantap/spantap.sock
DATA=/tmp/data
AGENT=

fail() {
    echo "guest: $1"
    echo "--- the agent's log"
    tail -n 60 /tmp/agent.log
    [ -n "$AGENT" ] && kill -9 "$AGENT" 2>/dev/null
    exit 1
}

seconds_up() { cut -d. -f1 /proc/uptime; }
# Runs a command again and again for $1 seconds, until it succeeds; gives up early when the agent has ended.
until_ok() {
    until=$(($(seconds_up) + $1))
    shift
    while true; do
        "$@" && return 0
        [ -n "$AGENT" ] && ! kill -0 "$AGENT" 2>/dev/null && return 1
        [ "$(seconds_up)" -ge "$until" ] && return 1
        sleep 0.2
    done
}

# What `spantap check` says, once for all checks; shown is what is degraded. The host judges it.
check_host() {
    [ -e /out/check.jsonl ] && return
    spantap check --json >/out/check.jsonl || fail "the agent cannot run here: $(cat /out/check.jsonl)"
    grep '"ok":false' /out/check.jsonl
}

# A metric by its name without prefix; the agent serves them by `--metrics 127.0.0.1:9464`.
figure() { wget -q -O - http://127.0.0.1:9464/metrics | sed -n "s/^spantap_$1 //p"; }
# Whether nothing waits for the destination.
drained() { spantap status --socket $SOCKET --json | tr -d ' ' | grep -q '"queued":0[,}]'; }
answers() { spantap status --socket $SOCKET >/dev/null 2>&1; }

# Starts an agent with these more flags and waits until it answers.
start_agent() {
    rm -rf /tmp/data
    mkdir -p /run/spantap
    chmod 0750 /run/spantap
    # An emulated machine is far slower than the budget of CPU time is meant for.
    SPANTAP_CAPTURE_MAX_CPU_PERCENT=0 spantap run --socket $SOCKET --data-dir "$DATA" "$@" >/tmp/agent.log 2>&1 &
    AGENT=$!
    until_ok 60 answers || fail "the agent ($*) did not answer on its socket"
}

end_agent() {
    kill -TERM "$AGENT"
    wait "$AGENT" || fail "the agent ended with $?"
    AGENT=
}
