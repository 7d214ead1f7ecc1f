#!/bin/sh
# Connections whose TLS the kernel does (kTLS): OpenSSL's server and client, by TLS 1.2 and 1.3, hand their keys over. Then some whose keys
# stay with OpenSSL, on sockets that are prepared for it all the same: they are seen as ever. Leaves in
# /out/ktls.jsonl the spans, and in /out/ktls.said how many requests were made, how many sessions the kernel says that it had, what the
# agent says of the connections and what it counts; the host judges them (xtask/src/vm/ktls.rs).
. /task/lib.sh

REQUESTS=5
# The host knows it by its port.
PLAIN=8445
export OPENSSL_CONF=/tmp/openssl.cnf

kernel_sessions() { sed -n "s/^$1 *\t*//p" /proc/net/tls_stat | tr -d ' \t'; }
listens() { grep -q "0100007F:$(printf %04X "$1") 00000000:0000 0A" /proc/net/tcp; }
ask() { printf 'GET /item HTTP/1.0\r\n\r\n' | /task/openssl s_client -quiet -ign_eof -servername ktls.test "$1" -connect "127.0.0.1:$2" 2>/tmp/client.err; }
spans() { spantap spans --socket $SOCKET --limit 1000 --json; }
# Spans of both ends of all requests.
complete() { [ "$(spans | grep -c '"tls.client.server_name":"ktls.test"')" -ge $((2 * made)) ]; }

cat >/tmp/openssl.cnf <<'CONF'
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = offload
[offload]
Options = KTLS
[req]
distinguished_name = name
[name]
CONF
for module in $(ls /task/*.ko); do
    insmod "$module" 2>/dev/null
done
[ -e /proc/net/tls_stat ] || fail "the kernel has no TLS"
# The client waits for the answer's end, and that for the file's.
mkdir -p /srv/ktls
head -c 20000 /dev/zero | tr '\0' x >/srv/ktls/item
cd /srv/ktls || fail "no folder"
/task/openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ktls.test -keyout /tmp/key.pem -out /tmp/cert.pem 2>/tmp/req.err ||
    fail "no certificate: $(cat /tmp/req.err)"

check_host
start_agent --select-port 8443 --select-port 8444 --select-port $PLAIN
made=0
for version in -tls1_2:8443 -tls1_3:8444 -tls1_3:$PLAIN; do
    port=${version#*:}
    [ "$port" != $PLAIN ] || export OPENSSL_CONF=/dev/null
    /task/openssl s_server -WWW -quiet -accept "127.0.0.1:$port" -cert /tmp/cert.pem -key /tmp/key.pem 2>/tmp/server.err &
    until_ok 20 listens "$port" || fail "s_server does not listen: $(cat /tmp/server.err)"
    before=$(kernel_sessions TlsTxSw)
    round=0
    while [ $round -lt $REQUESTS ]; do
        [ "$(ask "${version%:*}" "$port" | tail -c 20000 | tr -d -c x | wc -c)" -eq 20000 ] || fail "request $round of $version failed: $(cat /tmp/client.err)"
        round=$((round + 1))
        made=$((made + 1))
    done
    # Every session that sends; those that receive are of TLS 1.2 alone with this OpenSSL.
    [ "$port" = $PLAIN ] && version=-plain:$PLAIN
    echo "sent${version%:*} $(($(kernel_sessions TlsTxSw) - before))" >>/out/ktls.said
done
until_ok 30 complete
sleep 1 # an invented span would come late
spans >/out/ktls.jsonl
echo "received $(kernel_sessions TlsRxSw)" >>/out/ktls.said
echo "made $made" >>/out/ktls.said
echo "covered $(spantap conns --socket $SOCKET --json | grep -c 'the kernel encrypts (kTLS)')" >>/out/ktls.said
echo "counted $(spantap losses --socket $SOCKET --json | tr -d ' \n' | tr '{' '\n' | sed -n 's/.*"reason":"kernel_tls".*"count":\([0-9]*\).*/\1/p')" >>/out/ktls.said
cat /out/ktls.said /proc/net/tls_stat
spantap conns --socket $SOCKET --limit 0 | grep -v unix:; spantap losses --socket $SOCKET
end_agent
