//! How a connection ended for those who still wait for an answer: what came first decides, not what came of it.
//!
//! In: a [`Connection`]. Out: an [`Ending`] and when it was. Called by [`super::Flow`].

use super::connection::{Connection, Ending, ResetBy, Role};
use crate::exchange::hides_answers;

impl Connection {
    /// How it ended, if it did. `is_done`: it is gone and its last records have had their time, which is `hold_ns`.
    pub(super) fn ending(&self, is_done: bool, hold_ns: u64, now_ns: u64) -> Option<(Ending, u64)> {
        let signs = [self.local_closed_ns, self.reset_ns, self.receive.ended_ns];
        if !is_done && signs.iter().all(Option::is_none) {
            return None;
        }
        let waits = self.receive.stream.waiting_since_ns().is_some();
        if let Some(ns) = self.given_up_ns() {
            // What it had read by then, and is not told of yet, may be the answer.
            let heard_all = !waits && !hides_answers(self);
            return (heard_all || is_done).then_some((Ending::LocalClosed, ns));
        }
        // Who writes to a client that has closed is reset; that it had closed is what ended the exchange.
        let client_closed_ns = self.peer_closed_ns.filter(|_| self.facts.role == Some(Role::Server));
        if let Some(ns) = self.reset_ns.filter(|_| !self.was_left_first()) {
            let closed_ns = client_closed_ns.filter(|_| self.reset_by == Some(ResetBy::Peer));
            return Some(closed_ns.map_or((Ending::Reset, ns), |ns| (Ending::PeerClosed, ns)));
        }
        if let Some(ns) = self.receive.ended_ns.filter(|_| !waits && self.facts.role == Some(Role::Client)) {
            return Some((Ending::PeerClosed, ns));
        }
        // Whether its close was a reset is told just after it.
        if let Some(ns) = self.left_ns()
            && (is_done || (!waits && ns.saturating_add(hold_ns) <= now_ns))
        {
            return Some((Ending::LocalClosed, ns));
        }
        // A client that sends no more may still wait: that a server which closes then had nobody to answer is not known.
        is_done.then(|| (Ending::Gone, self.closed_ns.unwrap_or(now_ns)))
    }

    /// When a server's application closed it, or its process ended, if the client had not ended its side before.
    pub(super) fn left_ns(&self) -> Option<u64> {
        let was_first = |ns: &u64| self.peer_closed_ns.is_none_or(|peer_ns| *ns < peer_ns);
        let answers = self.facts.role == Some(Role::Server) && self.receive.ended_ns.is_none();
        self.local_closed_ns.filter(was_first).filter(|_| answers)
    }

    /// Whether a reset is only what came of the server's close.
    pub(super) fn was_left_first(&self) -> bool {
        let first = self.left_ns().zip(self.reset_ns).is_some_and(|(left_ns, reset_ns)| left_ns < reset_ns);
        first && self.reset_by != Some(ResetBy::Local)
    }

    /// When a client's application closed it, if nothing had ended it before.
    fn given_up_ns(&self) -> Option<u64> {
        let was_open = |ns: &u64| self.reset_ns.is_none_or(|reset_ns| *ns < reset_ns);
        let asks = self.facts.role == Some(Role::Client) && self.receive.ended_ns.is_none();
        let was_first = |ns: &u64| self.peer_closed_ns.is_none_or(|peer_ns| *ns < peer_ns);
        self.local_closed_ns.filter(was_open).filter(was_first).filter(|_| asks)
    }
}
