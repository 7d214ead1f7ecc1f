//! The catalogue: every cause with its stable id, what it says, the evidence that it needs, and the next step.
//!
//! Ids are an interface: scripts match on them. They are added, never changed. `docs/causes.md` has this table; a test
//! compares them.

/// One cause of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Stable id.
    pub id: &'static str,
    /// What it says.
    pub title: &'static str,
    /// When it is named.
    pub rule: &'static str,
    /// The next command. `{span}`, `{trace}`, `{peer}` (`address:port`), `{address}` and `{pid}` stand for those of the span.
    pub next: &'static str,
}

macro_rules! catalogue {
    ($($variant:ident: $id:literal, $title:literal, $rule:literal, $next:literal;)*) => {
        /// Why a span took its time, or failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Cause {
            $(#[doc = $title] $variant,)*
        }

        impl Cause {
            /// Every cause, in the order of a request's way.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What the catalogue says of it.
            pub const fn entry(self) -> Entry {
                match self {
                    $(Self::$variant => Entry { id: $id, title: $title, rule: $rule, next: $next },)*
                }
            }
        }
    };
}

catalogue! {
    DnsSlow: "dns_slow", "the name resolver answered late",
        "`dns` is the largest segment, or `network` or `remote` is that of a lookup's own span, and no query was repeated",
        "spantap slow --protocol dns";
    DnsTimeout: "dns_timeout", "a name lookup stayed unanswered for too long",
        "as `dns_slow`, but `spantap.dns.retries` is not 0, for another span that of a lookup that it waited for (seen by `why` only); or a lookup ended with `error.type` `timeout`",
        "spantap spans --protocol dns --status error";
    DnsRefused: "dns_refused", "the name resolver is not there: its host refused the query",
        "a lookup ended with `error.type` `ECONNREFUSED`: an ICMP message said that nothing listens",
        "cat /etc/resolv.conf   (is {peer} the right server, and does it run?)";
    DnsUnreachable: "dns_unreachable", "the query could not be delivered to the name resolver",
        "a lookup ended with another errno as its `error.type`: `EHOSTUNREACH`, `ENETUNREACH`, `EPERM` …",
        "ip route get {address}";
    DnsAbandoned: "dns_abandoned", "the application gave up before the name resolver answered",
        "a lookup ended with `error.type` `lookup_abandoned`: it closed the socket, went on to something else or ended less than 0.9 s after the first query",
        "spantap slow --protocol dns";
    DnsError: "dns_error", "the name resolver gave an error instead of an answer",
        "a lookup's status is `error` and its `error.type` is a code of DNS",
        "spantap spans --protocol dns --status error";
    ConnectRefused: "connect_refused", "the peer refused the connection: nothing listens there",
        "`spantap.connect.errno` is `ECONNREFUSED`",
        "ss -ltn   (on the host of {peer}: does anything listen?)";
    ConnectTimeout: "connect_timeout", "the peer never answered the attempt to connect",
        "`spantap.connect.errno` is `ETIMEDOUT`",
        "spantap top --peer {address} --by cause   (is every connection to it lost? a filter drops silently)";
    ConnectReset: "connect_reset", "the connection was reset before it was established",
        "`spantap.connect.errno` is `ECONNRESET`",
        "spantap spans --peer {address} --status error";
    ConnectAbandoned: "connect_abandoned", "the application gave up before the peer answered",
        "a failed connect's `error.type` is `connect_abandoned`",
        "spantap top --peer {address} --by cause   (is every connection to it slow?)";
    ConnectFailed: "connect_failed", "the connection could not be made",
        "`spantap.connect.errno` is another error",
        "ip route get {address}";
    ConnectSynLost: "connect_syn_lost", "the first packets of the connection were lost",
        "`connect` is the largest segment and `spantap.connect.syn_retransmits` is not 0",
        "ss -ltn   (on the host of {peer}: Recv-Q above Send-Q is a full accept queue; else a filter or the path drops)";
    AcceptQueueFull: "accept_queue_full", "the server does not accept as fast as clients connect: its accept queue is full",
        "as `connect_syn_lost` or `accept_queue_wait`, and a listener at the peer's (own) address was seen with `spantap.accept.backlog` at `spantap.accept.backlog_max`",
        "ss -ltn   (on the server's host: Recv-Q of the listener against Send-Q)";
    ConnectSlow: "connect_slow", "the TCP handshake took long, without a packet lost",
        "`connect` is the largest segment and no SYN was repeated",
        "spantap top --peer {address} --by cause   (is the path always that long?)";
    AcceptQueueWait: "accept_queue_wait", "the server was late to accept the connection",
        "`accept_queue` is the largest segment and the queue was not seen full",
        "spantap trace {trace}";
    TlsHandshakeSlow: "tls_handshake_slow", "the TLS handshake took long",
        "`tls` is the largest segment",
        "spantap top --peer {address} --by cause   (every new connection? then reuse them)";
    TlsHandshakeFailed: "tls_handshake_failed", "the TLS handshake failed",
        "a `tls` span's status is `error` and nothing reset the connection",
        "spantap spans --peer {address} --status error";
    SendBufferFullPeerWindow: "send_buffer_full_peer_window", "the peer did not read: the send buffer was full and the peer's window closed",
        "`send` is the largest segment, and for at least half of it the peer's window had no room (`spantap.tcp.zero_window_ns`, `spantap.tcp.rwnd_limited_ns`)",
        "spantap slow --kind server   (on the host of {peer}: why does it not read?)";
    SendBufferFull: "send_buffer_full", "the call that writes waited for room in the send buffer",
        "`send` is the largest segment, not by the peer's window, and `spantap.tcp.sndbuf_limited_ns` is not 0 or it is longer than 1 ms and copying at 500 MB/s together",
        "ss -tin dst {address}   (cwnd, rtt and delivery rate of the connection)";
    SendSlow: "send_slow", "the call that writes took the longest, and was not seen to wait for room",
        "`send` is the largest segment, without the signs of the two causes above",
        "spantap trace {trace}";
    HeldPeerWindow: "held_peer_window", "the kernel held the bytes back: the peer's window had no room",
        "`held` is the largest segment, and for at least half of it the peer's window had no room (`spantap.tcp.zero_window_ns`, `spantap.tcp.rwnd_limited_ns`)",
        "spantap slow --kind server   (on the host of {peer}: why does it not read?)";
    HeldPaced: "held_paced", "the kernel held the bytes back: sending is paced",
        "`held` is the largest segment, not by the peer's window, and `spantap.tcp.paced_by_application`; or the message's bytes take half of it at `spantap.tcp.pacing_rate` and the congestion window was not the limit",
        "ss -tin dst {address}   (pacing_rate of the connection)";
    HeldCwnd: "held_cwnd", "the kernel held the bytes back: the congestion window was full",
        "`held` is the largest segment, neither by the peer's window nor by the application's pacing, and `spantap.tcp.cwnd_limited`",
        "ss -tin dst {address}   (cwnd and rtt of the connection; an idle connection starts small again)";
    HeldUnknown: "held_unknown", "the kernel held the bytes back, and nothing says why",
        "`held` is the largest segment, without the signs of the three causes above",
        "ss -tin dst {address}";
    EgressQueue: "egress_queue", "the bytes waited in this host's queue for the network device",
        "`queue` is the largest segment",
        "tc -s qdisc   (backlog, drops, a rate limit)";
    NetworkLoss: "network_loss", "packets of the message were lost and had to be sent again",
        "`network` is the largest segment and `spantap.tcp.retransmits` is not 0, or `spantap.tcp.retransmits.shared` (sent again together with an earlier message of the connection); or `remote` is, none of it measured, and the message was sent again",
        "spantap conns --sort retransmits";
    NetworkDelay: "network_delay", "the path to the peer and back took the time",
        "`network` is the largest segment and nothing had to be sent again",
        "spantap top --peer {address} --by cause   (is the path always that long?)";
    RemoteSlow: "remote_slow", "the peer had the request and took long to begin its answer",
        "`remote` is the largest segment",
        "spantap slow --kind server   (on the host of {peer})";
    TransferLoss: "transfer_loss", "packets were lost while the message arrived",
        "`transfer` is the largest segment and `spantap.tcp.out_of_order` is not 0",
        "spantap conns --sort retransmits   (on the host of {peer}, who had to send again)";
    TransferPaused: "transfer_paused", "the peer made pauses while it sent the message",
        "`transfer` is the largest segment, nothing was lost, and for at least half of it the span of the other end, where it was traced too, shows `application`, `off_cpu` or `run_queue` (seen by `why` only)",
        "spantap trace {trace}   (what the other end did meanwhile)";
    TransferHeld: "transfer_held", "the peer's kernel held a part of the message back",
        "`transfer` is the largest segment, nothing was lost, the other end made no pauses, it is at most 14,600 bytes (a first window) or of unknown size, and its span, where it was traced too, says that TCP kept bytes for at least half of it (`spantap.tcp.response.held_ns`; seen by `why` only)",
        "spantap trace {trace}   (does the other end write its answer in small pieces? then TCP_NODELAY, or one write)";
    TransferLarge: "transfer_large", "the message is large, and came as fast as the path and the sender allow",
        "`transfer` is the largest segment, of at least 256 KiB, at 1 MB/s or more",
        "spantap slow --peer {address}";
    TransferSlow: "transfer_slow", "the message came slowly from its first byte to its last",
        "`transfer` is the largest segment, of fewer bytes, or of more at less than 1 MB/s",
        "spantap slow --kind server   (on the host of {peer}: does it produce the message slowly?)";
    SoftirqDelay: "softirq_delay", "this host was late to process received packets",
        "`softirq` is the largest segment",
        "cat /proc/softirqs /proc/net/softnet_stat   (which CPU, and is it squeezed?)";
    ReaderBusy: "reader_busy", "the bytes were here, and the application had not read them",
        "`receive_buffer` is the largest segment; or `transfer` is, and for at least half of it the sender waited for room in this end's receive window (seen by `why` only, from the other end's span)",
        "spantap trace {trace}   (what else did it do then?)";
    WakeupDelay: "wakeup_delay", "the application slept waiting for these bytes and was not woken at once",
        "`wakeup` is the largest segment",
        "spantap check   (which hooks see the wake-up)";
    CpuThrottled: "cpu_throttled", "the cgroup had used up its CPU quota",
        "`run_queue` is the largest segment, at least half of it throttled",
        "cat /proc/{pid}/cgroup   (then cpu.stat and cpu.max of that cgroup)";
    CpuContention: "cpu_contention", "the application was ready to run and waited for a CPU",
        "`run_queue` is the largest segment, less than half of it throttled",
        "cat /proc/pressure/cpu";
    BlockedLock: "blocked_lock", "the application waited for a lock",
        "`off_cpu` is the largest segment, most of it in a futex",
        "cat /proc/{pid}/task/*/wchan   (while it happens)";
    BlockedDisk: "blocked_disk", "the application waited for a disk",
        "`off_cpu` is the largest segment, most of it for a disk",
        "cat /proc/pressure/io";
    BlockedDownstream: "blocked_downstream", "the application waited in a call on a socket, pipe or the like: for an answer from elsewhere",
        "`off_cpu` is the largest segment, most of it in calls on another socket, pipe or the like; or in a poll, of which a client span of the process covers at least half (seen by `why` only)",
        "spantap trace {trace}";
    BlockedSleep: "blocked_sleep", "the application slept by its own wish",
        "`off_cpu` is the largest segment, most of it in a sleep",
        "spantap slow --kind server";
    BlockedPoll: "blocked_poll", "the application waited for whatever event came first",
        "`off_cpu` is the largest segment, most of it in a poll",
        "spantap trace {trace}";
    BlockedOther: "blocked_other", "the application was off the CPU, and the kernel does not say for what",
        "`off_cpu` is the largest segment, most of it of no known kind",
        "cat /proc/{pid}/task/*/wchan   (while it happens)";
    ApplicationCpu: "application_cpu", "the application itself took the time",
        "`application` is the largest segment, at least half of it measured",
        "spantap trace {trace}";
    ApplicationUnwatched: "application_unwatched", "the application had the time; whether it computed or waited was not seen",
        "`application` is the largest segment, less than half of it measured",
        "spantap status   (what is selected: only that is seen whole; of a client nothing is before its first byte)";
    ResetByPeer: "reset_by_peer", "the peer reset the connection",
        "the status is not `ok` and `spantap.tcp.reset_by` is `peer`",
        "spantap spans --peer {address} --status error";
    ResetByLocal: "reset_by_local", "this end reset the connection",
        "the status is not `ok` and `spantap.tcp.reset_by` is `local`",
        "spantap spans --peer {address} --status error";
    ClosedByPeer: "closed_by_peer", "the peer closed the connection before it had sent the whole answer",
        "a client's status is `error` and its `error.type` is `connection_closed`",
        "spantap spans --peer {address} --status error";
    ClosedByLocal: "closed_by_local", "the application closed the connection, or ended, before it had sent the whole answer",
        "a server's status is `error` and its `error.type` is `connection_closed`",
        "ls -d /proc/{pid}   (does it still run?)";
    RequestAbandoned: "request_abandoned", "the application gave up: it closed the connection before it had the whole answer",
        "a client's status is `error` and its `error.type` is `request_abandoned`",
        "spantap top --peer {address} --by cause   (is every request to it slow?)";
    ClientGone: "client_gone", "the client had closed the connection before it had the whole answer",
        "a server's status is `error` and its `error.type` is `client_gone`",
        "spantap top --kind server --by cause   (were others answered as late?)";
    Unexplained: "unexplained", "nothing that was observed says where the time went",
        "`unexplained` is the largest segment",
        "spantap check   (which hooks are missing), and spantap losses";
}

impl Cause {
    /// Its stable id.
    pub const fn id(self) -> &'static str {
        self.entry().id
    }

    /// The one with this id.
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|cause| cause.id() == id)
    }
}
