#!/bin/sh
# The scenarios that `cargo xtask vm` runs in each kernel: real programs, injected delays of 200 ms and more (the machine is
# emulated), one agent. Leaves in /out the spans, and for each scenario `spantap why` of one span and the client's own times; the
# host judges them (xtask/src/vm/scenario.rs, which has the same names, kinds, ports and numbers).
#
#   here (near0 10.99.0.1) --- router "mid" (mid0, mid1: netem) --- namespace "far" (far0 10.99.1.2)
. /task/lib.sh

IP=/task/ip
TC=/task/tc
ACTOR=/task/actor
FAR=10.99.1.2
CGROUPS=/sys/fs/cgroup
IN_FAR="$IP netns exec far"

# Runs a command in cgroup $1.
inside() {
    (
        echo 0 >"$CGROUPS/$1/cgroup.procs"
        shift
        exec "$@"
    )
}
# A server on address $2 in cgroup $1, until the scenario is judged; what follows is put before the actor.
serve() {
    group=$1
    address=$2
    shift 2
    rm -f /tmp/ready
    # Nobody's job, so that no shell reports its end.
    (
        (
            echo 0 >"$CGROUPS/$group/cgroup.procs"
            exec "$@" $ACTOR server "address=$address"
        ) >/tmp/ready &
    )
    until_ok 10 grep -qs ready /tmp/ready || fail "no server on $address"
}
# A client in cgroup $1; its own times are those of scenario $2.
client() {
    group=$1
    name=$2
    shift 2
    inside "$group" $ACTOR client "$@" >"/out/$name.client" || fail "$name: the client failed"
}
spans() { spantap spans --socket $SOCKET --limit 10000 --json >/out/scenarios.jsonl; }
# The spans of kind $1 on port $2: a client's peer, a server's own.
on_port() {
    case $1 in
    client) end=peer ;;
    server) end=local ;;
    esac
    grep "\"kind\":\"$1\"" /out/scenarios.jsonl | grep "\"$end\":\"[^\"]*:$2\""
}
complete() { spans && [ "$(on_port "$1" "$2" | wc -l)" -ge "$3" ]; }
# Start, duration and id of each span on standard input.
ids() {
    awk 'function number(name) {
        match($0, "\"" name "\":[0-9]+")
        return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3)
    }
    match($0, /"span_id":"[0-9a-f]+/) {
        id = substr($0, RSTART + 11, RLENGTH - 11)
        print number("start_unix_ns"), number("duration_ns"), id
    }'
}
names_answer() { nslookup -type=a slow.test $FAR >/dev/null 2>&1; }
# Ends scenario $1, which made $4 spans of kind $2 on port $3, and asks why of the slowest or the last ($5).
judge() {
    killall actor 2>/dev/null
    until_ok 15 complete "$2" "$3" "$4" || echo "guest: $1: $(on_port "$2" "$3" | wc -l) $2 spans of $4 after 15 s"
    case $5 in
    last) key=1 ;;
    slowest) key=2 ;;
    esac
    span=$(on_port "$2" "$3" | ids | sort -n -k $key | tail -n 1 | cut -d' ' -f3)
    if [ -n "$span" ]; then
        spantap why "$span" --socket $SOCKET --json >"/out/$1.why" || fail "$1: why $span failed"
    fi
    echo "guest: $1 done at $(cut -d' ' -f1 /proc/uptime) s"
}
# On the way to the far end.
netem() { $TC -n mid qdisc replace dev mid1 root netem "$@" || fail "netem $*"; }
netem_off() { $TC -n mid qdisc delete dev mid1 root; }

echo "guest: scenarios on Linux $(uname -r)"
for module in veth sch_netem; do
    insmod /task/$module.ko || fail "insmod $module"
done
$IP netns add mid
$IP netns add far
$IP link add near0 type veth peer name mid0 netns mid
$IP -n mid link add mid1 type veth peer name far0 netns far
$IP addr add 10.99.0.1/24 dev near0
$IP -n mid addr add 10.99.0.254/24 dev mid0
$IP -n mid addr add 10.99.1.254/24 dev mid1
$IP -n far addr add $FAR/24 dev far0
$IP link set near0 up
for device in mid0 mid1; do $IP -n mid link set $device up; done
$IP -n far link set far0 up
$IP netns exec mid sysctl -q -w net.ipv4.ip_forward=1
$IP route add 10.99.1.0/24 via 10.99.0.254
$IP -n far route add default via 10.99.1.254

