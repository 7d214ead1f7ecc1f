//! What relaying spans of SDKs costs: the agent in several settings, rotel, and floors, between the same sender and sink.
//!
//! In: `seconds`, `rounds`, and `[connections=16] [rate=R] [modes=LIST]`: spans per second (0: as fast as they are acknowledged),
//! names of [`mode::ALL`]. Out: a table. The modes take turns. CPU time is that of the relaying process
//! (`utime + stime`), from the first request until the sink has the last span; sender and sink are threads of the benchmark and
//! are not counted, nor is what the kernel writes to the disk on threads of its own.

use std::{
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

use spantap_tests::{actors::Arguments, clock, http::actor, schedstat, temp::TempDir};

use crate::{
    memory::status_kib,
    table::{Spread, Table},
};

pub mod floor;
pub mod mode;
pub mod sender;
pub mod sink;

use floor::Coded;
use mode::Mode;
use sender::{Plan, REQUEST_SPANS, Requests};
use sink::Sink;

const WARM_UP: Duration = Duration::from_secs(1);
/// Nothing new at the sink for so long: what is missing does not come.
const STALLED: Duration = Duration::from_secs(3);
/// After the last span: cursors and answers belong to it.
const SETTLE: Duration = Duration::from_millis(300);
const CODED_BOUND: Duration = Duration::from_secs(60);
/// About a request of the sender.
const BLOCK: usize = 128 << 10;

/// One mode in one round.
struct Sample {
    /// CPU-seconds per million spans that were acknowledged.
    cpu: f64,
    acknowledged_per_s: f64,
    delivered_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    rss_mib: f64,
    most_mib: f64,
    /// Bytes at the sink per span there.
    span_bytes: f64,
    missing: u64,
    resent: u64,
}

/// Measures and prints.
pub fn run(arguments: &Arguments, seconds: u64, rounds: usize) {
    let length = Duration::from_secs(seconds);
    let plan = Plan { connections: arguments.get("connections", 16), rate: arguments.get("rate", 0), length };
    let wanted: String = arguments.get("modes", String::new());
    let is_wanted = |name: &str| wanted.is_empty() || wanted.split(',').any(|item| item == name);
    let modes: Vec<_> = mode::ALL.into_iter().filter(|(name, ..)| is_wanted(name)).collect();
    assert!(!modes.is_empty(), "`modes={wanted}` names none of the modes");
    let requests = Requests::new();
    introduce(&requests, plan, rounds);
    let mut samples: Vec<Vec<Sample>> = modes.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for offset in 0..modes.len() {
            let index = (round + offset) % modes.len();
            samples[index].push(measure(modes[index].2, &requests, plan));
        }
    }
    print(&modes, &samples);
}

fn introduce(requests: &Requests, plan: Plan, rounds: usize) {
    println!("## The relay\n");
    println!("{}\n", disk());
    let rate = if plan.rate == 0 { "as fast as acknowledged".to_owned() } else { format!("{} spans/s", plan.rate) };
    println!(
        "OTLP/HTTP in and out, {} connections, {REQUEST_SPANS} spans a request, {} bytes a span, {rate}, for {} s, {rounds} rounds; median \
         (least to most), ratios within a round.\n",
        plan.connections,
        requests.span_bytes(),
        plan.length.as_secs()
    );
}

/// How fast the disk is below the agent's log: no relay that waits for it is faster.
fn disk() -> String {
    let folder = TempDir::new("fsync");
    let mut file = File::create(folder.join("block")).expect("a file");
    let (begin, mut count) = (Instant::now(), 0_u32);
    while begin.elapsed() < Duration::from_secs(1) {
        file.write_all(&[0xa5; BLOCK]).expect("room on the disk");
        file.sync_data().expect("a disk that works");
        count += 1;
    }
    let per_s = f64::from(count) / begin.elapsed().as_secs_f64();
    let (mb, ms) = (per_s * BLOCK as f64 / 1e6, 1e3 / per_s);
    format!(
        "Disk: {per_s:.0} times 128 KiB written and forced per second, one after the other ({mb:.0} MB/s, {ms:.2} ms each)."
    )
}

