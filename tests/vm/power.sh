#!/bin/sh
# A boot of the check in which the power goes: `power.sh FIRST` relays spans from that number on until it goes, `power.sh deliver` what
# is left. What sender and sink say goes to the serial line that is standard output; the host judges it (xtask/src/vm/power.rs).
. /task/lib.sh

DATA=/mnt/data
cat >/tmp/spantap.yaml <<'YAML'
export:
  destinations:
    - name: sink
      url: 'otlp+http://127.0.0.1:4319'
      retry: { initial: 20ms, max: 200ms }
      batch: { age: 20ms, spans: 500 }
YAML

mkdir -p /mnt
# QEMU's NVMe takes a write that is to be forced (FUA) as any other, so that its log does not tell which ones were. ext4 forces its
# commits so, unless it ends them with a flush.
mount -t ext4 -o data=writeback,journal_async_commit /dev/nvme0n1 /mnt || fail "the disk cannot be mounted"
/task/actor otlp_sink address=127.0.0.1:4319 &
SINK=$!
start_agent --no-capture --config /tmp/spantap.yaml --receive-otlp-http 127.0.0.1:4318

if [ "$1" != deliver ]; then
    exec /task/actor otlp_sender address=127.0.0.1:4318 "first=$1"
fi
until_ok 120 drained || fail "spans still wait: $(spantap status --socket $SOCKET)"
spantap losses --socket $SOCKET | sed 's/^/guest: /'
end_agent
kill $SINK
wait $SINK 2>/dev/null
exit 0
