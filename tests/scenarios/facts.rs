//! What happened, from sources outside of the agent: the truth.
//!
//! In: what client, server, name server and forwarder say, and the kernel's counters. Out: for each request its facts by name:
//!
//! - `client.*`, `server.*`: the numbers in the line that each printed for the request; of curl `client.*_ns` for each of its
//!   `time_*`. `client.first` is 1 for the first request of a connection, else 0.
//! - `server.batch_blocked_ns`, `server.batch_waited_ns`: of a request and those before it in the same write, the sum of
//!   `server.blocked_ns` and `server.waited_ns`: who answers them one after the other does so while the later ones wait.
//! - `dns.queries`, `dns.unanswered`, `dns.first_got_ns`, `dns.last_sent_ns`: of the request's own name.
//! - `path.last_up_ns`, `path.first_down_ns`, `path.last_down_ns`: when the forwarder took the request's last byte from the client,
//!   and gave it the first and the last of the answer; `path.trip_ns`: what the first two took on the way; `path.remote_ns`: from
//!   the one's arrival at the server's side to the other's leaving it.
//! - `run.*`: counters of the whole run.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use spantap_tests::tun::Passage;

/// Numbers by name.
pub type Facts = BTreeMap<String, i64>;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its target.
    pub path: String,
    /// What happened.
    pub facts: Facts,
}

impl Request {
    /// Reads the client's line.
    pub fn of_client(line: &str) -> Self {
        let fields = object(line);
        let path = fields.get("path").and_then(Value::as_str).unwrap_or_else(|| panic!("no path: {line}"));
        let mut request = Self { path: path.to_owned(), facts: Facts::new() };
        request.add("client", &fields);
        let first = request.facts.contains_key("client.connect_ns");
        request.facts.insert("client.first".to_owned(), i64::from(first));
        request
    }

    /// Reads what curl says of one transfer.
    pub fn of_curl(line: &str) -> Self {
        let fields = object(line);
        let url = fields.get("url_effective").and_then(Value::as_str).unwrap_or_else(|| panic!("no URL: {line}"));
        let path = url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default();
        let mut request = Self { path, facts: Facts::new() };
        for (name, value) in &fields {
            if let (Some(step), Some(seconds)) = (name.strip_prefix("time_"), value.as_f64()) {
                request.facts.insert(format!("client.{step}_ns"), (seconds * 1e9).round() as i64);
            }
        }
        request
    }

    /// Adds all numbers of an object.
    pub fn add(&mut self, who: &str, fields: &Map<String, Value>) {
        let numbers = fields.iter().filter_map(|(name, value)| Some((format!("{who}.{name}"), value.as_i64()?)));
        self.facts.extend(numbers);
    }

    /// Adds what the name server says of the name that belongs to this request.
    pub fn add_queries(&mut self, lines: &[Map<String, Value>], host: &str) {
        let name = host.replace('%', self.path.rsplit('/').next().unwrap_or_default());
        let own: Vec<_> = lines.iter().filter(|line| line.get("path").and_then(Value::as_str) == Some(&name)).collect();
        let numbers = |key: &str| own.iter().filter_map(|line| line.get(key)?.as_i64()).collect::<Vec<_>>();
        let answered: i64 = numbers("answered").iter().sum();
        self.facts.insert("dns.queries".to_owned(), own.len() as i64);
        self.facts.insert("dns.unanswered".to_owned(), own.len() as i64 - answered);
        if let (Some(first), Some(last)) = (numbers("got_ns").iter().min(), numbers("sent_ns").iter().max()) {
            self.facts.insert("dns.first_got_ns".to_owned(), *first);
            self.facts.insert("dns.last_sent_ns".to_owned(), *last);
        }
    }

    /// Adds what the forwarder says of packets with payload during this request.
    pub fn add_passages(&mut self, passages: &[Passage]) {
        let fact = |name: &str| self.facts.get(name).copied().unwrap_or_default();
        let (start, end, port) = (fact("client.start_ns"), fact("client.end_ns"), fact("client.port"));
        let during = |ns: u64| (start..=end).contains(&(ns as i64));
        let own = passages.iter().filter(|passage| i64::from(passage.client_port) == port && passage.payload > 0);
        let (up, down): (Vec<&Passage>, Vec<&Passage>) = own.partition(|passage| passage.to_server);
        let last_up = up.iter().rfind(|passage| during(passage.in_ns));
        let first_down = down.iter().find(|passage| during(passage.out_ns));
        let last_down = down.iter().rfind(|passage| during(passage.out_ns));
        let (Some(up), Some(first), Some(last)) = (last_up, first_down, last_down) else { return };
        let trip = up.out_ns - up.in_ns + first.out_ns - first.in_ns;
        self.facts.extend([
            ("path.last_up_ns".to_owned(), up.in_ns as i64),
            ("path.first_down_ns".to_owned(), first.out_ns as i64),
            ("path.last_down_ns".to_owned(), last.out_ns as i64),
            ("path.trip_ns".to_owned(), trip as i64),
            ("path.remote_ns".to_owned(), first.in_ns as i64 - up.out_ns as i64),
        ]);
    }
}

/// Adds what the server did for those that came in one write with a request, up to its own answer.
pub fn add_batches(requests: &mut [Request]) {
    let fact = |request: &Request, name: &str| request.facts.get(name).copied();
    let earlier: Vec<Request> = requests.to_vec();
    for request in requests {
        let same_write = |other: &&Request| {
            ["client.port", "client.start_ns"].iter().all(|name| fact(other, name) == fact(request, name))
                && fact(other, "server.written_ns") <= fact(request, "server.written_ns")
        };
        let batch: Vec<&Request> = earlier.iter().filter(same_write).collect();
        for (name, sum) in
            [("server.blocked_ns", "server.batch_blocked_ns"), ("server.waited_ns", "server.batch_waited_ns")]
        {
            if fact(request, name).is_some() {
                let total = batch.iter().filter_map(|other| fact(other, name)).sum();
                request.facts.insert(sum.to_owned(), total);
            }
        }
    }
}

/// A line of JSON that is an object.
pub fn object(line: &str) -> Map<String, Value> {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("not an object: {error}: {line}"))
}
