//! The code of string literals (RFC 7541, 5.2 and appendix B). It is canonical: codes of one length follow each other in the
//! order of their symbols, after all shorter ones; so their lengths say everything.

/// Bits of the code of each symbol; the last one is EOS.
#[rustfmt::skip]
const BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
const EOS: u16 = 256;
const BITS_MAX: usize = 30;
/// Bits of the shortest code.
const BITS_MIN: u64 = 5;
/// Codes of at most this many bits are looked up at once: all letters, digits and most of what else a header holds.
const LOOKUP_BITS: u32 = 10;

const CODE: Code = Code::new();

/// What follows from the lengths.
struct Code {
    /// Symbols in the order of their codes.
    symbols: [u16; 257],
    /// For each length: how many codes there are, the first of them, and the place of its symbol.
    ranges: [(u32, u32, usize); BITS_MAX + 1],
    /// For the next bits: symbol, and bits of its code; 0 bits: longer.
    short: [(u8, u8); 1 << LOOKUP_BITS],
}

impl Code {
    const fn new() -> Self {
        let mut code = Self { symbols: [0; 257], ranges: [(0, 0, 0); BITS_MAX + 1], short: [(0, 0); 1 << LOOKUP_BITS] };
        let (mut place, mut next, mut bits) = (0, 0_u32, 1);
        while bits <= BITS_MAX {
            next <<= 1;
            let (first, first_place, mut symbol) = (next, place, 0);
            while symbol < BITS.len() {
                if BITS[symbol] as usize == bits {
                    code.symbols[place] = symbol as u16;
                    code.fill(symbol, next, bits as u32);
                    place += 1;
                    next += 1;
                }
                symbol += 1;
            }
            code.ranges[bits] = (next - first, first, first_place);
            bits += 1;
        }
        code
    }

    const fn fill(&mut self, symbol: usize, code: u32, bits: u32) {
        if bits > LOOKUP_BITS {
            return;
        }
        let rest = LOOKUP_BITS - bits;
        let mut at = 0;
        while at < 1 << rest {
            self.short[((code << rest) | at) as usize] = (symbol as u8, bits as u8);
            at += 1;
        }
    }
}

/// Most bytes that a string of this many encoded bytes can decode to.
pub(super) const fn decoded_bytes_max(encoded_bytes: u64) -> u64 {
    encoded_bytes * 8 / BITS_MIN
}

/// A string that the code forbids: EOS in it, or no padding of at most seven ones at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Appends what `encoded` decodes to. Of a string that was cut off (`cut`), what stands at the end may be half a code.
pub(super) fn decode(encoded: &[u8], cut: bool, out: &mut Vec<u8>) -> Result<(), Malformed> {
    walk(encoded, cut, |symbol| out.push(symbol))
}

/// How many bytes `encoded` decodes to.
pub(super) fn decoded_bytes(encoded: &[u8]) -> Result<u64, Malformed> {
    let mut bytes = 0;
    walk(encoded, false, |_| bytes += 1)?;
    Ok(bytes)
}

fn walk(encoded: &[u8], cut: bool, mut symbol: impl FnMut(u8)) -> Result<(), Malformed> {
    // The next bits, from the highest on, and how many they are.
    let (mut window, mut have, mut rest) = (0_u64, 0_u32, encoded);
    loop {
        while have <= 56
            && let [byte, more @ ..] = rest
        {
            window |= u64::from(*byte) << (56 - have);
            have += 8;
            rest = more;
        }
        let (found, bits) = CODE.short[(window >> (64 - LOOKUP_BITS)) as usize];
        let (found, bits) = if bits > 0 { (u16::from(found), u32::from(bits)) } else { long(window) };
        if bits > have {
            break;
        }
        if found == EOS {
            return Err(Malformed);
        }
        symbol(found as u8);
        window <<= bits;
        have -= bits;
    }
    let padding = have < 8 && window >> (63 - have) >> 1 == (1 << have) - 1;
    if padding || cut { Ok(()) } else { Err(Malformed) }
}

/// A symbol whose code is longer than [`LOOKUP_BITS`].
fn long(window: u64) -> (u16, u32) {
    for bits in LOOKUP_BITS as usize + 1..=BITS_MAX {
        let code = (window >> (64 - bits)) as u32;
        let (count, first, place) = CODE.ranges[bits];
        let index = code.wrapping_sub(first);
        if code >= first && index < count {
            return (CODE.symbols[place + index as usize], bits as u32);
        }
    }
    // The code is complete: every 30 bits begin with one.
    (EOS, BITS_MAX as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(encoded: &[u8]) -> Result<String, Malformed> {
        let mut out = Vec::new();
        decode(encoded, false, &mut out)?;
        assert_eq!(decoded_bytes(encoded), Ok(out.len() as u64));
        Ok(String::from_utf8(out).expect("text"))
    }

    #[test]
    fn the_code_is_complete() {
        let whole: u64 = BITS.iter().map(|bits| 1 << (BITS_MAX as u8 - bits)).sum();
        assert_eq!(whole, 1 << BITS_MAX, "Kraft's sum is one");
    }

    #[test]
    fn the_rfcs_examples_are_read() {
        // RFC 7541, C.4.1 to C.4.3 and C.6.1.
        assert_eq!(text(b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff").as_deref(), Ok("www.example.com"));
        assert_eq!(text(b"\xa8\xeb\x10\x64\x9c\xbf").as_deref(), Ok("no-cache"));
        assert_eq!(text(b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf").as_deref(), Ok("custom-value"));
        assert_eq!(text(b"\x64\x02").as_deref(), Ok("302"));
        assert_eq!(text(b"").as_deref(), Ok(""));
    }

    #[test]
    fn every_symbol_is_read_back() {
        let mut code = 0_u32;
        for (place, symbol) in CODE.symbols.iter().enumerate() {
            let bits = u32::from(BITS[usize::from(*symbol)]);
            let before = if place == 0 { bits } else { u32::from(BITS[usize::from(CODE.symbols[place - 1])]) };
            code <<= bits - before;
            let padded = u64::from(code) << (64 - bits) | (u64::MAX >> bits);
            let bytes = padded.to_be_bytes();
            let mut out = Vec::new();
            let read = decode(&bytes[..bits.div_ceil(8) as usize], false, &mut out);
            match *symbol {
                EOS => assert_eq!(read, Err(Malformed)),
                symbol => assert_eq!((read, out), (Ok(()), vec![symbol as u8])),
            }
            code += 1;
        }
    }

    #[test]
    fn padding_must_be_short_and_of_ones() {
        assert_eq!(text(b"\x1f").as_deref(), Ok("a"), "00011, and three ones");
        assert_eq!(text(b"\x18"), Err(Malformed), "zeros");
        assert_eq!(text(b"\x1f\xff"), Err(Malformed), "eleven ones");
        assert_eq!(text(b"\xff\xff\xff\xff"), Err(Malformed), "EOS");
        let mut out = Vec::new();
        assert_eq!((decode(b"\x1f\xff", true, &mut out), out), (Ok(()), b"a".to_vec()), "cut off");
    }
}
