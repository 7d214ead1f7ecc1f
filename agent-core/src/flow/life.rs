//! What TCP counts over a connection's life, and what of it happened during one exchange.
//!
//! In: the kernel's totals as records bring them, and what was sent again. Out: the totals so far, and [`Deltas`]. Called
//! by [`crate::flow`] (notes), [`crate::exchange::settle`] (takes an exchange's part) and [`super::table`] (tells).

use agent_common::{connection::TcpSnapshot, message::retransmit};

use super::timing::Resent;

/// Totals, and how much of them is told already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// The last that was heard.
    pub latest: TcpSnapshot,
    /// As it was when the last settled exchange was over.
    before: TcpSnapshot,
    out_of_order_before: u32,
    out_of_order: u32,
    /// Segments sent again until it was established.
    handshake: u64,
    /// Segments that were told of one by one, but for those of the handshake.
    resent: u64,
    in_requests: u64,
}

/// Segments sent again, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retransmits {
    /// All.
    pub segments: u64,
    /// Tail loss probes.
    pub tail_loss_probe: u64,
    /// In recovery.
    pub fast: u64,
    /// By the retransmission timer.
    pub timeout: u64,
}

/// What changed from the end of one exchange to the end of the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deltas {
    /// The kernel's view when the exchange's last byte was acknowledged, or could no longer be watched.
    pub after: Option<TcpSnapshot>,
    /// The same of the exchange before, or of the connection's begin; `None` if that is not known.
    pub before: Option<TcpSnapshot>,
    /// How long the send buffer limited.
    pub sndbuf_limited_ns: u64,
    /// How long the peer's window limited.
    pub rwnd_limited_ns: u64,
    /// Segments that arrived out of order.
    pub out_of_order: u64,
}

impl Life {
    /// Takes the kernel's view; views may come out of order.
    pub fn see(&mut self, tcp: &TcpSnapshot) {
        if *tcp != TcpSnapshot::default() && tcp.total_retrans >= self.latest.total_retrans {
            self.latest = *tcp;
        }
        self.out_of_order = self.out_of_order.max(tcp.out_of_order);
    }

    /// A connection that is older than the agent: what was counted before is no exchange's.
    pub fn begin(&mut self, tcp: &TcpSnapshot) {
        self.see(tcp);
        (self.before, self.out_of_order_before) = (*tcp, tcp.out_of_order);
    }

    /// A connection that is told of with its first bytes: what was counted since is the first exchange's, but for what the path
    /// was like.
    pub fn open(&mut self, tcp: &TcpSnapshot) {
        self.see(tcp);
        let TcpSnapshot { srtt_us, rttvar_us, min_rtt_us, cwnd, .. } = *tcp;
        self.before = TcpSnapshot { srtt_us, rttvar_us, min_rtt_us, cwnd, ..TcpSnapshot::default() };
    }

    /// Takes the total of the handshake.
    pub fn handshake(&mut self, segments: u32) {
        self.handshake = self.handshake.max(u64::from(segments));
    }

    /// Takes note of what was sent again.
    pub fn resent(&mut self, segments: u32, reason: u8) {
        let sum = if reason == retransmit::SYN { &mut self.handshake } else { &mut self.resent };
        *sum = sum.saturating_add(u64::from(segments));
    }

    /// Counts what was sent again of an exchange's bytes. If no retransmission was ever told of one by one, the totals
    /// say how many there were while the exchange lasted.
    pub fn take_retransmits(&mut self, of_exchange: impl Iterator<Item = Resent>, by_totals: u32) -> Retransmits {
        let mut sum = Retransmits::default();
        for resent in of_exchange {
            let segments = u64::from(resent.segments);
            sum.segments += segments;
            match resent.reason {
                retransmit::TAIL_LOSS_PROBE => sum.tail_loss_probe += segments,
                retransmit::FAST => sum.fast += segments,
                retransmit::TIMEOUT => sum.timeout += segments,
                _ => {}
            }
        }
        if self.resent == 0 {
            let known = u64::from(self.latest.total_retrans).saturating_sub(self.handshake + self.in_requests);
            sum.segments = u64::from(by_totals).min(known);
        }
        self.in_requests = self.in_requests.saturating_add(sum.segments);
        sum
    }

