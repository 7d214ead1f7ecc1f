#!/bin/sh
# The disk below the log's file system fails for a moment, again and again, while spans are relayed: writes and reads of its data end in
# EIO, so that a force to disk does, and the kernel forgets what it could not write. Leaves what sender and sink say in /out/eio.said,
# which the host judges (xtask/src/vm/relayed.rs): no acknowledged span is lost. What is looked at here: each failure is noticed and
# counted, and the agent goes on by itself; each other time it is killed after one. The destination is away meanwhile, and what the
# kernel has of the log in memory is dropped, so that spans come from the disk or not at all.
. /task/lib.sh

ROUNDS=4
# Sectors of the disk. The file system's own blocks are before the first of GOOD and never fail, so that it stays in use.
SECTORS=163840
GOOD=17480
DISK=/sys/kernel/config/nullb/eio
DATA=/mnt/eio/data

make_disk() {
    for module in configfs null_blk; do
        grep -q "^$module " /proc/modules || insmod /task/$module.ko nr_devices=0 2>/dev/null || insmod /task/$module.ko ||
            fail "insmod $module"
    done
    grep -q " /sys/kernel/config " /proc/mounts || mount -t configfs configfs /sys/kernel/config || fail "no configfs"
    mkdir $DISK || fail "no disk of the kind"
    echo 1 >$DISK/memory_backed
    echo 0 >$DISK/completion_nsec
    echo $((SECTORS / 2048)) >$DISK/size
    echo 1 >$DISK/power || fail "the disk cannot be switched on"
    # Named like the folder, or in older kernels by its number.
    device=/dev/eio
    [ -b $device ] || device=/dev/nullb$(cat $DISK/index)
    /task/mkfs.ext4 -q -F -b 4096 -N 2048 -O ^resize_inode -J size=8 -E packed_meta_blocks=1,lazy_itable_init=0 "$device" || fail "mkfs"
    mkdir -p /mnt/eio
    mount -t ext4 "$device" /mnt/eio || fail "the disk cannot be mounted"
    # Data is written when it is forced, and never because it is old: what fails is what somebody waits for.
    echo 0 >/proc/sys/vm/dirty_writeback_centisecs
}

# Makes the disk fail (+) or work again (-). The kernel takes at most 512 sectors at a time.
disk() {
    sector=$GOOD
    while [ $sector -lt $SECTORS ]; do
        echo "$1$sector-$((sector + 511))" >$DISK/badblocks || fail "the disk cannot be made to fail or to work"
        sector=$((sector + 512))
    done
}

said() { sed -n "s/^acknowledged //p" /out/eio.sender | tail -n 1; }
# The sender goes on for $1 more spans.
go_on() {
    wanted=$(($(said) + $1))
    until_ok 60 reached || fail "only $(said) of $wanted spans were acknowledged: $(spantap status --socket $SOCKET)"
}
reached() { [ "$(said)" -ge $wanted ]; }
has_failed() { [ "$(figure log_sync_errors_total)" -gt "$failures" ]; }
start() {
    start_agent --no-capture --config /tmp/eio.yaml --receive-otlp-http 127.0.0.1:4318 --metrics 127.0.0.1:9464
}

cat >/tmp/eio.yaml <<'YAML'
export:
  destinations:
    - name: sink
      url: 'otlp+http://127.0.0.1:4319'
      timeout: 1s
      retry: { initial: 20ms, max: 200ms }
      batch: { age: 20ms }
YAML
make_disk
/task/actor otlp_sink address=127.0.0.1:4319 >/out/eio.sink &
SINK=$!
start
/task/actor otlp_sender address=127.0.0.1:4318 >/out/eio.sender &
SENDER=$!
until_ok 30 grep -q acknowledged /out/eio.sender || fail "nothing was acknowledged"
began=$(seconds_up)
round=0
while [ $round -lt $ROUNDS ]; do
    round=$((round + 1))
    go_on 1000
    kill -STOP $SINK
    go_on 1000
    failures=$(figure log_sync_errors_total)
    disk +
    until_ok 30 has_failed || fail "the failure was not noticed"
    disk -
    before=$(said)
    go_on 1000
    echo "guest: EIO $round: $(($(figure log_sync_errors_total) - failures)) forces failed, went on after $before spans"
    # Longer than it takes the log to force the places of destinations again.
    sleep 3
    if [ $((round % 2)) = 0 ]; then
        kill -9 "$AGENT"
        wait "$AGENT" 2>/dev/null
        echo 3 >/proc/sys/vm/drop_caches
        start
    else
        echo 3 >/proc/sys/vm/drop_caches
    fi
    kill -CONT $SINK
done
go_on 1000
took=$(($(seconds_up) - began))
kill $SENDER
wait $SENDER 2>/dev/null
until_ok 60 drained || fail "spans still wait: $(spantap status --socket $SOCKET)"
# Blocks that the kernel forgot: their senders were told, and have sent the spans again.
echo "guest: $(figure 'destination_spans_dropped_total{destination="sink"}') spans not acknowledged were lost from the log"
kill $SINK
wait $SINK 2>/dev/null
end_agent
cat /out/eio.sender /out/eio.sink >/out/eio.said
grep " /mnt/eio ext4 rw" /proc/mounts >/dev/null || fail "the file system has given up"
umount /mnt/eio
echo 0 >$DISK/power
rmdir $DISK
echo "guest: the disk failed $ROUNDS times in $took s; the agent ended in order"
