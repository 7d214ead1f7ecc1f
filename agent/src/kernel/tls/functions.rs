//! Which functions of a file are probed, and where.
//!
//! In: an ELF file. Out: [`Point`]s. Called by [`super::probes`] once per file. Reads symbols only, of the dynamic table and,
//! where there is one, of the full table, so a library that was linked into an executable is found as long as its symbols
//! are there.
//!
//! A probe costs most where the kernel has to step over the instruction that it replaced: some twenty times what it
//! costs on one that the kernel carries out itself (arch/x86/kernel/uprobes.c: `push`, `nop`, jumps and calls). So a probe
//! goes behind a leading `endbr64` if a `push` follows, which leaves arguments and stack as they were. OpenSSL's functions
//! begin with `sub`, but each pair of them does nothing before it calls one and the same inner function, with the arguments of
//! the `_ex` form: that one is probed instead, if it begins with a `push`.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt};

use object::{
    Endianness, Object, ObjectSegment,
    elf::{FileHeader64, SHN_UNDEF, STT_FUNC},
    read::{
        ReadCache, ReadRef,
        elf::{ElfFile64, SectionHeader, Sym, SymbolTable},
    },
};

use iced_x86::{Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, OpAccess, OpKind, Register};

use super::golang;

/// A function, the program that its entry runs, and what it belongs to.
struct Function {
    name: &'static str,
    program: &'static str,
    stack: &'static str,
}

const fn function(name: &'static str, program: &'static str, stack: &'static str) -> Function {
    Function { name, program, stack }
}

/// OpenSSL and what has its interface (BoringSSL, LibreSSL, AWS-LC), GnuTLS, NSS by way of NSPR.
const FUNCTIONS: &[Function] = &[
    function("SSL_read", "tls_read", OPENSSL),
    function("SSL_write", "tls_write", OPENSSL),
    function("SSL_read_ex", "tls_read_ex", OPENSSL),
    function("SSL_write_ex", "tls_write_ex", OPENSSL),
    function("SSL_do_handshake", HANDSHAKE, OPENSSL),
    function("SSL_connect", HANDSHAKE, OPENSSL),
    function("SSL_accept", HANDSHAKE, OPENSSL),
    function("gnutls_handshake", HANDSHAKE, GNUTLS),
    function("gnutls_record_recv", "tls_read", GNUTLS),
    function("gnutls_record_send", "tls_write", GNUTLS),
    function("PR_Read", "nspr_read", NSPR),
    function("PR_Recv", "nspr_read", NSPR),
    function("PR_Write", "nspr_write", NSPR),
    function("PR_Send", "nspr_write", NSPR),
    function("PR_Writev", "nspr_writev", NSPR),
];
/// Tells only that the session is used.
const HANDSHAKE: &str = "tls_handshake";
const OPENSSL: &str = "OpenSSL";
const GNUTLS: &str = "GnuTLS";
const NSPR: &str = "NSPR";

/// What their names begin with.
const PREFIXES: [&[u8]; 3] = [b"SSL_", b"gnutls_", b"PR_"];
/// Most bytes of a name with what ends it.
const NAME_BYTES_MAX: usize = 32;

/// Bytes of a function that are looked at.
const ENTRY_BYTES: u64 = 8;
/// The same, to find what it calls.
const OUTER_BYTES: u64 = 64;

/// Where a program goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Name of the program.
    pub program: &'static str,
    /// Offset in the file.
    pub offset: u64,
    /// Whether the return is probed from the same place.
    pub returns: bool,
}

/// What a file offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Functions {
    /// The library; empty if there is none.
    pub stack: &'static str,
    /// Its probes.
    pub points: Vec<Point>,
}

impl Functions {
    /// Programs that are attached for them, each of which takes a descriptor.
    pub fn programs(&self) -> usize {
        self.points.iter().map(|point| 1 + usize::from(point.returns)).sum()
    }
}

/// Looks for functions in a file. One that is no ELF file has none.
pub fn find(file: &File) -> Functions {
    let cache = ReadCache::new(file);
    let Ok(elf) = object::File::parse(&cache) else { return Functions::default() };
    if let Some(found) = golang::find(&elf, &cache) {
        return found;
    }
    let object::File::Elf64(symbols) = &elf else { return Functions::default() };
    let mut addresses = collect(file, symbols, symbols.elf_dynamic_symbol_table());
    if addresses.is_empty() && is_executable(&elf) {
        addresses = collect(file, symbols, symbols.elf_symbol_table());
    }
    let mut found = Functions::default();
    for (plain, ex) in [(0, 2), (1, 3)] {
        if let (Some(one), Some(other)) = (addresses.get(&plain), addresses.get(&ex))
            && let Some(offset) = inner(&elf, &cache, [*one, *other])
        {
            found.stack = OPENSSL;
            found.points.push(Point { program: FUNCTIONS[ex].program, offset, returns: true });
            addresses.remove(&plain);
            addresses.remove(&ex);
        }
    }
    for (index, address) in addresses {
        let function: &Function = &FUNCTIONS[index];
        let Some((offset, code)) = code_at(&elf, &cache, address, ENTRY_BYTES) else { continue };
        found.stack = function.stack;
        let returns = function.program != HANDSHAKE;
        found.points.push(Point { program: function.program, offset: offset + cheapest(&code), returns });
    }
    found
}

