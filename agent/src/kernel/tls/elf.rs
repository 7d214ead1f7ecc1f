//! Libraries made by hand, for tests: functions with names, and nothing else.

const TEXT: usize = 0x1000;
/// Distance of functions.
const STEP: usize = 64;
const NAMES: &[u8] = b"\0.dynsym\0.dynstr\0.shstrtab\0.text\0";

/// A shared library with these functions, and the offsets at which they lie, which are their addresses.
pub(super) fn library(functions: &[(&str, &[u8])]) -> (Vec<u8>, Vec<u64>) {
    let mut file = vec![0; TEXT];
    let (mut strings, mut symbols) = (vec![0], vec![0; 24]);
    let offsets: Vec<u64> = (0..functions.len()).map(|index| (TEXT + index * STEP) as u64).collect();
    for ((name, code), offset) in functions.iter().zip(&offsets) {
        file.extend(code.iter().chain(&[0x90; STEP]).take(STEP));
        symbols.extend(symbol(strings.len() as u32, *offset, code.len() as u64));
        strings.extend(name.bytes().chain([0]));
    }
    let text_end = file.len() as u64;
    let mut place = |bytes: &[u8]| {
        let at = file.len() as u64;
        file.extend(bytes);
        (at, bytes.len() as u64)
    };
    let (symbols, strings, names) = (place(&symbols), place(&strings), place(NAMES));
    let sections = file.len() as u64;
    file.extend([0; 64]);
    // Type, place, the section that has the names, size of an entry.
    for (name, kind, (offset, size), link, entry) in [
        (1, 11, symbols, 2, 24),
        (9, 3, strings, 0, 0),
        (17, 3, names, 0, 0),
        (27, 1, (TEXT as u64, text_end - TEXT as u64), 0, 0),
    ] {
        file.extend(section(name, kind, offset, size, link, entry));
    }
    file[..64].copy_from_slice(&header(sections));
    file[64..120].copy_from_slice(&load(text_end));
    (file, offsets)
}

/// `Elf64_Sym` of a global function in section 4.
fn symbol(name: u32, address: u64, size: u64) -> Vec<u8> {
    [&name.to_le_bytes()[..], &[0x12, 0, 4, 0], &address.to_le_bytes(), &size.to_le_bytes()].concat()
}

/// `Elf64_Shdr`.
fn section(name: u32, kind: u32, offset: u64, size: u64, link: u32, entry: u64) -> Vec<u8> {
    let numbers = |all: &[u64]| all.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let head = [name.to_le_bytes(), kind.to_le_bytes()].concat();
    let link = [link.to_le_bytes(), 1_u32.to_le_bytes()].concat();
    [head, numbers(&[2, offset, offset, size]), link, numbers(&[1, entry])].concat()
}

/// `Elf64_Phdr`: the whole file, readable and executable.
fn load(size: u64) -> Vec<u8> {
    let numbers = [0, 0, 0, size, size, 0x1000];
    let head = [1_u32.to_le_bytes(), 5_u32.to_le_bytes()].concat();
    head.into_iter().chain(numbers.iter().flat_map(|number: &u64| number.to_le_bytes())).collect()
}

/// `Elf64_Ehdr` of a shared library for x86-64 with one segment and five sections.
fn header(sections: u64) -> Vec<u8> {
    let identity = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0";
    let kind = [3_u16.to_le_bytes(), 62_u16.to_le_bytes()].concat();
    let places = [0, 64, sections].iter().flat_map(|place: &u64| place.to_le_bytes()).collect::<Vec<u8>>();
    let sizes = [64_u16, 56, 1, 64, 5, 3].iter().flat_map(|size| size.to_le_bytes()).collect::<Vec<u8>>();
    [&identity[..], &kind, &1_u32.to_le_bytes(), &places, &0_u32.to_le_bytes(), &sizes].concat()
}
