//! The tables that indices point into (RFC 7541, 2.3): the static one, and the newest entries of the dynamic one.
//!
//! An index counts from the newest entry on, so what the oldest entries are, and whether they were evicted, does not matter
//! for the newer ones: a table of which only the last insertions were seen resolves exactly those. Entries that were not seen, or
//! not kept, are unresolved.

use std::collections::VecDeque;

use super::{
    Malformed,
    field::{Field, Name},
};
use crate::content::Media;

/// Most entries that are kept: as many as a table of the default size can hold.
const ENTRIES_MAX: usize = 128;
/// Most bytes of text that are kept.
const TEXT_BYTES_MAX: usize = 4096;
/// Most memory of a table; a text is never longer than what is kept in all.
pub(super) const MEMORY_BYTES_MAX: usize = ENTRIES_MAX * size_of::<Entry>() + TEXT_BYTES_MAX;
/// What an entry counts beyond its name and value (4.1).
const ENTRY_BYTES: u64 = 32;
/// Size until another one is agreed on (RFC 9113, 6.5.2). That of a table that is older than the agent is not known; its encoder
/// is taken not to insert fields of more than this, unless it says otherwise.
const SIZE_DEFAULT: u64 = 4096;
const STATIC_ENTRIES: u32 = 61;

/// How many bytes a name or value has, if that is not known exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Length {
    pub min: u32,
    pub max: u32,
}

impl Length {
    /// That of a name that is not known, as names are.
    pub const UNKNOWN: Self = Self { min: 0, max: 64 };

    pub const fn exactly(bytes: u32) -> Self {
        Self { min: bytes, max: bytes }
    }
}

#[derive(Debug)]
struct Entry {
    name: Name,
    name_bytes: Length,
    field: Field<Box<str>>,
}

/// The tables of one direction.
#[derive(Debug)]
pub(super) struct Table {
    /// Oldest first.
    entries: VecDeque<Entry>,
    text_bytes: usize,
    size: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), text_bytes: 0, size: SIZE_DEFAULT }
    }
}

impl Table {
    /// The field at an index.
    pub fn field(&self, index: u32) -> Result<Field<&str>, Malformed> {
        match index {
            0 => Err(Malformed),
            1..=STATIC_ENTRIES => Ok(static_field(index)),
            _ => Ok(self.dynamic(index).map_or(Field::Unresolved, |entry| entry.field.tell())),
        }
    }

    /// The name at an index, which is not 0, and its length.
    pub fn name(&self, index: u32) -> (Name, Length) {
        match (STATIC_NAMES.get(index as usize), self.dynamic(index)) {
            (Some((name, bytes)), _) => (*name, Length::exactly((*bytes).into())),
            (None, Some(entry)) => (entry.name, entry.name_bytes),
            (None, None) => (Name::Unresolved, Length::UNKNOWN),
        }
    }

    fn dynamic(&self, index: u32) -> Option<&Entry> {
        let age = index.checked_sub(STATIC_ENTRIES + 1)? as usize;
        self.entries.get(self.entries.len().checked_sub(age + 1)?)
    }

    /// How a field of this length changes the table.
    pub fn fits(&self, name: Length, value: Length) -> Fits {
        let size = |name: u32, value: u32| ENTRY_BYTES + u64::from(name) + u64::from(value);
        if size(name.max, value.max) <= self.size {
            Fits::Yes
        } else if size(name.min, value.min) > self.size {
            Fits::No
        } else {
            Fits::Unknown
        }
    }

    /// Adds the newest entry.
    pub fn insert(&mut self, name: Name, name_bytes: Length, field: Field<Box<str>>) {
        let bytes = field.text_bytes();
        while self.entries.len() >= ENTRIES_MAX || self.text_bytes + bytes > TEXT_BYTES_MAX {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.text_bytes -= oldest.field.text_bytes();
        }
        self.text_bytes += bytes;
        self.entries.push_back(Entry { name, name_bytes, field });
    }