/// Offset in the file of its entry point.
pub fn entry(file: &File) -> Option<u64> {
    let cache = ReadCache::new(file);
    let elf = object::File::parse(&cache).ok()?;
    code_at(&elf, &cache, elf.entry(), 1).map(|(offset, _)| offset)
}

/// A shared library has no interpreter and no entry point; position-independent executables look like one otherwise.
fn is_executable<'a, R: ReadRef<'a>>(elf: &object::File<'a, R>) -> bool {
    elf.entry() != 0
}

/// Addresses of functions, by their index.
fn collect<'a, R: ReadRef<'a>>(
    file: &File,
    elf: &ElfFile64<'a, Endianness, R>,
    symbols: &SymbolTable<'a, FileHeader64<Endianness>, R>,
) -> BTreeMap<usize, u64> {
    let endian = elf.endian();
    let strings = elf.elf_section_table().section(symbols.string_section());
    let names = match strings.ok().and_then(|strings| strings.file_range(endian)) {
        Some((start, length)) if !symbols.is_empty() => names_in(file, start, length),
        _ => return BTreeMap::new(),
    };
    let mut addresses = BTreeMap::new();
    for symbol in symbols.iter() {
        let Some(index) = names.get(&symbol.st_name(endian)) else { continue };
        let defined = symbol.st_type() == STT_FUNC && symbol.st_shndx(endian) != SHN_UNDEF;
        if defined && symbol.st_value(endian) != 0 {
            addresses.entry(*index).or_insert(symbol.st_value(endian));
        }
    }
    addresses
}

/// Where in a table of strings the functions' names begin, and which it is. Looked for in the whole table, since asking each
/// symbol for its name would be two reads of the file for each: a quarter of a second for a program with 50,000.
fn names_in(file: &File, start: u64, length: u64) -> BTreeMap<u32, usize> {
    const CHUNK: usize = 64 << 10;
    let mut names = BTreeMap::new();
    let mut chunk = vec![0; CHUNK + NAME_BYTES_MAX];
    for at in (0..length).step_by(CHUNK) {
        // A name may go on in the next chunk; what was found twice stands in the same place.
        let wanted = chunk.len().min(usize::try_from(length - at).unwrap_or(usize::MAX));
        let Ok(read) = file.read_at(&mut chunk[..wanted], start.saturating_add(at)) else { break };
        for prefix in PREFIXES {
            for found in memchr::memmem::find_iter(&chunk[..read], prefix) {
                let offset = u32::try_from(at + found as u64).ok();
                if let Some((offset, index)) = offset.zip(named(&chunk[found..read])) {
                    names.insert(offset, index);
                }
            }
        }
    }
    names
}

/// Which function's name a string begins with; a version may follow.
fn named(string: &[u8]) -> Option<usize> {
    let end = string.iter().position(|byte| matches!(byte, 0 | b'@'))?;
    FUNCTIONS.iter().position(|function| function.name.as_bytes() == &string[..end])
}

/// Offset in the file of an address, and at most `length` bytes from there.
pub(super) fn code_at<'a, R: ReadRef<'a>>(
    elf: &object::File<'a, R>,
    data: R,
    address: u64,
    length: u64,
) -> Option<(u64, Vec<u8>)> {
    let segment =
        elf.segments().find(|segment| (segment.address()..segment.address() + segment.size()).contains(&address))?;
    let (start, size) = segment.file_range();
    let within = address - segment.address();
    if within >= size {
        return None;
    }
    let offset = start.checked_add(within)?;
    let code = data.read_bytes_at(offset, length.min(size - within)).ok()?;
    Some((offset, code.to_vec()))
}

/// Where to probe the function that both call first, if the arguments are still in place there, and if that costs less.
fn inner<'a, R: ReadRef<'a>>(elf: &object::File<'a, R>, data: R, outer: [u64; 2]) -> Option<u64> {
    let [one, other] = outer.map(|address| {
        let (_, code) = code_at(elf, data, address, OUTER_BYTES)?;
        first_call(&code, address)
    });
    let target = one.filter(|one| other == Some(*one))?;
    let (offset, code) = code_at(elf, data, target, ENTRY_BYTES)?;
    let behind = cheapest(&code);
    is_push(&code[behind as usize..]).then_some(offset + behind)
}

