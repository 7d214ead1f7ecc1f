//! The rules, in the order in which they apply. The catalogue states them in words; `docs/causes.md` shows those.

use super::{
    Cause,
    view::{Sums, View},
};
use crate::span::{
    By,
    SegmentName::{self, *},
    SpanKind, Status,
};

/// A message of at least this many bytes is large...
pub(super) const LARGE_BYTES: u64 = 256 << 10;
/// ...if it also came at this rate at least; below, the rate is the trouble.
pub(super) const LARGE_BYTES_PER_S: u64 = 1_000_000;
/// A call that takes less than this was not seen to wait for room: so long may copying take.
const COPYING_NS: u64 = 1_000_000;
/// Bytes that copying into a socket passes per second at the least.
const COPYING_BYTES_PER_S: u64 = 500_000_000;

/// A cause, and the segment that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The cause.
    pub cause: Cause,
    /// The largest segment; `None`: an error without any.
    pub segment: Option<SegmentName>,
    /// Its length.
    pub duration_ns: u64,
}

/// The cause; `None` if the span shows neither an error nor segments.
pub fn decide(view: &View<'_>) -> Option<Decision> {
    let sums = Sums::of(view.segments);
    let largest = sums.largest();
    let cause = match (error(view), largest) {
        (Some(cause), _) => cause,
        (None, Some((name, ns))) => by_segment(view, name, ns),
        (None, None) => return None,
    };
    Some(Decision { cause, segment: largest.map(|(name, _)| name), duration_ns: largest.map_or(0, |(_, ns)| ns) })
}

/// What ended the exchange.
fn error(view: &View<'_>) -> Option<Cause> {
    if view.status == Status::Ok {
        return None;
    }
    if let Some(errno) = view.text("spantap.connect.errno") {
        return Some(connect_error(&errno));
    }
    let failed = view.status == Status::Error;
    let error_type = if failed { view.text("error.type") } else { None };
    match error_type.as_deref() {
        Some("connect_abandoned") => return Some(Cause::ConnectAbandoned),
        Some("request_abandoned") => return Some(Cause::RequestAbandoned),
        Some("client_gone") => return Some(Cause::ClientGone),
        Some("connection_closed") if view.protocol != "tls" => {
            let local = view.text("spantap.tcp.closed_by").as_deref() == Some("local");
            return Some(if local { Cause::ClosedByLocal } else { Cause::ClosedByPeer });
        }
        _ => {}
    }
    if view.protocol == "dns" && failed {
        return Some(dns_error(error_type.as_deref().unwrap_or_default()));
    }
    match view.text("spantap.tcp.reset_by").as_deref() {
        Some("peer") => return Some(Cause::ResetByPeer),
        Some("local") => return Some(Cause::ResetByLocal),
        _ => {}
    }
    (view.protocol == "tls" && failed).then_some(Cause::TlsHandshakeFailed)
}

fn connect_error(errno: &str) -> Cause {
    match errno {
        "ECONNREFUSED" => Cause::ConnectRefused,
        "ETIMEDOUT" => Cause::ConnectTimeout,
        "ECONNRESET" => Cause::ConnectReset,
        _ => Cause::ConnectFailed,
    }
}

fn dns_error(error_type: &str) -> Cause {
    match error_type {
        "timeout" => Cause::DnsTimeout,
        "ECONNREFUSED" => Cause::DnsRefused,
        "lookup_abandoned" => Cause::DnsAbandoned,
        // No code of DNS looks like an errno.
        errno if errno.starts_with('E') => Cause::DnsUnreachable,
        _ => Cause::DnsError,
    }
}