echo "+cpu" >$CGROUPS/cgroup.subtree_control
mkdir $CGROUPS/traced $CGROUPS/throttled $CGROUPS/other
# Only what is selected: with the other end's own times too, a client's network would not be its own finding.
printf 'capture:\n  unselected: none\n' >/tmp/spantap.yaml
start_agent --config /tmp/spantap.yaml --select-cgroup $CGROUPS/traced --select-cgroup $CGROUPS/throttled

# The server takes 300 ms; only the client is traced.
serve other 127.0.0.1:8101
client traced slow_server address=127.0.0.1:8101 path=/sleep/300/ count=4
judge slow_server client 8101 4 last

# The same, and only the server is traced.
serve traced 127.0.0.1:8102
client other sleeping_server address=127.0.0.1:8102 path=/sleep/300/ count=4
judge sleeping_server server 8102 4 last

# 300 ms on the way there; the answer carries the acknowledgement.
serve other $FAR:8103 $IN_FAR
netem delay 300ms
client traced network_delay address=$FAR:8103 count=4
netem_off
judge network_delay client 8103 4 last

# Three of ten packets to the server are lost: of 30 requests at least one with near certainty.
# The losses begin when the connection stands: a lost SYN is another scenario.
serve other $FAR:8104 $IN_FAR
mkdir /tmp/gate
client traced network_loss address=$FAR:8104 count=30 gate=/tmp/gate &
client=$!
until_ok 20 test -e /tmp/gate/connected || fail "network_loss: no connection"
netem loss 30%
touch /tmp/gate/go
wait $client || fail "network_loss: the client failed"
netem_off
judge network_loss client 8104 30 slowest

# 300 ms in the queue of this host's own device.
serve other $FAR:8110 $IN_FAR
$TC qdisc replace dev near0 root netem delay 300ms || fail "netem on near0"
client traced egress_queue address=$FAR:8110 count=4
$TC qdisc delete dev near0 root
judge egress_queue client 8110 4 last

# The answer lies there for 400 ms.
serve other 127.0.0.1:8105
client traced slow_reader address=127.0.0.1:8105 mode=late late_ms=400 count=4
judge slow_reader client 8105 4 last

# Nobody listens.
inside traced $ACTOR client address=127.0.0.1:8106 count=1 2>/dev/null && fail "refused: the client succeeded"
judge refused client 8106 1 last

# Nothing gets through for half a second: the first SYN is lost.
serve other $FAR:8107 $IN_FAR
netem loss 100%
(
    sleep 0.5
    netem_off
) &
client traced syn_lost address=$FAR:8107 count=1
judge syn_lost client 8107 1 last

# The name server is 300 ms away; who is asked for is here.
mkdir -p /etc
echo "root:x:0:0::/:/bin/sh" >/etc/passwd
echo "root:x:0:" >/etc/group
echo "nameserver $FAR" >/etc/resolv.conf
$IN_FAR /task/dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file=/tmp/dnsmasq.pid \
    --listen-address=$FAR --bind-interfaces --address=/slow.test/127.0.0.1 || fail "dnsmasq did not start"
until_ok 10 names_answer || fail "no answer from dnsmasq"
serve other 127.0.0.1:8111
netem delay 300ms
client traced slow_names address=slow.test:8111 count=1
netem_off
judge slow_names client 8111 1 last

# 100 ms of work on a CPU that four others want as well.
for _ in 1 2 3 4; do
    (taskset 1 $ACTOR hog seconds=20 &)
done
serve traced 127.0.0.1:8108 taskset 1
client other busy_cpu address=127.0.0.1:8108 path=/spin/100000/ count=3
judge busy_cpu server 8108 3 last

# 50 ms of work with a tenth of a CPU.
echo "10000 100000" >$CGROUPS/throttled/cpu.max
serve throttled 127.0.0.1:8109
client other throttled address=127.0.0.1:8109 path=/spin/50000/ count=3
judge throttled server 8109 3 last

spans
spantap losses --socket $SOCKET
end_agent
echo "guest: the scenarios ended in order"
