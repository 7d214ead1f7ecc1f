//! The small language of the data files: sums of facts and times, and comparisons of them.
//!
//! In: `server.written_ns - server.read_ns`, `client.end_ns - client.start_ns >= 80ms`. Out: numbers, truth values, or what is
//! missing. A number is of nanoseconds or has one of the units `us`, `ms`, `s`.

use crate::facts::Facts;

type Compare = fn(&i64, &i64) -> bool;

/// The value of a sum.
pub fn value(sum: &str, facts: &Facts) -> Result<i64, String> {
    let mut total = 0;
    let mut sign = 1;
    for word in sum.split_whitespace() {
        match word {
            "+" => sign = 1,
            "-" => sign = -1,
            _ => total += sign * term(word, facts)?,
        }
    }
    Ok(total)
}

/// Whether a comparison holds.
pub fn holds(condition: &str, facts: &Facts) -> Result<bool, String> {
    let operators: [(&str, Compare); 5] =
        [(" >= ", i64::ge), (" <= ", i64::le), (" > ", i64::gt), (" < ", i64::lt), (" = ", i64::eq)];
    for (operator, compare) in operators {
        if let Some((left, right)) = condition.split_once(operator) {
            return Ok(compare(&value(left, facts)?, &value(right, facts)?));
        }
    }
    Err(format!("`{condition}` compares nothing"))
}

fn term(word: &str, facts: &Facts) -> Result<i64, String> {
    if !word.starts_with(|first: char| first.is_ascii_digit()) {
        return facts.get(word).copied().ok_or_else(|| format!("there is no `{word}` in {facts:?}"));
    }
    let units = [("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("", 1)];
    units
        .into_iter()
        .find_map(|(unit, ns)| Some(word.strip_suffix(unit)?.parse::<i64>().ok()? * ns))
        .ok_or_else(|| format!("`{word}` is no number"))
}

#[test]
fn sums_and_comparisons() {
    let facts = Facts::from([("a.b".to_owned(), 7), ("c".to_owned(), 2)]);
    assert_eq!(value("a.b - c + 1us", &facts), Ok(1005));
    assert_eq!(value("3ms", &facts), Ok(3_000_000));
    assert_eq!(holds("a.b - c >= 5", &facts), Ok(true));
    assert_eq!(holds("a.b < c", &facts), Ok(false));
    assert!(value("d", &facts).is_err() && holds("a.b", &facts).is_err());
}