    /// Forgets all entries: none is there any more, or it is not known how many newer ones are.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.text_bytes = 0;
    }

    /// The encoder's table has another size. What that evicts is not referred to any more.
    pub fn resize(&mut self, size: u32) {
        self.size = size.into();
        if self.size < ENTRY_BYTES {
            self.clear();
        }
    }
}

/// Whether a field fits into the table; one that does not empties it (4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fits {
    Yes,
    No,
    Unknown,
}

/// RFC 7541, appendix A, as far as a field says something here.
const fn static_field(index: u32) -> Field<&'static str> {
    match index {
        2 => Field::Method("GET"),
        3 => Field::Method("POST"),
        4 => Field::Path("/"),
        5 => Field::Path("/index.html"),
        6 => Field::Scheme("http"),
        7 => Field::Scheme("https"),
        8 => Field::Status(200),
        9 => Field::Status(204),
        10 => Field::Status(206),
        11 => Field::Status(304),
        12 => Field::Status(400),
        13 => Field::Status(404),
        14 => Field::Status(500),
        26 => Field::ContentEncoding { encoded: true },
        31 => Field::ContentType { grpc: false, media: Media::Other },
        _ => Field::Other,
    }
}

/// The same appendix: names, and their lengths. Index 0 is none.
const STATIC_NAMES: [(Name, u8); STATIC_ENTRIES as usize + 1] = {
    const BYTES: [u8; STATIC_ENTRIES as usize + 1] = [
        0, 10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12,
        6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
    ];
    let mut names = [(Name::Other, 0); STATIC_ENTRIES as usize + 1];
    let mut index = 0;
    while index < names.len() {
        let name = match index {
            1 => Name::Authority,
            2 | 3 => Name::Method,
            4 | 5 => Name::Path,
            6 | 7 => Name::Scheme,
            8..=14 => Name::Status,
            26 => Name::ContentEncoding,
            31 => Name::ContentType,
            38 => Name::Host,
            _ => Name::Other,
        };
        names[index] = (name, BYTES[index]);
        index += 1;
    }
    names
};

#[cfg(test)]
mod tests {
    use super::*;

    fn inserted(table: &mut Table, status: u16) {
        table.insert(Name::Status, Length::exactly(7), Field::Status(status));
    }

    #[test]
    fn indices_count_from_the_newest_entry() {
        let mut table = Table::default();
        inserted(&mut table, 301);
        inserted(&mut table, 302);
        assert_eq!(table.field(62), Ok(Field::Status(302)));
        assert_eq!(table.field(63), Ok(Field::Status(301)));
        assert_eq!(table.field(64), Ok(Field::Unresolved));
        assert_eq!(table.name(63), (Name::Status, Length::exactly(7)));
        assert_eq!(table.name(64).0, Name::Unresolved);
        assert_eq!((table.field(8), table.field(61)), (Ok(Field::Status(200)), Ok(Field::Other)));
        assert_eq!(table.field(0), Err(Malformed));
        table.clear();
        assert_eq!(table.field(62), Ok(Field::Unresolved));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut table = Table::default();
        for status in 0..1000 {
            inserted(&mut table, status);
        }
        assert_eq!(table.field(61 + 128), Ok(Field::Status(872)));
        assert_eq!(table.field(61 + 129), Ok(Field::Unresolved));
        for _ in 0..100 {
            table.insert(Name::Path, Length::exactly(5), Field::Path("x".repeat(1000).into()));
        }
        assert_eq!((table.entries.len(), table.text_bytes), (4, 4000));
    }

    #[test]
    fn a_field_fits_or_not_or_it_is_not_known() {
        let mut table = Table::default();
        let length = |min, max| Length { min, max };
        table.resize(100);
        assert_eq!(table.fits(Length::exactly(10), length(10, 58)), Fits::Yes);
        assert_eq!(table.fits(Length::exactly(10), length(10, 59)), Fits::Unknown);
        assert_eq!(table.fits(Length::exactly(10), length(59, 70)), Fits::No);
    }
}
