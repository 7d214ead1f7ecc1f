//! The `traceparent` header (W3C Trace Context, level 1 and 2, section 3.2).
//!
//! In: the field's value as sent. Out: its four parts, or nothing if the standard says to ignore it. Called by
//! the parsers.

/// A valid `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// Version: 0 to 254.
    pub version: u8,
    /// Id of the whole trace; not all zero.
    pub trace_id: [u8; 16],
    /// Id of the caller's span; not all zero.
    pub parent_id: [u8; 8],
    /// Flags; bit 0: the caller may have recorded the trace. Versions above 0 may define more bits.
    pub flags: u8,
}

/// Length of version 0: `00-<32 hex>-<16 hex>-<2 hex>`.
const LENGTH: usize = 55;

/// Parses a field value. Upper-case digits are invalid, as are version `ff` and ids of zeros only; a later version may
/// go on after a further `-`, which is ignored.
pub fn parse(value: &str) -> Option<TraceParent> {
    let (known, rest) = value.as_bytes().split_at_checked(LENGTH)?;
    if [known[2], known[35], known[52]] != [b'-'; 3] {
        return None;
    }
    let [version] = hex(&known[..2])?;
    let trace_id = hex(&known[3..35])?;
    let parent_id = hex(&known[36..52])?;
    let [flags] = hex(&known[53..])?;
    let rest_allowed = rest.is_empty() || (version > 0 && rest.starts_with(b"-"));
    let valid = version != 0xff && trace_id != [0; 16] && parent_id != [0; 8] && rest_allowed;
    valid.then_some(TraceParent { version, trace_id, parent_id, flags })
}

/// Exactly `2 * N` lower-case digits.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

const fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_standards_example_is_read() {
        let expected = TraceParent {
            version: 0,
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes(),
            parent_id: 0xb7ad_6b71_6920_3331_u64.to_be_bytes(),
            flags: 1,
        };
        assert_eq!(parse(VALID), Some(expected));
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for rest in ["", "-", "-what-the-future-brings"] {
            let parsed = parse(&format!("cc{}{rest}", &VALID[2..])).expect(rest);
            assert_eq!((parsed.version, parsed.flags), (0xcc, 1));
        }
        assert_eq!(parse(&format!("cc{}.what", &VALID[2..])), None);
    }

    #[test]
    fn what_the_standard_forbids_is_ignored() {
        let cases = [
            String::new(),
            format!("ff{}", &VALID[2..]),
            format!("{VALID}-00"),
            format!("{VALID} "),
            VALID.to_uppercase(),
            VALID.replace('-', "_"),
            VALID.replace("0af7", "0ag7"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01".to_owned(),
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01".to_owned(),
            format!("{}\u{e9}", &VALID[..54]),
        ];
        for case in &cases {
            assert_eq!(parse(case), None, "{case}");
        }
        for length in 0..LENGTH {
            assert_eq!(parse(&VALID[..length]), None, "cut to {length}");
        }
    }
}