    /// What happened since the last exchange, of which `after` and `out_of_order` are what was heard at its end.
    pub fn take_deltas(&mut self, after: Option<TcpSnapshot>, out_of_order: Option<u32>) -> Deltas {
        let mut deltas = Deltas { after, ..Deltas::default() };
        if let Some(after) = after {
            let before = std::mem::replace(&mut self.before, after);
            deltas.before = Some(before).filter(|before| *before != TcpSnapshot::default());
            let ms = |after: u32, before: u32| u64::from(after.saturating_sub(before)) * 1_000_000;
            deltas.sndbuf_limited_ns = ms(after.sndbuf_limited_ms, before.sndbuf_limited_ms);
            deltas.rwnd_limited_ns = ms(after.rwnd_limited_ms, before.rwnd_limited_ms);
        }
        if let Some(total) = out_of_order {
            deltas.out_of_order = u64::from(total.saturating_sub(self.out_of_order_before));
            self.out_of_order_before = self.out_of_order_before.max(total);
            self.out_of_order = self.out_of_order.max(total);
        }
        deltas
    }

    /// Whether the kernel counts no retransmission that was not told of.
    pub fn all_told(&self) -> bool {
        self.handshake.saturating_add(self.resent) >= u64::from(self.latest.total_retrans)
    }

    /// Segments retransmitted so far: all, in the handshake, in exchanges. The rest is outside of any.
    pub fn retransmits(&self) -> (u64, u64, u64) {
        let told = self.handshake.saturating_add(self.resent.max(self.in_requests));
        let total = told.max(u64::from(self.latest.total_retrans));
        (total, self.handshake, self.in_requests)
    }

    /// Segments that arrived out of order so far.
    pub fn out_of_order(&self) -> u32 {
        self.out_of_order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resent(segments: u32, reason: u8) -> Resent {
        Resent { start: 0, end: 1, time_ns: 0, segments, reason }
    }

    #[test]
    fn parts_never_exceed_the_total_whatever_comes_first() {
        let mut life = Life::default();
        life.handshake(2);
        life.resent(3, retransmit::FAST);
        life.resent(1, retransmit::TIMEOUT);
        let taken = life.take_retransmits([resent(3, retransmit::FAST)].into_iter(), 9);
        assert_eq!((taken.segments, taken.fast, taken.timeout), (3, 3, 0));
        assert_eq!(life.retransmits(), (6, 2, 3), "one outside, although no total came yet");
        life.see(&TcpSnapshot { total_retrans: 8, ..Default::default() });
        assert_eq!(life.retransmits(), (8, 2, 3));
    }

    #[test]
    fn without_single_retransmissions_the_totals_count() {
        let mut life = Life::default();
        life.see(&TcpSnapshot { total_retrans: 5, ..Default::default() });
        assert_eq!(life.take_retransmits(std::iter::empty(), 4).segments, 4);
        assert_eq!(life.take_retransmits(std::iter::empty(), 4).segments, 1, "writes in flight at once saw the same");
        assert_eq!(life.retransmits(), (5, 0, 5));
    }

    #[test]
    fn what_was_counted_before_the_agent_came_is_no_exchanges() {
        let tcp = |rwnd_limited_ms, sndbuf_limited_ms| TcpSnapshot {
            rwnd_limited_ms,
            sndbuf_limited_ms,
            ..Default::default()
        };
        let mut life = Life::default();
        life.begin(&tcp(500, 7));
        let deltas = life.take_deltas(Some(tcp(700, 9)), Some(3));
        let limited_ns = (deltas.rwnd_limited_ns, deltas.sndbuf_limited_ns);
        assert_eq!((limited_ns, deltas.out_of_order), ((200_000_000, 2_000_000), 3));
        assert_eq!(life.take_deltas(Some(tcp(700, 9)), Some(3)).rwnd_limited_ns, 0);
    }
}
