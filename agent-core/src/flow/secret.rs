//! What is known of encrypted connections beside their bytes: what a TLS library shows, and that the kernel encrypts.
//!
//! In: a library's call, or a call whose bytes the kernel encrypted. Out: both go to the connection's [`Tls`], or make it what it is.

use std::ops::Range;

use agent_common::{
    message::{CallRecord, flag},
    plaintext::{self, library},
};

use super::{
    Flow, Kind,
    connection::{Direction, Seen},
};
use crate::{
    event::Plaintext,
    exchange::{Context, tls::Tls},
    loss::Loss,
};

impl Flow {
    /// The kernel does the connection's TLS, as it may from some moment of the handshake on: what is inside stays hidden. Neither what
    /// the application moves, nor what its TLS library does, can be placed among the bytes that really move.
    pub(super) fn kernel_encrypts(
        &mut self,
        direction: Direction,
        record: &CallRecord,
        range: Range<u64>,
        context: &mut Context<'_>,
    ) {
        let selected = record.flags & flag::SELECTED != 0;
        if selected && self.connection.tls.replace(Seen::Kernel) != Some(Seen::Kernel) {
            context.losses.add(Loss::KernelTls, 1);
        }
        if record.flags & flag::TLS_CONTROL != 0 {
            // Of the handshake, or a farewell: of no exchange.
            self.connection.side_mut(direction).stream.advance(range.start, range.end);
            return;
        }
        if let Kind::Tls(tls) = &mut self.kind
            && selected
        {
            return tls.encrypted_by_kernel(direction, range, &mut self.connection, context);
        }
        self.become_opaque(false, context);
        self.opaque_bytes(direction, range, context);
    }

    /// What a TLS library gave or got. It says what the connection is, if it was joined too late to show that, or if its bytes moved
    /// inside the library's call. That a thread used a session next after a connection is not enough for one that did not begin as TLS.
    pub(super) fn plaintext(&mut self, plaintext: &mut Plaintext, context: &mut Context<'_>) {
        if self.connection.tls == Some(Seen::Kernel) {
            return; // counted with the connection
        }
        // What NSPR moves need not be encrypted.
        let is_tls = plaintext.record.library != library::NSPR;
        let inside = plaintext.record.flags & plaintext::flag::INSIDE != 0;
        if is_tls && (inside || self.late) && matches!(self.kind, Kind::Opaque(_) | Kind::Undecided(_)) {
            self.connection.facts.role.is_none().then(|| self.connection.facts.guess_role());
            if self.connection.facts.role.is_some() {
                let next = [self.connection.receive.stream.next(), self.connection.send.stream.next()];
                self.kind = Kind::Tls(Box::new(Tls::late(next, &self.connection)));
            }
        }
        match &mut self.kind {
            Kind::Tls(tls) => tls.plaintext(plaintext, &mut self.connection, context),
            _ => context.losses.add(Loss::PlaintextUnplaced, u64::from(is_tls)),
        }
    }
}
