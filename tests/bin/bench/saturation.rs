//! Throughput when nothing holds the load back: how much of it tracing takes.

use std::time::Duration;

use spantap_tests::{
    cgroup::Cgroup,
    http::Place,
    process::{Launch, tool},
    tools::wrk,
};

use crate::{
    Bench,
    fixed::paced,
    load::{Load, Running},
    mode::{Losses, Mode, Tracer},
    table::{Spread, Table},
};

/// Connections of the load generators.
const CONNECTIONS: u32 = 16;
const REDIS_REQUESTS: &str = "200000";

/// Measures a load in every mode and prints its table.
pub fn run(bench: &Bench, load: Load) {
    let mut losses = Losses::default();
    let samples = bench.interleaved(&Mode::ALL, |mode| measure(bench, load, mode, &mut losses));
    println!("## Saturation: {}\n", load.title());
    println!("{}, {} rounds; {}.\n", generator(load), bench.rounds, Spread::legend(bench.rounds));
    let rates = samples.into_iter().map(|samples| Spread::of(samples.into_iter())).collect::<Vec<_>>();
    let mut table = Table::new(&["mode", "requests/s", "lost against off, %", "lost, floor = 1"]);
    let lost = |rate: &Spread| (1.0 - rate.median / rates[0].median) * 100.0;
    let floor = lost(&rates[1]);
    for (mode, rate) in Mode::ALL.iter().zip(&rates) {
        let ratio = match mode {
            Mode::Off | Mode::Floor => String::new(),
            // A floor within the noise is no measure.
            _ if floor < 1.0 => "floor below 1 %".to_owned(),
            _ => format!("{:.1}", lost(rate) / floor),
        };
        let share = if *mode == Mode::Off { String::new() } else { format!("{:.1}", lost(rate)) };
        table.row(vec![mode.label().to_owned(), rate.show(0), share, ratio]);
    }
    table.print();
    losses.print();
}

fn generator(load: Load) -> &'static str {
    match load {
        Load::Ping => "One connection, the next message when the answer is there, both ends on any CPU",
        Load::Redis => "redis-benchmark -t get on 16 connections",
        Load::Nginx => "wrk with one thread on 16 connections",
        Load::App => "wrk with one thread on 4 connections, 2 PHP workers",
        Load::FastApi => "wrk with one thread on 4 connections, one worker of uvicorn, 2 connections to PostgreSQL",
    }
}

/// Requests per second.
fn measure(bench: &Bench, load: Load, mode: Mode, losses: &mut Losses) -> f64 {
    let cgroup = Cgroup::new("bench");
    let place = Place::cgroup(&cgroup);
    let tracer = Tracer::start(mode, &cgroup, bench);
    let server = load.start(place);
    once(load, place, &server, 1);
    let rate = once(load, place, &server, bench.seconds);
    losses.add(mode, &tracer);
    rate
}

fn once(load: Load, place: Place, server: &Running, seconds: u64) -> f64 {
    let url = format!("http://{}{}", server.address(), load.path());
    let by_wrk = |connections| rate_of_wrk(&wrk(place, &url, connections, Duration::from_secs(seconds)));
    match load {
        Load::Ping => {
            let report = paced(place, load, server, &[&format!("seconds={seconds}")]).finish();
            report.requests as f64 / (report.elapsed_ns as f64 / 1e9)
        }
        Load::Redis => redis_benchmark(place, server.address()),
        Load::Nginx => by_wrk(CONNECTIONS),
        Load::App | Load::FastApi => by_wrk(4),
    }
}

fn redis_benchmark(place: Place, address: &str) -> f64 {
    let (host, port) = address.split_once(':').expect("an address has a port");
    let connections = CONNECTIONS.to_string();
    let launch = Launch::new(tool("redis-benchmark")).args(["-h", host, "-p", port, "-t", "get", "-c", &connections]);
    let text = place.apply(launch.args(["-n", REDIS_REQUESTS, "--csv"])).run();
    rate_of_redis(&text).unwrap_or_else(|| panic!("redis-benchmark gives no rate: {text}"))
}

/// The line `"GET","86956.52",…`.
fn rate_of_redis(csv: &str) -> Option<f64> {
    let line = csv.lines().find(|line| line.starts_with("\"GET\""))?;
    line.split(',').nth(1)?.trim_matches('"').parse().ok()
}

/// The line `Requests/sec:  1234.56`. Answers other than 200 end the benchmark, and connections that broke.
fn rate_of_wrk(text: &str) -> f64 {
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "wrk got errors: {text}");
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.unwrap_or_else(|| panic!("wrk gives no rate: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        assert_eq!(rate_of_redis("\"test\",\"rps\"\n\"GET\",\"86956.52\",\"0.1\"\n"), Some(86956.52));
        assert_eq!(rate_of_wrk("  1 threads\nRequests/sec:  1234.50\nTransfer/sec: 1MB\n"), 1234.5);
    }
}
