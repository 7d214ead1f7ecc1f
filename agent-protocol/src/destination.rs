//! Names of destinations (subjects, topics, routing keys), of bounded cardinality.
//!
//! In: a name as it was sent, and what separates its words. Out: the name with `{id}` for every word that looks like one, so
//! that all of a kind have one name. What looks like one is a heuristic: much of it is digits, or it is long.

/// Longest word that is kept.
const WORD_BYTES_MAX: usize = 48;
/// Longest word with a digit that is kept.
const MIXED_BYTES_MAX: usize = 15;
/// Most digits of a word that is kept (`http2`, `s3`, `eu-west-1`).
const DIGITS_MAX: usize = 2;
/// Most words that are kept.
const WORDS_MAX: usize = 12;

/// Adds the name without ids.
pub(crate) fn write(name: &mut String, sent: &[u8], separator: u8) {
    for (at, word) in sent.split(|byte| *byte == separator).enumerate() {
        if at > 0 {
            name.push(char::from(separator));
        }
        if at == WORDS_MAX {
            name.push_str("{other}");
            break;
        }
        match std::str::from_utf8(word) {
            Ok(word) if !is_id(word) => name.push_str(word),
            _ => name.push_str("{id}"),
        }
    }
}

fn is_id(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let odd = word.chars().any(char::is_control);
    odd || word.len() > WORD_BYTES_MAX
        || digits > DIGITS_MAX
        || (digits > 0 && (digits == word.len() || word.len() > MIXED_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    fn check(sent: impl AsRef<[u8]>, separator: u8, expected: &str) {
        let mut name = String::new();
        super::write(&mut name, sent.as_ref(), separator);
        assert_eq!(name, expected);
    }

    #[test]
    fn ids_are_taken_out() {
        check("orders.new", b'.', "orders.new");
        check("orders.42.eu-west-1", b'.', "orders.{id}.eu-west-1");
        check("home/sensor0815/temperature", b'/', "home/{id}/temperature");
        check("/v1/6fa459ea-ee8a-3ca4-894e-db77e160355e", b'/', "/v1/{id}");
        check("$JS.ACK.S.worker.1.1.1.1795855327528055401.0", b'.', "$JS.ACK.S.worker.{id}.{id}.{id}.{id}.{id}");
        check("", b'.', "");
        check("a.".repeat(20), b'.', "a.a.a.a.a.a.a.a.a.a.a.a.{other}");
        check(b"a.\xff\xfe", b'.', "a.{id}");
    }
}