fn by_segment(view: &View<'_>, name: SegmentName, ns: u64) -> Cause {
    let is_lookup = view.protocol == "dns" && view.kind == SpanKind::Client;
    match name {
        Dns => dns(view),
        Network | Remote if is_lookup => dns(view),
        Connect => connect(view),
        AcceptQueue if accept_queue_full(view) => Cause::AcceptQueueFull,
        AcceptQueue => Cause::AcceptQueueWait,
        Tls => Cause::TlsHandshakeSlow,
        Send => send(view, ns),
        Held => held(view, ns),
        Queue => Cause::EgressQueue,
        Network if retransmitted(view) => Cause::NetworkLoss,
        Network => Cause::NetworkDelay,
        // The ACK was not seen on its own: that the request had to be sent again took its time from what is derived to be the peer's.
        Remote if retransmitted(view) && !any_measured(view, Remote) => Cause::NetworkLoss,
        Remote => Cause::RemoteSlow,
        Transfer => transfer(view, ns),
        Softirq => Cause::SoftirqDelay,
        ReceiveBuffer => Cause::ReaderBusy,
        Wakeup => Cause::WakeupDelay,
        RunQueue if blocked_by(view, By::Throttled) * 2 >= ns => Cause::CpuThrottled,
        RunQueue => Cause::CpuContention,
        OffCpu => off_cpu(view),
        Application if super::view::grades(view.segments, Application)[0].saturating_mul(2) >= ns => {
            Cause::ApplicationCpu
        }
        Application => Cause::ApplicationUnwatched,
        Unexplained => Cause::Unexplained,
    }
}

fn dns(view: &View<'_>) -> Cause {
    let own = view.int("spantap.dns.retries").unwrap_or(0);
    let unanswered = view.around.lookup.map_or(0, |(_, unanswered)| unanswered);
    if own.max(unanswered) > 0 { Cause::DnsTimeout } else { Cause::DnsSlow }
}

fn connect(view: &View<'_>) -> Cause {
    match view.int("spantap.connect.syn_retransmits") {
        Some(1..) if accept_queue_full(view) => Cause::AcceptQueueFull,
        Some(1..) => Cause::ConnectSynLost,
        _ => Cause::ConnectSlow,
    }
}

/// The listener that this span waited for, or was accepted from: how full, and the most that it keeps.
pub(super) fn accept_queue(view: &View<'_>) -> Option<(u64, u64)> {
    let own = || Some((view.int("spantap.accept.backlog")?, view.int("spantap.accept.backlog_max")?));
    view.around.accept_queue.or_else(own)
}

fn accept_queue_full(view: &View<'_>) -> bool {
    // The kernel lets one more in than the maximum says; at accept's return one has just left.
    accept_queue(view).is_some_and(|(backlog, max)| max > 0 && backlog >= max)
}

/// The time in which the peer's window had no room for more.
pub(super) fn window_limited_ns(view: &View<'_>) -> u64 {
    let ns = |key| view.int(key).unwrap_or(0);
    ns("spantap.tcp.zero_window_ns").max(ns("spantap.tcp.rwnd_limited_ns"))
}

fn send(view: &View<'_>, ns: u64) -> Cause {
    if window_limited_ns(view).saturating_mul(2) >= ns {
        return Cause::SendBufferFullPeerWindow;
    }
    let limited = view.int("spantap.tcp.sndbuf_limited_ns").is_some_and(|limited| limited > 0);
    let copying_ns = time_at(view.leaving_bytes().unwrap_or(0), COPYING_BYTES_PER_S).saturating_add(COPYING_NS);
    if limited || ns >= copying_ns { Cause::SendBufferFull } else { Cause::SendSlow }
}

fn held(view: &View<'_>, ns: u64) -> Cause {
    if window_limited_ns(view).saturating_mul(2) >= ns {
        Cause::HeldPeerWindow
    } else if view.is("spantap.tcp.paced_by_application") == Some(true) {
        Cause::HeldPaced
    } else if view.is("spantap.tcp.cwnd_limited") == Some(true) {
        Cause::HeldCwnd
    } else if paced_ns(view).is_some_and(|paced| paced.saturating_mul(2) >= ns) {
        Cause::HeldPaced
    } else {
        Cause::HeldUnknown
    }
}

