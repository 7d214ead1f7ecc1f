//! Go's `crypto/tls`, found by the table that every Go program carries: `.gopclntab`, also where symbols were stripped.
//!
//! In: an ELF file. Out: [`Point`]s. Called by [`super::functions`]. Limits: programs of Go 1.16 and later; before 1.17 arguments are
//! on the stack, which a function's first instruction shows. A goroutine may move its stack and go on on another thread within a call, so the returns are probed one by
//! one, at each `ret`; a return probe would be found on the stack by Go's own unwinder.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl};
use object::{Object, ObjectSection, read::ReadRef};

use super::functions::{Functions, Point, code_at};

/// A method, what its entry and its returns run, and whether it must be there: the linker leaves out what is not used.
const METHODS: &[(&[u8], [usize; 2], bool)] = &[
    (b"crypto/tls.(*Conn).Read", [0, 2], true),
    (b"crypto/tls.(*Conn).Write", [1, 2], true),
    (b"crypto/tls.(*Conn).clientHandshake", [3, 4], false),
    (b"crypto/tls.(*Conn).serverHandshake", [3, 4], false),
];
/// Programs by that: for arguments in registers, and on the stack.
const PROGRAMS: [[&str; 5]; 2] = [
    ["go_read", "go_write", "go_return", "go_handshake", "go_handshaken"],
    ["go_stack_read", "go_stack_write", "go_stack_return", "go_stack_handshake", "go_stack_handshaken"],
];
/// `mov %fs:-8,%rcx`: before Go 1.17 a function looks for its goroutine first.
const LOOKS_FOR_GOROUTINE: [u8; 9] = [0x64, 0x48, 0x8b, 0x0c, 0x25, 0xf8, 0xff, 0xff, 0xff];
/// Name in output.
pub(super) const STACK: &str = "Go crypto/tls";
/// Most bytes of a function that are decoded.
const FUNCTION_BYTES_MAX: u64 = 64 << 10;
/// Of Go 1.16, 1.18 and 1.20 (internal/abi/symtab.go: `PCLnTabMagic`).
const MAGICS: [u32; 3] = [MAGIC_1_16, 0xffff_fff0, 0xffff_fff1];
const MAGIC_1_16: u32 = 0xffff_fffa;

/// Whether it is a Go program; its probes, if they were found.
pub(super) fn find<'a, R: ReadRef<'a>>(elf: &object::File<'a, R>, data: R) -> Option<Functions> {
    let names = [".gopclntab", ".data.rel.ro.gopclntab"];
    let section = names.into_iter().find_map(|name| elf.section_by_name(name))?;
    let table = Table::new(section.data().ok()?, elf)?;
    let mut points = Vec::new();
    for (name, programs, needed) in METHODS {
        match table.function(name) {
            Some((start, end)) => {
                points.extend(method(elf, data, (start, end.min(start + FUNCTION_BYTES_MAX)), *programs)?);
            }
            None if *needed => return None,
            None => {}
        }
    }
    // The returns first: an entry whose return is not seen would stay open.
    points.sort_by_key(|point: &Point| {
        PROGRAMS.iter().all(|names| names[2] != point.program && names[4] != point.program)
    });
    Some(Functions { stack: STACK, points })
}

