//! The commands, by their first byte.

use super::pending::Answer;

/// What a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Query,
    Prepare,
    Execute,
    Fetch,
    Close,
    InitDb,
    ChangeUser,
    /// Another one that is answered, by its name.
    Named(&'static str, Answer),
    /// Nobody answers it.
    Silent,
    /// What follows is a stream.
    Replication,
}

impl Command {
    /// The command of a first byte.
    pub fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            // COM_QUIT, COM_STMT_SEND_LONG_DATA
            0x01 | 0x18 => Self::Silent,
            0x02 => Self::InitDb,
            0x03 => Self::Query,
            0x04 => Self::Named("FIELD_LIST", Answer::Columns),
            0x05 => Self::Named("CREATE_DB", Answer::Results),
            0x06 => Self::Named("DROP_DB", Answer::Results),
            0x07 => Self::Named("REFRESH", Answer::Results),
            0x08 => Self::Named("SHUTDOWN", Answer::Results),
            0x09 => Self::Named("STATISTICS", Answer::Text),
            0x0a => Self::Named("PROCESS_INFO", Answer::Results),
            0x0c => Self::Named("PROCESS_KILL", Answer::Results),
            0x0d => Self::Named("DEBUG", Answer::Results),
            0x0e => Self::Named("PING", Answer::Results),
            0x11 => Self::ChangeUser,
            // COM_BINLOG_DUMP, COM_TABLE_DUMP, COM_BINLOG_DUMP_GTID
            0x12 | 0x13 | 0x1e => Self::Replication,
            0x15 => Self::Named("REGISTER_SLAVE", Answer::Results),
            0x16 => Self::Prepare,
            // MariaDB's COM_STMT_BULK_EXECUTE
            0x17 | 0xfa => Self::Execute,
            0x19 => Self::Close,
            0x1a => Self::Named("STMT_RESET", Answer::Results),
            0x1b => Self::Named("SET_OPTION", Answer::Results),
            0x1c => Self::Fetch,
            0x1f => Self::Named("RESET_CONNECTION", Answer::Results),
            _ => return None,
        })
    }

    /// Whether the server answers it.
    pub fn is_answered(self) -> bool {
        !matches!(self, Self::Silent | Self::Close | Self::Replication)
    }
}
