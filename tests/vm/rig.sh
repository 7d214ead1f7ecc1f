# The scenarios' rig: a network, servers, clients, and what is asked of the agent. In: NAME of the scenario, /task/scenarios.list.
#
#   here (near0 10.99.0.1) --- router "mid" (mid0, mid1) --- namespace "far" (far0 10.99.1.2)
. /task/lib.sh

IP=/task/ip
TC=/task/tc
ACTOR=/task/actor
FAR=10.99.1.2
CGROUPS=/sys/fs/cgroup
IN_FAR="$IP netns exec far"

# Modules in the order in which they need each other; not every kernel has all of them as modules.
load_modules() {
    for module in /task/*.ko; do
        case $module in
        */null_blk.ko) parameters="irqmode=2 completion_nsec=100000000 nr_devices=1 gb=1" ;;
        *) parameters= ;;
        esac
        insmod "$module" $parameters || fail "insmod $module"
    done
}

make_network() {
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
    for device in lo far0; do $IP -n far link set $device up; done
    $IP netns exec mid sysctl -q -w net.ipv4.ip_forward=1
    $IP route add 10.99.1.0/24 via 10.99.0.254
    $IP -n far route add default via 10.99.1.254
}

# The scenarios' programs go before the agent and all else, so that only what is injected is slow.
make_groups() {
    echo "+cpu" >$CGROUPS/cgroup.subtree_control
    for group in traced throttled other; do
        mkdir $CGROUPS/$group
        echo 10000 >$CGROUPS/$group/cpu.weight
    done
}

# Runs a command in cgroup $1.
inside() {
    (
        echo 0 >"$CGROUPS/$1/cgroup.procs"
        shift
        exec "$@"
    )
}
# Starts actor $1 (a kind of server) in cgroup $2 on address $3 until the scenario is judged, with the arguments in $4; what follows
# is put before the actor. The lines of a `server` are kept; `behind` is one behind another.
serve() {
    case $1 in
    server) actor=server log=/out/$NAME.server ;;
    behind) actor=server log=/tmp/$NAME.behind ;;
    *) actor=$1 log=/tmp/$NAME.$1 ;;
    esac
    group=$2 address=$3 arguments=${4-}
    shift 3
    [ $# -gt 0 ] && shift
    # Nobody's job, so that no shell reports its end.
    (
        (
            echo 0 >"$CGROUPS/$group/cgroup.procs"
            exec "$@" $ACTOR $actor "address=$address" $arguments
        ) >"$log" &
    )
    until_ok 10 grep -qs ready "$log" || fail "$NAME: no $actor on $address"
}
# A client in cgroup $1; it must succeed.
client() {
    group=$1
    shift
    inside "$group" $ACTOR client "$@" >"/out/$NAME.client" || fail "$NAME: the client failed"
}
# The same with its connection made; then it waits for the file `go`. Its process is CLIENT.
client_at_gate() {
    rm -rf /tmp/gate
    mkdir /tmp/gate
    client "$@" gate=/tmp/gate &
    CLIENT=$!
    until_ok 20 test -e /tmp/gate/connected || fail "$NAME: no connection"
}
through_gate() {
    touch /tmp/gate/go
    wait $CLIENT || fail "$NAME: the client failed"
}

# On the way to the far end; and back.
netem() { $TC -n mid qdisc replace dev mid1 root netem "$@" || fail "netem $*"; }
netem_off() { $TC -n mid qdisc delete dev mid1 root; }
netem_back() { $TC -n mid qdisc replace dev mid0 root netem "$@" || fail "netem $*"; }
netem_back_off() { $TC -n mid qdisc delete dev mid0 root; }

spans() { spantap spans --socket $SOCKET --limit 10000 --json >/out/scenarios.jsonl; }
# The spans of kind $1 and protocol $2 on port $3: a client's peer, a server's own.
of() {
    case $1 in
    client) end=peer ;;
    server) end=local ;;
    esac
    grep "\"kind\":\"$1\"" /out/scenarios.jsonl | grep "\"protocol\":\"$2\"" | grep "\"$end\":\"[^\"]*:$3\""
}
# The server has told of each request that was answered.
told() {
    [ ! -e "/out/$NAME.server" ] && return
    answered=$(grep -c '"status":200' "/out/$NAME.client")
    [ "$(grep -c '"path"' "/out/$NAME.server")" -ge "$answered" ]
}
complete() { spans && [ "$(of "$1" "$2" "$3" | wc -l)" -ge "$4" ]; }
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
# Ends the scenario and asks the agent for what is expected of it: a line of the list is name, kind, protocol, port, spans, ask.
judge() {
    until_ok 5 told || echo "guest: $NAME: the server told of too few requests"
    killall actor 2>/dev/null
    grep "^$NAME " /task/scenarios.list >/tmp/expected
    while read -r _ kind protocol port count ask; do
        until_ok 20 complete "$kind" "$protocol" "$port" "$count" ||
            echo "guest: $NAME: $(of "$kind" "$protocol" "$port" | wc -l) $kind spans of $count after 20 s"
        case $ask in
        last) key=1 ;;
        slowest) key=2 ;;
        esac
        span=$(of "$kind" "$protocol" "$port" | ids | sort -n -k $key | tail -n 1 | cut -d' ' -f3)
        if [ -n "$span" ]; then
            spantap why "$span" --socket $SOCKET --json >"/out/$NAME.$kind.why" || fail "$NAME: why $span failed"
        fi
    done </tmp/expected
    echo "guest: $NAME done at $(cut -d' ' -f1 /proc/uptime) s"
}