fn measure(mode: Mode, requests: &Requests, plan: Plan) -> Sample {
    if mode == Mode::ProstAlone {
        return alone(plan.length);
    }
    let sink = Sink::start();
    let relay = mode.start(sink.address());
    let warm_up = requests.send(relay.address, Plan { length: WARM_UP, ..plan });
    drained(&sink, warm_up.spans, mode);

    let (before, requests_before) = (sink.spans(), sink.requests());
    let (cpu_before, begin) = (schedstat::cpu_ns(relay.pid()), Instant::now());
    let sent = requests.send(relay.address, plan);
    let sending = begin.elapsed();
    let last = drained(&sink, before + sent.spans, mode);
    let delivering = last.duration_since(begin).max(sending);
    clock::pace(SETTLE);
    let cpu = schedstat::cpu_ns(relay.pid()) - cpu_before;
    let delivered = sink.spans() - before;
    let mib = |field| status_kib(relay.pid(), field) as f64 / 1024.0;
    let per_span = |ns: u64| ns as f64 / 1e3 / sent.spans.max(1) as f64;
    Sample {
        cpu: per_span(cpu),
        acknowledged_per_s: sent.spans as f64 / sending.as_secs_f64(),
        delivered_per_s: delivered as f64 / delivering.as_secs_f64(),
        p50_ms: sent.p50_ns as f64 / 1e6,
        p99_ms: sent.p99_ns as f64 / 1e6,
        rss_mib: mib("VmRSS"),
        most_mib: mib("VmHWM"),
        span_bytes: (sink.requests().1 - requests_before.1) as f64 / delivered.max(1) as f64,
        missing: if mode.is_sampling() { 0 } else { sent.spans.saturating_sub(delivered) },
        resent: sent.resent,
    }
}

/// Waits until the sink has so many spans, or gets none any more; gives when the last came.
fn drained(sink: &Sink, spans: u64, mode: Mode) -> Instant {
    let (mut seen, mut last) = (sink.spans(), Instant::now());
    while (mode.is_sampling() || seen < spans) && last.elapsed() < STALLED {
        clock::pace(Duration::from_millis(10));
        let now = sink.spans();
        if now != seen {
            (seen, last) = (now, Instant::now());
        }
    }
    last
}

/// Decoding and encoding without a relay.
fn alone(length: Duration) -> Sample {
    let process = actor("prost").arg(format!("seconds={}", length.as_secs())).stdout_piped().spawn();
    let coded: Coded = serde_json::from_str(&process.finish(CODED_BOUND)).expect("a report");
    let (mib, per_s) = (coded.rss_kib as f64 / 1024.0, coded.spans as f64 / length.as_secs_f64());
    Sample {
        cpu: coded.cpu_ns as f64 / 1e3 / coded.spans as f64,
        acknowledged_per_s: per_s,
        delivered_per_s: per_s,
        p50_ms: 0.0,
        p99_ms: 0.0,
        rss_mib: mib,
        most_mib: mib,
        span_bytes: 0.0,
        missing: 0,
        resent: 0,
    }
}

fn print(modes: &[(&str, &str, Mode)], samples: &[Vec<Sample>]) {
    let of = |mode: Mode| modes.iter().position(|(.., other)| *other == mode).map(|index| &samples[index][..]);
    let mut table = Table::new(&[
        "relay",
        "CPU-s per million spans",
        "of prost alone",
        "of rotel",
        "acknowledged/s",
        "delivered/s",
        "p50 ms",
        "p99 ms",
        "MiB",
        "most MiB",
        "bytes out/span",
        "missing",
        "sent again",
    ]);
    for ((_, label, mode), of_mode) in modes.iter().zip(samples) {
        let rotel = of(Mode::Rotel).filter(|_| mode.is_compressing());
        table.row(row(label, of_mode, of(Mode::ProstAlone), rotel));
    }
    table.print();
    println!(
        "*CPU-s*: utime + stime of the relaying process per million spans that it acknowledged. *Of rotel*: only where both \
         compress, since rotel always does. *Delivered*: at the sink until its last span came.\n"
    );
}

fn row(label: &str, samples: &[Sample], prost: Option<&[Sample]>, rotel: Option<&[Sample]>) -> Vec<String> {
    let spread = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(value));
    let ratio = |other: Option<&[Sample]>| {
        let ratios = other.map(|other| Spread::of(samples.iter().zip(other).map(|(one, other)| one.cpu / other.cpu)));
        ratios.map_or_else(String::new, |ratios| ratios.show(2))
    };
    let is_network = samples.iter().any(|sample| sample.p50_ms > 0.0);
    let of_network = |cell: String| if is_network { cell } else { String::new() };
    vec![
        label.to_owned(),
        spread(|sample| sample.cpu).show(2),
        ratio(prost),
        ratio(rotel),
        of_network(spread(|sample| sample.acknowledged_per_s).show(0)),
        spread(|sample| sample.delivered_per_s).show(0),
        of_network(spread(|sample| sample.p50_ms).show(1)),
        of_network(spread(|sample| sample.p99_ms).show(1)),
        format!("{:.0}", spread(|sample| sample.rss_mib).median),
        format!("{:.0}", spread(|sample| sample.most_mib).median),
        of_network(format!("{:.0}", spread(|sample| sample.span_bytes).median)),
        samples.iter().map(|sample| sample.missing).sum::<u64>().to_string(),
        samples.iter().map(|sample| sample.resent).sum::<u64>().to_string(),
    ]
}