/// Target of the first call, if nothing before it returns, jumps away for sure, or changes the first two arguments.
fn first_call(code: &[u8], address: u64) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut factory = InstructionInfoFactory::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        match instruction.flow_control() {
            FlowControl::Call => {
                return (instruction.op0_kind() == OpKind::NearBranch64).then(|| instruction.near_branch_target());
            }
            FlowControl::Next | FlowControl::ConditionalBranch => {}
            _ => return None,
        }
        let info = factory.info(&instruction);
        let changes = info.used_registers().iter().any(|used| {
            let first = matches!(used.register().full_register(), Register::RDI | Register::RSI);
            first && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None)
        });
        if changes || instruction.is_invalid() {
            return None;
        }
    }
    None
}

const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// How far behind the entry the probe costs least.
fn cheapest(code: &[u8]) -> u64 {
    match code.strip_prefix(&ENDBR64) {
        Some(rest) if is_push(rest) => ENDBR64.len() as u64,
        _ => 0,
    }
}

/// `push` of a register, which the kernel carries out itself.
fn is_push(code: &[u8]) -> bool {
    matches!(code, [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_goes_behind_endbr64_only_if_a_push_follows() {
        let check = |rest: &[u8], expected| assert_eq!(cheapest(&[&ENDBR64, rest].concat()), expected, "{rest:x?}");
        check(&[0x55], 4);
        check(&[0x41, 0x57], 4);
        check(&[0x48, 0x83, 0xec, 0x18], 0);
        check(&[], 0);
        assert_eq!(cheapest(&[0x55, 0x48]), 0);
    }

    #[test]
    fn the_first_call_counts_only_with_the_arguments_in_place() {
        let check = |code: &[u8], expected| assert_eq!(first_call(code, 0x1000), expected, "{code:x?}");
        let call = [0xe8, 0x10, 0, 0, 0];
        check(&[&[0x48, 0x83, 0xec, 0x08][..], &call].concat(), Some(0x1000 + 4 + 5 + 0x10)); // sub rsp
        check(&[&[0x48, 0x63, 0xd2][..], &call].concat(), Some(0x1000 + 3 + 5 + 0x10)); // movslq edx
        check(&[&[0x48, 0x89, 0xc7][..], &call].concat(), None); // mov rdi, rax
        check(&[&[0x31, 0xf6][..], &call].concat(), None); // xor esi, esi
        check(&[&[0xc3][..], &call].concat(), None); // ret
        check(&[0xff, 0xd0], None); // call rax
    }

    #[test]
    fn a_name_is_found_wherever_its_table_is_cut() {
        assert!(FUNCTIONS.iter().all(|function| function.name.len() < NAME_BYTES_MAX));
        assert!(FUNCTIONS.iter().all(|function| PREFIXES.iter().any(|it| function.name.as_bytes().starts_with(it))));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("strings");
        for before in (65_500..65_560).chain([0, 131_060, 131_071]) {
            let table = [&vec![b'x'; before][..], b"SSL_write@@V3\0SSL_reader\0\0PR_Read\0SSL_r"].concat();
            std::fs::write(&path, [b"head", &table[..]].concat()).unwrap();
            let found = names_in(&File::open(&path).unwrap(), 4, table.len() as u64);
            let named: Vec<_> =
                found.iter().map(|(at, index)| (*at as usize - before, FUNCTIONS[*index].name)).collect();
            assert_eq!(named, [(0, "SSL_write"), (26, "PR_Read")], "{before}");
        }
    }

    fn found(functions: &[(&str, &[u8])]) -> (Functions, Vec<u64>) {
        let mut file = tempfile::tempfile().unwrap();
        let (bytes, offsets) = super::super::elf::library(functions);
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        (find(&file), offsets)
    }

    #[test]
    fn functions_are_found_by_name_and_probed_where_it_costs_least() {
        let behind: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa, 0x55];
        let (functions, at) = found(&[("SSL_writer", &[0x55]), ("SSL_write", behind), ("SSL_accept", &[0x55])]);
        let point = |program, offset, returns| Point { program, offset, returns };
        assert_eq!(functions.stack, OPENSSL);
        assert_eq!(functions.points, [point("tls_write", at[1] + 4, true), point(HANDSHAKE, at[2], false)]);
        assert_eq!(functions.programs(), 3);
    }

    #[test]
    fn a_pair_that_calls_one_function_first_is_probed_there() {
        let call = |distance: u8| [0x48, 0x83, 0xec, 8, 0xe8, distance, 0, 0, 0]; // sub rsp; call
        let (both, other) = (call(128 - 9), call(64 - 9));
        let (functions, at) = found(&[("SSL_read", &both), ("SSL_read_ex", &other), ("read_inside", &[0x41, 0x57])]);
        assert_eq!(functions.points, [Point { program: "tls_read_ex", offset: at[2], returns: true }]);
    }

    #[test]
    fn a_file_without_such_functions_has_none() {
        assert_eq!(found(&[("SSL_writer", &[0x55]), ("write", &[0x55])]).0, Functions::default());
        assert_eq!(find(&File::open("/proc/self/exe").unwrap()), Functions::default());
        assert_eq!(find(&File::open("/proc/self/maps").unwrap()), Functions::default());
    }
}