/// Entry and returns of a function.
fn method<'a, R: ReadRef<'a>>(
    elf: &object::File<'a, R>,
    data: R,
    (start, end): (u64, u64),
    [entry, returns]: [usize; 2],
) -> Option<Vec<Point>> {
    let (offset, code) = code_at(elf, data, start, end.checked_sub(start)?)?;
    let on_stack = code.starts_with(&LOOKS_FOR_GOROUTINE);
    let programs = PROGRAMS[usize::from(on_stack)];
    let behind = if on_stack { first_branch(&code)? } else { cheapest(&code) };
    let mut points = vec![Point { program: programs[entry], offset: offset + behind, returns: false }];
    let mut decoder = Decoder::with_ip(64, &code, 0, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.code() == Code::INVALID {
            return None; // what follows may be anything
        }
        if instruction.flow_control() == FlowControl::Return {
            points.push(Point { program: programs[returns], offset: offset + instruction.ip(), returns: false });
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

/// Where the prologue jumps away if the stack is too small: the goroutine still is in `rcx`, and the stack as it was.
fn first_branch(code: &[u8]) -> Option<u64> {
    const INSTRUCTIONS_MAX: usize = 6;
    let mut instructions = Decoder::with_ip(64, code, 0, DecoderOptions::NONE).into_iter().take(INSTRUCTIONS_MAX);
    let branch = instructions.find(|instruction| instruction.flow_control() != FlowControl::Next)?;
    (branch.flow_control() == FlowControl::ConditionalBranch).then(|| branch.ip())
}

/// `pcHeader` and what it points to (runtime/symtab.go).
struct Table<'a> {
    bytes: &'a [u8],
    /// Whether entries and what they point to hold addresses, as in Go 1.16, rather than distances from the text's begin.
    addresses: bool,
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
        let addresses = magic == MAGIC_1_16;
        let text = match word(2)? {
            _ if addresses => 0,
            0 => elf.section_by_name(".text")?.address(),
            text => text,
        };
        let count = usize::try_from(word(0)?).ok()?;
        let places = if addresses { [word(2)?, word(6)?] } else { [word(3)?, word(7)?] };
        let [names, functions] = places.map(usize::try_from);
        Some(Self { bytes, addresses, count, text, names: names.ok()?, functions: functions.ok()? })
    }

    /// An address or a distance, as the table has it.
    fn place(&self, at: usize) -> Option<u64> {
        if !self.addresses {
            return self.u32(at).map(u64::from);
        }
        Some(u64::from_le_bytes(self.bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
    }

    /// Addresses of a function's first byte and of the next function's.
    fn function(&self, wanted: &[u8]) -> Option<(u64, u64)> {
        let size = if self.addresses { 8 } else { 4 };
        for index in 0..self.count {
            let entry = self.functions.checked_add(index.checked_mul(2 * size)?)?;
            let facts = self.functions.checked_add(usize::try_from(self.place(entry + size)?).ok()?)?;
            let name = self.names.checked_add(self.u32(facts.checked_add(size)?)? as usize)?;
            let name = self.bytes.get(name..)?;
            if name.starts_with(wanted) && name.get(wanted.len()) == Some(&0) {
                let address = |at| self.text.checked_add(self.place(at)?);
                return Some((address(entry)?, address(entry + 2 * size)?));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_arguments_on_the_stack_the_probe_goes_where_the_goroutine_is_in_a_register() {
        let check = |rest: &[u8], expected| {
            assert_eq!(first_branch(&[&LOOKS_FOR_GOROUTINE, rest].concat()), expected, "{rest:x?}");
        };
        check(&[0x48, 0x3b, 0x61, 0x10, 0x76, 0x20], Some(13)); // cmp 0x10(%rcx),%rsp; jbe
        // lea -0x8(%rsp),%rax; cmp 0x10(%rcx),%rax; jbe
        check(&[0x48, 0x8d, 0x44, 0x24, 0xf8, 0x48, 0x3b, 0x41, 0x10, 0x0f, 0x86, 0, 1, 0, 0], Some(18));
        check(&[0xe8, 0, 0, 0, 0], None);
        check(&[], None);
    }

    #[test]
    fn the_probe_goes_to_the_jump_behind_the_stack_check() {
        let check = |code: &[u8], expected| assert_eq!(cheapest(code), expected, "{code:x?}");
        check(&[0x49, 0x3b, 0x66, 0x10, 0x76, 0x20], 4);
        check(&[0x49, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0, 1, 0, 0], 4);
        check(&[0x49, 0x3b, 0x66, 0x10, 0x90], 0);
        check(&[0x4c, 0x8d, 0x64, 0x24], 0);
    }
}
