//! Go's `crypto/tls`, found by the table that every Go program carries: `.gopclntab`, also where symbols were stripped.
//!
//! In: an ELF file. Out: [`Point`]s. Called by [`super::functions`]. Limits: programs of Go 1.18 and later, whose arguments are
//! in registers. A goroutine may move its stack and go on on another thread within a call, so the returns are probed one by
//! one, at each `ret`; a return probe would be found on the stack by Go's own unwinder.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl};
use object::{Object, ObjectSection, read::ReadRef};

use super::functions::{Functions, Point, code_at};

const METHODS: &[(&[u8], &str)] = &[(b"crypto/tls.(*Conn).Read", "go_read"), (b"crypto/tls.(*Conn).Write", "go_write")];
/// Name in output.
pub(super) const STACK: &str = "Go crypto/tls";
/// Most bytes of a function that are decoded.
const FUNCTION_BYTES_MAX: u64 = 64 << 10;
/// Of Go 1.18 and 1.20 (internal/abi/symtab.go: `PCLnTabMagic`).
const MAGICS: [u32; 2] = [0xffff_fff0, 0xffff_fff1];

/// Whether it is a Go program; its probes, if they were found.
pub(super) fn find<'a, R: ReadRef<'a>>(elf: &object::File<'a, R>, data: R) -> Option<Functions> {
    let names = [".gopclntab", ".data.rel.ro.gopclntab"];
    let section = names.into_iter().find_map(|name| elf.section_by_name(name))?;
    let table = Table::new(section.data().ok()?, elf)?;
    let mut points = Vec::new();
    for (name, program) in METHODS {
        let (start, end) = table.function(name)?;
        points.extend(method(elf, data, (start, end.min(start + FUNCTION_BYTES_MAX)), program)?);
    }
    // The returns first: an entry whose return is not seen would stay open.
    points.sort_by_key(|point: &Point| point.program != RETURN);
    Some(Functions { stack: STACK, points })
}

const RETURN: &str = "go_return";

/// Entry and returns of a function.
fn method<'a, R: ReadRef<'a>>(
    elf: &object::File<'a, R>,
    data: R,
    (start, end): (u64, u64),
    program: &'static str,
) -> Option<Vec<Point>> {
    let (offset, code) = code_at(elf, data, start, end.checked_sub(start)?)?;
    let mut points = vec![Point { program, offset: offset + cheapest(&code), returns: false }];
    let mut decoder = Decoder::with_ip(64, &code, 0, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.code() == Code::INVALID {
            return None; // what follows may be anything
        }
        if instruction.flow_control() == FlowControl::Return {
            points.push(Point { program: RETURN, offset: offset + instruction.ip(), returns: false });
        }
    }
    (points.len() > 1).then_some(points)
}

/// Behind the comparison of the stack's bound comes a jump, which the kernel carries out itself.
fn cheapest(code: &[u8]) -> u64 {
    // cmp 0x10(%r14),%rsp; jbe
    match code.strip_prefix(&[0x49, 0x3b, 0x66, 0x10]) {
        Some([0x76, ..] | [0x0f, 0x86, ..]) => 4,
        _ => 0,
    }
}

/// `pcHeader` and what it points to (runtime/symtab.go).
struct Table<'a> {
    bytes: &'a [u8],
    count: usize,
    text: u64,
    names: usize,
    functions: usize,
}

impl<'a> Table<'a> {
    fn new<R: ReadRef<'a>>(bytes: &'a [u8], elf: &object::File<'a, R>) -> Option<Self> {
        let word = |index: usize| Some(u64::from_le_bytes(bytes.get(8 + index * 8..16 + index * 8)?.try_into().ok()?));
        let magic = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        // Two zeroes, the length of the shortest instruction, that of a pointer.
        if !MAGICS.contains(&magic) || bytes.get(4..8)? != [0, 0, 1, 8] {
            return None;
        }
        let text = match word(2)? {
            0 => elf.section_by_name(".text")?.address(),
            text => text,
        };
        let count = usize::try_from(word(0)?).ok()?;
        let [names, functions] = [word(3)?, word(7)?].map(usize::try_from);
        Some(Self { bytes, count, text, names: names.ok()?, functions: functions.ok()? })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
    }

    /// Addresses of a function's first byte and of the next function's.
    fn function(&self, wanted: &[u8]) -> Option<(u64, u64)> {
        for index in 0..self.count {
            let entry = self.functions.checked_add(index.checked_mul(8)?)?;
            let facts = self.functions.checked_add(self.u32(entry + 4)? as usize)?;
            let name = self.names.checked_add(self.u32(facts.checked_add(4)?)? as usize)?;
            let name = self.bytes.get(name..)?;
            if name.starts_with(wanted) && name.get(wanted.len()) == Some(&0) {
                let address = |at| Some(self.text + u64::from(self.u32(at)?));
                return Some((address(entry)?, address(entry + 8)?));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_goes_to_the_jump_behind_the_stack_check() {
        let check = |code: &[u8], expected| assert_eq!(cheapest(code), expected, "{code:x?}");
        check(&[0x49, 0x3b, 0x66, 0x10, 0x76, 0x20], 4);
        check(&[0x49, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0, 1, 0, 0], 4);
        check(&[0x49, 0x3b, 0x66, 0x10, 0x90], 0);
        check(&[0x4c, 0x8d, 0x64, 0x24], 0);
    }
}
