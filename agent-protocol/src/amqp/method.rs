//! Methods: their names, which of them ask and which answer, and what is read of their arguments.

use crate::{fields::Fields, session::Side};

/// Class and method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id(pub(super) u16, pub(super) u16);

pub(super) const START: Id = Id(10, 10);
pub(super) const START_OK: Id = Id(10, 11);
pub(super) const SECURE: Id = Id(10, 20);
pub(super) const SECURE_OK: Id = Id(10, 21);
pub(super) const TUNE: Id = Id(10, 30);
pub(super) const CONNECTION_CLOSE: Id = Id(10, 50);
pub(super) const CHANNEL_CLOSE: Id = Id(20, 40);
pub(super) const EXCHANGE_UNBIND: Id = Id(40, 40);
pub(super) const EXCHANGE_UNBIND_OK: Id = Id(40, 51);
pub(super) const PUBLISH: Id = Id(60, 40);
pub(super) const RETURN: Id = Id(60, 50);
pub(super) const DELIVER: Id = Id(60, 60);
pub(super) const GET: Id = Id(60, 70);
pub(super) const GET_OK: Id = Id(60, 71);
pub(super) const GET_EMPTY: Id = Id(60, 72);
pub(super) const REJECT: Id = Id(60, 90);
pub(super) const NACK: Id = Id(60, 120);

/// What a method that a client asks with looks like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) id: Id,
    pub(super) name: &'static str,
    /// Whether a field that is not used any more comes first.
    reserved: bool,
    /// How many texts follow.
    texts: usize,
    /// Whether the first of them names the exchange or queue that it is about.
    destination: bool,
    /// The bit, in the byte behind the texts, that asks for no answer; 0: there is none.
    no_wait: u8,
}

const fn plain(class: u16, method: u16, name: &'static str) -> Request {
    Request { id: Id(class, method), name, reserved: false, texts: 0, destination: false, no_wait: 0 }
}

const fn about(class: u16, method: u16, name: &'static str, texts: usize, no_wait: u8) -> Request {
    Request { id: Id(class, method), name, reserved: true, texts, destination: true, no_wait }
}

/// What a client asks (AMQP 0-9-1, 1.4, and RabbitMQ's additions).
const REQUESTS: [Request; 29] = [
    plain(10, 11, "connection.start-ok"),
    plain(10, 21, "connection.secure-ok"),
    plain(10, 40, "connection.open"),
    plain(10, 50, "connection.close"),
    plain(10, 70, "connection.update-secret"),
    plain(20, 10, "channel.open"),
    plain(20, 20, "channel.flow"),
    plain(20, 40, "channel.close"),
    plain(30, 10, "access.request"),
    about(40, 10, "exchange.declare", 2, 1 << 4),
    about(40, 20, "exchange.delete", 1, 1 << 1),
    about(40, 30, "exchange.bind", 3, 1),
    about(40, 40, "exchange.unbind", 3, 1),
    about(50, 10, "queue.declare", 1, 1 << 4),
    about(50, 20, "queue.bind", 3, 1),
    about(50, 30, "queue.purge", 1, 1),
    about(50, 40, "queue.delete", 1, 1 << 2),
    about(50, 50, "queue.unbind", 3, 0),
    plain(60, 10, "basic.qos"),
    about(60, 20, "basic.consume", 2, 1 << 3),
    Request { texts: 1, no_wait: 1, ..plain(60, 30, "basic.cancel") },
    about(60, 70, "get", 1, 0),
    plain(60, 110, "basic.recover"),
    Request { no_wait: 1, ..plain(85, 10, "confirm.select") },
    plain(90, 10, "tx.select"),
    plain(90, 20, "tx.commit"),
    plain(90, 30, "tx.rollback"),
    // Nobody answers these two, which say that a message was not dealt with.
    plain(60, 90, "reject"),
    plain(60, 120, "nack"),
];

/// What else a client may send: the end of the handshake, answers to the server, acknowledgements, messages.
const CLIENT_ELSE: [Id; 8] =
    [Id(10, 31), Id(10, 51), Id(20, 21), Id(20, 41), Id(60, 31), Id(60, 80), Id(60, 100), PUBLISH];
/// What a server may send besides answers.
const SERVER_ELSE: [Id; 14] = [
    START,
    SECURE,
    TUNE,
    CONNECTION_CLOSE,
    Id(10, 60),
    Id(10, 61),
    Id(20, 20),
    CHANNEL_CLOSE,
    Id(60, 30),
    RETURN,
    DELIVER,
    Id(60, 80),
    NACK,
    GET_EMPTY,
];

impl Id {
    /// From a method frame's payload, which it takes off.
    pub(super) fn take(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.u16()?, fields.u16()?))
    }

    /// What a client asks with it.
    pub(super) fn request(self) -> Option<&'static Request> {
        REQUESTS.iter().find(|request| request.id == self)
    }

    /// The request that a server answers with it.
    pub(super) fn answered(self) -> Option<Self> {
        let asked = match self {
            EXCHANGE_UNBIND_OK => EXCHANGE_UNBIND,
            Self(10, ..41) => return None,
            Self(_, method) if method % 10 == 1 => Self(self.0, method - 1),
            _ => return None,
        };
        asked.request().map(|request| request.id)
    }

    /// The name of what only servers tell.
    pub(super) const fn told(self) -> Option<&'static str> {
        match self {
            Self(10, 60) => Some("connection.blocked"),
            Self(10, 61) => Some("connection.unblocked"),
            Self(20, 20) => Some("channel.flow"),
            Self(60, 30) => Some("basic.cancel"),
            NACK => Some("nack"),
            _ => None,
        }
    }

    /// Whether this side may send it.
    pub(super) fn is_of(self, from: Side) -> bool {
        match from {
            Side::Client => self.request().is_some() || CLIENT_ELSE.contains(&self),
            Side::Server => self.answered().is_some() || SERVER_ELSE.contains(&self),
        }
    }
}

/// What is read of a request's arguments.
#[derive(Debug, Default)]
pub(super) struct Asked<'a> {
    /// The exchange or the queue that it is about.
    pub(super) destination: Option<&'a [u8]>,
    /// Whether the server is asked not to answer.
    pub(super) no_wait: bool,
}

impl Request {
    /// Reads the arguments, as far as they were captured.
    pub(super) fn read<'a>(&self, mut fields: Fields<'a>) -> Asked<'a> {
        let mut asked = Asked { no_wait: matches!(self.id, REJECT | NACK), ..Asked::default() };
        let _: Option<()> = self.fill(&mut fields, &mut asked);
        asked
    }

    fn fill<'a>(&self, fields: &mut Fields<'a>, asked: &mut Asked<'a>) -> Option<()> {
        fields.skip(if self.reserved { 2 } else { 0 })?;
        for index in 0..self.texts {
            let text = text(fields)?;
            if index == 0 && self.destination {
                asked.destination = Some(text);
            }
        }
        if self.no_wait != 0 {
            asked.no_wait = fields.u8()? & self.no_wait != 0;
        }
        Some(())
    }
}

/// A short string.
pub(super) fn text<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let length = fields.u8()?;
    fields.take(length.into())
}

/// What a close says: the reply's code, and the method that caused it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Close {
    pub(super) code: u16,
    pub(super) cause: Id,
}

impl Close {
    /// Reads the arguments of `connection.close` or `channel.close`.
    pub(super) fn read(mut fields: Fields<'_>) -> Option<Self> {
        let code = fields.u16()?;
        let cause = text(&mut fields).and_then(|_| Id::take(&mut fields)).unwrap_or(Id(0, 0));
        Some(Self { code, cause })
    }
}
