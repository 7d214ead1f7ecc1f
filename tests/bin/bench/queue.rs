//! What a queue costs: the agent's memory, and its disk, while spans wait for a destination that is down, and while they are sent.
//!
//! In: `[queued=10000000]`, spans. Out: a table. Resident memory is the most in each phase (`VmHWM`, which is set back between them).

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use spantap_tests::{actors::Arguments, clock, temp::free_port};

use crate::{
    memory::status_kib,
    relay::{
        mode::{Relay, agent},
        sender::{Plan, REQUEST_SPANS, Requests},
        sink::Sink,
    },
    table::Table,
};

const STEP: Duration = Duration::from_secs(1);
/// For how long nothing is sent while the spans wait.
const WAIT: Duration = Duration::from_secs(5);
/// Nothing new at the sink for so long: what is missing does not come.
const STALLED: Duration = Duration::from_secs(30);
/// Room for so many bytes a span, and the quarter that relayed ones may not take.
const LOG_BYTES_PER_SPAN: u64 = 900;

/// Fills the log, waits, and empties it.
pub fn run(arguments: &Arguments) {
    let queued = arguments.get("queued", 10_000_000_u64);
    let requests = Requests::new();
    println!("## A queue\n");
    println!("Relayed spans of {} bytes before redaction, {REQUEST_SPANS} a request.\n", requests.span_bytes());
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let log = format!("log: {{ max_bytes: {} }}", (queued * LOG_BYTES_PER_SPAN).max(64 << 20));
    let relay = agent(address, &log, "retry: { max: 1s }, pace: { return_factor: 0.0 }");
    let mut table = Table::new(&["phase", "s", "spans/s", "spans waiting", "most MiB", "at its end MiB", "disk MiB"]);
    let mut phase = |name: &str, began: Instant, spans: u64, waiting: u64| {
        let seconds = began.elapsed().as_secs_f64();
        let mib = |field| format!("{:.1}", status_kib(relay.pid(), field) as f64 / 1024.0);
        table.row(vec![
            name.to_owned(),
            format!("{seconds:.0}"),
            format!("{:.0}", spans as f64 / seconds),
            waiting.to_string(),
            mib("VmHWM"),
            mib("VmRSS"),
            format!("{:.0}", bytes_of(relay.folder()).expect("readable") as f64 / f64::from(1 << 20)),
        ]);
        forget_most(&relay);
    };

    clock::pace(STEP);
    phase("idle", Instant::now() - STEP, 0, 0);
    let (began, mut sent) = (Instant::now(), 0);
    while sent < queued {
        let step = requests.send(relay.address, Plan { connections: 16, rate: 0, length: STEP });
        assert!(step.spans > 0, "the agent takes no more: {sent} of {queued} spans");
        sent += step.spans;
    }
    phase("filled, the destination is down", began, sent, sent);
    let began = Instant::now();
    clock::pace(WAIT);
    phase("full", began, 0, sent);
    let began = Instant::now();
    let sink = Sink::start_on(address);
    let (mut seen, mut last) = (0, Instant::now());
    while seen < sent && last.elapsed() < STALLED {
        clock::pace(Duration::from_millis(50));
        let now = sink.spans();
        if now != seen {
            (seen, last) = (now, Instant::now());
        }
    }
    phase("emptied", began, seen, sent.saturating_sub(seen));
    table.print();
    println!("Missing: {} of {sent} spans.\n", sent.saturating_sub(seen));
}

/// Sets the most resident memory back to what there is now (`proc_pid_clear_refs(5)`).
fn forget_most(relay: &Relay) {
    let path = format!("/proc/{}/clear_refs", relay.pid());
    fs::write(&path, "5").unwrap_or_else(|error| panic!("write {path}: {error}"));
}

/// What the files below a folder take of the disk.
fn bytes_of(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        // A segment may go meanwhile.
        let own = || fs::metadata(&path).map_or(0, |file| file.blocks() * 512);
        bytes += if kind.is_dir() { bytes_of(&path)? } else { own() };
    }
    Ok(bytes)
}
