#!/bin/sh
# The scenarios that `cargo xtask vm` runs in each kernel: real programs, injected delays of 200 ms and more (the machine is
# emulated), one agent. Leaves in /out the spans, and for each scenario `spantap why` of a span, the clients' and servers' own
# times; the host judges them by scenarios.toml (xtask/src/vm/scenario.rs), which has the same names.
. /task/rig.sh

# The server takes 300 ms; only the client is traced.
remote_slow() {
    serve server other 127.0.0.1:8101 log=1
    client traced address=127.0.0.1:8101 path=/sleep/300/ count=4
}
# In the handler, and only the server is traced: a sleep, a mutex, a poll, another server, a disk that takes 100 ms per block.
blocked_sleep() {
    serve server traced 127.0.0.1:8102 log=1
    client other address=127.0.0.1:8102 path=/sleep/300/ count=4
}
blocked_lock() {
    serve server traced 127.0.0.1:8103 log=1
    client other address=127.0.0.1:8103 path=/lock/300/ count=3
}
blocked_poll() {
    serve server traced 127.0.0.1:8104 log=1
    client other address=127.0.0.1:8104 path=/poll/300/ count=3
}
blocked_downstream() {
    serve behind traced 127.0.0.1:8106
    serve server traced 127.0.0.1:8105 "log=1 downstream=127.0.0.1:8106"
    client other address=127.0.0.1:8105 path=/call/sleep/300/ count=3
}
blocked_disk() {
    serve server traced 127.0.0.1:8107 "log=1 disk=/dev/nullb0"
    client other address=127.0.0.1:8107 path=/disk/3/ count=3
}

application_cpu() {
    serve server traced 127.0.0.1:8108 log=1
    client other address=127.0.0.1:8108 path=/spin/200000/ count=3
}
# 200 ms of work on a CPU that four others want as well.
cpu_contention_server() {
    for _ in 1 2 3 4; do
        (inside traced taskset 1 $ACTOR hog seconds=20 &)
    done
    serve server traced 127.0.0.1:8109 log=1 taskset 1
    client other address=127.0.0.1:8109 path=/spin/200000/ count=3
}
# The client's CPU belongs to a real-time process for 300 ms of each 400.
cpu_contention_reader() {
    (taskset 2 $ACTOR hog seconds=20 fifo=1 busy_ms=300 idle_ms=100 &)
    serve server other 127.0.0.1:8110 log=1 taskset 1
    inside traced taskset 2 $ACTOR client address=127.0.0.1:8110 path=/sleep/20/ count=6 schedstat=1 >"/out/$NAME.client" ||
        fail "$NAME: the client failed"
}
# 50 ms of work with a tenth of a CPU.
cpu_throttled() {
    echo "10000 100000" >$CGROUPS/throttled/cpu.max
    serve server throttled 127.0.0.1:8111 log=1
    client other address=127.0.0.1:8111 path=/spin/50000/ count=3
}

# 150 ms there and 150 ms back.
network_delay() {
    serve server traced $FAR:8112 log=1 $IN_FAR
    netem delay 150ms
    netem_back delay 150ms
    client traced address=$FAR:8112 count=4
    netem_off
    netem_back_off
}
keepalive() {
    serve server other $FAR:8113 log=1 $IN_FAR
    netem delay 150ms
    netem_back delay 150ms
    client traced address=$FAR:8113 count=4
    netem_off
    netem_back_off
}
# Three of ten packets to the server are lost: of 30 requests at least one with near certainty.
# The losses begin when the connection stands: a lost SYN is another scenario.
network_loss() {
    serve server other $FAR:8114 log=1 $IN_FAR
    client_at_gate traced address=$FAR:8114 count=30
    netem loss 30%
    through_gate
    netem_off
}
# 300 ms in the queue of this host's own device.
egress_queue_netem() {
    serve server other $FAR:8115 log=1 $IN_FAR
    $TC qdisc replace dev near0 root netem delay 300ms || fail "netem on near0"
    client traced address=$FAR:8115 count=4
    $TC qdisc delete dev near0 root
}
# 300 kB at 8 Mbit/s, sent and received.
bucket() { $TC "$@" root tbf rate 8mbit burst 4kb latency 4s || fail "tbf $*"; }
egress_queue() {
    serve server other $FAR:8116 "log=1 rcvbuf=4000000 read_bytes=65536" $IN_FAR
    bucket qdisc replace dev near0
    client traced address=$FAR:8116 method=POST body=300000 sndbuf=2000000 count=3
    $TC qdisc delete dev near0 root
}
transfer_slow() {
    serve server other $FAR:8117 log=1 $IN_FAR
    bucket -n far qdisc replace dev far0
    client traced address=$FAR:8117 path=/big/300000/ read_bytes=65536 count=3
    $TC -n far qdisc delete dev far0 root
}
# 200 kB in flights, one each 200 ms; the server has them 100 ms after they left.
held_cwnd() {
    serve server other $FAR:8118 "log=1 rcvbuf=4000000 read_bytes=65536" $IN_FAR
    netem delay 100ms
    netem_back delay 100ms
    client traced address=$FAR:8118 method=POST body=200000 sndbuf=2000000 congestion=cubic
    netem_off
    netem_back_off
}
# 300 kB at 1 MB/s, as the client asked its kernel for.
held_paced() {
    serve server other $FAR:8119 "log=1 rcvbuf=4000000 read_bytes=65536" $IN_FAR
    client traced address=$FAR:8119 method=POST body=300000 sndbuf=2000000 congestion=cubic pacing=1000000 count=3
}
# The server has room for little and does not read for 300 ms; the client's send buffer takes all of it, or less.
held_peer_window() {
    serve server other 127.0.0.1:8120 "log=1 rcvbuf=32768 read_bytes=65536"
    client traced address=127.0.0.1:8120 method=POST path=/stall/300/ body=200000 sndbuf=2000000 count=3
}
send_buffer_full_peer_window() {
    serve server other 127.0.0.1:8122 "log=1 rcvbuf=32768 read_bytes=65536"
    client traced address=127.0.0.1:8122 method=POST path=/stall/300/ body=300000 sndbuf=65536 schedstat=1 count=3
}
# The send buffer holds less than a path of 200 ms has room for.
send_buffer_full() {
    serve server other $FAR:8121 "log=1 rcvbuf=4000000 read_bytes=65536" $IN_FAR
    netem delay 100ms
    netem_back delay 100ms
    client traced address=$FAR:8121 method=POST body=300000 sndbuf=32768 congestion=cubic schedstat=1
    netem_off
    netem_back_off
}
# The answer lies there for 400 ms.
reader_busy() {
    serve server other 127.0.0.1:8123 log=1
    client traced address=127.0.0.1:8123 mode=late late_ms=400 count=4
}
half_closed() {
    serve server other 127.0.0.1:8124 log=1
    client traced address=127.0.0.1:8124 mode=half_close path=/sleep/300/
}
io_uring() {
    serve server other 127.0.0.1:8125 "log=1 read=uring"
    client traced address=127.0.0.1:8125 mode=uring path=/sleep/300/ count=3
}

