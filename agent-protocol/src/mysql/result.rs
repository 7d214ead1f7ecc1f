//! One answer, packet by packet: where it ends, how many rows it gives, how it turned out.

use super::{
    pending::Answer,
    wire::{self, Error, Fields, Packet},
};

/// An answer in progress.
#[derive(Debug, Default)]
pub(super) struct Results {
    at: At,
    /// Rows so far, if there are any results with rows.
    pub rows: Option<u64>,
    pub error: Option<Error>,
    /// The last status flags.
    pub status: Option<u16>,
    /// Number of the statement that was prepared.
    pub prepared: Option<u32>,
    /// Whether an `EOF` follows descriptions (`CLIENT_DEPRECATE_EOF` is not set), if that is known.
    pub ends_marked: Option<bool>,
}

/// ```text
///   Head -columns-> Columns -last-> ColumnsEnd -> Rows -end-> done, or Head of the next result
///    |  -file wanted-> Head
///    +-OK, error-> done, or Head
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    /// So many columns are still to be described.
    Columns(u64),
    /// `EOF` may follow, by old clients' wish.
    ColumnsEnd,
    Rows,
    /// What a prepared statement needs and gives.
    Descriptions(Descriptions),
}

/// Descriptions that are still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Descriptions {
    parameters: u16,
    columns: u16,
    /// The last parameter came just now.
    behind_parameters: bool,
}

/// What a packet means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    More,
    /// The client is to send a file.
    File,
    Done,
    /// It was complete before this packet, which is not part of it.
    Over,
}

impl Results {
    /// The next packet of the answer.
    pub fn packet(&mut self, answer: Answer, packet: &Packet<'_>) -> Step {
        let Some(first) = packet.contents.first().copied() else { return self.unseen() };
        if first == 0xff {
            return self.error(packet);
        }
        match (self.at, answer) {
            (At::Head, Answer::Text) => Step::Done,
            (At::Head, Answer::Rows | Answer::Columns) => self.row(packet, first),
            (At::Head, Answer::Login) if matches!(first, 0x01 | 0xfe) => Step::More,
            (At::Head, _) => self.head(answer, packet, first),
            (At::Columns(left), _) => {
                self.at = if left > 1 { At::Columns(left - 1) } else { At::ColumnsEnd };
                Step::More
            }
            (At::ColumnsEnd, _) => self.columns_end(packet, first),
            (At::Rows, _) => self.row(packet, first),
            (At::Descriptions(left), _) => self.description(packet, first, left),
        }
    }

    fn error(&mut self, packet: &Packet<'_>) -> Step {
        let mut fields = Fields::new(&packet.contents[1..]);
        // MariaDB: how far a long statement has come.
        if fields.short() == Some(u16::MAX) {
            return Step::More;
        }
        self.error = Some(wire::error(packet));
        Step::Done
    }

    fn head(&mut self, answer: Answer, packet: &Packet<'_>, first: u8) -> Step {
        match first {
            0 if answer == Answer::Prepared && packet.length >= 12 => self.prepared(packet),
            0 => {
                self.status = wire::ok_status(packet);
                self.next_result()
            }
            0xfb => Step::File,
            0xfe => {
                self.status = wire::end_status(packet);
                self.next_result()
            }
            _ => {
                let mut fields = Fields::new(packet.contents);
                let count = fields.number().unwrap_or(0);
                // MariaDB leaves out columns that the client knows.
                let described = fields.byte() != Some(0);
                self.rows.get_or_insert(0);
                self.at = if described && count > 0 { At::Columns(count) } else { At::ColumnsEnd };
                Step::More
            }
        }
    }

    /// After `OK` or the end of rows.
    fn next_result(&mut self) -> Step {
        self.at = At::Head;
        if self.status.is_some_and(|status| status & wire::STATUS_MORE_RESULTS != 0) { Step::More } else { Step::Done }
    }

    fn columns_end(&mut self, packet: &Packet<'_>, first: u8) -> Step {
        self.at = At::Rows;
        if first != 0xfe || packet.length != wire::EOF_BYTES {
            return self.row(packet, first);
        }
        self.status = wire::end_status(packet);
        // Rows are fetched by commands of their own.
        if self.status.is_some_and(|status| status & wire::STATUS_CURSOR_EXISTS != 0) { Step::Done } else { Step::More }
    }

    fn row(&mut self, packet: &Packet<'_>, first: u8) -> Step {
        if first == 0xfe && packet.length < wire::PACKET_BYTES_MAX {
            self.status = wire::end_status(packet);
            return self.next_result();
        }
        self.rows = Some(self.rows.unwrap_or(0).saturating_add(1));
        Step::More
    }

    fn prepared(&mut self, packet: &Packet<'_>) -> Step {
        let mut fields = Fields::new(&packet.contents[1..]);
        self.prepared = fields.long();
        let (columns, parameters) = (fields.short().unwrap_or(0), fields.short().unwrap_or(0));
        if columns == 0 && parameters == 0 {
            return Step::Done;
        }
        self.at = At::Descriptions(Descriptions { parameters, columns, behind_parameters: false });
        Step::More
    }

    /// A description of a parameter or column, or the `EOF` behind each kind.
    fn description(&mut self, packet: &Packet<'_>, first: u8, mut left: Descriptions) -> Step {
        if first == 0xfe && packet.length == wire::EOF_BYTES {
            if left.parameters == 0 && left.columns == 0 {
                return Step::Done;
            }
            (left.parameters, left.behind_parameters, self.ends_marked) = (0, false, Some(true));
        } else if left.parameters > 0 {
            left.parameters -= 1;
            left.behind_parameters = left.parameters == 0;
        } else if left.columns > 0 {
            if left.behind_parameters {
                self.ends_marked = Some(false);
            }
            left.columns -= 1;
            left.behind_parameters = false;
        } else {
            return Step::Over;
        }
        self.at = At::Descriptions(left);
        let all = left.parameters == 0 && left.columns == 0;
        if all && self.ends_marked == Some(false) { Step::Done } else { Step::More }
    }

    /// Whether it is not known if anything is still to come.
    pub fn may_be_over(&self) -> bool {
        matches!(self.at, At::Descriptions(Descriptions { parameters: 0, columns: 0, .. }))
    }

    /// The number of the `EOF` behind the columns, as seen from the last packet that was.
    pub fn columns_end_at(&self, last: u8) -> Option<u8> {
        match self.at {
            At::Columns(left) => Some(last.wrapping_add(left as u8).wrapping_add(1)),
            At::ColumnsEnd => Some(last.wrapping_add(1)),
            _ => None,
        }
    }

    /// All columns were passed.
    pub fn begin_rows(&mut self) {
        self.at = At::Rows;
    }

    /// A packet of which nothing was captured.
    fn unseen(&mut self) -> Step {
        self.at = At::Rows;
        Step::More
    }
}
