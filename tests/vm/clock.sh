#!/bin/sh
# The wall clock jumps by an hour, forth and back, while spans are relayed. Leaves what sender and sink say in /out/clock.said, which
# the host judges (xtask/src/vm/relayed.rs): no acknowledged span is lost. What is looked at here: the log's age does not take spans
# that the destination waits for, a token does not expire, and spans that were made by another clock are counted.
. /task/lib.sh

said() { sed -n "s/^$1 //p" /out/clock.sender | tail -n 1; }
# The sender goes on for $1 more spans.
go_on() {
    wanted=$(($(said acknowledged) + $1))
    until_ok 60 reached || fail "only $(said acknowledged) of $wanted spans were acknowledged"
}
reached() { [ "$(said acknowledged)" -ge $wanted ]; }
jump() { date -s "@$(($(date +%s) + $1))" >/dev/null || fail "the clock cannot be set"; }

cat >/tmp/clock.yaml <<'YAML'
log: { max_age: 30m }
export:
  destinations:
    - name: sink
      url: 'otlp+http://127.0.0.1:4319'
      timeout: 1s
      retry: { initial: 20ms, max: 200ms }
      batch: { age: 20ms }
      auth: { bearer: { command: [sh, -c, 'echo got >>/tmp/tokens; echo token'], expires_after: 30m } }
YAML
/task/actor otlp_sink address=127.0.0.1:4319 >/out/clock.sink &
SINK=$!
start_agent --no-capture --config /tmp/clock.yaml --receive-otlp-http 127.0.0.1:4318 --metrics 127.0.0.1:9464
/task/actor otlp_sender address=127.0.0.1:4318 >/out/clock.sender &
SENDER=$!
until_ok 30 grep -q acknowledged /out/clock.sender || fail "nothing was acknowledged"
go_on 1000

# An hour on: what is in the log is older than it may be, and the destination does not have it.
kill -STOP $SINK
go_on 1000
jump 3600
# Longer than it takes the log to look for what is too old.
sleep 3
go_on 1000
kill -CONT $SINK
go_on 1000

# Back, between the moment in which a request is made and the one in which it is read. The other sender has one that was made before as
# well, unless it was just being worked on.
kill -STOP "$AGENT"
/task/actor otlp_sender address=127.0.0.1:4318 first=1000000 count=100 >/tmp/early.sender &
EARLY=$!
sleep 1
jump -3600
kill -CONT "$AGENT"
wait $EARLY
go_on 1000
skewed=$(figure relayed_spans_skewed_total)
[ "$skewed" = 100 ] || [ "$skewed" = 200 ] || fail "$skewed spans of another clock, not 100 or 200"

# And an hour back.
jump -3600
go_on 1000
jump 3600
go_on 1000
kill $SENDER
wait $SENDER 2>/dev/null
until_ok 60 drained || fail "spans still wait: $(spantap status --socket $SOCKET)"
[ "$(wc -l </tmp/tokens)" = 1 ] || fail "$(wc -l </tmp/tokens) tokens were made; by its own clock the first is good for half an hour"
[ "$(figure 'destination_spans_dropped_total{destination="sink"}')" = 0 ] || fail "spans were dropped"
kill $SINK
wait $SINK 2>/dev/null
end_agent
cat /out/clock.sender /out/clock.sink >/out/clock.said
echo "guest: the clock jumped; the agent ended in order"