/// How long the bytes of the message take at the pacing rate.
pub(super) fn paced_ns(view: &View<'_>) -> Option<u64> {
    let rate = view.int("spantap.tcp.pacing_rate").filter(|rate| *rate > 0)?;
    Some(time_at(view.leaving_bytes()?, rate))
}

fn time_at(bytes: u64, bytes_per_s: u64) -> u64 {
    let ns = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// What TCP sends before it waits for any acknowledgement (RFC 6928).
const INITIAL_WINDOW_BYTES: u64 = 14_600;

fn transfer(view: &View<'_>, ns: u64) -> Cause {
    if view.int("spantap.tcp.out_of_order").is_some_and(|count| count > 0) {
        return Cause::TransferLoss;
    }
    // What the sender waited for is this end's reading.
    if view.around.peer_waited_ns.is_some_and(|waited| waited.saturating_mul(2) >= ns) {
        return Cause::ReaderBusy;
    }
    if view.around.peer_paused_ns.is_some_and(|paused| paused.saturating_mul(2) >= ns) {
        return Cause::TransferPaused;
    }
    // What is larger waits for acknowledgements on any path: that is how TCP finds its pace.
    let is_small = view.arriving_bytes().is_none_or(|bytes| bytes <= INITIAL_WINDOW_BYTES);
    if is_small && view.around.peer_held_ns.is_some_and(|held| held.saturating_mul(2) >= ns) {
        return Cause::TransferHeld;
    }
    let is_large = |bytes: &u64| *bytes >= LARGE_BYTES && rate(*bytes, ns) >= LARGE_BYTES_PER_S;
    if view.arriving_bytes().filter(is_large).is_some() { Cause::TransferLarge } else { Cause::TransferSlow }
}

/// Bytes per second.
pub(super) fn rate(bytes: u64, ns: u64) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(ns.max(1))).unwrap_or(u64::MAX)
}

fn retransmitted(view: &View<'_>) -> bool {
    let some = |key| view.int(key).is_some_and(|count| count > 0);
    some("spantap.tcp.retransmits") || some("spantap.tcp.retransmits.shared")
}

fn any_measured(view: &View<'_>, name: SegmentName) -> bool {
    super::view::grades(view.segments, name)[0] > 0
}

/// Time that went to one thing in particular.
pub(super) fn blocked_by(view: &View<'_>, by: By) -> u64 {
    let tiles = view.segments.iter().filter(|segment| segment.by == Some(by));
    tiles.fold(0, |sum, segment| sum.saturating_add(segment.duration_ns))
}

/// What it was blocked by most; without a word of the kernel: something else.
pub(super) fn largest_by(view: &View<'_>) -> (By, u64) {
    let all = [By::Lock, By::Disk, By::Socket, By::Sleep, By::Poll, By::Other];
    let sums = all.into_iter().map(|by| (by, blocked_by(view, by)));
    let largest = sums.reduce(|largest, other| if other.1 > largest.1 { other } else { largest });
    largest.filter(|(_, ns)| *ns > 0).unwrap_or((By::Other, 0))
}

fn off_cpu(view: &View<'_>) -> Cause {
    let (by, ns) = largest_by(view);
    match by {
        By::Lock => Cause::BlockedLock,
        By::Disk => Cause::BlockedDisk,
        By::Socket => Cause::BlockedDownstream,
        By::Sleep => Cause::BlockedSleep,
        // Whoever waits for many things at once may wait for a call of its own.
        By::Poll if view.around.downstream.is_some_and(|(_, [_, most])| most.saturating_mul(2) >= ns) => {
            Cause::BlockedDownstream
        }
        By::Poll => Cause::BlockedPoll,
        By::Other | By::Throttled => Cause::BlockedOther,
    }
}