# Nobody listens, 300 ms away.
connect_refused() {
    netem delay 300ms
    client traced address=$FAR:8126 fails=1
    netem_off
}
# Nothing gets through for half a second: the first SYN is lost.
connect_syn_lost() {
    serve server other $FAR:8127 log=1 $IN_FAR
    netem loss 100%
    (
        sleep 0.5
        netem_off
    ) &
    client traced address=$FAR:8127
}
# 400 ms there and 400 ms back, until the handshake's packets are on their way: what is delayed already stays so.
connect_slow() {
    serve server other $FAR:8128 log=1 $IN_FAR
    netem delay 400ms
    netem_back delay 400ms
    (
        # A half-open connection is in state 3.
        $IN_FAR timeout 10 sh -c 'until grep -q " 03 " /proc/net/tcp; do sleep 0.02; done'
        netem delay 0
        netem_back delay 0
    ) &
    client traced address=$FAR:8128
    netem_off
    netem_back_off
}
# One SYN and one more, and nothing gets through.
connect_timeout() {
    sysctl -q -w net.ipv4.tcp_syn_retries=1
    # Since Linux 6.5.
    sysctl -q -w net.ipv4.tcp_syn_linear_timeouts=0 2>/dev/null
    netem loss 100%
    client traced address=$FAR:8129 fails=1
    netem_off
    sysctl -q -w net.ipv4.tcp_syn_retries=6
}
# Each accept comes 300 ms late.
accept_queue_wait() {
    serve server traced 127.0.0.1:8130 "log=1 accept_late_ms=300"
    client other address=127.0.0.1:8130 fresh=1 count=3
}
# The queue of connections holds two, and the server takes one each 400 ms: others' SYNs are dropped.
accept_queue_full() {
    serve server traced 127.0.0.1:8131 "log=1 accept_late_ms=400 backlog=1"
    client traced address=127.0.0.1:8131 connections=5 fresh=1 count=1
}
reset_by_peer() {
    serve server traced 127.0.0.1:8132 log=1
    client traced address=127.0.0.1:8132 path=/reset/ fresh=1 fails=1
}
# The server takes 900 ms, and the client waits for 300.
request_abandoned() {
    serve server other 127.0.0.1:8135 log=1
    client traced address=127.0.0.1:8135 path=/sleep/900/ fresh=1 fails=1 patience_ms=300
}

# The name server is 300 ms away; who is asked for is here.
dns_slow() {
    echo "nameserver $FAR" >/etc/resolv.conf
    $IN_FAR /task/dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file=/tmp/dnsmasq.pid \
        --listen-address=$FAR --bind-interfaces --address=/slow.test/127.0.0.1 || fail "dnsmasq did not start"
    until_ok 10 nslookup -type=a slow.test $FAR >/dev/null 2>&1 || fail "no answer from dnsmasq"
    serve server other 127.0.0.1:8133 log=1
    netem delay 300ms
    client traced address=slow.test:8133
    netem_off
    kill "$(cat /tmp/dnsmasq.pid)"
}
# The name server ignores the first query of each type; the resolver asks again after one second.
dns_timeout() {
    printf 'nameserver 127.0.0.1\noptions timeout:1 attempts:3\n' >/etc/resolv.conf
    serve dns other 127.0.0.1:53 "answer=127.0.0.1 drop=1"
    serve server other 127.0.0.1:8134 log=1
    client traced address=lost.test:8134
}

echo "guest: scenarios on Linux $(uname -r)"
check_host
load_modules
make_network
make_groups
mkdir -p /etc
echo "root:x:0:0::/:/bin/sh" >/etc/passwd
echo "root:x:0:" >/etc/group
# Only what is selected: with the other end's own times too, a client's network would not be its own finding. Paths are kept, for
# they name the request.
printf 'redaction:\n  paths: keep\ncapture:\n  unselected: none\n' >/tmp/spantap.yaml
start_agent --config /tmp/spantap.yaml --select-cgroup $CGROUPS/traced --select-cgroup $CGROUPS/throttled
for NAME in $(cut -d' ' -f1 /task/scenarios.list | uniq); do
    $NAME
    judge
done
spans
spantap losses --socket $SOCKET
end_agent
echo "guest: the scenarios ended in order"
