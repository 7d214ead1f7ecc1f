//! What happened, by clocks outside the agent: the lines of clients and servers.
//!
//! In: `NAME.client` and `NAME.server`, JSON lines, one per request. Out: the value of an expression: a sum or difference of
//! `client.FIELD`, `server.FIELD` and constants such as `100ms`.
use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// What is known of one request, in nanoseconds.
pub type Facts = BTreeMap<String, i64>;

/// All requests of a scenario.
#[derive(Debug, Default)]
pub struct Requests {
    clients: Vec<Map<String, Value>>,
    servers: Vec<Map<String, Value>>,
}

impl Requests {
    /// Reads the files; any may be empty.
    pub fn read(client: &str, server: &str) -> Result<Self> {
        let mut clients = objects(client)?;
        clients.sort_by_key(|line| line.get("start_ns").and_then(Value::as_u64));
        Ok(Self { clients, servers: objects(server)? })
    }

    /// Facts of one request: that of the path, or if its span has none, the one in this place of the order of time.
    pub fn of(&self, path: Option<&str>, place: usize) -> Result<Facts> {
        let has = |line: &&Map<String, Value>, path: &str| line.get("path").and_then(Value::as_str) == Some(path);
        let client = match path {
            Some(path) => self.clients.iter().find(|line| has(line, path)),
            None => self.clients.get(place),
        };
        let client = client.with_context(|| format!("the client has no line for {path:?} ({place})"))?;
        let path = client.get("path").and_then(Value::as_str).context("a client's line has a path")?;
        let server = self.servers.iter().find(|line| has(line, path));
        let mut facts = Facts::new();
        for (end, line) in [("client", Some(client)), ("server", server)] {
            let numbers = line.into_iter().flatten().filter_map(|(key, value)| Some((key, value.as_i64()?)));
            facts.extend(numbers.map(|(key, value)| (format!("{end}.{key}"), value)));
        }
        Ok(facts)
    }
}

/// Lines that are JSON objects; a server's first one says that it is ready.
fn objects(text: &str) -> Result<Vec<Map<String, Value>>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("ready "));
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("not an object: {line}"))).collect()
}

/// The value of an expression.
pub fn value(expression: &str, facts: &Facts) -> Result<i64> {
    let mut words = expression.split_whitespace();
    let mut sum = term(words.next().context("an empty expression")?, facts)?;
    while let Some(sign) = words.next() {
        let operand = term(words.next().with_context(|| format!("`{expression}` ends with a sign"))?, facts)?;
        match sign {
            "+" => sum += operand,
            "-" => sum -= operand,
            other => bail!("`{other}` in `{expression}` is no sign"),
        }
    }
    Ok(sum)
}

fn term(word: &str, facts: &Facts) -> Result<i64> {
    if let Some(ms) = word.strip_suffix("ms").and_then(|number| number.parse::<i64>().ok()) {
        return Ok(ms * 1_000_000);
    }
    facts.get(word).copied().with_context(|| format!("nothing said {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str =
        "{\"path\":\"/r/1\",\"start_ns\":20,\"end_ns\":90}\n{\"path\":\"/r/0\",\"start_ns\":10,\"end_ns\":15}\n";
    const SERVER: &str = "ready 127.0.0.1:1\n{\"path\":\"/r/1\",\"filled_ns\":30}\n";

    #[test]
    fn a_request_is_found_by_its_path_or_its_place() {
        let requests = Requests::read(CLIENT, SERVER).unwrap();
        let check = |path, place, expression, expected| {
            assert_eq!(value(expression, &requests.of(path, place).unwrap()).unwrap(), expected, "{expression}");
        };
        check(Some("/r/1"), 0, "client.end_ns - client.start_ns", 70);
        check(Some("/r/1"), 0, "client.end_ns - server.filled_ns + 1ms", 1_000_060);
        check(None, 0, "client.end_ns", 15);
        check(None, 1, "client.start_ns", 20);
        assert!(requests.of(Some("/r/2"), 0).is_err());
        assert!(requests.of(None, 2).is_err());
    }

    #[test]
    fn what_nobody_said_is_an_error_and_not_nothing() {
        let facts = Facts::from([("a".to_owned(), 1)]);
        for wrong in ["", "b", "a +", "a * a", "a - b", "1s"] {
            assert!(value(wrong, &facts).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_that_is_not_an_object_is_an_error() {
        assert!(Requests::read("panicked", "").is_err());
        assert!(Requests::read("", "{").is_err());
    }
}
