//! Names (RFC 1035, 3.1 and 4.1.4): labels, and pointers to earlier ones.

/// Longest name on the wire (RFC 1035, 2.3.4).
pub const NAME_BYTES_MAX: usize = 255;

/// Why there is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoName {
    /// It was not captured to its end.
    Cut,
    /// It breaks a rule.
    Malformed,
}

/// Reads the name at `at`, and moves `at` past it.
///
/// Written as RFC 4343 and RFC 1035, 5.1 want it: letters in lower case; a dot or a backslash within a label after a
/// backslash, other bytes that are not printable as `\DDD`.
pub(super) fn read(bytes: &[u8], at: &mut usize) -> Result<String, NoName> {
    let (mut name, mut wire_bytes, mut from) = (String::new(), 0, *at);
    let mut end = None;
    // A pointer must lead to before the labels that it ends, so that there is no loop.
    let mut before = from;
    loop {
        let length = *bytes.get(from).ok_or(NoName::Cut)?;
        match length >> 6 {
            0 if length == 0 => {
                *at = end.unwrap_or(from + 1);
                return Ok(if name.is_empty() { ".".to_owned() } else { name });
            }
            0 => {
                let label = bytes.get(from + 1..from + 1 + usize::from(length)).ok_or(NoName::Cut)?;
                wire_bytes += 1 + label.len();
                if wire_bytes >= NAME_BYTES_MAX {
                    return Err(NoName::Malformed);
                }
                if !name.is_empty() {
                    name.push('.');
                }
                label.iter().for_each(|byte| push(&mut name, *byte));
                from += 1 + label.len();
            }
            3 => {
                let low = *bytes.get(from + 1).ok_or(NoName::Cut)?;
                let target = usize::from(length & 63) << 8 | usize::from(low);
                if target >= before {
                    return Err(NoName::Malformed);
                }
                end.get_or_insert(from + 2);
                (from, before) = (target, target);
            }
            _ => return Err(NoName::Malformed),
        }
    }
}

/// Moves `at` past the name there; `None` if it was not captured to its end or breaks a rule. Where pointers lead does
/// not matter.
pub(super) fn skip(bytes: &[u8], at: &mut usize) -> Option<()> {
    loop {
        let length = *bytes.get(*at)?;
        match length >> 6 {
            0 if length == 0 => {
                *at += 1;
                return Some(());
            }
            0 => *at += 1 + usize::from(length),
            3 => {
                *at += 2;
                return Some(());
            }
            _ => return None,
        }
    }
}

fn push(name: &mut String, byte: u8) {
    match byte {
        b'.' | b'\\' => name.extend(['\\', char::from(byte)]),
        0x21..=0x7e => name.push(char::from(byte.to_ascii_lowercase())),
        _ => name.push_str(&format!("\\{byte:03}")),
    }
}
